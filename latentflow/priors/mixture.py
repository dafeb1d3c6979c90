"""Mixture priors: of normals, and of an encoder's posteriors."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Normal

from latentflow.calculus import Time
from latentflow.calculus.checks import Events, Mixture, check_callable, check_count, check_generator, check_tensor
from latentflow.priors.diffusion import check_arguments


class MixturePrior(nn.Module):
    r"""The mixture :math:`\sum_i w_i N(\mu_i, \operatorname{diag} \sigma_i^2)`, the same at all times.

    Weights, means and scales are learnable. The weights start equal, the scales at :math:`\sqrt{1/2}` and the means as
    draws of :math:`N(0, \tfrac12 I)`, which in expectation gives the moments of the standard normal. The distribution
    has no ``rsample``.

    Args:
        dim: The number of coordinates.
        components: The number of components.
        generator: The source of randomness of the means.

    Raises:
        ValueError: If ``dim`` or ``components`` is not positive.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), the ablation of priors
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> prior = MixturePrior(2, components=3)
        >>> z = prior(t=1.0).sample((5,))
        >>> scales = prior.log_scale.exp()
        >>> terms = [Normal(m, s).log_prob(z).sum(-1) for m, s in zip(prior.mean, scales)]
        >>> expected = torch.stack(terms).logsumexp(0) - math.log(3)
        >>> torch.testing.assert_close(prior(t=1.0).log_prob(z), expected)
    """

    def __init__(self, dim: int, components: int = 10, generator: torch.Generator | None = None) -> None:
        super().__init__()
        check_count("dim", dim)
        check_count("components", components)
        check_generator(generator)
        self.logits = nn.Parameter(torch.zeros(components))
        self.mean = nn.Parameter(torch.randn(components, dim, generator=generator) / math.sqrt(2))
        self.log_scale = nn.Parameter(torch.full((components, dim), -math.log(2) / 2))

    def forward(self, t: Time = 0.0, k: int | Tensor | None = None) -> Distribution:
        """Build the distribution, the same for all ``t`` and ``k``."""
        check_arguments(t, k)
        components = Events(Normal(self.mean, self.log_scale.exp(), validate_args=False), 1, validate_args=False)
        return Mixture(Categorical(logits=self.logits), components, validate_args=False)


MARGIN = 0.01
"""The least distance of the initial pseudo-inputs from 0 and 1, where the sigmoid has no slope."""


class VampPrior(nn.Module):
    r"""The mixture of posteriors :math:`\tfrac1N \sum_n q(z | v_n)` at learnable pseudo-inputs, the same at all times.

    .. math:: \log p(z) = \operatorname{logsumexp}_n \log q(z | v_n) - \log N, \qquad
        v_n = \operatorname{sigmoid}(\rho_n)

    Given values ``v`` start at ``0.01 + 0.98 v``, inside of the range of the sigmoid. Every call encodes all
    pseudo-inputs, in one batch. The encoder of the VAE is a submodule of both: ``parameters()`` lists its parameters
    once, ``state_dict()`` under both names. The distribution has no ``rsample``.

    Args:
        encoder: Maps inputs to a distribution over latents ``(dim,)``, one for each input.
        pseudo_inputs: The initial values, in [0, 1], of shape ``(components, *input)``, such as some of the data.

    Raises:
        TypeError: If the pseudo-inputs are not a floating-point tensor.
        ValueError: If there are none, or a value lies outside [0, 1]; from a call, if the encoder does not return one
            distribution with events of shape ``(dim,)`` for each input.

    References:
        | VAE with a VampPrior (Tomczak and Welling, 2017)
        | https://arxiv.org/abs/1705.07120

    Example:
        >>> from latentflow import MLPEncoder
        >>> encoder = MLPEncoder((1, 8, 8), dim=2)
        >>> prior = VampPrior(encoder, torch.rand(5, 1, 8, 8))
        >>> posteriors, z = encoder(prior.pseudo_inputs), torch.randn(2)
        >>> torch.testing.assert_close(prior().log_prob(z).exp(), posteriors.log_prob(z).exp().mean())
    """

    def __init__(self, encoder: Callable[[Tensor], Distribution], pseudo_inputs: Tensor) -> None:
        super().__init__()
        check_callable("encoder", encoder, "a callable from inputs to a distribution")
        check_tensor("pseudo_inputs", pseudo_inputs)
        if pseudo_inputs.ndim < 2 or len(pseudo_inputs) == 0:
            raise ValueError(f"pseudo_inputs: expected shape (components, *input), got {tuple(pseudo_inputs.shape)}")
        if not pseudo_inputs.is_meta and not ((pseudo_inputs >= 0) & (pseudo_inputs <= 1)).all():
            raise ValueError(
                f"pseudo_inputs: expected values in [0, 1], got values in "
                f"[{float(pseudo_inputs.min()):g}, {float(pseudo_inputs.max()):g}]"
            )
        self.encoder = encoder
        inside = MARGIN + (1 - 2 * MARGIN) * pseudo_inputs.detach()
        self.raw = nn.Parameter(inside.logit())

    @property
    def pseudo_inputs(self) -> Tensor:
        r"""The pseudo-inputs :math:`v_n`, of shape ``(components, *input)``, in (0, 1)."""
        return self.raw.sigmoid()

    def forward(self, t: Time = 0.0, k: int | Tensor | None = None) -> Distribution:
        """Encode the pseudo-inputs and build the distribution, the same for all ``t`` and ``k``."""
        check_arguments(t, k)
        components = self.encoder(self.pseudo_inputs)
        if components.batch_shape != self.raw.shape[:1] or len(components.event_shape) != 1:
            raise ValueError(
                f"encoder: expected a distribution of batch shape ({len(self.raw)},) with events of shape (dim,), "
                f"got batch shape {tuple(components.batch_shape)} and events of shape {tuple(components.event_shape)}"
            )
        logits = self.raw.new_zeros(len(self.raw))
        return Mixture(Categorical(logits=logits), components, validate_args=False)
