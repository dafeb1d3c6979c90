r"""Leave automatic mixed precision where second derivatives are computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from latentflow.calculus.arguments import Field

P = ParamSpec("P")
U = TypeVar("U", bound=Field)
R = TypeVar("R")


def outside_autocast(function: Callable[Concatenate[U, Tensor, P], R]) -> Callable[Concatenate[U, Tensor, P], R]:
    """Make a function of a field and points run outside ``torch.autocast``, in float32 or better.

    Second derivatives and determinants lose too much in bfloat16. Points of a lower precision, as another layer under
    autocast gives them, are taken to float32 first; outside autocast nothing changes.

    Args:
        function: Takes a field ``u``, points ``z``, and more.

    Returns:
        The same function, to be called in any mode.

    Example:
        >>> @outside_autocast
        ... def square(u, z):
        ...     return z @ z
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     assert square(None, torch.eye(2, dtype=torch.bfloat16)).dtype == torch.float32
    """

    @wraps(function)
    def wrapped(u: U, z: Tensor, *args: P.args, **kwargs: P.kwargs) -> R:
        if not isinstance(z, Tensor) or not _autocasts(z.device.type):
            return function(u, z, *args, **kwargs)
        with torch.autocast(z.device.type, enabled=False):
            full = z.to(torch.promote_types(z.dtype, torch.float32)) if z.is_floating_point() else z
            return function(u, full, *args, **kwargs)

    return cast("Callable[Concatenate[U, Tensor, P], R]", wrapped)


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
