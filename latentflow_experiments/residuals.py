"""The residual of a run by its name, or from a file of the user's."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from latentflow import HJResidual, PDEResidual, pde
from latentflow.pde import NonPositiveForce
from latentflow_experiments.errors import UsageError


def check_pde(name: str) -> None:
    """Check that a PDE is one of :data:`RESIDUALS`, or has the form ``MODULE:CLASS`` or ``FILE.py:CLASS``.

    Args:
        name: The name.

    Raises:
        UsageError: If it is neither.
    """
    if name not in RESIDUALS and not all(name.rpartition(":")[::2]):
        raise UsageError(f"pde: expected one of {', '.join(RESIDUALS)}, or MODULE:CLASS or FILE.py:CLASS, got {name!r}")


def code_file(name: str) -> Path | None:
    """Return the file of a PDE of the form ``FILE.py:CLASS``; None for another form."""
    source = name.rpartition(":")[0]
    return Path(source) if name not in RESIDUALS and source.endswith(".py") else None


def build_residual(name: str, dim: int, hidden: Sequence[int]) -> PDEResidual | None:
    """Build the residual of a PDE with freshly initialized coefficients.

    Coefficients learn and start at 0.1, the speed of waves at 1. The Fokker-Planck equation has the drift ``-z``,
    whose stationary law is normal.

    Args:
        name: One of :data:`RESIDUALS`, or ``MODULE:CLASS`` or ``FILE.py:CLASS``, where the class takes no arguments.
        dim: The number of latent coordinates.
        hidden: The widths of the hidden layers of a learned force.

    Returns:
        The residual, None for ``"none"`` and for those in :data:`SOLVED`.

    Raises:
        UsageError: If the class cannot be had, or is no :class:`PDEResidual`.
    """
    return RESIDUALS[name](dim, hidden) if name in RESIDUALS else _load(name)


def _exported() -> list[type[PDEResidual]]:
    """List the residuals of potentials that latentflow.pde exports."""
    exported = (getattr(pde, name) for name in pde.__all__)
    residuals = (x for x in exported if isinstance(x, type) and issubclass(x, PDEResidual) and x is not PDEResidual)
    return sorted((x for x in residuals if x.acts_on == "potential"), key=lambda residual: residual.name)


RESIDUALS: dict[str, Callable[[int, Sequence[int]], PDEResidual | None]] = {
    **{residual.name: residual.learnable for residual in _exported()},
    "forced-hj": lambda dim, hidden: HJResidual(NonPositiveForce(dim, hidden)),
    "exact-hj": lambda _dim, _hidden: None,
    "convex-hj": lambda _dim, _hidden: None,
    "none": lambda _dim, _hidden: None,
}
"""The equations by name: those that latentflow.pde exports, and four more."""

SOLVED = frozenset({"exact-hj", "convex-hj"})
"""Equations that the flow satisfies by construction, without a residual."""


def _load(name: str) -> PDEResidual:
    check_pde(name)
    source, _, attribute = name.rpartition(":")
    try:
        made = getattr(_module(source), attribute)
        if not isinstance(made, type) or not issubclass(made, PDEResidual):  # nothing else is ever called
            raise TypeError(f"{attribute} is no PDEResidual class")
        return made()
    except Exception as error:  # whatever the user's file raises
        raise UsageError(f"pde: expected a class in {source}, got {type(error).__name__}: {error}") from error


def _module(source: str) -> ModuleType:
    if not source.endswith(".py"):
        return importlib.import_module(source)
    spec = importlib.util.spec_from_file_location(Path(source).stem, source)
    if spec is None or spec.loader is None:
        raise ImportError(source)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(module.__name__, module)
    spec.loader.exec_module(module)
    return module
