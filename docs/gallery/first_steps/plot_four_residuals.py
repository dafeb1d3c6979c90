r"""
Four potentials under four equations: each solves one
=====================================================

A partial differential equation says which potentials are allowed, and its *residual* how far one is from being allowed:

.. math::
    \begin{aligned}
    \text{Hamilton-Jacobi} \quad & \partial_t u + \tfrac12 |\nabla u|^2 , &
    \text{Fokker-Planck} \quad & \partial_t u + |\nabla u|^2 - D \Delta u , \\
    \text{heat} \quad & \partial_t u - D \Delta u , &
    \text{wave} \quad & \partial_t^2 u - c^2 \Delta u .
    \end{aligned}

A :class:`~latentflow.pde.PDEResidual` is an object, called with a potential, points and times. It asks for the
derivatives that it needs, and no others are computed. So a model that trains under one equation trains under another
by exchanging one argument; that is the ablation of `Flow Factorized Representation Learning
<https://arxiv.org/abs/2309.13167>`_.

Each row below is one potential on the line, :math:`u(x, t)`, and each column an equation; the color is the size of the
residual in space and time. The potentials are solutions in closed form, so the diagonal is empty: a paraboloid that
flattens as points leave its centre, the potential :math:`-D \log p` of a density that diffuses, a cosine that decays,
and a wave that travels.
"""

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LogNorm
from torch import Tensor

from latentflow import FokkerPlanckResidual, HeatResidual, HJResidual, WaveResidual

torch.manual_seed(0)
D, c = 0.5, 1.5
residuals = {
    "Hamilton-Jacobi": HJResidual(),
    "Fokker-Planck": FokkerPlanckResidual(D),
    "heat": HeatResidual(D),
    "wave": WaveResidual(c),
}


def paraboloid(z: Tensor, t: Tensor) -> Tensor:
    """Move points away from the origin at constant speed."""
    return z[..., 0].square() / (2 * (1 + t))


def spreading(z: Tensor, t: Tensor) -> Tensor:
    """Carry the density of a diffusion that starts as a standard normal."""
    variance = 1 + 2 * D * t
    return D * (z[..., 0].square() / (2 * variance) + variance.log() / 2)


def decaying(z: Tensor, t: Tensor) -> Tensor:
    """Smooth a cosine."""
    return (2 * z[..., 0]).cos() * torch.exp(-4 * D * t)


def travelling(z: Tensor, t: Tensor) -> Tensor:
    """Travel to the right at the speed c."""
    return (2 * (z[..., 0] - c * t)).sin()


potentials = (paraboloid, spreading, decaying, travelling)

# %%
# A residual has one value for each sample, neither squared nor averaged. First at random points: a solution has the
# residual zero under its own equation and under no other.

points, times = 4 * torch.rand(500, 1).double() - 2, 2 * torch.rand(500).double()
sizes = torch.stack(
    [
        torch.stack(
            [residual(u, points, times).abs().max() for residual in residuals.values()]
        )
        for u in potentials
    ]
)
assert sizes.diagonal().max() < 1e-12
assert (sizes + torch.eye(4)).min() > 0.1

# %%
# Then on a grid of space and time, for the picture.

x, t = torch.linspace(-2, 2, 120).double(), torch.linspace(0, 2, 100).double()
grid_t, grid_x = torch.meshgrid(t, x, indexing="ij")

figure, axes = plt.subplots(4, 4, sharex=True, sharey=True, figsize=(7.4, 5.2))
for row, u in zip(axes, potentials, strict=True):
    for axis, (name, residual) in zip(row, residuals.items(), strict=True):
        size = residual(u, grid_x.unsqueeze(-1), grid_t).abs().clamp(min=1e-16)
        shown = axis.pcolormesh(
            x, t, size, norm=LogNorm(1e-2, 1e1), cmap="magma_r", rasterized=True
        )
        if size.max() < 1e-12:
            axis.text(0, 1, "zero", ha="center", va="center")
        if u is potentials[0]:
            axis.set_title(name)
    row[0].set_ylabel(f"{u.__name__}\ntime $t$", fontsize=9)
for axis in axes[-1]:
    axis.set_xlabel("$x$")
figure.colorbar(shown, ax=axes, label="absolute residual", shrink=0.7)
plt.show()
