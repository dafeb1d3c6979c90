r"""
A density carried along a flow, and the histogram that agrees
=============================================================

A flow moves points, and their density with them. By the change of variables

.. math::
    \log q_t(z_t) = \log q_0(z_0) - \log\left|\det \frac{\partial z_t}{\partial z_0}\right| ,
    \qquad \log\left|\det \frac{\partial z_t}{\partial z_0}\right| = \int_0^t \Delta u(z_s, s)\, ds ,

the density is known wherever a trajectory arrives, exactly and without a normalizing constant. A
:class:`~latentflow.flow.Trajectory` holds that logarithm in ``log_det``, and ``flow.push_forward(base, times,
scheme)`` is the distribution of its end, whose ``log_prob`` follows the flow back from any point.

On the line :math:`u(x) = -0.45 \cos(2.6\, x + 0.4)` pulls a normal distribution apart into several peaks. No network is
involved, so that everything can be held against quadrature: the density integrates to one, and the mean of any function
is the same in both of its forms,

.. math:: \int f(x) \, q_t(x) \, dx = \int f(\phi_t(x)) \, q_0(x) \, dx ,

on the left over the ends, on the right over the starts :math:`x` and where the flow :math:`\phi_t` takes them.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from latentflow import ODE, PotentialFlow


def u(z: Tensor, t: Tensor) -> Tensor:
    """Evaluate a row of hills."""
    return -0.45 * (2.6 * z[..., 0] + 0.4).cos()


flow = PotentialFlow(u).eval()
zero = torch.zeros(1).double()
base = Independent(Normal(zero, zero + 1), 1)
precise = ODE(rtol=1e-8, atol=1e-10)

# %%
# The density at four times, on a grid, and 20,000 samples at the same times.

torch.manual_seed(0)
x = torch.linspace(-6, 6, 2401).double()
times = [0.15, 0.3, 0.45, 0.6]
densities = [base.log_prob(x.unsqueeze(-1)).exp()]
samples = [base.sample((20_000,))]
for t in times:
    q = flow.push_forward(base, [0.0, t], precise)
    densities.append(q.log_prob(x.unsqueeze(-1)).exp())
    samples.append(flow.integrate(samples[0], [0.0, t], ODE(divergence=None)).z[-1])

# %%
# Quadrature over the ends against quadrature over the starts.

for t, density in zip(times, densities[1:], strict=True):
    torch.testing.assert_close(
        torch.trapezoid(density, x), torch.tensor(1.0).double(), atol=1e-6, rtol=0
    )
    over_ends = torch.trapezoid(x.square() * density, x)
    ends = flow.integrate(x.unsqueeze(-1), [0.0, t], precise).z[-1].squeeze(-1)
    over_starts = torch.trapezoid(ends.square() * densities[0], x)
    torch.testing.assert_close(over_ends, over_starts, atol=1e-5, rtol=0)
    print(
        f"t = {t:g}: mean of x^2 is {over_ends:.6f} over the ends, {over_starts:.6f} over the starts"
    )

# %%
# Lines are the density by the flow, bars the histogram of the samples.

figure, axes = plt.subplots(5, 1, sharex=True, sharey=True, figsize=(7.4, 5.2))
for axis, t, density, points in zip(axes, [0.0, *times], densities, samples, strict=True):
    axis.hist(points.squeeze(-1), bins=150, range=(-4, 4), density=True, color="#bfdbfe")
    axis.plot(x, density)
    axis.text(0.01, 0.7, f"t = {t:g}", transform=axis.transAxes)
    axis.set(xlim=(-4, 4), ylim=(0, 1.75), yticks=[0, 1])
axes[2].set_ylabel("density $q_t(x)$")
axes[-1].set_xlabel("$x$")
plt.show()
