"""Tables in Markdown that read well in a terminal, and the blocks of pages that hold them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int | Collection[int] = 1) -> str:
    """Write a table in Markdown, its columns padded.

    Args:
        header: The titles of the columns.
        rows: The cells.
        left: The columns that are aligned to the left, by their number from the left or their indices; the others are
            aligned to the right.

    Returns:
        The table.

    Raises:
        ValueError: If a row has not one cell for each title.

    Example:
        >>> print(table(["a", "bb"], [["x", "1"]]))
        | a | bb |
        |:--|---:|
        | x |  1 |
    """
    lines = [list(header), *(list(row) for row in rows)]
    for line in lines:
        if len(line) != len(header):
            raise ValueError(f"rows: expected {len(header)} cells in each, got {len(line)}")
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lefts = range(left) if isinstance(left, int) else left
    rule = [":" + "-" * (width + 1) if i in lefts else "-" * (width + 1) + ":" for i, width in enumerate(widths)]

    def padded(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i in lefts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "| " + " | ".join(cells) + " |"

    return "\n".join([padded(lines[0]), "|" + "|".join(rule) + "|", *map(padded, lines[1:])])


def write_block(page: str, name: str, content: str) -> str:
    r"""Replace a block of a page: the text between ``<!-- begin NAME -->`` and ``<!-- end -->``.

    Args:
        page: The page.
        name: The name of the block.
        content: The new content.

    Returns:
        The page with the new block.

    Raises:
        ValueError: If the page has not exactly one block of that name.

    Example:
        >>> page = "<!-- begin sum -->\n\nold\n\n<!-- end -->"
        >>> assert write_block(page, "sum", "new") == page.replace("old", "new")
    """
    block = re.compile(rf"(<!-- begin {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    found = len(block.findall(page))
    if found != 1:
        raise ValueError(f"page: expected one block {name!r}, got {found}")
    return block.sub(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", page)
