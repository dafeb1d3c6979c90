"""The normal prior and its diffusion: heat flows of normals and of their mixtures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from latentflow.calculus import Time, check_count, check_index, inverse_softplus

Prior: TypeAlias = Callable[..., Distribution]
"""Maps a time ``t`` and the index ``k`` of a field to a distribution over latents."""


def check_elapsed(t: Time, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
    """Check that a time has passed since the start of a prior.

    Args:
        t: The time: a number or a tensor.
        dtype: The dtype of the result, or None for that of ``t``.
        device: The device of the result, or None for that of ``t``.

    Returns:
        The time as a tensor, of the shape of ``t``.

    Raises:
        ValueError: If a time is negative or not a number.
    """
    time = torch.as_tensor(t, dtype=dtype, device=device)
    if not (time >= 0).all():
        raise ValueError(f"t: expected times of at least 0, got {float(time.detach().min())}")
    return time


def check_field(k: int | Tensor | None, fields: int, device: torch.device | None = None) -> Tensor:
    """Check the index of a field, which may be left out where there is one field only.

    Args:
        k: The index: a number, an int64 tensor, or None.
        fields: The number of fields.
        device: The device of the result, or None for that of ``k``.

    Returns:
        The index as a tensor, of the shape of ``k``.

    Raises:
        TypeError: If ``k`` is not of dtype int64.
        ValueError: If ``k`` is left out although there are several fields, or is out of range.
    """
    if k is None and fields > 1:
        raise ValueError(f"k: expected an index in 0..{fields - 1}, got None")
    return check_index(0 if k is None else k, fields).to(device)


def common_shape(time: Tensor, index: Tensor, batch: torch.Size = torch.Size()) -> torch.Size:  # noqa: B008 - immutable
    """Give the shape to which the times, the indices and the batch of a distribution broadcast.

    Args:
        time: The times.
        index: The indices of the fields.
        batch: The batch shape of the distribution.

    Raises:
        ValueError: If they do not broadcast.
    """
    try:
        shape: torch.Size = torch.broadcast_shapes(time.shape, index.shape, batch)  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(
            f"t: expected a shape that broadcasts with k of shape {tuple(index.shape)} and the batch shape "
            f"{tuple(batch)}, got {tuple(time.shape)}"
        ) from None
    return shape


class GaussianPrior(nn.Module):
    r"""The standard normal distribution :math:`N(0, I)` at all times.

    Args:
        dim: The number of coordinates.

    Example:
        >>> prior = GaussianPrior(3)
        >>> expected = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
        >>> z = torch.randn(4, 3)
        >>> torch.testing.assert_close(prior(t=2.0).log_prob(z), expected.log_prob(z))
    """

    mean: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim), persistent=False)

    def forward(self, t: Time = 0.0, k: int | Tensor | None = None) -> Distribution:  # noqa: ARG002 - a prior's signature
        """Build the distribution.

        Args:
            t: The time; it makes no difference.
            k: The index of the field; it makes no difference.

        Returns:
            The distribution, with events of shape ``(dim,)``.
        """
        return Independent(Normal(self.mean, torch.ones_like(self.mean)), 1)


def heat_flow(distribution: Distribution, variance: Tensor) -> Distribution:
    r"""Convolve a distribution with :math:`N(0, \sigma^2 I)`, which is what the heat equation does.

    .. math:: \sum_i w_i N(\mu_i, \Sigma_i) \mapsto \sum_i w_i N(\mu_i, \Sigma_i + \sigma^2 I)

    Args:
        distribution: A normal distribution with events of shape ``(dim,)``, with a diagonal or a full covariance, or a
            mixture of such.
        variance: The variance :math:`\sigma^2`, at least 0, of a shape that broadcasts with the batch shape.

    Returns:
        The distribution, of the batch shape to which both broadcast.

    Raises:
        TypeError: If the distribution is neither normal nor a mixture of normals.

    Example:
        >>> start = Independent(Normal(torch.ones(2), torch.full((2,), 3.0)), 1)
        >>> torch.testing.assert_close(heat_flow(start, torch.tensor(16.0)).stddev, torch.full((2,), 5.0))
    """
    if isinstance(distribution, MixtureSameFamily):
        components = heat_flow(distribution.component_distribution, variance.unsqueeze(-1))
        logits: Tensor = distribution.mixture_distribution.logits
        return MixtureSameFamily(Categorical(logits=logits.expand(components.batch_shape)), components)
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        normal = distribution.base_dist
        scale = (normal.variance + variance.unsqueeze(-1)).sqrt()
        return Independent(Normal(normal.loc, scale), 1)
    if isinstance(distribution, MultivariateNormal):
        covariance: Tensor = distribution.covariance_matrix
        eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        return MultivariateNormal(distribution.loc, covariance + variance[..., None, None] * eye)
    raise TypeError(
        f"prior: expected a normal distribution over (dim,) events or a mixture of them, "
        f"got {type(distribution).__name__}"
    )


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
