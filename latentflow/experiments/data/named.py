"""The data sets of the experiments by their names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from latentflow.experiments.data.digits import load_digits
from latentflow.experiments.data.images import LabelledImages
from latentflow.experiments.data.mnist import load_mnist


def load_images(
    name: Literal["digits", "mnist"], split: Literal["train", "test"], folder: Path | None = None
) -> LabelledImages:
    """Load a split of a data set.

    Args:
        name: The data set.
        split: The split.
        folder: The folder of its files, or None to look for them; the digits have none.

    Returns:
        The images.

    Raises:
        DataError: If a file is missing or damaged.
    """
    return load_digits(split) if name == "digits" else load_mnist(split, folder)
