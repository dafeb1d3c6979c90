r"""The second derivatives of a layered network as one sum over its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentflow.potentials.squares import rows_times, squared_directions, squared_gram


@dataclass(frozen=True)
class LayerSum:
    r"""The Hessian :math:`H = \sum_l J_l^\top \operatorname{diag}(c_l) J_l` of a network, in its parts.

    :math:`J_l = \partial a_l / \partial z` are the tangents of the pre-activations. They follow
    :math:`J_{l+1} = W_{l+1} P_l + E_{l+1}` with :math:`P_l = \operatorname{diag}(s_l) J_l`, to which a residual network
    adds :math:`P_{l-1}`. Nothing here differentiates: the sum is a first-order program that one backward pass trains.

    Every tensor may lead with the same ``*stack`` dimensions, for as many networks side by side.

    Attributes:
        entries: The matrices :math:`E_l`, of shape ``(*stack, n_l, dim)``, through which the point enters layer ``l``;
            None where it does not. The first is never None.
        links: The matrices :math:`W_2, \dots, W_L`, of shape ``(*stack, n_l, n_{l-1})``.
        gains: The diagonals :math:`s_1, \dots, s_{L-1}`, of shape ``(*stack, samples, n_l)``.
        curvatures: The diagonals :math:`c_1, \dots, c_L`, of shape ``(*stack, samples, n_l)``.
        residual: Whether :math:`P_l` includes :math:`P_{l-1}`.

    References:
        | Forward Laplacian: A New Computational Framework for Neural Network-based Variational Monte Carlo
          (Li et al., 2023)
        | https://arxiv.org/abs/2307.08214
    """

    entries: Sequence[Tensor | None]
    links: Sequence[Tensor]
    gains: Sequence[Tensor]
    curvatures: Sequence[Tensor]
    residual: bool = False

    @property
    def first(self) -> Tensor:
        """The first entry :math:`E_1`, of shape ``(*stack, n_1, dim)``."""
        if self.entries[0] is None:
            raise ValueError("entries: expected the point to enter the first layer, got None")
        return self.entries[0]

    @property
    def enters_once(self) -> bool:
        """Whether the point enters through the first layer alone."""
        return all(entry is None for entry in self.entries[1:])

    def drives(self, v: Tensor) -> list[Tensor | None]:
        """Give the direct effect of directions on each layer.

        Args:
            v: Directions in the space of the points, of shape ``(*stack, samples or 1, directions, dim)``.

        Returns:
            One tensor ``(*stack, samples or 1, directions, n_l)`` for each layer, or None where there is no effect.
        """
        return [None if entry is None else rows_times(v, entry.mT) for entry in self.entries]

    def tangents(self, drives: Sequence[Tensor | None]) -> list[Tensor]:
        """Carry directions through the network.

        Args:
            drives: The direct effect of the directions on each layer, see :meth:`drives`.

        Returns:
            The tangents ``(*stack, samples, directions, n_l)`` of all pre-activations; the first has its drive's shape.
        """
        if drives[0] is None:
            raise ValueError("drives: expected an effect on the first layer, got None")
        tangents = [drives[0]]
        carried: Tensor | None = None
        for gain, link, drive in zip(self.gains, self.links, drives[1:], strict=True):
            own = gain.unsqueeze(-2) * tangents[-1]
            carried = carried + own if self.residual and carried is not None else own
            tangent = rows_times(carried, link.mT)
            tangents.append(tangent if drive is None else tangent + drive)
        return tangents

    def quadratic(self, tangents: Sequence[Tensor]) -> Tensor:
        r"""Compute :math:`v^\top H v` of the directions with these tangents, ``(*stack, samples, directions)``."""
        forms = [(c.unsqueeze(-2) * T.square()).sum(-1) for c, T in zip(self.curvatures, tangents, strict=True)]
        return add_up(forms)

    def products(self, tangents: Sequence[Tensor]) -> Tensor:
        """Compute :math:`H v` of the directions with these tangents, ``(*stack, samples, directions, dim)``.

        The sum is carried backward through the layers, once for all directions.
        """
        back: Tensor | None = None
        pull: Tensor | None = None
        columns = []
        for layer in reversed(range(len(tangents))):
            own = self.curvatures[layer].unsqueeze(-2) * tangents[layer]
            if pull is not None:
                through = rows_times(pull, self.links[layer])
                back = through if back is None or not self.residual else through + back
                own = own + self.gains[layer].unsqueeze(-2) * back
            pull = own
            entry = self.entries[layer]
            if entry is not None:
                columns.append(rows_times(pull, entry))
        return add_up(columns)

    def laplacian(self) -> Tensor:
        r"""Compute the trace, of shape ``(*stack, samples)``, by whichever of two ways costs less.

        The directions enter through the first layer as :math:`E_1 E_1^\top` only. So a matrix of its width can be
        carried in place of ``dim`` directions, and the cost does not grow with ``dim``.
        """
        width, dim = self.first.shape[-2:]
        layers = len(self.curvatures)
        if not self.enters_once or layers == 1:
            return self._laplacian_by_directions()
        # Matrix products in training: 3 of width^3 against 4 of width^2 * dim in the last layer; deeper ones have
        # 6 against 3 each, for the whole matrix is carried on.
        by_gram = width * (3 + 6 * (layers - 2)) <= dim * (4 + 3 * (layers - 2))
        return self._laplacian_by_gram() if by_gram else self._laplacian_by_directions()

    def _laplacian_by_directions(self) -> Tensor:
        *before, last = self.curvatures
        if not before:
            return (last * self.first.square().sum(-1).unsqueeze(-2)).sum(-1)
        eye = torch.eye(self.first.shape[-1], dtype=self.first.dtype, device=self.first.device)
        if not self.enters_once:
            return self.quadratic(self.tangents(self.drives(eye.unsqueeze(-3)))).sum(-1)
        inner = LayerSum(self.entries[:-1], self.links[:-1], self.gains[:-1], before, self.residual)
        tangents = inner.tangents([self.first.mT.contiguous().unsqueeze(-3), *(None for _ in self.links[:-1])])
        total = add_up([(c * T.square().sum(-2)).sum(-1) for c, T in zip(before, tangents, strict=True)])
        directions, gain = tangents[-1], self.gains[-1]
        if self.residual and len(tangents) > 1:
            directions, gain = self._carried(tangents), torch.ones_like(gain)
        return total + (last * squared_directions(directions, gain, self.links[-1])).sum(-1)

    def _carried(self, tangents: Sequence[Tensor]) -> Tensor:
        return add_up([gain.unsqueeze(-2) * tangent for gain, tangent in zip(self.gains, tangents, strict=True)])

    def _laplacian_by_gram(self) -> Tensor:
        gram = self.first @ self.first.mT
        total = (self.curvatures[0] * gram.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)).sum(-1)
        if len(self.links) == 1:
            return total + (self.curvatures[1] * squared_gram(self.gains[0], self.links[0], gram)).sum(-1)
        # `carried` is P P^T of each sample, of shape (*stack, samples, n, n), from which the next layer's W P P^T W^T
        # needs its diagonal, and the next but one the whole.
        gain = self.gains[0]
        carried = gain.unsqueeze(-1) * gram.unsqueeze(-3) * gain.unsqueeze(-2)
        for layer, link in enumerate(self.links):
            half = rows_times(carried, link.mT)
            diagonal = (half * link.mT.unsqueeze(-3)).sum(-2)
            total = total + (self.curvatures[layer + 1] * diagonal).sum(-1)
            if layer + 1 == len(self.links):
                break
            gain = self.gains[layer + 1]
            cross = half * gain.unsqueeze(-2)
            if self.residual:
                cross = carried + cross
                carried = cross + gain.unsqueeze(-1) * rows_times(cross.mT, link.mT).mT
            else:
                carried = gain.unsqueeze(-1) * rows_times(cross.mT, link.mT).mT
        return total

    def hessian(self) -> Tensor:
        """Compute the Hessian, of shape ``(*stack, samples, dim, dim)``."""
        eye = torch.eye(self.first.shape[-1], dtype=self.first.dtype, device=self.first.device)
        return self._contract(self.tangents(self.drives(eye.unsqueeze(-3))))

    def core(self) -> Tensor:
        """Compute the Hessian in the first pre-activation, of shape ``(*stack, samples, n_1, n_1)``."""
        eye = torch.eye(self.first.shape[-2], dtype=self.first.dtype, device=self.first.device)
        return self._contract(self.tangents([eye.unsqueeze(-3), *(None for _ in self.links)]))

    def _contract(self, tangents: Sequence[Tensor]) -> Tensor:
        scaled = [c.unsqueeze(-2) * T for c, T in zip(self.curvatures, tangents, strict=True)]
        full = [T.expand_as(S) for S, T in zip(scaled, tangents, strict=True)]
        return torch.cat(scaled, dim=-1) @ torch.cat(full, dim=-1).mT


def add_up(parts: list[Tensor]) -> Tensor:
    """Add tensors, at least one, which broadcast to one shape."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
