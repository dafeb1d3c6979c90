r"""The evaluation of jets: by the rule of a field, carried forward through its operations, or by torch.func."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from latentflow.calculus.checks import check_callable, describe
from latentflow.calculus.forward_laplacian import ByFormula, forward_jet
from latentflow.calculus.jets import (
    Derivative,
    Field,
    Jet,
    JetRequest,
    SupportsJet,
    Time,
    check_answer,
    check_points,
    check_value,
    expand_time,
    outside_autocast,
    transformed,
)


@outside_autocast
def evaluate_jet(u: Field, z: Tensor, t: Time, request: JetRequest) -> Jet:
    r"""Answer a request by the field's own rule where it has one, else by automatic differentiation.

    A request for the Laplacian alone is answered by :func:`forward_jet` if every operation of the field has a rule
    there, at about ``dim + 2`` evaluations of the field. All else is answered by :func:`autodiff_jet`: a Hessian or
    other second derivatives, the operations that :func:`forward_jet` names, and calls inside of ``torch.func``
    transforms or ``torch.compile``.

    Args:
        u: The field.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.
        request: The second derivatives wanted.

    Returns:
        The jet; under ``torch.autocast`` in float32, or in float64 where ``z`` is.

    Raises:
        TypeError: If ``u`` is not callable or does not return a tensor, or ``z`` is not a floating-point tensor.
        ValueError: If a shape does not fit, or the rule of ``u`` leaves out what was requested.
    """
    check_points(z)
    time = expand_time(t, z)
    if not isinstance(request, JetRequest):
        raise TypeError(f"request: expected a JetRequest, got {describe(request)}")
    if request.probes is not None:
        request = _fit_probes(request, request.probes, z)
    if isinstance(u, SupportsJet) and not isinstance(u, type):
        jet = _rule_of(u, request)(z, time, request)
        check_answer(jet, request)
        if jet.gradient.shape != z.shape:
            raise ValueError(
                f"u: expected its jet_rule to return a gradient of shape {tuple(z.shape)}, "
                f"got {tuple(jet.gradient.shape)}"
            )
        return jet
    return automatic_jet(u, z, time, request)


def _rule_of(u: SupportsJet, request: JetRequest) -> Callable[[Tensor, Tensor, JetRequest], Jet]:
    """Return the rule of a field, compiled if it is and serves the request."""
    compiled: Callable[[Tensor, Tensor, JetRequest], Jet] | None = getattr(u, "_compiled_rule", None)
    return u.jet_rule if compiled is None or Derivative.LAPLACIAN in request or transformed() else compiled


def automatic_jet(u: Field, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
    """Answer a request by automatic differentiation: carried forward where that can be, else by ``torch.func``.

    Args:
        u: The field.
        z: The points, of shape ``(*batch, dim)``.
        t: The times, of shape ``(*batch,)``.
        request: The second derivatives wanted.

    Returns:
        The jet.

    Raises:
        TypeError, ValueError: See :func:`evaluate_jet`.
    """
    check_callable("u", u)
    if not (transformed() or torch.compiler.is_compiling()):
        with suppress(Exception):  # an operation without a rule; what is wrong with the field is said below
            if request.derivatives == Derivative.LAPLACIAN:
                return forward_jet(u, z, t)
            if request.detached == Derivative.LAPLACIAN in request:
                with torch.no_grad():
                    trace = forward_jet(u, z, t).laplacian
                rest = replace(request, derivatives=request.derivatives & ~Derivative.LAPLACIAN)
                return autodiff_jet(u, z, t, rest).including(Derivative.LAPLACIAN, trace)
    return autodiff_jet(u, z, t, request)


def _fit_probes(request: JetRequest, probes: Tensor, z: Tensor) -> JetRequest:
    if probes.shape[:-2] != z.shape[:-1] or probes.shape[-1] != z.shape[-1]:
        batch = "".join(f"{size}, " for size in z.shape[:-1])
        raise ValueError(f"probes: expected shape ({batch}probes, {z.shape[-1]}), got {tuple(probes.shape)}")
    return request if probes.dtype == z.dtype else replace(request, probes=probes.to(z.dtype))


def autodiff_jet(u: Field, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
    r"""Differentiate a callable by ``torch.func``: one reverse pass, then forward over reverse.

    The reverse pass gives :math:`u, \nabla_z u, \partial_t u` together. Each direction :math:`v` of a second-order
    request costs one forward-mode product :math:`H v = \partial_\epsilon \nabla u(z + \epsilon v)`; the trace and the
    Hessian take ``dim`` of them. One along the time gives :math:`\partial_t^2 u` and :math:`\partial_t \nabla u`.
    No sample may depend on another one (so no batch norm).

    The jet is differentiable to any order that ``u`` is, also under ``torch.no_grad`` and ``torch.inference_mode``.
    """
    check_points(z)
    check_callable("u", u)
    if not isinstance(request, JetRequest):
        raise TypeError(f"request: expected a JetRequest, got {describe(request)}")
    t = expand_time(t, z)
    z, t = z.contiguous(), t.contiguous()  # forward mode refuses points that share their memory, as a repeated time

    def derivatives(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with ByFormula():
            result = vjp(lambda z, t: check_value(u(z, t), z), z, t)
        value: Tensor = result[0]
        gradient, time_derivative = result[1](torch.ones_like(value))
        return value, gradient, time_derivative

    def hessian_times(v: Tensor) -> Tensor:
        product: Tensor = jvp(lambda z: derivatives(z, t)[1], (z,), (v,))[1]
        return product

    def hessian() -> Tensor:
        basis = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        directions = basis.reshape(-1, *(1,) * (z.ndim - 1), z.shape[-1]).expand(-1, *z.shape)
        columns: Tensor = vmap(hessian_times)(directions).movedim(0, -1)
        return columns

    def products(probes: Tensor) -> Tensor:
        if probes.shape[-2] == 0:  # vmap does not map over nothing
            return probes
        applied: Tensor = vmap(hessian_times, in_dims=-2)(probes).movedim(0, -2)
        return applied

    value, gradient, time_derivative = derivatives(z, t)
    change: tuple[Tensor, ...] = ()
    if request.derivatives & (Derivative.SECOND_TIME_DERIVATIVE | Derivative.GRADIENT_TIME_DERIVATIVE):
        change = jvp(lambda t: derivatives(z, t)[1:], (t,), (torch.ones_like(t),))[1]
    return Jet.answer(
        request,
        value,
        gradient,
        time_derivative,
        hessian=hessian,
        products=products,
        second_time_derivative=lambda: change[1],
        gradient_time_derivative=lambda: change[0],
    )
