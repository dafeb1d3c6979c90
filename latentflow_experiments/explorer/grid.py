"""The grid of an explorer: which paths are rendered ahead, from the richest grid to the poorest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product

from latentflow_experiments.metrics.composition import Backwards, CompositeFlow, Superposed, Switched

__all__ = ["Grid", "grids"]

SMALL = 3  # the most flows of which three are superposed


@dataclass(frozen=True)
class Grid:
    """The paths from one start image.

    Attributes:
        order: The index in the bank of the potential of each flow.
        steps: The number of steps ``T``.
        alone: The parts into which the strengths from 0 to 1 of one flow alone are divided.
        together: Those of superposed flows, a divisor of ``alone``; 0 for no superpositions.
        most: The most flows that are superposed.
        switches: Whether there are switches from one flow to another at half time.

    Example:
        >>> grid = Grid(order=(0, 1), steps=2, alone=4, together=2, most=2, switches=True)
        >>> list(grid.paths())[:6]
        ['0,0', '0.25,0', '0.5,0', '0.75,0', '1,0', '0,0.25']
        >>> grid.paths()["0.5,1"], grid.paths()["switch 0,1 restart"]
        (Superposed(terms=((0, 0.5), (1, 1.0))), Switched(first=0, second=1, restart=True))
    """

    order: tuple[int, ...]
    steps: int
    alone: int
    together: int
    most: int
    switches: bool

    def __post_init__(self) -> None:
        if self.together and self.alone % self.together:
            raise ValueError(f"together: expected a divisor of alone, {self.alone}, got {self.together}")

    def paths(self) -> dict[str, CompositeFlow]:
        """List the paths by the names that the page gives them.

        Returns:
            Superpositions by their strengths such as ``0.5,1``, switches such as ``switch 0,1 restart``, and ways back
            such as ``back 0``; numbers of flows are those of the transformations, not of the bank.
        """
        found: dict[str, CompositeFlow] = {}
        for strengths in self._strengths():
            terms = tuple((self.order[k], strength) for k, strength in enumerate(strengths) if strength)
            found[",".join(f"{strength:g}" for strength in strengths)] = Superposed(terms)
        if self.switches and self.steps > 1:
            for (j, k), restart in product(permutations(range(len(self.order)), 2), (False, True)):
                clock = "restart" if restart else "continue"
                found[f"switch {j},{k} {clock}"] = Switched(self.order[j], self.order[k], restart)
        return found | {f"back {k}": Backwards(potential) for k, potential in enumerate(self.order)}

    def _strengths(self) -> Iterator[tuple[float, ...]]:
        count = len(self.order)
        yield (0.0,) * count
        for size in range(1, (self.most if self.together else 1) + 1):
            parts = self.alone if size == 1 else self.together
            for kinds in combinations(range(count), size):
                for levels in product(range(1, parts + 1), repeat=size):
                    chosen = dict(zip(kinds, levels, strict=True))
                    yield tuple(chosen.get(k, 0) / parts for k in range(count))

    def described(self, names: Sequence[str], images: int) -> str:
        """Say in words what was rendered.

        Args:
            names: The names of the flows.
            images: The number of start images.

        Returns:
            A few sentences.

        Example:
            >>> Grid((0,), 8, alone=2, together=0, most=1, switches=False).described(["hue"], 1)
            '1 start image, 1 flow, times 0 to 8. Strengths of one flow alone: 0, 1/2, 1. Each flow backwards.'
        """

        def fractions(parts: int) -> str:
            return ", ".join(["0", *(f"{n}/{parts}" for n in range(1, parts)), "1"])

        def plural(count: int, what: str) -> str:
            return f"{count} {what}{'' if count == 1 else 's'}"

        text = [
            f"{plural(images, 'start image')}, {plural(len(names), 'flow')}, times 0 to {self.steps}.",
            f"Strengths of one flow alone: {fractions(self.alone)}.",
        ]
        most = min(self.most, len(names))
        if self.together and most > 1:
            text.append(f"Strengths of up to {most} flows at once: {fractions(self.together)}.")
        if self.switches and len(names) > 1 and self.steps > 1:
            text.append("Switches at half time from each flow to each other one, with both clocks.")
        return " ".join([*text, "Each flow backwards."])


def grids(order: Sequence[int], steps: int) -> list[Grid]:
    """List grids for a model, each poorer than the one before it.

    Args:
        order: The index in the bank of the potential of each flow.
        steps: The number of steps ``T``.

    Returns:
        The grids. Of up to three flows all are superposed, of more each two.

    Example:
        >>> [len(grid.paths()) for grid in grids(order=range(3), steps=8)]
        [60, 48, 32, 26, 14, 10, 7]
        >>> assert len(grids(order=range(8), steps=8)[0].paths()) == 1 + 64 + 28 * 4 + 2 * 56 + 8
    """
    most = len(order) if len(order) <= SMALL else 2
    levels = ((8, 2, True), (4, 2, True), (4, 1, True), (2, 1, True), (2, 1, False), (2, 0, False), (1, 0, False))
    return [Grid(tuple(order), steps, alone, together, most, switches) for alone, together, switches in levels]
