"""Parity with the paper: what its equations and its loop say where the library says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentflow.calculus import Exact
from latentflow.flow import FirstOrder, Path, Volume
from latentflow.priors import Prior
from latentflow.vae.bounds import AlongFlow, diffusivity_of, first_divergence


class PaperDensity(AlongFlow):
    r"""Compare posterior and prior densities as the paper writes them, which bounds nothing.

    Both densities are carried along from the same point :math:`z_0`, and both volumes are the first-order surrogates,

    .. math::
        KL_t = \log q(z_0 | x_0) - \sum_{s<t} \log|1 + \Delta u_k(z_s, s)|
             - \log p(z_0) + \sum_{s<t} \log|1 + \Delta \psi_k(s)|, \qquad
        \Delta \psi_k(s) = \frac{d D_k}{1 + 2 D_k s},

    with :math:`\psi = -D \log p_t` of the diffusing prior. Where :math:`z_t` lies does not enter, so a contracting flow
    is not punished and an expanding one is rewarded without limit: with a decoder that ignores the latent,
    :math:`q_0 = p_0` and :math:`u = a |z|^2 / 2` the "bound" is :math:`\log p(x) + \log(1 + d a)`. Offered for parity
    with the paper; train :class:`MarginalBound` instead.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equations 6, 9 and 10
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import FlowVAE, PotentialBank, QuadraticPotential, MLPDecoder, MLPEncoder, DiffusionPrior
        >>> model = FlowVAE(
        ...     encoder=MLPEncoder((1, 4, 4), dim=2),
        ...     decoder=MLPDecoder(2, (1, 4, 4)),
        ...     bank=PotentialBank([QuadraticPotential(2)]),
        ...     prior=DiffusionPrior(2),
        ...     residual=None,
        ...     bound=PaperDensity(),
        ... )
        >>> objective = model.objective(torch.rand(3, 5, 1, 4, 4), torch.zeros(3, dtype=torch.int64))
        >>> assert objective.kl_per_time.shape == (5,)
    """

    @property
    def volume(self) -> Volume:
        r"""The surrogate :math:`\log|1 + \Delta u|`."""
        return FirstOrder(Exact())

    def divergence(self, posterior: Distribution, path: Path, prior: Prior, k: Tensor) -> Tensor:
        r"""Compute :math:`KL(q_0 \| p_0)`, then :math:`KL_t` as above, of shape ``(T+1, *batch)``."""
        if path.log_det is None:
            raise ValueError("path: expected a path with log_det, got one without")
        first = first_divergence(posterior, path, prior, k).unsqueeze(0)
        diffusivity = diffusivity_of(prior, k)
        times = path.times[:-1].reshape(-1, *(1,) * k.ndim)
        spread = (path.z.shape[-1] * diffusivity / (1 + 2 * diffusivity * times)).log1p().cumsum(0)
        start: Tensor = posterior.log_prob(path.z[0]) - prior(t=0.0, k=k).log_prob(path.z[0])
        return torch.cat([first, start - path.log_det[1:] + spread])


@dataclass(frozen=True)
class PaperPoints:
    r"""The points of the paper's loop: :math:`z_{t_{n-1}}` with the time :math:`t_n`, for :math:`n = 1, \dots, T`.

    Each point is the one before the step, its time the one after it, and gradients flow to the path. Offered for
    parity: between these times the potential is free, and training may lower the residual by moving the points to where
    it is small.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 14
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> z = torch.stack([torch.zeros(4, 2), torch.ones(4, 2)])
        >>> path = Path(times=torch.tensor([0.0, 2.0]), z=z, log_det=None, action=torch.zeros(2, 4))
        >>> z, t = PaperPoints().points(path)
        >>> assert torch.equal(z, torch.zeros(1, 4, 2)) and torch.equal(t, torch.full((1, 4), 2.0))
    """

    def points(self, path: Path, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - not random
        """Give the points before each step, ``(T, *batch, dim)``, and the times after it, ``(T, *batch)``."""
        z = path.z[:-1]
        return z, path.times[1:].reshape(-1, *(1,) * (z.ndim - 2)).to(z).expand(z.shape[:-1])
