"""Wrong values in the place of a right one, each with a label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class Stranger:
    """An object that nobody expects."""


def wrong_values(right: object) -> Iterator[tuple[str, object]]:
    """Generate values that may be wrong in the place of a right one."""
    yield "none", None
    yield "stranger", Stranger()
    match right:
        case Tensor():
            yield "text", "three"
            yield from wrong_tensors(right)
        case bool():
            yield from (("text", "yes"), ("number", 2), ("tensor", torch.ones(2)), ("list", [True]), ("nan", math.nan))
        case int():
            yield "text", "three"
            yield from (
                ("number", 1.5),
                ("nan", math.nan),
                ("complex", 1j),
                ("negative", -1),
                ("zero", 0),
                ("bool", True),
            )
            yield from (("huge", 10**30), ("tensor", torch.ones(2)), ("list", [1]), ("bank", Stranger))
        case float():
            yield "text", "three"
            yield from (
                ("nan", math.nan),
                ("inf", math.inf),
                ("minus inf", -math.inf),
                ("complex", 1 + 1j),
                ("bool", True),
            )
            yield from (("zero", 0.0), ("negative", -1.0), ("huge", 10**400), ("list", [1.0]))
            yield from (
                ("tensor", torch.ones(2)),
                ("scalar tensor", torch.tensor(0.5)),
                ("complex tensor", torch.ones(2) * 1j),
            )
        case str():
            yield from (
                ("nonsense", "nonsense"),
                ("no text", ""),
                ("number", 3),
                ("tensor", torch.ones(2)),
                ("list", [right]),
            )
        case Sequence():
            yield "text", "three"
            yield from wrong_sequences(right)
        case _:
            yield "text", "three"
            yield from (("number", 3.0), ("list", [1.0]), ("tensor", torch.ones(2)), ("class", Stranger))


def wrong_tensors(right: Tensor) -> Iterator[tuple[str, object]]:
    """Generate tensors, numbers and lists in the place of a tensor."""
    right = right.detach()
    yield "number", 1 if not right.is_floating_point() else 1.0
    yield "list", right.tolist()
    yield "array", right.detach().numpy()
    yield "complex", right.to(torch.complex64)
    yield "bool", right.to(torch.bool)
    if right.is_floating_point():
        yield "integer", right.round().long()
        yield "double", right.to(torch.float64 if right.dtype == torch.float32 else torch.float32)
        for label, value in (("nan", math.nan), ("inf", math.inf)):
            broken = right.clone()
            broken.flatten()[0] = value
            yield label, broken.reshape(right.shape)
    else:
        yield "float", right.float()
        yield "int32", right.int()
        yield "too large", right + 100
        yield "negative", right - 100
    if right.ndim > 0:
        yield "scalar", right.flatten()[0]
        yield "vector", right[0] if right.ndim > 1 else right[:1].reshape(())
        yield "wider", torch.cat([right, right[..., :1]], -1)
        yield "narrower", right[..., :0]
        yield "extra dim", right.unsqueeze(0)
        yield "empty", right[:0]


def wrong_sequences(right: Sequence[object]) -> Iterator[tuple[str, object]]:
    """Generate sequences in the place of one."""
    yield "number", 3
    yield "empty", type(right)()
    for label, value in (("text in it", "a"), ("none in it", None), ("nan in it", math.nan), ("complex in it", 1j)):
        yield label, [value, *right[1:]]
    if isinstance(right[0], int):
        yield from (
            ("zero in it", [0, *right[1:]]),
            ("negative in it", [-1, *right[1:]]),
            ("float in it", [1.5, *right[1:]]),
        )
    if isinstance(right[0], float) and len(right) > 1:
        yield from (
            ("equal", [right[0]] * len(right)),
            ("inf in it", [*right[:-1], math.inf]),
            ("nested", [list(right)]),
        )
