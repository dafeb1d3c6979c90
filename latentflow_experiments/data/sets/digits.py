"""The 1,797 handwritten digits that come with scikit-learn, in the frame of MNIST."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from sklearn import datasets

from latentflow_experiments.data.dataset import ImageSet
from latentflow_experiments.data.transformed import LabelledImages

_TRAIN = 1437


def load_digits(split: Literal["train", "test"]) -> LabelledImages:
    """Load scikit-learn's digits as 28x28 images; needs no network.

    The 8x8 images, with values 0 to 16, are resized bilinearly to 20x20, scaled to 0 to 255 and padded with zeros to
    28x28, as MNIST places its digits. The digits fill their 8x8 frame, so the margin also keeps rotation and scaling
    from cutting them.

    The first 1,437 images are the training split and the last 360 the test split, in scikit-learn's order. That order
    is by writer (neighboring images mostly come from the same one of 13 writers, though the file does not record
    which), so the test split is mostly of writers that the training split does not show.

    Args:
        split: ``"train"`` (1,437 images) or ``"test"`` (360 images).

    Returns:
        The split, named ``"digits"``.

    Raises:
        ValueError: If ``split`` is neither.

    References:
        E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998
        (the test set of 13 writers).

    Example:
        >>> data = load_digits("test")
        >>> assert len(data) == 360
        >>> assert not data.images[:, :4].any()
    """
    if split not in ("train", "test"):
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
    part = slice(_TRAIN) if split == "train" else slice(_TRAIN, None)
    digits = datasets.load_digits()
    small = torch.as_tensor(digits.images[part], dtype=torch.float64)
    grey = F.interpolate(small[:, None], size=(20, 20), mode="bilinear", align_corners=False)[:, 0] * (255 / 16)
    images = F.pad(grey.round().to(torch.uint8), (4, 4, 4, 4))
    labels = torch.as_tensor(digits.target[part], dtype=torch.int64)
    return LabelledImages(images, labels, "digits", split)


def _load(split: Literal["train", "test"], folder: Path | None) -> LabelledImages:  # noqa: ARG001 - in no folder
    return load_digits(split)


DATASET = ImageSet("digits", "scikit-learn", load=_load, count=1797, held_out=144, variants=0, steps=3000)
