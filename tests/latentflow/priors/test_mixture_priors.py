"""Mixtures, alone and under the heat flow, against their formulas, the heat equation and quadrature."""

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import normal, spd
from hypothesis import given
from quadrature import PRIORS, SHAPE, encoder, grid, mixture, vamp
from torch.autograd.functional import hessian, jacobian
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal

from latentflow import DiffusionPrior, GaussianPrior, MixturePrior, VampPrior
from latentflow.priors import DiffusedPrior

dims, seeds = st.integers(1, 4), st.integers(0, 2**31 - 100)
near = {"rtol": 1e-11, "atol": 1e-11}


def parameters(prior):
    """The weights, means and scales of a mixture prior."""
    if isinstance(prior, VampPrior):
        posteriors = prior.encoder(prior.raw.sigmoid())
        return torch.full((len(prior.raw),), 1 / len(prior.raw)).to(prior.raw), posteriors.mean, posteriors.stddev
    return prior.logits.softmax(0), prior.mean, prior.log_scale.exp()


def density(z, weights, means, scales):
    """The density of a mixture at one point, by its formula."""
    exponents = ((z - means) / scales).square().sum(-1) / 2
    return (weights * (-exponents).exp() / (scales * (2 * torch.pi) ** 0.5).prod(-1)).sum(-1)


@pytest.mark.parametrize("build", [mixture, vamp])
@given(dims, seeds, st.floats(0, 2))
def test_density_and_its_score(build, dim, seed, time):
    """Catches the sum over another axis, weights that do not enter, - log N, and variances that grow by D t."""
    prior, z = build(dim, seed), normal(seed + 90, dim).requires_grad_()
    weights, means, scales = parameters(prior)
    spread = DiffusedPrior(prior, diffusivity=0.4).double()
    for law, widths in (
        (prior(t=time, k=1), scales),
        (spread(t=time), (scales.square() + 2 * spread.diffusivity * time).sqrt()),
    ):
        expected = density(z, weights, means, widths)
        torch.testing.assert_close(law.log_prob(z).exp(), expected, **near)
        terms = torch.stack([density(z, w[None], m, s) for w, m, s in zip(weights, means, widths, strict=True)])
        by_hand = ((terms / terms.sum()).unsqueeze(-1) * (means - z) / widths.square()).sum(0)
        score = torch.autograd.grad(law.log_prob(z), z)[0]
        torch.testing.assert_close(score, by_hand, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["diffused mixture", "diffused vamp", "diffusion"])
@given(dims, seeds, st.floats(0.01, 2), st.integers(0, 1))
def test_log_density_solves_the_heat_equation(name, dim, seed, time, k):
    """Catches a factor 2 in D, the diffusivity of another field, scales that grow in place of variances."""
    prior, z = PRIORS[name][0](dim), normal(seed, dim)
    with torch.no_grad():
        prior.raw.copy_(torch.tensor([-2.0, 0.5]))
    t, d = torch.tensor(time, dtype=torch.float64), prior.diffusivity[k].item()
    matrix = hessian(lambda z: prior(t, k).log_prob(z), z)
    score = jacobian(lambda z: prior(t, k).log_prob(z), z)
    slope = jacobian(lambda t: prior(t, k).log_prob(z), t)
    torch.testing.assert_close(slope, d * (matrix.trace() + score.square().sum()), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("dim", [1, 2])
def test_mass(name, dim):
    """Catches a normaliser of another time or scale, a log N, and a log_det that is missing or of the wrong sign."""
    build, fields = PRIORS[name]
    prior, (z, cell) = build(dim).eval(), grid(dim)
    for time in (0.0, 1.0, 2.0):
        for k in range(fields):
            with torch.no_grad():
                mass = prior(time, k).log_prob(z).exp().sum() * cell
            torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", PRIORS)
def test_score_integrates_by_parts(name):
    """Catches a log-density whose derivative in the point is cut, as by an inverse without a graph."""
    prior, (z, cell) = PRIORS[name][0](1).eval(), grid(1)
    z.requires_grad_()
    for time in (0.0, 2.0):
        log_p = prior(time, 0).log_prob(z)
        score = torch.autograd.grad(log_p.sum(), z)[0]
        terms = -2.25 * (1.5 * z + 0.3).sin() + score * 1.5 * (1.5 * z + 0.3).cos()
        total = (log_p.exp() * terms.squeeze(-1)).sum() * cell
        torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["diffused mixture", "diffused vamp", "diffusion"])
@pytest.mark.parametrize("dim", [1, 2])
def test_the_heat_flow_is_a_semigroup(name, dim):
    """Catches variances that grow other than linearly in time: the density at s, spread over t - s, is that at t."""
    prior, (y, cell) = PRIORS[name][0](dim), grid(dim)
    early, late, z = 0.5, 3.0, normal(5, 6, dim)
    kernel = Normal(torch.zeros_like(y), (2 * prior.diffusivity[1].detach() * (late - early)).sqrt())
    with torch.no_grad():
        spread = kernel.log_prob(z.unsqueeze(1) - y).sum(-1).exp() @ prior(early, 1).log_prob(y).exp() * cell
        torch.testing.assert_close(spread, prior(late, 1).log_prob(z).exp(), rtol=0, atol=1e-10)


@given(dims, seeds)
def test_one_component_is_a_normal_distribution(dim, seed):
    """Catches weights that do not sum to one, and scales taken for variances."""
    prior, z = mixture(dim, seed, components=1), normal(seed + 9, 5, dim)
    expected = MultivariateNormal(prior.mean[0], torch.diag((2 * prior.log_scale[0]).exp()))
    torch.testing.assert_close(prior().log_prob(z), expected.log_prob(z), **near)


@given(dims, seeds)
def test_equal_pseudo_inputs_give_the_posterior(dim, seed):
    """Catches a missing - log N."""
    network, image = encoder(dim, seed), normal(seed + 70, *SHAPE).sigmoid()
    prior = VampPrior(network, image.expand(7, *SHAPE)).double()
    moved = 0.01 + 0.98 * image
    z = normal(seed + 80, 5, dim)
    torch.testing.assert_close(prior().log_prob(z), network(moved[None]).log_prob(z), **near)


def test_pseudo_inputs_start_from_data_and_learn_from_its_edges():
    """Catches a start at infinity, and one that is dead where the data are 0 or 1."""
    data = torch.tensor([0.0, 1.0, 0.5, 0.0]).reshape(1, *SHAPE).repeat(3, 1, 1, 1)
    prior = VampPrior(encoder(2).float(), data)
    torch.testing.assert_close(prior.pseudo_inputs, 0.01 + 0.98 * data)
    prior().log_prob(torch.ones(2)).backward()
    assert torch.isfinite(prior.raw.grad).all()
    assert (prior.raw.grad.abs() > 1e-6).all()


def test_the_start_of_a_mixture_is_near_the_standard_normal():
    """Catches means that start in one point, and scales or means of another size."""
    torch.manual_seed(0)
    state = torch.get_rng_state()
    prior = MixturePrior(3, components=4000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    law = prior()
    assert (law.mean.abs() < 5 * 0.5**0.5 / 4000**0.5).all()
    assert ((law.variance - 1).abs() < 5 * 0.5 * 2**0.5 / 4000**0.5).all()
    again = MixturePrior(3, components=4000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(prior.mean, again.mean)


def test_diffusion_of_a_full_covariance():
    """Catches a variance added to every entry of the covariance."""
    covariance, z = spd(3, 0), normal(1, 4, 5, 3)
    prior = DiffusedPrior(lambda t, k: MultivariateNormal(normal(2, 3), covariance), 2, 0.7).double()
    t, k = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 1, 1, 0, 1])
    with torch.no_grad():
        prior.raw.copy_(torch.tensor([-1.0, 1.0]))
    for n in range(4):
        for i in range(5):
            grown = covariance + 2 * t[n, 0] * prior.diffusivity[k[i]] * torch.eye(3)
            expected = MultivariateNormal(normal(2, 3), grown).log_prob(z[n, i])
            torch.testing.assert_close(prior(t, k).log_prob(z)[n, i], expected)


def test_times_and_fields_broadcast():
    """Catches a component axis that is taken for a batch axis."""
    prior, z = PRIORS["diffused mixture"][0](2), normal(0, 3, 4, 2)
    with torch.no_grad():
        prior.raw.copy_(torch.tensor([-1.0, 1.0]))
    t, k = torch.tensor([[0.0], [0.5], [2.0]]), torch.tensor([1, 0, 1, 1])
    law = prior(t, k)
    assert law.batch_shape == (3, 4)
    assert law.sample((7,)).shape == (7, 3, 4, 2)
    alone = [[prior(float(t[n]), int(k[i])).log_prob(z[n, i]) for i in range(4)] for n in range(3)]
    torch.testing.assert_close(law.log_prob(z), torch.stack([torch.stack(row) for row in alone]), **near)


def test_diffusion_is_the_diffused_normal():
    """Catches two definitions that drift apart, and weights of the start in the state of the diffusion."""
    short, long = DiffusionPrior(2, 3, 0.4), DiffusedPrior(GaussianPrior(2), 3, 0.4)
    z = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(short(1.5, 2).log_prob(z), long(1.5, 2).log_prob(z))
    assert list(short.state_dict()) == ["raw"]


def test_the_start_is_taken_at_time_zero():
    """Catches a start that has spread already."""
    start, z = DiffusionPrior(2, 3, 0.4).double(), normal(0, 5, 2)
    with torch.no_grad():
        start.raw.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(
        DiffusedPrior(start, 3, 0.4).double()(2.0, 1).log_prob(z),
        DiffusionPrior(2, 3, 0.4).double()(2.0, 1).log_prob(z),
    )


@pytest.mark.parametrize("diffusivity", [1e-8, 1e3])
def test_diffusivities_of_any_size(diffusivity):
    """Catches an inverse of the softplus that overflows or cancels."""
    assert DiffusionPrior(2, diffusivity=diffusivity).diffusivity.item() == pytest.approx(diffusivity, rel=1e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_state_survives(name):
    """Catches a parameter that is not registered, and a dtype that does not follow the module."""
    build, _ = PRIORS[name]
    prior, other, z = build(2).eval(), build(2).eval(), normal(0, 3, 2)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1).add_(0.05)
    other.load_state_dict(prior.state_dict())
    assert torch.equal(prior(1.0, 0).log_prob(z), other(1.0, 0).log_prob(z))
    value = prior.float()(1.0, 0).log_prob(z.float())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), other(1.0, 0).log_prob(z), rtol=1e-4, atol=1e-4)


def laplace(t, k):
    return Independent(Laplace(torch.zeros(2), torch.ones(2)), 1)


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        (ValueError, "dim", lambda: MixturePrior(0)),
        (ValueError, "components", lambda: MixturePrior(2, components=0)),
        (ValueError, "pseudo_inputs", lambda: VampPrior(encoder(2), torch.rand(4))),
        (ValueError, "pseudo_inputs", lambda: VampPrior(encoder(2), torch.rand(0, *SHAPE))),
        (ValueError, "pseudo_inputs", lambda: VampPrior(encoder(2), 2 * torch.ones(3, *SHAPE))),
        (ValueError, "pseudo_inputs", lambda: VampPrior(encoder(2), torch.full((3, *SHAPE), float("nan")))),
        (TypeError, "pseudo_inputs", lambda: VampPrior(encoder(2), torch.ones(3, *SHAPE, dtype=torch.uint8))),
        (TypeError, "pseudo_inputs", lambda: VampPrior(encoder(2), [0.5])),
        (ValueError, "encoder", VampPrior(lambda x: Normal(x, 1.0), torch.rand(3, 2))),
        (ValueError, "encoder", VampPrior(lambda x: Independent(Normal(x[:1], 1.0), 1), torch.rand(3, 2))),
        (ValueError, "fields", lambda: DiffusedPrior(GaussianPrior(2), 0)),
        (ValueError, "diffusivity", lambda: DiffusedPrior(GaussianPrior(2), diffusivity=float("inf"))),
        (TypeError, "prior", lambda: DiffusedPrior(laplace)(1.0)),
        (ValueError, "k", lambda: DiffusedPrior(mixture(2), 2)(1.0)),
        (ValueError, "t", lambda: DiffusedPrior(mixture(2))(-1.0)),
        (ValueError, "t", lambda: DiffusedPrior(mixture(2))(float("nan"))),
        (ValueError, "t", lambda: DiffusedPrior(mixture(2), 2)(torch.ones(3), torch.tensor([0, 1]))),
    ],
)
def test_wrong_arguments(error, name, call):
    """Catches messages that do not name the argument."""
    with pytest.raises(error, match=f"^{name}: expected"):
        call()
