r"""Undo one discrete step by a method that needs no Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentflow.calculus import Field
from latentflow.calculus.checks import check_count, check_flag
from latentflow.flow.inverse import SLOPE, Root, State, check_solver, correct, evaluate_state, require_found

KEPT = 0.8  # the share of points below which the others leave the batch
SHORTER = 0.4  # the length of a step relative to the one that did not decrease the objective


@dataclass(frozen=True)
class LBFGS:
    r"""The limited-memory method of Broyden, Fletcher, Goldfarb and Shanno, for each point on its own.

    It minimizes the function :math:`\varphi` of :class:`Newton` from gradients alone: an iteration costs one gradient
    and no Hessian, which is less from some 16 coordinates on. A point whose step does not decrease :math:`\varphi`
    stays, and tries a shorter one in the next iteration.

    Gradients are those of :class:`Newton`: the corrections at the root need one Hessian.

    Args:
        memory: How many steps to remember.
        tolerance: See :class:`Newton`.
        max_iterations: How many iterations to make at most.
        order: See :class:`Newton`.
        shrink: Whether points ``(n, dim)`` that are found leave the batch, so that they cost no more; the field must
            not have a tensor for each sample then.

    Raises:
        ValueError: If a number is not positive.

    References:
        | On the limited memory BFGS method for large scale optimization (Liu, Nocedal, 1989)
        | https://doi.org/10.1007/BF01589116

    Example:
        >>> from latentflow import FunctionPotential
        >>> steep = FunctionPotential(lambda z, t: z.pow(4).sum(-1))  # the step z + 4 z^3
        >>> z = LBFGS().solve(steep, torch.tensor([[5.0]]), 0.0, 1.0)
        >>> torch.testing.assert_close(z, torch.tensor([[1.0]]))
    """

    memory: int = 6
    tolerance: float | None = None
    max_iterations: int = 200
    order: int = 1
    shrink: bool = False

    def __post_init__(self) -> None:
        check_solver(self.tolerance, self.max_iterations, self.order)
        check_count("memory", self.memory)
        check_flag("shrink", self.shrink)

    def solve(self, u: Field, y: Tensor, t: float, dt: float) -> Tensor:
        """Find the points from which a step leads to ``y``; see :class:`StepSolver`."""
        root = self.search(u, y, t, dt)
        require_found(root, y, "L-BFGS", self.max_iterations, "; use Newton()")
        return correct(u, root.z, y, t, dt, self.order)

    @torch.no_grad()
    def search(self, u: Field, y: Tensor, t: float, dt: float, start: Tensor | None = None) -> Root:
        """Search for the points before a step, and report those that were not found; see :class:`RootSearch`."""
        y = y.detach()
        here = ends = self._evaluate(u, y if start is None else start.detach(), y, t, dt)
        memory = _Memory(self.memory, here.residual)
        length = torch.ones_like(here.objective)
        index: Tensor | None = None  # of the points that are left; None for all
        for _ in range(self.max_iterations):
            going = ~here.done & torch.isfinite(here.residual).all(-1)
            if not going.any():
                break
            if self.shrink and y.ndim == 2 and int(going.sum()) < KEPT * len(y):
                ends = _put(ends, index, here)
                index = going.nonzero().squeeze(-1) if index is None else index[going]
                here, y, length = _take(here, going), y[going], length[going]
                memory.keep(going)
                going = going[going]
            direction = memory.direction(here.residual)
            slope = (here.residual * direction).sum(-1)
            there = self._evaluate(u, here.z + (length * going).unsqueeze(-1) * direction, y, t, dt)
            enough = there.objective <= here.objective + SLOPE * length * slope + here.noise
            good = going & enough & torch.isfinite(there.objective)
            length = torch.where(good, 1.0, length * SHORTER)
            memory.remember(there.z - here.z, there.residual - here.residual, good)
            here = _choose(good, there, here)
        ends = _put(ends, index, here)
        return Root(ends.z, ends.residual, ends.done)

    def _evaluate(self, u: Field, z: Tensor, y: Tensor, t: float, dt: float) -> State:
        return evaluate_state(u, z, y, t, dt, self.tolerance, hessian=False)


class _Memory:
    r"""The last steps :math:`s` and changes of the gradient :math:`y` of each point.

    They stand for the inverse Hessian :math:`B` with :math:`B y = s` for each of them, and
    :math:`\gamma = s^\top y / |y|^2` of the last one elsewhere.
    """

    def __init__(self, size: int, like: Tensor) -> None:
        self._size = size
        self._scale = torch.ones_like(like[..., :1])
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []

    def remember(self, step: Tensor, change: Tensor, good: Tensor) -> None:
        """Add a step of the points that made one."""
        product = (step * change).sum(-1, keepdim=True)
        curved = good.unsqueeze(-1) & (product > torch.finfo(step.dtype).tiny)
        inverse = torch.where(curved, 1 / torch.where(curved, product, 1.0), 0.0)
        square = change.square().sum(-1, keepdim=True)
        self._scale = torch.where(curved, product / torch.where(curved, square, 1.0), self._scale)
        # a step that was not made may be infinite, and infinity times zero is no number
        self._steps.append((torch.where(curved, step, 0.0), torch.where(curved, change, 0.0), inverse))
        del self._steps[: -self._size]

    def keep(self, going: Tensor) -> None:
        """Forget the steps of the other points."""
        self._scale = self._scale[going]
        self._steps = [(step[going], change[going], inverse[going]) for step, change, inverse in self._steps]

    def direction(self, gradient: Tensor) -> Tensor:
        """Compute the step :math:`-B g` by the recursion over two loops."""
        along = []
        rest = gradient
        for step, change, inverse in reversed(self._steps):
            along.append(inverse * (step * rest).sum(-1, keepdim=True))
            rest = rest - along[-1] * change
        rest = self._scale * rest
        for (step, change, inverse), part in zip(self._steps, reversed(along), strict=True):
            rest = rest + step * (part - inverse * (change * rest).sum(-1, keepdim=True))
        return -rest


def _choose(good: Tensor, there: State, here: State) -> State:
    """Take one state where a step is good, and another elsewhere."""
    rows = good.unsqueeze(-1)
    return State(
        torch.where(rows, there.z, here.z),
        torch.where(good, there.objective, here.objective),
        torch.where(rows, there.residual, here.residual),
        torch.where(good, there.noise, here.noise),
        torch.where(good, there.done, here.done),
        None,
    )


def _take(here: State, going: Tensor) -> State:
    """Take the points of a state that go on."""
    z, objective, residual, noise, done, _ = here
    return State(z[going], objective[going], residual[going], noise[going], done[going], None)


def _put(ends: State, index: Tensor | None, here: State) -> State:
    """Put the points of a state back among all."""
    if index is None:
        return here
    parts = zip(ends[:5], here[:5], strict=True)
    z, objective, residual, noise, done = (whole.index_copy(0, index, part) for whole, part in parts)
    return State(z, objective, residual, noise, done, None)
