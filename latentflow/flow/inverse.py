r"""Undo one discrete step: solve :math:`y = z + h \nabla u(z, t)` for ``z``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from latentflow.calculus import Derivative, Field, Jet, JetRequest, evaluate_jet
from latentflow.calculus.checks import check_count, check_positive
from latentflow.calculus.jets import NONE

HALVINGS = 30
SLOPE = 1e-4  # the share of the predicted decrease that a step of Newton's method has to achieve


class InversionError(RuntimeError):
    """A discrete step could not be inverted at some points."""


class Root(NamedTuple):
    r"""The points that a search for :math:`z + h \nabla u(z, t) = y` ended at, without a graph.

    Attributes:
        z: The points, of shape ``(*batch, dim)``.
        residual: :math:`z + h \nabla u(z, t) - y`, of shape ``(*batch, dim)``.
        found: Whether the residual is within the tolerance, of shape ``(*batch,)``.
    """

    z: Tensor
    residual: Tensor
    found: Tensor


class StepSolver(Protocol):
    """Inverts one step of the discrete flow."""

    def solve(self, u: Field, y: Tensor, t: float, dt: float) -> Tensor:
        r"""Find the points from which a step leads to given ones.

        Args:
            u: The potential.
            y: The points after the step, of shape ``(*batch, dim)``.
            t: The time before the step.
            dt: The length :math:`h` of the step, of either sign.

        Returns:
            The points ``z`` with :math:`z + h \nabla u(z, t) = y`, of shape ``(*batch, dim)``.

        Raises:
            InversionError: If some are not found.
        """


class RootSearch(StepSolver, Protocol):
    """Inverts one step of the discrete flow from a given start, where failures are reported instead of raised."""

    def search(self, u: Field, y: Tensor, t: float, dt: float, start: Tensor | None = None) -> Root:
        r"""Search for the points from which a step leads to given ones.

        Args:
            u: The potential.
            y: The points after the step, of shape ``(*batch, dim)``.
            t: The time before the step.
            dt: The length :math:`h` of the step, of either sign.
            start: Where to start, of shape ``(*batch, dim)``; ``y`` if None.

        Returns:
            Where the search ended, without a graph. It ends at once where a number is not finite.
        """


@dataclass(frozen=True)
class Newton:
    r"""Newton's method on the convex function whose minimum is the point before the step.

    .. math:: \varphi(z) = \tfrac12 |z|^2 + h\,u(z, t) - y \cdot z, \qquad
        \nabla \varphi = z + h \nabla u - y, \quad \nabla^2 \varphi = I + h \nabla^2 u

    Steps are halved until :math:`\varphi` decreases, so it converges wherever :math:`I + h \nabla^2 u` is positive
    definite, however large it is; elsewhere the eigenvalues are replaced by their absolute values, which leads to a
    point where the step does not fold, if there is one. Every point has its own step; one Hessian and one
    factorisation for each point is the cost of an iteration.

    The iterations keep no graph. The result carries gradients to ``y`` and to the potential by the implicit function
    theorem: ``order`` corrections :math:`z \leftarrow z - J^{-1}(z + h \nabla u(z, t) - y)` with the constant
    :math:`J = I + h \nabla^2 u` at the root are differentiated, and each makes one more order of derivatives exact.
    With the default, gradients are exact and second derivatives are not.

    Args:
        tolerance: How small :math:`|z + h \nabla u - y|` has to become, relative to
            :math:`1 + |y| + |h \nabla u|`; None for the machine epsilon to the power 3/4, which is 2e-12 in float64
            and 6e-6 in float32.
        max_iterations: How many iterations to make at most.
        order: The order up to which derivatives of the result are exact.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> from latentflow import FunctionPotential
        >>> steep = FunctionPotential(lambda z, t: z.pow(4).sum(-1))  # the step z + 4 z^3
        >>> z = Newton().solve(steep, torch.tensor([[5.0]]), 0.0, 1.0)
        >>> torch.testing.assert_close(z, torch.tensor([[1.0]]))
    """

    tolerance: float | None = None
    max_iterations: int = 50
    order: int = 1

    def __post_init__(self) -> None:
        check_solver(self.tolerance, self.max_iterations, self.order)

    def solve(self, u: Field, y: Tensor, t: float, dt: float) -> Tensor:
        """Find the points from which a step leads to ``y``; see :class:`StepSolver`."""
        root = self.search(u, y, t, dt)
        require_found(root, y, "Newton", self.max_iterations)
        return correct(u, root.z, y, t, dt, self.order)

    @torch.no_grad()
    def search(self, u: Field, y: Tensor, t: float, dt: float, start: Tensor | None = None) -> Root:
        """Search for the points before a step, and report those that were not found; see :class:`RootSearch`."""
        y = y.detach()
        here = evaluate_state(u, y if start is None else start.detach(), y, t, dt, self.tolerance)
        if torch.isfinite(here.residual).all():
            for _ in range(self.max_iterations):
                if here.done.all():
                    break
                here = self._descend(u, here, y, t, dt)
        return Root(here.z, here.residual, here.done)

    def _descend(self, u: Field, here: State, y: Tensor, t: float, dt: float) -> State:
        direction = _newton_direction(here)
        predicted = (here.residual * direction).sum(-1)
        length = torch.where(here.done, 0.0, torch.ones_like(predicted))
        for _ in range(HALVINGS):
            there = evaluate_state(u, here.z + length.unsqueeze(-1) * direction, y, t, dt, self.tolerance)
            enough = there.objective <= here.objective + SLOPE * length * predicted + here.noise
            good = (enough & torch.isfinite(there.residual).all(-1)) | here.done
            if good.all():
                break
            length = torch.where(good, length, length / 2)
        return there


@dataclass(frozen=True)
class FixedPoint:
    r"""The iteration :math:`z \leftarrow y - h \nabla u(z, t)`, without a Hessian.

    It converges where :math:`h \nabla u` is a contraction, :math:`|h \nabla^2 u|_2 \le L < 1`, and reduces the error by
    the factor ``L`` each time. Where large positive eigenvalues of the Hessian stop it, :class:`Newton` goes on.

    Gradients are those of :class:`Newton`: the corrections at the root need one Hessian.

    Args:
        tolerance: See :class:`Newton`.
        max_iterations: How many iterations to make at most.
        order: See :class:`Newton`.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> from latentflow import FunctionPotential
        >>> mild = FunctionPotential(lambda z, t: -0.5 * z.cos().sum(-1))  # the step z + sin(z) / 2
        >>> z = FixedPoint().solve(mild, torch.tensor([[0.8 + 0.358678]]), 0.0, 1.0)
        >>> torch.testing.assert_close(z, torch.tensor([[0.8]]))
    """

    tolerance: float | None = None
    max_iterations: int = 200
    order: int = 1

    def __post_init__(self) -> None:
        check_solver(self.tolerance, self.max_iterations, self.order)

    def solve(self, u: Field, y: Tensor, t: float, dt: float) -> Tensor:
        """Find the points from which a step leads to ``y``; see :class:`StepSolver`."""
        target = y.detach()
        with torch.no_grad():
            here = evaluate_state(u, target, target, t, dt, self.tolerance, hessian=False)
            for _ in range(self.max_iterations if torch.isfinite(here.residual).all() else 0):
                if here.done.all():
                    break
                z = torch.where(here.done.unsqueeze(-1), here.z, here.z - here.residual)
                here = evaluate_state(u, z, target, t, dt, self.tolerance, hessian=False)
        root = Root(here.z, here.residual, here.done)
        require_found(root, y, "the fixed-point iteration", self.max_iterations, "; use Newton()")
        return correct(u, here.z, y, t, dt, self.order)


class State(NamedTuple):
    r"""Points on their way to a root, with the convex function :math:`\varphi` there and its derivatives."""

    z: Tensor
    objective: Tensor
    residual: Tensor
    noise: Tensor  # the roundoff of the objective
    done: Tensor
    jacobian: Tensor | None


def evaluate_state(
    u: Field, z: Tensor, y: Tensor, t: float, dt: float, tolerance: float | None, *, hessian: bool = True
) -> State:
    """Evaluate the function whose minimum is the point before a step."""
    jet = evaluate_jet(u, z, t, JetRequest(Derivative.HESSIAN if hessian else NONE))
    epsilon = torch.finfo(z.dtype).eps
    push = dt * jet.gradient
    residual = z + push - y
    scale = 1 + y.norm(dim=-1) + push.norm(dim=-1)
    small = residual.norm(dim=-1) <= (epsilon**0.75 if tolerance is None else tolerance) * scale
    done = small & torch.isfinite(scale)
    terms = torch.stack([z.square().sum(-1) / 2, dt * jet.value, -(y * z).sum(-1)])
    noise = 16 * epsilon * terms.abs().sum(0)
    return State(z, terms.sum(0), residual, noise, done, _jacobian(jet, dt) if hessian else None)


def _jacobian(jet: Jet, dt: float) -> Tensor:
    eye = torch.eye(jet.hessian.shape[-1], dtype=jet.hessian.dtype, device=jet.hessian.device)
    jacobian: Tensor = eye + dt * jet.hessian
    return jacobian


def _newton_direction(here: State) -> Tensor:
    assert here.jacobian is not None  # Newton's method asks for it
    jacobian = torch.where(torch.isfinite(here.jacobian), here.jacobian, 0.0)
    factor, info = torch.linalg.cholesky_ex(jacobian)
    right = here.residual.unsqueeze(-1)
    if not (info != 0).any():
        down: Tensor = torch.cholesky_solve(right, factor).squeeze(-1)
        return -down
    values, vectors = torch.linalg.eigh(jacobian)
    floor = torch.finfo(values.dtype).eps ** 0.5 * values.abs().amax(-1, keepdim=True).clamp(min=1)
    along = (vectors.mT @ right) / torch.maximum(values.abs(), floor).unsqueeze(-1)
    convex: Tensor = (vectors @ along).squeeze(-1)
    return -convex


def require_found(root: Root, y: Tensor, name: str, iterations: int, remedy: str = "") -> None:
    """Raise an InversionError unless all points were found, by a search that started from ``y``."""
    if root.found.all():
        return
    stayed = (root.z == y).all(-1) | ~torch.isfinite(y).all(-1)
    bad = stayed & ~torch.isfinite(root.residual).all(-1)
    if bad.any():
        raise InversionError(
            f"the step from {int(bad.sum())} of {bad.numel()} points is not finite: the points or the gradient of u "
            "there are NaN or infinite; use finite points and a smoother potential"
        )
    worst = root.residual.norm(dim=-1)[~root.found].max()
    raise InversionError(
        f"{name} found no point from which the step leads to {int((~root.found).sum())} of {root.found.numel()} points "
        f"in {iterations} iterations (residual up to {float(worst):.2g}); use smaller steps or a smoother potential, "
        f"or raise max_iterations or tolerance{remedy}"
    )


def correct(u: Field, root: Tensor, y: Tensor, t: float, dt: float, order: int) -> Tensor:
    """Correct a root by Newton steps that carry gradients; see :class:`Newton`."""
    with torch.no_grad():
        jacobian = _jacobian(evaluate_jet(u, root, t, JetRequest(Derivative.HESSIAN)), dt)
        factors = torch.linalg.lu_factor_ex(jacobian)
        singular = factors.info != 0
        if singular.any():
            raise InversionError(
                f"I + dt * Hessian is singular at {int(singular.sum())} of the {singular.numel()} points before the "
                "step; use smaller steps or a smoother potential"
            )
    z = root
    for _ in range(order):
        residual = z + dt * evaluate_jet(u, z, t, JetRequest()).gradient - y
        z = z - torch.linalg.lu_solve(factors.LU, factors.pivots, residual.unsqueeze(-1)).squeeze(-1)
    return z


def check_solver(tolerance: float | None, max_iterations: int, order: int) -> None:
    """Check the numbers of a solver."""
    if tolerance is not None:
        check_positive("tolerance", tolerance)
    for name, value in (("max_iterations", max_iterations), ("order", order)):
        check_count(name, value)
