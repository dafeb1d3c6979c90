"""The sum of plane waves in closed form."""

import pytest
import torch
from hypothesis import given
from strategies import batches, close, dims, rand, randn, request_of, seeds

from latentflow import PotentialFlow, gradient
from latentflow.calculus import evaluate_jet
from latentflow.potentials.fourier import FourierPotential
from latentflow.testing import check_potential


def waves(dim, features=5, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return FourierPotential(dim, features, **{"amplitude": 1.0, **options}, generator=generator).double()


@given(dims, batches, seeds)
def test_closed_form(dim, batch, seed):
    """Catches a phase off by a quarter turn, a frequency of time that is not squared, a sine in place of a cosine."""
    u = waves(dim, seed=seed)
    z, t, v = randn(*batch, dim, seed=seed), rand(*batch, seed=seed), randn(*batch, 2, dim, seed=seed + 1)
    omega, nu, w = u.frequencies, u.time_frequencies, u.amplitudes
    phase = z @ omega.mT + t.unsqueeze(-1) * nu + u.phases
    sin, cos = -w * phase.sin(), w * phase.cos()
    along = torch.einsum("...pi,ji->...pj", v, omega)
    request = request_of(
        laplacian=True,
        hessian=True,
        probes=v,
        products=True,
        second_time_derivative=True,
        gradient_time_derivative=True,
        inner_hessian=True,
    )
    actual = evaluate_jet(u, z, t, request)
    close(actual.value, cos.sum(-1))
    close(actual.gradient, sin @ omega)
    close(actual.time_derivative, sin @ nu)
    close(actual.laplacian, -(cos * omega.square().sum(-1)).sum(-1))
    close(actual.hessian, -torch.einsum("...j,ja,jb->...ab", cos, omega, omega))
    close(actual.quadratic, -(cos.unsqueeze(-2) * along.square()).sum(-1))
    close(actual.products, -(cos.unsqueeze(-2) * along) @ omega)
    close(actual.second_time_derivative, -cos @ nu.square())
    close(actual.gradient_time_derivative, -(cos * nu) @ omega)
    close(actual.inner_hessian.core, torch.diag_embed(-cos))


def test_contract():
    """Catches a rule that disagrees with the values in some request or circumstance."""
    check_potential(waves(3), dim=3)


def test_starts_at_rest_and_learns():
    """Catches a start at which nothing has a gradient: the amplitudes have one, and after a step the phases too."""
    u = FourierPotential(3, features=8, generator=torch.Generator().manual_seed(0)).double()
    z = randn(20, 3)
    trajectory = PotentialFlow(u).rollout(z, steps=3)
    close(trajectory.z[-1], z)
    optimizer = torch.optim.SGD(u.parameters(), lr=0.1)
    for expected in (False, True):
        optimizer.zero_grad()
        (gradient(u, z, 0.3) - z).square().mean().backward()
        assert u.amplitudes.grad.abs().min() > 1e-6
        assert (u.phases.grad.abs().max() > 1e-6) == expected
        optimizer.step()


def test_random_amplitudes_have_the_stated_covariance():
    """Catches a missing factor two, a scale that is a variance, a time scale swapped with the scale of space."""
    amplitude, scale, rate, draws = 0.7, 1.3, 0.4, 4000
    x = torch.tensor([[0.0, 0.0], [0.5, -0.3]], dtype=torch.float64)
    t = torch.tensor([0.0, 1.5], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    values = torch.stack(
        [FourierPotential(2, 3, scale, rate, amplitude, generator).double()(x, t).detach() for _ in range(draws)]
    )
    distance = scale**2 * (x[0] - x[1]).square().sum() / 2 + rate**2 * (t[0] - t[1]).square() / 2
    for left, right, expected in ((0, 0, amplitude**2), (0, 1, amplitude**2 * torch.exp(-distance))):
        product = values[:, left] * values[:, right]
        assert abs(product.mean() - expected) < 5 * product.std() / draws**0.5
    assert (values.mean(0).abs() < 5 * values.std(0) / draws**0.5).all()


def test_frequencies_are_state_and_not_trained():
    """Catches frequencies lost by a checkpoint, or moved by an optimizer."""
    u, v = waves(3, seed=0), waves(3, seed=1)
    assert {name for name, _ in u.named_parameters()} == {"amplitudes", "phases"}
    v.load_state_dict(u.state_dict())
    z, t = randn(4, 3), rand(4)
    close(v(z, t), u(z, t))


def test_no_time_scale_means_no_time():
    """Catches a clock that runs anyhow."""
    u, z = waves(3, time_scale=0.0), randn(4, 3)
    close(u(z, rand(4)), u(z, torch.zeros(4, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim: expected a positive integer, got 0"),
        ({"features": 0}, "features: expected a positive integer, got 0"),
        ({"scale": 0.0}, r"scale: expected a positive number, got 0\.0"),
        ({"time_scale": -1.0}, r"time_scale: expected a number of at least 0, got -1\.0"),
        ({"amplitude": float("inf")}, "amplitude: expected a number of at least 0, got inf"),
    ],
)
def test_arguments_are_checked(arguments, message):
    """Catches a potential without waves."""
    with pytest.raises(ValueError, match=message):
        FourierPotential(**{"dim": 2, **arguments})
