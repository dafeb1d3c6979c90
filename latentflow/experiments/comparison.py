"""Several evaluated runs in one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from latentflow.experiments.configuration import TrainConfig, options
from latentflow.experiments.errors import ExperimentError
from latentflow.experiments.markdown import lay_out
from latentflow.experiments.run_folder import RunFolder


def compare(folders: Sequence[RunFolder]) -> str:
    """Lay out the equivariance errors and the transport of several runs side by side, in Markdown.

    Args:
        folders: The runs, evaluated.

    Returns:
        The table, a row for each run, named by the options in which it differs from the default. The last column is the
        largest share of folded samples among the transformations.

    Raises:
        ExperimentError: If a run has no evaluation, or the runs are not of the same transformations.
    """
    rows: list[tuple[str, ...]] = []
    header: tuple[str, ...] = ()
    for folder in folders:
        evaluation = _read(folder)
        errors, transport = evaluation["result"]["errors"], evaluation["transport"]
        names = (*(f"E {name}" for name in errors), *(f"cost / W2^2 {name}" for name in transport))
        columns = ("run", "steps", *names, "folded")
        if header not in ((), columns):
            raise ExperimentError(f"{folder.path}: expected the columns {', '.join(header)}, got {', '.join(columns)}")
        header = columns
        rows.append(
            (
                _label(evaluation["provenance"]),
                f"{evaluation['provenance']['steps']:,}",
                *(f"{error['output']:.1f}" for error in errors.values()),
                *(_ratio(entry["ratio"]) for entry in transport.values()),
                f"{100 * max(entry['folded'] for entry in transport.values()):.1f} %",
            )
        )
    return lay_out([header, *rows])


def _label(provenance: dict[str, Any]) -> str:
    """Name a run by its options, and say so if its data is synthetic."""
    config = TrainConfig.from_values(provenance["run"])
    words = options(asdict(config), asdict(TrainConfig(config.dataset)))
    synthetic = " (synthetic)" if provenance.get("data", {}).get("synthetic") else ""
    return f"`{' '.join([config.dataset, *words])}`{synthetic}"


def _ratio(ratio: float | None) -> str:
    return "inf" if ratio is None else f"{ratio:.3f}"


def _read(folder: RunFolder) -> dict[str, Any]:
    try:
        evaluation: dict[str, Any] = json.loads(folder.evaluation.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExperimentError(f"{folder.path}: expected an evaluated run, got none; use: latentflow evaluate") from None
    except ValueError as error:
        raise ExperimentError(f"{folder.evaluation}: expected JSON, got {error}") from error
    if "transport" not in evaluation:
        raise ExperimentError(f"{folder.evaluation}: expected the transport of the flows, got none; evaluate it again")
    return evaluation
