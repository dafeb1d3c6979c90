"""The matching of flows to transformations, for a model that was trained without labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import mutual_info_score
from torch import Tensor

from latentflow import FlowVAE
from latentflow_experiments.data import ArraySequences, SequenceDataset, subsample

__all__ = ["Matching", "Recovery", "infer_labels", "label_by_model", "match", "measure_recovery"]

IMAGES = 500  # sequences of each transformation
BATCH = 100


@dataclass(frozen=True)
class Matching:
    """The potential of each transformation.

    Attributes:
        order: The index of the potential of each transformation.
        counts: How many sequences of each transformation (row) the label posterior gave to each potential (column).
    """

    order: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Recovery:
    r"""The recovery of the transformations of test sequences by the label posterior.

    Attributes:
        accuracy: The share of sequences whose most probable potential is the one that was matched to theirs.
        mutual_information: The information between transformation and potential, in nats, from 0 to :math:`\log K`.
        entropy: The mean entropy of the label posterior, in nats.
        counts: How many sequences of each transformation (row) went to each potential (column).
        sequences: The number of sequences.
    """

    accuracy: float
    mutual_information: float
    entropy: float
    counts: tuple[tuple[int, ...], ...]
    sequences: int


def match(model: FlowVAE, data: SequenceDataset) -> Matching:
    """Match potentials to transformations so that as many sequences as possible agree, by the Hungarian method.

    It reads the labels of the sequences that it is given, to name what was learned without them: give it validation
    data. Nothing of it goes into training.

    Args:
        model: The model, with a label posterior, in evaluation mode.
        data: The validation sequences.

    Returns:
        The matching.
    """
    counts, _ = _count(model, data)
    _, order = linear_sum_assignment(counts, maximize=True)
    return Matching(tuple(int(k) for k in order), _tuples(counts))


def measure_recovery(model: FlowVAE, matching: Matching, data: SequenceDataset) -> Recovery:
    """Measure how well the label posterior recovers the transformations.

    Args:
        model: The model, with a label posterior, in evaluation mode.
        matching: The matching, from validation sequences.
        data: The test sequences.

    Returns:
        What was measured.
    """
    counts, entropy = _count(model, data)
    right = sum(counts[k, potential] for k, potential in enumerate(matching.order))
    total = int(counts.sum())
    return Recovery(
        accuracy=float(right / total),
        mutual_information=float(mutual_info_score(None, None, contingency=counts)),
        entropy=entropy,
        counts=_tuples(counts),
        sequences=total,
    )


def infer_labels(model: FlowVAE, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Infer the most probable potential of sequences; no noise is drawn.

    Args:
        model: The model, with a label posterior.
        frames: Sequences, of shape ``(batch, T+1, channels, height, width)``.

    Returns:
        The index of the potential, int64, and the entropy of the label posterior in nats, both of shape ``(batch,)``.

    Raises:
        ValueError: If the model has no label posterior.
    """
    if model.label_posterior is None:
        raise ValueError("model: expected one with a label posterior, got one without")
    logits = model.label_posterior(frames).logits
    return logits.argmax(-1), -(logits.exp() * logits).sum(-1)


def label_by_model(model: FlowVAE, data: ArraySequences) -> ArraySequences:
    """Label sequences whose transformation nobody knows by the most probable potential of each.

    Args:
        model: The model, with a label posterior, in evaluation mode.
        data: The sequences, without labels.

    Returns:
        The sequences with a label each; potentials without a sequence are left out.

    Raises:
        ValueError: If the model has no label posterior.
    """
    with torch.no_grad():
        found = [infer_labels(model, data.sequence(i, 0))[0].cpu() for i in torch.split(data.starts(0), BATCH)]
    return data.with_labels(torch.cat(found))


def _count(model: FlowVAE, data: SequenceDataset) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int64]], float]:
    """Count sequences by transformation and potential, and average the entropy."""
    counts = np.zeros((len(data.names), len(model.bank)), np.int64)
    entropies = []
    with torch.inference_mode():
        for k in range(len(data.names)):
            for indices in torch.split(subsample(data.starts(k), IMAGES), BATCH):
                potentials, entropy = infer_labels(model, data.sequence(indices, k))
                counts[k] += np.bincount(potentials.cpu().numpy(), minlength=len(model.bank))
                entropies.append(entropy.double().cpu())
    return counts, float(torch.cat(entropies).mean())


def _tuples(counts: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(count) for count in row) for row in counts)
