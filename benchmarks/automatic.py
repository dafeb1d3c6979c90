"""Jets by automatic differentiation: what one would write by hand, and the operators of PINA."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, hessian, jacrev, jvp, vmap

import latentflow
from latentflow.calculus import Field

Numbers: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor]
"""Value, gradient, time derivative and Laplacian of a field."""

JetFunction: TypeAlias = Callable[[nn.Module, Tensor, Tensor], Numbers]
"""Computes them for a module, points of shape ``(batch, dim)`` and times of shape ``(batch,)``."""


def latentflow_jet(u: nn.Module, z: Tensor, t: Tensor) -> Numbers:
    """Compute the jet by the library."""
    jet = latentflow.jet(u, z, t)
    return jet.value, jet.gradient, jet.time_derivative, jet.laplacian


def _by_transforms(u: nn.Module, z: Tensor, t: Tensor, trace: Callable[[Field, Tensor, Tensor], Tensor]) -> Numbers:
    """Map over the samples: one reverse pass for all first derivatives, and the trace of the Hessian by a function."""
    parameters: dict[str, Tensor] = dict(u.named_parameters())

    def field(z: Tensor, t: Tensor) -> Tensor:
        value: Tensor = functional_call(u, parameters, (z, t))
        return value

    def at_one_point(z: Tensor, t: Tensor) -> Numbers:
        (gradient, time_derivative), value = grad_and_value(field, argnums=(0, 1))(z, t)
        return value, gradient, time_derivative, trace(field, z, t)

    numbers: Numbers = vmap(at_one_point)(z, t)
    return numbers


def trace_of_products(u: nn.Module, z: Tensor, t: Tensor) -> Numbers:
    """Compute the jet by ``torch.func``, the Laplacian as the sum of the ``e_i . H e_i``, each a jvp of grad."""
    basis = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)

    def trace(field: Field, z: Tensor, t: Tensor) -> Tensor:
        def diagonal_entry(v: Tensor) -> Tensor:
            product: Tensor = jvp(lambda z: grad(field)(z, t), (z,), (v,))[1]
            return (product * v).sum()

        entries: Tensor = vmap(diagonal_entry)(basis)
        return entries.sum()

    return _by_transforms(u, z, t, trace)


def trace_of_hessian(u: nn.Module, z: Tensor, t: Tensor) -> Numbers:
    """Compute the jet by ``torch.func``, the Laplacian as the trace of ``torch.func.hessian``, forward over reverse."""
    return _by_transforms(u, z, t, lambda field, z, t: hessian(field)(z, t).trace())


def trace_of_jacobian(u: nn.Module, z: Tensor, t: Tensor) -> Numbers:
    """Compute the jet by ``torch.func``, the Laplacian as the trace of jacrev of grad, reverse over reverse."""
    return _by_transforms(u, z, t, lambda field, z, t: jacrev(grad(field))(z, t).trace())


def pina_jet() -> JetFunction:
    """Import PINA and give the function that computes the jet by its operators ``grad`` and ``laplacian``.

    Only its tensor and its operators are imported: its package imports the trainer too, and with it torchvision, which
    has to fit the build of torch.
    """
    if "pina" not in sys.modules:
        spec = importlib.util.find_spec("pina")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("pina: expected an installed package, see benchmarks/requirements.txt")
        package = types.ModuleType("pina")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["pina"] = package
    label_tensor: Any = importlib.import_module("pina.label_tensor").LabelTensor
    operator: Any = importlib.import_module("pina.operator")

    def compute(u: nn.Module, z: Tensor, t: Tensor) -> Numbers:
        dim = z.shape[-1]
        names = [f"x{i}" for i in range(dim)]
        with torch.enable_grad():  # its operators need a graph
            inputs = torch.cat([z, t.unsqueeze(-1)], dim=-1).requires_grad_()
            points = label_tensor(inputs, labels=[*names, "t"])
            value = u(points.tensor[:, :dim], points.tensor[:, dim])
            output = label_tensor(value.unsqueeze(-1), labels=["u"])
            first = operator.grad(output, points).tensor
            second = operator.laplacian(output, points, d=names).tensor
        return value, first[:, :dim], first[:, dim], second.squeeze(-1)

    return compute
