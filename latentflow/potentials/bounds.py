r"""Upper bounds of the spectral norm of a Hessian, from the weights alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from latentflow.potentials.layered import Layers


@runtime_checkable
class SupportsLipschitz(Protocol):
    """A field that may know a Lipschitz constant of its gradient."""

    def lipschitz_gradient(self) -> Tensor | None:
        r"""Return an upper bound of :math:`\sup_{z, t} |\nabla_z^2 u|_2`, of shape ``()``, or None."""


def gradient_bounds(fields: Iterable[object]) -> Tensor | None:
    """Give the bounds of several fields.

    Args:
        fields: The fields.

    Returns:
        Their bounds, of shape ``(fields,)``; None if one of them is not known.
    """
    bounds = []
    for field in fields:
        bound = field.lipschitz_gradient() if isinstance(field, SupportsLipschitz) else None
        if bound is None:
            return None
        bounds.append(bound)
    return torch.stack(bounds)


def layered_bound(layers: Layers, slopes: tuple[float, float]) -> Tensor:
    r"""Bound the Hessian :math:`\sum_l J_l^\top \operatorname{diag}(c_l) J_l` of a layered network.

    With :math:`s_1 \ge |\sigma'|` and :math:`s_2 \ge |\sigma''|`, the adjoints of the layers obey
    :math:`|\delta_l| \le \beta_l` entry by entry, where :math:`\beta_L = |w|` and
    :math:`\beta_l = s_1 |W_{l+1}|^\top \beta_{l+1}`. Hence

    .. math::
        |\nabla^2 u|_2 \le s_2 \sum_l \left( |W_l|_{\beta_l}\, p_{l-1} + |E_l|_{\beta_l} \right)^2, \qquad
        |M|_\beta^2 = |M^\top \operatorname{diag}(\beta) M|_2 ,

    where :math:`p_l = s_1 (|W_l|_2\, p_{l-1} + |E_l|_2)` bounds :math:`|\partial h_l / \partial z|_2`, and
    :math:`p_0 = 0`. A residual network with the step :math:`\eta` adds :math:`\beta_{l+1}` to :math:`\beta_l` and
    :math:`p_{l-1}` to :math:`p_l`, and has :math:`\eta s_1, \eta s_2` in place of :math:`s_1, s_2` from its second
    layer on. Every term is the worst case of its layer, so the bound grows with the depth and the width.

    Args:
        layers: The weights.
        slopes: The bounds :math:`s_1` and :math:`s_2` of the derivatives of the activation.

    Returns:
        The bound, of shape ``(*stack,)``; differentiable in the weights.
    """
    first, second = slopes
    eta = 1.0 if layers.residual is None else abs(layers.residual)
    beta = layers.output.abs()
    adjoints = [beta]
    for link in reversed(layers.links):
        back = first * eta * (beta.unsqueeze(-2) @ link.abs()).squeeze(-2)
        beta = back if layers.residual is None else back + beta
        adjoints.append(beta)
    adjoints.reverse()

    entry = layers.entries[0]
    if entry is None:
        raise ValueError("entries: expected the point to enter the first layer, got None")
    total = second * _weighted_norm(entry, adjoints[0])
    reach = first * torch.linalg.matrix_norm(entry, ord=2)  # p_l
    for link, extra, beta in zip(layers.links, layers.entries[1:], adjoints[1:], strict=True):
        square = _weighted_norm(link, beta) * reach.square()
        own = torch.linalg.matrix_norm(link, ord=2) * reach
        if extra is not None:
            square = _square_of_sum(square, _weighted_norm(extra, beta))
            own = own + torch.linalg.matrix_norm(extra, ord=2)
        total = total + second * eta * square
        through = first * eta * own
        reach = through if layers.residual is None else reach + through
    return total


def _weighted_norm(matrix: Tensor, weights: Tensor) -> Tensor:
    """Compute the spectral norm of M' diag(w) M, for weights that are not negative."""
    gram = matrix.mT @ (weights.unsqueeze(-1) * matrix)
    result: Tensor = torch.linalg.eigvalsh(gram)[..., -1].clamp(min=0.0)  # roundoff may leave zero
    return result


def _square_of_sum(a: Tensor, b: Tensor) -> Tensor:
    """Compute the square of sqrt(a) + sqrt(b), with a finite gradient where one is zero."""
    product = (a * b).clamp(min=torch.finfo(a.dtype).tiny)
    return a + b + 2 * product.sqrt()
