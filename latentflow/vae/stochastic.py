r"""The bound of a sequence whose latents diffuse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentflow.calculus import PositiveParameter
from latentflow.flow import Path
from latentflow.priors import Prior
from latentflow.vae.bounds import first_divergence
from latentflow.vae.divergence import diffusivity_of
from latentflow.vae.dynamics import Dynamics

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
