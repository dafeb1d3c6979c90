"""Checks of arguments: the one place that says what was expected and what came.

Every check raises a TypeError or ValueError whose text is "name: expected ..., got ...".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily

Shape: TypeAlias = Sequence[int | str]
"""A shape with sizes, and names for sizes that are free; a name with a star stands for any number of sizes."""


def describe(value: object) -> str:
    """Describe a value that was not expected, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        text = ascii(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    return type(value).__name__


def check_index(k: int | Tensor, count: int) -> Tensor:
    """Return indices of fields as a tensor; raise a TypeError or ValueError unless they are int64 in ``0..count-1``."""
    if isinstance(k, int) and not isinstance(k, bool):
        if not 0 <= k < count:
            raise ValueError(f"k: expected indices in 0..{count - 1}, got {describe(k)}")
        return torch.tensor(k, device="cpu")
    if not isinstance(k, Tensor):
        raise TypeError(f"k: expected an integer or an int64 tensor, got {describe(k)}")
    if k.dtype != torch.int64:
        raise TypeError(f"k: expected an int64 index, got {k.dtype}")
    if k.numel() > 0 and (int(k.min()) < 0 or int(k.max()) >= count):
        raise ValueError(f"k: expected indices in 0..{count - 1}, got {int(k.min())}..{int(k.max())}")
    return k


def check_count(name: str, value: int) -> None:
    """Check that an argument is a positive integer; raise a ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, got {describe(value)}")
    if value > torch.iinfo(torch.int64).max:
        raise ValueError(f"{name}: expected an integer below 2**63, got {describe(value)}")


MAX_STEPS = 1_000_000
"""The largest number of steps that is not taken for a mistake."""


def check_steps(name: str, value: int) -> None:
    """Check that an argument is an integer of at least 0, and not too many steps; raise a ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name}: expected an integer of at least 0, got {describe(value)}")
    if value > MAX_STEPS:
        raise ValueError(f"{name}: expected at most {MAX_STEPS:,}, got {describe(value)}")


def check_seed(seed: int) -> None:
    """Check the seed of a generator; raise a ValueError unless it is an integer in ``0..2**63-1``."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed: expected an integer of at least 0 and below 2**63, got {describe(seed)}")


def check_widths(name: str, widths: Sequence[int]) -> tuple[int, ...]:
    """Return sizes as a tuple; raise a TypeError or ValueError unless they are positive integers, at least one."""
    if isinstance(widths, (str, bytes)) or not isinstance(widths, Sequence):
        raise TypeError(f"{name}: expected a sequence of positive integers, got {describe(widths)}")
    if len(widths) == 0 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in widths):
        raise ValueError(f"{name}: expected at least one positive integer, and no others, got {tuple(widths)}")
    return tuple(widths)


def check_hidden(hidden: Sequence[int]) -> None:
    """Check the widths of the hidden layers of a network; raise a TypeError or ValueError unless they are positive."""
    check_widths("hidden", hidden)


def check_image_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of an image; raise a TypeError or ValueError unless it is (channels, height, width)."""
    sizes = check_widths(name, shape)
    if len(sizes) != 3:
        raise ValueError(f"{name}: expected (channels, height, width), got {sizes}")
    return sizes


def check_conv_shape(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of an image; raise a TypeError or ValueError unless its height and width are divisible by 4."""
    sizes = check_image_shape(name, shape)
    if sizes[1] % 4 or sizes[2] % 4:
        raise ValueError(f"{name}: expected (channels, height, width) with sides divisible by 4, got {sizes}")
    return sizes


def check_finite_number(name: str, value: float) -> float:
    """Return a number; raise a TypeError unless it is a real number, and a ValueError unless it is finite."""
    number = _real(name, value, "a finite number")
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {describe(value)}")
    return number


def check_positive(name: str, value: float) -> float:
    """Return a number; raise a TypeError or ValueError unless it is positive and finite."""
    number = _real(name, value, "a positive number")
    if not 0 < number < math.inf:
        raise ValueError(f"{name}: expected a positive number, got {describe(value)}")
    return number


def check_nonnegative(name: str, value: float) -> float:
    """Return a number; raise a TypeError or ValueError unless it is finite and at least 0."""
    number = _real(name, value, "a number of at least 0")
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: expected a number of at least 0, got {describe(value)}")
    return number


def is_real(value: object) -> TypeGuard[float]:
    """Return whether a value is a real number, which True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _real(name: str, value: float, expected: str) -> float:
    if not is_real(value):
        raise TypeError(f"{name}: expected {expected}, got {describe(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def check_flag(name: str, value: bool) -> None:
    """Check that an argument is True or False; raise a TypeError otherwise."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {describe(value)}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check that an argument is one of several words; raise a ValueError otherwise."""
    if not isinstance(value, str) or value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"{name}: expected {', '.join(others)} or {last}, got {describe(value)}")


def check_callable(name: str, value: object, what: str = "a callable u(z, t)") -> None:
    """Check that an argument is a function or an object that can be called; raise a TypeError otherwise."""
    if not callable(value) or isinstance(value, type):
        raise TypeError(f"{name}: expected {what}, got {describe(value)}")


def check_methods(name: str, value: object, methods: Sequence[str], what: str) -> None:
    """Check that an argument is an object with some methods; raise a TypeError otherwise."""
    if isinstance(value, (type, Tensor)) or not all(callable(getattr(value, method, None)) for method in methods):
        raise TypeError(f"{name}: expected {what}, got {describe(value)}")


def check_instance(name: str, value: object, kind: type[Any] | tuple[type[Any], ...], what: str) -> None:
    """Check the class of an argument; raise a TypeError otherwise."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {what}, got {describe(value)}")


def check_generator(generator: torch.Generator | None) -> None:
    """Check the source of randomness; raise a TypeError unless it is a ``torch.Generator`` or None."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator or None, got {describe(generator)}")


def check_sequence(name: str, value: object, what: str, check: Callable[[str, Any], object] | None = None) -> None:
    """Check that an argument is a sequence with at least one entry, and each entry by ``check``."""
    if isinstance(value, (str, bytes, Tensor)) or not isinstance(value, Sequence):
        raise TypeError(f"{name}: expected a sequence of {what}s, got {describe(value)}")
    if len(value) == 0:
        raise ValueError(f"{name}: expected at least one {what}, got none")
    if check is not None:
        for entry in value:
            check(name, entry)


def check_tensor(name: str, value: Tensor, shape: Shape | None = None, like: Tensor | None = None) -> None:
    """Check that an argument is a floating-point tensor of a shape, and of the dtype and device of another tensor.

    Args:
        name: The name of the argument.
        value: The argument.
        shape: The shape, such as ``("*batch", "dim")`` or ``(3, "width")``; None for any.
        like: A tensor of the dtype and on the device that are expected; None for any.

    Raises:
        TypeError: If it is no floating-point tensor, or of another dtype.
        ValueError: If its shape or its device is another one.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor{_of(shape)}, got {describe(value)}")
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {value.dtype}")
    if shape is not None and not _fits(value.shape, shape):
        raise ValueError(f"{name}: expected shape {_text(shape)}, got {tuple(value.shape)}")
    if like is not None:
        check_like(name, value, like)


def check_like(name: str, value: Tensor, like: Tensor) -> None:
    """Check that a tensor has the dtype and the device of another; raise a TypeError or ValueError otherwise."""
    if value.dtype != like.dtype:
        raise TypeError(f"{name}: expected a tensor of {like.dtype}, got {value.dtype}; convert it, or the module")
    if value.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device}, got one on {value.device}")


def check_finite_tensor(name: str, value: Tensor) -> None:
    """Check that every entry of a tensor is finite; raise a ValueError otherwise. On meta there are no entries."""
    if not value.is_meta and not torch.isfinite(value).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def _fits(sizes: Sequence[int], shape: Shape) -> bool:
    names = list(shape)
    star = next((i for i, name in enumerate(names) if isinstance(name, str) and name.startswith("*")), None)
    if star is not None:  # as many free sizes as there are
        names[star : star + 1] = ["any"] * (len(sizes) - len(names) + 1)
    same_length = len(sizes) == len(names)
    return same_length and all(isinstance(name, str) or name == n for name, n in zip(names, sizes, strict=True))


def _text(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"


def _of(shape: Shape | None) -> str:
    return "" if shape is None else f" of shape {_text(shape)}"


def check_images(name: str, value: Tensor, shape: Shape, like: Tensor | None = None) -> None:
    """Check the kind and the shape of images, and the dtype outside of autocast; raise a TypeError or ValueError."""
    if isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex():
        raise TypeError(f"{name}: expected floating-point images in [0, 1], got {value.dtype}; divide integers by 255")
    check_tensor(name, value, shape)
    if like is not None and not autocasts(value.device.type):
        check_like(name, value, like)


def autocasts(device: str) -> bool:
    """Return whether ``torch.autocast`` is on for a kind of device, where torch converts the tensors of a product."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


class Mixture(MixtureSameFamily):
    """A mixture that refuses values whose events have another shape, and takes none at all."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-probability of values ``(*batch, *event)``; raise a ValueError for events of other shapes."""
        check_tensor("value", value, ("*batch", *self.event_shape))
        result: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]  # torch has no types for it
        return result


class Events(Independent[Distribution]):
    """An independent distribution that refuses values whose events have another shape; torch would broadcast them."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-probability of values ``(*batch, *event)``; raise a ValueError for events of other shapes."""
        check_tensor("value", value, ("*batch", *self.event_shape))
        try:
            torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)  # type: ignore[no-untyped-call]  # torch has no types for it
        except RuntimeError:
            message = f"a batch shape that broadcasts to {tuple(self.batch_shape)}, got {tuple(value.shape)}"
            raise ValueError(f"value: expected {message}") from None
        terms: Tensor = self.base_dist.log_prob(value)
        return terms.sum(tuple(range(-self.reinterpreted_batch_ndims, 0)))


def expand_weight(weight: Tensor, batch: torch.Size) -> Tensor:
    """Expand a weight to the batch shape; raise a ValueError if it does not broadcast."""
    try:
        return weight.expand(batch)
    except RuntimeError:
        message = f"weight: expected a number or a shape that broadcasts to {tuple(batch)}, got {tuple(weight.shape)}"
        raise ValueError(message) from None


def check_points(z: Tensor, dim: int | None = None, like: Tensor | None = None, name: str = "z") -> None:
    """Check that points are a floating-point tensor ``(*batch, dim)``; raise a TypeError or ValueError otherwise.

    With ``like``, a weight, they have its dtype and device; inside of autocast torch converts them.
    """
    if not isinstance(z, Tensor):
        raise TypeError(f"{name}: expected a tensor of shape (*batch, {dim or 'dim'}), got {describe(z)}")
    if not z.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {z.dtype}")
    if z.ndim == 0 or z.shape[-1] == 0 or (dim is not None and z.shape[-1] != dim):
        raise ValueError(f"{name}: expected shape (*batch, {dim or 'dim'}), got {tuple(z.shape)}")
    if like is not None and (z.dtype != like.dtype or z.device != like.device) and not autocasts(z.device.type):
        check_like(name, z, like)


def check_time(t: float | Tensor) -> None:
    """Check that a time is a finite real number, or a real tensor; raise a TypeError or ValueError otherwise."""
    if isinstance(t, Tensor):
        if t.dtype is torch.bool or t.is_complex():
            raise TypeError(f"t: expected real times, got a tensor of {t.dtype}")
    elif not is_real(t):
        raise TypeError(f"t: expected a number or a tensor of times, got {describe(t)}")
    else:
        check_finite_number("t", t)


def expand_time(t: float | Tensor, z: Tensor) -> Tensor:
    """Return one time for each point ``z``, of shape ``(*batch,)``; raise a ValueError if ``t`` does not broadcast."""
    check_time(t)
    time = torch.as_tensor(t, dtype=z.dtype, device=z.device)
    batch = z.shape[:-1]
    try:
        return time.expand(batch)
    except RuntimeError:
        message = (
            f"t: expected a number, shape () or a shape that broadcasts to {tuple(batch)}, got {tuple(time.shape)}"
        )
        raise ValueError(message) from None


def check_value(value: Tensor, z: Tensor) -> Tensor:
    """Return the value of a field at ``z``; raise a TypeError or ValueError unless it is a tensor ``(*batch,)``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"u: expected u(z, t) to return a tensor, got {type(value).__name__}")
    if value.shape != z.shape[:-1]:
        raise ValueError(
            f"u: expected u(z, t) to return shape {tuple(z.shape[:-1])} for z of shape {tuple(z.shape)}, "
            f"got {tuple(value.shape)}"
        )
    return value
