"""Write the tables of docs/examples.md from the records of the runs.

python examples/page.py
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from latentflow_experiments.reports.tables import table, write_block

FOLDER = Path(__file__).parent.parent / "docs" / "examples"
PAGE = FOLDER.with_suffix(".md")
METHODS = {
    "gaussian": "Gaussian of the training part",
    "latentflow": "latentflow, potential flow",
    "cnf": "zuko, CNF",
    "nsf": "zuko, NSF",
    "ot-cfm": "torchcfm, OT-CFM",
}

Record = dict[str, Any]


def toys(record: Record) -> str:
    """One row for each set that was trained with the penalty."""
    return _toy_table(record, [name for name in record["results"] if "no penalty" not in name])


def comparison(record: Record) -> str:
    """The set that was trained twice."""
    free = [name for name in record["results"] if "no penalty" in name]
    return _toy_table(record, [label for name in free for label in (name.removesuffix(", no penalty"), name)])


def _toy_table(record: Record, names: Iterable[str]) -> str:
    head = [
        "",
        "NLL",
        "entropy",
        "KL",
        "NLL by rk4",
        "length / distance",
        "action / distance²",
        "residual",
        "action / 2",
    ]
    keys = ("nll", "entropy", "kl", "nll_coarse", "length_ratio", "action_ratio", "residual", "kinetic")
    return table(head, ([name, *(f"{record['results'][name][key]:.3f}" for key in keys)] for name in names))


def gaussians(record: Record) -> str:
    """One row for each run."""
    head = [
        "",
        "W2²",
        "action",
        "excess",
        "KL",
        "map error",
        "path error",
        "gradient error",
        "residual",
        "cost / W2²",
        "dual",
    ]
    keys = ("wasserstein_squared", "action", "excess", "kl", "map_error", "path_error", "gradient_error", "residual")

    def row(result: dict[str, float]) -> list[str]:
        shown = {key: f"{100 * result[key]:+.1f} %" if key == "excess" else f"{result[key]:.4f}" for key in keys}
        return [*shown.values(), _interval(result), f"{100 * result['dual_share']:.2f} %"]

    return table(head, ([name, *row(result)] for name, result in record["results"].items()))


def plane(record: Record) -> str:
    """One row for each flow."""
    head = ["", "KL", "cost", "displacement", "W2²", "gap", "cost / W2²", "dual", "lower", "defect"]
    keys = ("kl", "cost", "displacement", "wasserstein_squared", "gap")

    def row(result: dict[str, float]) -> list[str]:
        shares = [f"{100 * result[key]:.2f} %" for key in ("dual_share", "lower_share")]
        return [*(f"{result[key]:.4f}" for key in keys), _interval(result), *shares, f"{result['defect']:.3f}"]

    return table(head, ([name, *row(result)] for name, result in record["results"].items()))


def digits(record: Record) -> str:
    """One row for each map."""
    certificate = record["certificate"]
    rows = [
        [name, f"{100 * result['arrived']:.1f} %", f"{result['square']:.2f}"]
        for name, result in record["results"].items()
    ]
    bracket = f"{certificate['lower']:.2f} to {certificate['upper']:.2f}"
    counts = " and ".join(f"{count:,}" for count in record["samples"])
    text = f"{record['test images']:,} test images; trained on {counts} images. $W_2^2$ of the latents: {bracket}."
    return f"{table(['', 'arrived', 'mean square of the way'], rows)}\n\n{text}"


def _interval(result: dict[str, float]) -> str:
    return f"{result['ratio']:.4f} ({result['ratio_low']:.4f} to {result['ratio_high']:.4f})"


def tabular(record: Record) -> str:
    """One row for each method: medians over the splits."""
    head = ["", "test NLL", "s.e.", "each split", "median sample", "validation", "training", "weights", "steps"]
    rows = []
    for name, splits in record["results"].items():

        def median(key: str, digits: int = 2, splits: list[dict[str, float]] = splits) -> str:
            return f"{statistics.median(row[key] for row in splits):,.{digits}f}" if key in splits[0] else ""

        each = ", ".join(f"{row['test_nll']:.2f}" for row in splits)
        medians = [median(key) for key in ("test_median", "validation_nll", "train_nll")]
        sizes = [median(key, 0) for key in ("parameters", "steps")]
        rows.append([METHODS[name], median("test_nll"), median("test_error"), each, *medians, *sizes])
    return table(head, rows)


def origin(record: Record) -> str:
    """Say where a record comes from."""
    facts = record["provenance"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["packages"].items() if number)
    return (
        f"`{facts['command']}`, {facts['seconds']:.0f} s on {facts['date'][:10]} with {facts['threads']} "
        f"thread{'s' if facts['threads'] > 1 else ''} of {facts['cores']} cores ({facts['processor']}), commit "
        f"{facts['commit']}; {versions}."
    )


BLOCKS: dict[str, tuple[str, tuple[Callable[[Record], str], ...]]] = {
    "toys": ("toys", (toys, origin)),
    "comparison": ("toys", (comparison,)),
    "gaussians": ("gaussians", (gaussians, origin)),
    "plane": ("plane", (plane, origin)),
    "digits": ("digits", (digits, origin)),
    "tabular": ("tabular", (tabular, origin)),
}


def render(page: str, folder: Path) -> str:
    """Write the blocks of the page anew.

    Args:
        page: The text, with a block ``<!-- begin name -->`` ... ``<!-- end -->`` for every table.
        folder: The folder of the records.

    Returns:
        The text with the tables of the records.

    Raises:
        ValueError: If the page lacks a block, or has one that is not known.
    """
    found = re.findall(r"<!-- begin (\w+) -->", page)
    if found != list(BLOCKS):
        raise ValueError(f"page: expected the blocks {list(BLOCKS)}, got {found}")
    for block, (name, parts) in BLOCKS.items():
        record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        page = write_block(page, block, "\n\n".join(part(record) for part in parts))
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8"), FOLDER), encoding="utf-8")
