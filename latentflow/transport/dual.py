r"""The dual of optimal transport, with a search for the conjugate of the potential."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latentflow.calculus import Field
from latentflow.calculus.checks import check_count, check_methods, check_positive
from latentflow.flow import LBFGS, RootSearch
from latentflow.potentials import Potential
from latentflow.transport.coordinates import MatchedPotential
from latentflow.transport.training import Descent, Draw, Training

START_RATE = 2e-3  # the learning rate of the network of starts
CANDIDATES = 2048
"""How many points of the source are tried as starts for every point of the target."""
MAX_ENTRIES = 2**24
"""The largest number of entries of costs or Hessians in memory."""
AGAIN = 8  # one in so many steps searches from another start too
LONGER = 3  # how many times as long to search again for points that were not found


class Conjugate(NamedTuple):
    r"""The minima of :math:`u(x) + \tfrac12 |x - y|^2` over ``x``.

    Attributes:
        x: Where they are, of shape ``(n, dim)``.
        value: The minima, of shape ``(n,)``: the solution :math:`u(y, 1)` of the Hamilton-Jacobi equation from ``u``.
        found: Whether :math:`x + \nabla u(x) = y` holds within the tolerance, of shape ``(n,)``.
    """

    x: Tensor
    value: Tensor
    found: Tensor


@torch.no_grad()
def find_minima(u: Field, y: Tensor, search: RootSearch, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Search for the minima of :math:`u(x) + \tfrac12 |x - y|^2`, ``(n, dim)``, and say which were found, ``(n,)``.

    Points that a search does not find are searched again from where it ended, for three times as long.
    """
    root = search.search(u, y, 0.0, 1.0, start)
    x, found = root.z, root.found
    for _ in range(LONGER):
        again = ~found & torch.isfinite(x).all(-1)
        if not again.any():
            break
        more = search.search(u, y[again], 0.0, 1.0, x[again])
        x, found = x.clone(), found.clone()
        x[again], found[again] = more.z, more.found
    return x, found


@torch.no_grad()
def conjugate(u: Field, y: Tensor, search: RootSearch, start: Tensor | None = None) -> Conjugate:
    r"""Compute the formula of Hopf and Lax at time 1, which is the transform of Kantorovich duality.

    .. math:: u(y, 1) = \min_x \bigl(u(x) + \tfrac12 |x - y|^2\bigr) .

    Args:
        u: The potential, evaluated at time 0.
        y: The points, of shape ``(n, dim)``.
        search: The search for the minima.
        start: Where to start, of shape ``(n, dim)``; ``y`` if None.

    Returns:
        The minima. Any ``x`` gives an upper bound, so a value that was not found is too large.
    """
    x, found = find_minima(u, y, search, start)
    return Conjugate(x, height(u, x, y), found)


def height(u: Field, x: Tensor, y: Tensor) -> Tensor:
    r"""Compute :math:`u(x) + \tfrac12 |x - y|^2`, of shape ``(n,)``."""
    return u(x, x.new_zeros(len(x))) + (x - y).square().sum(-1) / 2


@torch.no_grad()
def conjugate_of(u: Field, y: Tensor, search: RootSearch, start: Tensor | None = None) -> Conjugate:
    """Compute :func:`conjugate`, with the search in the coordinates in which a :class:`MatchedPotential` is given."""
    if not isinstance(u, MatchedPotential):
        return conjugate(u, y, search, start)
    coordinates = u.coordinates
    begin = None if start is None else coordinates.source(start)
    own, found = find_minima(u.potential, coordinates.target(y), search, begin)
    x = coordinates.from_source(own)
    return Conjugate(x, height(u, x, y), found)


@torch.no_grad()
def best_start(u: Field, y: Tensor, candidates: Tensor) -> Tensor:
    r"""Choose for each ``y`` the candidate ``(m, dim)`` with the least :math:`u(x) + \tfrac12 |x - y|^2`."""
    center = candidates.mean(0)  # so that the squares are not large
    x = candidates - center
    heights = u(candidates, x.new_zeros(len(x))) + x.square().sum(-1) / 2  # without the part of y alone
    rows = max(1, MAX_ENTRIES // len(x))
    best = [torch.addmm(heights, part - center, x.mT, alpha=-1).argmin(-1) for part in torch.split(y, rows)]
    return candidates[torch.cat(best)]


@torch.no_grad()
def lowest(u: Field, y: Tensor, search: RootSearch, candidates: Tensor) -> Conjugate:
    r"""Compute :func:`conjugate` by two searches, from ``y`` and from the best of some candidates, and keep the lower.

    Where :math:`\tfrac12 |x|^2 + u` is not convex, a search from one start may end in a minimum that is not the lowest.

    Args:
        u: The potential.
        y: The points, of shape ``(n, dim)``.
        search: The search.
        candidates: Points to begin at, of shape ``(m, dim)``, such as samples of the source.

    Returns:
        The lowest points that were found.
    """
    return _lower(conjugate_of(u, y, search), conjugate_of(u, y, search, best_start(u, y, candidates)))


def _lower(found: Conjugate, other: Conjugate) -> Conjugate:
    """Choose the lower one of two ends for each point, and the other one where one is not a number."""
    lower = (other.value < found.value) | found.value.isnan()
    return Conjugate(
        torch.where(lower.unsqueeze(-1), other.x, found.x),
        torch.where(lower, other.value, found.value),
        torch.where(lower, other.found, found.found),
    )


class DualValue(NamedTuple):
    r"""The dual of transport on samples, :math:`2 (E\,u(y, 1) - E\,u(x))`, in float64.

    Attributes:
        starts: The values :math:`u(x)`, of shape ``(n,)``.
        ends: The values :math:`u(y, 1)`, of shape ``(m,)``.
        not_found: The share of minima that were not found.
    """

    starts: Tensor
    ends: Tensor
    not_found: float

    @property
    def mean(self) -> float:
        """The dual value."""
        return float(2 * (self.ends.mean() - self.starts.mean()))

    def error_from(self, other: DualValue) -> float:
        """Estimate the standard error of the difference to the dual of another potential on the same samples."""
        differences = (self.starts - other.starts, self.ends - other.ends)
        return 2 * float(torch.stack([part.var() / len(part) for part in differences]).sum().sqrt())


@torch.no_grad()
def dual_value(u: Potential, x: Tensor, y: Tensor) -> DualValue:
    """Compute the dual of a potential on samples ``(n, dim)`` of the source and ``(m, dim)`` of the target."""
    full = copy.deepcopy(u).double()
    x, y = x.double(), y.double()
    found = conjugate_of(full, y, LBFGS(max_iterations=50, tolerance=1e-4, shrink=True), best_start(full, y, x))
    return DualValue(full(x, x.new_zeros(len(x))), found.value, 1 - float(found.found.double().mean()))


@dataclass(frozen=True)
class DualPotential:
    r"""Maximizes the dual of optimal transport over potentials.

    .. math::
        \tfrac12 W_2^2(P, Q) = \max_u\; E_{y \sim Q}\,u(y, 1) - E_{x \sim P}\,u(x), \qquad
        u(y, 1) = \min_x \bigl(u(x) + \tfrac12 |x - y|^2\bigr) .

    The gradient in the parameters is that of :math:`E\,u(x^*(y)) - E\,u(x)`, with the minima :math:`x^*` held fixed
    (envelope theorem), so no second derivative is needed. At the maximum :math:`x + \nabla u(x)` is the optimal map and
    :math:`x^*` its inverse. A small network is fitted to the minima on the way, and the search starts from it; in every
    eighth step also from :math:`y`, and the lower end counts.

    Traps: where minima are left out, or searched too briefly, nothing holds the potential and it runs away; all finite
    ends of the search enter the loss, found or not. A well that no search of the training reaches is never filled,
    and a later search may fall into it. Where :math:`\tfrac12 |x|^2 + u` is not convex, a search may end in a minimum
    that is not the lowest.

    Args:
        conjugate: The search for the minima: :class:`latentflow.flow.LBFGS`, :class:`latentflow.flow.Newton`, or your
            own.
        batch_size: Points of each side in a step.
        learning_rate: The peak learning rate of Adam.
        share: The share of the budget, relative to that of other methods in a chain.

    Raises:
        ValueError: If a number is not positive.

    References:
        | On amortizing convex conjugates for optimal transport (Amos, 2023)
        | https://arxiv.org/abs/2210.12153

    Example:
        >>> method = DualPotential(batch_size=256)
        >>> assert method.conjugate.max_iterations == 10
    """

    conjugate: RootSearch = LBFGS(max_iterations=10, tolerance=1e-2, shrink=True)  # noqa: RUF009 - frozen
    batch_size: int = 512
    learning_rate: float = 0.01
    share: float = 1.0

    def __post_init__(self) -> None:
        check_methods("conjugate", self.conjugate, ("search",), "LBFGS(), Newton() or another RootSearch")
        check_count("batch_size", self.batch_size)
        check_positive("learning_rate", self.learning_rate)
        check_positive("share", self.share)

    def begin(self, potential: Potential, draw: Draw, generator: torch.Generator | None) -> Training:  # noqa: ARG002 - the protocol's
        """Begin to train a potential in place; see :class:`TransportMethod`."""
        return _DualTraining(self, potential, draw)


class _DualTraining:
    def __init__(self, method: DualPotential, potential: Potential, draw: Draw) -> None:
        self.method, self.potential, self.draw = method, potential, draw
        x, _ = draw(1)
        self.starts = _Starts(x.shape[-1]).to(x)
        self.descent = Descent.of(potential.parameters(), method.learning_rate)
        self.starts_descent = Descent.of(self.starts.parameters(), START_RATE)

    def step(self, progress: float) -> Mapping[str, float]:
        x, y = self.draw(self.method.batch_size)
        guess = self.starts(y)
        ends, found = find_minima(self.potential, y, self.method.conjugate, guess.detach())
        if self.descent.steps % AGAIN == 0:  # look for lower minima elsewhere too, so that none can hide
            with torch.no_grad():
                learned = Conjugate(ends, height(self.potential, ends, y), found)
            ends, _, found = _lower(learned, conjugate(self.potential, y, self.method.conjugate))
        finite = torch.isfinite(ends).all(-1)
        ends, guess, y = ends[finite], guess[finite], y[finite]
        ours, theirs = (self.potential(points, points.new_zeros(len(points))) for points in (x, ends))
        self.descent.step(ours.mean() - theirs.mean(), progress)
        error = (guess - ends).square().sum(-1).mean()
        self.starts_descent.step(error, progress)
        dual = 2 * (theirs.detach() - ours.detach().mean()) + (ends - y).square().sum(-1)
        return {"dual": float(dual.mean()), "not found": 1 - float(found.float().mean())}

    def state(self) -> dict[str, Any]:
        return {
            "starts": self.starts.state_dict(),
            "descent": self.descent.state(),
            "starts_descent": self.starts_descent.state(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.starts.load_state_dict(state["starts"])
        self.descent.load(state["descent"])
        self.starts_descent.load(state["starts_descent"])


class _Starts(nn.Module):
    """A network that maps points of the target near to the minima from which a search starts."""

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__()
        last = nn.Linear(width, dim)
        self.change = nn.Sequential(nn.Linear(dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)
        with torch.no_grad():
            last.weight.mul_(0.1)

    def forward(self, y: Tensor) -> Tensor:
        """Map points ``(n, dim)``."""
        start: Tensor = y + self.change(y)
        return start
