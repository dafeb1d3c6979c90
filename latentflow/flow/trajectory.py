"""Trajectories of a flow, their folds and their finiteness."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Path:
    r"""Points, volumes and cost along a flow, at the times :math:`t_0, \dots, t_T`.

    Attributes:
        times: The times :math:`t_n`, of shape ``(T+1,)``.
        z: The points :math:`z_{t_n}`, of shape ``(T+1, *batch, dim)``.
        log_det: :math:`\log|\det \partial z_{t_n} / \partial z_{t_0}|`, of shape ``(T+1, *batch)``, so that
            :math:`\log q_t(z_t) = \log q_0(z_0)` minus it; None if no volume was asked for.
        action: :math:`\int_{t_0}^{t_n} |\nabla u|^2\,dt`, of shape ``(T+1, *batch)``; a signed integral, negative on a
            path that runs backwards in time.
        sign: The sign of each step's determinant, of shape ``(T, *batch)``; None if it is not known.
        folded: Whether a step's map is not locally the gradient of a convex function, that is whether
            :math:`I + h \nabla^2 u` is not positive definite there, of shape ``(T, *batch)``; None if not known.
        smallest_eigenvalue: :math:`\lambda_{\min}(I + h \nabla^2 u)` of each step, of shape ``(T, *batch)``; None
            if it is not known. On a path that undoes a flow, these three are those of the steps undone.
        cost: :math:`\int_{t_0}^{t_n} c(z_t, t)\,dt` of a running cost, of shape ``(T+1, *batch)``; None if none was
            asked for. Where the rate is zero an adaptive solver can leave a rounding error of either sign.
    """

    times: Tensor
    z: Tensor
    log_det: Tensor | None
    action: Tensor
    sign: Tensor | None = None
    folded: Tensor | None = None
    smallest_eigenvalue: Tensor | None = None
    cost: Tensor | None = None

    def sample(self, generator: torch.Generator | None = None, *, detach: bool = True) -> tuple[Tensor, Tensor]:
        r"""Draw a uniformly random time in each step, and the point of the straight segment there.

        On a discrete flow :math:`z_{t_n} + (t - t_n) \nabla u(z_{t_n}, t_n)` is such a point.

        Args:
            generator: The source of randomness, or None for torch's global one.
            detach: Whether to cut the gradient to the path, so that a residual cannot be lowered by moving the points.

        Returns:
            The points, of shape ``(T, *batch, dim)``, and their times, of shape ``(T, *batch)``.

        Example:
            >>> z = torch.stack([torch.zeros(4, 2), torch.ones(4, 2)])
            >>> path = Path(times=torch.tensor([0.0, 2.0]), z=z, log_det=None, action=torch.zeros(2, 4))
            >>> points, times = path.sample()
            >>> torch.testing.assert_close(points, (times / 2).unsqueeze(-1).expand(1, 4, 2))
        """
        z = self.z.detach() if detach else self.z
        before, after = z[:-1], z[1:]
        fraction = torch.rand(before.shape[:-1], generator=generator, dtype=z.dtype, device=z.device)
        times = self.times.reshape(-1, *(1,) * (z.ndim - 2)).to(z)
        start, end = times[:-1], times[1:]
        return torch.lerp(before, after, fraction.unsqueeze(-1)), start + fraction * (end - start)


OnFold: TypeAlias = Literal["raise", "warn", "ignore"]
"""The policy where a map folds."""


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


def report_fold(folded: Tensor, times: Tensor, policy: OnFold, reason: str = STEP_FOLDS) -> None:
    r"""Apply the policy where steps fold, that is where :math:`I + h \nabla^2 u` is not positive definite.

    Args:
        folded: Whether a step folds at a sample, of shape ``(T, *batch)``.
        times: The times of the path, of shape ``(T+1,)``.
        policy: ``"raise"``, ``"warn"`` or ``"ignore"``.
        reason: What the fold is and what helps, for the message.

    Raises:
        FoldError: If the policy is ``"raise"`` and a step folds.
        ValueError: If the policy is unknown.
    """
    if policy not in ("raise", "warn", "ignore"):
        raise ValueError(f"on_fold: expected 'raise', 'warn' or 'ignore', got {policy!r}")
    if policy == "ignore" or not folded.any():
        return
    flat = folded.reshape(len(folded), -1)
    step = int(flat.any(1).nonzero()[0])
    message = (
        f"the flow folds at step {step} (t = {float(times[step]):g}) for {int(flat[step].sum())} of {flat.shape[1]} "
        f"samples: {reason}, or set on_fold='ignore'"
    )
    if policy == "raise":
        raise FoldError(message)
    warnings.warn(message, FoldWarning, stacklevel=4)


def check_finite(points: Tensor, times: Tensor) -> None:
    """Check that every point of a path is finite.

    Args:
        points: The points, of shape ``(T+1, *batch, dim)``.
        times: Their times, of shape ``(T+1,)``.

    Raises:
        FloatingPointError: If a point is not; the message names the first step, its time and its samples.
    """
    if torch.isfinite(points).all():
        return
    bad = ~torch.isfinite(points).all(-1).reshape(len(points), -1)
    step = int(bad.any(1).nonzero()[0])
    samples = bad[step].nonzero().flatten().tolist()
    shown = ", ".join(map(str, samples[:5])) + (", ..." if len(samples) > 5 else "")
    where = "z0: expected finite points, got others" if step == 0 else f"the path is not finite after step {step}"
    remedy = "" if step == 0 else "; use smaller steps or a smoother potential"
    raise FloatingPointError(
        f"{where} (t = {float(times[step]):g}) for {len(samples)} of {bad.shape[1]} samples (numbers {shown}){remedy}"
    )


def check_numbers(name: str, values: Tensor) -> None:
    """Check that no value is NaN.

    Args:
        name: What the values are, for the message.
        values: The values.

    Raises:
        FloatingPointError: If one is NaN.
    """
    if values.isnan().any():
        raise FloatingPointError(f"{name}: expected numbers, got NaN; the second derivatives of u are not finite")


def check_times(times: Tensor | Sequence[float], z: Tensor) -> Tensor:
    """Check the times of a path.

    Args:
        times: The times, of shape ``(T+1,)``.
        z: The points that the path belongs to.

    Returns:
        The times on the device of ``z``, in float64 where the device has it, since ``0.1`` in float32 is another time.

    Raises:
        TypeError: If the times are not numbers.
        ValueError: If they are not one or more finite numbers in strictly increasing or decreasing order.
    """
    dtype = torch.float32 if z.device.type == "mps" else torch.float64
    try:
        result = torch.as_tensor(times, dtype=dtype, device=z.device)
    except (TypeError, ValueError) as error:
        raise TypeError(f"times: expected a tensor or sequence of numbers, got {times!r}") from error
    if result.ndim != 1 or len(result) == 0:
        raise ValueError(f"times: expected shape (T+1,) with at least one time, got {tuple(result.shape)}")
    steps = result.detach().diff()
    if not torch.isfinite(result).all() or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            f"times: expected finite times in strictly increasing or decreasing order, got {result.tolist()}"
        )
    return result


def check_steps(steps: int) -> None:
    """Check the number of steps of a path.

    Args:
        steps: The number.

    Raises:
        ValueError: If it is negative or not an integer.
    """
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps: expected an integer of at least 0, got {steps!r}")
