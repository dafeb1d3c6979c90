"""The training step under torch.compile, as one graph: the same numbers and the same gradients as without it."""

import pytest
import torch
from strategies import close, network, rand, randn, request_of, symmetric, wave

from latentflow import (
    HJResidual,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
    SlogDet,
    gradient,
    hessian,
    laplacian,
)
from latentflow.calculus import (
    FixedProbes,
    HutchPlusPlus,
    evaluate_jet,
    gradient_time_derivative,
    hessian_vector_product,
    second_time_derivative,
)
from latentflow.flow import FirstOrder

RESIDUAL, SURROGATE, EXACT = HJResidual(), FirstOrder(), SlogDet()


@pytest.fixture(autouse=True)
def fresh_compiler():
    """Each test compiles anew; the compiler keeps what it has seen for the whole process."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def equation(u, z, t):
    """A residual on points and a Laplacian."""
    return RESIDUAL.loss(u, (z, t)) + laplacian(u, z, t).square().mean()


def training_step(u, z, t):
    """The same, and the volume of a step by the surrogate and exactly."""
    flow = PotentialFlow(u)
    surrogate, exact = (flow.step(z, t, 0.1, volume).determinant.log_det for volume in (SURROGATE, EXACT))
    return equation(u, z, t) + surrogate.mean() + exact.mean()


def compiled_equals_eager(u, function, z, t, backend="aot_eager", tolerance=1e-12, fullgraph=True):
    """Compare value and gradients of a compiled function with the plain ones; a graph break is an error."""
    inputs = [z.requires_grad_(), *u.parameters()]
    eager = function(u, z, t)
    expected = torch.autograd.grad(eager, inputs, allow_unused=True, materialize_grads=True)
    result = torch.compile(lambda z, t: function(u, z, t), backend=backend, fullgraph=fullgraph)(z, t)
    close(result, eager, tolerance)
    actual = torch.autograd.grad(result, inputs, allow_unused=True, materialize_grads=True)
    for own, other in zip(actual, expected, strict=True):
        close(own, other, tolerance)


@pytest.mark.parametrize(("dim", "hidden"), [(3, (5,)), (3, (5, 4)), (7, (2, 3, 2))])
def test_a_training_step(dim, hidden):
    """Catches a data-dependent branch, and a custom derivative that the compiler traces to other numbers."""
    compiled_equals_eager(network(dim, hidden), training_step, randn(5, dim), rand(5))


BANK = PotentialBank([network(3, (4,), seed=1), network(3, (4,), seed=2)])
OTHERS = {
    "activation without closed form": network(3, (4,), activation=torch.nn.functional.gelu),
    "sum with a callable": network(3, (4,), seed=1) - 2 * QuadraticPotential(3, symmetric(3)) + wave,
    "mixed": BANK.mix(rand(2)),
    "selected by a number": BANK.select(1),
}


@pytest.mark.parametrize("u", OTHERS.values(), ids=OTHERS.keys())
def test_other_potentials(u):
    """Catches a rule of an algebra or a bank that cannot be traced as one graph."""
    compiled_equals_eager(u, equation, randn(5, 3), rand(5))


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # the compiler's own
def test_an_index_of_each_sample():
    """Catches groups of samples that are taken from another batch: how many there are of each breaks the graph."""
    u = BANK.select(torch.tensor([0, 1, 1, 0, 1]))
    compiled_equals_eager(u, lambda u, z, t: laplacian(u, z, t).sum(), randn(5, 3), rand(5), fullgraph=False)


def test_other_operators():
    """Catches an operator that only the eager mode can run: time derivatives, products, factors, a shared time."""

    def operators(u, z, t):
        change = gradient_time_derivative(u, z, 0.3) + hessian_vector_product(u, z, t, z)
        inner = evaluate_jet(u, z, t, request_of(inner_hessian=True)).inner_hessian
        forms = laplacian(u, z, t[0], FixedProbes(z.cos().unsqueeze(-2)))
        total = second_time_derivative(u, z, t) + forms + change.square().sum(-1)
        return total.sum() + (inner.core @ (inner.factor @ inner.factor.mT)).square().sum()

    compiled_equals_eager(network(7, (3, 4)), operators, randn(5, 7), rand(5))


def test_objects_made_inside():
    """Catches a default of a frozen class that the compiler cannot make: a volume written where it is used."""

    def step(u, z, t):
        first = PotentialFlow(u).step(z, t, 0.1, FirstOrder()).determinant.log_det
        return (first + PotentialFlow(u).step(z, t, 0.1, SlogDet()).determinant.log_det).sum()

    compiled_equals_eager(network(3), step, randn(5, 3), rand(5))


def test_hutch_plus_plus_with_given_noise():
    """Catches a subspace that the compiler differentiates through."""
    z = randn(5, 4)
    noise = HutchPlusPlus(6, "gaussian", torch.Generator().manual_seed(0)).fixed(z)
    compiled_equals_eager(network(4), lambda u, z, t: laplacian(u, z, t, noise).sum(), z, rand(5), tolerance=1e-9)


def test_another_number_of_points():
    """Catches a graph that keeps the size of its first batch: the last batch of an epoch is smaller."""
    u = network(4, (3, 5))
    compiled = torch.compile(lambda z, t: equation(u, z, t), backend="aot_eager", fullgraph=True)
    for size in (5, 3):
        z, t = randn(size, 4, seed=size), rand(size, seed=size)
        close(compiled(z, t), equation(u, z, t), 1e-12)


@pytest.mark.filterwarnings("ignore:.*torch._prims_common.check.*:FutureWarning")  # the compiler's own
def test_generated_code():
    """Catches a fused kernel that differs, on the way by a matrix at the width: the default backend."""
    compiled_equals_eager(
        network(7, (3, 4)), lambda u, z, t: laplacian(u, z, t).sum(), randn(5, 7), rand(5), "inductor"
    )


@pytest.mark.parametrize("operator", [gradient, laplacian, hessian])
@pytest.mark.parametrize("wrapped", [True, False], ids=["function", "module"])
def test_a_field_without_a_rule_is_one_graph(operator, wrapped):
    """Catches a check of plain callables that the compiler cannot trace."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1), torch.nn.Flatten(0))
    u = (lambda z, t: net(z)) if wrapped else Timeless(net)
    z = torch.randn(4, 3)
    compiled = torch.compile(lambda z: operator(u, z, 0.0), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(z), operator(u, z, 0.0))


class Timeless(torch.nn.Module):
    """A network as a field."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, z, t):
        return self.net(z)
