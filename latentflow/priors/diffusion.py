"""The normal prior and its diffusion: heat flows of normals and of their mixtures."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal

from latentflow.calculus import Time
from latentflow.calculus.checks import (
    Events,
    Mixture,
    check_callable,
    check_count,
    check_index,
    check_positive,
    check_time,
)
from latentflow.calculus.positive import inverse_softplus


class Prior(Protocol):
    """A prior over latents: a callable that builds a distribution for a time and the index of a field.

    The priors of the library that change with time raise a TypeError if ``k`` is not of dtype int64, and a ValueError
    if it is out of range or missing with several fields, if a time is negative, or if shapes do not broadcast.
    """

    def __call__(self, t: Time = 0.0, k: int | Tensor | None = None) -> Distribution:
        """Build the distribution.

        Args:
            t: The time, at least 0: a number, ``()`` or ``(*batch,)``.
            k: The index of the field: a number, or an int64 tensor that broadcasts with ``t``; None if there is one
                field only.

        Returns:
            The distribution, with events of shape ``(dim,)`` and the batch shape to which ``t`` and ``k`` broadcast.
        """


def check_elapsed(t: Time, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Tensor:
    """Return a time as a tensor; raise a TypeError or ValueError unless it is real and at least 0."""
    check_time(t)
    if isinstance(t, Tensor):
        time = t.to(device or t.device, dtype or t.dtype)
    else:
        time = torch.tensor(t, dtype=dtype, device=device or "cpu")
    if not (time >= 0).all():
        raise ValueError(f"t: expected times of at least 0, got {float(time.detach().min())}")
    if torch.isinf(time).any():
        raise ValueError("t: expected finite times, got infinity")
    return time


def check_arguments(t: Time, k: int | Tensor | None) -> None:
    """Check the arguments of a prior that does not depend on them; raise a TypeError or ValueError as others do."""
    check_elapsed(t)
    if k is not None:
        check_index(k, 2**31)


def check_field(k: int | Tensor | None, fields: int, device: torch.device | None = None) -> Tensor:
    """Return the index of a field as a tensor; raise as :class:`Prior` says."""
    if k is None and fields > 1:
        raise ValueError(f"k: expected an index in 0..{fields - 1}, got None")
    return check_index(0 if k is None else k, fields).to(device)


def common_shape(time: Tensor, index: Tensor, batch: torch.Size = torch.Size()) -> torch.Size:  # noqa: B008 - immutable
    """Compute the shape to which times, indices and a batch shape broadcast; raise a ValueError if they do not."""
    try:
        shape: torch.Size = torch.broadcast_shapes(time.shape, index.shape, batch)  # type: ignore[no-untyped-call]  # torch has no types for it
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

    Raises:
        ValueError: If ``dim`` is not positive; see also :class:`Prior`.

    Example:
        >>> prior = GaussianPrior(3)
        >>> expected = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))
        >>> z = torch.randn(4, 3)
        >>> torch.testing.assert_close(prior(t=2.0).log_prob(z), expected.log_prob(z))
    """

    mean: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_count("dim", dim)
        self.dim = dim
        self.register_buffer("mean", torch.zeros(dim), persistent=False)

    def forward(self, t: Time = 0.0, k: int | Tensor | None = None) -> Distribution:
        """Build the distribution, the same for all ``t`` and ``k``."""
        check_arguments(t, k)
        return Events(Normal(self.mean, torch.ones_like(self.mean), validate_args=False), 1, validate_args=False)


def heat_flow(distribution: Distribution, variance: Tensor) -> Distribution:
    r"""Convolve a normal distribution, or a mixture, with :math:`N(0, \sigma^2 I)`; raise a TypeError for others.

    .. math:: \sum_i w_i N(\mu_i, \Sigma_i) \mapsto \sum_i w_i N(\mu_i, \Sigma_i + \sigma^2 I)

    The variance :math:`\sigma^2` broadcasts with the batch shape.
    """
    if isinstance(distribution, MixtureSameFamily):
        components = heat_flow(distribution.component_distribution, variance.unsqueeze(-1))
        logits: Tensor = distribution.mixture_distribution.logits
        return Mixture(Categorical(logits=logits.expand(components.batch_shape)), components, validate_args=False)
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        normal = distribution.base_dist
        scale = (normal.variance + variance.unsqueeze(-1)).sqrt()
        return Events(Normal(normal.loc, scale, validate_args=False), 1, validate_args=False)
    if isinstance(distribution, MultivariateNormal):
        covariance: Tensor = distribution.covariance_matrix
        eye = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
        return MultivariateNormal(distribution.loc, covariance + variance[..., None, None] * eye)
    raise TypeError(
        f"prior: expected a normal distribution over (dim,) events or a mixture of them, "
        f"got {type(distribution).__name__}"
    )


class DiffusedPrior(nn.Module):
    r"""A prior under the heat equation :math:`\partial_t p = D_k \Delta p` from :math:`p_0`, in closed form.

    .. math:: p_0 = \sum_i w_i N(\mu_i, \Sigma_i) \quad \Rightarrow \quad
        p_t = \sum_i w_i N(\mu_i, \Sigma_i + 2 D_k t I)

    The coefficients :math:`D_k = \operatorname{softplus}(\rho_k)` are learnable, one for each field.

    Args:
        prior: The prior whose distribution at time 0 is the start: normal, with a diagonal or a full covariance, or a
            mixture of normals.
        fields: The number of fields ``K``.
        diffusivity: The starting value of all :math:`D_k`, positive, in squared lengths per time.

    Raises:
        TypeError: From a call, if the start is no such distribution; see also :class:`Prior`.
        ValueError: If ``fields`` or ``diffusivity`` is not positive; see also :class:`Prior`.

    Example:
        >>> from latentflow import MixturePrior
        >>> start = MixturePrior(2, components=3)
        >>> prior = DiffusedPrior(start, diffusivity=0.5)
        >>> torch.testing.assert_close(prior(t=4.0).mean, start().mean)
        >>> torch.testing.assert_close(prior(t=4.0).variance, start().variance + 4.0)
    """

    def __init__(self, prior: Prior, fields: int = 1, diffusivity: float = 1e-2) -> None:
        super().__init__()
        check_callable("prior", prior, "a prior")
        check_count("fields", fields)
        check_positive("diffusivity", diffusivity)
        self.prior = prior
        self.raw = nn.Parameter(torch.full((fields,), inverse_softplus(diffusivity)))

    @property
    def diffusivity(self) -> Tensor:
        r"""The coefficients :math:`D_k`, of shape ``(K,)``."""
        return nn.functional.softplus(self.raw)

    def forward(self, t: Time = 0.0, k: int | Tensor | None = None) -> Distribution:
        r"""Build the distribution :math:`p_t`; its batch shape is that of ``t``, ``k`` and the start, broadcast."""
        index = check_field(k, len(self.raw), self.raw.device)
        time = check_elapsed(t, self.raw.dtype, self.raw.device)
        start = self.prior(t=0.0, k=k)
        common_shape(time, index, start.batch_shape)
        return heat_flow(start, 2 * self.diffusivity[index] * time)


class DiffusionPrior(DiffusedPrior):
    r"""The diffusing prior :math:`p_t = N(0, (1 + 2 D_k t) I)`: the :class:`DiffusedPrior` of the standard normal.

    Args:
        dim: The number of coordinates.
        fields: See :class:`DiffusedPrior`.
        diffusivity: See :class:`DiffusedPrior`.

    Raises:
        ValueError: See :class:`DiffusedPrior`.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), equation 3
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> prior = DiffusionPrior(2, fields=3, diffusivity=0.5)
        >>> torch.testing.assert_close(prior(t=4.0, k=1).variance, torch.full((2,), 5.0))
    """

    def __init__(self, dim: int, fields: int = 1, diffusivity: float = 1e-2) -> None:
        super().__init__(GaussianPrior(dim), fields, diffusivity)
        self.dim = dim
