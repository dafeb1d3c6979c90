r"""Flow matching restricted to flows with straight characteristics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentflow.calculus import Derivative, JetRequest, evaluate_jet
from latentflow.calculus.checks import check_count, check_methods, check_positive
from latentflow.flow import Newton, RootSearch
from latentflow.potentials import Potential
from latentflow.potentials.algebra import ScaledPotential
from latentflow.transport.coupling import Coupling, MinibatchAssignment
from latentflow.transport.training import Descent, Draw, Training, even_times

EARLIEST = 0.02
"""The earliest time that is drawn: the loss is a difference divided by the time."""


@dataclass(frozen=True)
class OptimalFlowMatching:
    r"""Fits the flow :math:`z_t = z_0 + t \nabla u(z_0)` to straight lines between pairs of points.

    .. math::
        \min_u\; E\,\frac{|x_0 - z_0|^2}{t^2}, \qquad z_0 + t \nabla u(z_0) = x_t = (1 - t)\,x_0 + t\,x_1 .

    For any coupling of the pairs its minimum is optimal transport, since the loss is the dual of optimal transport up
    to a number that does not depend on the potential. A search finds :math:`z_0`; by the implicit function theorem the
    gradient in the parameters is that of :math:`\langle \tfrac2t (I + t \nabla^2 u)^{-1} (x_0 - z_0), \nabla u(z_0)
    \rangle` with the first factor and :math:`z_0` held fixed.

    Traps: a search from :math:`x_t` that ends in another minimum than the lowest, where
    :math:`\tfrac12 |z|^2 + t u` is not convex; so it is reported to need a convex potential from a cold start. Points
    that are not found are left out. Each point needs a Hessian.

    Args:
        search: The search for :math:`z_0`.
        coupling: The coupling of the pairs, which changes the noise of the gradient only.
        batch_size: Pairs in a step.
        learning_rate: The peak learning rate of Adam.
        share: The share of the budget, relative to that of other methods in a chain.

    Raises:
        ValueError: If a number is not positive.

    References:
        | Optimal Flow Matching: Learning Straight Trajectories in Just One Step (Kornilov et al., 2024)
        | https://arxiv.org/abs/2403.13117

    Example:
        >>> method = OptimalFlowMatching(batch_size=128)
        >>> assert method.coupling == MinibatchAssignment()
    """

    search: RootSearch = Newton(max_iterations=8, tolerance=1e-3)  # noqa: RUF009 - frozen
    coupling: Coupling = MinibatchAssignment()  # noqa: RUF009 - frozen
    batch_size: int = 256
    learning_rate: float = 0.005
    share: float = 1.0

    def __post_init__(self) -> None:
        check_methods("search", self.search, ("search",), "Newton(), LBFGS() or another RootSearch")
        check_methods("coupling", self.coupling, ("pair",), "MinibatchAssignment() or another Coupling")
        check_count("batch_size", self.batch_size)
        check_positive("learning_rate", self.learning_rate)
        check_positive("share", self.share)

    def begin(self, potential: Potential, draw: Draw, generator: torch.Generator | None) -> Training:
        """Begin to train a potential in place; see :class:`TransportMethod`."""
        return _MatchingTraining(self, potential, draw, generator)


class _MatchingTraining:
    def __init__(
        self, method: OptimalFlowMatching, potential: Potential, draw: Draw, generator: torch.Generator | None
    ) -> None:
        self.method, self.potential, self.draw, self.generator = method, potential, draw, generator
        self.descent = Descent.of(potential.parameters(), method.learning_rate)

    def step(self, progress: float) -> Mapping[str, float]:
        start, end = self.draw(self.method.batch_size)
        end = self.method.coupling.pair(start, end)
        t = EARLIEST + (1 - EARLIEST) * even_times(start, self.generator)
        points = torch.lerp(start, end, t.unsqueeze(-1))
        root = self.method.search.search(ScaledPotential(self.potential, t), points, 0.0, 1.0, start)
        found = root.found
        loss = matching_loss(self.potential, root.z[found], start[found], t[found])
        self.descent.step(loss, progress)
        error = ((start - root.z)[found].square().sum(-1) / t[found].square()).mean()
        return {"loss": float(error), "not found": 1 - float(found.float().mean())}

    def state(self) -> dict[str, Any]:
        return {"descent": self.descent.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.descent.load(state["descent"])


def matching_loss(potential: Potential, origin: Tensor, start: Tensor, t: Tensor) -> Tensor:
    """Compute a number whose gradient in the parameters is that of the loss; its value means nothing.

    Args:
        potential: The potential.
        origin: The starts :math:`z_0` of the characteristics through the points of the lines, ``(n, dim)``.
        start: The starts :math:`x_0` of the lines, ``(n, dim)``.
        t: The times, ``(n,)``.
    """
    jet = evaluate_jet(potential, origin, 0.0, JetRequest(Derivative.HESSIAN))
    eye = torch.eye(origin.shape[-1], dtype=origin.dtype, device=origin.device)
    jacobian = eye + t[:, None, None] * jet.hessian.detach()
    pull: Tensor = torch.linalg.solve(jacobian, (start - origin).unsqueeze(-1)).squeeze(-1)
    return (2 / t * (pull * jet.gradient).sum(-1)).mean()
