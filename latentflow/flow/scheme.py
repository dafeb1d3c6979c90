r"""A flow from its first to its last time, and when its density may be reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor

from latentflow.calculus import Estimator, Exact
from latentflow.flow.discrete import Discrete, walk
from latentflow.flow.ode import ODEOptions, check_times
from latentflow.flow.path import Path
from latentflow.flow.volume import Volume

if TYPE_CHECKING:
    from latentflow.flow.potential_flow import PotentialFlow

Scheme: TypeAlias = ODEOptions | Discrete
"""How to follow a flow: by an ODE solver, or by the discrete steps."""


def check_scheme(scheme: Scheme, divergence: Estimator | None) -> None:
    """Check that a divergence belongs to the scheme.

    Args:
        scheme: The scheme.
        divergence: How to obtain the divergence of the continuous flow.

    Raises:
        TypeError: If the scheme is neither ``ODEOptions`` nor ``Discrete``.
        ValueError: If a divergence is chosen for a discrete scheme, which has a volume instead.
    """
    if not isinstance(scheme, (ODEOptions, Discrete)):
        raise TypeError(f"scheme: expected ODEOptions or Discrete, got {type(scheme).__name__}")
    if isinstance(scheme, Discrete) and divergence != Exact():
        raise ValueError(
            f"divergence: expected the default with a discrete scheme, whose volume counts, got {divergence!r}"
        )


def grid(times: Tensor | Sequence[float], z: Tensor) -> list[float]:
    """Give the checked times of a discrete scheme as numbers."""
    numbers: list[float] = check_times(times, z).tolist()
    return numbers


@dataclass(frozen=True, eq=False)
class ScheduledFlow:
    """The map of a flow from the first to the last of its times."""

    flow: PotentialFlow
    times: Tensor | Sequence[float]
    scheme: Scheme
    divergence: Estimator | None

    def __post_init__(self) -> None:
        check_scheme(self.scheme, self.divergence)

    def forward(self, z: Tensor, *, density: bool) -> Path:
        """Follow the flow from its start, with or without ``log_det``."""
        if density:
            self._check_reportable()
        if isinstance(self.scheme, Discrete):
            return self.walk(z, self.scheme.volume if density else None)
        return self.flow.integrate(z, self.times, self.scheme, self.divergence if density else None)

    def walk(self, z: Tensor, volume: Volume | None) -> Path:
        """Follow the flow from its start by the steps of a discrete scheme."""
        return walk(self.flow.potential, z, grid(self.times, z), volume, self.flow.fold_policy)

    def inverse(self, z: Tensor) -> Path:
        """Follow the flow back from its end, with ``log_det``."""
        self._check_reportable()
        return self.flow.inverse(z, self.times, self.scheme, self.divergence)

    def _check_reportable(self) -> None:
        discrete = isinstance(self.scheme, Discrete)
        source = self.scheme.volume if isinstance(self.scheme, Discrete) else self.divergence
        name = "scheme: expected an exact volume" if discrete else "divergence: expected an exact one"
        if source is None:
            raise ValueError(f"{name}, without which there is no density, got None")
        if source.stochastic and not self.flow.training:
            raise ValueError(
                f"{name} in evaluation mode, got {source!r}: the noise of random probes biases a likelihood upwards"
            )
