"""The error of composed flows, which act at once, after one another, slower or backwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations, permutations
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from latentflow import FlowVAE, Trajectory
from latentflow.calculus.checks import check_count
from latentflow.flow import InversionError, LogDet
from latentflow_experiments.data import SequenceDataset, subsample
from latentflow_experiments.data.sequences import switched_states, turning_point, weighted_states
from latentflow_experiments.metrics.equivariance import sum_per_image
from latentflow_experiments.reports.tables import table


class CompositeFlow(Protocol):
    """A rule by which the latents of a composition move."""

    def follow(self, model: FlowVAE, z0: Tensor, steps: int) -> Tensor:
        """Move latents.

        Args:
            model: The model.
            z0: The latents of the first images, of shape ``(batch, dim)``.
            steps: The number of steps ``T``.

        Returns:
            The latents at all times, of shape ``(T+1, batch, dim)``.

        Raises:
            InversionError: If a flow by construction cannot be continued, as its paths have met.
        """

    def trajectories(self, model: FlowVAE, z0: Tensor, steps: int, log_det: LogDet | None) -> tuple[Trajectory, ...]:
        """Follow the flows of the composition, each from where the one before it has ended; folds are not reported.

        Args:
            model: The model.
            z0: The latents of the first images, of shape ``(batch, dim)``.
            steps: The number of steps ``T``.
            log_det: How to compute the log-determinant of a step, or None to leave it out.

        Returns:
            The trajectories. :meth:`follow` gives the latents of all of them; of a way back those of the last one.

        Raises:
            InversionError: If a flow by construction cannot be continued, as its paths have met.
        """


@dataclass(frozen=True)
class Superposed:
    r"""Potentials that act at once: :math:`z_{t+1} = z_t + \sum_i w_i \nabla u_i(z_t, t)`.

    Attributes:
        terms: The index in the bank and the weight of each potential; weights of the same one add.

    Example:
        >>> from latentflow import GaussianPrior, PotentialBank, QuadraticPotential
        >>> right, up = (QuadraticPotential(2, vector=direction) for direction in torch.eye(2))
        >>> bank = PotentialBank([right, up])
        >>> model = FlowVAE(torch.nn.Identity(), torch.nn.Identity(), bank, GaussianPrior(2), residual=None)
        >>> path = Superposed(((0, 1.0), (1, 0.5))).follow(model, torch.zeros(1, 2), steps=2)
        >>> assert path[:, 0].tolist() == [[0, 0], [1, 0.5], [2, 1]]
    """

    terms: tuple[tuple[int, float], ...]

    def follow(self, model: FlowVAE, z0: Tensor, steps: int) -> Tensor:
        """Follow the flow of the mixed potential."""
        return self.trajectories(model, z0, steps)[0].z

    def trajectories(
        self, model: FlowVAE, z0: Tensor, steps: int, log_det: LogDet | None = None
    ) -> tuple[Trajectory, ...]:
        """Follow the flow of the mixed potential; one trajectory."""
        weights = z0.new_zeros(len(model.bank))
        for index, weight in self.terms:
            weights[index] += weight
        flow = model.flow_of(model.bank.mix(weights))
        return (flow.rollout(z0, steps, log_det=log_det, on_fold="ignore"),)


@dataclass(frozen=True)
class Switched:
    r"""A potential that acts in the steps from times before :math:`T/2`, and another one that acts from then on.

    Attributes:
        first: The index in the bank of the potential that acts first.
        second: That of the other one.
        restart: Whether the second one reads the time since the switch; otherwise it reads the time as it is.

    Example:
        >>> from latentflow import GaussianPrior, PotentialBank, QuadraticPotential
        >>> right, up = (QuadraticPotential(2, vector=direction) for direction in torch.eye(2))
        >>> bank = PotentialBank([right, up])
        >>> model = FlowVAE(torch.nn.Identity(), torch.nn.Identity(), bank, GaussianPrior(2), residual=None)
        >>> path = Switched(0, 1, restart=False).follow(model, torch.zeros(1, 2), steps=3)
        >>> assert path[:, 0].tolist() == [[0, 0], [1, 0], [2, 0], [2, 1]]
    """

    first: int
    second: int
    restart: bool

    def follow(self, model: FlowVAE, z0: Tensor, steps: int) -> Tensor:
        """Follow one flow and then the other from where it ended."""
        before, after = self.trajectories(model, z0, steps)
        return torch.cat([before.z, after.z[1:]])

    def trajectories(
        self, model: FlowVAE, z0: Tensor, steps: int, log_det: LogDet | None = None
    ) -> tuple[Trajectory, ...]:
        """Follow one flow and then the other; two trajectories."""
        turn = turning_point(steps)
        before = model.flow_of(self.first).rollout(z0, turn, log_det=log_det, on_fold="ignore")
        start = 0 if self.restart else turn
        return before, _roll(model, before.z[-1], self.second, steps - turn, start, log_det=log_det)


@dataclass(frozen=True)
class Backwards:
    r"""The way back from the end :math:`z_T` of a flow: :math:`z_{t-1} = z_t - \nabla u(z_t, t)` for ``t = T, ..., 1``.

    This is Euler's scheme for the flow that runs back in time, not the inverse of the steps that led to :math:`z_T`, so
    that it ends at :math:`z_0` only where velocities do not change along a path.

    Attributes:
        potential: The index of the potential in the bank.

    Example:
        >>> from latentflow import GaussianPrior, PotentialBank, QuadraticPotential
        >>> right, up = (QuadraticPotential(2, vector=direction) for direction in torch.eye(2))
        >>> bank = PotentialBank([right, up])
        >>> model = FlowVAE(torch.nn.Identity(), torch.nn.Identity(), bank, GaussianPrior(2), residual=None)
        >>> path = Backwards(1).follow(model, torch.zeros(1, 2), steps=2)
        >>> assert path[:, 0].tolist() == [[0, 2], [0, 1], [0, 0]]
    """

    potential: int

    def follow(self, model: FlowVAE, z0: Tensor, steps: int) -> Tensor:
        """Follow the flow to its end, and give the way back."""
        return self.trajectories(model, z0, steps)[-1].z

    def trajectories(
        self, model: FlowVAE, z0: Tensor, steps: int, log_det: LogDet | None = None
    ) -> tuple[Trajectory, ...]:
        """Follow the flow to its end and back; two trajectories."""
        forth = model.flow_of(self.potential).rollout(z0, steps, log_det=log_det, on_fold="ignore")
        return forth, _roll(model, forth.z[-1], self.potential, steps, start=steps, dt=-1.0, log_det=log_det)


def _roll(
    model: FlowVAE, z: Tensor, index: int, steps: int, start: float, dt: float = 1.0, log_det: LogDet | None = None
) -> Trajectory:
    """Follow a flow from a point at another time than 0."""
    with torch.autocast(z.device.type, enabled=False):
        return model.flow_of(index).rollout(z, steps, start, dt, log_det, on_fold="ignore")


MANY = 4  # the most transformations of which all subsets are superposed


@dataclass(frozen=True, eq=False)
class Composition:
    """Transformations that act together, with what should come out.

    Attributes:
        name: What is composed.
        kinds: The transformations that take part.
        states: The state of each of all ``K`` transformations at each of ``times``, of shape ``(len(times), K)``.
        times: The places in the path of the frames that are compared, the first of them 0.
        flow: The rule by which the latents move.

    Example:
        >>> (half,) = half_strengths(["hue"], order=[0], steps=4, fractional=False)
        >>> assert half.times == (0, 2, 4) and half.frames == 2
        >>> assert half.states.tolist() == [[0], [1], [2]]
    """

    name: str
    kinds: tuple[int, ...]
    states: Tensor
    times: tuple[int, ...]
    flow: CompositeFlow

    @property
    def frames(self) -> int:
        """The number of frames that are compared, which the first is not."""
        return len(self.times) - 1


def switchings(names: Sequence[str], order: Sequence[int], steps: int) -> list[Composition]:
    """List the switches from each transformation to each other one, for both clocks.

    Args:
        names: The transformations.
        order: The index in the bank of the potential of each.
        steps: The number of steps ``T``.

    Returns:
        The ordered pairs, each with the clock that continues and then the one that restarts.

    Example:
        >>> first, *_ = switchings(("hue", "size"), order=(1, 0), steps=2)
        >>> assert first.name == "hue then size, continue" and first.flow == Switched(1, 0, restart=False)
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
    """List the superpositions of two and more transformations, all at their full speed.

    Args:
        names: The transformations.
        order: The index in the bank of the potential of each.
        steps: The number of steps ``T``.

    Returns:
        All subsets of up to four transformations; of more, whose subsets are too many, each two and all of them.

    Example:
        >>> pairs = superpositions("abc", order=(0, 1, 2), steps=1)
        >>> assert [c.name for c in pairs] == ["a + b", "a + c", "b + c", "a + b + c"]
        >>> assert pairs[0].states.tolist() == [[0, 0, 0], [1, 1, 0]]
        >>> assert [len(c.kinds) for c in superpositions("abcde", range(5), steps=1)] == [2] * 10 + [5]
    """
    count = len(names)
    sizes = range(2, count + 1) if count <= MANY else (2, count)
    subsets = [kinds for size in sizes for kinds in combinations(range(count), size)]
    return [
        _superposed(" + ".join(names[k] for k in kinds), kinds, 1.0, order, range(steps + 1), len(names))
        for kinds in subsets
    ]


def half_strengths(names: Sequence[str], order: Sequence[int], steps: int, *, fractional: bool) -> list[Composition]:
    r"""List the transformations at half their speed: state :math:`t/2` at time ``t``.

    Args:
        names: The transformations.
        order: The index in the bank of the potential of each.
        steps: The number of steps ``T``.
        fractional: Whether there is a truth between two states; otherwise every second time is compared.

    Returns:
        One composition for each transformation.

    Example:
        >>> hue, _ = half_strengths(("hue", "size"), order=(1, 0), steps=2, fractional=True)
        >>> assert hue.name == "half hue" and hue.flow == Superposed(((1, 0.5),))
        >>> assert hue.states.tolist() == [[0, 0], [0.5, 0], [1, 0]]
    """
    times = range(0, steps + 1, 1 if fractional else 2)
    return [_superposed(f"half {name}", (k,), 0.5, order, times, len(names)) for k, name in enumerate(names)]


def backwards(names: Sequence[str], order: Sequence[int], steps: int) -> list[Composition]:
    """List the ways back of all transformations, from state ``T`` to state 0.

    Args:
        names: The transformations.
        order: The index in the bank of the potential of each.
        steps: The number of steps ``T``.

    Returns:
        One composition for each transformation.

    Example:
        >>> _, size = backwards(("hue", "size"), order=(1, 0), steps=2)
        >>> assert size.name == "size backwards" and size.flow == Backwards(0)
        >>> assert size.states.tolist() == [[0, 2], [0, 1], [0, 0]]
    """
    forth = [
        _superposed(f"{name} backwards", (k,), 1.0, order, range(steps + 1), len(names)) for k, name in enumerate(names)
    ]
    return [replace(c, states=c.states.flip(0), flow=Backwards(order[k])) for k, c in enumerate(forth)]


def _superposed(
    name: str, kinds: tuple[int, ...], weight: float, order: Sequence[int], times: Sequence[int], known: int
) -> Composition:
    speeds = [weight * (k in kinds) for k in range(known)]
    flow = Superposed(tuple((order[k], weight) for k in kinds))
    return Composition(name, kinds, weighted_states(speeds, times), tuple(times), flow)


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
        ValueError: If ``order`` does not fit the data or the bank, there are less than 2 steps or no first images, or
            ``batch_size`` or ``limit`` is not a positive integer.

    Example:
        >>> from latentflow import DiffusionPrior, MLPDecoder, MLPEncoder, MLPPotential, PotentialBank
        >>> from latentflow_experiments.data import open_sequences
        >>> data = open_sequences("digits", "test")
        >>> bank = PotentialBank([MLPPotential(4, (8,)) for _ in data.names])
        >>> encoder, decoder = MLPEncoder(data.shape, 4), MLPDecoder(4, data.shape)
        >>> model = FlowVAE(encoder, decoder, bank, DiffusionPrior(4, fields=len(bank)), residual=None)
        >>> errors = measure_compositions(model, (0, 1, 2), data, limit=2)
        >>> error = errors["scaling + rotation"]
        >>> assert error is not None and error.images == 2 and error.frames == data.steps
    """
    check_order(model, order, data)
    names, steps = data.names, data.steps
    every = [
        *switchings(names, order, steps),
        *superpositions(names, order, steps),
        *half_strengths(names, order, steps, fractional=data.fractional),
        *backwards(names, order, steps),
    ]
    data = data.to(next(model.parameters()).device)
    with evaluating(model):
        return {
            c.name: _measure(model, data, c, batched_starts(data, c.kinds, limit, batch_size))
            for c in tqdm(every, unit="composition", desc="compositions")
        }


def composition_table(result: dict[str, CompositionError | None]) -> str:
    """Lay out the errors of compositions as a table in Markdown.

    Args:
        result: The errors by the name of the composition; None where paths have met.

    Returns:
        The table, a row for each composition.

    Example:
        >>> error = CompositionError(8.0, 0.5, 0.01, 20.0, 6.0, images=9, frames=4)
        >>> *_, last = composition_table({"hue + size": error}).splitlines()
        >>> assert [c.strip() for c in last.split("|")[1:4]] == ["hue + size", "8.00", "0.50"]
    """
    header = ("composition", "E", "s.e.", "static", "reconstruction", "E / (T P)", "T", "images")
    rows: list[tuple[str, ...]] = []
    for name, e in result.items():
        if e is None:
            rows.append((name, "paths meet", *[""] * 6))
            continue
        deviation = "" if e.output_standard_error is None else f"{e.output_standard_error:.2f}"
        sums = (f"{e.output:.2f}", deviation, f"{e.static:.2f}", f"{e.reconstruction:.2f}", f"{e.output_per_pixel:.5f}")
        rows.append((name, *sums, str(e.frames), str(e.images)))
    return table(header, rows, left=0)


def _measure(
    model: FlowVAE, data: SequenceDataset, composition: Composition, batches: Sequence[Tensor]
) -> CompositionError | None:
    output, static, reconstruction, frames = [], [], [], composition.frames
    for indices in batches:
        first, z0 = encode_first(model, data, indices)
        truth = data.composed(indices, composition.states)[:, 1:]
        try:
            path = composition.flow.follow(model, z0, data.steps)
        except InversionError:
            return None
        decoded = model.decode(path[list(composition.times)]).mean.transpose(0, 1)
        output.append(sum_per_image(decoded[:, 1:] - truth))
        static.append(sum_per_image(decoded[:, :1] - truth))
        reconstruction.append(frames * sum_per_image(model.decode(z0).mean - first[:, 0]))
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
