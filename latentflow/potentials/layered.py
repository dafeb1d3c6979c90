"""Potentials given by a layered network: weights, jets, the layer sum of second derivatives, and bounds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from latentflow.calculus import InnerHessian, Jet, JetRequest
from latentflow.calculus.checks import check_count, check_instance, check_points, expand_time
from latentflow.calculus.jets import transformed
from latentflow.potentials.algebra import Potential
from latentflow.potentials.features import Activation, ActivationRule, TimeEmbedding, activation_rule, slope_bounds
from latentflow.potentials.squares import fits, plain_operations, squared_directions, squared_gram


@dataclass(frozen=True)
class Layers:
    r"""The weights of a layered network.

    .. math::
        a_l = E_l z + V_l e(t) + W_l h_{l-1} + b_l, \qquad h_l = \sigma(a_l), \qquad u = w^\top h_L

    A residual network has :math:`h_l = h_{l-1} + \eta\,\sigma(a_l)` from its second layer on. Every tensor may lead
    with the same ``*stack`` dimensions, for as many networks side by side.

    Attributes:
        input_weights: The matrices :math:`E_l`, of shape ``(*stack, n_l, dim)``, or None; the first is never None.
        time_weights: The matrices :math:`V_l`, of shape ``(*stack, n_l, features)``, or None; the first is never None.
        hidden_weights: The matrices :math:`W_2, \dots, W_L`, of shape ``(*stack, n_l, n_{l-1})``.
        biases: The vectors :math:`b_l`, of shape ``(*stack, n_l)``.
        output: The vector ``w``, of shape ``(*stack, n_L)``.
        residual: The step :math:`\eta` of a residual network, or None.
    """

    input_weights: Sequence[Tensor | None]
    time_weights: Sequence[Tensor | None]
    hidden_weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    output: Tensor
    residual: float | None = None

    def pre_activation(self, layer: int, z: Tensor, features: Tensor, h: Tensor | None) -> Tensor:
        """Compute :math:`a_l` of a layer, counted from zero, from the state ``h`` of the layer before, or None."""
        input_weight, time_weight, bias = self.input_weights[layer], self.time_weights[layer], self.biases[layer]
        if (
            time_weight is not None and features.shape[:-1] != z.shape[:-1]
        ):  # one time for all samples: a bias like the other
            bias = bias + affine(features, time_weight).squeeze(-2)
            time_weight = None
        inputs = [
            (z, input_weight),
            (features, time_weight),
            (h, None if layer == 0 else self.hidden_weights[layer - 1]),
        ]
        given = [(x, weight) for x, weight in inputs if x is not None and weight is not None]
        total = affine(*given[0], bias)
        for x, weight in given[1:]:
            total = total + affine(x, weight)
        return total

    def advance(self, h: Tensor | None, own: Tensor) -> Tensor:
        """Compute the state of a layer from the state before it and the layer's own activation."""
        return own if h is None or self.residual is None else h + self.residual * own

    def states(self, z: Tensor, features: Tensor, rule: ActivationRule) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Run the network forward: the state of each layer, with its derivatives in the pre-activation."""
        states: list[tuple[Tensor, Tensor, Tensor]] = []
        h = None
        for layer in range(len(self.biases)):
            own, slope, curvature = rule(self.pre_activation(layer, z, features, h))
            if self.residual is not None and layer > 0:
                slope, curvature = self.residual * slope, self.residual * curvature
            h = self.advance(h, own)
            states.append((h, slope, curvature))
        return states

    def adjoints(self, slopes: Sequence[Tensor]) -> list[Tensor]:
        r"""Run the network backward: :math:`\partial u / \partial h_l` of each layer."""
        adjoints = [self.output.unsqueeze(-2).expand_as(slopes[-1])]
        for hidden_weight, slope in zip(self.hidden_weights[::-1], slopes[:0:-1], strict=True):
            back = (adjoints[-1] * slope) @ hidden_weight
            adjoints.append(back if self.residual is None else back + adjoints[-1])
        return adjoints[::-1]


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Compute :math:`x W^\top + b`, ``(*stack, samples, m)``, for one or many layers side by side."""
    if weight.ndim == 2:
        return nn.functional.linear(x, weight, bias)
    if weight.ndim == 3 and x.ndim == 3:  # the general product below takes longer to find that out
        return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(-2), x, weight.mT)
    return x @ weight.mT if bias is None else x @ weight.mT + bias.unsqueeze(-2)


@dataclass(frozen=True)
class LayerSum:
    r"""The Hessian :math:`H = \sum_l J_l^\top \operatorname{diag}(c_l) J_l` of a network, in its parts.

    :math:`J_l = \partial a_l / \partial z` are the tangents of the pre-activations. They follow
    :math:`J_{l+1} = W_{l+1} P_l + E_{l+1}` with :math:`P_l = \operatorname{diag}(s_l) J_l`, to which a residual network
    adds :math:`P_{l-1}`. Every tensor may lead with the same ``*stack`` dimensions.

    Attributes:
        input_weights: The matrices :math:`E_l`, of shape ``(*stack, n_l, dim)``, or None; the first is never None.
        hidden_weights: The matrices :math:`W_2, \dots, W_L`, of shape ``(*stack, n_l, n_{l-1})``.
        slopes: The diagonals :math:`s_1, \dots, s_{L-1}`, of shape ``(*stack, samples, n_l)``.
        curvatures: The diagonals :math:`c_1, \dots, c_L`, of shape ``(*stack, samples, n_l)``.
        residual: Whether :math:`P_l` includes :math:`P_{l-1}`.

    References:
        | Forward Laplacian: A New Computational Framework for Neural Network-based Variational Monte Carlo
          (Li et al., 2023)
        | https://arxiv.org/abs/2307.08214
    """

    input_weights: Sequence[Tensor | None]
    hidden_weights: Sequence[Tensor]
    slopes: Sequence[Tensor]
    curvatures: Sequence[Tensor]
    residual: bool = False

    @property
    def first(self) -> Tensor:
        """The first matrix :math:`E_1`, of shape ``(*stack, n_1, dim)``."""
        if self.input_weights[0] is None:
            raise ValueError("input_weights: expected the point to enter the first layer, got None")
        return self.input_weights[0]

    @property
    def enters_once(self) -> bool:
        """Whether the point enters through the first layer alone."""
        return all(input_weight is None for input_weight in self.input_weights[1:])

    def input_tangents(self, v: Tensor) -> list[Tensor | None]:
        """Return the direct effect ``(*stack, samples or 1, directions, n_l)`` of directions on each layer."""
        return [None if input_weight is None else rows_times(v, input_weight.mT) for input_weight in self.input_weights]

    def tangents(self, input_tangents: Sequence[Tensor | None]) -> list[Tensor]:
        """Compute the tangents ``(*stack, samples, directions, n_l)`` of all layers from their direct effects."""
        if input_tangents[0] is None:
            raise ValueError("input_tangents: expected an effect on the first layer, got None")
        tangents = [input_tangents[0]]
        carried: Tensor | None = None
        for slope, hidden_weight, own_tangent in zip(self.slopes, self.hidden_weights, input_tangents[1:], strict=True):
            own = slope.unsqueeze(-2) * tangents[-1]
            carried = carried + own if self.residual and carried is not None else own
            tangent = rows_times(carried, hidden_weight.mT)
            tangents.append(tangent if own_tangent is None else tangent + own_tangent)
        return tangents

    def quadratic(self, tangents: Sequence[Tensor]) -> Tensor:
        r"""Compute :math:`v^\top H v` of the directions with these tangents, ``(*stack, samples, directions)``."""
        forms = [(c.unsqueeze(-2) * T.square()).sum(-1) for c, T in zip(self.curvatures, tangents, strict=True)]
        return add_up(forms)

    def products(self, tangents: Sequence[Tensor]) -> Tensor:
        """Compute :math:`H v` of the directions with these tangents, ``(*stack, samples, directions, dim)``."""
        back: Tensor | None = None
        adjoint: Tensor | None = None
        columns = []
        for layer in reversed(range(len(tangents))):
            own = self.curvatures[layer].unsqueeze(-2) * tangents[layer]
            if adjoint is not None:
                through = rows_times(adjoint, self.hidden_weights[layer])
                back = through if back is None or not self.residual else through + back
                own = own + self.slopes[layer].unsqueeze(-2) * back
            adjoint = own
            input_weight = self.input_weights[layer]
            if input_weight is not None:
                columns.append(rows_times(adjoint, input_weight))
        return add_up(columns)

    def laplacian(self) -> Tensor:
        r"""Compute the trace ``(*stack, samples)``, by ``dim`` directions or by :math:`E_1 E_1^\top`."""
        width, dim = self.first.shape[-2:]
        layers = len(self.curvatures)
        if not self.enters_once or layers == 1:
            return self._laplacian_by_directions()
        if layers == 2:
            # Multiplications of a sample: width^2 * dim by directions, width^3 / 2 by pairs of units, which make more
            # passes over their arrays, and width^3 by plain operations.
            by_gram = width <= dim if plain_operations() else 2 * width <= 3 * dim
        else:
            # Matrix products in training: 3 of width^3 against 3 or 4 of width^2 * dim in the last layer, 6 against 3
            # in others.
            last = 3 if fits(self.slopes[-1], dim, self.hidden_weights[-1]) else 4
            by_gram = width * (3 + 6 * (layers - 2)) <= dim * (last + 3 * (layers - 2))
        return self._laplacian_by_gram() if by_gram else self._laplacian_by_directions()

    def _laplacian_by_directions(self) -> Tensor:
        *before, last = self.curvatures
        if not before:
            return (last * self.first.square().sum(-1).unsqueeze(-2)).sum(-1)
        eye = torch.eye(self.first.shape[-1], dtype=self.first.dtype, device=self.first.device)
        if not self.enters_once:
            return self.quadratic(self.tangents(self.input_tangents(eye.unsqueeze(-3)))).sum(-1)
        inner = LayerSum(self.input_weights[:-1], self.hidden_weights[:-1], self.slopes[:-1], before, self.residual)
        tangents = inner.tangents([self.first.mT.contiguous().unsqueeze(-3), *(None for _ in self.hidden_weights[:-1])])
        total = add_up([(c * T.square().sum(-2)).sum(-1) for c, T in zip(before, tangents, strict=True)])
        directions, slope = tangents[-1], self.slopes[-1]
        if self.residual and len(tangents) > 1:
            directions, slope = self._carried(tangents), torch.ones_like(slope)
        return total + (last * squared_directions(directions, slope, self.hidden_weights[-1])).sum(-1)

    def _carried(self, tangents: Sequence[Tensor]) -> Tensor:
        return add_up([slope.unsqueeze(-2) * tangent for slope, tangent in zip(self.slopes, tangents, strict=True)])

    def _laplacian_by_gram(self) -> Tensor:
        gram = self.first @ self.first.mT
        total = (self.curvatures[0] * gram.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)).sum(-1)
        if len(self.hidden_weights) == 1:
            return total + (self.curvatures[1] * squared_gram(self.slopes[0], self.hidden_weights[0], gram)).sum(-1)
        # `carried` is P P^T of each sample, of shape (*stack, samples, n, n)
        slope = self.slopes[0]
        carried = slope.unsqueeze(-1) * gram.unsqueeze(-3) * slope.unsqueeze(-2)
        for layer, hidden_weight in enumerate(self.hidden_weights):
            half = rows_times(carried, hidden_weight.mT)
            diagonal = (half * hidden_weight.mT.unsqueeze(-3)).sum(-2)
            total = total + (self.curvatures[layer + 1] * diagonal).sum(-1)
            if layer + 1 == len(self.hidden_weights):
                break
            slope = self.slopes[layer + 1]
            cross = half * slope.unsqueeze(-2)
            if self.residual:
                cross = carried + cross
                carried = cross + slope.unsqueeze(-1) * rows_times(cross.mT, hidden_weight.mT).mT
            else:
                carried = slope.unsqueeze(-1) * rows_times(cross.mT, hidden_weight.mT).mT
        return total

    def hessian(self) -> Tensor:
        """Compute the Hessian, of shape ``(*stack, samples, dim, dim)``."""
        eye = torch.eye(self.first.shape[-1], dtype=self.first.dtype, device=self.first.device)
        return self._contract(self.tangents(self.input_tangents(eye.unsqueeze(-3))))

    def core(self) -> Tensor:
        """Compute the Hessian in the first pre-activation, of shape ``(*stack, samples, n_1, n_1)``."""
        eye = torch.eye(self.first.shape[-2], dtype=self.first.dtype, device=self.first.device)
        return self._contract(self.tangents([eye.unsqueeze(-3), *(None for _ in self.hidden_weights)]))

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


def rows_times(x: Tensor, matrix: Tensor) -> Tensor:
    """Multiply rows ``(*stack, samples, rows, n)`` by a matrix ``(*stack, n, m)``, as one product."""
    flat = x.reshape(*x.shape[:-3], -1, x.shape[-1]) @ matrix
    return flat.reshape(*flat.shape[:-2], *x.shape[-3:-1], matrix.shape[-1])


def layered_jet(
    layers: Layers, embedding: TimeEmbedding, rule: ActivationRule, z: Tensor, t: Tensor, request: JetRequest
) -> Jet:
    r"""Compute the jet of a layered network, or of several side by side.

    With :math:`\delta_l = \partial u / \partial h_l` from the backward sweep, the adjoint
    :math:`\pi_l = \delta_l \odot \sigma'(a_l)` and the curvature :math:`c_l = \delta_l \odot \sigma''(a_l)`,

    .. math::
        \nabla u = \sum_l E_l^\top \pi_l, \qquad \partial_t u = \sum_l \pi_l^\top V_l \dot e, \qquad
        \partial_t^2 u = \sum_l \pi_l^\top V_l \ddot e + \dot a_l^\top \operatorname{diag}(c_l)\, \dot a_l ,

    and the second derivatives in ``z`` are those of :class:`LayerSum`. The time is one more direction for it.

    Points are ``(*stack, samples, dim)``, times ``(*stack, samples)``, or ``(*stack, 1)`` for one shared time.
    """
    features, features_dot = embedding.with_derivative(t)
    states = layers.states(z, features, rule)
    slopes = [slope for _, slope, _ in states]
    adjoints = layers.adjoints(slopes)
    pre_adjoints = [delta * slope for delta, slope in zip(adjoints, slopes, strict=True)]
    value = (states[-1][0] @ layers.output.unsqueeze(-1)).squeeze(-1)
    gradient = add_up([own @ E for own, E in zip(pre_adjoints, layers.input_weights, strict=True) if E is not None])
    velocities = [None if V is None else affine(features_dot, V) for V in layers.time_weights]
    time_derivative = _along(pre_adjoints, velocities)

    curvatures = [delta * curvature for delta, (_, _, curvature) in zip(adjoints, states, strict=True)]
    terms = LayerSum(layers.input_weights, layers.hidden_weights, slopes[:-1], curvatures, layers.residual is not None)

    def probe_tangents(probes: Tensor) -> list[Tensor]:
        return terms.tangents(terms.input_tangents(probes))

    def time_tangents() -> list[Tensor]:
        return terms.tangents([None if own is None else own.unsqueeze(-2) for own in velocities])

    def second_time_derivative() -> Tensor:
        second = embedding.second_derivative(t)
        accelerations = [None if V is None else affine(second, V) for V in layers.time_weights]
        return terms.quadratic(time_tangents()).squeeze(-1) + _along(pre_adjoints, accelerations)

    return Jet.answer(
        request,
        value,
        gradient,
        time_derivative,
        laplacian=terms.laplacian,
        hessian=terms.hessian,
        quadratic=lambda probes: terms.quadratic(probe_tangents(probes)),
        products=lambda probes: terms.products(probe_tangents(probes)),
        second_time_derivative=second_time_derivative,
        gradient_time_derivative=lambda: terms.products(time_tangents()).squeeze(-2),
        inner_hessian=lambda: InnerHessian(terms.core(), terms.first),
    )


def _along(adjoints: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Tensor:
    pairs = zip(adjoints, tangents, strict=True)
    return add_up([(adjoint * tangent).sum(-1) for adjoint, tangent in pairs if tangent is not None])


def layered_bound(layers: Layers, slopes: tuple[float, float]) -> Tensor:
    r"""Bound the Hessian :math:`\sum_l J_l^\top \operatorname{diag}(c_l) J_l` of a layered network.

    With :math:`s_1 \ge |\sigma'|` and :math:`s_2 \ge |\sigma''|`, the adjoints of the layers obey
    :math:`|\delta_l| \le \beta_l` input_weight by input_weight, where :math:`\beta_L = |w|` and
    :math:`\beta_l = s_1 |W_{l+1}|^\top \beta_{l+1}`. Hence

    .. math::
        |\nabla^2 u|_2 \le s_2 \sum_l \left( |W_l|_{\beta_l}\, p_{l-1} + |E_l|_{\beta_l} \right)^2, \qquad
        |M|_\beta^2 = |M^\top \operatorname{diag}(\beta) M|_2 ,

    where :math:`p_l = s_1 (|W_l|_2\, p_{l-1} + |E_l|_2)` bounds :math:`|\partial h_l / \partial z|_2`, and
    :math:`p_0 = 0`. A residual network with the step :math:`\eta` adds :math:`\beta_{l+1}` to :math:`\beta_l` and
    :math:`p_{l-1}` to :math:`p_l`, and has :math:`\eta s_1, \eta s_2` in place of :math:`s_1, s_2` from its second
    layer on. The ``slopes`` are :math:`s_1, s_2`; the bound is ``(*stack,)``.
    """
    first, second = slopes
    eta = 1.0 if layers.residual is None else abs(layers.residual)
    beta = layers.output.abs()
    adjoints = [beta]
    for hidden_weight in reversed(layers.hidden_weights):
        back = first * eta * (beta.unsqueeze(-2) @ hidden_weight.abs()).squeeze(-2)
        beta = back if layers.residual is None else back + beta
        adjoints.append(beta)
    adjoints.reverse()

    input_weight = layers.input_weights[0]
    if input_weight is None:
        raise ValueError("input_weights: expected the point to enter the first layer, got None")
    total = second * _weighted_norm(input_weight, adjoints[0])
    reach = first * torch.linalg.matrix_norm(input_weight, ord=2)  # p_l
    for hidden_weight, extra, beta in zip(layers.hidden_weights, layers.input_weights[1:], adjoints[1:], strict=True):
        square = _weighted_norm(hidden_weight, beta) * reach.square()
        own = torch.linalg.matrix_norm(hidden_weight, ord=2) * reach
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


class LayeredPotential(Potential):
    """A potential given by a layered network with the weights of a subclass, plus a ``remainder`` if there is one."""

    def __init__(
        self, dim: int, time_embedding: TimeEmbedding, activation: Activation, remainder: Potential | None = None
    ) -> None:
        super().__init__()
        check_count("dim", dim)
        self.dim = dim
        activation_rule(activation)  # refuses what has no second derivative
        check_instance("time_embedding", time_embedding, TimeEmbedding, "a TimeEmbedding or None")
        self.activation = activation
        self.embedding = time_embedding
        self.remainder = remainder

    @abstractmethod
    def layers(self) -> Layers:
        """Return the weights as they are now."""

    @property
    def rule(self) -> ActivationRule:
        """The activation with its first two derivatives."""
        return activation_rule(self.activation)

    @property
    def inner_width(self) -> int | None:
        """The rank of the Hessian at most, see :attr:`Potential.inner_width`."""
        layers = self.layers()
        first, *rest = layers.input_weights
        own = None if first is None or any(input_weight is not None for input_weight in rest) else first.shape[-2]
        if own is None or self.remainder is None:
            return own
        more = self.remainder.inner_width
        return None if more is None else own + more

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the potential at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        layers = self.layers()
        check_points(z, self.dim, layers.output)
        features = self.embedding(expand_time(t, z))
        h = self.activation(layers.pre_activation(0, z, features, None))
        for layer in range(1, len(layers.biases)):
            h = layers.advance(h, self.activation(layers.pre_activation(layer, z, features, h)))
        value = (h * layers.output).sum(-1)
        if self.remainder is None:
            return value
        rest: Tensor = self.remainder(z, t)
        return value + rest

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Compute the jet by one forward sweep, one backward sweep and the layer sum of second derivatives."""
        layers = self.layers()
        check_points(z, self.dim, layers.output)
        batch = z.shape[:-1]
        samples = batch.numel()
        points, flat = z.reshape(samples, self.dim), request.reshape_probes(samples)
        shared = samples > 1 and not any(t.stride()) and not t.requires_grad and not transformed()
        times = t[(0,) * t.ndim].reshape(1) if shared else t.reshape(samples)  # a derivative is each sample's own
        jet = layered_jet(layers, self.embedding, self.rule, points, times, flat)
        jet = jet.map(lambda field: field.reshape((*batch, *field.shape[1:])))
        return jet if self.remainder is None else _with_remainder(jet, self.remainder.jet_rule(z, t, request))

    def lipschitz_gradient(self) -> Tensor | None:
        """Bound the Hessian by the weights, see ``layered_bound``; None if the activation has no known bounds."""
        slopes = slope_bounds(self.activation)
        own = None if slopes is None else layered_bound(self.layers(), slopes)
        if own is None or self.remainder is None:
            return own
        more = self.remainder.lipschitz_gradient()
        return None if more is None else own + more


def _with_remainder(jet: Jet, rest: Jet) -> Jet:
    total = Jet.total([jet, rest])
    one, two = jet.factors, rest.factors
    if one is None or two is None:
        return total
    n, m = one.core.shape[-1], two.core.shape[-1]
    core = torch.cat([nn.functional.pad(one.core, (0, m)), nn.functional.pad(two.core, (n, 0))], dim=-2)
    return replace(total, factors=InnerHessian(core, torch.cat([one.factor, two.factor])))
