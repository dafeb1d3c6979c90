r"""The prior that spreads by diffusion."""

from __future__ import annotations

from latentflow.priors.diffused import DiffusedPrior
from latentflow.priors.gaussian import GaussianPrior


class DiffusionPrior(DiffusedPrior):
    r"""The diffusing prior :math:`p_t = N(0, (1 + 2 D_k t) I)`, which solves :math:`\partial_t p = D_k \Delta p`.

    It is the :class:`DiffusedPrior` of the standard normal: the only solution that starts there and stays integrable.
    The coefficients :math:`D_k` are learnable, one for each field.

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
        >>> import torch
        >>> prior = DiffusionPrior(2, fields=3, diffusivity=0.5)
        >>> torch.testing.assert_close(prior(t=4.0, k=1).variance, torch.full((2,), 5.0))
    """

    def __init__(self, dim: int, fields: int = 1, diffusivity: float = 1e-2) -> None:
        super().__init__(GaussianPrior(dim), fields, diffusivity)
        self.dim = dim
