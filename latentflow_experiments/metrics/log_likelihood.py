r"""The log-likelihood of transformed images, by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution
from tqdm import tqdm

from latentflow.calculus import check_count
from latentflow_experiments.data import SequenceDataset, subsample
from latentflow_experiments.markdown import lay_out
from latentflow_experiments.metrics.bound_estimate import BoundEstimate, estimate_bounds
from latentflow_experiments.metrics.observations import BinarisedBernoulli, CeilingError, Observation, UnitGaussian
from latentflow_experiments.metrics.proposals import Proposal, ProposalFoldError

__all__ = ["LogLikelihood", "LogLikelihoods", "log_likelihood_table", "measure_log_likelihood"]

PIXELS = 2**22  # decoded at once: 16 MB, and a few temporaries of that size
DRAWN, BINARISED = 0, 1  # two independent streams of randomness for each sequence
ALARM = 20.0  # nats; a right estimate sets the alarm off with a probability of at most exp(-20)


@dataclass(frozen=True)
class LogLikelihood:
    """What was found for one transformation under one observation model.

    Attributes:
        estimates: The bounds, by the number of samples; None where the flow folds, since there is no bound then.
        ceiling: The largest value that the observation model allows, in nats; None if it is not known.
        folded: The share of samples with a step that folds.
    """

    estimates: dict[int, BoundEstimate] | None
    ceiling: float | None
    folded: float


@dataclass(frozen=True)
class LogLikelihoods:
    """What was found for all transformations.

    Attributes:
        transformations: By the name of the observation model, then by that of the transformation.
        average: The mean of the bounds over the transformations, by the name of the observation model, then by the
            number of samples; None where the flow of a transformation folds.
        sequence: The mean of the bounds of whole sequences, in the same way; None also where there are none.
        samples: The numbers of samples.
        images: The number of sequences of each transformation.
        steps: The number of steps ``T``.
    """

    transformations: dict[str, dict[str, LogLikelihood]]
    average: dict[str, dict[int, float] | None]
    sequence: dict[str, dict[int, float] | None]
    samples: tuple[int, ...]
    images: int
    steps: int


def measure_log_likelihood(
    decode: Callable[[Tensor], Distribution],
    proposal_of_k: Callable[[int], Proposal],
    data: SequenceDataset,
    observations: Sequence[Observation] = (BinarisedBernoulli(), UnitGaussian()),
    images: int = 50,
    samples: Sequence[int] = (1, 100, 1000),
    seed: int = 0,
    block: int = 100,
) -> LogLikelihoods:
    r"""Bound the log-likelihood of the frames :math:`x_1, \dots, x_T` of every transformation, each for itself.

    All numbers of samples share the draws of the largest, and all observation models share one decoding. The frames
    are binarised and the latents drawn from the seed and the number of the sequence, so that a sequence gives the same
    result in any selection, and all methods see the same binary frames. The proposal sees grey frames.

    Args:
        decode: Maps latents ``(S, T, dim)`` to a distribution over images, in evaluation mode.
        proposal_of_k: Gives the proposal of a transformation.
        data: The sequences, on the device of the model.
        observations: The observation models, of distinct names.
        images: How many sequences of each transformation, at most; they are chosen from a fixed seed.
        samples: The numbers ``S`` of samples.
        seed: The seed.
        block: How many samples of a sequence are drawn at once, which also decides on the draws.

    Returns:
        The bounds.

    Raises:
        CeilingError: If a likelihood is larger than its observation model allows, or a mean of bounds is so much larger
            that chance explains it with a probability of at most :math:`e^{-20}`: a density is wrong. A bound may
            exceed the ceiling by chance, since only the mean of a weight is a likelihood.
        ValueError: If there is no observation model, two have one name, a split is empty or a number is not positive.
        TypeError: If an observation model does not go with the decoder.
    """
    names = [observation.name for observation in observations]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"observations: expected models of distinct names, got {names}")
    if not samples:
        raise ValueError("samples: expected at least one number, got none")
    for n in samples:
        check_count("samples", n)
    check_count("block", block)
    starts = choose_sequences(data, images)
    count = len(starts[0])
    found: dict[str, dict[str, LogLikelihood]] = {name: {} for name in names}
    with torch.no_grad(), tqdm(total=len(starts) * count, unit="image", desc="log-likelihood") as bar:
        for k, transformation in enumerate(data.names):
            proposal = proposal_of_k(k)
            weigher = _Weigher(decode, proposal, data, k, observations, seed, block)
            weights, folded = [], 0.0
            for start in starts[k]:
                each, share = weigher.weigh(start, max(samples))
                weights.append(each)
                folded += share / count
                bar.update()
            for i, observation in enumerate(observations):
                ceiling = observation.ceiling(math.prod(data.shape))
                estimates = None
                if folded == 0:
                    log_weights, log_ratios = (torch.stack([each[row] for each in weights], 1) for row in (i, -1))
                    estimates = estimate_bounds(log_weights, log_ratios, samples, proposal.shares_latent)
                    _check_bounds(observation.name, transformation, estimates, ceiling, count)
                found[observation.name][transformation] = LogLikelihood(estimates, ceiling, folded)
    average, sequence = (
        {name: _average([one.estimates for one in each.values()], samples, field) for name, each in found.items()}
        for field in ("bound", "sequence")
    )
    return LogLikelihoods(found, average, sequence, tuple(samples), count, data.steps)


@dataclass(frozen=True)
class _Weigher:
    """Draws and weighs the samples of one sequence after another."""

    decode: Callable[[Tensor], Distribution]
    proposal: Proposal
    data: SequenceDataset
    k: int
    observations: Sequence[Observation]
    seed: int
    block: int

    def weigh(self, start: int, samples: int) -> tuple[Tensor, float]:
        """Weigh samples: log-weights ``(observations, S, T)`` and below them the log-ratios; void if a sample folds."""
        frames = self.data.sequence(torch.tensor([start]), self.k)
        source = source_of(frames.device, self.seed, DRAWN, self.k, start)
        seen = [o.observe(frames[0, 1:], self._binarising(start)) for o in self.observations]
        weights: list[Tensor] = []
        folded = 0.0
        for done in range(0, samples, self.block):
            drawn = min(self.block, samples - done)
            try:
                z, log_ratio = self.proposal.draw(frames, drawn, source)
            except ProposalFoldError as error:
                folded += error.share * drawn / samples
                continue
            if folded == 0:
                weights += self._decode(z[:, 1:, 0], log_ratio[:, 1:, 0].double(), seen)
        return torch.cat(weights, 1) if weights else torch.empty(0), folded

    def _binarising(self, start: int) -> torch.Generator:
        return source_of(torch.device("cpu"), self.seed, BINARISED, self.k, start)

    def _decode(self, z: Tensor, log_ratio: Tensor, seen: Sequence[Tensor]) -> Iterator[Tensor]:
        """Weigh latents ``(S, T, dim)``, as many at a time as there is memory for."""
        pixels = seen[0][0].numel()
        size = max(1, PIXELS // (pixels * z.shape[1]))
        rounding = 64 * torch.finfo(z.dtype).eps * pixels
        for latents, ratios in zip(torch.split(z, size), torch.split(log_ratio, size), strict=True):
            distribution = self.decode(latents)
            rows = []
            for observation, x in zip(self.observations, seen, strict=True):
                log_prob, ceiling = observation.log_prob(x, distribution).double(), observation.ceiling(pixels)
                if ceiling is not None and not (log_prob <= ceiling + rounding).all():
                    raise CeilingError(
                        f"{observation.name}: expected log p(x | z) of at most {ceiling:.2f}, got {log_prob.max():.2f}"
                    )
                rows.append((log_prob + ratios).cpu())
            yield torch.stack([*rows, ratios.cpu()])


def source_of(device: torch.device, *key: int) -> torch.Generator:
    """Make a generator of its own for a key.

    Args:
        device: Where it draws.
        *key: Integers of at least 0.

    Returns:
        The generator.
    """
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed)


def _check_bounds(
    observation: str, transformation: str, estimates: dict[int, BoundEstimate], ceiling: float | None, images: int
) -> None:
    """Refuse bounds above the ceiling: for ``n`` images, P(mean - log p >= s) <= exp(-n s) by Markov's inequality."""
    for n, estimate in estimates.items():
        highest = max(estimate.per_time)
        if ceiling is not None and not highest <= ceiling + ALARM / images + 1e-5 * abs(ceiling):
            raise CeilingError(
                f"{observation}, {transformation}: expected a bound of at most {ceiling:.2f} with {n} samples, "
                f"got {highest:.2f}: the density of the prior or of the proposal is wrong"
            )


def _average(
    each: Sequence[dict[int, BoundEstimate] | None], samples: Sequence[int], field: str
) -> dict[int, float] | None:
    means = {}
    for n in samples:
        values = [None if estimates is None else getattr(estimates[n], field) for estimates in each]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        means[n] = sum(known) / len(known)
    return means


def choose_sequences(data: SequenceDataset, images: int) -> list[list[int]]:
    """Choose as many sequences of every transformation, always the same ones.

    Args:
        data: The sequences.
        images: How many of each transformation, at most.

    Returns:
        The indices of the first images, by transformation.

    Raises:
        ValueError: If ``images`` is not positive, or a split is empty.
    """
    check_count("images", images)
    starts = [data.starts(k) for k in range(len(data.names))]
    count = min(images, *map(len, starts))
    if count == 0:
        raise ValueError("data: expected sequences of every transformation, got none of some")
    return [subsample(each, count).tolist() for each in starts]


def log_likelihood_table(result: LogLikelihoods) -> str:
    """Lay out the bounds as a table for the terminal, in Markdown."""
    numbers = result.samples
    header = ("observation", "transformation", *(f"S = {n}" for n in numbers), "s.e.", "ESS", "share")
    rows: list[tuple[str, ...]] = [(*header, "ceiling", "folded")]
    for observation, each in result.transformations.items():
        for transformation, one in each.items():
            ceiling = "" if one.ceiling is None else f"{one.ceiling:.2f}"
            cells = [""] * (len(numbers) + 3)
            if one.estimates is not None:
                last = one.estimates[max(numbers)]
                cells = [f"{one.estimates[n].bound:.2f}" for n in numbers]
                cells += [f"{last.standard_error:.2f}", f"{last.effective_samples:.1f}", f"{last.largest_share:.3f}"]
            rows.append((observation, transformation, *cells, ceiling, f"{100 * one.folded:.1f} %"))
        average = result.average[observation]
        means = [""] * len(numbers) if average is None else [f"{average[n]:.2f}" for n in numbers]
        rows.append((observation, "average", *means, "", "", "", "", ""))
        sequence = result.sequence[observation]
        if sequence is not None:
            rows.append(
                (observation, "sequence / T", *(f"{sequence[n] / result.steps:.2f}" for n in numbers), *[""] * 5)
            )
    return f"{lay_out(rows)}\n\n{result.images} images, T = {result.steps}"
