r"""The prior that spreads by diffusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from latentflow.calculus import Time, check_count, check_index


class DiffusionPrior(nn.Module):
    r"""The diffusing prior :math:`p_t = N(0, (1 + 2 D_k t) I)`, which solves :math:`\partial_t p = D_k \Delta p`.

    The coefficients :math:`D_k = \operatorname{softplus}(\rho_k) \ge 0` are learnable, one for each field. They start
    small but where they can learn: a square or a rectifier that starts at zero has no gradient there.

    Args:
        dim: The number of coordinates.
        fields: The number of fields ``K``.
        diffusivity: The value to start from, positive, in units of length squared per time.

    Raises:
        ValueError: If ``fields`` or ``diffusivity`` is not positive.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 3
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> prior = DiffusionPrior(2, fields=3, diffusivity=0.5)
        >>> torch.testing.assert_close(prior(t=4.0, k=1).variance, torch.full((2,), 5.0))
    """

    def __init__(self, dim: int, fields: int = 1, diffusivity: float = 1e-2) -> None:
        super().__init__()
        check_count("fields", fields)
        if not diffusivity > 0:
            raise ValueError(f"diffusivity: expected a positive number, got {diffusivity!r}")
        self.dim = dim
        self.raw = nn.Parameter(torch.full((fields,), math.log(math.expm1(diffusivity))))

    @property
    def diffusivity(self) -> Tensor:
        r"""The coefficients :math:`D_k`, of shape ``(K,)``."""
        return nn.functional.softplus(self.raw)

    def forward(self, t: Time = 0.0, k: int | Tensor | None = None) -> Distribution:
        r"""Build :math:`N(0, (1 + 2 D_k t) I)`.

        Args:
            t: The time, at least 0: a number or a tensor.
            k: The index of the field: a number or an int64 tensor that broadcasts with ``t``. It may be left out
                where there is one field only.

        Returns:
            The distribution, with events of shape ``(dim,)`` and the batch shape to which ``t`` and ``k`` broadcast.

        Raises:
            TypeError: If ``k`` is not of dtype int64.
            ValueError: If ``k`` is left out although there are several fields or is out of range, or if the time is
                negative.
        """
        if k is None:
            if len(self.raw) > 1:
                raise ValueError(f"k: expected an index in 0..{len(self.raw) - 1}, got None")
            k = 0
        index = check_index(k, len(self.raw)).to(self.raw.device)
        time = torch.as_tensor(t, dtype=self.raw.dtype, device=self.raw.device)
        if (time < 0).any():
            raise ValueError(f"t: expected times of at least 0, got {float(time.min())}")
        variance = 1 + 2 * self.diffusivity[index] * time
        scale = variance.sqrt().unsqueeze(-1).expand(*variance.shape, self.dim)
        return Independent(Normal(torch.zeros_like(scale), scale), 1)
