r"""
A convex potential never folds, and its map is optimal
======================================================

:class:`~latentflow.potentials.ICNNPotential` is a network that is convex in the point for all of its weights: the
weights between its layers are kept positive, and its activations are convex and increasing. For such a potential

.. math:: T(z) = z + h \nabla u(z) = \nabla \Bigl( \tfrac12 |z|^2 + h\, u(z) \Bigr)

is the gradient of a convex function. By Brenier's theorem, :math:`T` is the optimal transport from *any* distribution
to its image. It is one to one, it is monotone, :math:`(T(x) - T(y)) \cdot (x - y) \ge |x - y|^2`, and its Jacobian is
at least the identity, so that its steps never fold.

Optimality can be tested without any of this theory. The images of 300 points are shuffled, and the best assignment,
found by combinatorial optimization, has to pair every point with its own image. A network without the constraint,
with a step as long, fails.
"""

import matplotlib.pyplot as plt
import torch
from scipy.optimize import linear_sum_assignment

from latentflow import FourierPotential, ICNNPotential, Potential, PotentialFlow, SlogDet

torch.manual_seed(0)
generator = torch.Generator().manual_seed(1)
convex = ICNNPotential(
    2, hidden=(24, 24), activation=torch.nn.Softplus(beta=4.0), output_scale=5.0
).double()
free = FourierPotential(
    2, features=30, scale=1.1, amplitude=1.6, generator=generator
).double()
potentials = {"convex": convex, "any potential": free}
x = 1.2 * torch.randn(300, 2, generator=generator).double()


def step(u: Potential) -> tuple[torch.Tensor, float]:
    """Make one step; return the images and the share of points whose best partner is their own image."""
    with torch.no_grad():
        y = PotentialFlow(u).rollout(x, steps=1, on_fold="ignore").z[-1]
    _, partners = linear_sum_assignment(torch.cdist(x, y).square().numpy())
    return y, float((torch.from_numpy(partners) == torch.arange(300)).double().mean())


# %%
# All points of the convex network keep their own image.

images, shares = zip(*(step(u) for u in potentials.values()), strict=True)
print(
    {
        name: f"{share:.0%} paired with their own image"
        for name, share in zip(potentials, shares, strict=True)
    }
)
assert shares[0] == 1.0
assert shares[1] < 0.9

differences, moved = (
    x.unsqueeze(0) - x.unsqueeze(1),
    images[0].unsqueeze(0) - images[0].unsqueeze(1),
)
assert ((moved * differences).sum(-1) >= differences.square().sum(-1) - 1e-9).all()

# %%
# The image of a square grid, without the mean shift: a convex network stretches it, and nothing crosses. The colors are
# the smallest eigenvalue of the Jacobian, which is negative where the map folds.

line = torch.linspace(-2.2, 2.2, 33).double()
grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
figure, axes = plt.subplots(1, 2)
for axis, (name, u), share in zip(axes, potentials.items(), shares, strict=True):
    with torch.no_grad():
        image = PotentialFlow(u).rollout(
            grid, steps=1, log_det=SlogDet(eigenvalues=True), on_fold="ignore"
        )
    a, b = (image.z[-1] - image.z[-1].mean((0, 1))).unbind(-1)
    axis.plot(a, b, color="0.75", lw=0.7)
    axis.plot(a.T, b.T, color="0.75", lw=0.7)
    shown = axis.scatter(
        a,
        b,
        c=image.smallest_eigenvalue[0],
        s=7,
        cmap="coolwarm_r",
        vmin=-2,
        vmax=2,
        zorder=3,
    )
    axis.set(
        title=f"{name}: {share:.0%} keep their partner", xlabel="$z_1$", aspect="equal"
    )
axes[0].set_ylabel("$z_2$")
figure.colorbar(
    shown, ax=axes, label=r"smallest eigenvalue of $I + \nabla^2 u$", shrink=0.8
)
plt.show()
