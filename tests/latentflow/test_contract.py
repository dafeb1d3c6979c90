"""Every public name with wrong arguments: a TypeError or ValueError that names the argument, or what is documented."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import warnings
from dataclasses import fields, is_dataclass

import pytest
import torch
from contracts.cases import Case, all_cases
from contracts.values import wrong_values
from torch import Tensor

import latentflow
from latentflow.flow import InversionError, PushForward, Trajectory

CASES = {case.name: case for case in all_cases()}
LEAST_CALLS = 6000
POINTS = ("z", "z0", "t", "value", "a")
"""Where infinity is a value like others: bounded fields have finite values there."""
NOT_CALLED = {
    "calculus": {
        "Derivative",
        "Estimator",
        "Exact",
        "Field",
        "LaplacianEstimate",
        "Noise",
        "SamplingEstimator",
        "SupportsJet",
        "Time",
        "UnknownOperationError",
    },
    "potentials": {"LayeredPotential", "Layers", "Potential", "TimeEmbedding"},
    "flow": {
        "DensitySource",
        "Flow",
        "FoldError",
        "FoldWarning",
        "InversionError",
        "LogDet",
        "OnFold",
        "Root",
        "RootSearch",
        "RunningCost",
        "Scheme",
        "SeriesWarning",
        "SolverError",
        "Step",
        "StepDeterminant",
        "StepSolver",
        "Times",
    },
    "pde": {"Collocation", "PDEResidual", "Weighting"},
    "priors": {"Prior"},
    "transport": {
        "BlurWarning",
        "Certificate",
        "ConvergenceWarning",
        "Coordinates",
        "Coupling",
        "PairCertificate",
        "Training",
        "TransportMethod",
        "Validation",
    },
    "vae": {"Bound", "LabelEstimator", "Likelihood", "Objective"},
    "testing": {"check_flow", "check_prior"},
}
"""Types, protocols, abstract bases, errors and results, which users do not build; the last two take seconds a call."""


def tensors(result: object) -> list[Tensor]:  # noqa: PLR0911 - a list of kinds
    """Collect the tensors of a result."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Trajectory):
        return [result.z, result.action]
    if is_dataclass(result) and not isinstance(result, type):
        return [tensor for entry in fields(result) for tensor in tensors(getattr(result, entry.name))]
    if isinstance(result, PushForward):
        return []
    if isinstance(result, torch.distributions.Distribution):
        return [result.mean]
    if isinstance(result, torch.nn.Module):
        return [*result.parameters(), *result.buffers()]
    values = result.values() if isinstance(result, dict) else result if isinstance(result, (tuple, list)) else ()
    return [tensor for value in values for tensor in tensors(value)]


def documented(case: Case, argument: str, label: str, result: object) -> bool:
    """Whether a result without an error is one that the documentation promises."""
    if label in case.accepts.get(argument, frozenset()) or (label == "inf" and argument in POINTS):
        return True
    if label == "none":
        annotation = str(inspect.signature(case.call).parameters[argument].annotation)
        return "None" in annotation
    found = tensors(result)
    if label in ("nan", "inf"):
        return any(not torch.isfinite(tensor).all() for tensor in found)
    if label == "empty":
        return all(tensor.ndim == 0 or tensor.numel() == 0 or not tensor.any() for tensor in found)
    return False


def fault(case: Case, argument: str, label: str, value: object) -> str | None:
    """Call with one wrong argument; say what is not as it should be."""
    arguments = case.arguments | {argument: value}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = case.call(**arguments)
    except (TypeError, ValueError) as error:
        names = "|".join(
            [*case.arguments, "z", "x"]
        )  # another argument that does not fit it, or what becomes of it inside
        return (
            None
            if re.match(rf"({names})\b.*: expected ", str(error))
            else f"{type(error).__name__} without the name: {str(error)[:150]!r}"
        )
    except (FloatingPointError, InversionError) as error:
        return None if label in ("nan", "inf") else f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:150]!r}"
    return None if documented(case, argument, label, result) else "accepted"


@pytest.mark.parametrize("name", CASES)
def test_wrong_arguments_are_named(name):
    """Catches torch's own text for a mistake, a number for nonsense, and a check that only a sibling has."""
    case = CASES[name]
    case.call(**case.arguments)
    faults = [
        f"{argument} = {label}: {found}"
        for argument, right in case.arguments.items()
        for label, value in wrong_values(right)
        if (found := fault(case, argument, label, value)) is not None
    ]
    assert not faults, "\n" + "\n".join(faults)


def test_every_public_name_is_called():
    """Catches a new public name without a case, and a case of a name that is gone."""
    called = {tuple(name.split(" ")[0].split(".")[:2]) for name in CASES}
    for module in pkgutil.iter_modules(latentflow.__path__):
        if not module.ispkg:
            continue
        public = set(importlib.import_module(f"latentflow.{module.name}").__all__)
        missing = {name for name in public - NOT_CALLED[module.name] if (module.name, name) not in called}
        assert not missing, f"{module.name}: {sorted(missing)}"
        assert NOT_CALLED[module.name] <= public


def test_there_are_enough_calls():
    """Catches cases that silently lose their arguments."""
    calls = sum(1 for case in CASES.values() for right in case.arguments.values() for _ in wrong_values(right))
    assert calls >= LEAST_CALLS, calls
