"""The tables of the page of transport."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.record import ROOT
from latentflow_experiments.records import write_text
from latentflow_experiments.reports.tables import table, write_block

PAGE = ROOT / "docs" / "results" / "transport.md"
PUBLISHED = {
    "MM": {2: 0.1, 4: 0.3, 8: 0.9, 16: 2.2, 32: 4.2, 64: 3.2},
    "MM:R": {2: 0.1, 4: 0.3, 8: 0.7, 16: 1.9, 32: 2.8, 64: 4.5},
    "MMv1": {2: 0.2, 4: 1.0, 8: 1.8, 16: 1.4, 32: 6.9, 64: 8.1, 128: 2.2},
    "W2": {2: 0.1, 4: 0.7, 8: 2.6, 16: 3.3, 32: 6.0, 64: 7.2, 128: 2.0},
    "MM-B": {2: 0.1, 4: 0.7, 8: 3.1, 16: 6.4, 32: 12.0, 64: 13.9, 128: 19.0},
}
"""The unexplained variance in percent on the mixtures, from the paper of the benchmark."""
GAUSSIAN = {
    "NCF": {2: 0.010, 4: 0.021, 8: 0.086, 16: 0.15, 32: 0.44, 64: 0.86},
    "NCF, adaptive": {2: 0.010, 4: 0.022, 8: 0.090, 16: 0.16, 32: 0.31, 64: 0.41},
    "MM:R": {2: 0.012, 4: 0.048, 8: 0.012, 16: 0.20, 32: 0.35, 64: 0.60},
}
"""The unexplained variance in percent on Gaussians, from Park et al. (2026)."""

Runs = Sequence[dict[str, Any]]

NO_BREAK = "\N{NO-BREAK SPACE}"


def render(runs: Runs) -> None:
    """Write the tables of the page."""
    page = PAGE.read_text(encoding="utf-8")
    for kind, published in (("mixture", PUBLISHED), ("gaussian", GAUSSIAN), ("clusters", {})):
        own = [run for run in runs if run["pair"] == kind]
        certified = [run for run in own if "certificate" in run]
        if own:
            text = "\n\n".join([_errors(own, published), _brackets(certified), _machine(own)])
            page = write_block(page, kind, text)
    write_text(PAGE, page)


def _errors(runs: Runs, published: dict[str, dict[int, float]]) -> str:
    """Write the unexplained variance of maps by the number of coordinates, ours above the published ones."""
    dims = sorted({run["dim"] for run in runs})
    rows = []
    for name in sorted({run["name"] for run in runs}, key=lambda name: (not name.startswith("latentflow"), name)):
        cells = []
        for dim in dims:
            found = [run["forward"]["uvp"] for run in runs if run["dim"] == dim and run["name"] == name]
            cells.append(_several(found))
        rows.append([name, *cells])
    for name, values in published.items():
        rows.append([f"{name} (published)", *(f"{values[dim]:g}" if dim in values else "" for dim in dims)])
    return table(["L2-UVP, %", *(str(dim) for dim in dims)], rows)


def _several(values: Sequence[float]) -> str:
    if not values:
        return ""
    center = statistics.mean(values)
    mean = f"{center:.0f}" if center >= 10 else f"{center:.2g}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1g}"


def _brackets(runs: Runs) -> str:
    """Write what is known of each run: errors, bracket, truth and cost."""
    header = [
        "",
        "D",
        "seed",
        "steps",
        "UVP, %",
        "inverse, %",
        "cosine",
        "bracket of W2²",
        "width, %",
        "W2²",
        "bound above",
        "CPU min",
    ]
    rows = []
    for run in sorted(runs, key=lambda own: (own["dim"], own["name"], own["seed"])):
        certificate = run["certificate"]
        lower, upper = certificate["lower"], certificate["upper"]
        rows.append(
            [
                run["name"],
                str(run["dim"]),
                str(run["seed"]),
                f"{run['steps']:,}",
                f"{run['forward']['uvp']:.2g}",
                f"{run['inverse']['uvp']:.2g}",
                f"{run['forward']['cosine']:.4f}",
                f"{lower:.4g}{NO_BREAK}to{NO_BREAK}{upper:.4g}",
                f"{200 * (upper - lower) / (upper + lower):.2g}",
                f"{run['truth']:.4g}",
                f"{certificate['upper_bound']:.4g}",
                f"{run['seconds'] / 60:.1f}",
            ]
        )
    if len({run["name"] for run in runs}) == 1:  # the table of errors has it
        header, rows = header[1:], [row[1:] for row in rows]
    return table(header, rows)


def _machine(runs: Runs) -> str:
    processors = ", ".join(sorted({run["provenance"]["processor"] for run in runs}))
    commits = ", ".join(sorted({f"`{run['provenance']['commit'][:12]}`" for run in runs}))
    text = f"One thread of {processors}, at {commits}."
    return f"{text} D is the number of coordinates; the CPU minutes are with the certificate."
