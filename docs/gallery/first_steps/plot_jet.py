r"""
A potential, its velocity and its Laplacian
===========================================

All that the library needs of a potential :math:`u(z, t)` is its *jet* at a point: the value, the gradient
:math:`\nabla u`, which is the velocity of the flow, the time derivative, and, on request, second derivatives such as
the Laplacian :math:`\Delta u = \operatorname{tr} \nabla^2 u`. The Laplacian is the rate at which the flow expands
volumes: :math:`\frac{d}{dt} \log|\det \partial z_t / \partial z_0| = \Delta u(z_t, t)`.

:func:`~latentflow.calculus.jet` computes them in one pass, for the potentials of the library, which know their own
derivatives, as for any function. Here the potential is a :class:`~latentflow.potentials.FourierPotential`,
:math:`u = \sum_j w_j \cos(\omega_j^\top z + \nu_j t + \phi_j)`, a smooth random landscape.

Gauss's theorem ties the two pictures together: what the velocity carries out of a box through its sides is the integral
of the Laplacian over the box,

.. math:: \int_{B} \Delta u \, dz = \oint_{\partial B} \nabla u \cdot n \, ds .
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from latentflow import FourierPotential, gradient, hessian, jet

generator = torch.Generator().manual_seed(3)
u = FourierPotential(
    dim=2, features=30, scale=1.0, amplitude=1.0, generator=generator
).double()

# %%
# One call for all points of a grid. The result is a :class:`~latentflow.calculus.Jet`.

nodes, weights = np.polynomial.legendre.leggauss(80)
line, weight = 3 * torch.from_numpy(nodes), 3 * torch.from_numpy(weights)
grid = torch.cartesian_prod(line, line)
with torch.no_grad():
    found = jet(u, grid, t=0.0)
print(found.value.shape, found.gradient.shape, found.laplacian.shape)

# %%
# The Laplacian is the trace of the Hessian, and Gauss's theorem holds to rounding, since the quadrature of Gauss and
# Legendre is exact for functions as smooth as these.

with torch.no_grad():
    torch.testing.assert_close(
        found.laplacian, hessian(u, grid, 0.0).diagonal(dim1=-2, dim2=-1).sum(-1)
    )
    inside = torch.einsum("i,j,ij->", weight, weight, found.laplacian.reshape(80, 80))
    side = torch.full_like(line, 3.0)
    right, left = (
        gradient(u, torch.stack([sign * side, line], dim=-1), 0.0)[:, 0] for sign in (1, -1)
    )
    top, bottom = (
        gradient(u, torch.stack([line, sign * side], dim=-1), 0.0)[:, 1] for sign in (1, -1)
    )
    through_the_sides = (weight * (right - left + top - bottom)).sum()
torch.testing.assert_close(inside, through_the_sides)
print(
    f"integral of the Laplacian {inside:.10f}, flux through the sides {through_the_sides:.10f}"
)

# %%
# Points move uphill, so arrows point to the maxima of the potential. There the Laplacian is negative, and volumes
# shrink.

x, y = (part.reshape(80, 80) for part in grid.T)
arrows = torch.cartesian_prod(
    torch.linspace(-2.8, 2.8, 15), torch.linspace(-2.8, 2.8, 15)
).double()
with torch.no_grad():
    velocity = gradient(u, arrows, 0.0)

figure, axes = plt.subplots(1, 2, sharey=True)
shown = axes[0].contourf(x, y, found.value.reshape(80, 80), levels=20)
axes[0].quiver(*arrows.T, *velocity.T, color="white", width=0.005)
axes[0].set_title(r"potential $u$ and velocity $\nabla u$")
figure.colorbar(shown, ax=axes[0], shrink=0.8)
size = found.laplacian.abs().max().ceil().item()
shown = axes[1].contourf(
    x,
    y,
    found.laplacian.reshape(80, 80),
    levels=np.linspace(-size, size, 21),
    cmap="RdBu_r",
)
axes[1].set_title(r"Laplacian $\Delta u$")
figure.colorbar(shown, ax=axes[1], shrink=0.8, ticks=[-6, -3, 0, 3, 6])
for axis in axes:
    axis.set(xlabel="$z_1$", aspect="equal")
axes[0].set_ylabel("$z_2$")
plt.show()
