"""Sequences of images in memory: arrays of anybody's."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn, Self, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentflow_experiments.data.factors import SPLITS, Split
from latentflow_experiments.data.sequences import SequenceDataset, as_kinds, subsample
from latentflow_experiments.errors import UsageError

__all__ = ["ArraySequences", "describe_counts", "is_unlabelled", "name_labels"]

LEAST = 3
"""The smallest number of sequences of a transformation: one each to train, to validate and to test."""

CHANNELS = (1, 3)
ONLY = "change"

ArrayLike = NDArray[Any] | Tensor


class ArraySequences:
    r"""Holds sequences of images in memory, each of one transformation; an index is the number of a sequence.

    :meth:`split_into_parts` draws the sequences for training, validation and test. Of :math:`n` sequences of a
    transformation, :math:`\max(1, \mathrm{round}(n / 10))` are for validation, as many for test, and the others for
    training. The draw orders the sequences by SHA-256 of their label and their rank among those of the label, so it is
    the same on every machine.

    Without labels there is one transformation, ``"change"``. If ``names`` then names more than one, which of them a
    sequence has is unknown: every sequence is among the :meth:`starts` of all, and a model has to be trained with
    ``supervision="weak"``.

    Args:
        frames: The sequences, shape ``(N, T+1, C, H, W)`` with 1 or 3 channels or ``(N, T+1, H, W)``: uint8 from 0 to
            255, divided by 255 when read, or floating point from 0 to 1.
        labels: The transformation of each sequence, integers from 0 to ``K - 1`` or names, shape ``(N,)``; None if
            there is only one, or they are unknown.
        names: The names of the ``K`` transformations; by default those in ``labels``, ``"transformation 0"`` and so on,
            or ``"change"`` for one.
        name: The name of the data, for tables and pictures.

    Attributes:
        potentials: The potential of each label where a model gave the labels, see :meth:`with_labels`; else None.

    Raises:
        TypeError: If ``frames`` or ``labels`` is no array.
        UsageError: If a shape, dtype or value does not fit.

    Example:
        >>> frames = np.zeros((6, 5, 8, 8), np.uint8)
        >>> data = ArraySequences(frames, labels=[0, 1, 0, 1, 0, 1], names=("up", "down"))
        >>> assert data.starts(1).tolist() == [1, 3, 5] and data.shape == (1, 8, 8) and data.steps == 4
        >>> assert data.sequence(data.starts(1), 1).shape == (3, 5, 1, 8, 8)
        >>> train, validation, test = data.split_into_parts()
        >>> assert len(train.starts(0)) == len(validation.starts(0)) == len(test.starts(0)) == 1
    """

    fractional = False

    def __init__(
        self,
        frames: ArrayLike,
        labels: ArrayLike | Sequence[int] | Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        *,
        name: str = "arrays",
    ) -> None:
        self._frames = _as_frames(frames)
        count = len(self._frames)
        self._labels: Tensor | None = None
        if labels is None:
            self.names = _as_names(names, 1)
        else:
            self._labels, self.names = name_labels(labels, count, names)
        if self._labels is None and len(self.names) == 1:
            self._labels = torch.zeros(count, dtype=torch.int64)
            self._hashed_labels = b""
        else:
            self._hashed_labels = b"" if self._labels is None else self._labels.numpy().tobytes()
        if self._labels is not None:
            self._check_counts(torch.bincount(self._labels, minlength=len(self.names)).tolist())
        elif count < LEAST:
            raise UsageError(f"frames: expected at least {LEAST} sequences, one for each split, got {count}")
        self.name = name
        self.split = "all"
        self.potentials: tuple[int, ...] | None = None
        self._members = torch.arange(count)
        self._digest: str | None = None
        self._place = torch.device("cpu")

    def _check_counts(self, counts: Sequence[int]) -> None:
        for name, n in zip(self.names, counts, strict=True):
            if n < LEAST:
                raise UsageError(
                    f"labels: expected at least {LEAST} sequences of each transformation, one for each split, got {n} "
                    f"of {name!r}; add some, or leave it out with --transformations"
                )

    def __len__(self) -> int:
        """Return the number of sequences in this split."""
        return len(self._members)

    @property
    def unlabelled(self) -> bool:
        """Whether the transformation of each sequence is unknown, among several."""
        return self._labels is None

    @property
    def steps(self) -> int:
        """The number of steps ``T``."""
        return self._frames.shape[1] - 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a frame, ``(channels, height, width)``."""
        channels, height, width = self._frames.shape[2:]
        return channels, height, width

    def starts(self, k: int) -> Tensor:
        """List the sequences of one transformation in this split; see :meth:`SequenceDataset.starts`."""
        as_kinds(k, 1, len(self.names))
        return self._members if self._labels is None else self._members[self._labels[self._members] == k]

    def examples(self, k: int, count: int) -> Tensor:
        """Choose a few of them to look at, always the same; see :meth:`SequenceDataset.examples`."""
        return subsample(self.starts(k), count)

    def sequence(self, indices: Tensor, k: Tensor | int) -> Tensor:
        """Return sequences; see :meth:`SequenceDataset.sequence`.

        Raises:
            ValueError: If ``indices`` or ``k`` has another shape or dtype, is out of range, or ``k`` is not the label.
        """
        if indices.ndim != 1 or indices.dtype != torch.int64:
            raise ValueError(f"indices: expected int64 of shape (b,), got {indices.dtype}, {tuple(indices.shape)}")
        kinds = as_kinds(k, len(indices), len(self.names)).cpu()
        chosen = indices.cpu()
        outside = chosen[(chosen < 0) | (chosen >= len(self._frames))]
        if len(outside):
            raise ValueError(f"indices: expected values from 0 to {len(self._frames) - 1}, got {int(outside[0])}")
        if self._labels is not None and not torch.equal(self._labels[chosen], kinds):
            wrong = int((self._labels[chosen] != kinds).nonzero()[0])
            right = int(self._labels[chosen[wrong]])
            raise ValueError(f"k: expected {right} for sequence {int(chosen[wrong])}, got {int(kinds[wrong])}")
        frames = self._frames[chosen].to(self._place)
        return frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()

    def composed_starts(self, kinds: Sequence[int]) -> NoReturn:  # noqa: ARG002 - the signature of the protocol
        """Raise a UsageError: no images of several changes at once are known."""
        raise UsageError(
            f"composition: expected a data set that can show several changes at once, got {self.name}, whose sequences "
            "show one change each"
        )

    def composed(self, indices: Tensor, states: Tensor) -> NoReturn:  # noqa: ARG002 - the signature of the protocol
        """Raise a UsageError: no images of several changes at once are known."""
        self.composed_starts(())

    def to(self, device: torch.device | str) -> Self:
        """Return the same sequences, whose frames :meth:`sequence` gives on a device."""
        moved = copy.copy(self)
        moved._place = torch.device(device)
        return moved

    def identity(self) -> dict[str, Any]:
        """Describe the data for the record of a run: name, split, SHA-256 of all frames and labels, and count."""
        if self._digest is None:
            digest = hashlib.sha256(f"{self._frames.dtype} {tuple(self._frames.shape)} {self.names}".encode())
            digest.update(self._hashed_labels)
            for frames in self._frames:
                digest.update(frames.contiguous().numpy())
            self._digest = digest.hexdigest()
        return {"name": self.name, "split": self.split, "sha256": self._digest, "count": len(self)}

    def split_into_parts(self) -> tuple[Self, Self, Self]:
        """Split all sequences by the fixed draw; the frames are not copied.

        Returns:
            The parts for training, validation and test.

        Raises:
            UsageError: If this is a part already.
        """
        if self.split != "all":
            raise UsageError(f"data: expected all sequences, got the {self.split} split of them")
        self.identity()  # computed once for all parts
        parts: dict[str, list[int]] = {split: [] for split in SPLITS}
        groups = [self._members] if self._labels is None else [self.starts(k) for k in range(len(self.names))]
        for k, group in enumerate(groups):
            n = len(group)
            ranks = sorted(range(n), key=partial(_draw, k))
            held = max(1, round(n / 10))
            parts["validation"] += group[ranks[:held]].tolist()
            parts["test"] += group[ranks[held : 2 * held]].tolist()
            parts["train"] += group[ranks[2 * held :]].tolist()
        return self._part("train", parts), self._part("validation", parts), self._part("test", parts)

    def _part(self, split: Split, parts: dict[str, list[int]]) -> Self:
        part = copy.copy(self)
        part.split = split
        part._members = torch.tensor(sorted(parts[split]))
        return part

    def with_labels(self, found: Tensor) -> Self:
        """Label the sequences of this split by the potentials that a model found; the identity stays that of the data.

        Args:
            found: The potential of each, in their order, shape ``(n,)``, int64.

        Returns:
            The labelled sequences; the names of potentials that no sequence has are left out.
        """
        potentials, labels = torch.unique(found.cpu(), return_inverse=True)
        labelled = copy.copy(self)
        labelled.potentials = tuple(int(k) for k in potentials)
        labelled.names = tuple(self.names[k] for k in labelled.potentials)
        labelled._labels = torch.full((len(self._frames),), -1)
        labelled._labels[self._members] = labels
        return labelled


def _draw(k: int, rank: int) -> bytes:
    """Draw a number for a sequence from its label and its rank among those of the label."""
    return hashlib.sha256(f"{k} {rank}".encode()).digest()


def is_unlabelled(data: SequenceDataset) -> TypeGuard[ArraySequences]:
    """Return whether nobody knows which of several transformations the sequences have."""
    return isinstance(data, ArraySequences) and data.unlabelled


def describe_counts(data: SequenceDataset) -> str:
    """Say how many sequences of each transformation there are, as far as it is known."""
    if is_unlabelled(data):
        return f"{len(data):,} of unknown {', '.join(data.names)}"
    return ", ".join(f"{len(data.starts(k)):,} of {name}" for k, name in enumerate(data.names))


def _as_frames(frames: ArrayLike) -> Tensor:
    """Check frames and return them as a tensor ``(N, T+1, C, H, W)``."""
    if not isinstance(frames, (np.ndarray, Tensor)):
        raise TypeError(f"frames: expected an array or a tensor, got {type(frames).__name__}")
    if isinstance(frames, np.ndarray):
        if frames.dtype != np.uint8 and frames.dtype.kind != "f":
            raise UsageError(f"frames: expected uint8 or floating point, got {frames.dtype}")
        native = frames.astype(frames.dtype.newbyteorder("="), copy=False)
        native = native.astype(np.float32) if native.dtype.itemsize > 8 else native
        frames = torch.from_numpy(np.ascontiguousarray(native) if native.flags.writeable else native.copy())
    frames = frames.detach().cpu()
    if frames.dtype != torch.uint8 and not frames.is_floating_point():
        raise UsageError(f"frames: expected uint8 or floating point, got {frames.dtype}")
    if frames.ndim == 4:
        frames = frames.unsqueeze(2)
    shape = tuple(frames.shape)
    if len(shape) != 5 or 0 in shape:
        raise UsageError(f"frames: expected shape (N, T+1, C, H, W) or (N, T+1, H, W), got {shape}")
    if shape[2] not in CHANNELS:
        hint = "; move the channels to the third axis" if shape[4] in CHANNELS else ""
        raise UsageError(f"frames: expected 1 or 3 channels in shape (N, T+1, C, H, W), got {shape}{hint}")
    if shape[1] < 2:
        raise UsageError("frames: expected at least 2 frames in a sequence, got 1")
    if frames.is_floating_point():
        low, high = (float(x) for x in frames.aminmax())
        if not (low >= 0 and high <= 1):  # NaN as well
            hint = "; divide them by 255, or give them as uint8" if high > 1 else ""
            raise UsageError(f"frames: expected values in [0, 1], got values in [{low:g}, {high:g}]{hint}")
        return frames.float()
    return frames


def name_labels(
    labels: ArrayLike | Sequence[int] | Sequence[str], count: int, names: Sequence[str] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Check labels, and name the transformations that they number or name.

    Args:
        labels: The transformation of each sequence, integers or names.
        count: The number of sequences.
        names: The names of the transformations; None for those in the labels, or their numbers.

    Returns:
        The labels as integers, shape ``(count,)``, int64, and the names.

    Raises:
        UsageError: If they do not fit.

    Example:
        >>> labels, names = name_labels(["b", "a"], 2, None)
        >>> assert labels.tolist() == [1, 0] and names == ("a", "b")
    """
    kinds, found = _as_labels(labels, count, names)
    return kinds, _as_names(names, found)


def _as_labels(
    labels: ArrayLike | Sequence[int] | Sequence[str], count: int, names: Sequence[str] | None
) -> tuple[Tensor, tuple[str, ...] | int]:
    """Check labels; return them as integers, with the names that they are given by or their number."""
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.shape != (count,):
        raise UsageError(f"labels: expected one for each sequence, shape ({count},), got {array.shape}")
    if array.dtype.kind == "U":
        known = sorted(set(array.tolist())) if names is None else [str(name) for name in names]
        unknown = sorted(set(array.tolist()) - set(known))
        if unknown:
            raise UsageError(f"labels: expected one of {', '.join(known)}, got {unknown[0]!r}")
        return torch.tensor([known.index(label) for label in array.tolist()]), tuple(known)
    if array.dtype.kind not in "iu":
        raise UsageError(f"labels: expected integers or names, got {array.dtype}")
    if array.min() < 0:
        raise UsageError(f"labels: expected integers from 0, got {array.min()}")
    kinds = len(names) if names is not None else len(np.unique(array))
    if array.max() >= kinds:
        raise UsageError(f"labels: expected integers from 0 to {kinds - 1}, each of them, got {array.max()}")
    return torch.from_numpy(array.astype(np.int64)), kinds


def _as_names(names: Sequence[str] | None, found: tuple[str, ...] | int) -> tuple[str, ...]:
    """Name the transformations, as they are named or by their numbers."""
    if names is None:
        if isinstance(found, tuple):
            return found
        return (ONLY,) if found == 1 else tuple(f"transformation {k}" for k in range(found))
    chosen = tuple(str(name) for name in names)
    if isinstance(names, str) or not chosen or len(set(chosen)) != len(chosen) or not all(chosen):
        raise UsageError(f"names: expected distinct names of the transformations, got {names!r}")
    return chosen
