"""Differential operators on scalar fields: functions of a callable, a point and a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from latentflow.calculus.checks import check_methods, check_points, describe
from latentflow.calculus.estimators import Estimator, Exact
from latentflow.calculus.jets import (
    NONE,
    Derivative,
    Field,
    Jet,
    JetRequest,
    Time,
    check_requires,
    evaluate_jet,
    outside_autocast,
)


def check_estimator(name: str, estimator: Estimator) -> None:
    """Check that an argument is an estimator; raise a TypeError otherwise."""
    check_methods(name, estimator, ("request", "laplacian"), "Exact(), Hutchinson() or another estimator")


@outside_autocast
def jet(
    u: Field,
    z: Tensor,
    t: Time,
    laplacian: Estimator | None = Exact(),  # noqa: B008 - frozen
    requires: Derivative = NONE,
) -> Jet:
    r"""Compute :math:`u, \nabla_z u, \partial_t u` and second derivatives of a field in one pass.

    Args:
        u: A potential, or any callable from ``(*batch, dim)`` and ``(*batch,)`` to ``(*batch,)``, sample by sample.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, or a tensor of shape ``()`` or ``(*batch,)``.
        laplacian: The estimator of the Laplacian, or None to leave it out.
        requires: Further derivatives, such as ``Derivative.HESSIAN | Derivative.SECOND_TIME_DERIVATIVE``.

    Returns:
        The jet, differentiable with respect to ``z``, ``t`` and the parameters of ``u``; under ``torch.autocast`` in
        float32, or in float64 where ``z`` is.

    Raises:
        TypeError: If ``z`` is not a floating-point tensor, or ``u`` does not return a tensor.
        ValueError: If ``t`` does not broadcast to ``(*batch,)``, or ``u`` does not return shape ``(*batch,)``.

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> field = lambda z, t: t * z.pow(2).sum(-1) / 2
        >>> result = jet(field, z, 2.0)
        >>> torch.testing.assert_close(result.gradient, 2 * z)
        >>> torch.testing.assert_close(result.laplacian, torch.full((5,), 6.0, dtype=torch.float64))
    """
    check_points(z)
    if laplacian is not None:
        check_estimator("laplacian", laplacian)
    request = JetRequest() if laplacian is None else laplacian.request(u, z, t)
    result = evaluate_jet(u, z, t, request.including(check_requires(requires)))
    return result if laplacian is None else result.including(Derivative.LAPLACIAN, laplacian.laplacian(result))


def gradient(u: Field, z: Tensor, t: Time) -> Tensor:
    r"""Compute :math:`\nabla_z u(z, t)`, the velocity of the flow along ``u``.

    Args:
        u: The field, see :func:`jet`.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.

    Returns:
        The gradient, of shape ``(*batch, dim)``.

    Raises:
        TypeError, ValueError: See :func:`jet`.

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3)
        >>> torch.testing.assert_close(gradient(lambda z, t: z.pow(2).sum(-1) / 2, z, 0.0), z)
    """
    return evaluate_jet(u, z, t, JetRequest()).gradient


@outside_autocast
def laplacian(u: Field, z: Tensor, t: Time, estimator: Estimator = Exact()) -> Tensor:  # noqa: B008 - frozen
    r"""Compute :math:`\Delta_z u(z, t)`, the trace of the Hessian over ``z``.

    Args:
        u: The field, see :func:`jet`.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.
        estimator: ``Exact()`` or a stochastic estimator such as ``Hutchinson()``.

    Returns:
        The Laplacian, of shape ``(*batch,)``.

    Raises:
        TypeError, ValueError: See :func:`jet`.

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> saddle = lambda z, t: z[..., 0] * z[..., 1]  # harmonic, though its Hessian has row sums 1
        >>> torch.testing.assert_close(laplacian(saddle, z, 0.0), torch.zeros(5, dtype=torch.float64))
    """
    check_points(z)
    check_estimator("estimator", estimator)
    return estimator.laplacian(evaluate_jet(u, z, t, estimator.request(u, z, t)))


def hessian(u: Field, z: Tensor, t: Time) -> Tensor:
    r"""Compute :math:`\nabla_z^2 u(z, t)`.

    Args:
        u: The field, see :func:`jet`.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.

    Returns:
        The Hessian, of shape ``(*batch, dim, dim)``.

    Raises:
        TypeError, ValueError: See :func:`jet`.

    Example:
        >>> import torch
        >>> z = torch.randn(2, dtype=torch.float64)
        >>> saddle = lambda z, t: z[..., 0] * z[..., 1]
        >>> torch.testing.assert_close(hessian(saddle, z, 0.0), torch.eye(2, dtype=torch.float64).flip(0))
    """
    return evaluate_jet(u, z, t, JetRequest(Derivative.HESSIAN)).hessian


@outside_autocast
def hessian_vector_product(u: Field, z: Tensor, t: Time, v: Tensor) -> Tensor:
    r"""Compute :math:`\nabla_z^2 u(z, t)\, v` without forming the Hessian.

    Args:
        u: The field, see :func:`jet`.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.
        v: The vectors: one for each point, ``(*batch, dim)``, or several, ``(*batch, m, dim)``.

    Returns:
        The products, of the shape of ``v``.

    Raises:
        TypeError: See :func:`jet`.
        ValueError: If ``v`` has neither shape; see also :func:`jet`.

    Example:
        >>> import torch
        >>> z = torch.randn(4, 2, dtype=torch.float64)
        >>> saddle = lambda z, t: z[..., 0] * z[..., 1]
        >>> torch.testing.assert_close(hessian_vector_product(saddle, z, 0.0, z), z.flip(-1))
    """
    check_points(z)
    if not isinstance(v, Tensor):
        raise TypeError(f"v: expected a tensor, got {describe(v)}")
    if v.is_complex() or v.dtype is torch.bool:
        raise TypeError(f"v: expected a tensor of real numbers, got {v.dtype}")
    single = v.shape == z.shape
    if not single and (v.ndim != z.ndim + 1 or v.shape[:-2] != z.shape[:-1] or v.shape[-1] != z.shape[-1]):
        batch = ", ".join(map(str, z.shape[:-1]))
        raise ValueError(f"v: expected shape {tuple(z.shape)} or ({batch}, m, {z.shape[-1]}), got {tuple(v.shape)}")
    probes = (v.unsqueeze(-2) if single else v).to(z)
    products = evaluate_jet(u, z, t, JetRequest(Derivative.PRODUCTS, probes)).products
    return products.squeeze(-2) if single else products


def second_time_derivative(u: Field, z: Tensor, t: Time) -> Tensor:
    r"""Compute :math:`\partial_t^2 u(z, t)`.

    Args:
        u: The field, see :func:`jet`.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.

    Returns:
        The derivative, of shape ``(*batch,)``.

    Raises:
        TypeError, ValueError: See :func:`jet`.

    Example:
        >>> import torch
        >>> z = torch.randn(4, 2, dtype=torch.float64)
        >>> wave = lambda z, t: torch.sin(z.sum(-1) - 3 * t)
        >>> torch.testing.assert_close(second_time_derivative(wave, z, 0.5), -9 * wave(z, torch.tensor(0.5).double()))
    """
    return evaluate_jet(u, z, t, JetRequest(Derivative.SECOND_TIME_DERIVATIVE)).second_time_derivative


def gradient_time_derivative(u: Field, z: Tensor, t: Time) -> Tensor:
    r"""Compute :math:`\partial_t \nabla_z u(z, t)`, the time derivative of the velocity at a fixed point.

    Args:
        u: The field, see :func:`jet`.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.

    Returns:
        The derivative, of shape ``(*batch, dim)``.

    Raises:
        TypeError, ValueError: See :func:`jet`.

    Example:
        >>> import torch
        >>> z = torch.randn(4, 2, dtype=torch.float64)
        >>> growing = lambda z, t: t**2 * z.pow(2).sum(-1) / 2
        >>> torch.testing.assert_close(gradient_time_derivative(growing, z, 1.5), 3 * z)
    """
    return evaluate_jet(u, z, t, JetRequest(Derivative.GRADIENT_TIME_DERIVATIVE)).gradient_time_derivative


class SamplingEstimator(Estimator, Protocol):
    """An estimator with a standard error."""

    def standard_error(self, jet: Jet) -> Tensor:
        """Compute the standard error ``(*batch,)`` from the jet that answers the request."""


@dataclass(frozen=True)
class LaplacianEstimate:
    """An estimate of the Laplacian.

    Attributes:
        value: The estimate, of shape ``(*batch,)``.
        standard_error: The standard error, of shape ``(*batch,)``, estimated from the spread of the probes.
    """

    value: Tensor
    standard_error: Tensor


@outside_autocast
def estimate_laplacian(u: Field, z: Tensor, t: Time, estimator: SamplingEstimator) -> LaplacianEstimate:
    r"""Estimate :math:`\Delta_z u(z, t)` by random probes, with the standard error.

    Args:
        u: The field, see :func:`latentflow.jet`.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.
        estimator: ``Hutchinson`` with at least 2 probes, or ``HutchPlusPlus`` with at least 6.

    Returns:
        The estimate and its error, one for each point.

    Raises:
        TypeError: See :func:`latentflow.jet`.
        ValueError: If there are too few probes; see also :func:`latentflow.jet`.

    Example:
        >>> import torch
        >>> from latentflow import Hutchinson
        >>> z = torch.randn(4, 3, dtype=torch.float64)
        >>> diagonal = estimate_laplacian(lambda z, t: z.pow(2).sum(-1), z, 0.0, Hutchinson(probes=8))
        >>> assert diagonal.standard_error.max() < 1e-12  # Rademacher probes are exact there
    """
    check_points(z)
    methods = ("request", "laplacian", "standard_error")
    check_methods("estimator", estimator, methods, "Hutchinson() or another estimator with a standard error")
    jet = evaluate_jet(u, z, t, estimator.request(u, z, t))
    return LaplacianEstimate(estimator.laplacian(jet), estimator.standard_error(jet))
