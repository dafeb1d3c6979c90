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
    the trace and the Hessian take ``dim`` of them. No sample may depend on another one (so no batch norm).

    Args:
        u: The field, with values of shape ``(*batch,)``.
        z: The points, of shape ``(*batch, dim)``.
        t: The times, of shape ``(*batch,)``.
        request: The second derivatives wanted.

    Returns:
        The jet. It is differentiable to any order that ``u`` is, and can be computed under ``torch.no_grad``
        and ``torch.inference_mode``.

    Raises:
        TypeError: If ``u`` does not return a tensor.
        ValueError: If ``u`` does not return one value for each point.
    """

    def value_at(z: Tensor, t: Tensor) -> Tensor:
        return check_value(u(z, t), z)

    def gradient_at(z: Tensor) -> Tensor:
        result = vjp(lambda z: value_at(z, t), z)
        gradient: Tensor = result[1](torch.ones_like(result[0]))[0]
        return gradient

    def hessian_times(v: Tensor) -> Tensor:
        product: Tensor = jvp(gradient_at, (z,), (v,))[1]
        return product

    result = vjp(value_at, z, t)
    value: Tensor = result[0]
    gradient, time_derivative = result[1](torch.ones_like(value))
    laplacian = hessian = quadratic = None
    if request.laplacian or request.hessian:
        basis = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        directions = basis.reshape(-1, *(1,) * (z.ndim - 1), z.shape[-1]).expand(-1, *z.shape)
        columns = vmap(hessian_times)(directions).movedim(0, -1)
        hessian = columns if request.hessian else None
        laplacian = columns.diagonal(dim1=-2, dim2=-1).sum(-1) if request.laplacian else None
    if request.probes is not None:
        products = vmap(hessian_times, in_dims=-2)(request.probes).movedim(0, -2)
        quadratic = (request.probes * products).sum(-1)
    return Jet(value, gradient, time_derivative, laplacian, hessian, quadratic)
