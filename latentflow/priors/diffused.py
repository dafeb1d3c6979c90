r"""A prior that starts from another one and spreads by diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from latentflow.calculus import Time, check_count, inverse_softplus
from latentflow.priors.arguments import Prior, check_elapsed, check_field, common_shape
from latentflow.priors.heat import heat_flow


class DiffusedPrior(nn.Module):
    r"""A prior under the heat flow: :math:`\partial_t p = D_k \Delta p` from :math:`p_0`, in closed form.

    .. math:: p_0 = \sum_i w_i N(\mu_i, \Sigma_i) \quad \Rightarrow \quad
        p_t = \sum_i w_i N(\mu_i, \Sigma_i + 2 D_k t I)

    Weights and means stay; every variance grows by :math:`2 D_k t`. The coefficients
    :math:`D_k = \operatorname{softplus}(\rho_k) \ge 0` are learnable, one for each field. They start small but where
    they can learn: a square or a rectifier that starts at zero has no gradient there.

    Args:
        prior: The prior to start from, taken at time 0. Its distribution is normal, with a diagonal or a full
            covariance, or a mixture of normals.
        fields: The number of fields ``K``.
        diffusivity: The value to start from, positive, in units of length squared per time.

    Raises:
        ValueError: If ``fields`` or ``diffusivity`` is not positive.

    Example:
        >>> from latentflow import MixturePrior
        >>> start = MixturePrior(2, components=3)
        >>> prior = DiffusedPrior(start, diffusivity=0.5)
        >>> torch.testing.assert_close(prior(t=4.0).mean, start().mean)
        >>> torch.testing.assert_close(prior(t=4.0).variance, start().variance + 4.0)
    """

    def __init__(self, prior: Prior, fields: int = 1, diffusivity: float = 1e-2) -> None:
        super().__init__()
        check_count("fields", fields)
        if not 0 < diffusivity < math.inf:
            raise ValueError(f"diffusivity: expected a positive number, got {diffusivity!r}")
        self.prior = prior
        self.raw = nn.Parameter(torch.full((fields,), inverse_softplus(diffusivity)))

    @property
    def diffusivity(self) -> Tensor:
        r"""The coefficients :math:`D_k`, of shape ``(K,)``."""
        return nn.functional.softplus(self.raw)

    def forward(self, t: Time = 0.0, k: int | Tensor | None = None) -> Distribution:
        r"""Build the distribution :math:`p_t`.

        Args:
            t: The time, at least 0: a number or a tensor.
            k: The index of the field: a number or an int64 tensor that broadcasts with ``t``. It may be left out
                where there is one field only.

        Returns:
            The distribution, with events of shape ``(dim,)`` and the batch shape to which ``t``, ``k`` and the batch
            shape of the start broadcast.

        Raises:
            TypeError: If ``k`` is not of dtype int64, or the start is neither normal nor a mixture of normals.
            ValueError: If ``k`` is left out although there are several fields or is out of range, if the time is
                negative, or if the shapes do not broadcast.
        """
        index = check_field(k, len(self.raw), self.raw.device)
        time = check_elapsed(t, self.raw.dtype, self.raw.device)
        start = self.prior(t=0.0, k=k)
        common_shape(time, index, start.batch_shape)
        return heat_flow(start, 2 * self.diffusivity[index] * time)
