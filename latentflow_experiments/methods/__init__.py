"""The methods that are compared: a module for each family, found by its ``METHODS``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, make_dataclass
from typing import Annotated, Any

import tyro
from docstring_parser import parse

from latentflow_experiments.methods.method import Method

__all__ = ["METHODS", "MethodOptions", "build_options", "find_methods"]


def find_methods() -> dict[str, Method[Any]]:
    """Collect the ``METHODS`` of all modules of this package.

    Returns:
        The methods by their names, the flows of latentflow first and the others as the modules are sorted.

    Raises:
        ValueError: If two methods have one name.
    """
    found: dict[str, Method[Any]] = {}
    for module in sorted((m.name for m in pkgutil.iter_modules(__path__)), key=lambda name: (name != "flow", name)):
        for method in getattr(importlib.import_module(f"{__name__}.{module}"), "METHODS", ()):
            if method.name in found:
                raise ValueError(f"methods: expected one method of each name, got two of {method.name!r}")
            found[method.name] = method
    return found


def build_options(methods: Mapping[str, Method[Any]]) -> type:
    """Build a dataclass with the options of all methods, which the command line shows one by one.

    The checks and the documentation are those of the dataclasses of the methods.
    """
    kinds = tuple(method.options for method in methods.values() if method.options is not None)

    def check(options: object) -> None:
        for kind in kinds:
            kind(**{option.name: getattr(options, option.name) for option in fields(kind)})

    return make_dataclass(
        "MethodOptions",
        [_option(kind, option) for kind in kinds for option in fields(kind)],
        namespace={"__post_init__": check, "__doc__": "The options of single methods.", "__module__": __name__},
        frozen=True,
    )


def _option(kind: type, option: Field[Any]) -> tuple[str, Any, Any]:
    """Make a field of the common dataclass, with the line that documents it in the dataclass of a method."""
    shown = {p.arg_name: p.description for p in parse(kind.__doc__ or "").params}.get(option.name)
    assert option.default is not MISSING, "an option of a method has a default"
    return option.name, Annotated[type(option.default), tyro.conf.arg(help=shown)], field(default=option.default)


METHODS = find_methods()
"""The methods, by their names on the command line."""

MethodOptions = build_options(METHODS)
"""A dataclass with the options of all methods."""
