r"""Where a path leaves the finite numbers."""

from __future__ import annotations

import torch
from torch import Tensor


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
