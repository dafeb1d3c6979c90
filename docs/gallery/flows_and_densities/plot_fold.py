r"""
A grid that folds, and the margin that says so before
=====================================================

A discrete step :math:`z \mapsto z + h \nabla u(z)` is one to one, and has a density, while its Jacobian :math:`I + h
\nabla^2 u` is positive definite. If the step is too long for the potential, the map *folds*: it sends several points
to one, as a lens does beyond its focus. Its determinant is then no longer the change of a density, and an inverse
does not exist.

With ``SlogDet(eigenvalues=True)`` a trajectory reports the *margin*, the smallest eigenvalue of that matrix at each
point, in ``smallest_eigenvalue``. It is linear in the step,

.. math:: \lambda_{\min}(I + h \nabla^2 u) = 1 + h\, \lambda_{\min}(\nabla^2 u) ,

so one look at a short step tells how long a step may be: :math:`h < 1 / \max |\lambda_{\min}(\nabla^2 u)|`. Beyond it
``rollout`` raises a :class:`~latentflow.flow.FoldError` in evaluation mode and warns in training mode; ``on_fold`` says
otherwise in a call. Potentials that know a Lipschitz constant of their gradient offer a certificate for all of space,
``u.lipschitz_gradient()``.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from latentflow import PotentialFlow, SlogDet
from latentflow.flow import FoldError

torch.manual_seed(0)


def lens(z: Tensor, t: Tensor) -> Tensor:
    """Pull points towards the origin."""
    return torch.exp(-z.square().sum(-1) / 2)


flow = PotentialFlow(lens).eval()
line = torch.linspace(-1.8, 1.8, 41).double()
grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)

# %%
# The Hessian of this lens has the smallest eigenvalue -1, at the origin, so steps up to 1 do not fold.

lengths = torch.linspace(0.1, 3.0, 30)
margins = []
for h in lengths.tolist():
    step = flow.rollout(
        grid, steps=1, dt=h, log_det=SlogDet(eigenvalues=True), on_fold="ignore"
    )
    margins.append(step.smallest_eigenvalue.min())
margins = torch.stack(margins)
torch.testing.assert_close(margins, 1 - lengths.double())

# %%
# A step of 0.8 can be undone. One of 2.4 raises an error, which names the step and how many points are concerned.

short = flow.rollout(grid, steps=1, dt=0.8)
torch.testing.assert_close(flow.inverse(short).z[-1], grid)

refusal = ""
try:
    flow.rollout(grid, steps=1, dt=2.4)
except FoldError as error:
    refusal = str(error)
assert refusal.startswith("the flow folds at step 0")
print(refusal)

# %%
# The image of a square grid, red where the map has folded, and the margin over the length of the step.

figure, axes = plt.subplots(1, 3, width_ratios=[1, 1, 1.05], figsize=(7.4, 3.2))
for axis, h in zip(axes, (0.8, 2.4), strict=False):
    image = flow.rollout(grid, steps=1, dt=h, on_fold="ignore")
    x, y = image.z[-1].unbind(-1)
    inside = torch.where(image.folded[0], 1.0, torch.nan)
    for color, width, shown in (
        ("0.7", 0.6, torch.ones_like(inside)),
        ("#dc2626", 0.9, inside),
    ):
        axis.plot(x * shown, y, color=color, lw=width)
        axis.plot((x * shown).T, y.T, color=color, lw=width)
    axis.set(title=f"step $h = {h}$", xlabel="$z_1$", aspect="equal")
axes[0].set_ylabel("$z_2$")
axes[2].axhline(0, color="0.7", lw=1)
axes[2].plot(lengths, margins)
axes[2].fill_between(lengths, margins, 0, where=margins < 0, color="#fecaca")
axes[2].text(2.35, -0.35, "folds", ha="center", color="#dc2626")
axes[2].set(
    xlabel="step $h$", ylabel=r"smallest eigenvalue of $I + h \nabla^2 u$", title="margin"
)
plt.show()
