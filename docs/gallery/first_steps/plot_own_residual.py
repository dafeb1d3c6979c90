r"""
An equation of your own: a front whose speed is learned
=======================================================

A flame, a crystal or a wave front is the set :math:`\{z : u(z, t) = 0\}`, and if it moves along its normal with the
speed :math:`s`, the function obeys the level set equation

.. math:: \partial_t u + s \, |\nabla u| = 0 .

The library does not have it, and does not need to: a residual is a subclass of
:class:`~latentflow.pde.PDEResidual` with one method, ``from_jet``, which turns the derivatives of a
potential into one number for each sample. Second derivatives are named in ``requires``; this equation needs none.
:func:`~latentflow.testing.check_residual` then checks what is easy to get wrong: samples that affect one another,
derivatives that were not asked for, gradients, dtypes and shapes.

Coefficients are numbers, or learn. Here the front is observed, a circle that grows, and the speed is unknown. The
residual is zero for the right speed only, so its mean square is a loss for the speed.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from latentflow import Jet, PDEResidual
from latentflow.calculus import PositiveParameter
from latentflow.testing import check_residual


class LevelSetResidual(PDEResidual):
    """A front that moves along its normal with a speed to be learned."""

    def __init__(self, speed: float) -> None:
        super().__init__()
        self.speed = PositiveParameter(speed)

    def from_jet(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the residual, one number for each sample."""
        return jet.time_derivative + self.speed() * jet.gradient.norm(dim=-1)


check_residual(LevelSetResidual(0.5), dim=2)

# %%
# The front: a circle around the origin that starts with the radius 1 and grows with the speed 1.5.


def front(z: Tensor, t: Tensor) -> Tensor:
    """Return the signed distance from the circle of radius 1 + 1.5 t."""
    return z.norm(dim=-1) - 1 - 1.5 * t


# %%
# A hundred and twenty steps of Adam, at new random points each time. :meth:`~latentflow.pde.PDEResidual.loss`
# averages the squared residual.

torch.manual_seed(0)
residual = LevelSetResidual(speed=0.5)
optimizer = torch.optim.Adam(residual.parameters(), lr=0.1)
speeds, losses = [], []
for _ in range(120):
    loss = residual.loss(front, (6 * torch.rand(256, 2) - 3, torch.rand(256)))
    speeds.append(residual.speed().item())
    losses.append(loss.item())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
# The gradient of a distance has length one, so the loss is :math:`(s - 1.5)^2`, whatever points are drawn.

assert abs(residual.speed().item() - 1.5) < 0.01
torch.testing.assert_close(
    torch.tensor(losses), (torch.tensor(speeds) - 1.5) ** 2, atol=1e-5, rtol=1e-3
)

x, y = torch.meshgrid(torch.linspace(-3, 3, 121), torch.linspace(-3, 3, 121), indexing="xy")
figure, (plane, training) = plt.subplots(1, 2)
for n, t in enumerate((0.0, 0.4, 0.8, 1.2)):
    values = front(torch.stack([x, y], dim=-1), torch.tensor(t))
    plane.contour(x, y, values, levels=[0.0], colors=[plt.get_cmap("plasma")(n / 4)])
    plane.text(0, 1 + 1.5 * t, f"t = {t:g}", ha="center", va="bottom", fontsize=9)
plane.set(
    xlabel="$z_1$",
    ylabel="$z_2$",
    aspect="equal",
    title="the front $u(z, t) = 0$",
    ylim=(-3.1, 3.3),
)
training.axhline(1.5, color="0.7", label="truth")
training.plot(speeds, label="learned speed")
training.set(xlabel="step of training", ylabel="speed $s$")
training.legend()
plt.show()
