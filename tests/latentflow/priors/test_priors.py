"""Priors against the heat equation, quadrature and closed forms."""

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import generator, normal
from hypothesis import given
from torch.autograd.functional import hessian, jacobian
from torch.distributions import MultivariateNormal

from latentflow import DiffusionPrior, GaussianPrior

dims, seeds = st.integers(1, 4), st.integers(0, 2**31 - 100)
diffusivities = st.floats(1e-3, 3)


def diffusion(dim, fields=1, diffusivity=1e-2):
    return DiffusionPrior(dim, fields, diffusivity).double()


@given(dims, seeds, diffusivities, st.floats(0.01, 3))
def test_density_solves_the_heat_equation(dim, seed, diffusivity, time):
    """Catches a variance 1 + D t, a standard deviation in place of the variance, and a missing normaliser."""
    prior, z, t = diffusion(dim, 1, diffusivity), normal(seed, dim), torch.tensor(time, dtype=torch.float64)
    d = prior.diffusivity.item()

    def density(z, t):
        return prior(t).log_prob(z).exp()

    laplacian = hessian(lambda z: density(z, t), z).trace()
    slope = jacobian(lambda t: density(z, t), t)
    torch.testing.assert_close(slope, d * laplacian, rtol=1e-11, atol=1e-11)


@given(dims, seeds, diffusivities, st.floats(0, 3))
def test_density_starts_from_the_standard_normal_and_is_a_known_one(dim, seed, diffusivity, time):
    """Catches a wrong start, and a diffusivity that is not the one asked for."""
    prior, z = diffusion(dim, 1, diffusivity), normal(seed, 5, dim)
    eye = torch.eye(dim, dtype=torch.float64)
    start = MultivariateNormal(torch.zeros(dim, dtype=torch.float64), eye)
    torch.testing.assert_close(prior().log_prob(z), start.log_prob(z))
    spread = MultivariateNormal(torch.zeros(dim, dtype=torch.float64), (1 + 2 * diffusivity * time) * eye)
    torch.testing.assert_close(prior(time).log_prob(z), spread.log_prob(z), rtol=1e-5, atol=1e-5)  # raw: from float32
    assert prior.diffusivity.item() == pytest.approx(diffusivity, rel=1e-4)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("time", [0.0, 2.5])
def test_mass(dim, time):
    """Catches a normaliser of another dimension or of the wrong scale."""
    prior = diffusion(dim, 1, 0.7)
    deviation = (1 + 2 * 0.7 * time) ** 0.5
    axis = torch.arange(-60, 61, dtype=torch.float64) * deviation / 6
    z = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    mass = prior(time).log_prob(z).exp().sum() * (deviation / 6) ** dim
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-8)


@given(dims, seeds, diffusivities, st.floats(0.01, 3))
def test_derivative_in_the_diffusivity(dim, seed, diffusivity, time):
    """Catches a diffusivity without a gradient or one of the wrong scale."""
    prior, z = diffusion(dim, 1, diffusivity), normal(seed, 5, dim)
    prior(time).log_prob(z).sum().backward()
    kappa = 1 + 2 * prior.diffusivity.item() * time
    by_hand = (time / kappa * (z.square().sum(-1) / kappa - dim)).sum() * prior.raw.detach().sigmoid()
    torch.testing.assert_close(prior.raw.grad, by_hand, rtol=1e-11, atol=1e-11)


@given(dims, seeds, diffusivities, st.floats(0.5, 3))
def test_the_best_diffusivity_is_stationary(dim, seed, diffusivity, time):
    """Catches a factor 2 between the diffusivity and the variance."""
    prior, z = diffusion(dim, 1, diffusivity), normal(seed, 10, dim)
    z = z * ((1 + 2 * prior.diffusivity.detach() * time) * dim / z.square().sum(-1).mean()).sqrt()
    prior(time).log_prob(z).mean().backward()
    torch.testing.assert_close(prior.raw.grad, torch.zeros(1, dtype=torch.float64), rtol=0, atol=1e-11)


def test_learns_from_its_start():
    """Catches a parametrisation that is dead at its start, and a start that depends on the field."""
    prior = DiffusionPrior(3, fields=2)
    torch.testing.assert_close(prior.diffusivity, torch.full((2,), 1e-2))
    prior(t=2.0, k=torch.tensor([0, 1])).log_prob(3 * torch.ones(2, 3)).sum().backward()
    assert (prior.raw.grad > 1e-3).all()
    with torch.no_grad():
        prior.raw.fill_(-30.0)
    assert (prior.diffusivity > 0).all()


def test_each_field_has_a_gradient_and_a_state_of_its_own():
    """Catches one diffusivity for all fields, and one that a checkpoint loses."""
    prior = diffusion(2, fields=3)
    prior(t=1.5, k=1).log_prob(normal(0, 4, 2)).sum().backward()
    assert (prior.raw.grad != 0).tolist() == [False, True, False]
    with torch.no_grad():
        prior.raw.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    assert list(prior.state_dict()) == ["raw"]
    other = diffusion(2, fields=3)
    other.load_state_dict(prior.state_dict())
    torch.testing.assert_close(other.diffusivity, torch.tensor([-1.0, 0, 2], dtype=torch.float64).exp().log1p())


def test_indices_and_times_broadcast():
    """Catches times along the batch axis, and the diffusivity of another sample."""
    prior = diffusion(2, fields=3)
    with torch.no_grad():
        prior.raw.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    times, k = torch.rand(4, 1, generator=generator(0), dtype=torch.float64), torch.tensor([2, 0, 1, 2, 1])
    z = normal(1, 4, 5, 2)
    together = prior(times, k)
    assert together.batch_shape == (4, 5)
    for n in range(4):
        for i in range(5):
            kappa = 1 + 2 * prior.raw[k[i]].exp().log1p() * times[n, 0]
            by_hand = -(2 * torch.pi * kappa).log() - z[n, i].square().sum() / (2 * kappa)
            torch.testing.assert_close(together.log_prob(z)[n, i], by_hand)
            torch.testing.assert_close(prior(float(times[n, 0]), int(k[i])).log_prob(z[n, i]), by_hand)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("fields", lambda: DiffusionPrior(2, fields=0)),
        ("diffusivity", lambda: DiffusionPrior(2, diffusivity=0.0)),
        ("diffusivity", lambda: DiffusionPrior(2, diffusivity=float("nan"))),
        ("k", lambda: DiffusionPrior(2, fields=2)(1.0)),
        ("t", lambda: DiffusionPrior(2)(-0.5)),
        ("t", lambda: DiffusionPrior(2)(torch.tensor([0.5, -0.5]))),
    ],
)
def test_wrong_arguments(name, build):
    """Catches a negative variance, a silent choice of field, and messages that do not name the argument."""
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        build()


@pytest.mark.parametrize("t", [0.0, 3.0, torch.ones(5, dtype=torch.float64)])
def test_gaussian_prior_never_changes(t):
    """Catches a standard normal that spreads, and one without its constant."""
    prior, z = GaussianPrior(3).double(), normal(0, 5, 3)
    by_hand = -1.5 * torch.tensor(2 * torch.pi, dtype=torch.float64).log() - z.square().sum(-1) / 2
    torch.testing.assert_close(prior(t=t, k=torch.zeros(5, dtype=torch.int64)).log_prob(z), by_hand)
    assert len(prior.state_dict()) == 0


@pytest.mark.parametrize("k", [-1, 2, torch.tensor([0, 2])])
def test_an_index_out_of_range_is_refused(k):
    """Catches a negative index that counts from the end."""
    with pytest.raises(ValueError, match=r"k: expected indices in 0\.\.1, got"):
        DiffusionPrior(3, fields=2)(1.0, k)
