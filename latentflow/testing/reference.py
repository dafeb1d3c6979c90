r"""The jet of a field by reverse mode alone, which shares nothing with the rules and with ``torch.func``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from latentflow.calculus import Field, InnerHessian, Jet


def reverse_jet(u: Field, z: Tensor, t: Tensor, probes: Tensor) -> Jet:
    """Differentiate the values of a field by reverse over reverse mode, every field of the jet.

    Args:
        u: The field; only its values are used.
        z: The points, of shape ``(*batch, dim)``, a leaf that requires gradients.
        t: The times, of shape ``(*batch,)``, a leaf that requires gradients.
        probes: The directions, of shape ``(*batch, probes, dim)``.

    Returns:
        The jet, with a graph to the points, the times and the parameters. Its Hessian in factors has the factor one.
    """
    dim = z.shape[-1]
    value = u(z, t)
    gradient, time_derivative = derivative(value, z), derivative(value, t)
    hessian = torch.stack([derivative(gradient[..., i], z) for i in range(dim)], dim=-2)
    products = probes @ hessian.mT
    eye = torch.eye(dim, dtype=z.dtype, device=z.device)
    return Jet(
        value=value,
        gradient=gradient,
        time_derivative=time_derivative,
        laplacian=hessian.diagonal(dim1=-2, dim2=-1).sum(-1),
        hessian=hessian,
        quadratic=(probes * products).sum(-1),
        products=products,
        second_time_derivative=derivative(time_derivative, t),
        gradient_time_derivative=derivative(time_derivative, z),
        inner_hessian=InnerHessian(hessian, eye),
    )


def derivative(output: Tensor, source: Tensor) -> Tensor:
    """Differentiate the sum of an output; zero where it does not depend on the source."""
    total = output.sum()
    if not total.requires_grad:
        return torch.zeros_like(source)
    slope = torch.autograd.grad(total, source, create_graph=True, allow_unused=True, materialize_grads=True)
    return slope[0]


def slopes_of(total: Tensor, sources: Sequence[Tensor]) -> Sequence[Tensor]:
    """Differentiate a number and keep its graph; zero where it does not depend on a source."""
    if not total.requires_grad:
        return [torch.zeros_like(source) for source in sources]
    return torch.autograd.grad(total, sources, retain_graph=True, allow_unused=True, materialize_grads=True)


def weighted_slopes(field: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Differentiate a field in the inputs, with a weight of its own for each entry."""
    generator = torch.Generator().manual_seed(field.numel())
    weights = torch.randn(field.shape, generator=generator, dtype=torch.float64).to(field)
    found = slopes_of((field * weights).sum(), list(inputs.values()))
    return dict(zip(inputs, found, strict=True))
