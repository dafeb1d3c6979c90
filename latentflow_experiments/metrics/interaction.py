"""The interaction of two flows: their cross term and their commutator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from tqdm import tqdm

from latentflow import FlowVAE, gradient
from latentflow.flow import InversionError
from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.metrics.composition import (
    LIMIT,
    Superposed,
    Switched,
    batched_starts,
    check_order,
    encode_first,
    evaluating,
)
from latentflow_experiments.reports.tables import table


@dataclass(frozen=True)
class Interaction:
    r"""The interaction of two flows.

    Attributes:
        cross_term: :math:`E|\nabla u_j \cdot \nabla u_k|` over the times :math:`t < T` of superposed paths. By it the
            sum of two solutions of the Hamilton-Jacobi equation misses the equation.
        cross_relative: That divided by :math:`E|\nabla u_j||\nabla u_k|`, from 0 (orthogonal) to 1 (parallel).
        commutator_continue: The mean distance between the ends of j then k and of k then j, divided by the mean length
            of the way from start to end, for clocks that continue. Flows that change with time are then compared at
            different times too.
        commutator_restart: The same for clocks that restart. It is 0 for flows that commute.
    """

    cross_term: float
    cross_relative: float
    commutator_continue: float
    commutator_restart: float


def measure_interactions(
    model: FlowVAE, order: tuple[int, ...], data: SequenceDataset, batch_size: int = 250, limit: int = LIMIT
) -> dict[str, Interaction | None]:
    r"""Measure the interaction of each two flows.

    Latents start at the mean of the posterior of the first image, :math:`z_0 = \mu(x_0)`. The ends of two orders are
    compared after as many steps of each flow, ``T // 2`` of them.

    Args:
        model: The model; it is used in evaluation mode and left in the mode that it was in.
        order: The index in the bank of the potential of each transformation.
        data: The sequences, with at least 2 steps.
        batch_size: Sequences in a batch; it changes the result by roundoff only.
        limit: The number of first images of a pair, at most; of more, so many are drawn from a fixed seed.

    Returns:
        The interactions, by the names of both transformations; None where a flow cannot be continued, as paths have
        met.

    Raises:
        ValueError: If ``order`` does not fit the data or the bank, there are less than 2 steps or no first images, or
            ``batch_size`` or ``limit`` is not a positive integer.

    Example:
        >>> from latentflow import DiffusionPrior, MLPDecoder, MLPEncoder, MLPPotential, PotentialBank
        >>> from latentflow_experiments.data import open_sequences
        >>> data = open_sequences("digits", "test")
        >>> bank = PotentialBank([MLPPotential(4, (8,)) for _ in data.names])
        >>> encoder, decoder = MLPEncoder(data.shape, 4), MLPDecoder(4, data.shape)
        >>> model = FlowVAE(encoder, decoder, bank, DiffusionPrior(4, fields=len(bank)), residual=None)
        >>> interaction = measure_interactions(model, (0, 1, 2), data, limit=2)["scaling, rotation"]
        >>> assert interaction is not None and 0 <= interaction.cross_relative <= 1
    """
    check_order(model, order, data)
    data = data.to(next(model.parameters()).device)
    pairs = list(combinations(range(len(data.names)), 2))
    with evaluating(model):
        return {
            f"{data.names[j]}, {data.names[k]}": _interact(
                model, data, (order[j], order[k]), batched_starts(data, (j, k), limit, batch_size)
            )
            for j, k in tqdm(pairs, unit="pair", desc="interactions")
        }


def interaction_table(result: dict[str, Interaction | None]) -> str:
    """Lay out the interactions of flows as a table in Markdown.

    Args:
        result: The interactions by the names of both; None where paths have met.

    Returns:
        The table, a row for each pair.

    Example:
        >>> *_, last = interaction_table({"hue, size": Interaction(0.25, 0.5, 0.1, 0.0)}).splitlines()
        >>> assert [c.strip() for c in last.split("|")[1:4]] == ["hue, size", "0.25", "0.5000"]
    """
    header = ("pair", "E|v_j . v_k|", "of E|v_j||v_k|", "commutator, continue", "commutator, restart")
    rows: list[tuple[str, ...]] = []
    for name, i in result.items():
        if i is None:
            rows.append((name, "paths meet", *[""] * 3))
            continue
        shares = (i.cross_relative, i.commutator_continue, i.commutator_restart)
        rows.append((name, f"{i.cross_term:.4g}", *(f"{share:.4f}" for share in shares)))
    return table(header, rows, left=0)


def _interact(
    model: FlowVAE, data: SequenceDataset, pair: tuple[int, int], batches: Sequence[Tensor]
) -> Interaction | None:
    try:
        sums = torch.stack([_interact_batch(model, encode_first(model, data, i)[1], pair, data.steps) for i in batches])
    except InversionError:
        return None
    count = sum(map(len, batches))
    cross, product, *distances = sums.double().sum(0).tolist()
    (apart, way), (apart_restart, way_restart) = distances[:2], distances[2:]
    return Interaction(
        cross_term=cross / (count * data.steps),
        cross_relative=_share(cross, product),
        commutator_continue=_share(apart, way),
        commutator_restart=_share(apart_restart, way_restart),
    )


def _interact_batch(model: FlowVAE, z0: Tensor, pair: tuple[int, int], steps: int) -> Tensor:
    """Sum the cross terms and the products of speeds, then for each clock the distances of ends and the ways there."""
    first, second = pair
    z = Superposed(((first, 1.0), (second, 1.0))).follow(model, z0, steps)[:-1]
    times = torch.arange(steps, dtype=z.dtype, device=z.device)[:, None].expand(z.shape[:-1])
    v, w = (gradient(model.flow_of(index).potential, z, times) for index in pair)
    sums = [(v * w).sum(-1).abs().sum(), (v.norm(dim=-1) * w.norm(dim=-1)).sum()]
    for restart in (False, True):
        one, other = (Switched(*p, restart).follow(model, z0, steps // 2 * 2)[-1] for p in (pair, pair[::-1]))
        ways = ((one - z0).norm(dim=-1) + (other - z0).norm(dim=-1)) / 2
        sums += [(one - other).norm(dim=-1).sum(), ways.sum()]
    return torch.stack(sums).cpu()


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
