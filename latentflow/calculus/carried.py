"""Quantities inside of a field with their derivatives, and the rules of sums, products and functions of each entry."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.func import grad, vmap
from torch.nn import functional as F

from latentflow.calculus.scripts import SCRIPTS, ScriptedFieldError

Operand: TypeAlias = Any
"""What an operation takes or returns: a quantity with derivatives, a tensor, a number, or another argument of torch."""

Rule: TypeAlias = Callable[..., Operand]

RULES: dict[str, Rule] = {}
"""How an operation treats quantities with derivatives, by the name under which torch has it."""


class UnknownOperationError(NotImplementedError):
    """An operation of a field through which derivatives are not carried forward; the message names it."""


class Carried(Tensor):
    """A quantity inside of a field, with its derivatives in the point and the time.

    Each derivative is None where it is zero, and may have size one along dimensions on which it does not depend.

    Attributes:
        value: The quantity, of the shape of this tensor.
        tangents: Its derivatives in the coordinates, of shape ``(dim, *shape)``.
        second: The sum of its second derivatives in the coordinates, of shape ``(*shape)``.
        rate: Its derivative in the time, of shape ``(*shape)``.
    """

    value: Tensor
    tangents: Tensor | None
    second: Tensor | None
    rate: Tensor | None

    @staticmethod
    def __new__(
        cls: type[Carried],
        value: Tensor,
        tangents: Tensor | None = None,
        second: Tensor | None = None,
        rate: Tensor | None = None,
    ) -> Carried:
        """Make the quantity; it has no memory of its own."""
        make = Tensor._make_wrapper_subclass
        carried = make(cls, value.shape, dtype=value.dtype, device=value.device)
        carried.value, carried.tangents, carried.second, carried.rate = value, tangents, second, rate
        return carried

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Operand],
        types: Iterable[type],
        args: tuple[Operand, ...] = (),
        kwargs: Operand = None,
    ) -> Operand:
        """Apply the rule of an operation."""
        if isinstance(func, SCRIPTS):
            raise ScriptedFieldError
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = str(getattr(func.__self__, "__name__", ""))  # type: ignore[attr-defined]  # of an attribute
            if name in ATTRIBUTES:
                return getattr(args[0].value, name)
        rule = RULES.get(name)
        if rule is None:
            raise UnknownOperationError(name)
        return rule(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Operand, types: Operand, args: Operand = (), kwargs: Operand = None) -> Operand:  # type: ignore[override]  # torch calls it so
        """Refuse what reaches the memory of the quantity without a rule."""
        raise UnknownOperationError(str(func))


ATTRIBUTES = frozenset(
    {"shape", "dtype", "device", "ndim", "layout", "is_cuda", "requires_grad", "is_sparse", "is_nested", "is_meta"}
)
"""Attributes that are those of the value."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def carry(value: Tensor, tangents: Tensor | None, second: Tensor | None, rate: Tensor | None) -> Tensor:
    """Return a quantity with its derivatives, or as it is if all are zero."""
    if tangents is None and second is None and rate is None:
        return value
    return Carried(value, tangents, second, rate)


def value_of(x: Operand) -> Operand:
    """Return the value of what may be carried."""
    return x.value if isinstance(x, Carried) else x


def lift(part: Tensor | None, ndim: int, lead: int = 0) -> Tensor | None:
    """Give a derivative as many dimensions as a result has, behind the directions that it leads with."""
    if part is None or part.ndim == ndim + lead:
        return part
    return part.reshape(*part.shape[:lead], *(1,) * (ndim + lead - part.ndim), *part.shape[lead:])


def plus(*parts: Tensor | None) -> Tensor | None:
    """Add derivatives of which None is zero."""
    total: Tensor | None = None
    for part in parts:
        if part is not None:
            total = part if total is None else total + part
    return total


def times(part: Tensor | None, factor: Operand) -> Tensor | None:
    """Multiply a derivative of which None is zero."""
    return None if part is None else part * factor


# Functions of each entry


def by_entry(x: Carried, value: Tensor, slope: Tensor, curvature: Tensor | None) -> Tensor:
    """Carry through a function of each entry with these derivatives; a curvature of None is zero."""
    bent = None
    if x.tangents is not None and curvature is not None:
        bent = curvature * x.tangents.square().sum(0)
    return carry(value, times(x.tangents, slope), plus(times(x.second, slope), bent), times(x.rate, slope))


def smooth(function: Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]) -> Rule:
    """Return the rule of a function of each entry, given with its first two derivatives."""

    def apply(x: Carried) -> Operand:
        return by_entry(x, *function(x.value))

    return apply


def _tanh(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = v.tanh()
    slope = 1 - y * y
    return y, slope, -2 * y * slope


def _sigmoid(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = v.sigmoid()
    slope = y * (1 - y)
    return y, slope, slope * (1 - 2 * y)


def _sin(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = v.sin()
    return y, v.cos(), -y


def _cos(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = v.cos()
    return y, -v.sin(), -y


def _exp(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = v.exp()
    return y, y, y


def _log(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    slope = v.reciprocal()
    return v.log(), slope, -slope.square()


def _sqrt(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = v.sqrt()
    slope = 0.5 / y
    return y, slope, -slope / (2 * v)


def _rsqrt(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = v.rsqrt()
    slope = -0.5 * y / v
    return y, slope, -1.5 * slope / v


def _square(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return v.square(), 2 * v, torch.full_like(v, 2.0)


def _reciprocal(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    y = v.reciprocal()
    return y, -y.square(), 2 * y**3


def _abs(v: Tensor) -> tuple[Tensor, Tensor, None]:
    return v.abs(), v.sign(), None


RULES |= {
    name: smooth(function)
    for function in (_tanh, _sigmoid, _sin, _cos, _exp, _log, _sqrt, _rsqrt, _square, _reciprocal, _abs)
    for name in (function.__name__.removeprefix("_"),)
}


@rule("neg", "__neg__")
def _neg(x: Carried) -> Operand:
    return carry(-x.value, times(x.tangents, -1), times(x.second, -1), times(x.rate, -1))


@rule("relu")
def _relu(x: Carried, inplace: bool = False) -> Operand:
    if inplace:
        raise UnknownOperationError("relu in place")
    return by_entry(x, x.value.relu(), (x.value > 0).to(x.value), None)


@rule("silu")
def _silu(x: Carried, inplace: bool = False) -> Operand:
    if inplace:
        raise UnknownOperationError("silu in place")
    gate, v = x.value.sigmoid(), x.value
    bend = gate * (1 - gate)
    return by_entry(x, v * gate, gate + v * bend, bend * (2 + v * (1 - 2 * gate)))


@rule("gelu")
def _gelu(x: Carried, approximate: str = "none") -> Operand:
    if approximate != "none":
        return _of_each_entry("gelu")(x, approximate=approximate)
    v = x.value
    density = torch.exp(-0.5 * v.square()) / math.sqrt(2 * math.pi)
    mass = 0.5 * (1 + torch.erf(v / math.sqrt(2)))
    return by_entry(x, v * mass, mass + v * density, density * (2 - v.square()))


@rule("softplus")
def _softplus(x: Carried, beta: float = 1.0, threshold: float = 20.0) -> Operand:
    gate = torch.sigmoid(beta * x.value)
    linear = beta * x.value > threshold
    slope = torch.where(linear, torch.ones_like(gate), gate)
    bend = torch.where(linear, torch.zeros_like(gate), beta * gate * (1 - gate))
    return by_entry(x, F.softplus(x.value, beta, threshold), slope, bend)


@rule("pow", "__pow__")
def _pow(x: Operand, exponent: Operand) -> Operand:
    if isinstance(exponent, Tensor) or not isinstance(x, Carried):
        raise UnknownOperationError("a power that is a tensor")
    if exponent == 2:
        return by_entry(x, *_square(x.value))
    v, n = x.value, exponent
    if n in (0, 1):
        return x if n == 1 else torch.ones_like(v)
    return by_entry(x, v**n, n * v ** (n - 1), n * (n - 1) * v ** (n - 2))


def _of_each_entry(name: str) -> Rule:
    """Return the rule of a function of each entry, whose derivatives torch computes."""
    function = next(vars(place)[name] for place in (F, torch) if name in vars(place))

    def apply(x: Carried, *args: Operand, **kwargs: Operand) -> Operand:
        given = (*args, *kwargs.values())  # a flag among them writes in place
        if any(isinstance(other, Tensor) or other is True for other in given):
            raise UnknownOperationError(name)

        def plain(v: Tensor) -> Operand:
            return function(v, *args, **kwargs)

        slope = grad(lambda v: plain(v).sum())
        curvature = grad(lambda v: slope(v).sum())
        return by_entry(x, plain(x.value), slope(x.value), curvature(x.value))

    return apply


RULES |= {
    name: _of_each_entry(name)
    for name in (
        *("elu", "selu", "celu", "leaky_relu", "mish", "hardtanh", "hardswish", "softsign", "logsigmoid", "tanhshrink"),
        *("atan", "asinh", "sinh", "cosh", "tan", "erf", "expm1", "log1p", "exp2", "sinc", "clamp", "acosh"),
        *("asin", "acos", "atanh", "log2", "log10", "logit", "erfc", "lgamma"),
    )
}


# Sums and products


def _pair(x: Operand, y: Operand, value: Tensor) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
    """Return tangents, second derivatives and rates of two quantities, with as many dimensions as their result."""
    parts = []
    for one in (x, y):
        if isinstance(one, Carried):
            found = (lift(one.tangents, value.ndim, 1), lift(one.second, value.ndim), lift(one.rate, value.ndim))
        else:
            found = (None, None, None)
        parts.append(found)
    return parts[0], parts[1]


@rule("add", "__add__", "__radd__")
def _add(x: Operand, y: Operand, *, alpha: float = 1) -> Operand:
    value = torch.add(value_of(x), value_of(y), alpha=alpha) if alpha != 1 else value_of(x) + value_of(y)
    first, second = _pair(x, y, value)
    return carry(value, *(plus(a, b if alpha == 1 else times(b, alpha)) for a, b in zip(first, second, strict=True)))


@rule("sub", "__sub__", "subtract")
def _sub(x: Operand, y: Operand, *, alpha: float = 1) -> Operand:
    value = value_of(x) - value_of(y) * alpha if alpha != 1 else value_of(x) - value_of(y)
    first, second = _pair(x, y, value)
    return carry(value, *(plus(a, times(b, -alpha)) for a, b in zip(first, second, strict=True)))


@rule("rsub", "__rsub__")
def _rsub(x: Operand, y: Operand) -> Operand:
    return _sub(y, x)


@rule("mul", "__mul__", "__rmul__", "multiply")
def _mul(x: Operand, y: Operand) -> Operand:
    a, b = value_of(x), value_of(y)
    value = a * b
    (xt, xs, xr), (yt, ys, yr) = _pair(x, y, value)
    cross = None if xt is None or yt is None else 2 * (xt * yt).sum(0)
    second = plus(times(xs, b), times(ys, a), cross)
    return carry(value, plus(times(xt, b), times(yt, a)), second, plus(times(xr, b), times(yr, a)))


@rule("div", "__truediv__", "true_divide", "divide")
def _div(x: Operand, y: Operand) -> Operand:
    if isinstance(y, Carried):
        return _mul(x, by_entry(y, *_reciprocal(y.value)))
    value = x.value / y
    return carry(value, *(None if part is None else part / y for part in _pair(x, y, value)[0]))


@rule("__rdiv__", "__rtruediv__")
def _rdiv(x: Carried, y: Operand) -> Operand:
    return _div(y, x)


def full_parts(x: Carried) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the derivatives of a quantity at its whole shape."""
    shape = x.value.shape
    return (
        None if x.tangents is None else x.tangents.expand(-1, *shape),
        None if x.second is None else x.second.expand(shape),
        None if x.rate is None else x.rate.expand(shape),
    )


def linear_map(x: Carried, function: Callable[[Tensor], Operand], value: Operand = None) -> Operand:
    """Carry through a linear function, whose result for the value may differ by a constant."""
    tangents, second, rate = full_parts(x)
    results = function(x.value) if value is None else value
    if isinstance(results, Tensor):
        moved = None if tangents is None else vmap(function)(tangents)
        return carry(results, moved, *(None if part is None else function(part) for part in (second, rate)))
    several = [
        [None] * len(results) if found is None else found
        for found in (
            None if tangents is None else vmap(function)(tangents),
            *(None if part is None else function(part) for part in (second, rate)),
        )
    ]
    return tuple(carry(*parts) for parts in zip(results, *several, strict=True))


LIKE = frozenset({"to", "type_as", "view_as", "expand_as", "reshape_as"})
"""Operations that take the dtype or the shape of their second argument."""


def _linear_operation(name: str) -> Rule:
    """Return the rule of an operation that is linear in its first argument, a method of tensors or a function."""
    place = next(place for place in (Tensor, torch, F) if hasattr(place, name))
    function = getattr(place, {"view": "reshape"}.get(name, name))  # derivatives may have other strides than the value

    def apply(x: Operand, *args: Operand, **kwargs: Operand) -> Operand:
        if name in LIKE:
            args = tuple(map(value_of, args))
            if not isinstance(x, Carried):
                return function(x, *args, **kwargs)
        given = (*args, *kwargs.values())
        if not isinstance(x, Carried) or any(isinstance(other, Carried | torch.dtype) for other in given):
            raise UnknownOperationError(name)
        return linear_map(x, lambda part: function(part, *args, **kwargs))

    return apply


RULES |= {
    name: _linear_operation(name)
    for name in (
        *("__getitem__", "reshape", "view", "flatten", "unflatten", "unsqueeze", "squeeze", "permute", "transpose"),
        *("movedim", "swapaxes", "expand", "repeat", "repeat_interleave", "narrow", "select", "index_select", "take"),
        *("chunk", "split", "unbind", "roll", "flip", "sum", "mean", "cumsum", "diagonal", "diff", "gather", "tile"),
        *("clone", "contiguous", "float", "double", "to", "type_as", "view_as", "expand_as", "reshape_as", "trace"),
        *("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "interpolate", "tril"),
        *("triu", "broadcast_to", "t", "swapdims", "ravel", "unfold", "masked_select", "take_along_dim"),
    )
}


@rule("mT")
def _transposed(x: Carried) -> Operand:
    return linear_map(x, lambda part: part.mT)


@rule("T")
def _reversed(x: Carried) -> Operand:
    if x.value.ndim != 2:
        raise UnknownOperationError("T of other than a matrix")
    return _transposed(x)


@rule("pad")
def _pad(x: Carried, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Operand:
    return linear_map(x, lambda part: F.pad(part, pad, mode), F.pad(x.value, pad, mode, value))


@rule("masked_fill")
def _masked_fill(x: Operand, mask: Tensor, value: Operand) -> Operand:
    if not isinstance(x, Carried) or isinstance(value, Carried):
        raise UnknownOperationError("masked_fill with a carried value")
    return linear_map(x, lambda part: part.masked_fill(mask, 0), x.value.masked_fill(mask, value))


@rule("prod")
def _prod(x: Carried, dim: int | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Operand:
    if dim is None or dtype is not None or x.value.shape[dim] == 0:
        raise UnknownOperationError("prod of other than the entries along a dimension")
    product = functools.reduce(_mul, x.unbind(dim))
    return product.unsqueeze(dim) if keepdim else product


@rule("cat", "concat", "concatenate")
def _cat(tensors: Sequence[Operand], dim: int = 0) -> Operand:
    values = [value_of(one) for one in tensors]
    value = torch.cat(values, dim=dim)
    place = dim % value.ndim
    parts: list[Tensor | None] = []
    for kind, lead in (("tangents", 1), ("second", 0), ("rate", 0)):
        own = [getattr(one, kind) if isinstance(one, Carried) else None for one in tensors]
        given = [part for part in own if part is not None]
        if not given:
            parts.append(None)
            continue
        shapes = []
        for part, one in zip(own, values, strict=True):
            shape = list(part.shape) if part is not None else [*given[0].shape[:lead], *(1,) * one.ndim]
            shape[place + lead] = 1
            shapes.append(shape)
        common = list(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]  # torch has no types for it
        pieces = []
        for part, one in zip(own, values, strict=True):
            common[place + lead] = one.shape[place]
            pieces.append(given[0].new_zeros(()).expand(common) if part is None else part.expand(common))
        parts.append(torch.cat(pieces, dim=place + lead))
    return carry(value, *parts)


@rule("stack")
def _stack(tensors: Sequence[Operand], dim: int = 0) -> Operand:
    return _cat([one.unsqueeze(dim) for one in tensors], dim=dim)


@rule("where")
def _where(condition: Tensor, x: Operand, y: Operand) -> Operand:
    if isinstance(condition, Carried):
        raise UnknownOperationError("where as a method")
    value = torch.where(condition, value_of(x), value_of(y))
    zero = value.new_zeros(())
    parts = []
    for a, b in zip(*_pair(x, y, value), strict=True):
        both = (zero if a is None else a, zero if b is None else b)
        parts.append(None if a is None and b is None else torch.where(condition, *both))
    return carry(value, *parts)


# What does not depend on the derivatives


def _of_value(name: str) -> Rule:
    def apply(*args: Operand, **kwargs: Operand) -> Operand:
        return getattr(Tensor, name)(*map(value_of, args), **kwargs)

    return apply


RULES |= {
    name: _of_value(name)
    for name in (
        *("size", "dim", "numel", "is_floating_point", "is_complex", "stride", "is_contiguous", "element_size"),
        *("gt", "lt", "ge", "le", "eq", "ne", "__gt__", "__lt__", "__ge__", "__le__", "__eq__", "__ne__", "isfinite"),
        *("detach", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "sign", "floor", "ceil", "round"),
        *("__len__", "get_device", "nelement", "type", "argsort", "argmax", "argmin", "isnan"),
    )
} | {
    name: (lambda x, *args, _name=name, **kwargs: getattr(torch, _name)(x.value, *args, **kwargs))
    for name in ("zeros_like", "ones_like", "full_like", "rand_like", "randn_like")
}
