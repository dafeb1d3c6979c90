r"""
Digits that move and fade, then both: flows that switch and superpose
=====================================================================

A :class:`~latentflow.vae.FlowVAE` explains a sequence of images :math:`x_0, \dots, x_T` by one latent that flows along
the potential of its transformation, :math:`z_{t+1} = z_t + \nabla u_k(z_t, t)`. It is trained on the bound

.. math::
    \sum_{t} E \log p(x_t | z_t) - KL\bigl(q(z_0 | x_0) \,\|\, p_0\bigr) \le \log p(x_0, \dots, x_T | k)

minus the mean squared residual of the Hamilton-Jacobi equation. Each sequence of the training shows *one*
transformation: a 1, 4 or 7 of the digits of scikit-learn, 8 x 8 pixels,
moves to the right, or it fades.

Potentials add and switch, so the trained model can do what it has never seen. ``model.generate(x0, u, steps)`` takes
any expression of potentials: one after the other by :class:`~latentflow.potentials.SwitchedPotential`, both at once
by ``bank.superpose()``. What they should show is known, since images can be moved and faded by hand.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    HJResidual,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
    SwitchedPotential,
)
from latentflow.vae import GaussianLikelihood

STEPS, SHAPE = 4, (1, 8, 12)
data = load_digits()
kept = np.isin(data.target, (1, 4, 7))
images, targets = data.images[kept], data.target[kept]
digits = torch.nn.functional.pad(torch.tensor(images).float() / 16, (0, 4)).unsqueeze(1)
train, test = digits[:450], digits[450:]


def show(x: Tensor, moved: Tensor, faded: Tensor) -> Tensor:
    """Move images to the right by whole pixels and fade them, at each time; ``(batch, T+1, 1, 8, 12)``."""
    frames = [
        x.roll(int(shift), dims=-1) * (1 - 0.2 * fade)
        for shift, fade in zip(moved, faded, strict=True)
    ]
    return torch.stack(frames, dim=1)


times, still = torch.arange(STEPS + 1.0), torch.zeros(STEPS + 1)
sequences = torch.stack(
    [show(train, times, still), show(train, still, times)]
)  # (2, 450, T+1, 1, 8, 12)

# %%
# A small model, which decodes two frames of each sequence in a step, and 240 steps of Adam.

torch.manual_seed(0)
model = FlowVAE(
    encoder=MLPEncoder(SHAPE, dim=16, hidden=(128,)),
    decoder=MLPDecoder(16, SHAPE, hidden=(128,)),
    bank=PotentialBank([MLPPotential(16, (32,)) for _ in range(2)]),
    prior=DiffusionPrior(16, fields=2),
    residual=HJResidual(),
    likelihood=GaussianLikelihood(0.07),
    decoded_frames=2,
)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=240)
for _ in range(240):
    k, chosen = torch.randint(2, (64,)), torch.randint(len(train), (64,))
    objective = model.objective(sequences[k, chosen], k)
    optimizer.zero_grad()
    objective.total.backward()
    optimizer.step()
    schedule.step()

# %%
# Four flows on test digits, beside the images that they should show. The switched flow begins as the first one does, to
# the last bit; and every flow is much nearer to the truth than a picture that stands still.

model.eval()
model.on_fold = "ignore"
move, fade = model.bank[0], model.bank[1]
half = STEPS // 2
flows = {
    "move": (move, show(test, times, still)),
    "fade": (fade, show(test, still, times)),
    "move, then fade": (
        SwitchedPotential([move, fade], times=[float(half)]),
        show(test, times.clamp(max=half), (times - half).clamp(min=0)),
    ),
    "both at once": (model.bank.superpose(), show(test, times, times)),
}
with torch.no_grad():
    made = {name: model.generate(test, u, steps=STEPS) for name, (u, _) in flows.items()}
torch.testing.assert_close(
    made["move, then fade"][:, : half + 1], made["move"][:, : half + 1]
)
for name, (_, truth) in flows.items():
    error = (made[name] - truth).square().mean().item()
    standing = (truth[:, :1] - truth).square().mean().item()
    print(
        f"{name}: mean squared error {error:.4f}, of a picture that stands still {standing:.4f}"
    )
    assert error < standing / 2

# %%
# Each pair of rows: the truth above the flow. Both flows at once are right for two or three steps; then the latent is
# where no sequence of the training has been, and the picture shows it.

shown = [int(np.flatnonzero(targets[450:] == n)[0]) for n in (1, 4, 7)]
figure, axes = plt.subplots(4, 1, figsize=(7.4, 5))
for axis, (name, (_, truth)) in zip(axes, flows.items(), strict=True):
    rows = [
        torch.cat(list(x[shown].flatten(0, 1).squeeze(1)), dim=-1)
        for x in (truth, made[name])
    ]
    gap = torch.zeros(2, rows[0].shape[-1])
    axis.imshow(torch.cat([rows[0], gap, rows[1]]), cmap="gray_r", vmin=0, vmax=1)
    for edge in range(1, 3):
        axis.axvline(edge * 12 * (STEPS + 1) - 0.5, color="#2563eb", lw=1)
    axis.set(title=name, xticks=[], yticks=[3.5, 13.5], yticklabels=["truth", "flow"])
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(length=0)
plt.show()
