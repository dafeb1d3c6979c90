r"""A potential with points to check it at."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from latentflow.calculus import Field, Jet, JetRequest, Time, evaluate_jet
from latentflow.testing.comparison import explained, require_close, tensors

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
