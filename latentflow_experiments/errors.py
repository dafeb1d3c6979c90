"""Errors of the experiments that a user can act on, and the text of their messages."""

__all__ = ["FAILURE", "INTERRUPTED", "UNREAD", "USAGE", "DataError", "ExperimentError", "UsageError", "printable"]

FAILURE, USAGE, INTERRUPTED, UNREAD = 1, 2, 130, 141
"""Exit codes of the command: it failed, was called wrongly, was stopped by Ctrl-C, lost the reader of its output."""


def printable(text: str, longest: int | None = None) -> str:
    r"""Write a text so that a terminal shows it and does nothing else with it.

    Names of files and keys inside them come from outside. Control characters, ANSI escapes, marks that reverse the
    direction of writing, and bytes that are no text are written as Python escapes; a line break is one of them.

    Args:
        text: Any text.
        longest: The largest number of characters; of a longer text the end is left out.

    Returns:
        The text, in one line.

    Example:
        >>> print(printable("a\x1b[31mb\nc"))
        a\x1b[31mb\nc
        >>> print(printable("abcdefgh", longest=6))
        abc...
    """
    if longest is not None and len(text) > longest:
        text = f"{text[: max(longest - 3, 0)]}..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class ExperimentError(Exception):
    """A problem the user can act on; the command line prints it in one line and exits with 1.

    Args:
        message: What is wrong; control characters in it are escaped, see :func:`printable`.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class UsageError(ExperimentError):
    """An argument is out of range or does not go with another one; the command line exits with 2."""


class DataError(ExperimentError):
    """A data file is missing, damaged or not what it should be."""
