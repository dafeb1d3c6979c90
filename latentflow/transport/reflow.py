r"""Flow matching of a gradient field, on pairs that its own flow straightens."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentflow.calculus import JetRequest, evaluate_jet
from latentflow.calculus.checks import check_count, check_methods, check_positive
from latentflow.flow import ODE, PotentialFlow
from latentflow.potentials import Potential
from latentflow.transport.coupling import Coupling, MinibatchAssignment
from latentflow.transport.training import Descent, Draw, Training, even_times

TIMES = (0.0, 1.0)


@dataclass(frozen=True)
class Reflow:
    r"""Fits the velocity :math:`\nabla u(x_t, t)` to straight lines between pairs, and pairs anew along its flow.

    .. math::
        \min_u\; E\,\bigl|\nabla u(x_t, t) - (x_1 - x_0)\bigr|^2, \qquad x_t = (1 - t)\,x_0 + t\,x_1 ,

    with ``t`` drawn evenly. In the first round the pairs :math:`(x_0, x_1)` are those of the coupling. In each later
    one they are the ends of the flow of the round before: half of them from points of the source forwards, half of them
    from points of the target backwards, so that both sides keep their distribution. For gradient fields the cost of the
    pairs falls from round to round, towards that of optimal transport; then the velocity is constant along lines and
    :math:`x + \nabla u(x, 0)` is the map.

    Traps: the velocity is a mean over the pairs that cross a point, so that the end of the flow is off the target as
    long as lines cross; and every round adds the error of its fit. It begins well and ends coarsely:
    :class:`DualPotential` finishes it.

    Args:
        rounds: The number of rounds, which share the budget evenly.
        coupling: The coupling of the first round.
        batch_size: Pairs in a step.
        learning_rate: The peak learning rate of Adam.
        steps: The Euler steps of the flow that pairs anew, by the midpoint rule.
        share: The share of the budget, relative to that of other methods in a chain.

    Raises:
        ValueError: If a number is not positive.

    References:
        | Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow (Liu, Gong, Liu, 2023)
        | https://arxiv.org/abs/2209.03003

    Example:
        >>> method = Reflow(rounds=3, coupling=MinibatchAssignment(128))
        >>> assert method.share == 1.0
    """

    rounds: int = 2
    coupling: Coupling = MinibatchAssignment()  # noqa: RUF009 - frozen
    batch_size: int = 256
    learning_rate: float = 0.002
    steps: int = 8
    share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rounds", "batch_size", "steps"):
            check_count(name, getattr(self, name))
        check_methods("coupling", self.coupling, ("pair",), "MinibatchAssignment() or another Coupling")
        check_positive("learning_rate", self.learning_rate)
        check_positive("share", self.share)

    def begin(self, potential: Potential, draw: Draw, generator: torch.Generator | None) -> Training:
        """Begin to train a potential in place; see :class:`TransportMethod`."""
        return _ReflowTraining(self, potential, draw, generator)


class _ReflowTraining:
    def __init__(self, method: Reflow, potential: Potential, draw: Draw, generator: torch.Generator | None) -> None:
        self.method, self.potential, self.draw, self.generator = method, potential, draw, generator
        self.round = 0
        self.before: Potential | None = None  # the potential at the end of the round before
        self.descent = Descent.of(potential.parameters(), method.learning_rate)

    def step(self, progress: float) -> Mapping[str, float]:
        within = min(progress, 1.0) * self.method.rounds
        if int(within) > self.round and int(within) < self.method.rounds:
            self.round = int(within)
            self.before = copy.deepcopy(self.potential)
            self.descent = Descent.of(self.potential.parameters(), self.method.learning_rate)
        start, end = self._pairs()
        t = even_times(start, self.generator)
        line = end - start
        velocity = evaluate_jet(self.potential, start + t.unsqueeze(-1) * line, t, JetRequest()).gradient
        loss = (velocity - line).square().sum(-1).mean()
        self.descent.step(loss, within - self.round)
        return {"loss": float(loss.detach()), "cost": float(line.square().sum(-1).mean()), "round": float(self.round)}

    @torch.no_grad()
    def _pairs(self) -> tuple[Tensor, Tensor]:
        x, y = self.draw(self.method.batch_size)
        if self.before is None:
            return x, self.method.coupling.pair(x, y)
        half = len(x) // 2
        flow = PotentialFlow(self.before)
        scheme = ODE("midpoint", options={"step_size": 1 / self.method.steps}, divergence=None)
        forth = flow.integrate(x[:half], list(TIMES), scheme).z[-1]
        back = flow.integrate(y[half:], list(TIMES[::-1]), scheme).z[-1]
        return torch.cat([x[:half], back]), torch.cat([forth, y[half:]])

    def state(self) -> dict[str, Any]:
        before = None if self.before is None else self.before.state_dict()
        return {"round": self.round, "before": before, "descent": self.descent.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        self.round = state["round"]
        if state["before"] is not None:
            self.before = copy.deepcopy(self.potential)
            self.before.load_state_dict(state["before"])
        self.descent.load(state["descent"])
