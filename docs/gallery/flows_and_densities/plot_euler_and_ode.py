r"""
Euler steps on their way to the continuous flow
===============================================

A potential drives a flow, and a *scheme* says how it is followed. :class:`~latentflow.flow.Euler` makes discrete steps

.. math::
    z_{n+1} = z_n + h \nabla u(z_n, t_n) , \qquad
    \log\left|\det \frac{\partial z_{n+1}}{\partial z_n}\right| = \log |\det(I + h \nabla^2 u(z_n, t_n))| ,

and :class:`~latentflow.flow.ODE` solves :math:`\dot z = \nabla u` to a tolerance, with :math:`\int \Delta u \, dt` for
the logarithm. A discrete flow is a model of its own, not a bad solver: its density is exact for the map that it makes,
whatever the step. It agrees with the continuous flow up to an error proportional to the step.

One class of potentials needs no small steps. On a solution of the Hamilton-Jacobi equation points move in straight
lines at constant speed, and Euler's scheme is exact with a single step. The cheaper determinant
:class:`~latentflow.flow.FirstOrder`, :math:`\log|1 + h \Delta u|`, converges too, but at a finite step it is no
density.
"""

import matplotlib.pyplot as plt
import torch

from latentflow import (
    ODE,
    Euler,
    FourierPotential,
    HopfLaxFlow,
    PotentialFlow,
    QuadraticPotential,
    SlogDet,
)
from latentflow.flow import FirstOrder

generator = torch.Generator().manual_seed(5)
u = FourierPotential(
    2, features=24, scale=0.75, amplitude=1.3, generator=generator
).double()
flow = PotentialFlow(u).eval()
z0 = 1.5 * torch.randn(64, 2, generator=generator).double()

# %%
# The truth by a solver with a tight tolerance, and Euler's scheme with 4 to 256 steps.

with torch.no_grad():
    truth = flow.integrate(z0, torch.linspace(0, 1, 41), ODE(rtol=1e-10, atol=1e-10))
    steps = [4, 8, 16, 32, 64, 128, 256]
    point_errors, exact_errors, first_errors = [], [], []
    for count in steps:
        times = torch.linspace(0, 1, count + 1)
        exact = flow.follow(z0, times, Euler(SlogDet()), on_fold="ignore")
        first = flow.follow(z0, times, Euler(FirstOrder()), on_fold="ignore")
        point_errors.append((exact.z[-1] - truth.z[-1]).norm(dim=-1).mean())
        exact_errors.append((exact.log_det[-1] - truth.log_det[-1]).abs().mean())
        first_errors.append((first.log_det[-1] - truth.log_det[-1]).abs().mean())

# %%
# First order means that half the step has half the error.

for errors in (point_errors, exact_errors, first_errors):
    order = torch.log2(errors[-2] / errors[-1])
    assert abs(order - 1) < 0.1
    print(f"order {order:.3f}")

# %%
# On a solution of the Hamilton-Jacobi equation one step is exact, in the points and in the density.

solution = HopfLaxFlow(
    QuadraticPotential(2, torch.diag(torch.tensor([0.8, -0.5]).double()))
).potential
with torch.no_grad():
    one_step = PotentialFlow(solution).eval().rollout(z0, steps=1)
    continuous = (
        PotentialFlow(solution)
        .eval()
        .integrate(z0, [0.0, 1.0], ODE(rtol=1e-10, atol=1e-12))
    )
torch.testing.assert_close(one_step.z[-1], continuous.z[-1])
torch.testing.assert_close(one_step.log_det[-1], continuous.log_det[-1])

figure, (plane, rates) = plt.subplots(1, 2)
with torch.no_grad():
    coarse = flow.rollout(z0, steps=3, dt=1 / 3, on_fold="ignore")
for n in range(14):
    plane.plot(
        *truth.z[:, n].T, color="#2563eb", lw=1.5, label="continuous" if n == 0 else None
    )
    plane.plot(
        *coarse.z[:, n].T,
        "o-",
        color="#dc2626",
        lw=1,
        ms=3,
        label="three Euler steps" if n == 0 else None,
    )
plane.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
plane.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2, fontsize=9)
rates.loglog(steps, point_errors, "o-", label="end point")
rates.loglog(steps, exact_errors, "s-", label="log-determinant")
rates.loglog(steps, first_errors, "^-", label="log-determinant, first order")
rates.loglog(steps, 0.6 / torch.tensor(steps), color="0.7", ls="--", label="order 1")
rates.set(xlabel="number of Euler steps", ylabel="mean error")
rates.set_xticks(steps, steps)
rates.minorticks_off()
rates.legend(fontsize=9, loc="lower left")
plt.show()
