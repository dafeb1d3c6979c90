r"""A potential given by a multilayer perceptron, with exact derivatives in one first-order sweep."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from latentflow.calculus import Jet, JetRequest, check_hidden, check_points, expand_time
from latentflow.potentials.activation import Activation, activation_rule
from latentflow.potentials.algebra import Potential
from latentflow.potentials.time_embedding import SinusoidalEmbedding, TimeEmbedding


class MLPPotential(Potential):
    r"""A multilayer perceptron in the point and an embedding of the time.

    .. math::
        u(z, t) = w^\top h_L, \qquad h_l = \sigma(a_l), \qquad a_{l+1} = W_{l+1} h_l + b_{l+1}, \qquad
        a_1 = W_1 z + V e(t) + b_1

    Its derivatives come from one forward and one backward sweep, without automatic differentiation. With
    :math:`J_l = \partial a_l / \partial z` and :math:`\delta_l = \partial u / \partial h_l`,

    .. math::
        \nabla_z u = W_1^\top (\delta_1 \odot \sigma'(a_1)), \qquad
        \nabla_z^2 u = \sum_l J_l^\top \operatorname{diag}(\delta_l \odot \sigma''(a_l))\, J_l .

    The Laplacian and a probe :math:`v^\top H v` read :math:`|J_l|^2` by rows and :math:`(J_l v)^2` off the same sum.
    There is no bias on the output: it would not move the flow.

    Args:
        dim: The number of coordinates.
        hidden: The widths of the hidden layers, at least one.
        time_embedding: Features of time, :class:`SinusoidalEmbedding` if None.
        activation: A smooth elementwise function.
        output_scale: The size of the output weights relative to torch's own initialisation; a small one starts
            the flow near the identity.

    Raises:
        ValueError: If ``dim`` or a width is not positive, or the activation is piecewise linear.

    Example:
        >>> from latentflow import jet, hessian
        >>> u = MLPPotential(3, hidden=(8, 8)).double()
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> H = torch.func.vmap(torch.func.hessian(lambda z: u(z, torch.tensor(0.5).to(z))))(z)
        >>> torch.testing.assert_close(hessian(u, z, 0.5), H)
        >>> torch.testing.assert_close(jet(u, z, 0.5).laplacian, H.diagonal(dim1=-2, dim2=-1).sum(-1))
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        time_embedding: TimeEmbedding | None = None,
        activation: Activation = torch.tanh,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim: expected a positive integer, got {dim!r}")
        check_hidden(hidden)
        self.dim = dim
        self.activation = activation
        activation_rule(activation)  # refuses what has no second derivative
        self.embedding = SinusoidalEmbedding() if time_embedding is None else time_embedding
        self.point = nn.Linear(dim, hidden[0])
        self.time = nn.Linear(self.embedding.features, hidden[0], bias=False)
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(hidden))
        self.output = nn.Linear(hidden[-1], 1, bias=False)
        with torch.no_grad():
            self.output.weight.mul_(output_scale)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the potential at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        check_points(z, self.dim)
        a = self.point(z) + self.time(self.embedding(expand_time(t, z)))
        for layer in self.layers:
            a = layer(self.activation(a))
        value: Tensor = self.output(self.activation(a)).squeeze(-1)
        return value

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Compute the jet by one forward sweep, one backward sweep and the layer sum of second derivatives."""
        check_points(z, self.dim)
        features, features_dot = self.embedding.with_derivative(t)
        a = self.point(z) + self.time(features)
        rule, slopes, curvatures = activation_rule(self.activation), [], []
        for layer in (*self.layers, self.output):
            h, slope, curvature = rule(a)
            slopes.append(slope)
            curvatures.append(curvature)
            a = layer(h)
        value = a.squeeze(-1)

        # Backward: delta = du/dh_l from the last layer to the first; scaled by the slope it is du/da_l.
        delta = self.output.weight.squeeze(0).expand_as(slopes[-1])
        coefficients = [delta * curvatures[-1]]
        weights = [layer.weight for layer in self._linear()]
        for weight, slope, curvature in zip(weights[::-1], slopes[:0:-1], curvatures[-2::-1], strict=True):
            delta = (delta * slope) @ weight
            coefficients.append(delta * curvature)
        pull = delta * slopes[0]
        gradient = pull @ self.point.weight
        time_derivative = (self.time(features_dot) * pull).sum(-1)

        coefficients.reverse()
        laplacian = hessian = quadratic = None
        if request.hessian:
            tangents = self._tangents(self.point.weight.mT, slopes)
            terms = [(c.unsqueeze(-2) * J) @ J.mT for c, J in zip(coefficients, tangents, strict=True)]
            hessian = torch.stack(terms).sum(0)
            laplacian = hessian.diagonal(dim1=-2, dim2=-1).sum(-1) if request.laplacian else None
        elif request.laplacian:
            tangents = self._tangents(self.point.weight.mT, slopes)
            traces = [(c * J.square().sum(-2)).sum(-1) for c, J in zip(coefficients, tangents, strict=True)]
            laplacian = torch.stack(traces).sum(0)
        if request.probes is not None:
            tangents = self._tangents(nn.functional.linear(request.probes, self.point.weight), slopes)
            forms = [(c.unsqueeze(-2) * J.square()).sum(-1) for c, J in zip(coefficients, tangents, strict=True)]
            quadratic = torch.stack(forms).sum(0)
        return Jet(value, gradient, time_derivative, laplacian, hessian, quadratic)

    def _linear(self) -> list[nn.Linear]:
        return [cast("nn.Linear", layer) for layer in self.layers]

    def _tangents(self, first: Tensor, slopes: Sequence[Tensor]) -> list[Tensor]:
        """Carry directions, given as their effect ``(..., directions, n_1)`` on the first pre-activation, to all."""
        tangents = [first]
        for layer, slope in zip(self._linear(), slopes[:-1], strict=True):
            tangents.append(nn.functional.linear(slope.unsqueeze(-2) * tangents[-1], layer.weight))
        return tangents
