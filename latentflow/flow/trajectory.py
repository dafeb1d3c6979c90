r"""Trajectories of a flow, and the checks that every way to follow a flow shares: times, finiteness and folds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, Protocol, Self, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from latentflow.calculus import Derivative, Jet
from latentflow.calculus.checks import check_choice, check_flag, check_generator, check_methods, check_tensor, describe

Times: TypeAlias = Tensor | Sequence[float]
"""Times in strictly increasing or decreasing order, of shape ``(T+1,)``."""

OnFold: TypeAlias = Literal["raise", "warn", "ignore"]
"""What happens where a map folds, that is where it is not locally the gradient of a convex function."""

POLICIES = ("raise", "warn", "ignore")


@dataclass(frozen=True, repr=False)
class Trajectory:
    r"""Points, log-determinants and cost along a flow, at the times :math:`t_0, \dots, t_T`.

    Attributes:
        times: The times :math:`t_n`, of shape ``(T+1,)``, in float64 where the device has it, whatever the points are.
        z: The points :math:`z_{t_n}`, of shape ``(T+1, *batch, dim)``.
        log_det: :math:`\log|\det \partial z_{t_n} / \partial z_{t_0}|`, of shape ``(T+1, *batch)``, so that
            :math:`\log q_t(z_t) = \log q_0(z_0)` minus it; None if it was not requested.
        action: :math:`\int_{t_0}^{t_n} |\nabla u|^2\,dt`, of shape ``(T+1, *batch)``; negative backwards in time.
        sign: The sign of each step's determinant, of shape ``(T, *batch)``; None if it is not known.
        folded: Whether :math:`I + h \nabla^2 u` of a step is not positive definite, of shape ``(T, *batch)``; None if
            it is not known.
        smallest_eigenvalue: :math:`\lambda_{\min}(I + h \nabla^2 u)` of each step, of shape ``(T, *batch)``; None if
            it is not known. On a trajectory that undoes a flow, the last three are those of the steps undone.
        cost: :math:`\int_{t_0}^{t_n} c(z_t, t)\,dt` of a running cost, of shape ``(T+1, *batch)``; None without one.
        scheme: The scheme by which the flow was followed, which ``flow.inverse(trajectory)`` uses; None for
            discrete steps undone, and if no flow made the trajectory.

    Example:
        >>> z = torch.stack([torch.zeros(4, 2), torch.ones(4, 2)])
        >>> repr(Trajectory(torch.tensor([0.0, 2.0]), z, log_det=None, action=torch.zeros(2, 4)))
        'Trajectory(times=(2,), z=(2, 4, 2), action=(2, 4))'
    """

    times: Tensor
    z: Tensor
    log_det: Tensor | None
    action: Tensor
    sign: Tensor | None = None
    folded: Tensor | None = None
    smallest_eigenvalue: Tensor | None = None
    cost: Tensor | None = None
    scheme: Scheme | None = None

    def __post_init__(self) -> None:
        check_tensor("times", self.times, ("T+1",))
        check_tensor("z", self.z, ("T+1", "*batch", "dim"))
        if len(self.z) != len(self.times):
            raise ValueError(f"z: expected points at {len(self.times)} times, got {len(self.z)}")
        check_tensor("action", self.action, tuple(self.z.shape[:-1]))
        if self.log_det is not None:
            check_tensor("log_det", self.log_det, tuple(self.z.shape[:-1]))

    def __repr__(self) -> str:
        parts = []
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None:
                parts.append(f"{entry.name}={tuple(value.shape) if isinstance(value, Tensor) else value}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def sample(self, generator: torch.Generator | None = None, *, detach: bool = True) -> tuple[Tensor, Tensor]:
        r"""Draw a uniformly random time in each step, and the point of the straight segment there.

        Args:
            generator: The source of randomness, or None for torch's global one.
            detach: Whether to cut the gradient to the trajectory, so that a residual cannot be lowered by moving the
                points.

        Returns:
            The points, of shape ``(T, *batch, dim)``, and their times, of shape ``(T, *batch)``.

        Example:
            >>> z = torch.stack([torch.zeros(4, 2), torch.ones(4, 2)])
            >>> trajectory = Trajectory(torch.tensor([0.0, 2.0]), z, log_det=None, action=torch.zeros(2, 4))
            >>> points, times = trajectory.sample()
            >>> torch.testing.assert_close(points, (times / 2).unsqueeze(-1).expand(1, 4, 2))
        """
        check_generator(generator)
        check_flag("detach", detach)
        z = self.z.detach() if detach else self.z
        before, after = z[:-1], z[1:]
        fraction = torch.rand(before.shape[:-1], generator=generator, dtype=z.dtype, device=z.device)
        times = self.times.reshape(-1, *(1,) * (z.ndim - 2)).to(z)
        start, end = times[:-1], times[1:]
        return torch.lerp(before, after, fraction.unsqueeze(-1)), start + fraction * (end - start)


class RunningCost(Protocol):
    r"""A rate :math:`c(z, t)` whose integral :math:`\int c(z_t, t)\,dt` along a flow is wanted.

    The flow passes the jet that it computes for the velocity. Residuals of PDEs are running costs.

    Example:
        >>> from latentflow import PotentialFlow, QuadraticPotential
        >>> class Power:  # |grad u|^2 / 2
        ...     requires = Derivative(0)
        ...     def running_cost(self, jet, z, t):
        ...         return jet.gradient.square().sum(-1) / 2
        >>> flow = PotentialFlow(QuadraticPotential(2, torch.eye(2)))
        >>> trajectory = flow.integrate(torch.randn(4, 2), [0.0, 1.0], running_cost=Power())
        >>> torch.testing.assert_close(trajectory.cost, trajectory.action / 2)
    """

    @property
    def requires(self) -> Derivative:
        """The second derivatives that it reads; a Laplacian is the exact one."""

    def running_cost(self, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
        """Compute the rate.

        Args:
            jet: The jet of the potential.
            z: The points, of shape ``(*batch, dim)``.
            t: The times, of shape ``(*batch,)``.

        Returns:
            The rate, of shape ``(*batch,)``.
        """


class DensitySource(Protocol):
    """A source of log-determinants: a :class:`LogDet` of a step, or an estimator of the divergence."""

    @property
    def stochastic(self) -> bool:
        """Whether the result is random; a reported likelihood refuses such a source."""


@runtime_checkable
class Scheme(Protocol):
    """A scheme by which flows are followed, with every numerical choice: :class:`Euler`, :class:`ODE`, or your own."""

    @property
    def density(self) -> DensitySource | None:
        """The source of the log-determinant, or None if there is none."""

    def without_density(self) -> Self:
        """Return the scheme without a log-determinant."""

    def follow(self, potential: nn.Module, z0: Tensor, times: Times, cost: RunningCost | None = None) -> Trajectory:
        """Follow the flow of a potential from ``z0``, of shape ``(*batch, dim)``, at ``times[0]``."""

    def invert(self, potential: nn.Module, z: Tensor, times: Times) -> Trajectory:
        """Undo the flow from its end ``z``, of shape ``(*batch, dim)``, at ``times[-1]``."""


def check_scheme(scheme: Scheme) -> None:
    """Check that a scheme has the methods of one; raise a TypeError otherwise."""
    methods = ("follow", "invert", "without_density")
    check_methods("scheme", scheme, methods, "Euler(...), ODE(...) or another Scheme")


def check_running_cost(cost: RunningCost | None) -> None:
    """Check that a running cost has the method of one; raise a TypeError otherwise."""
    if cost is not None:
        check_methods("running_cost", cost, ("running_cost",), "a RunningCost such as a PDEResidual, or None")


def check_policy(on_fold: OnFold | None) -> None:
    """Check a policy for folds; raise a ValueError unless it is a word of it or None."""
    if on_fold is not None:
        check_choice("on_fold", on_fold, POLICIES)


def evaluate_cost(cost: RunningCost, jet: Jet, z: Tensor, t: Tensor) -> Tensor:
    """Compute a rate and check its shape; raise a ValueError if it is not ``(*batch,)``."""
    rate = cost.running_cost(jet, z, t)
    if rate.shape != z.shape[:-1]:
        raise ValueError(f"running_cost: expected a rate of shape {tuple(z.shape[:-1])}, got {tuple(rate.shape)}")
    return rate


def keep_times(times: Tensor, z: Tensor) -> Tensor:
    """Return times on the device of ``z``, in float64 where the device has it, whatever the dtype of the points."""
    return times.to(z.device, torch.float32 if z.device.type == "mps" else torch.float64)


def check_times(times: Times, z: Tensor) -> Tensor:
    """Return times on the device of ``z``, in float64 if possible; raise a TypeError or ValueError otherwise."""
    result = keep_times(real_times(times), z)
    if result.ndim != 1 or len(result) == 0:
        raise ValueError(f"times: expected shape (T+1,) with at least one time, got {tuple(result.shape)}")
    steps = result.detach().diff()
    if not torch.isfinite(result).all() or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            f"times: expected finite times in strictly increasing or decreasing order, got {result.tolist()}"
        )
    return result


def real_times(times: Times) -> Tensor:
    """Return times as a tensor, those of a sequence in float64; raise a TypeError unless they are real numbers."""
    if isinstance(times, Tensor):
        if times.is_complex() or times.dtype is torch.bool:
            raise TypeError(f"times: expected real times, got a tensor of {times.dtype}")
        return times
    if isinstance(times, (str, bytes)) or not isinstance(times, Sequence):
        raise TypeError(f"times: expected a tensor or sequence of numbers, got {describe(times)}")
    try:
        return torch.as_tensor(times, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"times: expected a tensor or sequence of numbers, got {list(times)!r}") from error


def check_finite(points: Tensor, times: Tensor) -> None:
    """Check points ``(T+1, *batch, dim)``; raise a FloatingPointError that names the first step that is not finite."""
    if torch.isfinite(points).all():
        return
    bad = ~torch.isfinite(points).all(-1).reshape(len(points), -1)
    step = int(bad.any(1).nonzero()[0])
    samples = bad[step].nonzero().flatten().tolist()
    shown = ", ".join(map(str, samples[:5])) + (", ..." if len(samples) > 5 else "")
    where = "z0: expected finite points, got others" if step == 0 else f"the trajectory is not finite after step {step}"
    remedy = "" if step == 0 else "; use smaller steps or a smoother potential"
    raise FloatingPointError(
        f"{where} (t = {float(times[step]):g}) for {len(samples)} of {bad.shape[1]} samples (numbers {shown}){remedy}"
    )


def check_numbers(name: str, values: Tensor) -> None:
    """Check that no value is NaN; raise a FloatingPointError otherwise."""
    if values.isnan().any():
        raise FloatingPointError(f"{name}: expected numbers, got NaN; the second derivatives of u are not finite")


class FoldError(RuntimeError):
    """A discrete step is not invertible at some of its points, so its log-determinant is not that of a density."""


class FoldWarning(RuntimeWarning):
    """A discrete step is not invertible at some of its points, and the policy is to go on."""


STEP_FOLDS = (
    "I + dt * Hessian is not positive definite there, and log_det is not that of a density. "
    "Use smaller steps or a smoother potential"
)
PATHS_MEET = (
    "I + t * Hessian of u0 is not positive definite there: straight paths have met, and log_det is not that of a "
    "density. Stop earlier, or use a smoother or a convex u0"
)


def report_folds(trajectory: Trajectory, policy: OnFold, reason: str = STEP_FOLDS, *, backwards: bool = False) -> None:
    r"""Raise a FoldError or warn, by the policy, where :math:`I + h \nabla^2 u` of a step is not positive definite.

    The ``reason`` explains the fold in the message; steps undone are counted from the other end.
    """
    check_policy(policy)
    if policy == "ignore" or trajectory.folded is None or not trajectory.folded.any():
        return
    flat, times = trajectory.folded.reshape(len(trajectory.folded), -1), trajectory.times.detach()
    if backwards:
        flat, times = flat.flip(0), times.flip(0)
    step = int(flat.any(1).nonzero()[0])
    message = (
        f"the flow folds at step {step} (t = {float(times[step]):g}) for {int(flat[step].sum())} of {flat.shape[1]} "
        f"samples: {reason}, or pass on_fold='ignore'"
    )
    if policy == "raise":
        raise FoldError(message)
    warnings.warn(message, FoldWarning, stacklevel=4)
