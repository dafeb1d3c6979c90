"""The log-density of a continuous flow, by this library and by others.

Every function here takes points ``z`` of shape ``(batch, dim)`` at time 1 and gives ``log q_1(z)``, of shape
``(batch,)``, where ``q_0`` is the standard normal distribution. Each counts how often it evaluates the right-hand side
of its ODE.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import grad, jacrev, vjp, vmap

import latentflow
from latentflow import ODE, Exact, Hutchinson, Jet, PotentialFlow
from latentflow.calculus import Estimator, JetRequest

TOLERANCE = 1e-5

Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A velocity at points ``(*batch, dim)`` and one time ``()``."""

LogDensity: TypeAlias = Callable[[Tensor], Tensor]
"""The log-density at points ``(batch, dim)``."""


@dataclass
class Calls:
    """Counts evaluations.

    Attributes:
        count: How many there were.
    """

    count: int = 0


def log_normal(z: Tensor) -> Tensor:
    """Return the log-density of the standard normal distribution."""
    return -(z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi)) / 2


def by_rule(u: nn.Module) -> Velocity:
    """Return the velocity as this library computes it, for use in another one."""
    return lambda z, t: latentflow.gradient(u, z, t)


def by_autograd(u: nn.Module) -> Velocity:
    """Return the velocity as one writes it by hand with ``torch.autograd.grad``."""

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            return torch.autograd.grad(u(z, t).sum(), z, create_graph=True)[0]

    return velocity


def by_func(u: nn.Module) -> Velocity:
    """Return the velocity by hand with ``torch.func.grad``, which goes inside other transforms of ``torch.func``."""

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        gradient: Tensor = grad(lambda z: u(z, t).sum())(z)
        return gradient

    return velocity


def by_latentflow(u: nn.Module, ode: ODE, exact: bool, calls: Calls, *, compiled: bool = False) -> LogDensity:
    """Integrate by this library; ``u`` counts its jets from here on, and is compiled if asked for."""
    flow = PotentialFlow(u)
    if compiled:
        flow.compile()
    name = "_compiled_rule" if compiled else "jet_rule"
    rule: Callable[[Tensor, Tensor, JetRequest], Jet] = getattr(u, name)

    def counting_rule(z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        calls.count += 1
        return rule(z, t, request)

    setattr(u, name, counting_rule)
    divergence: Estimator = Exact() if exact else Hutchinson(1)
    scheme = replace(ode, divergence=divergence)

    def log_density(z: Tensor) -> Tensor:
        trajectory = flow.integrate(z, [1.0, 0.0], scheme)
        assert trajectory.log_det is not None  # as a divergence was given
        return log_normal(trajectory.z[-1]) + trajectory.log_det[-1]

    return log_density


def by_zuko(velocity: Velocity, parameters: list[nn.Parameter], exact: bool, calls: Calls) -> LogDensity:
    """Integrate by the free-form Jacobian transformation of zuko."""
    from zuko.transforms import FreeFormJacobianTransform  # noqa: PLC0415 - not a dependency

    def right_hand_side(t: Tensor, z: Tensor) -> Tensor:
        calls.count += 1
        return velocity(z, t)

    transform = FreeFormJacobianTransform(
        right_hand_side, t0=1.0, t1=0.0, phi=parameters, atol=TOLERANCE, rtol=TOLERANCE, exact=exact
    )

    def log_density(z: Tensor) -> Tensor:
        start, log_det = transform.call_and_ladj(z)
        return log_normal(start) + log_det

    return log_density


def by_flow_matching(velocity: Velocity, exact: bool, calls: Calls) -> LogDensity:
    """Integrate by the solver of flow_matching, which detaches its result: it gives no gradient."""
    from flow_matching.solver.ode_solver import ODESolver  # noqa: PLC0415 - not a dependency

    def model(x: Tensor, t: Tensor) -> Tensor:
        calls.count += 1
        return velocity(x, t)

    solver: Any = ODESolver(velocity_model=model)

    def log_density(z: Tensor) -> Tensor:
        result: Tensor = solver.compute_likelihood(
            z,
            log_p0=log_normal,
            step_size=None,
            method="dopri5",
            atol=TOLERANCE,
            rtol=TOLERANCE,
            exact_divergence=exact,
        )[1]
        return result

    return log_density


class _Augmented(nn.Module):
    """The velocity, and the divergence by ``torch.func``, as one vector: the form that torchdyn integrates."""

    def __init__(self, velocity: Velocity, calls: Calls) -> None:
        super().__init__()
        self.velocity = velocity
        self.calls = calls
        self.probes: Tensor | None = None

    def forward(self, t: Tensor, state: Tensor, **_: object) -> Tensor:
        """Evaluate the right-hand side at a time ``()`` or ``(1,)`` and states ``(batch, dim + 1)``."""
        self.calls.count += 1
        t, z = t.reshape(()), state[..., :-1]

        def at_one_point(z: Tensor) -> Tensor:
            return self.velocity(z, t)

        def quadratic_form(z: Tensor, probe: Tensor) -> Tensor:
            pull: Tensor = vjp(at_one_point, z)[1](probe)[0]
            return (pull * probe).sum()

        if self.probes is None:
            divergence = vmap(lambda z: jacrev(at_one_point)(z).trace())(z)
        else:
            divergence = vmap(quadratic_form)(z, self.probes)
        return torch.cat([self.velocity(z, t), divergence.unsqueeze(-1)], dim=-1)


def by_torchcfm(velocity: Velocity, exact: bool, calls: Calls) -> LogDensity:
    """Integrate as the documentation of torchcfm does.

    The package has no code for densities. Its notebook on maximum likelihood hands a vector field that carries its own
    divergence to torchdyn; this is that computation. One thing is changed in its favour: a probe is drawn once for a
    solve, not anew at every evaluation, as adaptive steps do not get along with a right-hand side that is random.
    """
    from torchdyn.numerics import odeint  # noqa: PLC0415 - not a dependency

    augmented = _Augmented(velocity, calls)

    def log_density(z: Tensor) -> Tensor:
        augmented.probes = None if exact else 2.0 * torch.randint_like(z, 2) - 1
        state = torch.cat([z, torch.zeros_like(z[:, :1])], dim=-1)
        end = odeint(augmented, state, torch.tensor([1.0, 0.0]), solver="dopri5", atol=TOLERANCE, rtol=TOLERANCE)[1][-1]
        return log_normal(end[:, :-1]) + end[:, -1]

    return log_density
