r"""What to do where a discrete map folds and loses its density."""

from __future__ import annotations

import warnings
from typing import Literal, TypeAlias

from torch import Tensor

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
