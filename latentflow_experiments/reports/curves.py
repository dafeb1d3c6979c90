"""Errors against the time of training, of several runs in one picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from latentflow.calculus.files import replacing
from latentflow_experiments.configuration import TrainConfig
from latentflow_experiments.errors import ExperimentError
from latentflow_experiments.reading import reading
from latentflow_experiments.reports.comparison import name_runs
from latentflow_experiments.reports.tables import table
from latentflow_experiments.runs import RunFolder, read_log

PREFIX = "validation/"


def read_curves(folder: RunFolder) -> dict[str, tuple[list[float], list[float]]]:
    """Read the errors that a run logged on validation sequences.

    Args:
        folder: The run.

    Returns:
        By the name of each transformation, the minutes of training and the errors :math:`E_k` after them.

    Raises:
        ExperimentError: If there are none, or the log cannot be read.
    """
    curves: dict[str, tuple[list[float], list[float]]] = {}
    with reading(folder.metrics, "the log of a run"):
        for _, line in read_log(folder.metrics)[0]:
            record = json.loads(line)
            for key, error in record.items():
                if key.startswith(PREFIX) and error is not None:
                    minutes, errors = curves.setdefault(key.removeprefix(PREFIX), ([], []))
                    minutes.append(float(record["seconds"]) / 60)
                    errors.append(float(error))
    if not curves:
        raise ExperimentError(
            f"{folder.metrics}: expected errors on validation sequences, got none; train with --validations 20"
        )
    return curves


def _read_all(folders: Sequence[RunFolder]) -> list[dict[str, tuple[list[float], list[float]]]]:
    """Read the errors of runs of the same transformations."""
    curves = [read_curves(folder) for folder in folders]
    for folder, found in zip(folders, curves, strict=True):
        if list(found) != list(curves[0]):
            raise ExperimentError(f"{folder.path}: expected errors of {', '.join(curves[0])}, got {', '.join(found)}")
    return curves


def validation_table(folders: Sequence[RunFolder]) -> str:
    """Lay out the last errors of runs on validation sequences in Markdown: what a choice may be made on.

    Args:
        folders: The runs, of the same transformations.

    Returns:
        A table with a row for each run, named by the options in which the runs differ.

    Raises:
        ExperimentError: See :func:`draw_curves`.
    """
    curves = _read_all(folders)
    labels, shared = name_runs([TrainConfig.from_json(folder.config) for folder in folders])
    rows = []
    for label, found in zip(labels, curves, strict=True):
        minutes = next(iter(found.values()))[0][-1]
        rows.append((label, f"{minutes:.1f}", *(f"{errors[-1]:.1f}" for _, errors in found.values())))
    header = ("run", "minutes", *(f"validation {name}" for name in curves[0]))
    return "\n\n".join([table(header, rows, left=1), *([shared] if shared else [])])


def draw_curves(folders: Sequence[RunFolder], path: Path) -> None:
    """Draw the errors of runs on validation sequences against the time of training, a panel for each transformation.

    Args:
        folders: The runs, of the same transformations.
        path: The PNG file.

    Raises:
        ExperimentError: If a run logged no such errors, or they are of different transformations.
    """
    curves = _read_all(folders)
    names = list(curves[0])
    labels, shared = name_runs([TrainConfig.from_json(folder.config) for folder in folders])
    figure = Figure(figsize=(3.2 * len(names) + 0.6, 3.4 + 0.2 * len(folders)), dpi=150)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for found, label in zip(curves, labels, strict=True):
            axes.plot(*found[name], marker=".", label=label.strip("`"))
        for scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
            scale("log")
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
        axes.tick_params(which="both", labelsize=7)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("minutes of training", fontsize=9)
        axes.grid(visible=True, which="both", color="0.9")
    panels[0].set_ylabel("$E_k$ on validation sequences", fontsize=9)
    title = shared.replace("`", "") if shared else None
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", fontsize=8, title=title, title_fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary)
