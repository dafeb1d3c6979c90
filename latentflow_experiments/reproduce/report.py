"""The report of a reproduction: one page that needs no network, and the same as Markdown, JSON, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentflow.calculus.files import replacing
from latentflow_experiments.records import provenance, write_json, write_text
from latentflow_experiments.reports.document import Grid, Heading, Image, Paragraph, Part, as_html, as_markdown
from latentflow_experiments.reproduce.earlier import BY_STEP
from latentflow_experiments.reproduce.experiments import Column
from latentflow_experiments.reproduce.paper import PAPER
from latentflow_experiments.reproduce.presets import Preset
from latentflow_experiments.reproduce.results import Cell, FigureResult, PictureResult, TableResult

TITLE = "Flow Factorized Representation Learning, reproduced"
UNEQUAL = 1.5
"""The ratio of the steps of two runs of a row from which the report says that they differ."""
ANSWERS = {True: "held", False: "did not hold", None: "not measured"}


@dataclass(frozen=True)
class Reproduction:
    """What was asked for and what came of it.

    Attributes:
        budget: The name of the budget.
        preset: The budget.
        seeds: The number of seeds.
        tables: What was found for each table.
        figures: What was found for each figure.
        failed: Why a run failed, by its name.
        earlier: Command, date and commit of the reports that runs were taken from.
    """

    budget: str
    preset: Preset
    seeds: int
    tables: Sequence[TableResult]
    figures: Sequence[FigureResult]
    failed: Mapping[str, str]
    earlier: Sequence[Mapping[str, str]] = ()


def write_report(found: Reproduction, out: Path) -> Path:
    """Write ``report.html``, ``report.md`` with its pictures, ``results.json``, and CSV and LaTeX files of the tables.

    Args:
        found: What was found.
        out: The folder of the reproduction.

    Returns:
        The page in HTML.
    """
    write_json(out / "results.json", as_json(found))
    for result in found.tables:
        write_text(out / f"{result.table.name}.csv", as_csv(result))
        write_text(out / f"{result.table.name}.tex", as_latex(result))
    parts = contents(found)
    pictures = out / "pictures"
    pictures.mkdir(exist_ok=True)
    for part in parts:
        if isinstance(part, Image):
            with replacing(pictures / part.name) as temporary:
                temporary.write_bytes(part.source.read_bytes())
    write_text(out / "report.md", as_markdown(parts))
    page = out / "report.html"
    write_text(page, as_html(TITLE, parts))
    return page


def as_json(found: Reproduction) -> dict[str, Any]:
    """Return all numbers with their origin, as JSON can hold them."""
    return {
        "budget": found.budget,
        "seeds": found.seeds,
        "tables": {
            result.table.name: {
                "cells": {
                    row: {name: list(cell.values) for name, cell in cells.items()}
                    for row, cells in result.cells.items()
                },
                "orders": {
                    order.column: {"tau": order.tau, "inverted": [list(pair) for pair in order.inverted]}
                    for order in result.orders
                },
                "claims": dict(result.claims),
                BY_STEP: {row: list(values) for row, values in result.by_step.items()},
                "runs": {row: [own.as_json() for own in results] for row, results in result.results.items() if results},
            }
            for result in found.tables
        },
        "figures": {
            result.figure.name: [
                {
                    "picture": own.caption,
                    "file": None if own.path is None else file,
                    "composition": own.composition,
                    "run": own.run,
                }
                for own, file in zip(result.pictures, result.figure.files, strict=True)
            ]
            for result in found.figures
        },
        "failed": dict(found.failed),
        "earlier": [dict(origin) for origin in found.earlier],
        "provenance": provenance(),
    }


def as_csv(result: TableResult) -> str:
    """Write a line for each row and column: mean, standard deviation, number of seeds, and the paper's mean."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "column", "mean", "deviation", "seeds", "paper"])
    paper = PAPER[result.table.name]
    for row, cells in result.cells.items():
        for column in result.table.all_columns:
            cell, published = cells.get(column.name), paper.get(row, {}).get(column.name, "")
            if cell is not None or published != "":
                numbers = ["", "", 0] if cell is None else [cell.mean, cell.deviation, len(cell.values)]
                writer.writerow([row, column.name, *("" if value is None else value for value in numbers), published])
    return text.getvalue()


def as_latex(result: TableResult) -> str:
    """Write a table of our numbers for a paper, with the rules of ``booktabs``."""
    columns = _shown(result.table.columns, result.cells)
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["", *(_in_latex(column.name) for column in columns)]) + r" \\",
        r"\midrule",
    ]
    for row, cells in result.cells.items():
        if cells:
            texts = (_cell(cells.get(column.name), column.digits) for column in columns)
            lines.append(" & ".join([_in_latex(row), *(text.replace("±", r"$\pm$") for text in texts)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _shown(columns: Sequence[Column], rows: Mapping[str, Mapping[str, object]]) -> list[Column]:
    """List the columns of which a row has a number."""
    return [column for column in columns if any(column.name in cells for cells in rows.values())]


def _in_latex(text: str) -> str:
    for sign in ("%", "_"):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("W2²", "$W_2^2$")


def _cell(cell: Cell | None, digits: int) -> str:
    return "" if cell is None else cell.text(digits)


def contents(found: Reproduction) -> list[Part]:
    """Lay out what was found: the claims, each table beside that of the paper, and the figures.

    Args:
        found: What was found.

    Returns:
        The page.
    """
    facts = provenance()
    names = [_title(name) for name in [result.table.name for result in found.tables]]
    names += [_title(result.figure.name) for result in found.figures]
    parts: list[Part] = [
        Paragraph(
            f"{', '.join(names)} at the budget `{found.budget}`: {found.preset.about}. A run trains for "
            f"{_budgets(found)}. {_seeds(found)}{_earlier(found)} Written by `{facts['command']}` at commit "
            f"`{facts['commit']}`, {facts['date']}."
        ),
        Paragraph(
            "Numbers are means over seeds ± standard deviations (n - 1); the best of a column is bold. The numbers of "
            "the paper have tables of their own. An error is the sum of absolute differences over the pixels and "
            "frames of a sequence, mean over the test sequences."
        ),
    ]
    if found.budget == "smoke":
        parts.append(Paragraph("At this budget nothing is trained: no number below says anything.", warning=True))
    parts += [*_claims(found), *_failures(found.failed)]
    parts += [part for result in found.tables for part in _table(result)]
    parts += [part for result in found.figures for part in _figure(result)]
    return parts


def _budgets(found: Reproduction) -> str:
    """Say how long the runs of each data set train."""
    rows = [row for result in found.tables for row in result.table.rows]
    rows += [own.picture.row for result in found.figures for own in result.pictures]
    texts = []
    for name in dict.fromkeys(row.config.dataset for row in rows):
        budget = found.preset.budget(name)
        length = f"{budget.steps:,} steps" if budget.steps else f"{budget.cpu_minutes:g} minutes of a CPU core"
        texts.append(f"{length} ({name})")
    return ", ".join(texts)


def _seeds(found: Reproduction) -> str:
    """Say how many seeds the rows have, which differ where runs have not ended."""
    counts = {len(runs) for result in found.tables for runs in result.runs.values()} or {found.seeds}
    least, most = min(counts), max(counts)
    if least == most:
        return f"Seeds in a row of a table: {most}."
    return f"Seeds in a row of a table: {least} to {most}; the last table of each says which."


def _earlier(found: Reproduction) -> str:
    """Say which reports tell of runs that this one did not train."""
    if not found.earlier:
        return ""
    reports = " and ".join(f"that of {origin['date']} (commit `{origin['commit']}`)" for origin in found.earlier)
    return f" What an earlier report tells of a run is taken from it: {reports}."


def _claims(found: Reproduction) -> list[Part]:
    """Lay out the claims; at the smoke budget nothing is trained that they could be judged by."""
    judged = found.budget != "smoke"
    rows = [
        [_unbroken(_title(result.table.name)), text, _unbroken(ANSWERS[holds] if judged else "not judged")]
        for result in found.tables
        for text, holds in result.claims
    ]
    header = ("table", "claim", "here")
    return [Heading("What the paper claims", "claims"), Grid(header, rows, texts=header[1:])] if rows else []


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _title(name: str) -> str:
    """Return the title of ``table1`` or ``fig3``."""
    kind = "Table" if name in PAPER else "Figure"
    return f"{kind} {name.removeprefix('table').removeprefix('fig')}"


def _failures(failed: Mapping[str, str]) -> list[Part]:
    if not failed:
        return []
    heading = Heading("Runs that failed", "failed")
    return [heading, *(Paragraph(f"`{name}`: {reason}", warning=True) for name, reason in failed.items())]


def _ours(result: TableResult, caption: str, columns: Sequence[Column]) -> list[Part]:
    """Lay out our numbers in some columns; nothing where no row has any."""
    shown = _shown(columns, result.cells)
    rows = {row: cells for row, cells in result.cells.items() if any(column.name in cells for column in shown)}
    if not rows:
        return []
    best = set()
    for j, column in enumerate(shown, start=1):
        means = {i: cells[column.name].mean for i, cells in enumerate(rows.values()) if column.name in cells}
        if len(set(means.values())) > 1:  # where all are equal, none is best
            first = min(means.values()) if column.best == "lowest" else max(means.values())
            best |= {(i, j) for i, mean in means.items() if mean == first}
    texts = [
        [
            row + (" (synthetic)" if any(run["synthetic"] for run in result.runs.get(row, ())) else ""),
            *(_cell(cells.get(column.name), column.digits) for column in shown),
        ]
        for row, cells in rows.items()
    ]
    return [Grid(["", *(column.name for column in shown)], texts, caption, best)]


def _table(result: TableResult) -> list[Part]:
    table = result.table
    paper = PAPER[table.name]
    names = _shown(table.columns, paper)
    published = [
        [row, *(f"{cells[c.name]:.{c.digits}f}" if c.name in cells else "" for c in names)]
        for row, cells in paper.items()
    ]
    parts: list[Part] = [Heading(f"{_title(table.name)}: {table.title}", table.name)]
    if table.note:
        parts.append(Paragraph(table.note))
    parts += _ours(result, "Here", table.columns)
    if result.missing:
        parts.append(Paragraph(f"Without a run that ended: {'; '.join(result.missing)}.", warning=True))
    parts += _unequal(result)
    parts.append(Grid(["", *(column.name for column in names)], published, "In the paper"))
    of_errors = any(column.part is None for column in table.columns)
    parts += [
        *_orders(result),
        *(_steps(result) if of_errors else []),
        *_ours(result, "What the paper did not measure", table.further),
    ]
    return [*parts, *_origins(result.runs)]


def _unequal(result: TableResult) -> list[Part]:
    """Name the rows whose runs saw different images or made different numbers of steps, as two machines may have."""
    warnings: list[Part] = []
    for row, runs in result.runs.items():
        images = dict.fromkeys(f"{run['data']} {run['sha256']}" for run in runs)
        if len(images) > 1:
            warnings.append(
                Paragraph(f"{row}: a mean over runs on different images, {', '.join(images)}.", warning=True)
            )
        least, most = (choose(run["steps"] for run in runs) for choose in (min, max))
        if most > UNEQUAL * least:
            text = f"{row}: a mean over runs of {least:,} to {most:,} steps in the same time."
            warnings.append(Paragraph(text, warning=True))
    return warnings


def _orders(result: TableResult) -> list[Part]:
    rows = [
        [
            order.column,
            str(len(order.rows)),
            f"{order.tau:.2f}",
            "; ".join(f"{low} below {high}" for low, high in order.inverted) or "none",
        ]
        for order in result.orders
    ]
    header = ("column", "rows", "Kendall's tau", "pairs in the other order")
    return [Grid(header, rows, "Order beside the paper's", texts=header[3:])] if rows else []


def _steps(result: TableResult) -> list[Part]:
    count = max(map(len, result.by_step.values()), default=0)
    header = ["", *(f"step {step}" for step in range(1, count + 1))]
    rows = [
        [row, *(f"{value:.3f}" for value in values), *[""] * (count - len(values))]
        for row, values in result.by_step.items()
    ]
    return [Grid(header, rows, "Error / still picture, by step")] if rows else []


def _origins(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Part]:
    """Lay out what is known of the runs of each row."""
    rows = [
        [
            row,
            str(run["seed"]),
            f"`{run['command']}`",
            f"{run['steps']:,}",
            f"{run['training_seconds']:,.0f}",
            str(run["trained at"]),
            str(run["commit"]),
            f"{run['data']} {run['sha256']}",
        ]
        for row, own in runs.items()
        for run in own
    ]
    header = ("row", "seed", "command", "steps", "seconds", "trained at", "evaluated at", "data")
    return [Grid(header, rows, texts=("command", "data"), folded="Where the numbers come from")] if rows else []


def _figure(result: FigureResult) -> list[Part]:
    figure = result.figure
    parts: list[Part] = [Heading(f"{_title(figure.name)}: {figure.title}", figure.name)]
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for own, file in zip(result.pictures, figure.files, strict=True):
        row, caption = own.picture.row, f"{own.caption}."
        if own.path is None:
            parts.append(Paragraph(f"Missing: {caption}", warning=True))
            continue
        parts += [Image(own.path, file, caption), *_composition(own)]
        if own.run is not None:
            runs.setdefault(f"{row.config.dataset}, {row.name}", []).append(own.run)
    return [*parts, *_origins(runs)]


def _composition(result: PictureResult) -> list[Part]:
    """Lay out the errors of composed flows, and how much two of them are in each other's way."""
    if result.composition is None:
        return []
    errors = [
        [name, *(f"{error[key]:.0f}" for key in ("static", "output")), f"{error['output'] / error['static']:.2f}"]
        for name, error in result.composition["errors"].items()
    ]
    header = ("composition", "still picture", "flows", "flows / still picture")
    parts: list[Part] = [Grid(header, errors, "Errors against images that were composed")]
    keys = ("cross_relative", "commutator_continue", "commutator_restart")
    pairs = [
        [name, *(["paths meet", "", ""] if found is None else [f"{found[key]:.3f}" for key in keys])]
        for name, found in result.composition.get("interactions", {}).items()
    ]
    header = ("pair", "E|v·w| / E|v||w|", "commutator, continue", "commutator, restart")
    return [*parts, Grid(header, pairs, "How much two flows are in each other's way")] if pairs else parts
