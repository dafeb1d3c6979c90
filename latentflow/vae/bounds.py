r"""The lower bounds of the likelihood that a flow-factorised VAE can train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentflow.flow import Path, SlogDet, Volume
from latentflow.priors import Prior
from latentflow.vae.divergence import estimate_divergence
from latentflow.vae.dynamics import Dynamics


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
