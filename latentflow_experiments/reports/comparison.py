"""Several evaluated runs in one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from latentflow_experiments.configuration import TrainConfig, options
from latentflow_experiments.errors import ExperimentError
from latentflow_experiments.reading import reading
from latentflow_experiments.reports.tables import table
from latentflow_experiments.runs import RunFolder, read_evaluation

Columns = dict[str, str]


PROPOSED = (": by flow", ": by encoder")


def compare(folders: Sequence[RunFolder]) -> str:
    """Lay out what was measured of several runs side by side, in Markdown.

    Args:
        folders: The runs, evaluated.

    Returns:
        Tables with a row for each run, named by the options in which the runs differ; a line below has the others that
        are not the defaults. The first has the equivariance errors and, where there are flows, the
        transport of each transformation and the largest share of folded samples among them. Where a run has them, one
        follows of the bounds of the log-likelihood of a frame, with the most samples that were taken, and one of the
        predictability after the last epoch and of the transformations that were recovered without labels.

    A folder without an evaluation, or with a damaged one, is left out, and a line below the tables says so.

    Raises:
        ExperimentError: If no run is left, or the runs are not of the same transformations.
    """
    collected: tuple[list[Columns], ...] = ([], [], [])
    configs: list[TrainConfig] = []
    synthetic: list[bool] = []
    transformations: tuple[str, ...] = ()
    left_out: list[str] = []
    for folder in folders:
        try:
            evaluation = read_evaluation(folder)
        except ExperimentError as error:
            left_out.append(f"left out: {error}")
            continue
        with reading(folder.evaluation, "the evaluation of a run"):
            names = tuple(evaluation["result"]["errors"])
        if transformations not in ((), names):
            raise ExperimentError(
                f"{folder.path}: expected the transformations {', '.join(transformations)}, got {', '.join(names)}"
            )
        transformations = names
        with reading(folder.path, "a run that was evaluated and measured"):
            facts = evaluation["provenance"]
            configs.append(TrainConfig.from_values(facts["run"]))
            synthetic.append(bool(facts.get("data", {}).get("synthetic")))
            parts = (_errors(evaluation), likelihood_columns(folder), _predictability(folder, evaluation))
        for rows, part in zip(collected, parts, strict=True):
            rows.append(part)
    if not configs:
        raise ExperimentError(f"expected an evaluated run, got none; {'; '.join(left_out)}")
    labels, shared = name_runs(configs)
    labels = [f"{label} (synthetic)" if made else label for label, made in zip(labels, synthetic, strict=True)]
    named = [[{"run": label} | part for label, part in zip(labels, rows, strict=True) if part] for rows in collected]
    tables = [_table(rows) for rows in named if rows]
    return "\n\n".join([*tables, *([shared] if shared else []), *(["\n".join(left_out)] if left_out else [])])


def _table(rows: Sequence[Columns]) -> str:
    longest = max(rows, key=len)
    columns = tuple(dict.fromkeys([*longest, *(column for row in rows for column in row)]))
    if any(column.endswith(PROPOSED) for column in columns):
        columns = ("run", *sorted(columns[1:]))
    return table(columns, [tuple(row.get(column, "") for column in columns) for row in rows], left=0)


def _errors(evaluation: dict[str, Any]) -> Columns:
    row = {"steps": f"{evaluation['provenance']['steps']:,}"}
    row |= {f"E {name}": f"{error['output']:.1f}" for name, error in evaluation["result"]["errors"].items()}
    transport = evaluation["transport"]
    row |= {f"cost / W2^2 {name}": _ratio(entry["ratio"]) for name, entry in transport.items()}
    if transport:
        row["folded"] = f"{100 * max(entry['folded'] for entry in transport.values()):.1f} %"
    return row


def likelihood_columns(folder: RunFolder) -> Columns:
    """Return the bounds by every proposal, and those of whole sequences."""
    try:
        proposals = folder.read_metric(folder.metric("likelihood"))["result"]
    except FileNotFoundError:
        return {}
    columns: Columns = {}
    for proposal, found in proposals.items():
        bounds = found["bounds"]
        samples, steps = str(max(bounds["samples"])), bounds["steps"]
        for observation, average in bounds["average"].items():
            columns[f"{observation}: by {proposal}"] = "folds" if average is None else _nats(average[samples])
            sequence = bounds["sequence"][observation]
            if sequence is not None:
                columns[f"{observation}: sequence / T"] = _nats(sequence[samples] / steps)
    return columns


def _predictability(folder: RunFolder, evaluation: dict[str, Any]) -> Columns:
    columns: Columns = {}
    if folder.metric("vp").exists():
        scores = folder.read_metric(folder.metric("vp"))["result"]
        for kind, score in scores.items():
            last, best = (f"{100 * score[name]:.1f} %" for name in ("last", "best"))
            columns[f"VP, labels {kind}"] = f"{last} ({best})"
    recovery = evaluation.get("recovery")
    if recovery is not None:
        columns["k recovered"] = f"{100 * recovery['accuracy']:.2f} %"
    return columns


def name_runs(configs: Sequence[TrainConfig]) -> tuple[list[str], str]:
    """Name runs by the options in which they differ from most of them, and say which others are not the defaults.

    Args:
        configs: The configurations of the runs.

    Returns:
        The names, with every option of which more than half of the runs do not have the same value; and a line with
        the other options that are not the defaults, which is empty if there are none. One run is named by all options
        that are not the defaults.

    Example:
        >>> names, shared = name_runs([TrainConfig("digits", seed=seed, batch_size=7) for seed in (0, 1)])
        >>> names, shared
        (['`digits --seed 0`', '`digits --seed 1`'], 'All with `--batch-size 7`.')
    """
    settings = [flat_settings(config) for config in configs]
    default = flat_settings(TrainConfig(configs[0].dataset))
    usual = dict(default)
    for key in default if configs[1:] else ():
        value, count = Counter(one[key] for one in settings).most_common(1)[0]
        usual[key] = value if 2 * count > len(settings) else ...
    names = []
    for one in settings:
        words = _words(one, [key for key in default if key != "dataset" and one[key] != usual[key]])
        names.append(f"`{' '.join([one['dataset'], *words])}`")
    told = [key for key in default if key != "dataset" and usual[key] not in (default[key], ...)]
    exceptions = any(one[key] != usual[key] for one in settings for key in told)
    beginning = "Where a row says nothing else, with" if exceptions else "All with"
    return names, f"{beginning} `{' '.join(_words(usual, told))}`." if told else ""


def _words(settings: dict[str, Any], keys: Sequence[str]) -> list[str]:
    """Write settings as options of the command line."""
    return options({key: settings[key] for key in keys}, dict.fromkeys(keys, ...))


def flat_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings of a configuration with those of its parts beside its own."""

    def flatten(values: dict[str, Any]) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in values.items():
            flat |= flatten(value) if isinstance(value, dict) else {key: value}
        return flat

    settings = flatten(asdict(config))
    if config.model.supervision == "labels":
        settings["balance"] = None  # without effect where nothing is inferred
    return settings | ({"parts": None} if settings["parts"] == 1 else {})  # one part is the default of one process


def _nats(bound: float) -> str:
    """Write a bound; one that says nothing any more, as powers of ten."""
    return f"{bound:.1f}" if abs(bound) < 1e6 else f"{bound:.0e}"


def _ratio(ratio: float | None) -> str:
    return "inf" if ratio is None else f"{ratio:.3f}"
