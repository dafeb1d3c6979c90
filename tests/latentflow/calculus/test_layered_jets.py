"""Every field of a network's jet against reverse over reverse mode, for every shape of network and both traces."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    ALL_FIELDS,
    BATCHES,
    all_fields_close,
    batches,
    close,
    dims,
    full_reference_jet,
    full_request,
    held,
    network,
    opaque,
    rand,
    randn,
    request_of,
    seeds,
    wave,
)
from torch import nn

from latentflow import Derivative, QuadraticPotential, laplacian
from latentflow.calculus import JetRequest, evaluate_jet
from latentflow.potentials import FourierEmbedding, SinusoidalEmbedding
from latentflow.potentials.features import TimeEmbedding, activation_rule
from latentflow.potentials.layered import LayeredPotential, Layers, LayerSum, layered_jet

widths = st.lists(st.integers(1, 9), min_size=1, max_size=4)


class Powers(TimeEmbedding):
    """Features without derivatives of their own, so that the base class differentiates them."""

    def __init__(self):
        super().__init__(3)

    def forward(self, t):
        return torch.stack([t, t.square() / 2, t.pow(3).sin()], dim=-1)


class Everywhere(LayeredPotential):
    """A network whose point and time enter every layer that ``entering`` names; residual where the widths are equal."""

    def __init__(self, dim, hidden, seed, residual=None, entering=(True, True, True), embedding=None):
        super().__init__(dim, embedding or Powers(), torch.tanh)
        self.residual = residual
        features = self.embedding.features

        def weight(offset, *shape):
            return nn.Parameter(randn(*shape, seed=seed + offset) / shape[-1] ** 0.5)

        pairs = list(enumerate(zip(hidden, entering, strict=False)))
        self.input_weights = nn.ParameterList([weight(i, n, dim) for i, (n, enters) in pairs if enters or i == 0])
        self.time_weights = nn.ParameterList(
            [weight(10 + i, n, features) for i, (n, enters) in pairs if enters or i == 0]
        )
        self.enters = [i == 0 or enters for i, (_, enters) in pairs]
        self.hidden_weights = nn.ParameterList(weight(20 + i, m, n) for i, (n, m) in enumerate(pairwise(hidden)))
        self.biases = nn.ParameterList(weight(30 + i, n) for i, n in enumerate(hidden))
        self.output = weight(40, hidden[-1])

    def layers(self):
        entries, clocks = iter(self.input_weights), iter(self.time_weights)
        return Layers(
            [next(entries) if enters else None for enters in self.enters],
            [next(clocks) if enters else None for enters in self.enters],
            list(self.hidden_weights),
            list(self.biases),
            self.output,
            self.residual,
        )


@settings(max_examples=40)
@given(dims, widths, batches, seeds, st.sampled_from([SinusoidalEmbedding(4), Powers()]))
def test_every_field_of_a_network(dim, hidden, batch, seed, embedding):
    """Catches a layer left out of one of the sums, a time tangent that skips a layer, and samples mixed up."""
    u = network(dim, hidden, seed, embedding=embedding)
    z, t, v = randn(*batch, dim, seed=seed), 2 * rand(*batch, seed=seed + 1), randn(*batch, 2, dim, seed=seed + 2)
    expected = full_reference_jet(u, z, t, v)
    all_fields_close(evaluate_jet(u, z, t, full_request(v)), expected)
    all_fields_close(evaluate_jet(opaque(u), z, t, full_request(v)), expected)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("u", [network(3, (4, 5)), network(3, (4, 5), embedding=Powers()), opaque(network(3)), wave])
def test_every_field_at_a_shared_time(u, batch):
    """Catches a time derivative that is added over samples which share their time, or refused for them."""
    z, v, full = randn(*batch, 3), randn(*batch, 2, 3, seed=1), torch.full(batch, 0.6, dtype=torch.float64)
    expected = full_reference_jet(u, z, full, v)
    for t in (0.6, torch.tensor(0.6, dtype=torch.float64), full):
        all_fields_close(evaluate_jet(u, z, t, full_request(v)), expected)


@settings(max_examples=20)
@given(dims, widths, batches, seeds)
def test_both_ways_to_the_trace(dim, hidden, batch, seed):
    """Catches a wrong way that the choice by cost hides: each on wide and on narrow networks of one to four layers."""
    u = network(dim, hidden, seed)
    z, t = randn(*batch, dim, seed=seed), rand(*batch, seed=seed)
    expected = full_reference_jet(u, z, t, randn(*batch, 1, dim)).laplacian
    ways = [LayerSum._laplacian_by_directions, LayerSum._laplacian_by_gram]
    for way in ways[: len(hidden)]:  # one layer has one way only
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LayerSum, "laplacian", way)
            close(laplacian(u, z, t), expected)


@pytest.mark.parametrize(
    ("dim", "hidden", "way"),
    [
        (9, (4, 5), "gram"),
        (9, (3, 4, 4), "gram"),
        (2, (9, 9), "directions"),
        (2, (9, 9, 9), "directions"),
        (9, (4,), "directions"),
    ],
)
def test_the_cheaper_way_is_taken(dim, hidden, way, monkeypatch):
    """Catches a comparison of width and dim that is the wrong way round: a cost that grows with dim for no reason."""
    other = {"gram": "directions", "directions": "gram"}[way]

    def refuse(self):
        raise AssertionError(f"took the way by {other}")

    monkeypatch.setattr(LayerSum, f"_laplacian_by_{other}", refuse)
    u, z = network(dim, hidden), randn(3, dim)
    close(laplacian(u, z, 0.4), full_reference_jet(u, z, 0.4, randn(3, 1, dim)).laplacian)


@settings(max_examples=30)
@given(
    dims,
    st.integers(1, 4),
    st.integers(1, 6),
    batches,
    seeds,
    st.sampled_from([None, 0.5]),
    st.tuples(*3 * [st.booleans()]),
)
def test_points_and_times_that_enter_any_layer(dim, depth, width, batch, seed, residual, entering):
    """Catches a skip connection or a residual link that one of the derivatives forgets."""
    u = Everywhere(dim, depth * [width], seed, residual, (True, *entering))
    z, t, v = randn(*batch, dim, seed=seed), rand(*batch, seed=seed + 1), randn(*batch, 2, dim, seed=seed + 2)
    expected = full_reference_jet(u, z, t, v)
    all_fields_close(evaluate_jet(u, z, t, full_request(v)), expected)
    close(laplacian(u, z, t), expected.laplacian)
    ways = [LayerSum._laplacian_by_directions]
    if not any(entering[: depth - 1]):
        assert u.inner_width == width
        ways += [LayerSum._laplacian_by_gram] if depth > 1 else []
    else:
        assert u.inner_width is None
    for way in ways:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LayerSum, "laplacian", way)
            close(laplacian(u, z, t), expected.laplacian)


@pytest.mark.parametrize("dim", [2, 7])
@pytest.mark.parametrize("hidden", [(5,), (4, 5), (4, 4, 4)])
@pytest.mark.parametrize("residual", [None, 0.5])
@pytest.mark.parametrize("kind", ["full", "laplacian", "inner"])
@pytest.mark.parametrize("enters", [False, True])
def test_networks_side_by_side(dim, hidden, residual, kind, enters):
    """Catches a product that mixes the networks of a stack, seen where there are as many networks as samples."""
    if kind == "inner" and enters:
        return  # there is no factor that all layers share
    if residual is not None:
        hidden = len(hidden) * [4]
    embedding = FourierEmbedding(4, generator=torch.Generator().manual_seed(1)).double()
    us = [Everywhere(dim, hidden, 7 * seed, residual, (True, enters, enters), embedding) for seed in range(3)]
    parts = [u.layers() for u in us]

    def stacked(pick):
        return [None if column[0] is None else torch.stack(column) for column in zip(*map(pick, parts), strict=True)]

    layers = Layers(
        stacked(lambda part: part.input_weights),
        stacked(lambda part: part.time_weights),
        stacked(lambda part: part.hidden_weights),
        stacked(lambda part: part.biases),
        torch.stack([part.output for part in parts]),
        residual,
    )
    z, t, v = randn(3, 3, dim), rand(3, 3), randn(3, 3, 2, dim, seed=1)
    rule = activation_rule(torch.tanh)
    request = {
        "full": full_request(v),
        "laplacian": request_of(laplacian=True),
        "inner": request_of(inner_hessian=True),
    }[kind]
    together = layered_jet(layers, embedding, rule, z, t, request)
    for i, u in enumerate(us):
        own = request if request.probes is None else replace(request, probes=v[i])
        alone = evaluate_jet(u, z[i], t[i], own)
        for name in ALL_FIELDS:
            if held(alone, name) is not None:
                close(held(together, name)[i], held(alone, name))
        if kind == "inner":
            close(together.inner_hessian.core[i], alone.inner_hessian.core)
            close(together.inner_hessian.factor[i], alone.inner_hessian.factor)


@given(dims, widths, batches, seeds, st.sampled_from([1.0, -0.3]))
def test_hessian_in_factors(dim, hidden, batch, seed, weight):
    """Catches a core of the wrong layer, a weight applied twice, and a factor that is transposed: Sylvester's rule."""
    u = network(dim, hidden, seed)
    z, t = randn(*batch, dim, seed=seed), rand(*batch, seed=seed)
    inner = evaluate_jet(weight * u, z, t, request_of(inner_hessian=True)).inner_hessian
    H = weight * full_reference_jet(u, z, t, randn(*batch, 1, dim)).hessian
    C, F = inner.core, inner.factor
    assert C.shape == (*batch, u.inner_width, u.inner_width)
    assert F.shape == (u.inner_width, dim)
    close(F.mT @ C @ F, H)
    close(C, C.mT)
    for h in (1.0, -0.5):
        left, right = torch.eye(dim).to(H) + h * H, torch.eye(len(F)).to(H) + h * C @ F @ F.mT
        close(torch.linalg.det(left), torch.linalg.det(right), tolerance=1e-9)


def test_factors_are_lost_in_a_sum_and_without_a_rule():
    """Catches cores that are added although their factors differ."""
    u, z = network(3, seed=1), randn(4, 3)
    request = request_of(inner_hessian=True)
    for field in (u + network(3, seed=2), u + u, opaque(u), u + QuadraticPotential(3).double()):
        with pytest.raises(ValueError, match="expected its jet_rule to return the inner_hessian"):
            evaluate_jet(field, z, 0.0, request)


@settings(max_examples=10)
@given(dims, widths, seeds)
def test_every_request_alone_gives_the_same_numbers(dim, hidden, seed):
    """Catches a field that depends on which others were asked for, and one that comes unasked."""
    u, z, t, v = (
        network(dim, hidden, seed),
        randn(3, dim, seed=seed),
        rand(3, seed=seed),
        randn(3, 2, dim, seed=seed + 1),
    )
    alone = {
        "laplacian": request_of(laplacian=True),
        "hessian": request_of(hessian=True),
        "quadratic": request_of(probes=v),
        "products": JetRequest(Derivative.PRODUCTS, v),
        "second_time_derivative": request_of(second_time_derivative=True),
        "gradient_time_derivative": request_of(gradient_time_derivative=True),
    }
    for field in (u, opaque(u), 2 * u + wave):
        whole = evaluate_jet(field, z, t, full_request(v))
        for name, request in alone.items():
            result = evaluate_jet(field, z, t, request)
            close(getattr(result, name), getattr(whole, name))
            close(result.gradient, whole.gradient)
            assert result.derivatives == Derivative[name.upper()]


@pytest.mark.parametrize("batch", [(3,), (), (0,), (2, 3)])
@pytest.mark.parametrize("u", [network(3), opaque(network(3)), QuadraticPotential(3).double(), network(3) + wave])
def test_no_directions_at_all(u, batch):
    """Catches a reshape that cannot tell the size of an empty stack of directions."""
    v = torch.zeros(*batch, 0, 3, dtype=torch.float64)
    result = evaluate_jet(u, randn(*batch, 3), 0.3, request_of(probes=v, products=True))
    assert result.quadratic.shape == (*batch, 0)
    assert result.products.shape == (*batch, 0, 3)


def test_products_need_probes():
    """Catches a request that is silently unanswered."""
    with pytest.raises(ValueError, match="probes: expected a tensor for products, got None"):
        JetRequest(Derivative.PRODUCTS)
    with pytest.raises(ValueError, match="derivatives: expected QUADRATIC or PRODUCTS with probes, got laplacian"):
        JetRequest(Derivative.LAPLACIAN, torch.ones(2, 1, 3))
