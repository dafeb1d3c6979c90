r"""Compare tensors, and say where they differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import torch
from torch import Tensor

from latentflow.calculus import Jet, JetRequest


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
