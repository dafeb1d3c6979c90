"""How well flows compose: the error of flows that act after one another, at once, slower or backwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from latentflow import FlowVAE, InversionError, gradient
from latentflow.experiments.data import SequenceDataset, subsample
from latentflow.experiments.data.composed import switched_states, turning_point, weighted_states
from latentflow.experiments.markdown import lay_out

LIMIT = 1_000  # first images of each composition


class Drive(Protocol):
    """What moves the latents of a composition."""

    def path(self, model: FlowVAE, z0: Tensor, steps: int) -> Tensor:
        """Move latents.

        Args:
            model: The model.
            z0: The latents of the first images, of shape ``(batch, dim)``.
            steps: The number of steps ``T``.

        Returns:
            The latents of the frames, of shape ``(T+1, batch, dim)``.
        """


@dataclass(frozen=True)
class Together:
    r"""Potentials that act at once: :math:`z_{t+1} = z_t + \sum_i w_i \nabla u_i(z_t, t)`.

    Attributes:
        terms: The index in the bank and the weight of each potential.
    """

    terms: tuple[tuple[int, float], ...]

    def path(self, model: FlowVAE, z0: Tensor, steps: int) -> Tensor:
        """Follow the flow of the mixed potential."""
        weights = z0.new_zeros(len(model.bank))
        for index, weight in self.terms:
            weights[index] += weight
        return model.flow(z0, model.bank.mix(weights), steps).z


@dataclass(frozen=True)
class Switched:
    r"""A potential that acts in the steps from times before :math:`T/2`, and another one that acts from then on.

    Attributes:
        first: The index in the bank of the potential that acts first.
        second: That of the other one.
        restart: Whether the second one reads the time since the switch; otherwise it reads the time as it is.
    """

    first: int
    second: int
    restart: bool

    def path(self, model: FlowVAE, z0: Tensor, steps: int) -> Tensor:
        """Follow one flow and then the other from where it ended."""
        turn = turning_point(steps)
        before = model.flow(z0, self.first, turn).z
        after = _roll(model, before[-1], self.second, steps - turn, start=0 if self.restart else turn)
        return torch.cat([before, after[1:]])


@dataclass(frozen=True)
class Backwards:
    r"""The way back from the end :math:`z_T` of a flow: :math:`z_{t-1} = z_t - \nabla u(z_t, t)` for ``t = T, ..., 1``.

    This is Euler's scheme for the flow that runs back in time, not the inverse of the steps that led to :math:`z_T`, so
    that it ends at :math:`z_0` only where velocities do not change along a path.

    Attributes:
        potential: The index of the potential in the bank.
    """

    potential: int

    def path(self, model: FlowVAE, z0: Tensor, steps: int) -> Tensor:
        """Follow the flow to its end, and give the way back."""
        end = model.flow(z0, self.potential, steps).z[-1]
        return _roll(model, end, self.potential, steps, start=steps, dt=-1.0)


@dataclass(frozen=True, eq=False)
class Composition:
    """Transformations that act together, with what should come out.

    Attributes:
        name: What is composed.
        kinds: The transformations that take part.
        states: The state of each transformation at each time of ``times``, of shape ``(frames, K)``.
        times: The places in the path of the frames that are compared, the first of them 0.
        drive: What moves the latents.
    """

    name: str
    kinds: tuple[int, ...]
    states: Tensor
    times: tuple[int, ...]
    drive: Drive

    @property
    def frames(self) -> int:
        """The number of frames that are compared."""
        return len(self.times) - 1


@dataclass(frozen=True)
class CompositionError:
    r"""The errors of a composition, each the mean over images of a sum over its frames but the first.

    Attributes:
        output: :math:`E = \sum_t |x_t - \mathrm{Dec}(z_t)|_1` over pixels and channels in [0, 1].
        output_standard_error: The standard error of that mean over the images; None for a single image.
        output_per_pixel: ``output`` divided by the frames of the sum and the pixel values of an image.
        static: ``output`` for a latent that stays where the path starts.
        reconstruction: The reference :math:`|x_0 - \mathrm{Dec}(\mu(x_0))|_1` for the first image, once for each frame
            of the sum.
        images: The number of first images.
        frames: The number of frames of the sum: ``T``, or every second one where only those have a truth.
    """

    output: float
    output_standard_error: float | None
    output_per_pixel: float
    static: float
    reconstruction: float
    images: int
    frames: int


@dataclass(frozen=True)
class Interaction:
    r"""How much two flows are in each other's way.

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


def switchings(names: Sequence[str], order: Sequence[int], steps: int) -> list[Composition]:
    """List the switches from each transformation to each other one, for both clocks.

    Args:
        names: The transformations.
        order: The index in the bank of the potential of each.
        steps: The number of steps ``T``.

    Example:
        >>> first, *_ = switchings(("hue", "size"), order=(1, 0), steps=2)
        >>> assert first.name == "hue then size, continue" and first.drive == Switched(1, 0, restart=False)
        >>> assert first.states.tolist() == [[0, 0], [1, 0], [1, 1]]
    """
    return [
        Composition(
            f"{names[j]} then {names[k]}, {'restart' if restart else 'continue'}",
            (j, k),
            switched_states(j, k, len(names), steps),
            tuple(range(steps + 1)),
            Switched(order[j], order[k], restart),
        )
        for j, k in permutations(range(len(names)), 2)
        for restart in (False, True)
    ]


def superpositions(names: Sequence[str], order: Sequence[int], steps: int) -> list[Composition]:
    """List the superpositions of all two and more transformations; for the arguments see :func:`switchings`."""
    subsets = [kinds for size in range(2, len(names) + 1) for kinds in combinations(range(len(names)), size)]
    return [
        _together(" + ".join(names[k] for k in kinds), kinds, 1.0, order, range(steps + 1), len(names))
        for kinds in subsets
    ]


def half_strengths(names: Sequence[str], order: Sequence[int], steps: int, *, fractional: bool) -> list[Composition]:
    r"""List the transformations at half their speed: state :math:`t/2` at time ``t``.

    Args:
        names: The transformations.
        order: The index in the bank of the potential of each.
        steps: The number of steps ``T``.
        fractional: Whether there is a truth between two states; otherwise every second time is compared.
    """
    times = range(0, steps + 1, 1 if fractional else 2)
    return [_together(f"half {name}", (k,), 0.5, order, times, len(names)) for k, name in enumerate(names)]


def backwards(names: Sequence[str], order: Sequence[int], steps: int) -> list[Composition]:
    """List the ways back of all transformations; for the arguments see :func:`switchings`."""
    forth = [
        _together(f"{name} backwards", (k,), 1.0, order, range(steps + 1), len(names)) for k, name in enumerate(names)
    ]
    return [replace(c, states=c.states.flip(0), drive=Backwards(order[k])) for k, c in enumerate(forth)]


def measure_compositions(
    model: FlowVAE, order: tuple[int, ...], data: SequenceDataset, batch_size: int = 250, limit: int = LIMIT
) -> dict[str, CompositionError | None]:
    r"""Measure compositions of all kinds: switches, superpositions, half strengths and ways back.

    The latent starts at the mean of the posterior of the first image, :math:`z_0 = \mu(x_0)`.

    Args:
        model: The model; it is used in evaluation mode and left in the mode that it was in.
        order: The index in the bank of the potential of each transformation.
        data: The sequences, with at least 2 steps.
        batch_size: Sequences in a batch; it changes the result by roundoff only.
        limit: The number of first images of a composition, at most; of more, so many are drawn from a fixed seed.

    Returns:
        The errors by the name of the composition; None where a flow cannot be continued, as paths have met.

    Raises:
        ValueError: If ``order`` does not fit the data or the bank, or there are less than 2 steps or no first images.
    """
    _check(model, order, data)
    names, steps = data.names, data.steps
    every = [
        *switchings(names, order, steps),
        *superpositions(names, order, steps),
        *half_strengths(names, order, steps, fractional=data.fractional),
        *backwards(names, order, steps),
    ]
    data = data.to(next(model.parameters()).device)
    with _evaluating(model):
        return {
            c.name: _measure(model, data, c, _starts(data, c.kinds, limit, batch_size))
            for c in tqdm(every, unit="composition", desc="compositions")
        }


def measure_interactions(
    model: FlowVAE, order: tuple[int, ...], data: SequenceDataset, batch_size: int = 250, limit: int = LIMIT
) -> dict[str, Interaction | None]:
    """Measure how much each two flows are in each other's way; see :func:`measure_compositions`.

    The ends of two orders are compared after as many steps of each flow, ``T // 2`` of them.
    """
    _check(model, order, data)
    data = data.to(next(model.parameters()).device)
    pairs = list(combinations(range(len(data.names)), 2))
    with _evaluating(model):
        return {
            f"{data.names[j]}, {data.names[k]}": _interact(
                model, data, (order[j], order[k]), _starts(data, (j, k), limit, batch_size)
            )
            for j, k in tqdm(pairs, unit="pair", desc="interactions")
        }


def composition_table(result: dict[str, CompositionError | None]) -> str:
    """Lay out the errors of compositions as a table in Markdown."""
    rows: list[tuple[str, ...]] = [("composition", "E", "s.e.", "static", "reconstruction", "E / (T P)", "T", "images")]
    for name, e in result.items():
        if e is None:
            rows.append((name, "paths meet", *[""] * 6))
            continue
        deviation = "" if e.output_standard_error is None else f"{e.output_standard_error:.2f}"
        sums = (f"{e.output:.2f}", deviation, f"{e.static:.2f}", f"{e.reconstruction:.2f}", f"{e.output_per_pixel:.5f}")
        rows.append((name, *sums, str(e.frames), str(e.images)))
    return lay_out(rows)


def interaction_table(result: dict[str, Interaction | None]) -> str:
    """Lay out the interactions of flows as a table in Markdown."""
    header = ("pair", "E|v_j . v_k|", "of E|v_j||v_k|", "commutator, continue", "commutator, restart")
    rows: list[tuple[str, ...]] = [header]
    for name, i in result.items():
        if i is None:
            rows.append((name, "paths meet", *[""] * 3))
            continue
        shares = (i.cross_relative, i.commutator_continue, i.commutator_restart)
        rows.append((name, f"{i.cross_term:.4g}", *(f"{share:.4f}" for share in shares)))
    return lay_out(rows)


def _together(
    name: str, kinds: tuple[int, ...], weight: float, order: Sequence[int], times: Sequence[int], known: int
) -> Composition:
    speeds = [weight * (k in kinds) for k in range(known)]
    drive = Together(tuple((order[k], weight) for k in kinds))
    return Composition(name, kinds, weighted_states(speeds, times), tuple(times), drive)


def _roll(model: FlowVAE, z: Tensor, index: int, steps: int, start: float, dt: float = 1.0) -> Tensor:
    """Follow a flow from a point at another time than 0."""
    with torch.autocast(z.device.type, enabled=False):
        return model.dynamics(model.potential(index)).rollout(z, steps, start=start, dt=dt, volume=None).z


def _check(model: FlowVAE, order: tuple[int, ...], data: SequenceDataset) -> None:
    if len(order) != len(data.names) or not set(order) <= set(range(len(model.bank))):
        expected = f"{len(data.names)} indices from 0 to {len(model.bank) - 1}"
        raise ValueError(f"order: expected {expected}, got {order}")
    if data.steps < 2:
        raise ValueError(f"data: expected at least 2 steps, to switch between them, got {data.steps}")


@contextmanager
def _evaluating(model: FlowVAE) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _starts(data: SequenceDataset, kinds: tuple[int, ...], limit: int, batch_size: int) -> tuple[Tensor, ...]:
    """Choose the first images of a composition, in batches."""
    starts = subsample(data.composed_starts(kinds), limit)
    if not len(starts):
        raise ValueError(f"data: expected images of {', '.join(data.names[k] for k in kinds)}, got none")
    return torch.split(starts, batch_size)


def _encode_first(model: FlowVAE, data: SequenceDataset, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Read first images ``(b, 1, channels, height, width)``, and infer their latents."""
    first = data.composed(indices, torch.zeros(1, len(data.names)))
    return first, model.encode(first[:, 0]).mean


def _measure(
    model: FlowVAE, data: SequenceDataset, composition: Composition, batches: Sequence[Tensor]
) -> CompositionError | None:
    output, static, reconstruction, frames = [], [], [], composition.frames
    for indices in batches:
        first, z0 = _encode_first(model, data, indices)
        truth = data.composed(indices, composition.states)[:, 1:]
        try:
            path = composition.drive.path(model, z0, data.steps)
        except InversionError:
            return None
        decoded = model.decode(path[list(composition.times)]).mean.transpose(0, 1)
        output.append(_per_image(decoded[:, 1:] - truth))
        static.append(_per_image(decoded[:, :1] - truth))
        reconstruction.append(frames * _per_image(model.decode(z0).mean - first[:, 0]))
    errors = torch.cat(output)
    count = len(errors)
    return CompositionError(
        output=float(errors.mean()),
        output_standard_error=float(errors.std() / count**0.5) if count > 1 else None,
        output_per_pixel=float(errors.mean() / (frames * first[0].numel())),
        static=float(torch.cat(static).mean()),
        reconstruction=float(torch.cat(reconstruction).mean()),
        images=count,
        frames=frames,
    )


def _per_image(difference: Tensor) -> Tensor:
    return difference.abs().flatten(1).sum(1, dtype=torch.float64).cpu()


def _interact(
    model: FlowVAE, data: SequenceDataset, pair: tuple[int, int], batches: Sequence[Tensor]
) -> Interaction | None:
    try:
        sums = torch.stack(
            [_interact_batch(model, _encode_first(model, data, i)[1], pair, data.steps) for i in batches]
        )
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
    z = Together(((first, 1.0), (second, 1.0))).path(model, z0, steps)[:-1]
    times = torch.arange(steps, dtype=z.dtype, device=z.device)[:, None].expand(z.shape[:-1])
    v, w = (gradient(model.dynamics(model.potential(index)).potential, z, times) for index in pair)
    sums = [(v * w).sum(-1).abs().sum(), (v.norm(dim=-1) * w.norm(dim=-1)).sum()]
    for restart in (False, True):
        one, other = (Switched(*p, restart).path(model, z0, steps // 2 * 2)[-1] for p in (pair, pair[::-1]))
        ways = ((one - z0).norm(dim=-1) + (other - z0).norm(dim=-1)) / 2
        sums += [(one - other).norm(dim=-1).sum(), ways.sum()]
    return torch.stack(sums).cpu()


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
