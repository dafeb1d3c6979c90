"""A split of a data set of labelled grey images."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LabelledImages"]


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """One split of a data set of grey images with a class each.

    Args:
        images: Grey values 0 to 255, shape ``(n, 28, 28)``, uint8.
        labels: Class of each image, shape ``(n,)``, int64.
        name: Name of the data set.
        split: Name of the split.

    Raises:
        ValueError: If a tensor has another shape or dtype, or the numbers of images and labels differ.

    Example:
        >>> data = LabelledImages(torch.zeros(2, 28, 28, dtype=torch.uint8), torch.tensor([3, 7]), "blank", "train")
        >>> assert len(data) == 2
        >>> assert data.sha256().startswith("7fbcfcd8")
    """

    images: Tensor
    labels: Tensor
    name: str
    split: str

    def __post_init__(self) -> None:
        if self.images.ndim != 3 or self.images.shape[1:] != (28, 28):
            raise ValueError(f"images: expected shape (n, 28, 28), got {tuple(self.images.shape)}")
        if self.images.dtype != torch.uint8:
            raise ValueError(f"images: expected dtype torch.uint8, got {self.images.dtype}")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels: expected shape ({len(self.images)},), got {tuple(self.labels.shape)}")
        if self.labels.dtype != torch.int64:
            raise ValueError(f"labels: expected dtype torch.int64, got {self.labels.dtype}")

    def __len__(self) -> int:
        return len(self.images)

    def sha256(self) -> str:
        """Hash the pixels, to record which data a run used.

        Returns:
            SHA-256 of the pixel bytes in row-major order, 64 hexadecimal digits.
        """
        return hashlib.sha256(self.images.cpu().contiguous().numpy().tobytes()).hexdigest()

    def identity(self) -> dict[str, str]:
        """Name the data for the record of a run: name, split and SHA-256."""
        return {"name": self.name, "split": self.split, "sha256": self.sha256()}
