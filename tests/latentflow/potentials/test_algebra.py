"""Potentials form a vector space: sums, multiples, callables, the user's own classes."""

from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    Well,
    batches,
    close,
    dims,
    jet_of,
    jets_close,
    network,
    rand,
    randn,
    reference_jet,
    request_of,
    seeds,
    symmetric,
    wave,
)
from torch import nn

from latentflow import Derivative, FunctionPotential, Jet, Potential, QuadraticPotential, gradient, jet, laplacian
from latentflow.calculus import evaluate_jet
from latentflow.potentials import ScaledPotential, SumPotential


class Cubic(Potential):
    """A potential of the user's own, without a rule."""

    def forward(self, z, t):
        return z.pow(3).sum(-1) * t


class Eager(Potential):
    """A potential of the user's own whose rule returns more than it is asked for."""

    calls: ClassVar[list] = []

    def forward(self, z, t):
        return z.square().sum(-1)

    def jet_rule(self, z, t, request):
        self.calls.append(request)
        return jet_of(self(z, t), 2 * z, torch.zeros_like(t), laplacian=torch.full_like(t, 2 * z.shape[-1]))


def full_jet(u, z, t):
    probes = torch.stack([z.cos(), z.sin()], dim=-2)
    return evaluate_jet(u, z, t, request_of(laplacian=True, hessian=True, probes=probes))


@given(dims, batches, seeds, st.floats(-3, 3))
def test_every_field_of_the_jet_is_linear(dim, batch, seed, a):
    """Row 42; catches a term or factor that is lost in one field, a minus that misses the time derivative."""
    u, v = network(dim, seed=seed), QuadraticPotential(dim, symmetric(dim, seed), randn(dim, seed=seed))
    z, t = randn(*batch, dim, seed=seed), rand(*batch, seed=seed)
    ju, jv, jw = (full_jet(field, z, t) for field in (u, v, wave))
    cases = {
        u + v: Jet.combine(lambda p, q: p + q, ju, jv),
        u - v: Jet.combine(lambda p, q: p - q, ju, jv),
        -u: Jet.combine(lambda p: -p, ju),
        a * u: Jet.combine(lambda p: a * p, ju),
        u * a: Jet.combine(lambda p: a * p, ju),
        u / 4: Jet.combine(lambda p: p / 4, ju),
        u + wave: Jet.combine(lambda p, q: p + q, ju, jw),
        wave + u: Jet.combine(lambda p, q: p + q, ju, jw),
        u - wave: Jet.combine(lambda p, q: p - q, ju, jw),
        sum([u, v, u]): Jet.combine(lambda p, q: 2 * p + q, ju, jv),
        2 * (u - a * (v + wave)): Jet.combine(lambda p, q, r: 2 * (p - a * (q + r)), ju, jv, jw),
    }
    for composite, expected in cases.items():
        jets_close(full_jet(composite, z, t), expected)
        close(composite(z, t), expected.value)


@given(st.sampled_from([(), (1,), (5,), (2, 3), (0,)]), seeds)
def test_a_weight_of_each_sample(batch, seed):
    """Catches a weight that multiplies coordinates or columns in place of samples: both have size three here."""
    u, weight = network(3, seed=seed), randn(*batch, seed=seed)
    z, t = randn(*batch, 3, seed=seed), rand(*batch, seed=seed)
    plain = full_jet(u, z, t)
    for composite in (weight * u, u * weight):
        result = full_jet(composite, z, t)
        close(result.value, weight * plain.value)
        close(result.gradient, torch.einsum("...,...i->...i", weight, plain.gradient))
        close(result.hessian, torch.einsum("...,...ij->...ij", weight, plain.hessian))
        close(result.quadratic, torch.einsum("...,...p->...p", weight, plain.quadratic))
        close(result.time_derivative, weight * plain.time_derivative)
        close(composite(z, t), weight * plain.value)


def test_a_weight_follows_dtype_and_is_trained_if_it_is_a_parameter():
    """Catches a parameter stored as a constant, a constant stored as a parameter, and a weight left behind by .to."""
    weight = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    well = FunctionPotential(Well())
    u = weight * well
    assert any(parameter is weight for parameter in u.parameters())
    laplacian(u, randn(4, 3), 0.5).sum().backward()
    close(weight.grad, laplacian(well, randn(4, 3), 0.5).sum())
    constant = torch.ones(4) * well
    assert [name for name, _ in constant.named_parameters()] == ["potential.function.depth"]
    assert constant.double().weight.dtype == torch.float64


def test_a_weight_that_was_computed_passes_its_gradient_on():
    """Catches a detached or copied weight, as an encoder's would be."""
    weight = randn(4).requires_grad_()
    z = randn(4, 3)
    gradient(weight.exp() * QuadraticPotential(3, torch.eye(3).double()), z, 0.0).sum().backward()
    close(weight.grad, weight.detach().exp() * z.sum(-1))


def test_composites_own_the_parameters_of_their_terms():
    """Catches a module wrapped in a closure, whose parameters an optimizer would miss, and a copy of them."""
    u, v, w = network(2), Well(), Cubic()
    composite = (u + v) - 2 * w + FunctionPotential(Well())
    owned = {id(parameter) for parameter in composite.parameters()}
    assert {id(parameter) for parameter in (*u.parameters(), *v.parameters())} <= owned
    assert len(owned) == len(list(u.parameters())) + 2


@given(dims, batches, seeds)
def test_a_class_of_the_users_own_is_differentiated(dim, batch, seed):
    """Catches a default rule that calls itself, or a callable wrapped with a wrong time."""
    z, t = randn(*batch, dim, seed=seed), rand(*batch, seed=seed)
    probes = torch.stack([z.cos(), z.sin()], dim=-2)
    for u in (Cubic(), FunctionPotential(wave), FunctionPotential(Well())):
        jets_close(full_jet(u, z, t), reference_jet(u, z, t, probes))


def test_a_rule_of_the_users_own_is_used():
    """Catches autodiff where the field knows its derivatives, also inside sums and multiples."""
    Eager.calls.clear()
    z = randn(4, 3)
    close(laplacian(2 * Eager() + Cubic(), z, 1.0), 12 + 6 * z.sum(-1))
    assert [request.derivatives for request in Eager.calls] == [Derivative.LAPLACIAN]


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_rule_may_return_more_than_it_is_asked_for(order):
    """Catches a sum that adds a Laplacian to None, depending on the order of its terms."""
    u = Eager() + Cubic() if order == "first" else Cubic() + Eager()
    z = randn(4, 3)
    close(gradient(u, z, 1.0), 2 * z + 3 * z.square())


def test_function_potentials_check_their_dimension():
    """Catches a function that reduces over a wrong number of coordinates without a word."""
    u = FunctionPotential(wave, dim=3)
    close(u(randn(4, 3), 0.5), wave(randn(4, 3), torch.tensor(0.5, dtype=torch.float64)))
    for call in (lambda z: u(z, torch.tensor(0.0)), lambda z: jet(u, z, 0.0)):
        with pytest.raises(ValueError, match=r"z: expected shape \(\*batch, 3\), got \(4, 2\)"):
            call(randn(4, 2))
    with pytest.raises(TypeError, match=r"function: expected a callable u\(z, t\), got -?1.0"):
        FunctionPotential(1.0)


@pytest.mark.parametrize(
    "expression",
    [
        lambda u: u + 1,
        lambda u: 1 + u,
        lambda u: u - 1,
        lambda u: u * "2",
        lambda u: u * u,
        lambda u: 1 / u,
        lambda u: u + torch.ones(2),
    ],
)
def test_what_is_no_vector_space_operation_is_refused(expression):
    """Catches a constant or a product that would be taken for a potential or a weight."""
    with pytest.raises(TypeError, match=r"unsupported operand|can't multiply|must be"):
        expression(Cubic())


def test_a_potential_needs_a_value_and_a_sum_needs_a_term():
    """Catches an abstract class that can be built, and an empty sum."""
    with pytest.raises(TypeError, match="abstract"):
        Potential()
    with pytest.raises(ValueError, match="terms: expected at least one potential, got none"):
        SumPotential([])


def test_a_callable_can_be_scaled():
    """Catches a multiple that drops the rule of its field or the time of a callable."""
    z, t = randn(4, 3), rand(4)
    jets_close(full_jet(ScaledPotential(wave, -1.5), z, t), full_jet(wave, z, t).scale(-1.5))


def test_a_callable_minus_a_potential():
    """Catches a reflected difference that is missing or has the wrong sign."""
    u = FunctionPotential(lambda z, t: 3 * z.sum(-1))
    difference = (lambda z, t: z.sum(-1)) - u
    torch.testing.assert_close(gradient(difference, torch.zeros(4, 2), 0.0), torch.full((4, 2), -2.0))


def test_a_weight_larger_than_the_batch_is_refused():
    """Catches one point that silently becomes four."""
    u = torch.ones(4) * FunctionPotential(lambda z, t: z.sum(-1))
    for evaluate in (u, lambda z, t: gradient(u, z, t)):
        with pytest.raises(ValueError, match=r"weight: expected .* broadcasts to \(\), got \(4,\)"):
            evaluate(torch.zeros(3), torch.tensor(0.0))
