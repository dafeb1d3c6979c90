"""Mixed precision: derivatives are taken in float32, whatever torch.autocast does to the layers around them."""

import pytest
import torch
from strategies import ALL_FIELDS, request_of
from torch import nn

from latentflow import (
    Derivative,
    HJResidual,
    Hutchinson,
    MLPPotential,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
    SlogDet,
    jet,
    laplacian,
)
from latentflow.calculus import (
    FixedProbes,
    HutchPlusPlus,
    estimate_laplacian,
    evaluate_jet,
    gradient_time_derivative,
    hessian_vector_product,
    second_time_derivative,
)
from latentflow.flow import FirstOrder


class Module(nn.Module):
    """A plain module with layers that autocast would run in bfloat16."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 1)

    def forward(self, z, t):
        return self.last(torch.tanh(self.first(torch.cat([z, t.unsqueeze(-1)], dim=-1)))).squeeze(-1)


def points(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lower():
    return torch.autocast("cpu", dtype=torch.bfloat16)


torch.manual_seed(0)
FIELDS = {
    "one layer": MLPPotential(3, (6,)),
    "two layers": MLPPotential(3, (6, 5)),
    "two narrow layers": MLPPotential(3, (2, 2)),
    "three layers": MLPPotential(3, (4, 6, 5)),
    "quadratic": QuadraticPotential(3, points(3, 3), points(3)),
    "module": Module(),
    "sum": MLPPotential(3, (6,)) - 2 * QuadraticPotential(3, points(3, 3)),
    "selected": PotentialBank([MLPPotential(3, (6,)), Module()]).select(torch.tensor([0, 1, 1, 0, 1])),
}
fields = pytest.mark.parametrize("u", FIELDS.values(), ids=FIELDS.keys())


def everything(u, z, t, v):
    return evaluate_jet(
        u,
        z,
        t,
        request_of(
            v, laplacian=True, hessian=True, products=True, second_time_derivative=True, gradient_time_derivative=True
        ),
    )


@fields
def test_a_jet_is_the_same_inside_and_outside(u):
    """Catches a matrix product of the rule, or a layer of a module, that autocast runs with 8 bits."""
    z, t, v = points(5, 3), points(5, seed=1), points(5, 2, 3, seed=2)
    expected = everything(u, z, t, v)
    with lower():
        actual = everything(u, z, t, v)
        trace = laplacian(u, z, t)
    for name in ALL_FIELDS:
        assert getattr(actual, name).dtype == torch.float32, name
        assert torch.equal(getattr(actual, name), getattr(expected, name)), name
    assert torch.equal(trace, laplacian(u, z, t))


@fields
@pytest.mark.parametrize("time", [torch.float32, torch.bfloat16])
def test_points_from_a_layer_in_bfloat16(u, time):
    """Catches a jet in bfloat16, and points and weights of two dtypes that meet, where a layer gave the points."""
    z, t, v = points(5, 3).bfloat16(), points(5, seed=1).to(time), points(5, 2, 3, seed=2)
    expected = everything(u, z.float(), t.float(), v)
    with lower():
        actual = everything(u, z, t, v)
    for name in ALL_FIELDS:
        assert getattr(actual, name).dtype == torch.float32, name
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name), rtol=0, atol=0)


@fields
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_with_vectors(u, dtype):
    """Catches vectors in bfloat16 that meet points in float32: products, quadratic forms and their estimates."""
    z, t, v = points(5, 3).to(dtype), points(5, seed=1), points(5, 3, seed=2).to(dtype)
    with lower():
        product = hessian_vector_product(u, z, t, v)
        fixed = laplacian(u, z, t, FixedProbes(v.unsqueeze(-2)))
        second, mixed = second_time_derivative(u, z, t), gradient_time_derivative(u, z, t)
    z, v = z.float(), v.float()
    assert torch.equal(product, hessian_vector_product(u, z, t, v))
    assert torch.equal(fixed, laplacian(u, z, t, FixedProbes(v.unsqueeze(-2))))
    assert torch.equal(second, second_time_derivative(u, z, t))
    assert torch.equal(mixed, gradient_time_derivative(u, z, t))


@fields
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [Hutchinson, HutchPlusPlus])
def test_random_laplacians(u, dtype, make):
    """Catches a projection of Hutch++ in bfloat16, which leaves a part of the subspace in the rest."""
    z = points(5, 3).to(dtype)
    with lower():
        estimate = estimate_laplacian(u, z, 0.3, make(6, "rademacher", torch.Generator().manual_seed(0)))
    expected = estimate_laplacian(u, z.float(), 0.3, make(6, "rademacher", torch.Generator().manual_seed(0)))
    for name in ("value", "standard_error"):
        actual = getattr(estimate, name)
        assert actual.dtype == torch.float32
        if dtype == torch.float32 or make is HutchPlusPlus:
            torch.testing.assert_close(actual, getattr(expected, name), rtol=1e-5, atol=1e-5)


@fields
def test_gradients_are_the_same_inside_and_outside(u):
    """Catches a backward pass that runs in bfloat16: of a residual, a Laplacian and both volumes of a step."""
    z, t = points(5, 3), points(5, seed=1)

    def loss():
        step = PotentialFlow(u).step(z, t, 0.1, SlogDet())
        surrogate = PotentialFlow(u).step(z, t, 0.1, FirstOrder()).determinant.log_det
        return HJResidual().loss(u, (z, t)) + laplacian(u, z, t).mean() + (step.determinant.log_det + surrogate).mean()

    parameters = list(u.parameters())
    outside = loss()
    expected = torch.autograd.grad(outside, parameters, materialize_grads=True)
    with lower():
        inside = loss()
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, outside, rtol=1e-6, atol=1e-7)
    for own, other in zip(torch.autograd.grad(inside, parameters, materialize_grads=True), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_double_precision_stays():
    """Catches float64 points brought down to float32."""
    u = MLPPotential(3, (6, 5)).double()
    z = points(5, 3).double()
    with lower():
        actual = jet(u, z, 0.3, requires=Derivative.HESSIAN)
    expected = jet(u, z, 0.3, requires=Derivative.HESSIAN)
    for name in ("value", "gradient", "laplacian", "hessian"):
        assert getattr(actual, name).dtype == torch.float64
        assert torch.equal(getattr(actual, name), getattr(expected, name))


@pytest.mark.parametrize(
    "build",
    [
        lambda: MLPPotential(3, (6, 5)),
        lambda: MLPPotential(3, (2, 2)),
        lambda: QuadraticPotential(3, points(3, 3)),
        Module,
    ],
)
def test_bfloat16_without_autocast(build):
    """Catches a cast that nobody asked for: a model that is bfloat16 throughout gives bfloat16, close to float32."""
    u = build()
    z, v = points(5, 3).bfloat16(), points(5, 2, 3, seed=2).bfloat16()
    u.bfloat16()
    actual = everything(u, z, 0.5, v)
    expected = everything(u.float(), z.float(), 0.5, v.float())
    for name in ALL_FIELDS:
        assert getattr(actual, name).dtype == torch.bfloat16, name
        scale = 1 + getattr(expected, name).abs().max()
        assert (getattr(actual, name).float() - getattr(expected, name)).abs().max() < 0.05 * scale, name


def test_autocast_is_back_afterwards():
    """Catches autocast left switched off for the layers that follow, and a cache of casts that a layer reads."""
    layer, u, z = nn.Linear(3, 3), MLPPotential(3, (6,)), points(5, 3)
    with lower():
        before = layer(z)
        jet(u, z, 0.0)
        after = layer(z)
    assert before.dtype == after.dtype == torch.bfloat16
    assert torch.equal(before, after)
