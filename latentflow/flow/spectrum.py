r"""The volumes of :math:`I + tH` at many times from one factorisation of a symmetric matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def log_dets(hessian: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    r"""Compute :math:`\log|\det(I + tH)| = \sum_i \log|1 + t \lambda_i|` at all times.

    Gradients, to the matrix and the times, are those of the determinant, :math:`t (I + tH)^{-1}`, so that equal
    eigenvalues do no harm, in second derivatives either.

    Args:
        hessian: Symmetric matrices, of shape ``(*batch, dim, dim)``.
        times: The times, of shape ``(T,)``.

    Returns:
        The log-determinants, of shape ``(T, *batch)``, and without a graph the factors :math:`1 + t \lambda_i` by
        increasing :math:`\lambda_i`, of shape ``(T, *batch, dim)``.
    """
    log_det, factors = _LogDets.apply(hessian, times)  # type: ignore[no-untyped-call]
    return log_det, factors


class _LogDets(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hessian: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - the context
        values, vectors = torch.linalg.eigh(hessian)
        factors = 1 + _spread(times, values.ndim) * values
        ctx.save_for_backward(hessian, times, values, vectors, factors)
        ctx.mark_non_differentiable(factors)
        return factors.abs().log().sum(-1), factors

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401 - the context
        hessian, times, values, vectors, factors = ctx.saved_tensors
        slope = slopes[0].unsqueeze(-1)
        to_hessian = to_times = None
        if torch.is_grad_enabled():  # it will be differentiated again
            inverses = torch.linalg.inv(_identity_plus(times, hessian))
            if ctx.needs_input_grad[0]:
                to_hessian = (slope.unsqueeze(-1) * _spread(times, hessian.ndim) * inverses).sum(0)
            if ctx.needs_input_grad[1]:
                traces = (inverses * hessian.mT).sum((-2, -1))
                to_times = (slope.squeeze(-1) * traces).flatten(1).sum(1)
            return to_hessian, to_times
        if ctx.needs_input_grad[0]:
            weights = (slope * _spread(times, values.ndim) / factors).sum(0)
            to_hessian = (vectors * weights.unsqueeze(-2)) @ vectors.mT
        if ctx.needs_input_grad[1]:
            to_times = (slope * values / factors).flatten(1).sum(1)
        return to_hessian, to_times


def _spread(times: Tensor, ndim: int) -> Tensor:
    return times.reshape(-1, *(1,) * ndim)


def _identity_plus(times: Tensor, hessian: Tensor) -> Tensor:
    eye = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    return eye + _spread(times, hessian.ndim) * hessian
