"""Cases to check on: potentials with points, references by reverse mode, and comparisons."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from latentflow.calculus import Derivative, Field, InnerHessian, Jet, JetRequest, Time, evaluate_jet
from latentflow.calculus.checks import check_count, check_positive, check_seed, check_widths
from latentflow.calculus.jets import NONE, WITH_PROBES, WITHOUT_PROBES


def describe(request: JetRequest) -> str:
    """Name the derivatives of a request."""
    return f"request of {request.derivatives.names or 'value, gradient and time derivative only'}"


def tensors(jet: Jet) -> dict[str, Tensor]:
    """Return the fields of a jet by name, a Hessian in factors multiplied out."""
    first = {"value": jet.value, "gradient": jet.gradient, "time_derivative": jet.time_derivative}
    second = {derivative.names: tensor for derivative, tensor in jet.second.items()}
    if jet.factors is not None:
        core, factor = jet.factors.core, jet.factors.factor
        second["inner_hessian"] = factor.mT @ core @ factor
    return first | second


def require_close(name: str, actual: Tensor, expected: Tensor, tolerance: float, where: str, what: str) -> None:
    """Require agreement up to ``tolerance * (1 + max |expected|)``; an AssertionError names the worst entry."""
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
    """Require finite entries; the message of the AssertionError names the first other one."""
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
    """Differentiate the values of a field by reverse over reverse mode, every field of the jet, with a graph."""
    dim = z.shape[-1]
    value = u(z, t)
    gradient, time_derivative = derivative(value, z), derivative(value, t)
    hessian = torch.stack([derivative(gradient[..., i], z) for i in range(dim)], dim=-2)
    products = probes @ hessian.mT
    eye = torch.eye(dim, dtype=z.dtype, device=z.device)
    second = {
        Derivative.LAPLACIAN: hessian.diagonal(dim1=-2, dim2=-1).sum(-1),
        Derivative.HESSIAN: hessian,
        Derivative.QUADRATIC: (probes * products).sum(-1),
        Derivative.PRODUCTS: products,
        Derivative.SECOND_TIME_DERIVATIVE: derivative(time_derivative, t),
        Derivative.GRADIENT_TIME_DERIVATIVE: derivative(time_derivative, z),
    }
    return Jet(value, gradient, time_derivative, second, InnerHessian(hessian, eye))


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


def check_case(dim: int, batch: Sequence[int], seed: int, tolerance: float | None = None) -> None:
    """Check the numbers of a case; raise a TypeError or ValueError that names one that is out of range."""
    check_count("dim", dim)
    if math.prod(check_widths("batch", batch)) < 2:
        raise ValueError(f"batch: expected a shape of at least two samples, got {tuple(batch)}")
    check_seed(seed)
    if tolerance is not None:
        check_positive("tolerance", tolerance)


@dataclass(frozen=True)
class Case:
    """A copy of the user's potential, points ``(*batch, dim)``, times ``(*batch,)``, probes and a tolerance."""

    u: Field
    z: Tensor
    t: Tensor
    probes: Tensor
    tolerance: float

    @staticmethod
    def draw(u: Field, dim: int, batch: Sequence[int], seed: int, dtype: torch.dtype, tolerance: float | None) -> Case:
        """Copy the potential and draw the points; see :func:`check_potential`."""
        check_case(dim, batch, seed, tolerance)
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
        """The request for all derivatives at once."""
        inner = Derivative.INNER_HESSIAN if self.knows_inner else NONE
        return JetRequest(WITHOUT_PROBES | WITH_PROBES | inner, self.probes)

    @property
    def knows_inner(self) -> bool:
        """Whether the Hessian in factors may be requested."""
        return getattr(self.u, "inner_width", None) is not None

    def requests(self) -> list[JetRequest]:
        """Return every kind of request alone, and those that a rule may well answer on another path."""
        alone = [*WITHOUT_PROBES, Derivative.LAPLACIAN | Derivative.HESSIAN]
        inner = [JetRequest(Derivative.INNER_HESSIAN)] if self.knows_inner else []
        return [
            JetRequest(),
            *(JetRequest(derivatives) for derivatives in alone),
            JetRequest(Derivative.QUADRATIC, self.probes),
            JetRequest(Derivative.PRODUCTS, self.probes),
            JetRequest(WITH_PROBES, self.probes),
            JetRequest(Derivative.LAPLACIAN | Derivative.QUADRATIC, self.probes),
            *inner,
            self.everything,
        ]

    def value(self, where: str, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the potential."""
        with explained("value", where):
            return self.u(z, t)

    def fields(self, where: str, z: Tensor, t: Time, request: JetRequest) -> dict[str, Tensor]:
        """Evaluate a request and return the fields of the answer, none of which may be missing."""
        with explained("jet_rule", where):
            return tensors(evaluate_jet(self.u, z, t, request))

    def compare(self, actual: dict[str, Tensor], expected: dict[str, Tensor], where: str, what: str) -> None:
        """Require that the fields named in ``expected`` agree with it."""
        for name, wanted in expected.items():
            require_close(name, actual[name], wanted, self.tolerance, where, what)


def device_of(u: Field) -> torch.device:
    """Return the device of a module's parameters or buffers, the CPU without any."""
    held = [*u.parameters(), *u.buffers()] if isinstance(u, nn.Module) else []
    return held[0].device if held else torch.device("cpu")


def converted(subject: Subject, dtype: torch.dtype, name: str = "u") -> Subject:
    """Copy a module into a dtype; hand anything else back as it is. The name is for the message."""
    if not isinstance(subject, nn.Module):
        return subject
    with explained(name, "copy.deepcopy"):
        return copy.deepcopy(subject).to(dtype)
