r"""
Diffusion without noise: a density and its score along a flow
=============================================================

A cloud that diffuses, :math:`\partial_t p = D \Delta p`, can also be carried without any noise: along the potential
:math:`u = -D \log p_t`, whose velocity is the *score* :math:`\nabla \log p_t` times :math:`-D`,

.. math::
    \partial_t p = D \Delta p = -\operatorname{div}(p\, \nabla u), \qquad \nabla u = -D\, \nabla \log p_t .

This is the probability flow of diffusion models. The paths are smooth and can be followed back, from a cloud that has
lost its shape to the one that it came from: a generative model.

For a mixture of normals everything is known. :class:`~latentflow.priors.DiffusedPrior` has :math:`p_t` in closed form,
and its logarithm makes the potential. Following the flow from :math:`p_0` by an ODE solver, and asking the push-forward
for its density and its score by automatic differentiation, has to give the same.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
)

from latentflow import ODE, FokkerPlanckResidual, FunctionPotential, PotentialFlow, gradient
from latentflow.priors import DiffusedPrior

D = 0.5
means = torch.tensor([[-1.6, -1.0], [1.7, -0.7], [0.1, 1.7]]).double()
weights, scale = torch.tensor([0.3, 0.3, 0.4]).double(), 0.35


def start(t: float | Tensor = 0.0, k: int | Tensor | None = None) -> Distribution:
    """Return a mixture of three normals, the same at all times."""
    parts = Independent(Normal(means, torch.full_like(means, scale)), 1)
    return MixtureSameFamily(Categorical(weights), parts)


diffused = DiffusedPrior(start, diffusivity=D).double().requires_grad_(requires_grad=False)
u = FunctionPotential(lambda z, t: -D * diffused(t).log_prob(z), dim=2)

# %%
# The potential solves the Fokker-Planck equation in the form that holds for potentials.

torch.manual_seed(0)
points = 2 * torch.randn(300, 2).double()
assert FokkerPlanckResidual(D)(u, points, 0.4).abs().max() < 1e-6

# %%
# The flow carries the mixture from time 0 to time 1. At any point, its density and its score are those of the closed
# form.

flow = PotentialFlow(u).eval()
carried = flow.push_forward(start(), [0.0, 1.0], ODE("rk4", options={"step_size": 1 / 40}))
z = points[:60].clone().requires_grad_()
log_q = carried.log_prob(z)
score = torch.autograd.grad(log_q.sum(), z)[0]
torch.testing.assert_close(
    log_q.detach(), diffused(1.0).log_prob(points[:60]), atol=1e-4, rtol=1e-4
)
torch.testing.assert_close(score, -gradient(u, points[:60], 1.0) / D, atol=1e-3, rtol=1e-3)
print(
    f"largest difference of a score: {(score + gradient(u, points[:60], 1.0) / D).abs().max():.1e}"
)

# %%
# Contours are the density at the start and at the end, arrows are the score. Lines are the paths of samples: they are
# smooth, and at each time the samples have the density of the diffusion.

z0 = start().sample((120,))
with torch.no_grad():
    trajectory = flow.integrate(
        z0,
        torch.linspace(0, 1, 21),
        ODE("rk4", options={"step_size": 0.05}, divergence=None),
    )
line = torch.linspace(-4, 4, 120).double()
grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
arrows = torch.cartesian_prod(line[4::8], line[4::8])

figure, axes = plt.subplots(1, 3, sharex=True, sharey=True, figsize=(7.4, 2.9))
for axis, t in zip(axes[:2], (0.0, 1.0), strict=True):
    axis.contourf(line, line, diffused(t).log_prob(grid).exp(), levels=14, cmap="Blues")
    axis.quiver(*arrows.T, *(-gradient(u, arrows, t) / D).T, color="0.35", width=0.006)
    axis.set_title(f"density and score, t = {t:g}", fontsize=10)
for path in trajectory.z.unbind(1):
    axes[2].plot(*path.T, color="0.7", lw=0.7)
axes[2].plot(*trajectory.z[0].T, ".", ms=3, label="t = 0")
axes[2].plot(*trajectory.z[-1].T, ".", ms=3, label="t = 1")
axes[2].set_title("paths without noise", fontsize=10)
axes[2].legend(loc="lower left", fontsize=8, handletextpad=0)
for axis in axes:
    axis.set(xlabel="$z_1$", aspect="equal", xlim=(-4, 4), ylim=(-4, 4))
axes[0].set_ylabel("$z_2$")
plt.show()
