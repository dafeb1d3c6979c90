r"""Potentials given by a layered network, with all derivatives in one forward and one backward sweep."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from latentflow.calculus import InnerHessian, Jet, JetRequest, check_count, check_points, expand_time, transformed
from latentflow.potentials.activation import Activation, ActivationRule, activation_rule, slope_bounds
from latentflow.potentials.algebra import Potential
from latentflow.potentials.bounds import layered_bound
from latentflow.potentials.layer_sum import LayerSum, add_up
from latentflow.potentials.time_embedding import TimeEmbedding


@dataclass(frozen=True)
class Layers:
    r"""The weights of a layered network.

    .. math::
        a_l = E_l z + V_l e(t) + W_l h_{l-1} + b_l, \qquad h_l = \sigma(a_l), \qquad u = w^\top h_L

    A residual network has :math:`h_l = h_{l-1} + \eta\,\sigma(a_l)` from its second layer on. Every tensor may lead
    with the same ``*stack`` dimensions, for as many networks side by side.

    Attributes:
        entries: The matrices :math:`E_l`, of shape ``(*stack, n_l, dim)``, or None; the first is never None.
        clocks: The matrices :math:`V_l`, of shape ``(*stack, n_l, features)``, or None; the first is never None.
        links: The matrices :math:`W_2, \dots, W_L`, of shape ``(*stack, n_l, n_{l-1})``.
        biases: The vectors :math:`b_l`, of shape ``(*stack, n_l)``.
        output: The vector ``w``, of shape ``(*stack, n_L)``.
        residual: The step :math:`\eta` of a residual network, or None.
    """

    entries: Sequence[Tensor | None]
    clocks: Sequence[Tensor | None]
    links: Sequence[Tensor]
    biases: Sequence[Tensor]
    output: Tensor
    residual: float | None = None

    def pre_activation(self, layer: int, z: Tensor, features: Tensor, h: Tensor | None) -> Tensor:
        """Compute :math:`a_l` of a layer, counted from zero, from the state ``h`` of the one before it.

        Args:
            layer: The number of the layer.
            z: The points, of shape ``(*stack, samples, dim)``.
            features: The features of the times, of shape ``(*stack, samples or 1, features)``.
            h: The state of the layer before, of shape ``(*stack, samples, n)``; None for the first.

        Returns:
            The pre-activation, of shape ``(*stack, samples, n_l)``.
        """
        entry, clock, bias = self.entries[layer], self.clocks[layer], self.biases[layer]
        if clock is not None and features.shape[:-1] != z.shape[:-1]:  # one time for all samples: a bias like the other
            bias = bias + affine(features, clock).squeeze(-2)
            clock = None
        inputs = [(z, entry), (features, clock), (h, None if layer == 0 else self.links[layer - 1])]
        given = [(x, weight) for x, weight in inputs if x is not None and weight is not None]
        total = affine(*given[0], bias)
        for x, weight in given[1:]:
            total = total + affine(x, weight)
        return total

    def advance(self, h: Tensor | None, own: Tensor) -> Tensor:
        """Compute the state of a layer from the state before it and the layer's own activation."""
        return own if h is None or self.residual is None else h + self.residual * own

    def states(self, z: Tensor, features: Tensor, rule: ActivationRule) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Run the network forward and give each layer's state with the derivatives of its own part.

        Args:
            z: The points, of shape ``(*stack, samples, dim)``.
            features: The features of the times, of shape ``(*stack, samples, features)``.
            rule: The activation with its derivatives.

        Returns:
            For each layer ``(h, gain, curvature)``; the last two are the derivatives of ``h`` in the pre-activation.
        """
        states: list[tuple[Tensor, Tensor, Tensor]] = []
        h = None
        for layer in range(len(self.biases)):
            own, gain, curvature = rule(self.pre_activation(layer, z, features, h))
            if self.residual is not None and layer > 0:
                gain, curvature = self.residual * gain, self.residual * curvature
            h = self.advance(h, own)
            states.append((h, gain, curvature))
        return states

    def adjoints(self, gains: Sequence[Tensor]) -> list[Tensor]:
        r"""Run the network backward and give :math:`\partial u / \partial h_l` of each layer."""
        adjoints = [self.output.unsqueeze(-2).expand_as(gains[-1])]
        for link, gain in zip(self.links[::-1], gains[:0:-1], strict=True):
            back = (adjoints[-1] * gain) @ link
            adjoints.append(back if self.residual is None else back + adjoints[-1])
        return adjoints[::-1]


def affine(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""Compute :math:`x W^\top + b` for one or many layers side by side.

    Args:
        x: The inputs, of shape ``(*stack, samples, n)``.
        weight: The matrix, of shape ``(*stack, m, n)``.
        bias: The vector, of shape ``(*stack, m)``, or None.

    Returns:
        The outputs, of shape ``(*stack, samples, m)``.
    """
    if weight.ndim == 2:
        return nn.functional.linear(x, weight, bias)
    if weight.ndim == 3 and x.ndim == 3:  # the general product below takes longer to find that out
        return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias.unsqueeze(-2), x, weight.mT)
    return x @ weight.mT if bias is None else x @ weight.mT + bias.unsqueeze(-2)


def layered_jet(
    layers: Layers, embedding: TimeEmbedding, rule: ActivationRule, z: Tensor, t: Tensor, request: JetRequest
) -> Jet:
    r"""Compute the jet of a layered network, or of several side by side.

    With :math:`\delta_l = \partial u / \partial h_l` from the backward sweep, the pull
    :math:`\pi_l = \delta_l \odot \sigma'(a_l)` and the curvature :math:`c_l = \delta_l \odot \sigma''(a_l)`,

    .. math::
        \nabla u = \sum_l E_l^\top \pi_l, \qquad \partial_t u = \sum_l \pi_l^\top V_l \dot e, \qquad
        \partial_t^2 u = \sum_l \pi_l^\top V_l \ddot e + \dot a_l^\top \operatorname{diag}(c_l)\, \dot a_l ,

    and the second derivatives in ``z`` are those of :class:`LayerSum`. The time is one more direction for it.

    Args:
        layers: The weights.
        embedding: The time embedding.
        rule: The activation with its derivatives.
        z: The points, of shape ``(*stack, samples, dim)``.
        t: The times, of shape ``(*stack, samples)``, or ``(*stack, 1)`` for one that all samples share.
        request: The second derivatives wanted; its probes are of shape ``(*stack, samples, probes, dim)``.

    Returns:
        The jet, every field of which leads with ``(*stack, samples)``.
    """
    features, features_dot = embedding.with_derivative(t)
    states = layers.states(z, features, rule)
    gains = [gain for _, gain, _ in states]
    adjoints = layers.adjoints(gains)
    pulls = [delta * gain for delta, gain in zip(adjoints, gains, strict=True)]
    value = (states[-1][0] @ layers.output.unsqueeze(-1)).squeeze(-1)
    gradient = add_up([pull @ E for pull, E in zip(pulls, layers.entries, strict=True) if E is not None])
    drives = [None if V is None else affine(features_dot, V) for V in layers.clocks]
    time_derivative = _along(pulls, drives)

    curvatures = [delta * curvature for delta, (_, _, curvature) in zip(adjoints, states, strict=True)]
    terms = LayerSum(layers.entries, layers.links, gains[:-1], curvatures, layers.residual is not None)
    laplacian = hessian = inner = quadratic = products = second_time = gradient_time = None
    if request.hessian:
        hessian = terms.hessian()
        laplacian = hessian.diagonal(dim1=-2, dim2=-1).sum(-1) if request.laplacian else None
    elif request.laplacian:
        laplacian = terms.laplacian()
    if request.inner_hessian:
        inner = InnerHessian(terms.core(), terms.first)
    if request.probes is not None:
        tangents = terms.tangents(terms.drives(request.probes))
        quadratic = terms.quadratic(tangents)
        products = terms.products(tangents) if request.products else None
    if request.second_time_derivative or request.gradient_time_derivative:
        tangents = terms.tangents([None if drive is None else drive.unsqueeze(-2) for drive in drives])
        if request.gradient_time_derivative:
            gradient_time = terms.products(tangents).squeeze(-2)
        if request.second_time_derivative:
            bend = embedding.second_derivative(t)
            bends = [None if V is None else affine(bend, V) for V in layers.clocks]
            second_time = terms.quadratic(tangents).squeeze(-1) + _along(pulls, bends)
    return Jet(
        value,
        gradient,
        time_derivative,
        laplacian,
        hessian,
        quadratic,
        products,
        second_time,
        gradient_time,
        inner,
    )


def _along(pulls: Sequence[Tensor], drives: Sequence[Tensor | None]) -> Tensor:
    return add_up([(pull * drive).sum(-1) for pull, drive in zip(pulls, drives, strict=True) if drive is not None])


class LayeredPotential(Potential):
    """A potential given by a layered network; a subclass says what its weights are.

    Args:
        dim: The number of coordinates.
        time_embedding: Features of time.
        activation: A smooth elementwise function.
        remainder: A potential to add to the network's, or None.

    Raises:
        ValueError: If ``dim`` is not positive, or the activation is piecewise linear.
    """

    def __init__(
        self, dim: int, time_embedding: TimeEmbedding, activation: Activation, remainder: Potential | None = None
    ) -> None:
        super().__init__()
        check_count("dim", dim)
        self.dim = dim
        activation_rule(activation)  # refuses what has no second derivative
        self.activation = activation
        self.embedding = time_embedding
        self.remainder = remainder

    @abstractmethod
    def layers(self) -> Layers:
        """Give the weights as they are now."""

    @property
    def rule(self) -> ActivationRule:
        """The activation with its first two derivatives."""
        return activation_rule(self.activation)

    @property
    def inner_width(self) -> int | None:
        """The number of directions that the Hessian acts in, see :attr:`Potential.inner_width`."""
        layers = self.layers()
        first, *rest = layers.entries
        own = None if first is None or any(entry is not None for entry in rest) else first.shape[-2]
        if own is None or self.remainder is None:
            return own
        more = self.remainder.inner_width
        return None if more is None else own + more

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the potential at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        check_points(z, self.dim)
        layers, features = self.layers(), self.embedding(expand_time(t, z))
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
        check_points(z, self.dim)
        batch = z.shape[:-1]
        samples = batch.numel()
        points, flat = z.reshape(samples, self.dim), request.reshape_probes(samples)
        shared = samples > 1 and not any(t.stride()) and not t.requires_grad and not transformed()
        times = t[(0,) * t.ndim].reshape(1) if shared else t.reshape(samples)  # a derivative is each sample's own
        jet = layered_jet(self.layers(), self.embedding, self.rule, points, times, flat)
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
    one, two = jet.inner_hessian, rest.inner_hessian
    if one is None or two is None:
        return total
    n, m = one.core.shape[-1], two.core.shape[-1]
    core = torch.cat([nn.functional.pad(one.core, (0, m)), nn.functional.pad(two.core, (n, 0))], dim=-2)
    return replace(total, inner_hessian=InnerHessian(core, torch.cat([one.factor, two.factor])))
