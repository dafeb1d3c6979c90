"""Settings of the methods that are compared, chosen on validation sequences of MNIST with the same effort for each.

``python -m benchmarks.tuning --out runs/tuning`` trains five settings of each method for the same minutes of the
processor, goes on after Ctrl-C where it was, and writes ``docs/results/tuning.json`` and ``tuning.md``, the table that
the page of the reproduction includes. No test image is read.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT
from latentflow_experiments.checkpoints import load_checkpoint
from latentflow_experiments.configuration import Budget, TrainConfig
from latentflow_experiments.data import open_splits
from latentflow_experiments.errors import ExperimentError
from latentflow_experiments.methods import MethodOptions
from latentflow_experiments.records import provenance, write_json, write_text
from latentflow_experiments.reports.document import Grid, as_markdown
from latentflow_experiments.reproduce.experiments import configure
from latentflow_experiments.runs import RunFolder
from latentflow_experiments.training.loop import initial_model, train
from latentflow_experiments.training.session import Hardware
from latentflow_experiments.training.validation import Validation

RATES = (1e-3, 2e-3, 4e-3)
SMALL_BATCH = 32
PAGE = ROOT / "docs" / "results" / "tuning.json"
MINUTES = 2.0


@dataclass(frozen=True)
class Trial:
    """A setting of a method.

    Attributes:
        name: What it changes; ``defaults`` for nothing.
        config: The run.
    """

    name: str
    config: TrainConfig


OWN: Mapping[str, tuple[str, TrainConfig]] = {
    "vae": ("dim 64", configure("mnist", method="vae", dim=64)),
    "beta-vae": ("beta 2", configure("mnist", method="beta-vae", baseline=MethodOptions(beta=2.0))),
    "factor-vae": ("tc-weight 2", configure("mnist", method="factor-vae", baseline=MethodOptions(tc_weight=2.0))),
    "slow-vae": ("slow-weight 1", configure("mnist", method="slow-vae", baseline=MethodOptions(slow_weight=1.0))),
    "tvae": ("dim 324", configure("mnist", method="tvae", dim=324)),
    "poflow": ("dim 64", configure("mnist", method="poflow", dim=64)),
    "flow": ("dim 64", configure("mnist", dim=64)),
}
"""A setting of its own for each method; 324 coordinates are the 36 capsules of the topographic VAE."""


def trials(method: str) -> list[Trial]:
    """List the settings of a method that are tried: the defaults, two other rates, a smaller batch, one of its own."""
    plain = configure("mnist", method=method)
    rates = [
        Trial("defaults" if rate == plain.learning_rate else f"rate {rate:g}", replace(plain, learning_rate=rate))
        for rate in RATES
    ]
    batch = Trial(f"batch {SMALL_BATCH}", replace(plain, batch_size=SMALL_BATCH))
    return [*rates, batch, Trial(*OWN[method])]


def measure(trial: Trial, minutes: float, folder: RunFolder) -> dict[str, Any]:
    """Train a setting and measure it on validation sequences; what was measured before is read.

    Args:
        trial: The setting.
        minutes: Minutes of the processor.
        folder: The folder of its run.

    Returns:
        The steps made and the errors by transformation, or why it diverged.
    """
    if folder.evaluation.exists():
        return dict(folder.read_metric(folder.evaluation)["result"])
    config = trial.config.shared_over(1)
    data, validation = open_splits(config.dataset, ("train", "validation"), config.sequences)
    model = initial_model(config, data)
    fabric = Hardware(device="cpu", threads=1).launch()
    folder.path.mkdir(parents=True, exist_ok=True)
    budget, resume = Budget(cpu_minutes=minutes), folder.has_begun()
    try:
        train(config, budget, data, folder, fabric, model, resume=resume)
    except ExperimentError as error:
        result: dict[str, Any] = {"diverged": str(error).removeprefix(f"{folder.path}: ")}
    else:
        progress = load_checkpoint(folder.checkpoint, model)
        errors = Validation(config.model.described, validation, times=1, spent=0.0).measure(model)
        result = {"steps": progress.steps, "errors": errors}
    write_json(folder.evaluation, {"result": result, "provenance": provenance(run=config.known(), minutes=minutes)})
    return result


def score(result: dict[str, Any]) -> float:
    """Return the mean of the errors; infinity of a training that diverged."""
    errors = result.get("errors")
    return math.inf if errors is None else sum(errors.values()) / len(errors)


def as_grid(found: Mapping[str, Any]) -> Grid:
    """Lay out the mean errors of all settings, a row for each method, its best one in bold.

    Args:
        found: The methods with their results, as in the file.

    Returns:
        The table.
    """
    rows, best = [], set()
    for i, (method, result) in enumerate(found.items()):
        names = list(result["settings"])
        best.add((i, 1 + names.index(result["best"])))
        values = [score(result["settings"][name]) for name in names]
        texts = [f"{value:.0f}" if math.isfinite(value) else "diverged" for value in values]
        rows.append([method, *texts[:-1], f"{texts[-1]} ({names[-1]})"])
    shared = list(next(iter(found.values()))["settings"])[:-1]
    return Grid(["method", *shared, "a setting of its own"], rows, best=best)


def main(arguments: Sequence[str] | None = None) -> None:
    """Try all settings of some methods, and write what was found of all methods that are tried to the end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning", description=__doc__)
    parser.add_argument("methods", nargs="*", default=list(OWN), help=f"methods: {', '.join(OWN)}; by default all")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="minutes of the processor for each setting")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.methods) - set(OWN):
        parser.error(f"methods: expected some of {', '.join(OWN)}, got {', '.join(sorted(unknown))}")
    found: dict[str, Any] = {}
    for method in chosen.methods:
        results = {}
        for trial in trials(method):
            folder = RunFolder(chosen.out / f"{method}-{trial.name.replace(' ', '-')}")
            results[trial.name] = measure(trial, chosen.minutes, folder)
            print(f"{method}, {trial.name}: {score(results[trial.name]):.0f}", flush=True)
        best = min(results, key=lambda name: score(results[name]))
        found[method] = {"best": best, "settings": results}
    if set(found) == set(OWN):
        write_json(PAGE, {"minutes": chosen.minutes, "methods": found, "provenance": provenance()})
        write_text(PAGE.with_suffix(".md"), as_markdown([as_grid(found)]))


if __name__ == "__main__":
    main()
