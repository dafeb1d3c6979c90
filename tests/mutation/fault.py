"""A planted fault: a piece of the source and its wrong replacement."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True)
class Fault:
    """A planted fault.

    Attributes:
        name: A few words that name the error.
        file: The file, below the root of the project.
        old: A piece of its text that occurs once.
        new: Its replacement.
        tests: The tests to run first, below ``tests``.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, source: str) -> str:
        """Put the fault into the text of the file.

        Args:
            source: The text of the file.

        Returns:
            The text with the fault.

        Raises:
            ValueError: If ``old`` does not occur exactly once, or the fault changes nothing that is executed.

        Example:
            >>> fault = Fault("no square", "heat.py", "x * x", "x", ())
            >>> assert fault.applied("y = x * x") == "y = x"
        """
        count = source.count(self.old)
        if count != 1:
            raise ValueError(f"{self.name}: expected its text once in {self.file}, got {count} times: {self.old!r}")
        mutated = source.replace(self.old, self.new)
        if ast.dump(ast.parse(mutated)) == ast.dump(ast.parse(source)):
            raise ValueError(f"{self.name}: expected other code in {self.file}, got the same")
        return mutated

    @property
    def fingerprint(self) -> str:
        """A short hash of the file's name, the old and the new text; a recorded trial names its fault by it."""
        return sha256("\0".join((self.file, self.old, self.new)).encode()).hexdigest()[:12]
