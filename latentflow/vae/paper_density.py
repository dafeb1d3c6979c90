r"""The paper's densities, for parity: not a bound."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentflow.calculus import Exact
from latentflow.flow import FirstOrder, Path, Volume
from latentflow.priors import Prior
from latentflow.vae.bounds import AlongFlow, first_divergence
from latentflow.vae.divergence import diffusivity_of


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
