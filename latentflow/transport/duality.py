r"""Lower bounds on a Wasserstein distance by Kantorovich's duality, which hold without conditions."""

from __future__ import annotations

import torch
from torch import Tensor

from latentflow.transport.sinkhorn import Clouds

ENTRIES = 2**22
"""How many entries of the cost matrix are held at a time."""


def c_transform(psi: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r"""Compute :math:`\psi^c(y_j) = \min_i (|x_i - y_j|^2 - \psi(x_i))`.

    Args:
        psi: One value for each point of ``x``, of shape ``(n,)``.
        x: The points that have values, of shape ``(n, dim)``.
        y: The points that get values, of shape ``(m, dim)``.

    Returns:
        The values, of shape ``(m,)``.
    """
    rows = max(1, ENTRIES // len(x))
    parts = torch.split(y, rows)
    costs = (torch.cdist(part, x, compute_mode="donot_use_mm_for_euclid_dist").square() for part in parts)
    return torch.cat([(cost - psi).amin(-1) for cost in costs])


def dual_values(psi: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r"""Turn any function on the points of ``x`` into a lower bound on :math:`W_2^2` of two clouds of paired points.

    By duality :math:`\operatorname{mean}_i \psi(x_i) + \operatorname{mean}_j \psi^c(y_j) \le W_2^2`, whatever the
    function. Transforming back, which replaces :math:`\psi` by :math:`\psi^{cc} \ge \psi`, can only raise it.

    Args:
        psi: One value for each point of ``x``, of shape ``(n,)``; a constant does not matter.
        x: The one cloud, of shape ``(n, dim)``.
        y: Its partners, of shape ``(n, dim)``.

    Returns:
        The values :math:`\psi^{cc}(x_i) + \psi^c(y_i) \le |x_i - y_i|^2`, of shape ``(n,)``; their mean is the bound.
    """
    transformed = c_transform(psi - psi.mean(), x, y)
    return c_transform(transformed, y, x) + transformed


def sinkhorn_values(x: Tensor, y: Tensor, blur: float, scaling: float) -> tuple[Tensor, Tensor]:
    r"""Estimate :math:`W_2^2` by the debiased Sinkhorn divergence, and bound it from below by its potentials.

    Args:
        x: The one cloud, of shape ``(n, dim)``.
        y: Its partners, of shape ``(n, dim)``.
        blur: See :func:`wasserstein2`.
        scaling: See :func:`wasserstein2`.

    Returns:
        The estimate, of shape ``()``, and the values of :func:`dual_values`, of shape ``(n,)``.
    """
    clouds = Clouds.of(x.unsqueeze(0), y.unsqueeze(0), None, None)
    f, g = clouds.potentials(blur, scaling, debias=True)
    shift, unit = (clouds.y_mean - clouds.x_mean)[0], 2 * clouds.size.square()
    estimate = shift.square().sum() + unit[0] * (f.mean() + g.mean())
    tilt = 2 * shift  # |x - y|^2 of the points is that of the centred ones plus what x and y add each for itself
    starts = dual_values(unit * f[0] - x @ tilt, x, y)
    ends = dual_values(unit * g[0] + y @ tilt, y, x)
    return estimate, starts if starts.mean() >= ends.mean() else ends
