"""Tables in Markdown that read well in a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def lay_out(rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table, aligned to the right.

    Args:
        rows: The rows, all of one length, the first one the header.

    Returns:
        The table in Markdown.

    Example:
        >>> print(lay_out([("name", "E"), ("a", "10.5")]))
        | name |    E |
        |-----:|-----:|
        |    a | 10.5 |
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.rjust, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    return "\n".join(lines)
