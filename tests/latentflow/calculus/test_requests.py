"""What a jet is asked for and what it answers."""

import pytest
import torch
from strategies import randn

from latentflow import Derivative, Exact, FunctionPotential, Jet, jet
from latentflow.calculus import InnerHessian, JetRequest, evaluate_jet

Z = randn(4, 3, seed=0)
T = randn(4, seed=1)
SECOND = [
    Derivative.LAPLACIAN,
    Derivative.HESSIAN,
    Derivative.SECOND_TIME_DERIVATIVE,
    Derivative.GRADIENT_TIME_DERIVATIVE,
]


def wave(z, t):
    return (z.square().sum(-1) * z[..., 0] + z[..., 1]) * t.sin()


def plain(**options):
    return Jet(randn(4, seed=2), randn(4, 3, seed=3), randn(4, seed=4), **options)


@pytest.mark.parametrize("derivative", [*Derivative])
def test_what_was_not_requested_cannot_be_read(derivative):
    """Catches a missing derivative that is read as None or zero, and a message that names another one."""
    with pytest.raises(
        ValueError, match=rf"^{derivative.names} was not requested: name Derivative\.{derivative.name} "
    ):
        getattr(plain(), derivative.names)


@pytest.mark.parametrize("derivative", SECOND)
def test_what_is_required_is_there_and_nothing_else(derivative):
    """Catches a second derivative that is computed unasked, or not at all."""
    found = evaluate_jet(wave, Z, T, JetRequest(derivative))
    assert found.derivatives == derivative
    assert jet(wave, Z, T, requires=derivative).derivatives == derivative | Derivative.LAPLACIAN


def test_a_call_keeps_what_the_estimator_requests():
    """Catches requires that replaces the request of an estimator: the Hessian of this one would be lost."""

    class FromHessian:
        stochastic = False

        def request(self, u, z, t):
            return JetRequest(Derivative.HESSIAN)

        def laplacian(self, jet):
            return jet.hessian.diagonal(dim1=-2, dim2=-1).sum(-1)

        def fixed(self, z):
            return self

    found = jet(wave, Z, T, FromHessian(), requires=Derivative.SECOND_TIME_DERIVATIVE)
    exact = jet(wave, Z, T, Exact(), requires=Derivative.HESSIAN | Derivative.SECOND_TIME_DERIVATIVE)
    torch.testing.assert_close(found.laplacian, exact.laplacian)
    torch.testing.assert_close(found.second_time_derivative, -wave(Z, T))
    torch.testing.assert_close(found.hessian, exact.hessian)


def test_only_what_was_requested_is_computed():
    """Catches a rule that pays for everything that it knows."""
    called = []

    def record(name, shape):
        return lambda *_: called.append(name) or torch.zeros(shape)

    offered = {
        "laplacian": record("laplacian", 4),
        "hessian": record("hessian", (4, 3, 3)),
        "second_time_derivative": record("second_time_derivative", 4),
        "gradient_time_derivative": record("gradient_time_derivative", (4, 3)),
        "inner_hessian": lambda: (
            called.append("inner_hessian") or InnerHessian(torch.zeros(4, 2, 2), torch.zeros(2, 3))
        ),
    }
    value, gradient = torch.zeros(4), torch.zeros(4, 3)
    for derivative in (*SECOND, Derivative.INNER_HESSIAN):
        called.clear()
        answered = Jet.answer(JetRequest(derivative), value, gradient, value, **offered)
        assert called == [derivative.names]
        assert answered.derivatives == derivative
    called.clear()
    Jet.answer(JetRequest(Derivative.HESSIAN | Derivative.LAPLACIAN), value, gradient, value, **offered)
    assert called == ["hessian"]  # its trace is the other


def test_an_answer_that_leaves_something_out_is_named():
    """Catches a rule whose omission is found later, as a derivative that nobody requested."""

    class Lazy(FunctionPotential):
        def jet_rule(self, z, t, request):
            return Jet(wave(z, t), torch.zeros_like(z), torch.zeros_like(t))

    assert evaluate_jet(Lazy(wave), Z, T, JetRequest()).value.shape == (4,)
    with pytest.raises(
        ValueError, match=r"^u: expected its jet_rule to return the laplacian, hessian that was requested"
    ):
        evaluate_jet(Lazy(wave), Z, T, JetRequest(Derivative.LAPLACIAN | Derivative.HESSIAN))
    with pytest.raises(ValueError, match=r"^u: expected its jet_rule to return the second_time_derivative"):
        Jet.answer(JetRequest(Derivative.SECOND_TIME_DERIVATIVE), T, Z, T, hessian=lambda: torch.zeros(4, 3, 3))


@pytest.mark.parametrize("requires", ["laplacian", {"hessian"}, None, 3])
def test_names_are_members(requires):
    """Catches a string or a set of them, which tested for membership would say no and compute nothing."""
    with pytest.raises(TypeError, match=r"^requires: expected members of Derivative, got "):
        jet(wave, Z, T, requires=requires)


@pytest.mark.parametrize("requires", [Derivative.QUADRATIC, Derivative.PRODUCTS, Derivative.INNER_HESSIAN])
def test_what_needs_more_than_a_name(requires):
    """Catches a requirement that nobody can meet without probes or factors."""
    with pytest.raises(ValueError, match=r"^requires: expected out of laplacian, hessian, "):
        jet(wave, Z, T, requires=requires)


@pytest.mark.parametrize(
    "arguments",
    [(Derivative.QUADRATIC,), (Derivative.PRODUCTS | Derivative.HESSIAN,), (Derivative.HESSIAN, Z[:, None])],
)
def test_probes_belong_to_a_request_for_them(arguments):
    """Catches probes that are ignored, and products without directions."""
    with pytest.raises(ValueError, match=r"^(probes|derivatives): expected"):
        JetRequest(*arguments)
