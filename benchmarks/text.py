"""Numbers as text."""

from __future__ import annotations

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def significant(number: float, digits: int = 3) -> str:
    """Write a number with so many significant digits and without an exponent; whole numbers keep all of theirs.

    Args:
        number: The number.
        digits: The digits.

    Returns:
        The text.

    Example:
        >>> assert [significant(x) for x in (0.01234, 9.996, 41.55, 1234.5)] == ["0.0123", "10.0", "41.5", "1234"]
    """
    exponent = int(f"{number:.{digits - 1}e}".partition("e")[2])
    return f"{number:.{max(0, digits - 1 - exponent)}f}"


def duration(seconds: float) -> str:
    """Write a time in seconds, milliseconds or microseconds.

    Example:
        >>> assert [duration(x) for x in (2.5, 0.0314, 2.5e-4)] == ["2.50 s", "31.4 ms", "250 µs"]
    """
    scale, unit = next(((scale, unit) for scale, unit in UNITS if seconds >= scale), UNITS[-1])
    return f"{significant(seconds / scale)} {unit}"


def times(ratio: float) -> str:
    """Write a ratio.

    Example:
        >>> assert times(12.345) == "12.3 x" and times(0.987) == "0.99 x"
    """
    return f"{significant(ratio, 3 if ratio >= 10 else 2)} x"
