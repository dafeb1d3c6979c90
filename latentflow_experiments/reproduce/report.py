"""The report of a reproduction: one page that needs no network, and the same numbers as JSON, CSV and LaTeX."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from latentflow_experiments.records import provenance, write_json, write_text
from latentflow_experiments.reproduce.experiments import FIGURES, Column, Figure
from latentflow_experiments.reproduce.paper import PAPER
from latentflow_experiments.reproduce.plan import picture_of
from latentflow_experiments.reproduce.presets import Preset
from latentflow_experiments.reproduce.results import Cell, TableResult

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
.frame { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 0.5rem 0; }
caption { text-align: left; font-weight: 600; padding: 0.3rem 0; }
th, td { padding: 0.25rem 0.7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
td.best { font-weight: 700; }
th.text, td.text { text-align: left; white-space: normal; }
img { max-width: 100%; background: #fff; }
figure { margin: 1rem 0; }
code { background: var(--soft); padding: 0.1rem 0.3rem; overflow-wrap: anywhere; }
.warning { border-left: 4px solid #c60; padding-left: 0.8rem; }
"""
ANSWERS = {True: "held", False: "did not hold", None: "not measured"}


@dataclass(frozen=True)
class Reproduction:
    """What was asked for and what came of it.

    Attributes:
        budget: The name of the budget.
        preset: The budget.
        seeds: The number of seeds.
        tables: What was found for each table.
        figures: The names of the figures.
        failed: Why a run failed, by its name.
    """

    budget: str
    preset: Preset
    seeds: int
    tables: Sequence[TableResult]
    figures: Sequence[str]
    failed: Mapping[str, str]


def write_report(found: Reproduction, out: Path) -> Path:
    """Write ``report.html``, ``results.json``, and for each table a CSV and a LaTeX file.

    Args:
        found: What was found.
        out: The folder of the reproduction.

    Returns:
        The page.
    """
    write_json(out / "results.json", as_json(found))
    for result in found.tables:
        write_text(out / f"{result.table.name}.csv", as_csv(result))
        write_text(out / f"{result.table.name}.tex", as_latex(result))
    page = out / "report.html"
    write_text(page, as_page(found, out))
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
                "error / still picture, by step": {row: list(values) for row, values in result.by_step.items()},
                "runs": {row: [dict(run) for run in runs] for row, runs in result.runs.items()},
            }
            for result in found.tables
        },
        "figures": list(found.figures),
        "failed": dict(found.failed),
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


def as_page(found: Reproduction, out: Path) -> str:
    """Write the page, with its pictures in it."""
    facts = provenance()
    names = [_title(name) for name in (*(result.table.name for result in found.tables), *found.figures)]
    parts = [
        "<h1>Flow Factorized Representation Learning, reproduced</h1>",
        f"<p>{escape(', '.join(names))} at the budget <em>{found.budget}</em>: {escape(found.preset.about)}. "
        f"Seeds in a row of a table: {found.seeds}. Written by <code>{escape(facts['command'])}</code> "
        f"at commit <code>{escape(str(facts['commit']))}</code>, {escape(facts['date'])}.</p>",
        "<p>Numbers are means over seeds ± standard deviations (n - 1); the best of a column is bold. The numbers of "
        "the paper have tables of their own. An error is the sum of absolute differences over the pixels and frames "
        "of a sequence, mean over the test sequences.</p>",
    ]
    if found.budget == "smoke":
        parts.append('<p class="warning">At this budget nothing is trained: no number below says anything.</p>')
    parts += [_claims(found), _failures(found.failed)]
    parts += [_table(result) for result in found.tables]
    parts += [_figure(FIGURES[name], found.preset, out) for name in found.figures]
    body = "\n".join(part for part in parts if part)
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Reproduction: {escape(', '.join(names[:3]))}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _html_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[str] = ()) -> str:
    """Lay out a table whose cells are HTML, with their own tags; columns with the titles ``texts`` hold text."""
    top = "".join(f'<th class="{"text" if title in texts else ""}">{escape(title)}</th>' for title in header)
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return (
        f'<div class="frame"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _td(text: str, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _claims(found: Reproduction) -> str:
    """Lay out the claims; at the smoke budget nothing is trained that they could be judged by."""
    judged = found.budget != "smoke"
    rows = [
        [_td(_title(result.table.name)), _td(text, "text"), _td(ANSWERS[holds] if judged else "not judged", "text")]
        for result in found.tables
        for text, holds in result.claims
    ]
    header = ("table", "claim", "here")
    return f"<h2>What the paper claims</h2>{_html_table('', header, rows, header[1:])}" if rows else ""


def _title(name: str) -> str:
    """Return the title of ``table1`` or ``fig3``."""
    kind = "Table" if name in PAPER else "Figure"
    return f"{kind} {name.removeprefix('table').removeprefix('fig')}"


def _failures(failed: Mapping[str, str]) -> str:
    if not failed:
        return ""
    items = "".join(f"<li><code>{escape(name)}</code>: {escape(reason)}</li>" for name, reason in failed.items())
    return f'<h2>Runs that failed</h2><ul class="warning">{items}</ul>'


def _ours(result: TableResult, caption: str, columns: Sequence[Column]) -> str:
    """Lay out our numbers in some columns; nothing where no row has any."""
    shown = _shown(columns, result.cells)
    best = {}
    for column in shown:
        means = [cells[column.name].mean for cells in result.cells.values() if column.name in cells]
        if len(set(means)) > 1:  # where all are equal, none is best
            best[column.name] = min(means) if column.best == "lowest" else max(means)
    rows = []
    for row, cells in result.cells.items():
        texts = [_td(row + (" (synthetic)" if any(run["synthetic"] for run in result.runs.get(row, ())) else ""))]
        for column in shown:
            cell = cells.get(column.name)
            kind = "best" if cell is not None and cell.mean == best.get(column.name) else ""
            texts.append(_td(_cell(cell, column.digits), kind))
        if any(column.name in cells for column in shown):
            rows.append(texts)
    return _html_table(caption, ["", *(column.name for column in shown)], rows) if rows else ""


def _table(result: TableResult) -> str:
    table = result.table
    paper = PAPER[table.name]
    names = _shown(table.columns, paper)
    published = [
        [_td(row), *(_td(f"{cells[c.name]:.{c.digits}f}" if c.name in cells else "") for c in names)]
        for row, cells in paper.items()
    ]
    parts = [f'<h2 id="{table.name}">{_title(table.name)}: {escape(table.title)}</h2>']
    if table.note:
        parts.append(f"<p>{escape(table.note)}</p>")
    parts.append(_ours(result, "Here", table.columns))
    if result.missing:
        parts.append(f'<p class="warning">Without a run that ended: {escape(", ".join(result.missing))}.</p>')
    parts.append(_html_table("In the paper", ["", *(column.name for column in names)], published))
    parts += [_orders(result), _steps(result), _ours(result, "What the paper did not measure", table.further)]
    parts.append(_origins(result))
    return "\n".join(part for part in parts if part)


def _orders(result: TableResult) -> str:
    rows = [
        [
            _td(order.column),
            _td(str(len(order.rows))),
            _td(f"{order.tau:.2f}"),
            _td("; ".join(f"{low} below {high}" for low, high in order.inverted) or "none", "text"),
        ]
        for order in result.orders
    ]
    header = ("column", "rows", "Kendall's tau", "pairs in the other order")
    return _html_table("Order beside the paper's", header, rows, header[3:]) if rows else ""


def _steps(result: TableResult) -> str:
    rows = [[_td(row), *(_td(f"{value:.3f}") for value in values)] for row, values in result.by_step.items()]
    count = max(map(len, result.by_step.values()), default=0)
    header = ["", *(f"step {step}" for step in range(1, count + 1))]
    rows = [row + [_td("")] * (len(header) - len(row)) for row in rows]
    return _html_table("Error / still picture, by step", header, rows) if rows else ""


def _origins(result: TableResult) -> str:
    rows = [
        [
            _td(row),
            _td(str(run["seed"])),
            f'<td class="text"><code>{escape(str(run["command"]))}</code></td>',
            _td(f"{run['steps']:,}"),
            _td(f"{run['training_seconds']:,.0f}"),
            _td(str(run["trained at"])),
            _td(str(run["commit"])),
            _td(f"{run['data']} {run['sha256']}", "text"),
        ]
        for row, runs in result.runs.items()
        for run in runs
    ]
    header = ("row", "seed", "command", "steps", "seconds", "trained at", "evaluated at", "data")
    if not rows:
        return ""
    laid_out = _html_table("", header, rows, ("command", "data"))
    return f"<details><summary>Where the numbers come from</summary>{laid_out}</details>"


def _figure(figure: Figure, preset: Preset, out: Path) -> str:
    parts = [f'<h2 id="{figure.name}">{_title(figure.name)}: {escape(figure.title)}</h2>']
    for picture in figure.pictures:
        path = picture_of(picture, preset, out)
        caption = f"{picture.row.config.dataset}. {picture.caption}"
        if not path.exists():
            parts.append(f'<p class="warning">Missing: {escape(caption)}.</p>')
            continue
        data = base64.b64encode(path.read_bytes()).decode()
        image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        parts.append(f"<figure>{image}<figcaption>{escape(caption)}.</figcaption></figure>")
    return "\n".join(parts)
