"""A page of headings, paragraphs, tables and pictures, written as HTML that needs no network, and as Markdown."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from latentflow_experiments.reports.tables import table

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


@dataclass(frozen=True)
class Heading:
    """A heading of the second level.

    Attributes:
        text: The heading.
        anchor: The name by which an address leads to it.
    """

    text: str
    anchor: str


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; what stands between backticks is set in typewriter letters.

    Attributes:
        text: The text.
        warning: Whether it is a warning.
    """

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Grid:
    """A table of texts; what stands between backticks is set in typewriter letters.

    Attributes:
        header: The titles of the columns.
        rows: The cells.
        caption: What it shows; may be empty.
        best: Rows and columns, counted from 0, of the cells that are set in bold.
        texts: The titles of columns that hold text, which is aligned to the left and may take several lines.
        folded: What stands in the place of the table until a reader opens it; None for a table that is open.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    best: Collection[tuple[int, int]] = ()
    texts: Collection[str] = ()
    folded: str | None = None


@dataclass(frozen=True)
class Image:
    """A picture with its caption.

    Attributes:
        source: The file that holds it now, PNG.
        name: The name of its file beside a page in Markdown, in the folder ``pictures``.
        caption: What it shows.
    """

    source: Path
    name: str
    caption: str


Part = Heading | Paragraph | Grid | Image


def as_html(title: str, parts: Sequence[Part]) -> str:
    """Write a page in HTML with its style and pictures in it.

    Args:
        title: The title, which is the first heading.
        parts: The rest of the page.

    Returns:
        The page.

    Example:
        >>> page = as_html("A & B", [Paragraph("the file `x.csv`")])
        >>> assert "<h1>A &amp; B</h1>" in page and "<p>the file <code>x.csv</code></p>" in page
    """
    body = "\n".join([f"<h1>{escape(title)}</h1>", *map(_html, parts)])
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def as_markdown(parts: Sequence[Part]) -> str:
    """Write a page in Markdown, without a title, so that a page with words of its own can include it.

    Args:
        parts: The page; pictures are looked for in the folder ``pictures`` beside it.

    Returns:
        The page.

    Example:
        >>> print(as_markdown([Heading("Table 1", "table1"), Grid(["", "E"], [["flow", "2"]], best={(0, 1)})]))
        ## Table 1
        <BLANKLINE>
        |      |     E |
        |:-----|------:|
        | flow | **2** |
        <BLANKLINE>
    """
    return "\n\n".join(map(_markdown, parts)) + "\n"


def _spans(text: str) -> str:
    """Return text as HTML, with typewriter letters."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _html(part: Part) -> str:
    match part:
        case Heading(text, anchor):
            return f'<h2 id="{anchor}">{escape(text)}</h2>'
        case Paragraph(text, warning):
            return f'<p class="warning">{_spans(text)}</p>' if warning else f"<p>{_spans(text)}</p>"
        case Image(source, _, caption):
            data = base64.b64encode(source.read_bytes()).decode()
            image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
            return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
        case Grid():
            return _html_table(part)


def _html_table(grid: Grid) -> str:
    def cell(tag: str, text: str, column: str, *, best: bool = False) -> str:
        kinds = " ".join(["text"] * (column in grid.texts) + ["best"] * best)
        return f'<{tag} class="{kinds}">{_spans(text)}</{tag}>' if kinds else f"<{tag}>{_spans(text)}</{tag}>"

    top = "".join(cell("th", title, title) for title in grid.header)
    lines = []
    for i, row in enumerate(grid.rows):
        cells = zip(row, grid.header, strict=True)
        line = "".join(cell("td", text, title, best=(i, j) in grid.best) for j, (text, title) in enumerate(cells))
        lines.append(f"<tr>{line}</tr>")
    caption = f"<caption>{escape(grid.caption)}</caption>" if grid.caption else ""
    body = "\n".join(lines)
    laid_out = f'<div class="frame"><table>{caption}<thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    if grid.folded is None:
        return laid_out
    return f"<details><summary>{escape(grid.folded)}</summary>{laid_out}</details>"


def _plain(text: str) -> str:
    """Return text in which Markdown reads no tag, and no end of a cell."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
    return "`".join(parts).replace("|", r"\|")


def _markdown(part: Part) -> str:
    match part:
        case Heading(text, _):
            return f"## {_plain(text)}"
        case Paragraph(text, warning):
            return f"**Note.** {_plain(text)}" if warning else _plain(text)
        case Image(_, name, caption):
            return f"![{_plain(caption)}](pictures/{name})\n\n*{_plain(caption)}*"
        case Grid():
            return _markdown_table(part)


def _markdown_table(grid: Grid) -> str:
    rows = [
        [f"**{_plain(text)}**" if (i, j) in grid.best else _plain(text) for j, text in enumerate(row)]
        for i, row in enumerate(grid.rows)
    ]
    lefts = {0, *(j for j, title in enumerate(grid.header) if title in grid.texts)}
    laid_out = table([_plain(title) for title in grid.header], rows, lefts)
    if grid.caption:
        laid_out = f"**{_plain(grid.caption)}**\n\n{laid_out}"
    if grid.folded is not None:
        laid_out = f"<details><summary>{escape(grid.folded)}</summary>\n\n{laid_out}\n\n</details>"
    return laid_out
