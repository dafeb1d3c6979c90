"""Every prior inside the model: divergences in closed form, gradients, states and checkpoints."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import generator, normal, sigma_points, spd
from hypothesis import given
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    GaussianPrior,
    HJResidual,
    JointBound,
    MarginalBound,
    MixturePrior,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
    TransportedPrior,
    VampPrior,
)
from latentflow.priors import DiffusedPrior
from latentflow.vae.bounds import estimate_divergence

SHAPE, DIM, STEPS = (1, 3, 2), 2, 2
frames = torch.rand(4, STEPS + 1, *SHAPE, generator=generator(0))
k = torch.tensor([1, 0, 1, 1])
near = {"rtol": 1e-11, "atol": 1e-11}
seeds = st.integers(0, 2**31 - 100)

PRIORS = {
    "gaussian": lambda encoder, bank: GaussianPrior(DIM),
    "diffusion": lambda encoder, bank: DiffusionPrior(DIM, 2, 0.2),
    "mixture": lambda encoder, bank: MixturePrior(DIM, 3),
    "vamp": lambda encoder, bank: VampPrior(encoder, frames[:3, 0]),
    "diffused mixture": lambda encoder, bank: DiffusedPrior(MixturePrior(DIM, 3), 2, 0.2),
    "diffused vamp": lambda encoder, bank: DiffusedPrior(VampPrior(encoder, frames[:3, 0]), 2, 0.2),
    "transported gaussian": lambda encoder, bank: TransportedPrior(GaussianPrior(DIM), bank),
    "transported vamp": lambda encoder, bank: TransportedPrior(VampPrior(encoder, frames[:3, 0]), bank),
    "transported elsewhere": lambda encoder, bank: TransportedPrior(MixturePrior(DIM, 3), copy.deepcopy(bank)),
}


def build(name, bound=None, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = MLPEncoder(SHAPE, DIM, (8,))
        bank = PotentialBank([MLPPotential(DIM, (6, 5)), MLPPotential(DIM, (6, 5))])
        prior = PRIORS[name](encoder, bank)
        decoder = MLPDecoder(DIM, SHAPE, (8,))
        return FlowVAE(encoder, decoder, bank, prior, HJResidual(), bound=bound or MarginalBound())


@pytest.mark.parametrize("name", PRIORS)
def test_objective_by_hand_and_gradients(name):
    """Catches a prior of another time or field, and parameters that the objective does not reach."""
    model = build(name)
    objective = model.objective(frames, k, generator(3))
    posterior = model.encode(frames[:, 0])
    z0 = posterior.mean + posterior.stddev * torch.randn(4, DIM, generator=generator(3))
    trajectory = PotentialFlow(model.bank.select(k)).rollout(z0, STEPS)
    for t in range(STEPS + 1):
        terms = []
        for i in range(4):
            law = model.prior(float(t), int(k[i]))
            terms.append(posterior.log_prob(z0)[i] - trajectory.log_det[t, i] - law.log_prob(trajectory.z[t, i]))
            if t == 0 and name in ("gaussian", "diffusion"):
                one = Normal(posterior.mean[i], posterior.stddev[i])
                terms[-1] = kl_divergence(one, Normal(torch.zeros(DIM), torch.ones(DIM))).sum()
        torch.testing.assert_close(objective.kl_per_time[t], torch.stack(terms).mean(), rtol=1e-4, atol=1e-4)
    objective.total.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert silent == []
    assert all((p.grad != 0).any() for p in model.prior.parameters())


@pytest.mark.parametrize("name", PRIORS)
def test_states_are_complete(name, tmp_path):
    """Catches a checkpoint that loses a prior, or cannot hold an encoder or a bank that the prior shares."""
    model, other = build(name), build(name, seed=1)
    torch.save(model.state_dict(), tmp_path / "state")
    expected = model.objective(frames, k, generator(0)).total
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert torch.equal(other.objective(frames, k, generator(0)).total, expected)
    duplicate = copy.deepcopy(model)
    assert len(list(duplicate.parameters())) == len({id(p) for p in model.parameters()})
    assert torch.equal(duplicate.objective(frames, k, generator(0)).total, expected)


def test_a_shared_encoder_is_trained_once():
    """Catches an encoder that an optimizer would step twice, or that moves apart from the VAE's."""
    model = build("vamp").double()
    assert model.prior.encoder is model.encoder
    names = [name for name, _ in model.named_parameters()]
    assert [name for name in names if name.startswith("prior.")] == ["prior.raw"]
    assert model.prior().log_prob(torch.zeros(DIM, dtype=torch.float64)).dtype == torch.float64


def normals(seed, batch=()):
    mean, spread = normal(seed, *batch, DIM), normal(seed + 1, *batch, DIM)
    return Independent(Normal(mean, (0.3 * spread).exp()), 1)


@given(seeds)
def test_the_divergence_is_the_integral(seed):
    """Catches a reversed divergence, and a closed form without its sum over coordinates."""
    q, p = normals(seed, (3,)), normals(seed + 10)
    closed = estimate_divergence(q, p, torch.full((3, DIM), float("nan"), dtype=torch.float64))
    axis = torch.arange(-60, 61, dtype=torch.float64) / 6
    grid = torch.cartesian_prod(axis, axis)
    for i in range(3):
        z = q.mean[i] + q.stddev[i] * grid
        log_q = q.log_prob(z.unsqueeze(1))[:, i]
        integral = (log_q.exp() * (log_q - p.log_prob(z))).sum() * q.stddev[i].prod() / 36
        torch.testing.assert_close(closed[i], integral, **near)
        assert closed[i] > 0


def test_without_a_closed_form_it_is_the_sample():
    """Catches an error where torch has no closed form, and a sample of the wrong sign."""
    q = normals(0, (5,))
    p = MixtureSameFamily(Categorical(logits=normal(3, 4)), normals(5, (4,)))
    z = q.sample()
    torch.testing.assert_close(estimate_divergence(q, p, z), q.log_prob(z) - p.log_prob(z))
    full = MultivariateNormal(torch.zeros(DIM, dtype=torch.float64), spd(DIM, 0))
    torch.testing.assert_close(estimate_divergence(q, full, z), q.log_prob(z) - full.log_prob(z))


@pytest.mark.parametrize("bound", [MarginalBound(), JointBound()])
def test_the_first_divergence_has_no_noise(bound):
    """Catches an estimate by the sample where the closed form is known, and a bias against that of the sample."""
    model = build("diffusion", bound).double()
    posterior = model.encode(frames[:, 0].double())
    torch.manual_seed(0)
    z = posterior.sample((4000,))
    paths = [PotentialFlow(model.bank.select(k)).rollout(z0, STEPS) for z0 in z[:3]]
    found = torch.stack([bound.divergence(posterior, trajectory, model.prior, k) for trajectory in paths])
    assert torch.equal(found[:, 0], found[:1, 0].expand(3, 4))
    sampled = posterior.log_prob(z) - model.prior(0.0, k).log_prob(z)
    error = sampled.std(0) / 4000**0.5
    assert (error > 1e-3).all()
    assert ((found[0, 0] - sampled.mean(0)).abs() < 5 * error).all()


class SigmaPoints(MultivariateNormal):
    """A normal distribution whose "sample" of batch size 2 dim is its sigma points."""

    def rsample(self, sample_shape=()):
        return sigma_points(self.loc[0], self.covariance_matrix[0])


@given(seeds)
def test_a_shared_flow_keeps_the_divergence(seed):
    """Catches a transported prior whose log_det is that of other points, and one that is followed from other times."""
    eye = torch.eye(DIM, dtype=torch.float64)
    bank = PotentialBank([QuadraticPotential(DIM, spd(DIM, seed + i) - eye, normal(seed + 5 + i, DIM)) for i in (0, 1)])
    mean, covariance = normal(seed + 8, DIM), spd(DIM, seed + 9)
    posterior = SigmaPoints(mean.expand(2 * DIM, DIM), covariance)
    index = torch.tensor([0, 1, 0, 1])
    trajectory = PotentialFlow(bank.select(index)).rollout(posterior.rsample(), 3)
    prior = TransportedPrior(GaussianPrior(DIM).double(), bank).eval()
    found = MarginalBound().divergence(posterior, trajectory, prior, index)
    by_sample = posterior.log_prob(trajectory.z[0]) - prior(0.0, 0).log_prob(trajectory.z[0])
    torch.testing.assert_close(found, by_sample.expand(4, 4), **near)
    standard = MultivariateNormal(torch.zeros(DIM, dtype=torch.float64), eye)
    closed = kl_divergence(MultivariateNormal(mean, covariance), standard)
    torch.testing.assert_close(found.mean(-1), closed.expand(4), **near)


def test_a_path_that_starts_later():
    """Catches a divergence that is always taken at time 0."""
    model = build("diffusion").double()
    posterior = model.encode(frames[:, 0].double())
    trajectory = PotentialFlow(model.bank.select(k)).rollout(posterior.mean, 1, start=3.0)
    found = MarginalBound().divergence(posterior, trajectory, model.prior, k)[0]
    variance = (1 + 6 * model.prior.diffusivity[k]).unsqueeze(-1)
    law = Normal(torch.zeros_like(variance), variance.sqrt())
    torch.testing.assert_close(found, kl_divergence(posterior.base_dist, law).sum(-1))
