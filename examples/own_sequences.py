"""Cut the public animation of dSprites into labelled sequences, as an npz file for ``latentflow train``.

The animation, ``dsprites.gif`` of https://github.com/google-deepmind/dsprites-dataset (Apache License 2.0), has 320
frames of 64 x 64 pixels. It sweeps the scale, the orientation and the position of a heart, an ellipse and a square.

    python examples/own_sequences.py dsprites.gif own.npz
    latentflow train own.npz
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

LENGTH = 6
"""The frames of a sequence: a sweep of the scale has six."""

Pixels = NDArray[np.uint8]


def read_frames(path: Path) -> Pixels:
    """Read the frames of an animation, shape ``(n, height, width)``."""
    with Image.open(path) as animation:
        return np.stack([np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(animation)])


def change_between(first: Pixels, second: Pixels) -> tuple[str, int] | None:
    """Name what changes from a frame to the next, with the sign of the change; None if nothing does."""
    if np.array_equal(first, second):
        return None
    areas = [float((frame > 127).sum()) for frame in (first, second)]
    (y0, x0), (y1, x1) = (np.argwhere(frame > 127).mean(0) for frame in (first, second))
    if abs(np.log(areas[1] / areas[0])) > 0.15:
        return "scale", int(np.sign(areas[1] - areas[0]))
    if max(abs(x1 - x0), abs(y1 - y0)) < 0.6:
        return "orientation", 1
    return (
        ("position x", int(np.sign(x1 - x0))) if abs(x1 - x0) > abs(y1 - y0) else ("position y", int(np.sign(y1 - y0)))
    )


def cut(frames: Pixels, stride: int = LENGTH) -> dict[str, list[Pixels]]:
    """Cut frames into sequences of one change each, of which no two are equal.

    A shape that shrinks, or moves to the left or upwards, is read backwards, so that every label has one direction.
    With a stride of less than the length, a sequence shares frames with the one before.
    """
    changes = [change_between(first, second) for first, second in pairwise(frames)]
    found: dict[str, list[Pixels]] = {}
    start = 0
    while start + LENGTH <= len(frames):
        window = changes[start : start + LENGTH - 1]
        if window[0] is None or any(change != window[0] for change in window):
            start += 1
            continue
        name, sign = window[0]
        sequence = frames[start : start + LENGTH][::sign]
        if not any(np.array_equal(sequence, other) for other in found.get(name, [])):
            found.setdefault(name, []).append(sequence)
        start += stride
    return found


def main() -> None:
    """Read the animation and write the sequences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("animation", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stride", type=int, default=LENGTH, help="frames from one sequence to the next")
    arguments = parser.parse_args()
    found = dict(sorted(cut(read_frames(arguments.animation), arguments.stride).items()))
    labels = np.concatenate([np.full(len(sequences), k) for k, sequences in enumerate(found.values())])
    frames = np.concatenate([np.stack(sequences) for sequences in found.values()])
    np.savez_compressed(arguments.out, frames=frames, labels=labels, names=np.array(list(found)))
    counts = ", ".join(f"{len(sequences)} of {name}" for name, sequences in found.items())
    print(f"wrote {len(frames)} sequences of {LENGTH} frames into {arguments.out}: {counts}")


if __name__ == "__main__":
    main()
