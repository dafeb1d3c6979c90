"""The log-likelihood of transformed images, by importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli, ContinuousBernoulli, Distribution, Independent
from torch.nn.functional import logsigmoid
from tqdm import tqdm

from latentflow.calculus.checks import check_count
from latentflow.vae import effective_sample_size, importance_weighted_bound
from latentflow.vae.importance import largest_weight_share
from latentflow_experiments.data import SequenceDataset, subsample
from latentflow_experiments.methods.proposals import Proposal, ProposalFoldError
from latentflow_experiments.reports.tables import table


class CeilingError(RuntimeError):
    """A likelihood lies above the largest one that its observation model allows."""


class Observation(Protocol):
    """Says what is seen of a frame, and how likely a decoder finds it."""

    @property
    def name(self) -> str:
        """The name, for tables."""

    def observe(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Return what is seen of frames in [0, 1], of the same shape; the generator lives on the CPU."""

    def log_prob(self, x: Tensor, distribution: Distribution) -> Tensor:
        """Compute the log-probability of what is seen, in nats.

        Args:
            x: What is seen, of shape ``(T, channels, height, width)``.
            distribution: The decoder's, of batch shape ``(S, T)``.

        Returns:
            The log-probability, of shape ``(S, T)``.
        """

    def ceiling(self, pixels: int) -> float | None:
        """Return the largest log-likelihood that an image of so many pixel values can have; None if not known."""


@dataclass(frozen=True)
class BinarizedBernoulli:
    r"""Frames with every pixel value drawn as 0 or 1, :math:`x_b \sim \mathrm{Bernoulli}(x)`, by a Bernoulli decoder.

    Grey values under a Bernoulli distribution have no normalized density; binary ones have a probability, at most 1.

    Example:
        >>> from latentflow.vae import BernoulliLikelihood
        >>> observation, frames = BinarizedBernoulli(), torch.rand(3, 1, 4, 4)
        >>> x = observation.observe(frames, torch.Generator().manual_seed(0))
        >>> decoded = BernoulliLikelihood()(torch.randn(7, 3, 1, 4, 4))
        >>> torch.testing.assert_close(observation.log_prob(x, decoded), decoded.log_prob(x))
    """

    name: str = "Bernoulli, binarized"

    def observe(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the pixels."""
        drawn: Tensor = torch.bernoulli(frames.cpu(), generator=generator)
        return drawn.to(frames.device)

    def log_prob(self, x: Tensor, distribution: Distribution) -> Tensor:
        r"""Compute :math:`\sum_i \log \sigma((2 x_i - 1)\,l_i)` with the logits :math:`l` of the decoder."""
        base = _base(distribution)
        if not isinstance(base, Bernoulli | ContinuousBernoulli):
            raise TypeError(f"distribution: expected a Bernoulli, got {type(base).__name__}")
        log_prob: Tensor = logsigmoid((2 * x - 1).flatten(-3) * base.logits.flatten(-3)).sum(-1)
        return log_prob

    def ceiling(self, pixels: int) -> float:  # noqa: ARG002 - the protocol's signature
        """Return 0: a probability is at most 1."""
        return 0.0


@dataclass(frozen=True)
class UnitGaussian:
    r"""Grey frames as normal variables of variance 1 around the mean picture, whatever the decoder was trained with.

    Example:
        >>> from latentflow.vae import BernoulliLikelihood
        >>> decoded = BernoulliLikelihood()(torch.zeros(7, 3, 1, 4, 4))
        >>> log_prob = UnitGaussian().log_prob(torch.ones(3, 1, 4, 4), decoded)
        >>> expected = UnitGaussian().ceiling(16) - 16 * 0.5**2 / 2
        >>> torch.testing.assert_close(log_prob, torch.full((7, 3), expected, dtype=torch.float64))
    """

    name: str = "Gaussian, variance 1"

    def observe(self, frames: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """Return the frames themselves."""
        return frames

    def log_prob(self, x: Tensor, distribution: Distribution) -> Tensor:
        r"""Compute :math:`-\tfrac12 |x - m|^2 - \tfrac P2 \log 2\pi` with the mean picture :math:`m`."""
        distance: Tensor = torch.linalg.vector_norm((distribution.mean - x).flatten(-3), dim=-1)
        return self.ceiling(distribution.event_shape.numel()) - distance.double().square() / 2

    def ceiling(self, pixels: int) -> float:
        r"""Return :math:`-\tfrac P2 \log 2\pi`, the density at the mean."""
        return -pixels / 2 * math.log(2 * math.pi)


@dataclass(frozen=True)
class AsTrained:
    """Grey frames under the decoder's own distribution, which has to be a density of grey values.

    Attributes:
        name: What the distribution is.
        highest: The largest log-likelihood of one pixel value, in nats, or None if it is not bounded or not known.
    """

    name: str
    highest: float | None = None

    def observe(self, frames: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG002 - nothing is drawn
        """Return the frames themselves."""
        return frames

    def log_prob(self, x: Tensor, distribution: Distribution) -> Tensor:
        """Compute the log-probability of the distribution."""
        if isinstance(_base(distribution), Bernoulli):
            raise TypeError("distribution: expected a density of grey values, got a Bernoulli; binarize the frames")
        log_prob: Tensor = distribution.log_prob(x)
        return log_prob

    def ceiling(self, pixels: int) -> float | None:
        """Multiply the largest log-likelihood of a pixel value by their number."""
        return None if self.highest is None else pixels * self.highest


def _base(distribution: Distribution) -> Distribution:
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


@dataclass(frozen=True)
class BoundEstimate:
    r"""The bound with :math:`S` samples for one transformation, in nats.

    Attributes:
        bound: :math:`E \log \tfrac1S \sum_s p(x_t | z^s) p_t(z^s) / r(z^s)`, the mean over images and :math:`t \ge 1`.
        standard_error: Its standard error over the images, infinite for a single one.
        per_time: The mean over the images at each time :math:`t = 1, \dots, T`.
        effective_samples: The effective sample size, averaged over images and times.
        largest_share: The largest share of a single sample in the weight of all, averaged over images and times.
        sequence: The bound of :math:`\log p(x_1, \dots, x_T)`, the mean over images; None where the model says nothing
            of frames together.
    """

    bound: float
    standard_error: float
    per_time: tuple[float, ...]
    effective_samples: float
    largest_share: float
    sequence: float | None


def estimate_bounds(
    log_weights: Tensor, log_ratios: Tensor, samples: Sequence[int], shared: bool | None
) -> dict[int, BoundEstimate]:
    """Estimate the bounds of the frames of some sequences and of the sequences.

    Args:
        log_weights: The log-weights, of shape ``(S, images, T)``, in nats.
        log_ratios: The part of them that is not the likelihood of the frame, of the same shape.
        samples: The numbers of samples of the bounds, each at most ``S``.
        shared: What the proposal says of it; see :class:`Proposal`.

    Returns:
        The bounds, by the number of samples.
    """
    estimates = {}
    together = (log_weights - log_ratios).sum(-1) + log_ratios[..., 0]
    for n in samples:
        bounds = importance_weighted_bound(log_weights, n)
        sequences = importance_weighted_bound(together, n) if shared else bounds.sum(1)
        estimates[n] = BoundEstimate(
            bound=float(bounds.mean()),
            standard_error=float(bounds.mean(1).std() / len(bounds) ** 0.5) if len(bounds) > 1 else math.inf,
            per_time=tuple(bounds.mean(0).tolist()),
            effective_samples=float(effective_sample_size(log_weights, n).mean()),
            largest_share=float(largest_weight_share(log_weights, n).mean()),
            sequence=None if shared is None else float(sequences.mean()),
        )
    return estimates


PIXELS = 2**22  # decoded at once: 16 MB, and a few temporaries of that size


DRAWN, BINARIZED = 0, 1  # two independent streams of randomness for each sequence


ALARM = 20.0  # nats; a right estimate sets the alarm off with a probability of at most exp(-20)


@dataclass(frozen=True)
class LogLikelihood:
    """The bounds of one transformation under one observation model.

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
    """The bounds of all transformations.

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
    observations: Sequence[Observation] = (BinarizedBernoulli(), UnitGaussian()),
    images: int = 50,
    samples: Sequence[int] = (1, 100, 1000),
    seed: int = 0,
    block: int = 100,
) -> LogLikelihoods:
    r"""Bound the log-likelihood of the frames :math:`x_1, \dots, x_T` of every transformation, each for itself.

    All numbers of samples share the draws of the largest, and all observation models share one decoding. The frames
    are binarized and the latents drawn from the seed and the number of the sequence, so that a sequence gives the same
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
        seen = [o.observe(frames[0, 1:], self._binarizing(start)) for o in self.observations]
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

    def _binarizing(self, start: int) -> torch.Generator:
        return source_of(torch.device("cpu"), self.seed, BINARIZED, self.k, start)

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
    header = (
        "observation",
        "transformation",
        *(f"S = {n}" for n in numbers),
        "s.e.",
        "ESS",
        "share",
        "ceiling",
        "folded",
    )
    rows: list[tuple[str, ...]] = []
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
    return f"{table(header, rows, left=0)}\n\n{result.images} images, T = {result.steps}"


def legacy_score(
    decode: Callable[[Tensor], Distribution],
    proposal_of_k: Callable[[int], Proposal],
    data: SequenceDataset,
    images: int = 50,
    seed: int = 0,
) -> float:
    r"""Compute the number that the paper's code reports as a log-likelihood, which it is not.

    .. math:: \frac1{KT} \sum_{k, t} E\big[\log N(x_t; m(z_t), I) + \log r(z_t) - \log p_t(z_t)\big]

    One sample and the wrong sign: the divergence of the proposal from the prior is added where a lower bound subtracts
    it. The score exceeds the evidence lower bound by twice that divergence, it grows without limit as the posterior
    moves away from the prior, and it can exceed :math:`-\tfrac P2 \log 2\pi`, the largest log-likelihood that a decoder
    of variance 1 can have. Two models cannot be compared by it.

    Args:
        decode: Maps latents ``(S, T, dim)`` to a distribution over images, in evaluation mode.
        proposal_of_k: Gives the proposal of a transformation.
        data: The sequences, on the device of the model.
        images: How many sequences of each transformation, at most; they are chosen from a fixed seed.
        seed: The seed.

    Returns:
        The score, in nats.

    Raises:
        ProposalFoldError: If a flow folds.
        ValueError: If ``images`` is not positive, or a split is empty.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), the columns of log-likelihoods
        | https://arxiv.org/abs/2309.13167
    """
    scores = []
    with torch.no_grad():
        for k, starts in enumerate(choose_sequences(data, images)):
            proposal = proposal_of_k(k)
            for start in starts:
                frames = data.sequence(torch.tensor([start]), k)
                z, log_ratio = proposal.draw(frames, 1, source_of(frames.device, seed, DRAWN, k, start))
                log_prob = UnitGaussian().log_prob(frames[0, 1:], decode(z[:, 1:, 0]))
                scores.append(float((log_prob.double() - log_ratio[:, 1:, 0].double()).mean()))
    return sum(scores) / len(scores)
