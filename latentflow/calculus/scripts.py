"""Fields that TorchScript has compiled, through which torch.func has no second derivatives."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

import torch
from torch import Tensor, nn

SCRIPTS = (torch._C.ScriptMethod, torch._C.ScriptFunction)
"""The code of TorchScript."""

DEPTH = 3
"""How many functions and objects a field is followed through."""

LISTED = 16
"""How many entries of a list are looked at."""


class ScriptedFieldError(TypeError):
    """A field calls TorchScript, through which torch.func computes second derivatives as zero.

    From its second call on the interpreter runs graphs that do not carry the tangents of forward mode, and of which no
    graph is recorded, so that a gradient cannot be differentiated again.
    """

    def __init__(self) -> None:
        super().__init__(
            "u: expected operations of torch, got TorchScript, through which torch.func computes second derivatives as "
            "zero; pass the module or function that torch.jit compiled"
        )


def calls_script(u: object, depth: int = DEPTH) -> bool:
    """Return whether a field is compiled by TorchScript, or refers to something that is.

    Looked at are the parts and attributes of a module or another object, and the variables that a function takes from
    around it, by their names; what it looks up while it runs is not. While torch compiles, it is the parts alone.

    Args:
        u: The field, or something that it refers to.
        depth: How many functions and objects to follow.

    Returns:
        Whether TorchScript was found.
    """
    parts = u.modules() if isinstance(u, nn.Module) else [u]
    if any(isinstance(part, (torch.jit.ScriptModule, *SCRIPTS)) for part in parts):
        return True
    if torch.compiler.is_compiling():  # which cannot trace what follows
        return False
    return depth > 0 and any(calls_script(part, depth - 1) for part in _referred(u))


def _referred(u: object) -> Iterator[object]:
    """Yield what an object refers to and could call."""
    if isinstance(u, type | ModuleType | BuiltinFunctionType | Tensor | str | int | float):
        return
    if isinstance(u, nn.Module):
        for part in u.modules():
            yield from _held(part)
    elif isinstance(u, partial):
        yield from (u.func, *u.args, *u.keywords.values())
    elif isinstance(u, MethodType):
        yield from (u.__self__, u.__func__)
    elif isinstance(u, FunctionType):
        yield from (*(u.__defaults__ or ()), *(u.__kwdefaults__ or {}).values())
        yield from (u.__globals__[name] for name in u.__code__.co_names if name in u.__globals__)
        for cell in u.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # a variable without a value yet
                continue
    elif isinstance(u, list | tuple):
        yield from u[:LISTED]
    else:
        yield from _held(u)


def _held(u: object) -> Iterator[object]:
    """Yield the attributes of an object that could be called or hold what could."""
    for value in getattr(u, "__dict__", {}).values():
        if callable(value) or isinstance(value, list | tuple):
            yield value
