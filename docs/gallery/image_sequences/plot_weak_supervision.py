r"""
Which flow moved it? Transformations found without a label
==========================================================

Nobody says which transformation a sequence shows. With a :class:`~latentflow.vae.LabelPosterior` the model infers it,
and the objective of a sequence is the sum over all potentials, weighed by how probable they are,

.. math:: \sum_k q_k \,(\mathcal{L}_k + \log p_k - \log q_k), \qquad q_k = q(k | x_0, \dots, x_T), \quad p_k = 1/K .

Nothing in it asks that all potentials be used, and the one that is ahead by chance would take everything. A penalty
on the *average* posterior of a batch, :math:`KL(\bar q \,\|\, p)`, prevents this, and reads no label.

The strips below are 16 pixels with a bump that moves or fades. Two potentials divide the sequences among them. Which
one takes which transformation is arbitrary; that each takes one of them is not.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    HJResidual,
    LabelPosterior,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
)
from latentflow.vae import ExactSum, GaussianLikelihood, MLPSequenceClassifier

SHAPE, STEPS, KINDS = (1, 1, 16), 3, 2
pixels, time = torch.arange(16.0), torch.arange(STEPS + 1.0)


def draw(count: int) -> tuple[Tensor, Tensor]:
    """Draw sequences of a bump that moves to the right (0) or fades (1), and which of both it is."""
    place, k = 5 + 3 * torch.rand(count, 1), torch.randint(KINDS, (count, 1))
    moved = place + torch.where(k == 0, time, 0.0)
    bright = torch.where(k == 1, 1 - time / 4, 1.0)
    frames = bright[..., None] * torch.exp(-((pixels - moved[..., None]) ** 2) / 2)
    return frames.reshape(count, STEPS + 1, *SHAPE), k[:, 0]


# %%
# Training sees frames and never the labels. A start may also end in another division, as by the place of the bump if it
# varied more. That one explains its sequences worse, so of several starts the one of the best objective wins, again
# without a label; here a single one will do.

torch.manual_seed(1)
model = FlowVAE(
    encoder=MLPEncoder(SHAPE, 4, (64,)),
    decoder=MLPDecoder(4, SHAPE, (64,)),
    bank=PotentialBank([MLPPotential(4, (16,)) for _ in range(KINDS)]),
    prior=DiffusionPrior(4, fields=KINDS),
    residual=HJResidual(),
    likelihood=GaussianLikelihood(0.1),
    label_posterior=LabelPosterior(
        MLPSequenceClassifier(SHAPE, STEPS + 1, KINDS, (16,)), ExactSum(), balance=10.0
    ),
)
optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)
for _ in range(150):
    frames, _ = draw(48)
    objective = model.objective(frames)
    optimizer.zero_grad()
    objective.total.backward()
    optimizer.step()

# %%
# Labels are read once, to see what was found. The divergence of a posterior from the uniform one lies between 0 and
# :math:`\log 2`, and is near the upper end where the model is sure.

frames, k = draw(400)
with torch.no_grad():
    q = model.label_posterior(frames)
    divergence = model.label_posterior.divergence(q)
assert divergence.min() > -1e-5
assert divergence.max() < math.log(2) + 1e-5
agreement = (q.probs.argmax(-1) == k).double().mean().item()
agreement, order = max((agreement, [0, 1]), (1 - agreement, [1, 0]))
print(
    f"{agreement:.1%} of the sequences are told apart, {divergence.mean() / math.log(2):.0%} of a bit each"
)
assert agreement > 0.95

# %%
# Left: sequences sorted by the bump's start, as the eye sees them. Right: what both potentials make of the same first
# image, and the posterior of 400 sequences.

model.eval()
model.on_fold = "ignore"
with torch.no_grad():
    made = [model.generate(frames[:1, 0], index, steps=STEPS)[0] for index in order]
shown = [frames[k == kind][:1][0] for kind in (0, 1)]

figure, axes = plt.subplot_mosaic(
    [["data 0", "flow 0", "posterior"], ["data 1", "flow 1", "posterior"]],
    width_ratios=[1, 1, 1.3],
    figsize=(7.4, 3.6),
)
for kind, name in enumerate(("moves", "fades")):
    for column, strip, title in (
        ("data", shown[kind], f"a bump that {name}"),
        ("flow", made[kind], f"potential {order[kind]}"),
    ):
        axis = axes[f"{column} {kind}"]
        axis.imshow(
            strip.reshape(STEPS + 1, 16), aspect="auto", cmap="gray_r", vmin=0, vmax=1
        )
        axis.set(title=title, yticks=range(STEPS + 1), xticks=[0, 5, 10, 15])
    axes[f"data {kind}"].set_ylabel("time")
for name in ("data 1", "flow 1"):
    axes[name].set_xlabel("pixel")
for kind, name in enumerate(("moves", "fades")):
    axes["posterior"].hist(
        q.probs[k == kind, order[0]], bins=25, range=(0, 1), alpha=0.75, label=f"it {name}"
    )
axes["posterior"].set(xlabel=f"posterior of potential {order[0]}", ylabel="sequences")
axes["posterior"].legend(loc="upper center")
plt.show()
