r"""An input-convex network, whose discrete flow is invertible by construction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from latentflow.calculus import Jet, JetRequest
from latentflow.calculus.checks import check_hidden, check_nonnegative, check_positive
from latentflow.potentials.algebra import Potential
from latentflow.potentials.features import Activation, SinusoidalEmbedding, TimeEmbedding, is_convex_nondecreasing
from latentflow.potentials.layered import LayeredPotential, Layers


class ICNNPotential(LayeredPotential):
    r"""An input-convex network: a potential that is convex in the point at every time, whatever its parameters.

    .. math::
        u(z, t) = w^\top h_L + \tfrac{\kappa}{2} |z|^2, \qquad h_l = \sigma(a_l), \qquad
        a_l = W_l h_{l-1} + E_l z + V_l e(t) + b_l ,

    with :math:`h_0 = 0`, :math:`w \ge 0` and :math:`W_l \ge 0` entry by entry, and a convex, nondecreasing
    :math:`\sigma`. The nonnegative weights are the softplus of their parameters. Nothing binds the time: ``u`` need not
    be convex in it.

    For every step of length :math:`h > 0`, :math:`I + h \nabla^2 u \succeq (1 + h \kappa) I`. So the discrete map
    :math:`z + h \nabla u(z, t)` is a bijection, :class:`SlogDet` never reports a fold, and the point before a step is
    the minimum of a strongly convex function, which :class:`Newton` finds. The map is the gradient of the convex
    function :math:`\tfrac12 |z|^2 + h u`, hence by Brenier's theorem the optimal transport from any density to its
    image; a product of several such maps need not be. A convex potential only ever expands volumes.

    At the start the entries of :math:`W_l` lie between 1/2 and 3/2 of one over their number in a row, so that a layer
    passes on the average of the one before. The entries of ``w`` do so times ``output_scale``. A softplus that is far
    below one learns slowly in absolute terms: a small ``output_scale`` stays small for longer than that of
    :class:`MLPPotential`.

    Args:
        dim: The number of coordinates.
        hidden: The widths of the hidden layers, at least one.
        time_embedding: Features of time, :class:`SinusoidalEmbedding` if None.
        activation: A convex, nondecreasing, smooth elementwise function: softplus, ``nn.Softplus(beta)`` or exp.
        curvature: The curvature :math:`\kappa \ge 0` of the bowl that is added.
        output_scale: The size of the output weights at the start; a small one starts the flow near that of the bowl.

    Raises:
        ValueError: If ``dim`` or a width is not positive, the activation is not known to be convex, nondecreasing and
            smooth, or a number is out of range.

    References:
        | Input Convex Neural Networks (Amos, Xu, Kolter, 2017)
        | https://arxiv.org/abs/1609.07152

    Example:
        >>> from latentflow import PotentialFlow, hessian
        >>> u = ICNNPotential(3, hidden=(8, 8))
        >>> assert torch.linalg.eigvalsh(hessian(u, 10 * torch.randn(50, 3), 0.5)).min() > -1e-6
        >>> trajectory = PotentialFlow(u).rollout(torch.randn(50, 3), steps=4, on_fold="raise")
        >>> assert (trajectory.log_det >= 0).all()
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        time_embedding: TimeEmbedding | None = None,
        activation: Activation = nn.functional.softplus,
        curvature: float = 0.0,
        output_scale: float = 1.0,
    ) -> None:
        bowl = _Bowl(curvature) if check_nonnegative("curvature", curvature) > 0 else None
        super().__init__(dim, SinusoidalEmbedding() if time_embedding is None else time_embedding, activation, bowl)
        check_hidden(hidden)
        if not is_convex_nondecreasing(activation):
            raise ValueError(
                "activation: expected one that is known to be convex, nondecreasing and twice continuously "
                f"differentiable (softplus, nn.Softplus or torch.exp), got {activation}"
            )
        check_positive("output_scale", output_scale)
        self.points = nn.ModuleList(nn.Linear(dim, width) for width in hidden)
        self.times = nn.ModuleList(nn.Linear(self.embedding.features, width, bias=False) for width in hidden)
        self.raw_links = nn.ParameterList(_averaging(m, n) for n, m in pairwise(hidden))
        self.raw_output = _averaging(1, hidden[-1], output_scale)

    def layers(self) -> Layers:
        """Return the weights as they are now, those between the layers after their softplus."""
        points = [cast("nn.Linear", layer) for layer in self.points]
        return Layers(
            input_weights=[layer.weight for layer in points],
            time_weights=[cast("nn.Linear", layer).weight for layer in self.times],
            hidden_weights=[nn.functional.softplus(raw) for raw in self.raw_links],
            biases=[layer.bias for layer in points],
            output=nn.functional.softplus(self.raw_output).squeeze(0),
        )


class _Bowl(Potential):
    """The potential c |z|^2 / 2 with a fixed curvature."""

    curvature: Tensor

    def __init__(self, curvature: float) -> None:
        super().__init__()
        self.register_buffer("curvature", torch.tensor(float(curvature)))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - the same at all times
        """Evaluate the bowl at ``z`` of shape ``(*batch, dim)``; the result is ``(*batch,)``."""
        return self.curvature / 2 * z.square().sum(-1)

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the derivatives in closed form."""
        kappa = self.curvature
        eye = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        return Jet.answer(
            request,
            value=self(z, t),
            gradient=kappa * z,
            time_derivative=torch.zeros_like(t),
            laplacian=lambda: (kappa * z.shape[-1]).expand_as(t),
            hessian=lambda: (kappa * eye).expand(*z.shape, -1),
            products=lambda v: kappa * v,
            second_time_derivative=lambda: torch.zeros_like(t),
            gradient_time_derivative=lambda: torch.zeros_like(z),
        )

    def lipschitz_gradient(self) -> Tensor:
        """Return the curvature."""
        return self.curvature


def _averaging(rows: int, columns: int, scale: float = 1.0) -> nn.Parameter:
    weight = scale * (0.5 + torch.rand(rows, columns)) / columns
    return nn.Parameter(weight.expm1().log())  # the inverse of softplus
