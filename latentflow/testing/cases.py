"""Cases to check on: potentials with points, references by reverse mode, and comparisons."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor, nn

from latentflow.calculus import Field, InnerHessian, Jet, JetRequest, Time, evaluate_jet


def describe(request: JetRequest) -> str:
    """Name what a request asks for."""
    parts = [field.name for field in fields(request) if field.name != "probes" and getattr(request, field.name)]
    if request.probes is not None:
        parts.append("probes")
    return f"request of {', '.join(parts) or 'value, gradient and time derivative only'}"


def tensors(jet: Jet) -> dict[str, Tensor]:
    """Give the fields of a jet that are not None, a Hessian in factors multiplied out."""
    result = {field.name: getattr(jet, field.name) for field in fields(jet) if field.name != "inner_hessian"}
    if jet.inner_hessian is not None:
        core, factor = jet.inner_hessian.core, jet.inner_hessian.factor
        result["inner_hessian"] = factor.mT @ core @ factor
    return {name: tensor for name, tensor in result.items() if tensor is not None}


def require_close(name: str, actual: Tensor, expected: Tensor, tolerance: float, where: str, what: str) -> None:
    """Require agreement up to ``tolerance * (1 + max |expected|)``.

    Args:
        name: What is compared.
        actual: What was found.
        expected: What should have been found.
        tolerance: The relative tolerance.
        where: Under which circumstances, for the message.
        what: What ``expected`` is, for the message.

    Raises:
        AssertionError: If shapes or dtypes differ, or an entry is further off; the message names the worst one.
    """
    if not isinstance(actual, Tensor):
        raise AssertionError(f"{name}, {where}: expected a tensor, got {type(actual).__name__}")
    if actual.shape != expected.shape:
        raise AssertionError(f"{name}, {where}: expected shape {tuple(expected.shape)}, got {tuple(actual.shape)}")
    if actual.dtype != expected.dtype:
        raise AssertionError(f"{name}, {where}: expected dtype {expected.dtype}, got {actual.dtype}")
    if actual.numel() == 0:
        return
    found, wanted = actual.detach(), expected.detach()
    error = torch.where(found == wanted, 0.0, (found - wanted).abs()).nan_to_num(nan=torch.inf)
    worst = int(error.argmax())
    if float(error.flatten()[worst]) <= tolerance * (1 + float(wanted.abs().max())):
        return
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), error.shape))
    raise AssertionError(
        f"{name}, {where}: expected {what}, {float(wanted.flatten()[worst]):.6g} at index {index}, "
        f"got {float(found.flatten()[worst]):.6g}; the largest error is {float(error.flatten()[worst]):.2g}"
    )


def require_finite(name: str, actual: Tensor, where: str) -> None:
    """Require that there is no infinity and no NaN.

    Args:
        name: What is looked at.
        actual: What was found.
        where: Under which circumstances, for the message.

    Raises:
        AssertionError: If an entry is not finite; the message names the first one.
    """
    bad = ~torch.isfinite(actual)
    if bad.any():
        index = tuple(bad.nonzero()[0].tolist())
        raise AssertionError(f"{name}, {where}: expected finite numbers, got {float(actual[index])} at index {index}")


@contextmanager
def explained(name: str, where: str) -> Iterator[None]:
    """Turn any error into an AssertionError that says where it came from."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{name}, {where}: expected no error, got {type(error).__name__}: {error}") from error


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


Subject = TypeVar("Subject")


BASE = ("value", "gradient", "time_derivative")


@dataclass(frozen=True)
class Case:
    """A potential, points and times, probes, and how far a field may be off.

    Attributes:
        u: The potential, a copy of the user's.
        z: The points, of shape ``(*batch, dim)``.
        t: The times, of shape ``(*batch,)``.
        probes: The directions, of shape ``(*batch, probes, dim)``.
        tolerance: The tolerance, relative to one plus the largest entry of a field.
    """

    u: Field
    z: Tensor
    t: Tensor
    probes: Tensor
    tolerance: float

    @staticmethod
    def draw(u: Field, dim: int, batch: Sequence[int], seed: int, dtype: torch.dtype, tolerance: float | None) -> Case:
        """Copy the potential and draw the points; see :func:`check_potential`."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(*batch, dim, generator=generator, dtype=torch.float64)
        t = torch.rand(*batch, generator=generator, dtype=torch.float64)
        probes = torch.randn(*batch, 2, dim, generator=generator, dtype=torch.float64)
        limit = math.sqrt(torch.finfo(dtype).eps) if tolerance is None else tolerance
        device = device_of(u)
        points, times, directions = (x.to(device, dtype) for x in (z, t, probes))
        return Case(converted(u, dtype), points, times, directions, limit)

    @property
    def everything(self) -> JetRequest:
        """All that can be asked for, at once."""
        return JetRequest(
            laplacian=True,
            hessian=True,
            probes=self.probes,
            products=True,
            second_time_derivative=True,
            gradient_time_derivative=True,
            inner_hessian=self.knows_inner,
        )

    @property
    def knows_inner(self) -> bool:
        """Whether the Hessian in factors may be asked for."""
        return getattr(self.u, "inner_width", None) is not None

    def requests(self) -> list[JetRequest]:
        """Every kind of request alone, and those that a rule may well answer on another path."""
        inner = [JetRequest(inner_hessian=True)] if self.knows_inner else []
        return [
            JetRequest(),
            JetRequest(laplacian=True),
            JetRequest(hessian=True),
            JetRequest(laplacian=True, hessian=True),
            JetRequest(probes=self.probes),
            JetRequest(probes=self.probes, products=True),
            JetRequest(laplacian=True, probes=self.probes),
            JetRequest(second_time_derivative=True),
            JetRequest(gradient_time_derivative=True),
            *inner,
            self.everything,
        ]

    def value(self, where: str, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the potential."""
        with explained("value", where):
            return self.u(z, t)

    def fields(self, where: str, z: Tensor, t: Time, request: JetRequest) -> dict[str, Tensor]:
        """Put a request and give the fields of the answer, none of which may be missing."""
        with explained("jet_rule", where):
            jet = evaluate_jet(self.u, z, t, request)
        if not isinstance(jet, Jet):
            raise AssertionError(f"jet_rule, {where}: expected a Jet, got {type(jet).__name__}")
        answer = tensors(jet)
        for name in asked_fields(request):
            if name not in answer:
                raise AssertionError(f"{name}, {where}: expected what was asked for, got None")
        return answer

    def compare(self, actual: dict[str, Tensor], expected: dict[str, Tensor], where: str, what: str) -> None:
        """Require that the fields named in ``expected`` agree with it."""
        for name, wanted in expected.items():
            require_close(name, actual[name], wanted, self.tolerance, where, what)


def asked_fields(request: JetRequest) -> list[str]:
    """Name the fields that an answer to a request has to hold."""
    flags = ("laplacian", "hessian", "products", "second_time_derivative", "gradient_time_derivative", "inner_hessian")
    asked = [*BASE, *(name for name in flags if getattr(request, name))]
    return asked if request.probes is None else [*asked, "quadratic"]


def device_of(u: Field) -> torch.device:
    """Give the device of a module's parameters or buffers, the CPU without any."""
    held = [*u.parameters(), *u.buffers()] if isinstance(u, nn.Module) else []
    return held[0].device if held else torch.device("cpu")


def converted(subject: Subject, dtype: torch.dtype, name: str = "u") -> Subject:
    """Copy a module into a dtype; hand anything else back as it is. The name is for the message."""
    if not isinstance(subject, nn.Module):
        return subject
    with explained(name, "copy.deepcopy"):
        return copy.deepcopy(subject).to(dtype)
