r"""A potential given by a residual network and a quadratic of low rank."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from latentflow.calculus.checks import check_count, check_finite_number
from latentflow.potentials.features import Activation, IdentityEmbedding, TimeEmbedding, log_cosh
from latentflow.potentials.layered import LayeredPotential, Layers
from latentflow.potentials.quadratic import LowRankQuadratic


class ResNetPotential(LayeredPotential):
    r"""A residual network in the point and the time, plus a quadratic of low rank.

    .. math::
        u(z, t) = w^\top h_M + \tfrac12 |A z + V e(t)|^2 + b^\top z + c^\top e(t), \qquad
        h_0 = \sigma(E z + U e(t) + b_0), \qquad h_i = h_{i-1} + \tfrac1M\, \sigma(K_i h_{i-1} + b_i)

    with ``depth`` residual layers M. It is the potential of OT-Flow up to the sign of the velocity, which is
    :math:`+\nabla u` here and :math:`-\nabla \Phi` there: negate it to start from a contraction. All derivatives come
    from one forward and one backward sweep and the layer sum of :class:`MLPPotential`.

    Args:
        dim: The number of coordinates.
        width: The width of the network.
        depth: The number M of residual layers, at least one.
        rank: The rank of the quadratic, at least one.
        time_embedding: Features of time, the time itself if None.
        activation: A smooth elementwise function.
        output_scale: The size of the output weights and of the quadratic relative to torch's own initialisation; a
            small one starts the flow near the identity.

    Raises:
        ValueError: If a size is not positive, or the activation is piecewise linear.

    References:
        | OT-Flow: Fast and Accurate Continuous Normalizing Flows via Optimal Transport (Onken et al., 2021)
        | https://arxiv.org/abs/2006.00104

    Example:
        >>> from latentflow import hessian
        >>> u = ResNetPotential(3, width=8, depth=2, rank=2).double()
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> H = torch.func.vmap(torch.func.hessian(lambda z: u(z, torch.tensor(0.5).to(z))))(z)
        >>> torch.testing.assert_close(hessian(u, z, 0.5), H)
    """

    def __init__(
        self,
        dim: int,
        width: int = 64,
        depth: int = 1,
        rank: int = 10,
        time_embedding: TimeEmbedding | None = None,
        activation: Activation = log_cosh,
        output_scale: float = 1.0,
    ) -> None:
        for name, number in (("width", width), ("depth", depth)):
            check_count(name, number)
        check_finite_number("output_scale", output_scale)
        embedding = IdentityEmbedding() if time_embedding is None else time_embedding
        super().__init__(dim, embedding, activation, LowRankQuadratic(dim, rank, embedding))
        self.point = nn.Linear(dim, width)
        self.time = nn.Linear(embedding.features, width, bias=False)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.output = nn.Linear(width, 1, bias=False)
        with torch.no_grad():
            self.output.weight.mul_(output_scale)
            for layer in (self.quadratic.point, self.quadratic.time):
                layer.weight.mul_(abs(output_scale) ** 0.5)

    @property
    def quadratic(self) -> LowRankQuadratic:
        """The quadratic of low rank."""
        return cast("LowRankQuadratic", self.remainder)

    def layers(self) -> Layers:
        """Return the weights as they are now."""
        blocks = [cast("nn.Linear", block) for block in self.blocks]
        rest = [None] * len(blocks)
        return Layers(
            input_weights=[self.point.weight, *rest],
            time_weights=[self.time.weight, *rest],
            hidden_weights=[block.weight for block in blocks],
            biases=[self.point.bias, *(block.bias for block in blocks)],
            output=self.output.weight.squeeze(0),
            residual=1 / len(blocks),
        )
