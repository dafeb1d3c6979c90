r"""The jet of any callable by automatic differentiation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from latentflow.calculus.arguments import Field, check_value
from latentflow.calculus.jets import Jet, JetRequest


def autodiff_jet(u: Field, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
    r"""Differentiate a callable by ``torch.func``: one reverse pass, then forward over reverse.

    The reverse pass gives :math:`u, \nabla_z u, \partial_t u` together. Each direction :math:`v` of a
    second-order request costs one forward-mode product :math:`H v = \partial_\epsilon \nabla u(z + \epsilon v)`;
    the trace and the Hessian take ``dim`` of them. One more, along the time, gives :math:`\partial_t^2 u` and
    :math:`\partial_t \nabla u`. No sample may depend on another one (so no batch norm).

    Args:
        u: The field, with values of shape ``(*batch,)``.
        z: The points, of shape ``(*batch, dim)``.
        t: The times, of shape ``(*batch,)``.
        request: The second derivatives wanted; the Hessian in factors is not among them.

    Returns:
        The jet. It is differentiable to any order that ``u`` is, and can be computed under ``torch.no_grad``
        and ``torch.inference_mode``.

    Raises:
        TypeError: If ``u`` does not return a tensor.
        ValueError: If ``u`` does not return one value for each point.
    """
    z, t = z.contiguous(), t.contiguous()  # forward mode refuses points that share their memory, as a repeated time

    def derivatives(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        result = vjp(lambda z, t: check_value(u(z, t), z), z, t)
        value: Tensor = result[0]
        gradient, time_derivative = result[1](torch.ones_like(value))
        return value, gradient, time_derivative

    def hessian_times(v: Tensor) -> Tensor:
        product: Tensor = jvp(lambda z: derivatives(z, t)[1], (z,), (v,))[1]
        return product

    value, gradient, time_derivative = derivatives(z, t)
    laplacian = hessian = quadratic = products = second_time = gradient_time = None
    if request.laplacian or request.hessian:
        basis = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        directions = basis.reshape(-1, *(1,) * (z.ndim - 1), z.shape[-1]).expand(-1, *z.shape)
        columns = vmap(hessian_times)(directions).movedim(0, -1)
        hessian = columns if request.hessian else None
        laplacian = columns.diagonal(dim1=-2, dim2=-1).sum(-1) if request.laplacian else None
    if request.probes is not None:
        products = request.probes  # vmap does not map over nothing
        if products.shape[-2] > 0:
            products = vmap(hessian_times, in_dims=-2)(request.probes).movedim(0, -2)
        quadratic = (request.probes * products).sum(-1)
    if request.second_time_derivative or request.gradient_time_derivative:
        change = jvp(lambda t: derivatives(z, t)[1:], (t,), (torch.ones_like(t),))[1]
        gradient_time = change[0] if request.gradient_time_derivative else None
        second_time = change[1] if request.second_time_derivative else None
    return Jet(
        value,
        gradient,
        time_derivative,
        laplacian,
        hessian,
        quadratic,
        products=products if request.products else None,
        second_time_derivative=second_time,
        gradient_time_derivative=gradient_time,
    )
