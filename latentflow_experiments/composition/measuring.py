"""What all measurements of compositions share: checks, first images and the mode of the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from latentflow import FlowVAE
from latentflow.calculus import check_count
from latentflow_experiments.data import SequenceDataset, subsample

__all__ = ["LIMIT", "batched_starts", "check_order", "encode_first", "evaluating"]

LIMIT = 1_000  # first images of each composition


def check_order(model: FlowVAE, order: tuple[int, ...], data: SequenceDataset) -> None:
    """Check that there is a potential for each transformation, and steps enough to switch between them.

    Args:
        model: The model.
        order: The index in the bank of the potential of each transformation.
        data: The sequences.

    Raises:
        ValueError: If ``order`` does not fit the data or the bank, or there are less than 2 steps.
    """
    if len(order) != len(data.names) or not set(order) <= set(range(len(model.bank))):
        expected = f"{len(data.names)} indices from 0 to {len(model.bank) - 1}"
        raise ValueError(f"order: expected {expected}, got {order}")
    if data.steps < 2:
        raise ValueError(f"data: expected at least 2 steps, to switch between them, got {data.steps}")


@contextmanager
def evaluating(model: FlowVAE) -> Iterator[None]:
    """Put a model in evaluation mode, without gradients, and back in the mode that it was in."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def batched_starts(data: SequenceDataset, kinds: tuple[int, ...], limit: int, batch_size: int) -> tuple[Tensor, ...]:
    """Choose the first images of a composition.

    Args:
        data: The sequences.
        kinds: The transformations that take part.
        limit: The number of images, at most; of more, so many are drawn from a fixed seed.
        batch_size: Images in a batch.

    Returns:
        Their indices in batches, int64, each of shape ``(batch_size,)`` but the last one.

    Raises:
        ValueError: If there are none, or ``limit`` or ``batch_size`` is not a positive integer.

    Example:
        >>> from latentflow_experiments.data import open_sequences
        >>> batches = batched_starts(open_sequences("digits", "test"), (0, 1), limit=5, batch_size=3)
        >>> assert [len(batch) for batch in batches] == [3, 2]
    """
    check_count("limit", limit)
    check_count("batch_size", batch_size)
    starts = subsample(data.composed_starts(kinds), limit)
    if not len(starts):
        raise ValueError(f"data: expected images of {', '.join(data.names[k] for k in kinds)}, got none")
    return torch.split(starts, batch_size)


def encode_first(model: FlowVAE, data: SequenceDataset, indices: Tensor) -> tuple[Tensor, Tensor]:
    r"""Read first images and infer their latents, :math:`z_0 = \mu(x_0)`.

    Args:
        model: The model.
        data: The sequences, on the device of the model.
        indices: Indices of images, shape ``(batch,)``, int64.

    Returns:
        The images, of shape ``(batch, 1, channels, height, width)``, in [0, 1], and the latents ``(batch, dim)``.
    """
    first = data.composed(indices, torch.zeros(1, len(data.names)))
    return first, model.encode(first[:, 0]).mean
