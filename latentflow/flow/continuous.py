r"""The continuous flow: points, volume, action and a running cost by one solution of one equation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from latentflow.calculus import Estimator, JetRequest, check_points, evaluate_jet, expand_time, outside_autocast
from latentflow.flow.finite import check_finite, check_numbers
from latentflow.flow.ode import ODEOptions, State, check_times, solve
from latentflow.flow.path import Path
from latentflow.flow.running_cost import RunningCost, evaluate_cost


class _Rates:
    """The derivative of (z, [log_det,] action[, cost]) from one jet."""

    def __init__(self, potential: nn.Module, divergence: Estimator | None, cost: RunningCost | None) -> None:
        self.potential = potential
        self.divergence = divergence
        self.cost = cost
        self.required = frozenset() if cost is None else cost.requires
        JetRequest().including(self.required)  # refuses unknown names before the solver starts

    def __call__(self, t: Tensor, state: State) -> State:
        z = state[0]
        request = JetRequest() if self.divergence is None else self.divergence.request(self.potential, z, t)
        request = request.including(self.required)
        jet = evaluate_jet(self.potential, z, t, request)
        rates = [jet.gradient]
        if self.divergence is not None:
            rates.append(self.divergence.laplacian(jet))
        rates.append(jet.gradient.square().sum(-1))
        if self.cost is not None:
            rates.append(evaluate_cost(self.cost, jet, z, expand_time(t, z)))
        return tuple(rates)


def _learnable(module: object) -> list[Tensor]:
    if not isinstance(module, nn.Module):
        return []
    return [*module.parameters(), *(buffer for buffer in module.buffers() if buffer.requires_grad)]


@outside_autocast
def integrate(
    potential: nn.Module,
    z0: Tensor,
    times: Tensor | Sequence[float],
    ode: ODEOptions,
    divergence: Estimator | None,
    running_cost: RunningCost | None,
) -> Path:
    """Follow the continuous flow of a potential; see :meth:`PotentialFlow.integrate`."""
    check_points(z0)
    clock = check_times(times, z0)
    divergence = None if divergence is None else divergence.fixed(z0)
    check_finite(z0.unsqueeze(0), clock)
    zero = z0.new_zeros(z0.shape[:-1])
    start = (z0, *(zero for part in (divergence, True, running_cost) if part is not None))
    rates = _Rates(potential, divergence, running_cost)
    parameters = [*_learnable(potential), *_learnable(running_cost)]
    scales = [1.0] * len(start)
    if divergence is not None and divergence.stochastic:
        scales[1] = max(z0.shape[-1], 1)  # the noise of the probes is far larger
    points, *rest = solve(rates, start, clock, ode, scales, parameters)
    check_finite(points, clock)
    log_det = None if divergence is None else rest.pop(0)
    action = rest.pop(0)
    cost = None if running_cost is None else rest.pop(0)
    if log_det is not None:
        check_numbers("log_det", log_det)
    if cost is not None:
        check_numbers("cost", cost)
    return Path(clock.to(z0), points, log_det, action, cost=cost)
