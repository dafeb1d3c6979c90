"""Latents that flow and diffuse: the cost of a step, and the bound against the evidence of a state-space model.

The samples are sigma points of all noise together, at which the mean of a quadratic is its expectation.
"""

import math

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import autograd_gradient, generator, net, normal, sigma_points, spd
from hypothesis import given
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    FunctionPotential,
    GaussianPrior,
    HopfLaxFlow,
    MixturePrior,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
)
from latentflow.priors import DiffusedPrior
from latentflow.vae import GaussianLikelihood, StochasticBound
from latentflow.vae import bounds as stochastic

seeds = st.integers(0, 2**31 - 100)
DIM, PIXELS, SCALE, STEPS = 2, 3, 0.7, 2
near = {"rtol": 1e-9, "atol": 1e-9}
eye = torch.eye(DIM, dtype=torch.float64)
data = torch.rand(3, 4, 1, 3, 2, generator=generator(0)), torch.tensor([1, 0, 1])
foreign = PotentialFlow(QuadraticPotential(DIM).double()).rollout(normal(0, 3, DIM), 2)


def bound_with(diffusion, gain=None):
    """A bound in float64 with the coefficient and, where there is one, the gain as asked for."""
    bound = StochasticBound(None if gain is None else DIM, diffusion).double()
    with torch.no_grad():
        bound._diffusion.raw.copy_(torch.tensor(math.log(math.expm1(diffusion)), dtype=torch.float64))
        if gain is not None:
            bound.raw_gain.copy_(torch.as_tensor(gain, dtype=torch.float64).logit())
    return bound


def prior_with(*diffusivity):
    prior = DiffusionPrior(DIM, len(diffusivity)).double()
    with torch.no_grad():
        prior.raw.copy_(torch.tensor(diffusivity, dtype=torch.float64).expm1().log())
    return prior


def standard(*batch):
    return Independent(Normal(torch.zeros(*batch, DIM, dtype=torch.float64), 1.0), 1)


@given(seeds, st.floats(0.01, 3.0), st.floats(0.01, 3.0))
def test_a_step_costs_the_divergence_of_its_transitions(seed, ours, theirs):
    """Catches D for 2D, |m| / 2D for |m|^2 / 4D, r for 1/r, a dimension left out, and the prior of another field."""
    bound, prior, k = bound_with(ours), prior_with(theirs, 0.3), torch.tensor([0, 1, 1])
    field = net(DIM, seed)
    trajectory = bound.rollout(PotentialFlow(field), normal(seed, 3, DIM), STEPS, generator=generator(seed))
    costs = bound.divergence(standard(3), trajectory, prior, k)
    assert costs.shape == (STEPS + 1, 3)
    torch.testing.assert_close(costs[0], torch.zeros(3, dtype=torch.float64), **near)
    for n in range(STEPS):
        mean = trajectory.z[n] + autograd_gradient(
            field, trajectory.z[n], torch.full((3,), float(n), dtype=torch.float64)
        )
        q = Normal(mean, (2 * bound.diffusion).sqrt())
        p = Normal(trajectory.z[n], (2 * prior.diffusivity[k]).sqrt().unsqueeze(-1))
        torch.testing.assert_close(costs[n + 1], kl_divergence(q, p).sum(-1), **near)


def test_equal_coefficients_cost_the_kinetic_energy():
    """Row 41; catches a constant that is left where r = 1, and an action that is not that of the drift."""
    bound, prior, field = bound_with(0.4), prior_with(0.4), net(DIM, 1)
    trajectory = bound.rollout(PotentialFlow(field), normal(2, 5, DIM), STEPS, generator=generator(0))
    costs = bound.divergence(standard(5), trajectory, prior, torch.zeros(5, dtype=torch.int64))
    torch.testing.assert_close(costs.sum(0), trajectory.action[-1] / (4 * 0.4), **near)


def test_the_best_diffusivity_is_stationary():
    """Row 41; catches a factor 2 or the dimension missing in D* = D_q + E|m|^2 / (2 d)."""
    bound, k = bound_with(0.15), torch.zeros(50, dtype=torch.int64)
    trajectory = bound.rollout(PotentialFlow(net(DIM, 3)), normal(4, 50, DIM), STEPS, generator=generator(1))
    best = 0.15 + trajectory.drift.square().sum(-1).mean().item() / (2 * DIM)

    def cost(diffusivity):
        prior = prior_with(diffusivity)
        total = bound.divergence(standard(50), trajectory, prior, k).sum(0).mean()
        return total, torch.autograd.grad(total, prior.raw)[0].item()

    assert abs(cost(best)[1]) < 1e-10
    assert cost(best)[0] < min(cost(0.9 * best)[0], cost(1.1 * best)[0])


def test_the_law_of_a_random_walk():
    """Catches D for 2D in the noise, noise that repeats, and noise that samples or coordinates share; 5 s.e."""
    count, size = 20_000, 0.3
    still = PotentialFlow(QuadraticPotential(DIM).double())
    trajectory = bound_with(size).rollout(
        still, torch.zeros(count, DIM, dtype=torch.float64), 3, generator=generator(5)
    )
    steps = (trajectory.z[1:] - trajectory.z[:-1]).permute(0, 2, 1).flatten(0, 1)  # (3 DIM, count)
    covariance, variance = steps @ steps.mT / count, 2 * size
    error = variance * (1 + torch.eye(len(steps), dtype=torch.float64)).sqrt() / count**0.5
    assert ((covariance - variance * torch.eye(len(steps), dtype=torch.float64)).abs() < 5 * error).all()
    assert (steps.mean(-1).abs() < 5 * (variance / count) ** 0.5).all()
    assert (trajectory.drift == 0).all()
    assert (trajectory.z[0] == 0).all()


def test_a_step_of_the_mean_may_fold():
    """Catches a volume that nobody reads, and an evaluation that stops where the noise spreads every fold."""
    flip = PotentialFlow(QuadraticPotential(DIM, -2 * eye)).eval()
    trajectory = bound_with(0.1).rollout(flip, normal(0, 3, DIM), 2, generator=generator(0))
    torch.testing.assert_close(trajectory.drift, -2 * trajectory.z[:-1], **near)
    assert trajectory.log_det is None


class Encoder:
    """Gives the sigma points of the posterior for the first frame, and what it measures for the others."""

    def __init__(self, first, posterior, measure):
        self.first, self.posterior, self.measure = first, posterior, measure

    def __call__(self, x):
        x = x.flatten(1)
        return self.posterior if torch.equal(x[0], self.first) else standard_at(x @ self.measure.mT)


def standard_at(mean):
    return Independent(Normal(mean, 1.0), 1)


class Given(MultivariateNormal):
    """A normal distribution whose "sample" is given."""

    def rsample(self, sample_shape=()):
        return self.points


class LinearDecoder(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, z):
        return (z @ self.weight.mT).reshape(len(z), 1, PIXELS, 1)


def affine(maps):
    """The potential whose unit step at time n is z -> F_n z + b_n."""
    steps = [QuadraticPotential(DIM, matrix - eye, vector) for matrix, vector in maps]
    return FunctionPotential(lambda z, t: sum((t.floor() == n) * u(z, t) for n, u in enumerate(steps)))


def bound_of(monkeypatch, x, weight, maps, mean, covariance, bound, diffusivity, measure=None):
    """The bound of the pixels (T+1, P), with the expectation over the posterior exact."""
    noises = DIM * len(x)
    noise = sigma_points(torch.zeros(noises, dtype=torch.float64), torch.eye(noises, dtype=torch.float64))
    first, *later = noise.split(DIM, -1)
    posterior = Given(mean.expand(2 * noises, DIM), covariance)
    posterior.points = mean + first @ torch.linalg.cholesky(covariance).mT
    draws = iter(later)
    monkeypatch.setattr(stochastic, "standard_normal_like", lambda *_: next(draws))
    model = FlowVAE(
        encoder=Encoder(x[0], posterior, torch.zeros(DIM, PIXELS, dtype=torch.float64) if measure is None else measure),
        decoder=LinearDecoder(weight),
        bank=PotentialBank([affine(maps)]),
        prior=prior_with(diffusivity),
        residual=None,
        likelihood=GaussianLikelihood(SCALE),
        bound=bound,
    ).eval()
    frames = x.reshape(1, len(x), 1, PIXELS, 1).expand(2 * noises, -1, -1, -1, -1)
    return model.objective(frames, torch.zeros(2 * noises, dtype=torch.int64)).bound


def chain(maps, mean, covariance, variance):
    """The joint law of z_0, ..., z_T where z_{t+1} = F_t z_t + b_t + noise of the variance."""
    means, rows = [mean], [[torch.linalg.cholesky(covariance)]]
    for matrix, vector in maps:
        means.append(matrix @ means[-1] + vector)
        rows.append([*(matrix @ block for block in rows[-1]), variance**0.5 * eye])
    zero = torch.zeros_like(eye)
    factor = torch.cat([torch.cat([*row, *[zero] * (len(rows) - len(row))], -1) for row in rows])
    return MultivariateNormal(torch.cat(means), factor @ factor.mT)


def evidence_and_posterior(x, weight, diffusivity):
    """The log-density of all pixels under the random walk, and the law of all latents given them."""
    rest = [(eye, torch.zeros(DIM, dtype=torch.float64))] * (len(x) - 1)
    prior = chain(rest, torch.zeros(DIM, dtype=torch.float64), eye, 2 * diffusivity).covariance_matrix
    emission = torch.block_diag(*[weight] * len(x))
    pixels = emission @ prior @ emission.mT + SCALE**2 * torch.eye(len(emission), dtype=torch.float64)
    gain = prior @ emission.mT @ torch.linalg.inv(pixels)
    covariance = prior - gain @ emission @ prior
    posterior = MultivariateNormal(gain @ x.flatten(), (covariance + covariance.mT) / 2)
    return MultivariateNormal(torch.zeros(len(pixels), dtype=torch.float64), pixels).log_prob(x.flatten()), posterior


@pytest.mark.parametrize("gain", [None, (0.3, 0.8)])
@pytest.mark.parametrize("seed", range(6))
def test_the_bound_is_the_evidence_of_the_state_space_model_minus_the_divergence(monkeypatch, seed, gain):
    """Row 36; catches every sign and constant of the cost, a stale point, and a correction by another frame's mean."""
    weight, x, measure = normal(seed, PIXELS, DIM), normal(seed + 50, STEPS + 1, PIXELS), normal(seed + 90, DIM, PIXELS)
    maps = [(spd(DIM, seed + 2 + n), normal(seed + 10 + n, DIM)) for n in range(STEPS)]
    mean, covariance, ours, theirs = normal(seed + 20, DIM), spd(DIM, seed + 21, 0.1, 1.0), 0.17, 0.4
    bound = bound_of(monkeypatch, x, weight, maps, mean, covariance, bound_with(ours, gain), theirs, measure)
    if gain is not None:
        g = torch.tensor(gain, dtype=torch.float64)
        maps = [((1 - g).diag() @ f, (1 - g) * b + g * (measure @ x[n + 1])) for n, (f, b) in enumerate(maps)]
    log_evidence, posterior = evidence_and_posterior(x, weight, theirs)
    gap = kl_divergence(chain(maps, mean, covariance, 2 * ours), posterior)
    torch.testing.assert_close(bound, log_evidence - gap, **near)
    assert bound <= log_evidence


@pytest.mark.parametrize("smoothing", [False, True])
def test_the_bound_is_tight_at_the_posterior(monkeypatch, smoothing):
    """Row 36; catches a constant missing on both sides, and a gain that is not that of the filter."""
    size, diffusivity = 1.3, 0.4
    weight = size * torch.linalg.qr(normal(1, PIXELS, DIM)).Q
    x = normal(2, 2, PIXELS)
    variance = 1 / (1 / (2 * diffusivity) + size**2 / SCALE**2)  # of z_1 given z_0 and x_1
    measure, gain = weight.mT / size**2, variance * size**2 / SCALE**2
    log_evidence, posterior = evidence_and_posterior(x, weight, diffusivity)
    maps = [(eye, 0 * x[0, :DIM])] if smoothing else [((1 - gain) * eye, gain * measure @ x[1])]
    bound = bound_with(variance / 2, (gain, gain) if smoothing else None)
    law = posterior.loc[:DIM], posterior.covariance_matrix[:DIM, :DIM]
    torch.testing.assert_close(bound_of(monkeypatch, x, weight, maps, *law, bound, diffusivity, measure), log_evidence)


def smoothing_trajectory(gain, future, z0, field, monkeypatch):
    """A trajectory of which every noise is 0.7."""
    monkeypatch.setattr(stochastic, "standard_normal_like", lambda x, _: torch.full_like(x, 0.7))
    return bound_with(0.02, gain).rollout(PotentialFlow(field), z0, STEPS, future)


def test_a_smoothing_posterior_corrects_its_forecast(monkeypatch):
    """Catches a correction of z_t, of the frame before, or by a gain that coordinates share."""
    field, z0, future, gain = (
        net(DIM, 1),
        normal(2, 4, DIM),
        normal(3, STEPS, 4, DIM),
        torch.tensor([0.2, 0.9]).double(),
    )
    trajectory = smoothing_trajectory(gain, future, z0, field, monkeypatch)
    z, action = z0, torch.zeros(4, dtype=torch.float64)
    for n in range(STEPS):
        velocity = autograd_gradient(field, z, torch.full((4,), float(n), dtype=torch.float64))
        drift = velocity + gain * (future[n] - z - velocity)
        torch.testing.assert_close(trajectory.drift[n], drift, **near)
        z, action = z + drift + (2 * 0.02) ** 0.5 * 0.7, action + velocity.square().sum(-1)
        torch.testing.assert_close(trajectory.z[n + 1], z, **near)
        torch.testing.assert_close(trajectory.action[n + 1], action, **near)
    assert trajectory.times.tolist() == list(range(STEPS + 1))


def test_the_limits_of_the_gain(monkeypatch):
    """Catches a gain of the wrong end: 0 looks at nothing, 1 lands on the encoder's mean."""
    field, z0, future = net(DIM, 1), normal(2, 4, DIM), normal(3, STEPS, 4, DIM)
    blind, sure = (smoothing_trajectory((g, g), future, z0, field, monkeypatch) for g in (1e-14, 1 - 1e-14))
    plain = bound_with(0.02).rollout(PotentialFlow(field), z0, STEPS)
    torch.testing.assert_close(blind.z, plain.z, **near)
    torch.testing.assert_close(sure.z[:-1] + sure.drift, future, **near)
    assert StochasticBound(DIM).gain.tolist() == pytest.approx([stochastic.GAIN] * DIM)
    assert StochasticBound().gain is None


@pytest.mark.parametrize("dynamics", [PotentialFlow, HopfLaxFlow])
def test_without_noise_it_is_the_path_of_the_flow(dynamics):
    """Catches a clock that restarts in every step, and a flow that is not asked where it is."""
    flow, z0 = dynamics(0.2 * net(DIM, 4)), normal(5, 6, DIM)
    trajectory = bound_with(1e-18).rollout(flow, z0, 3, generator=generator(0))
    expected = flow.rollout(z0, 3, log_det=None)
    torch.testing.assert_close(trajectory.z, expected.z, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(trajectory.action, expected.action, rtol=1e-7, atol=1e-7)
    assert bound_with(1.0).rollout(flow, z0, 0).drift.shape == (0, 6, DIM)


def build(bound, prior=None):
    prior = DiffusionPrior(DIM, 2, 0.2) if prior is None else prior
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bank = PotentialBank([MLPPotential(DIM, (6, 5)), MLPPotential(DIM, (6, 5))])
        parts = MLPEncoder((1, 3, 2), DIM, (8,)), MLPDecoder(DIM, (1, 3, 2), (8,)), bank, prior, None
        return FlowVAE(*parts, bound=bound)


@pytest.mark.parametrize("dim", [None, DIM])
def test_gradients_and_randomness_of_a_model(dim):
    """Catches a coefficient or a gain that does not learn, and a draw from the global source of randomness."""
    model, state = build(StochasticBound(dim)), torch.get_rng_state()
    first, second, other = (model.objective(*data, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.total, second.total)
    assert first.total != other.total
    first.total.backward()
    names = {name for name, p in model.named_parameters() if p.grad is not None and (p.grad != 0).all()}
    assert {"prior.raw", "bound._diffusion.raw", *([] if dim is None else ["bound.raw_gain"])} <= names
    lazy = [name for name, p in model.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert lazy == []


def test_a_prior_that_diffuses_from_another_start():
    """Catches a prior refused that has coefficients too."""
    prior = DiffusedPrior(MixturePrior(DIM, 3), 2, 0.2)
    assert torch.isfinite(build(StochasticBound(), prior).objective(*data, generator(0)).total)


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        (ValueError, "diffusion", lambda: StochasticBound(diffusion=0.0)),
        (TypeError, "prior", lambda: build(StochasticBound(), GaussianPrior(DIM)).objective(*data)),
        (ValueError, "future", lambda: StochasticBound(DIM).rollout(PotentialFlow(net(DIM, 0)), normal(0, 3, DIM), 2)),
        (
            TypeError,
            "trajectory",
            lambda: bound_with(0.1).divergence(standard(3), foreign, prior_with(0.2), 0 * data[1]),
        ),
    ],
)
def test_wrong_arguments(error, name, call):
    """Catches a prior without a coefficient, a trajectory of another bound, and a posterior without frames."""
    with pytest.raises(error, match=f"^{name}: expected"):
        call()
