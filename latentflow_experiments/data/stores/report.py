"""What a check of a data set has found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Report"]

_SHOWN = 20


@dataclass(frozen=True)
class Report:
    """What was found in a data set.

    Attributes:
        path: Where it is.
        name: What it is of.
        images: The number of images that could be read and are right.
        synthetic: Whether it says that it is a synthetic stand-in.
        faults: What is wrong with it, one line each.

    Example:
        >>> report = Report(Path("images"), "Isaac3D", 2, True, ("images/000002.png: missing",))
        >>> print(report.text())
        images: Isaac3D (synthetic stand-in), 2 images read, 1 fault
          images/000002.png: missing
    """

    path: Path
    name: str
    images: int
    synthetic: bool
    faults: tuple[str, ...]

    def text(self) -> str:
        """Say it in a few lines, with the first faults."""
        kind = "synthetic stand-in" if self.synthetic else "not marked as synthetic"
        count = len(self.faults)
        verdict = f"{count or 'no'} fault{'s' * (count > 1)}"
        lines = [f"{self.path}: {self.name} ({kind}), {self.images:,} images read, {verdict}"]
        lines += [f"  {fault}" for fault in self.faults[:_SHOWN]]
        if count > _SHOWN:
            lines.append(f"  ... and {count - _SHOWN} more")
        return "\n".join(lines)
