r"""The differential operators on scalar fields: functions of a callable, a point and a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, runtime_checkable

from torch import Tensor

from latentflow.calculus.arguments import Field, Time, check_points, expand_time
from latentflow.calculus.autodiff import autodiff_jet
from latentflow.calculus.estimators import Estimator, Exact
from latentflow.calculus.jets import Jet, JetRequest


@runtime_checkable
class SupportsJet(Protocol):
    """A field that knows its own derivatives."""

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the jet at ``z`` of shape ``(*batch, dim)`` and ``t`` of shape ``(*batch,)``."""


def evaluate_jet(u: Field, z: Tensor, t: Time, request: JetRequest) -> Jet:
    """Answer a request by the field's own rule where it has one, else by automatic differentiation.

    Args:
        u: The field.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.
        request: The second derivatives wanted.

    Returns:
        The jet.

    Raises:
        TypeError: If ``z`` is not a floating-point tensor, or ``u`` does not return a tensor.
        ValueError: If a shape does not fit.
    """
    check_points(z)
    time = expand_time(t, z)
    if isinstance(u, SupportsJet):
        return u.jet_rule(z, time, request)
    return autodiff_jet(u, z, time, request)


def jet(u: Field, z: Tensor, t: Time, laplacian: Estimator | None = Exact(), *, hessian: bool = False) -> Jet:  # noqa: B008 - frozen
    r"""Compute :math:`u, \nabla_z u, \partial_t u` and second derivatives of a field in one pass.

    Args:
        u: A potential, or any callable ``u(z, t)`` that maps ``(*batch, dim)`` and ``(*batch,)`` to ``(*batch,)``
            and treats every sample alone. It receives ``t`` as a tensor in the dtype and on the device of ``z``.
        z: The points, of shape ``(*batch, dim)``; any batch shape, ``()`` and size 0 included.
        t: The times: a number, or a tensor of shape ``()`` or ``(*batch,)``.
        laplacian: How to obtain the Laplacian, or None to leave it out.
        hessian: Whether to return the Hessian as well.

    Returns:
        The jet; differentiable with respect to ``z``, ``t`` and the parameters of ``u``. Inputs are not mutated.

    Raises:
        TypeError: If ``z`` is not a floating-point tensor, or ``u`` does not return a tensor.
        ValueError: If ``t`` does not broadcast to ``(*batch,)``, or ``u`` does not return shape ``(*batch,)``.

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> field = lambda z, t: t * z.pow(2).sum(-1) / 2
        >>> result = jet(field, z, 2.0)
        >>> torch.testing.assert_close(result.gradient, 2 * z)
        >>> torch.testing.assert_close(result.time_derivative, z.pow(2).sum(-1) / 2)
        >>> torch.testing.assert_close(result.laplacian, torch.full((5,), 6.0, dtype=torch.float64))
    """
    if laplacian is None:
        return evaluate_jet(u, z, t, JetRequest(hessian=hessian))
    check_points(z)
    result = evaluate_jet(u, z, t, replace(laplacian.request(z), hessian=hessian))
    return replace(result, laplacian=laplacian.laplacian(result))


def gradient(u: Field, z: Tensor, t: Time) -> Tensor:
    r"""Compute :math:`\nabla_z u(z, t)`, the velocity that the potential drives.

    Args:
        u: The field, see :func:`jet`.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.

    Returns:
        The gradient, of shape ``(*batch, dim)``.

    Raises:
        TypeError: See :func:`jet`.
        ValueError: See :func:`jet`.

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3)
        >>> torch.testing.assert_close(gradient(lambda z, t: z.pow(2).sum(-1) / 2, z, 0.0), z)
    """
    return evaluate_jet(u, z, t, JetRequest()).gradient


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
        TypeError: See :func:`jet`.
        ValueError: See :func:`jet`.

    Example:
        >>> import torch
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> saddle = lambda z, t: z[..., 0] * z[..., 1]  # harmonic, though its Hessian has row sums 1
        >>> torch.testing.assert_close(laplacian(saddle, z, 0.0), torch.zeros(5, dtype=torch.float64))
    """
    check_points(z)
    return estimator.laplacian(evaluate_jet(u, z, t, estimator.request(z)))


def hessian(u: Field, z: Tensor, t: Time) -> Tensor:
    r"""Compute :math:`\nabla_z^2 u(z, t)`.

    Args:
        u: The field, see :func:`jet`.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.

    Returns:
        The Hessian, of shape ``(*batch, dim, dim)``.

    Raises:
        TypeError: See :func:`jet`.
        ValueError: See :func:`jet`.

    Example:
        >>> import torch
        >>> z = torch.randn(2, dtype=torch.float64)
        >>> saddle = lambda z, t: z[..., 0] * z[..., 1]
        >>> torch.testing.assert_close(hessian(saddle, z, 0.0), torch.eye(2, dtype=torch.float64).flip(0))
    """
    result = evaluate_jet(u, z, t, JetRequest(hessian=True)).hessian
    if result is None:
        raise ValueError("u: expected its jet_rule to return the Hessian that was asked for, got None")
    return result
