"""Errors against the time of training, of several runs in one picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from latentflow_experiments.configuration import TrainConfig
from latentflow_experiments.errors import ExperimentError
from latentflow_experiments.reading import reading
from latentflow_experiments.records import replacing
from latentflow_experiments.reports.comparison import name_runs
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


def draw_curves(folders: Sequence[RunFolder], path: Path) -> None:
    """Draw the errors of runs on validation sequences against the time of training, a panel for each transformation.

    Args:
        folders: The runs, of the same transformations.
        path: The PNG file.

    Raises:
        ExperimentError: If a run logged no such errors, or they are of different transformations.
    """
    curves = [read_curves(folder) for folder in folders]
    names = list(curves[0])
    for folder, found in zip(folders, curves, strict=True):
        if list(found) != names:
            raise ExperimentError(f"{folder.path}: expected errors of {', '.join(names)}, got {', '.join(found)}")
    labels, shared = name_runs([TrainConfig.from_json(folder.config) for folder in folders])
    figure = Figure(figsize=(3.2 * len(names) + 0.6, 3.4 + 0.2 * len(folders)), dpi=150)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        for found, label in zip(curves, labels, strict=True):
            axes.plot(*found[name], marker=".", label=label.strip("`"))
        for scale, axis in ((axes.set_xscale, axes.xaxis), (axes.set_yscale, axes.yaxis)):
            scale("log")
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")
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
