"""Lower bounds of the likelihood, and the labels under which they are averaged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from latentflow.calculus import Field, PositiveParameter
from latentflow.flow import OnFold, Path, SlogDet, Volume
from latentflow.potentials import PotentialBank
from latentflow.priors import DiffusedPrior, Prior


def reparameterised_sample(distribution: Distribution, generator: torch.Generator | None = None) -> Tensor:
    """Draw one sample through which gradients flow.

    Args:
        distribution: The distribution; a (possibly independent) normal if a generator is given.
        generator: The source of randomness, or None for torch's global one.

    Returns:
        The sample, of the batch and event shape of the distribution.

    Raises:
        TypeError: If a generator is given and the distribution is not normal, since torch.distributions take none.

    Example:
        >>> normal = Normal(torch.zeros(3), torch.ones(3))
        >>> first = reparameterised_sample(normal, torch.Generator().manual_seed(0))
        >>> second = reparameterised_sample(normal, torch.Generator().manual_seed(0))
        >>> assert torch.equal(first, second)
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
    r"""Compute :math:`KL(q \| p)` in closed form where torch knows it, by the sample otherwise.

    Args:
        posterior: The distribution :math:`q`, of batch shape ``(*batch,)``.
        prior: The distribution :math:`p`, of a batch shape that broadcasts to ``(*batch,)``.
        z: A sample of the posterior, of shape ``(*batch, dim)``.

    Returns:
        The divergence or :math:`\log q(z) - \log p(z)`, of shape ``(*batch,)``, in nats.

    Example:
        >>> import torch
        >>> from torch.distributions import Independent, Normal
        >>> q = Independent(Normal(torch.ones(4, 2), 1.0), 1)
        >>> p = Independent(Normal(torch.zeros(2), 1.0), 1)
        >>> torch.testing.assert_close(estimate_divergence(q, p, q.sample()), torch.ones(4))
    """
    try:
        return kl_divergence(posterior, prior)
    except NotImplementedError:  # what torch raises for a pair without a closed form, and its only way to say so
        log_q: Tensor = posterior.log_prob(z)
        return log_q - prior.log_prob(z)


def diffusivity_of(prior: Prior, k: Tensor) -> Tensor:
    """Give the coefficient of each sample's field.

    Args:
        prior: The prior.
        k: The index of the field of each sample, int64 of shape ``(*batch,)``.

    Returns:
        The coefficients :math:`D_k`, of shape ``(*batch,)``, in length squared per time.

    Raises:
        TypeError: If the prior does not diffuse.
    """
    if not isinstance(prior, DiffusedPrior):
        raise TypeError(f"prior: expected one that diffuses, such as DiffusionPrior, got {type(prior).__name__}")
    return prior.diffusivity[k if len(prior.diffusivity) > 1 else torch.zeros_like(k)]


class Dynamics(Protocol):
    """A flow along a potential, as :class:`PotentialFlow` and :class:`HopfLaxFlow` are.

    Attributes:
        on_fold: What to do where the flow folds; None where the model may decide.
    """

    on_fold: OnFold | None

    @property
    def potential(self) -> nn.Module:
        """The potential ``u(z, t)`` whose gradient is the velocity, on which a residual is evaluated."""

    def rollout(
        self, z0: Tensor, steps: int = 8, start: float = 0.0, dt: float = 1.0, volume: Volume | None = None
    ) -> Path:
        """Follow the flow from ``z0`` of shape ``(*batch, dim)`` for so many steps; see :class:`PotentialFlow`."""


class Bound(Protocol):
    """Says how a latent moves under the posterior, and what the latents cost."""

    @property
    def volume(self) -> Volume | None:
        """The volume change that :meth:`divergence` reads off the path, or None."""

    @property
    def looks(self) -> bool:
        """Whether :meth:`rollout` wants to see what the encoder says of the later frames."""

    def rollout(
        self,
        flow: Dynamics,
        z0: Tensor,
        steps: int,
        later: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Path:
        r"""Draw the path of the posterior.

        Args:
            flow: The flow.
            z0: Where it starts, of shape ``(*batch, dim)``.
            steps: The number of steps ``T``.
            later: The means of the posterior of the frames :math:`x_1, \dots, x_T`, of a shape that broadcasts to
                ``(T, *batch, dim)``; None where the bound does not look at them.
            generator: The source of randomness, or None for torch's global one.

        Returns:
            The path, with ``steps + 1`` points.
        """

    def divergence(self, posterior: Distribution, path: Path, prior: Prior, k: Tensor) -> Tensor:
        """Estimate the divergence of the posterior from the prior at each time of the path.

        Args:
            posterior: The distribution :math:`q(z_0 | x_0)`, of batch shape ``(*batch,)``.
            path: The path of a sample of it.
            prior: The prior.
            k: The transformation of each sample, of shape ``(*batch,)``.

        Returns:
            The divergences or unbiased estimates of them, of shape ``(T+1, *batch)``, in nats.
        """


class AlongFlow:
    """A posterior that is carried along the flow without noise."""

    @property
    def volume(self) -> Volume | None:
        """The volume change that the divergence reads off the path, or None."""

    @property
    def looks(self) -> bool:
        """False: the posterior knows the first frame only."""
        return False

    def rollout(
        self,
        flow: Dynamics,
        z0: Tensor,
        steps: int,
        later: Tensor | None = None,  # noqa: ARG002 - does not look
        generator: torch.Generator | None = None,  # noqa: ARG002 - not random
    ) -> Path:
        """Follow the flow from ``z0``, of shape ``(*batch, dim)``."""
        return flow.rollout(z0, steps, volume=self.volume)


@dataclass(frozen=True)
class MarginalBound(AlongFlow):
    r"""Match the marginals at every time: :math:`\sum_t E[\log p(x_t | z_t)] - KL(q_t \| p_t)`.

    The posterior density is carried along the flow, :math:`\log q_t(z_t) = \log q(z_0 | x_0) - \log|\det|`, and the
    prior :math:`p_t` is evaluated where :math:`z_t` lies. At the first time the divergence is computed in closed form
    where torch knows it, as between normal distributions; everywhere else it is estimated by the sample.

    Each summand is a lower bound of :math:`\log p_t(x_t)` while the steps are invertible and the volume is exact; their
    sum is a composite likelihood, not a bound of :math:`\log p(x_0, \dots, x_T)`.

    Attributes:
        volume: The volume change of a step.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 6
        | https://arxiv.org/abs/2309.13167
    """

    volume: Volume = SlogDet()  # noqa: RUF009 - frozen

    def divergence(self, posterior: Distribution, path: Path, prior: Prior, k: Tensor) -> Tensor:
        r"""Compute :math:`KL(q_0 \| p_0)`, then :math:`\log q_t(z_t) - \log p_t(z_t)`, of shape ``(T+1, *batch)``."""
        if path.log_det is None:
            raise ValueError("path: expected a path with log_det, got one without")
        first = first_divergence(posterior, path, prior, k).unsqueeze(0)
        if len(path.times) == 1:
            return first
        log_q: Tensor = posterior.log_prob(path.z[0]) - path.log_det[1:]
        later = path.times[1:].reshape(-1, *(1,) * k.ndim)
        log_p: Tensor = prior(t=later, k=k).log_prob(path.z[1:])
        return torch.cat([first, log_q - log_p])


@dataclass(frozen=True)
class JointBound(AlongFlow):
    r"""Bound the whole sequence: :math:`\sum_t E[\log p(x_t | z_t)] - KL(q_0 \| p_0) \le \log p(x_0, \dots, x_T | k)`.

    The deterministic flow belongs to the model and the posterior alike, so the divergence is that of the first latents
    at every time and no Jacobian enters. It is computed in closed form where torch knows it, by the sample otherwise.
    One latent is paid for once and explains all frames.
    """

    @property
    def volume(self) -> None:
        """None: the divergence is invariant under a flow that both distributions share."""

    def divergence(self, posterior: Distribution, path: Path, prior: Prior, k: Tensor) -> Tensor:
        r"""Compute :math:`KL(q_0 \| p_0)` at the first time and zero after it, of shape ``(T+1, *batch)``."""
        first = first_divergence(posterior, path, prior, k).unsqueeze(0)
        return torch.cat([first, first.new_zeros(len(path.times) - 1, *first.shape[1:])])


def first_divergence(posterior: Distribution, path: Path, prior: Prior, k: Tensor) -> Tensor:
    r"""Estimate the divergence :math:`KL(q(z_0 | x_0) \| p_0)` where a path starts.

    Args:
        posterior: The distribution :math:`q(z_0 | x_0)`, of batch shape ``(*batch,)``.
        path: The path of a sample of it.
        prior: The prior.
        k: The transformation of each sample, of shape ``(*batch,)``.

    Returns:
        The divergence or an unbiased estimate of it, of shape ``(*batch,)``, in nats.
    """
    return estimate_divergence(posterior, prior(t=path.times[0], k=k), path.z[0]).expand(path.z.shape[1:-1])


GAIN = 0.1  # to begin with, of a posterior that looks at the later frames


@dataclass(frozen=True)
class StochasticPath(Path):
    """A path with noise.

    Attributes:
        drift: What each step moves on average, of shape ``(T, *batch, dim)``.
    """

    drift: Tensor | None = None


class StochasticBound(nn.Module):
    r"""Bound a sequence whose latents are a random walk: the action of Benamou and Brenier appears by itself.

    The prior lets latents diffuse, the posterior lets them flow and diffuse, with unit steps,

    .. math::
        p(z_{t+1} | z_t) = N(z_t, 2 D_k I), \qquad
        q(z_{t+1} | z_t) = N(z_t + m_t, 2 D_q I), \qquad m_t = \nabla u_k(z_t, t),

    so that a step costs, with :math:`r = D_q / D_k`,

    .. math:: KL_t = \frac{|m_t|^2}{4 D_k} + \frac{d}{2} (r - 1 - \log r).

    The sum of the reconstructions less :math:`KL(q_0 \| p_0) + \sum_t KL_t` is a lower bound of
    :math:`\log p(x_0, \dots, x_T | k)`. With :math:`r = 1` the steps cost the kinetic energy over :math:`2 D_k`; the
    best :math:`D_k` is :math:`D_q + E|m|^2 / (2 d)`. The prior has to be a :class:`DiffusionPrior` or another
    :class:`DiffusedPrior`, whose coefficients these are.

    A posterior that looks sees the later frames too: with the encoder's mean :math:`\mu(x_{t+1})` and a learnable gain
    :math:`g \in (0, 1)` for each coordinate, :math:`m_t = \nabla u + g (\mu(x_{t+1}) - z_t - \nabla u)`, as a filter
    corrects a forecast by a measurement.

    Args:
        dim: The number of latent coordinates, for the gains of a posterior that looks; None for one that does not.
        diffusion: The coefficient :math:`D_q` to start from, positive, in length squared per time. It is learnable.

    Raises:
        ValueError: If ``diffusion`` is not positive.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), section 3 and its limitations
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import QuadraticPotential, PotentialFlow
        >>> still = PotentialFlow(QuadraticPotential(3))
        >>> path = StochasticBound(diffusion=0.5).rollout(still, torch.zeros(1000, 3), steps=4)
        >>> assert abs(path.z[-1].var() - 4 * 2 * 0.5) < 0.5  # a random walk
    """

    def __init__(self, dim: int | None = None, diffusion: float = 1e-2) -> None:
        super().__init__()
        if not 0 < diffusion < math.inf:
            raise ValueError(f"diffusion: expected a positive number, got {diffusion!r}")
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
        """The share of a correction that a step makes, of shape ``(dim,)``; None where nothing is looked at."""
        return None if self.raw_gain is None else self.raw_gain.sigmoid()

    @property
    def volume(self) -> None:
        """None: the steps have densities of their own."""

    @property
    def looks(self) -> bool:
        """Whether the posterior sees the later frames."""
        return self.raw_gain is not None

    def rollout(
        self,
        flow: Dynamics,
        z0: Tensor,
        steps: int,
        later: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> StochasticPath:
        """Draw a path of the posterior; see :class:`Bound`."""
        if self.looks and later is None:
            raise ValueError("later: expected what the encoder says of the later frames, got None")
        z, drifts, actions = [z0], [], [z0.new_zeros(z0.shape[:-1])]
        for n in range(steps):
            step = flow.rollout(z[-1], 1, start=float(n), volume=None)  # noise spreads a fold: there is none to report
            drift = step.z[1] - step.z[0]
            if later is not None and self.gain is not None:
                drift = drift + self.gain * (later[n] - step.z[1])
            noise = standard_normal_like(drift, generator)
            z.append(z[-1] + drift + (2 * self.diffusion).sqrt() * noise)
            drifts.append(drift)
            actions.append(actions[-1] + step.action[1])
        times = torch.arange(steps + 1, dtype=z0.dtype, device=z0.device)
        drift = torch.stack(drifts) if drifts else z0.new_zeros((0, *z0.shape))
        return StochasticPath(times, torch.stack(z), None, torch.stack(actions), drift=drift)

    def divergence(self, posterior: Distribution, path: Path, prior: Prior, k: Tensor) -> Tensor:
        r"""Compute :math:`KL(q_0 \| p_0)` at the first time and :math:`KL_t` after it, of shape ``(T+1, *batch)``."""
        if not isinstance(path, StochasticPath) or path.drift is None:
            raise TypeError(f"path: expected one of this bound's own, got {type(path).__name__}")
        diffusivity = diffusivity_of(prior, k)
        ratio = self.diffusion / diffusivity
        spread = path.z.shape[-1] / 2 * (ratio - 1 - ratio.log())
        steps = path.drift.square().sum(-1) / (4 * diffusivity) + spread
        return torch.cat([first_divergence(posterior, path, prior, k).unsqueeze(0), steps])


def standard_normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard normal noise of the shape, dtype and device of ``x``."""
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


class Assignment(Protocol):
    """Says which potential each sequence of a batch flows along, and how much it counts."""

    def batch_shape(self, batch: int) -> torch.Size:
        """Give the shape in which a batch of so many sequences is explained."""

    def potential(self, bank: PotentialBank) -> Field:
        """Give the potential of every sequence."""

    def divergence(self, bound: Bound, posterior: Distribution, path: Path, prior: Prior) -> Tensor:
        """Estimate the divergence at each time, of shape ``(T+1, *batch_shape)``, in nats."""

    def weights(self) -> Tensor | None:
        """Give how much each explanation counts, of the batch shape and with mean 1; None if all count the same."""

    def average(self, x: Tensor) -> Tensor:
        """Average over the batch: ``(*others, *batch_shape)`` to ``(*others,)``."""


@dataclass(frozen=True)
class Known:
    """Every sequence has the potential of its label.

    Attributes:
        k: The labels, int64 of shape ``(batch,)``.
    """

    k: Tensor

    def batch_shape(self, batch: int) -> torch.Size:
        """Give ``(batch,)``."""
        return torch.Size([batch])

    def potential(self, bank: PotentialBank) -> Field:
        """Select the potential of each label."""
        return bank.select(self.k)

    def divergence(self, bound: Bound, posterior: Distribution, path: Path, prior: Prior) -> Tensor:
        """Estimate the divergence under the label, of shape ``(T+1, batch)``."""
        return bound.divergence(posterior, path, prior, self.k)

    def weights(self) -> None:
        """None: all count the same."""

    def average(self, x: Tensor) -> Tensor:
        """Average over the batch."""
        return x.mean(-1)


@dataclass(frozen=True)
class Mixed:
    r"""Every sequence has the potential :math:`\sum_k w_k u_k`, with weights of its own.

    Attributes:
        responsibilities: The weights, of shape ``(batch, K)``; those of a straight-through sample are one-hot.
    """

    responsibilities: Tensor

    def batch_shape(self, batch: int) -> torch.Size:
        """Give ``(batch,)``."""
        return torch.Size([batch])

    def potential(self, bank: PotentialBank) -> Field:
        """Mix the potentials of each sequence."""
        return bank.mix(self.responsibilities)

    def divergence(self, bound: Bound, posterior: Distribution, path: Path, prior: Prior) -> Tensor:
        r"""Weigh the divergences under each label, :math:`\sum_k w_k KL_k`, of shape ``(T+1, batch)``."""
        batch, fields = self.responsibilities.shape
        labels = torch.arange(fields, device=self.responsibilities.device)
        each = [bound.divergence(posterior, path, prior, k.expand(batch)) for k in labels]
        return (torch.stack(each, -1) * self.responsibilities).sum(-1)

    def weights(self) -> None:
        """None: all count the same."""

    def average(self, x: Tensor) -> Tensor:
        """Average over the batch."""
        return x.mean(-1)


@dataclass(frozen=True)
class Enumerated:
    r"""Every sequence is explained once by each potential, and counts by the probability of the label.

    Attributes:
        probabilities: The probabilities :math:`q(k | x_0, \dots, x_T)`, of shape ``(batch, K)``.
    """

    probabilities: Tensor

    @property
    def k(self) -> Tensor:
        """The label of each explanation, of shape ``(K, batch)``."""
        batch, fields = self.probabilities.shape
        return torch.arange(fields, device=self.probabilities.device).unsqueeze(-1).expand(fields, batch)

    def batch_shape(self, batch: int) -> torch.Size:
        """Give ``(K, batch)``."""
        return torch.Size([self.probabilities.shape[-1], batch])

    def potential(self, bank: PotentialBank) -> Field:
        """Select the potential of each explanation."""
        return bank.select(self.k)

    def divergence(self, bound: Bound, posterior: Distribution, path: Path, prior: Prior) -> Tensor:
        """Estimate the divergence under every label, of shape ``(T+1, K, batch)``."""
        return bound.divergence(posterior.expand(self.k.shape), path, prior, self.k)

    def weights(self) -> Tensor:
        """Give the probabilities times K, of shape ``(K, batch)``."""
        return self.probabilities.mT * self.probabilities.shape[-1]

    def average(self, x: Tensor) -> Tensor:
        """Average over the batch and the labels."""
        return (x * self.weights()).mean((-2, -1))
