r"""
Your own sequences, in fifteen lines
====================================

Sequences of images in an array, with a label for each if there is one, are all that a run needs:
``ArraySequences(frames, labels, names)`` takes bytes from 0 to 255 or numbers from 0 to 1, of the shape
``(sequences, T+1, height, width)`` or with channels. ``fit(settings, data, steps, out)`` splits them into training,
validation and test, trains a :class:`~latentflow.vae.FlowVAE`, evaluates it on the test sequences, and leaves a folder:
configuration, checkpoint, errors, and a picture.

The error that it reports for a transformation is :math:`E \sum_{t=1}^{T} |x_t - \hat x_t|_1` on test sequences, beside
that of a static picture, which is what a flow has to beat.

The sequences here are drawn with numpy: a square that moves down, or grows. They need the extra ``experiments``. The
same data in a file are trained by ``latentflow train my.npz``.
"""

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from latentflow_experiments import ArraySequences, ModelConfig, fit

# %%
# Put your own array in place of these three hundred sequences of five frames.

rng = np.random.default_rng(seed=0)
labels = np.arange(300) % 2
frames = np.zeros((300, 5, 12, 12), dtype=np.uint8)
for sequence, label in zip(frames, labels, strict=True):
    y, x, grey = rng.integers(0, 3), rng.integers(1, 5), rng.integers(180, 256)
    for t, frame in enumerate(sequence):
        top, side = (y + t, 4) if label == 0 else (y, 4 + t)
        frame[top : top + side, x : x + side] = grey

# %%
# A real run takes thousands of steps and a larger model; this one takes seconds. The folder is read before it is
# removed.

data = ArraySequences(frames, labels, names=("down", "grow"))
settings = ModelConfig(dim=8, hidden=(32,), network="mlp", width=128)
with tempfile.TemporaryDirectory() as folder:
    run = fit(
        settings,
        data,
        steps=220,
        out=Path(folder) / "run",
        batch_size=48,
        learning_rate=5e-3,
        warmup_steps=20,
    )
    found = json.loads(run.evaluation.read_text())
    strips = plt.imread(run.strips)

# %%
# Each flow is nearer to the truth than a picture that stands still. And it is an optimal transport on its samples: by
# default a run trains flows that solve the Hamilton-Jacobi equation by construction, whose paths are straight, so that
# their cost :math:`T \int E |\nabla u|^2 dt` equals the mean squared displacement.

for name, error in found["result"]["errors"].items():
    low, high = error["output_interval"]
    print(
        f"{name}: error {error['output']:.1f} ({low:.1f} to {high:.1f}), static {error['static']:.1f}"
    )
    assert error["output"] < error["static"]
for name, transport in found["transport"].items():
    print(
        f"{name}: cost {transport['cost']:.3f}, displacement {transport['displacement']:.3f}"
    )
    assert abs(transport["cost"] / transport["displacement"] - 1) < 1e-4

# %%
# The picture that the run has left: the data above the flow, for a sequence of each transformation.

figure, axis = plt.subplots(figsize=(7.4, 7.2))
axis.imshow(strips)
axis.set_axis_off()
plt.show()
