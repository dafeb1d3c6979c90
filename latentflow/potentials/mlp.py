r"""A potential given by a multilayer perceptron, with exact derivatives in one first-order sweep."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import nn

from latentflow.calculus.checks import check_finite_number, check_hidden
from latentflow.potentials.features import Activation, SinusoidalEmbedding, TimeEmbedding
from latentflow.potentials.layered import LayeredPotential, Layers


class MLPPotential(LayeredPotential):
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
        TypeError: If an argument is of another kind.
        ValueError: If ``dim`` or a width is not positive, a number is not finite, or the activation is piecewise
            linear.

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
        super().__init__(dim, SinusoidalEmbedding() if time_embedding is None else time_embedding, activation)
        check_hidden(hidden)
        check_finite_number("output_scale", output_scale)
        self.point = nn.Linear(dim, hidden[0])
        self.time = nn.Linear(self.embedding.features, hidden[0], bias=False)
        self.hidden = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(hidden))
        self.output = nn.Linear(hidden[-1], 1, bias=False)
        with torch.no_grad():
            self.output.weight.mul_(output_scale)

    def layers(self) -> Layers:
        """Return the weights as they are now."""
        hidden = [cast("nn.Linear", layer) for layer in self.hidden]
        rest = [None] * len(hidden)
        return Layers(
            input_weights=[self.point.weight, *rest],
            time_weights=[self.time.weight, *rest],
            hidden_weights=[layer.weight for layer in hidden],
            biases=[self.point.bias, *(layer.bias for layer in hidden)],
            output=self.output.weight.squeeze(0),
        )
