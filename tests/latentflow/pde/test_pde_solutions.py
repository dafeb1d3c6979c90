"""Residuals of exact solutions."""

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import generator, hopf_lax, normal, ohj_quadratic, spd
from hypothesis import given
from torch import nn

from latentflow import Derivative, FunctionPotential, HJResidual, PDEResidual

dims, seeds = st.integers(1, 6), st.integers(0, 2**31 - 100)


def times(seed, *shape):
    return torch.rand(shape, generator=generator(seed), dtype=torch.float64)


def assert_zero(residual, atol=1e-11):
    torch.testing.assert_close(residual, torch.zeros_like(residual), rtol=0, atol=atol)


@given(dims, seeds)
def test_quadratics(dim, seed):
    """Catches a missing 1/2, a mean over coordinates, and a time derivative summed over the batch."""
    u = ohj_quadratic(spd(dim, seed, -0.5, 0.5), normal(seed + 1, dim))
    z, t = normal(seed + 2, 2, 3, dim), times(seed, 2, 3)
    assert_zero(HJResidual()(u, z, t))
    assert_zero(HJResidual()(u, z, 0.3))
    doubled = HJResidual()(lambda z, t: 2 * u(z, t), z, t)  # 2 u_t + 4 |grad u|^2 / 2 = |grad u|^2
    gradient = torch.func.vmap(torch.func.grad(u))(z.reshape(6, dim), t.reshape(6))
    torch.testing.assert_close(doubled.reshape(6), gradient.square().sum(-1))


@given(dims, seeds)
def test_hopf_lax(dim, seed):
    """Catches errors that cancel on quadratics."""
    weight = normal(seed, dim, dim)
    u, _, _ = hopf_lax(weight / torch.linalg.matrix_norm(weight, 2), 0.4)
    assert_zero(HJResidual()(u, normal(seed + 1, 4, dim), 0.1 + times(seed, 4)))


@given(dims, seeds, st.floats(0.1, 3))
def test_planes_and_parabolas(dim, seed, a):
    """Catches a wrong weight between the two terms, on waves that travel and on points that spread."""
    p, z, t = normal(seed, dim), normal(seed + 1, 5, dim), times(seed, 5)
    assert_zero(HJResidual()(lambda z, t: (z * p).sum(-1) - p.square().sum() * t / 2, z, t))
    assert_zero(HJResidual()(lambda z, t: z.square().sum(-1) / (2 * (t + a)), z, t), atol=1e-11)


@given(dims, seeds)
def test_cone(dim, seed):
    """Catches a residual that is right only where the gradient is linear: the evolved cone |z| is a Huber function."""
    z, t = normal(seed, 20, dim), times(seed + 1, 20)

    def huber(z, t):
        r = z.square().sum(-1).sqrt()
        return torch.where(r >= t, r - t / 2, r.square() / (2 * t))

    assert_zero(HJResidual()(huber, z, t), atol=1e-11)


@given(dims, seeds, st.floats(0.1, 1), st.floats(0, 1))
def test_generalised_equation(dim, seed, a, excess):
    """Catches a force of the wrong sign."""
    b = a + excess

    class Force(nn.Module):
        def forward(self, z, t):
            return -(a * b - a * a) * z.square().sum(-1) / (2 * (1 + b * t) ** 2)

    z, t = normal(seed, 5, dim), times(seed, 5)
    residual, u = HJResidual(Force()), FunctionPotential(lambda z, t: a * z.square().sum(-1) / (2 * (1 + b * t)))
    assert_zero(residual(u, z, t))
    torch.testing.assert_close(HJResidual()(u, z, t), Force()(z, t))


class Heat(PDEResidual):
    requires = Derivative.LAPLACIAN

    def __init__(self, diffusivity):
        super().__init__()
        self.diffusivity = diffusivity

    def from_jet(self, jet, z, t):
        return jet.time_derivative - self.diffusivity * jet.laplacian


class MongeAmpere(PDEResidual):
    requires = Derivative.HESSIAN

    def from_jet(self, jet, z, t):
        assert set(jet.second) == {Derivative.HESSIAN}
        return torch.linalg.det(jet.hessian) - t


class Nothing(PDEResidual):
    def from_jet(self, jet, z, t):
        assert set(jet.second) == set()
        assert t.shape == z.shape[:-1]
        return t * jet.value


@given(dims, seeds, st.floats(0.1, 2))
def test_heat_equation_of_a_user(dim, seed, diffusivity):
    """Catches a Laplacian that is not handed to the subclass, or one of another sign or scale."""
    k, z, t = normal(seed, dim), normal(seed + 1, 2, 3, dim), times(seed, 2, 3)

    def mode(z, t):
        return (z * k).sum(-1).cos() * torch.exp(-diffusivity * k.square().sum() * t)

    assert_zero(Heat(diffusivity)(mode, z, t), atol=1e-11)
    assert_zero(Heat(diffusivity)(lambda z, t: z.square().sum(-1) + 2 * dim * diffusivity * t, z, t), atol=1e-11)


def test_what_is_required_is_what_is_computed():
    """Catches a Hessian that is not handed over, and second derivatives computed for nothing."""
    z, t = normal(0, 4, 2), times(0, 4)
    matrix = spd(2, 1)
    u = FunctionPotential(lambda z, t: ((z @ matrix) * z).sum(-1) / 2)
    torch.testing.assert_close(MongeAmpere()(u, z, t), torch.linalg.det(matrix) - t)
    torch.testing.assert_close(Nothing()(u, z, 0.25), u(z, t) / 4)


@pytest.mark.parametrize(
    ("requires", "error", "message"),
    [
        (frozenset({"laplacain"}), TypeError, r"^requires: expected .*laplacain"),
        (Derivative.PRODUCTS, ValueError, r"^requires: expected out of .*, got products"),
    ],
)
def test_unknown_requirement(requires, error, message):
    """Catches a typo, and probes that nobody gives, that would show as an error in the middle of training."""
    with pytest.raises(error, match=message):
        type("Typo", (PDEResidual,), {"requires": requires, "from_jet": lambda *_: None})


def test_a_derivative_that_is_not_required():
    """Catches a residual that reads what it does not require, and gets it, or a None."""
    typo = type("Typo", (PDEResidual,), {"from_jet": lambda self, jet, z, t: jet.laplacian})
    with pytest.raises(ValueError, match=r"^laplacian was not requested"):
        typo()(lambda z, t: z.sum(-1), normal(0, 4, 2), 0.3)
