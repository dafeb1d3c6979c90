"""Every operator against finite differences, to first and second order: in the points, the times and the parameters."""

import pytest
import torch
from strategies import close, network, rand, randn, request_of, symmetric
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

from latentflow import (
    HJResidual,
    Hutchinson,
    PotentialFlow,
    QuadraticPotential,
    SlogDet,
    gradient,
    hessian,
    jet,
    laplacian,
)
from latentflow.calculus import (
    HutchPlusPlus,
    estimate_laplacian,
    evaluate_jet,
    gradient_time_derivative,
    hessian_vector_product,
    second_time_derivative,
)
from latentflow.pde import NonPositiveForce
from latentflow.potentials import FourierEmbedding, ScaledPotential


class Opaque(nn.Module):
    """A potential without its rule; its parameters stay within reach."""

    def __init__(self, u):
        super().__init__()
        self.u = u

    def forward(self, z, t):
        return self.u(z, t)


class Applied(nn.Module):
    """An operator as a module, so that functional_call reaches the parameters of its potential."""

    def __init__(self, u, operator):
        super().__init__()
        self.u, self.operator = u, operator

    def forward(self, z, t):
        return self.operator(self.u, z, t)


def small(dim, hidden, seed=3):
    return network(dim, hidden, seed, embedding=FourierEmbedding(2, generator=torch.Generator().manual_seed(1)))


def scaled(dim):
    return ScaledPotential(small(dim, (2,)), nn.Parameter(torch.tensor(0.7, dtype=torch.float64)))


POTENTIALS = {
    "one layer, dim < width": lambda: small(2, (3,)),
    "one layer, dim > width": lambda: small(3, (2,)),
    "two layers, dim < width": lambda: small(1, (3, 2)),
    "two layers, dim > width": lambda: small(3, (2, 2)),
    "three layers, dim < width": lambda: small(1, (2, 3, 2)),
    "three layers, dim > width": lambda: small(4, (2, 1, 2)),
    "quadratic": lambda: QuadraticPotential(2, symmetric(2), randn(2), 0.3),
    "sum": lambda: small(2, (2,)) + QuadraticPotential(2, symmetric(2)),
    "scaled": lambda: scaled(2),
    "opaque": lambda: Opaque(small(2, (2,))),
}


def with_fixed_noise(estimator):
    """A stochastic Laplacian of which all noise, and the subspace of Hutch++, is that of other points."""

    def operator(u, z, t):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            request = estimator.request(u, torch.ones_like(z).detach(), 0.2)
        return estimator.laplacian(evaluate_jet(u, z, t, request_of(probes=request.probes)))

    return operator


def hutch_plus_plus(u, z, t):
    """Hutch++ in a subspace that is given, as the gradient treats it: not that of the parameters which move here."""
    probes = torch.cat([torch.eye(z.shape[-1]).to(z)[:1], torch.ones(1, z.shape[-1]).to(z)])
    return HutchPlusPlus(3).laplacian(evaluate_jet(u, z, t, request_of(probes=probes.expand(*z.shape[:-1], -1, -1))))


OPERATORS = {
    "value": lambda u, z, t: jet(u, z, t, None).value,
    "time derivative": lambda u, z, t: jet(u, z, t, None).time_derivative,
    "gradient": gradient,
    "laplacian": laplacian,
    "hessian": hessian,
    "hessian vector product": lambda u, z, t: hessian_vector_product(u, z, t, z.cos()),
    "second time derivative": second_time_derivative,
    "gradient time derivative": gradient_time_derivative,
    "Hutchinson": with_fixed_noise(Hutchinson(2, "gaussian")),
    "Hutch++": hutch_plus_plus,
    "Hamilton-Jacobi": HJResidual(),
    "exact log_det": lambda u, z, t: PotentialFlow(u).step(z, t, 0.3, SlogDet()).determinant.log_det,
    "log_det by eigenvalues": lambda u, z, t: (
        PotentialFlow(u).step(z, t, 0.3, SlogDet(eigenvalues=True)).determinant.log_det
    ),
}


def as_function(module, z, t):
    """The module as a function of points, times and parameters, with all of them as inputs."""
    names, parameters = zip(*module.named_parameters(), strict=True)

    def function(z, t, *values):
        return functional_call(module, dict(zip(names, values, strict=True)), (z, t))

    return function, (z.requires_grad_(), t.requires_grad_(), *parameters)


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())
@pytest.mark.parametrize("build", POTENTIALS.values(), ids=POTENTIALS.keys())
def test_finite_differences(build, operator):
    """Catches a detached factor, a missing term of a hand-written derivative, and an in-place update."""
    u = build()
    dim = getattr(u, "dim", 2)
    function, inputs = as_function(Applied(u, operator), randn(2, dim), rand(2))
    if not function(*inputs).requires_grad:  # a quadratic does not depend on the time
        close(function(*inputs), torch.zeros_like(function(*inputs)))
        return
    assert gradcheck(function, inputs, fast_mode=True)
    if not isinstance(u, Opaque):  # plain torch.func, which torch's own tests cover
        assert gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("hidden", [(2,), (2, 2)])
@pytest.mark.parametrize("name", ["laplacian", "hessian vector product", "second time derivative", "exact log_det"])
def test_every_entry_of_the_jacobian(hidden, name):
    """Catches an error that a random projection of the Jacobian might hide, and a forward mode that disagrees."""
    function, inputs = as_function(Applied(small(2, hidden), OPERATORS[name]), randn(2, 2), rand(2))
    assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_residual_with_a_force(penalty):
    """Catches a force that trains with the wrong sign: the loss in the parameters of potential and force together."""

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.u = small(2, (2,))
            self.residual = HJResidual(NonPositiveForce(2, hidden=(2,)).double(), penalty)

        def forward(self, z, t):
            return self.residual.loss(self.u, (z, t))

    torch.manual_seed(0)
    function, inputs = as_function(Loss(), randn(2, 2), rand(2))
    assert gradcheck(function, inputs, fast_mode=True)
    assert gradgradcheck(function, inputs, fast_mode=True)


def test_a_standard_error_is_differentiable():
    """Catches an error bar computed outside the graph, where a controller of the number of probes needs its slope."""
    probes = randn(2, 3, 2, seed=5)

    class Drawn(Hutchinson):
        def draw(self, z):
            return probes

    def error(u, z, t):
        return estimate_laplacian(u, z, t, Drawn(3)).standard_error

    function, inputs = as_function(Applied(small(2, (2,)), error), randn(2, 2), rand(2))
    assert gradcheck(function, inputs, fast_mode=True)
