r"""
Where an equation is enforced, and where it holds
=================================================

An equation is meant to hold everywhere, and a loss evaluates its residual at a few *collocation points*.
:meth:`~latentflow.pde.PDEResidual.loss` takes them from the trajectory by default
(:class:`~latentflow.pde.AlongPath`), where the data go; :class:`~latentflow.pde.InBox` draws them in a box, and
:class:`~latentflow.pde.Together` joins several choices.

The loss here asks a flow to carry a cloud on the left to one on the right, by a map :math:`T` that shifts and
stretches, and to solve the Hamilton-Jacobi equation:

.. math::
    E\,|z_1 - T(z_0)|^2 + \alpha\, E\, r(z, t)^2 , \qquad r = \partial_t u + \tfrac12 |\nabla u|^2 .

The two potentials below carry the cloud equally well. One was held to the equation along the path only, and off the
path it does what it likes; the other one was held to it in the whole box. Which is right depends on the purpose: the
path suffices for straight paths of the data, while a certificate of optimality compares every start with every end,
and needs the region between them.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from latentflow import HJResidual, MLPPotential, PotentialFlow, Trajectory
from latentflow.pde import AlongPath, Collocation, InBox, Together

residual = HJResidual()
stretch, shift = torch.tensor([0.7, 1.6]), torch.tensor([3.0, 0.0])


def cloud(count: int, generator: torch.Generator) -> Tensor:
    """Draw points around (-1.5, 0)."""
    return 0.35 * torch.randn(count, 2, generator=generator) + torch.tensor([-1.5, 0.0])


def fit(collocation: Collocation) -> tuple[MLPPotential, Trajectory]:
    """Train a potential; return it with a trajectory of new points."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    u = MLPPotential(2, hidden=(32, 32))
    flow, centre = PotentialFlow(u), torch.tensor([-1.5, 0.0])
    optimizer = torch.optim.Adam(u.parameters(), lr=5e-3)
    for _ in range(250):
        z0 = cloud(64, generator)
        trajectory = flow.rollout(z0, steps=4, dt=0.25, log_det=None)
        missed = (
            (trajectory.z[-1] - centre - shift - stretch * (z0 - centre))
            .square()
            .sum(-1)
            .mean()
        )
        equation = residual.loss(
            u, trajectory, generator=generator, collocation=collocation
        )
        optimizer.zero_grad()
        (missed + 0.3 * equation).backward()
        optimizer.step()
    with torch.no_grad():
        return u, flow.rollout(cloud(200, generator), steps=4, dt=0.25, log_det=None)


along = AlongPath()
box = Together(
    AlongPath(), InBox(torch.tensor([-3.0, -2.0]), torch.tensor([3.0, 2.0]), count=4)
)
fits = {"AlongPath()": fit(along), "AlongPath() and InBox(...)": fit(box)}

# %%
# The residual on a grid at half time. On the path of the data it is small in both fits, in the box it is much smaller
# in the second.

x, y = torch.meshgrid(torch.linspace(-3, 3, 121), torch.linspace(-2, 2, 81), indexing="xy")
grid = torch.stack([x, y], dim=-1)
with torch.no_grad():
    maps = {name: residual(u, grid, 0.5).abs() for name, (u, _) in fits.items()}
    paths = {
        name: residual(u, trajectory.z[2], 0.5).abs().mean()
        for name, (u, trajectory) in fits.items()
    }
first, second = fits
for name in fits:
    print(
        f"{name}: mean residual {paths[name]:.3f} on the path, {maps[name].mean():.3f} in the box"
    )
assert maps[second].mean() < maps[first].mean() / 2
assert paths[first] < maps[first].mean() / 2

# %%
# A fact that both respect: the kinetic action of a flow is at least the squared distance between its ends.

for _, trajectory in fits.values():
    moved = (trajectory.z[-1] - trajectory.z[0]).square().sum(-1)
    assert (trajectory.action[-1] >= moved - 1e-5).all()

figure, axes = plt.subplots(1, 2, sharey=True)
for axis, (name, (_, trajectory)) in zip(axes, fits.items(), strict=True):
    shown = axis.pcolormesh(
        x, y, maps[name], vmin=0, vmax=1.5, cmap="magma_r", rasterized=True
    )
    for path in trajectory.z[:, :40].unbind(1):
        axis.plot(*path.T, color="#2563eb", lw=0.7)
    axis.set(title=name, xlabel="$z_1$", aspect="equal")
axes[0].set_ylabel("$z_2$")
figure.colorbar(
    shown, ax=axes, label="absolute residual at $t = 1/2$", location="bottom", shrink=0.6
)
plt.show()
