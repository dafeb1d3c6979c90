"""Data, training and evaluation around the latentflow library (installed by the ``experiments`` extra)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentflow_experiments.configuration import ModelConfig as ModelConfig
    from latentflow_experiments.data.arrays import ArraySequences as ArraySequences
    from latentflow_experiments.fitting import evaluate as evaluate
    from latentflow_experiments.fitting import fit as fit

__all__ = ["ArraySequences", "ModelConfig", "evaluate", "fit"]

_HOMES = {"ArraySequences": "data.arrays", "ModelConfig": "configuration", "evaluate": "fitting", "fit": "fitting"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for, since ``--help`` answers without torch (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
