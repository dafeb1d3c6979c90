"""The contract check passes what keeps the contract, and catches wrong derivatives where they are."""

import copy
from dataclasses import replace

import pytest
import torch
from ripple import Ripple, altered
from strategies import Well, network, rand, symmetric, wave
from torch import nn

from latentflow import Derivative, FunctionPotential, MLPPotential, PotentialBank, QuadraticPotential, SwitchedPotential
from latentflow.testing import check_potential
from latentflow.testing.cases import Case

GOOD = {
    "ripple": Ripple(),
    "network": network(3),
    "float32 network": MLPPotential(3),
    "gelu": network(3, activation=nn.functional.gelu),
    "quadratic": QuadraticPotential(3, symmetric(3)),
    "function": wave,
    "module": Well(),
    "sum": network(3) + wave,
    "scaled": -0.3 * network(3),
    "weights of each sample": rand(4) * network(3),
    "mixed": PotentialBank([network(3), QuadraticPotential(3, symmetric(3))]).mix(rand(4, 2)),
    "selected": PotentialBank([network(3), network(3, seed=9)]).select(torch.tensor([0, 1, 1, 0])),
    "switched": SwitchedPotential([network(3), QuadraticPotential(3, symmetric(3))], [0.5], clock="restart"),
    "constant": FunctionPotential(lambda z, t: torch.ones_like(t)),
    "linear": FunctionPotential(lambda z, t: z.sum(-1)),
}


@pytest.mark.parametrize("u", GOOD.values(), ids=GOOD.keys())
def test_sound_potentials_pass(u):
    """Catches a false alarm, the worst that a check can do."""
    check_potential(u, dim=3)


@pytest.mark.parametrize("batch", [(2,), (3, 2), (1, 4, 1)])
def test_any_batch_shape_passes(batch):
    """Catches a check that counts samples along the first dimension only."""
    check_potential(Ripple(), dim=3, batch=batch, seed=5)


def test_single_precision_passes():
    """Catches a tolerance made for float64 only."""
    check_potential(Ripple(), dim=3, dtype=torch.float32)


def test_the_potential_itself_is_left_alone():
    """Catches a check that converts or trains the user's module: dtype, gradients and mode stay."""
    u = Ripple().eval()
    before = copy.deepcopy(u.state_dict())
    check_potential(u, dim=3)
    assert all(
        torch.equal(before[name], now) and before[name].dtype == now.dtype for name, now in u.state_dict().items()
    )
    assert all(p.grad is None for p in u.parameters())
    assert not u.training


@pytest.mark.parametrize(
    ("field", "change", "request_name"),
    [
        ("value", lambda j: j.value + 0.01, "value, gradient and time derivative only"),
        ("gradient", lambda j: 1.001 * j.gradient, "value, gradient and time derivative only"),
        ("time_derivative", lambda j: -j.time_derivative, "value, gradient and time derivative only"),
        ("laplacian", lambda j: j.laplacian / 3, "laplacian"),
        ("hessian", lambda j: -j.hessian, "hessian"),
        ("quadratic", lambda j: j.quadratic / 2, "quadratic"),
        ("products", lambda j: j.products.flip(-1), "products"),
        ("second_time_derivative", lambda j: j.second_time_derivative / 1.5, "second_time_derivative"),
        ("gradient_time_derivative", lambda j: 0 * j.gradient_time_derivative, "gradient_time_derivative"),
        ("inner_hessian", lambda j: replace(j.inner_hessian, core=2 * j.inner_hessian.core), "inner_hessian"),
    ],
)
def test_a_wrong_field_is_named_with_its_request(field, change, request_name):
    """Catches a field that the check does not look at: sign, factor, missing sigma'', other order of coordinates."""
    message = (
        rf"^{field}, request of {request_name}: expected what automatic differentiation .* at index \(.*got .*error"
    )
    with pytest.raises(AssertionError, match=message):
        check_potential(altered(**{field: change}), dim=3)


def test_the_worst_entry_is_reported():
    """Catches a message that shows some other entry than the worst, or its value as the expected one."""

    class OneEntry(Ripple):
        def jet_rule(self, z, t, request):
            jet = super().jet_rule(z, t, request)
            spoilt = torch.zeros_like(jet.gradient)
            spoilt.reshape(-1, 3)[-1, 1] = 100.0
            return replace(jet, gradient=jet.gradient + spoilt)

    with pytest.raises(AssertionError, match=r"^gradient, .* at index \(3, 1\), got (99|100)\S*; .* error is 1e\+02$"):
        check_potential(OneEntry(), dim=3)


def test_a_bug_on_one_path_only():
    """Catches a check that asks for everything at once: the Laplacian is wrong only where no Hessian is asked for."""

    class Shortcut(Ripple):
        def jet_rule(self, z, t, request):
            jet = super().jet_rule(z, t, request)
            wrong = request.derivatives == Derivative.LAPLACIAN | Derivative.QUADRATIC
            return jet.including(Derivative.LAPLACIAN, -jet.laplacian) if wrong else jet

    with pytest.raises(AssertionError, match=r"^laplacian, request of laplacian, quadratic: expected what automatic"):
        check_potential(Shortcut(), dim=3)


@pytest.mark.parametrize(
    "name",
    ["laplacian", "hessian", "quadratic", "products", "second_time_derivative", "gradient_time_derivative"],
)
def test_a_field_that_is_not_answered(name):
    """Catches a None that shows up in training only."""
    with pytest.raises(
        AssertionError, match=rf"^jet_rule, .*expected its jet_rule to return the {name} that was requested"
    ):
        check_potential(altered(**{name: lambda jet: None}), dim=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"laplacian": lambda j: j.laplacian.detach()}, r"^gradient of laplacian in z, request of laplacian"),
        ({"gradient": lambda j: j.gradient.detach()}, r"^gradient of gradient in z, request of value"),
        (
            {"hessian": lambda j: j.hessian + (j.time_derivative - j.time_derivative.detach())[..., None, None]},
            r"^gradient of hessian in z",
        ),
    ],
)
def test_a_graph_that_is_cut(changes, message):
    """Catches right numbers with wrong gradients, on which training goes astray."""
    with pytest.raises(AssertionError, match=message):
        check_potential(altered(**changes), dim=3)


def test_a_parameter_without_its_gradient():
    """Catches a detached parameter: the numbers and the gradients in the inputs are right, and it is named."""

    class Frozen(Ripple):
        def jet_rule(self, z, t, request):
            other = copy.copy(self)
            other._parameters = {**self._parameters, "height": self.height.detach()}
            return Ripple.jet_rule(other, z, t, request)

    with pytest.raises(AssertionError, match=r"^gradient of value in parameter height, request of value"):
        check_potential(Frozen(), dim=3)


def test_the_tolerance_counts():
    """Catches a tolerance that is ignored: an error of 1e-5 passes at 1e-3 only."""
    u = altered(gradient=lambda jet: jet.gradient + 1e-5)
    check_potential(u, dim=3, tolerance=1e-3)
    with pytest.raises(AssertionError, match="the largest error is 1e-05"):
        check_potential(u, dim=3)


def test_the_requests_cover_every_flag():
    """Catches a new kind of request that the check does not put."""
    case = Case.draw(Ripple(), 3, (4,), 0, torch.float64, None)
    assert set(case.everything.derivatives) == set(Derivative)
    assert set(Derivative) <= {request.derivatives for request in case.requests()}


def test_one_sample_is_refused():
    """Catches a check that cannot see whether samples couple and says nothing."""
    with pytest.raises(ValueError, match=r"batch: expected a shape of at least two samples, got \(1,\)"):
        check_potential(Ripple(), dim=3, batch=(1,))
