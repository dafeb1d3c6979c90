"""Lower bounds of the likelihood, and their averages over labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from latentflow.calculus import Field, PositiveParameter
from latentflow.calculus.checks import (
    check_count,
    check_generator,
    check_methods,
    check_points,
    check_positive,
    check_steps,
    check_tensor,
)
from latentflow.flow import Flow, LogDet, OnFold, SlogDet, Trajectory
from latentflow.potentials import PotentialBank
from latentflow.priors import DiffusedPrior, Prior


def reparameterized_sample(distribution: Distribution, generator: torch.Generator | None = None) -> Tensor:
    """Draw one sample through which gradients flow.

    A generator needs a (possibly independent) normal distribution, since torch.distributions take none; others raise a
    TypeError.
    """
    if generator is None:
        return distribution.rsample()
    base = distribution
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, Normal):
        raise TypeError(f"generator: expected None for a {type(base).__name__}, whose rsample takes none, got one")
    noise = torch.randn(base.loc.shape, generator=generator, dtype=base.loc.dtype, device=base.loc.device)
    return base.loc + base.scale * noise


def estimate_divergence(posterior: Distribution, prior: Distribution, z: Tensor) -> Tensor:
    r"""Compute :math:`KL(q \| p)` ``(*batch,)`` in nats: in closed form, or else from the sample ``z``."""
    if isinstance(prior, Distribution) and posterior.event_shape != prior.event_shape:  # a closed form would broadcast
        raise ValueError(
            f"prior: expected events of shape {tuple(posterior.event_shape)}, as those of the posterior, "
            f"got {tuple(prior.event_shape)}"
        )
    try:
        return kl_divergence(posterior, prior)
    except NotImplementedError:  # what torch raises for a pair without a closed form, and its only way to say so
        log_q: Tensor = posterior.log_prob(z)
        return log_q - prior.log_prob(z)


def sample_diffusivity(prior: Prior, k: Tensor) -> Tensor:
    """Return the coefficients :math:`D_k` of fields ``k``, ``(*batch,)``; raise a TypeError if the prior has none."""
    if not isinstance(prior, DiffusedPrior):
        raise TypeError(f"prior: expected one that diffuses, such as DiffusionPrior, got {type(prior).__name__}")
    return prior.diffusivity[k if len(prior.diffusivity) > 1 else torch.zeros_like(k)]


class Bound(Protocol):
    """A lower bound of the likelihood: the trajectory of the posterior, and its divergence from the prior."""

    @property
    def log_det(self) -> LogDet | None:
        """The log-determinant that :meth:`divergence` needs, or None."""

    @property
    def uses_future_frames(self) -> bool:
        """Whether :meth:`rollout` needs the means of the encoder for the later frames."""

    def rollout(
        self,
        flow: Flow,
        z0: Tensor,
        steps: int,
        future: Tensor | None = None,
        generator: torch.Generator | None = None,
        on_fold: OnFold | None = None,
    ) -> Trajectory:
        r"""Draw the trajectory of the posterior.

        Args:
            flow: The flow.
            z0: The first points, of shape ``(*batch, dim)``.
            steps: The number of steps ``T``.
            future: The means of the encoder for the frames :math:`x_1, \dots, x_T`, of a shape that broadcasts to
                ``(T, *batch, dim)``; None for a bound without them.
            generator: The source of randomness.
            on_fold: See :meth:`Flow.follow`.

        Returns:
            The trajectory, with ``steps + 1`` points.
        """

    def divergence(self, posterior: Distribution, trajectory: Trajectory, prior: Prior, k: Tensor) -> Tensor:
        """Estimate the divergence of the posterior from the prior at each time of the trajectory.

        Args:
            posterior: The distribution :math:`q(z_0 | x_0)`, of batch shape ``(*batch,)``.
            trajectory: The trajectory of a sample of it.
            prior: The prior.
            k: The transformation of each sample, of shape ``(*batch,)``.

        Returns:
            The divergences or unbiased estimates of them, of shape ``(T+1, *batch)``, in nats.
        """


class DeterministicBound:
    """A bound with a posterior that follows the flow without noise, from the first frame alone."""

    @property
    def log_det(self) -> LogDet | None:
        """The log-determinant that the divergence needs, or None."""

    @property
    def uses_future_frames(self) -> bool:
        """Return False, since the posterior depends on the first frame only."""
        return False

    def rollout(
        self,
        flow: Flow,
        z0: Tensor,
        steps: int,
        future: Tensor | None = None,  # noqa: ARG002 - from the first frame alone
        generator: torch.Generator | None = None,  # noqa: ARG002 - not random
        on_fold: OnFold | None = None,
    ) -> Trajectory:
        """Follow the flow from ``z0``, of shape ``(*batch, dim)``."""
        check_points(z0, name="z0")
        check_methods("flow", flow, ("rollout",), "a Flow")
        return flow.rollout(z0, steps, log_det=self.log_det, on_fold=on_fold)


@dataclass(frozen=True)
class MarginalBound(DeterministicBound):
    r"""Match the marginals at every time: :math:`\sum_t E[\log p(x_t | z_t)] - KL(q_t \| p_t)`.

    The posterior density follows the flow, :math:`\log q_t(z_t) = \log q(z_0 | x_0) - \log|\det|`. At the first time
    the divergence has a closed form between normal distributions; at later times the sample estimates it. Each summand
    is a lower bound of :math:`\log p_t(x_t)` while the steps are invertible and the log-determinant is exact; the sum
    is a composite likelihood, not a bound of :math:`\log p(x_0, \dots, x_T)`.

    Attributes:
        log_det: The log-determinant of a step.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 6
        | https://arxiv.org/abs/2309.13167
    """

    log_det: LogDet = SlogDet()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        check_methods("log_det", self.log_det, ("request", "determinant"), "SlogDet() or another LogDet")

    def divergence(self, posterior: Distribution, trajectory: Trajectory, prior: Prior, k: Tensor) -> Tensor:
        r"""Compute :math:`KL(q_0 \| p_0)`, then :math:`\log q_t(z_t) - \log p_t(z_t)`, of shape ``(T+1, *batch)``."""
        if trajectory.log_det is None:
            raise ValueError("trajectory: expected a trajectory with log_det, got one without")
        first = first_divergence(posterior, trajectory, prior, k).unsqueeze(0)
        if len(trajectory.times) == 1:
            return first
        log_q: Tensor = posterior.log_prob(trajectory.z[0]) - trajectory.log_det[1:]
        times = trajectory.times[1:].reshape(-1, *(1,) * k.ndim)
        log_p: Tensor = prior(t=times, k=k).log_prob(trajectory.z[1:])
        return torch.cat([first, log_q - log_p])


@dataclass(frozen=True)
class JointBound(DeterministicBound):
    r"""Bound the whole sequence: :math:`\sum_t E[\log p(x_t | z_t)] - KL(q_0 \| p_0) \le \log p(x_0, \dots, x_T | k)`.

    Model and posterior share the deterministic flow, so the divergence of the first latents is the divergence at every
    time, without a Jacobian.
    """

    @property
    def log_det(self) -> None:
        """None: the divergence is invariant under a flow that both distributions share."""

    def divergence(self, posterior: Distribution, trajectory: Trajectory, prior: Prior, k: Tensor) -> Tensor:
        r"""Compute :math:`KL(q_0 \| p_0)` at the first time and zero after it, of shape ``(T+1, *batch)``."""
        first = first_divergence(posterior, trajectory, prior, k).unsqueeze(0)
        return torch.cat([first, first.new_zeros(len(trajectory.times) - 1, *first.shape[1:])])


def first_divergence(posterior: Distribution, trajectory: Trajectory, prior: Prior, k: Tensor) -> Tensor:
    r"""Estimate the divergence :math:`KL(q(z_0 | x_0) \| p_0)` at the start of a trajectory, ``(*batch,)``, in nats."""
    return estimate_divergence(posterior, prior(t=trajectory.times[0], k=k), trajectory.z[0]).expand(
        trajectory.z.shape[1:-1]
    )


GAIN = 0.1  # the initial gain of a smoothing posterior


@dataclass(frozen=True)
class StochasticTrajectory(Trajectory):
    """A trajectory with noise.

    Attributes:
        drift: The mean displacement of each step, of shape ``(T, *batch, dim)``.
    """

    drift: Tensor | None = None


class StochasticBound(nn.Module):
    r"""Bound a sequence of latents that flow and diffuse; its divergence contains the action of Benamou and Brenier.

    With unit steps prior and posterior are

    .. math::
        p(z_{t+1} | z_t) = N(z_t, 2 D_k I), \qquad
        q(z_{t+1} | z_t) = N(z_t + m_t, 2 D_q I), \qquad m_t = \nabla u_k(z_t, t),

    so the divergence of a step is, with :math:`r = D_q / D_k`,

    .. math:: KL_t = \frac{|m_t|^2}{4 D_k} + \frac{d}{2} (r - 1 - \log r).

    The sum of the reconstructions less :math:`KL(q_0 \| p_0) + \sum_t KL_t` is a lower bound of
    :math:`\log p(x_0, \dots, x_T | k)`; the best :math:`D_k` is :math:`D_q + E|m|^2 / (2 d)`. The prior is a
    :class:`DiffusedPrior` with the coefficients :math:`D_k`. A smoothing posterior also depends on the later frames, by
    the mean :math:`\mu(x_{t+1})` of the encoder and a learnable gain :math:`g \in (0, 1)` for each coordinate:
    :math:`m_t = \nabla u + g (\mu(x_{t+1}) - z_t - \nabla u)`.

    Args:
        dim: The number of latent coordinates, for a smoothing posterior; None for a posterior of the first frame alone.
        diffusion: The initial value of the learnable coefficient :math:`D_q`, positive, in length squared per time.

    Raises:
        ValueError: If ``diffusion`` is not positive.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), section 3 and its limitations
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import QuadraticPotential, PotentialFlow
        >>> still = PotentialFlow(QuadraticPotential(3))
        >>> trajectory = StochasticBound(diffusion=0.5).rollout(still, torch.zeros(1000, 3), steps=4)
        >>> assert abs(trajectory.z[-1].var() - 4 * 2 * 0.5) < 0.5  # a random walk
    """

    def __init__(self, dim: int | None = None, diffusion: float = 1e-2) -> None:
        super().__init__()
        if dim is not None:
            check_count("dim", dim)
        check_positive("diffusion", diffusion)
        self._diffusion = PositiveParameter(diffusion)
        gain = torch.full(() if dim is None else (dim,), GAIN).logit()
        self.raw_gain = None if dim is None else nn.Parameter(gain)

    @property
    def diffusion(self) -> Tensor:
        """The coefficient :math:`D_q` of the posterior, of shape ``()``."""
        diffusion: Tensor = self._diffusion()
        return diffusion

    @property
    def gain(self) -> Tensor | None:
        """The gain of a smoothing posterior, of shape ``(dim,)``; None for others."""
        return None if self.raw_gain is None else self.raw_gain.sigmoid()

    @property
    def log_det(self) -> None:
        """None: the density of a step is normal."""

    @property
    def uses_future_frames(self) -> bool:
        """Whether the posterior depends on the later frames."""
        return self.raw_gain is not None

    def rollout(
        self,
        flow: Flow,
        z0: Tensor,
        steps: int,
        future: Tensor | None = None,
        generator: torch.Generator | None = None,
        on_fold: OnFold | None = None,  # noqa: ARG002 - noise spreads a fold: there is none to report
    ) -> StochasticTrajectory:
        """Draw a trajectory of the posterior; see :class:`Bound`."""
        check_methods("flow", flow, ("rollout",), "a Flow")
        check_points(z0, name="z0")
        check_steps("steps", steps)
        check_generator(generator)
        if self.uses_future_frames and future is None:
            raise ValueError("future: expected the encoder's means of the later frames, got None")
        if future is not None:
            check_tensor("future", future, (steps, "*batch", "dim"))
        z, drifts, actions = [z0], [], [z0.new_zeros(z0.shape[:-1])]
        for n in range(steps):
            step = flow.rollout(z[-1], 1, start=float(n), log_det=None)
            drift = step.z[1] - step.z[0]
            if future is not None and self.gain is not None:
                drift = drift + self.gain * (future[n] - step.z[1])
            noise = standard_normal_like(drift, generator)
            z.append(z[-1] + drift + (2 * self.diffusion).sqrt() * noise)
            drifts.append(drift)
            actions.append(actions[-1] + step.action[1])
        times = torch.arange(steps + 1, dtype=z0.dtype, device=z0.device)
        drift = torch.stack(drifts) if drifts else z0.new_zeros((0, *z0.shape))
        return StochasticTrajectory(times, torch.stack(z), None, torch.stack(actions), drift=drift)

    def divergence(self, posterior: Distribution, trajectory: Trajectory, prior: Prior, k: Tensor) -> Tensor:
        r"""Compute :math:`KL(q_0 \| p_0)` at the first time and :math:`KL_t` after it, of shape ``(T+1, *batch)``."""
        if not isinstance(trajectory, StochasticTrajectory) or trajectory.drift is None:
            raise TypeError(f"trajectory: expected one of this bound's own, got {type(trajectory).__name__}")
        diffusivity = sample_diffusivity(prior, k)
        ratio = self.diffusion / diffusivity
        spread = trajectory.z.shape[-1] / 2 * (ratio - 1 - ratio.log())
        steps = trajectory.drift.square().sum(-1) / (4 * diffusivity) + spread
        return torch.cat([first_divergence(posterior, trajectory, prior, k).unsqueeze(0), steps])


def standard_normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard normal noise of the shape, dtype and device of ``x``."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


class Assignment(Protocol):
    """The potentials of the sequences of a batch, and their weights."""

    def batch_shape(self, batch: int) -> torch.Size:
        """Return the batch shape of the latents for a number of sequences."""

    def potential(self, bank: PotentialBank) -> Field:
        """Return the potential of every sequence."""

    def divergence(self, bound: Bound, posterior: Distribution, trajectory: Trajectory, prior: Prior) -> Tensor:
        """Estimate the divergence at each time, of shape ``(T+1, *batch_shape)``, in nats."""

    def weights(self) -> Tensor | None:
        """Return the weights, of the batch shape and with mean 1; None for equal weights."""

    def average(self, x: Tensor) -> Tensor:
        """Average over the batch, from ``(*others, *batch_shape)`` to ``(*others,)``."""


@dataclass(frozen=True)
class Known:
    """Every sequence has the potential of its label.

    Attributes:
        k: The labels, int64 of shape ``(batch,)``.
    """

    k: Tensor

    def batch_shape(self, batch: int) -> torch.Size:
        """Return ``(batch,)``."""
        return torch.Size([batch])

    def potential(self, bank: PotentialBank) -> Field:
        """Select the potential of each label."""
        return bank.select(self.k)

    def divergence(self, bound: Bound, posterior: Distribution, trajectory: Trajectory, prior: Prior) -> Tensor:
        """Estimate the divergence under the label, of shape ``(T+1, batch)``."""
        return bound.divergence(posterior, trajectory, prior, self.k)

    def weights(self) -> None:
        """Return None: the weights are equal."""

    def average(self, x: Tensor) -> Tensor:
        """Average over the batch."""
        return x.mean(-1)


@dataclass(frozen=True)
class Mixed:
    r"""Every sequence has the potential :math:`\sum_k w_k u_k`, with weights of its own.

    Attributes:
        responsibilities: The weights, of shape ``(batch, K)``; one-hot for a straight-through sample.
    """

    responsibilities: Tensor

    def batch_shape(self, batch: int) -> torch.Size:
        """Return ``(batch,)``."""
        return torch.Size([batch])

    def potential(self, bank: PotentialBank) -> Field:
        """Mix the potentials of each sequence."""
        return bank.mix(self.responsibilities)

    def divergence(self, bound: Bound, posterior: Distribution, trajectory: Trajectory, prior: Prior) -> Tensor:
        r"""Weigh the divergences under each label, :math:`\sum_k w_k KL_k`, of shape ``(T+1, batch)``."""
        batch, fields = self.responsibilities.shape
        labels = torch.arange(fields, device=self.responsibilities.device)
        each = [bound.divergence(posterior, trajectory, prior, k.expand(batch)) for k in labels]
        return (torch.stack(each, -1) * self.responsibilities).sum(-1)

    def weights(self) -> None:
        """Return None: the weights are equal."""

    def average(self, x: Tensor) -> Tensor:
        """Average over the batch."""
        return x.mean(-1)


@dataclass(frozen=True)
class Enumerated:
    r"""Every sequence has each potential once, weighted by the probability of the label.

    Attributes:
        probabilities: The probabilities :math:`q(k | x_0, \dots, x_T)`, of shape ``(batch, K)``.
    """

    probabilities: Tensor

    @property
    def k(self) -> Tensor:
        """The labels, of shape ``(K, batch)``."""
        batch, fields = self.probabilities.shape
        return torch.arange(fields, device=self.probabilities.device).unsqueeze(-1).expand(fields, batch)

    def batch_shape(self, batch: int) -> torch.Size:
        """Return ``(K, batch)``."""
        return torch.Size([self.probabilities.shape[-1], batch])

    def potential(self, bank: PotentialBank) -> Field:
        """Select the potential of each label."""
        return bank.select(self.k)

    def divergence(self, bound: Bound, posterior: Distribution, trajectory: Trajectory, prior: Prior) -> Tensor:
        """Estimate the divergence under every label, of shape ``(T+1, K, batch)``."""
        return bound.divergence(posterior.expand(self.k.shape), trajectory, prior, self.k)

    def weights(self) -> Tensor:
        """Return the probabilities times K, of shape ``(K, batch)``."""
        return self.probabilities.mT * self.probabilities.shape[-1]

    def average(self, x: Tensor) -> Tensor:
        """Average over the batch and the labels."""
        return (x * self.weights()).mean((-2, -1))
