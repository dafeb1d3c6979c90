r"""A potential that hands over to the next one at given times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from latentflow.calculus import Field, Jet, JetRequest, expand_time
from latentflow.potentials.algebra import Potential, as_module
from latentflow.potentials.bounds import gradient_bounds
from latentflow.potentials.grouping import Groups


class SwitchedPotential(Potential):
    r"""Potentials that follow one another: :math:`u_i` acts for :math:`t_{i-1} \le t < t_i`.

    In a discrete flow with unit steps from time 0, ``times=[4]`` gives four steps with the first potential and
    the rest with the second.

    Args:
        potentials: The fields, in their order.
        times: The times of the switches, increasing; one fewer than the potentials.
        clock: Whether a potential reads the time as it is (``"continue"``) or the time since its own switch
            (``"restart"``).

    Raises:
        ValueError: If the number or order of the times, or the clock, does not fit.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023), section 5.2
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import gradient
        >>> u = SwitchedPotential([lambda z, t: z.sum(-1), lambda z, t: -z.sum(-1)], times=[4.0])
        >>> z = torch.zeros(2, 1)
        >>> velocity = gradient(u, z, torch.tensor([3.0, 4.0]))
        >>> torch.testing.assert_close(velocity, torch.tensor([[1.0], [-1.0]]))
    """

    times: Tensor

    def __init__(
        self,
        potentials: Sequence[Field],
        times: Sequence[float],
        clock: Literal["continue", "restart"] = "continue",
    ) -> None:
        super().__init__()
        if len(potentials) == 0 or len(times) != len(potentials) - 1:
            raise ValueError(f"times: expected one fewer than the {len(potentials)} potentials, got {len(times)}")
        if not all(map(math.isfinite, times)) or any(later <= earlier for earlier, later in pairwise(times)):
            raise ValueError(f"times: expected finite, increasing times, got {list(times)}")
        if clock not in ("continue", "restart"):
            raise ValueError(f"clock: expected 'continue' or 'restart', got {clock!r}")
        self.potentials = nn.ModuleList(as_module(potential) for potential in potentials)
        self.clock = clock
        self.register_buffer("times", torch.tensor([float(time) for time in times], dtype=torch.float64))

    def _at(self, t: Tensor) -> tuple[Groups, Tensor]:
        times = self.times.to(t)
        index = torch.bucketize(t.detach().contiguous(), times, right=True)
        if self.clock == "restart":
            t = t - torch.cat([times.new_zeros(1), times])[index]
        return Groups(index, len(self.potentials)), t

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the potential in force at ``z`` of shape ``(*batch, dim)`` and ``t``, as ``(*batch,)``."""
        groups, clock = self._at(expand_time(t, z))
        return groups.evaluate(list(self.potentials), z, clock)

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Compute the jet of the potential in force by that potential's own rule."""
        groups, clock = self._at(t)
        return groups.jet(list(self.potentials), z, clock, request)

    def lipschitz_gradient(self) -> Tensor | None:
        """Give the largest bound of the potentials; None if one of them is not known."""
        bounds = gradient_bounds(self.potentials)
        return None if bounds is None else bounds.amax(0)
