"""Pictures made by the flow, and the parts that the model is made of."""

import math

import pytest
import torch
from closed_forms import autograd_gradient, generator, normal
from torch.distributions import Independent, Laplace, Normal
from torch.nn.functional import binary_cross_entropy_with_logits

from latentflow import DiffusionPrior, FlowVAE, HJResidual, MLPDecoder, MLPEncoder, MLPPotential, PotentialBank
from latentflow.vae import BernoulliLikelihood, GaussianLikelihood
from latentflow.vae.bounds import reparameterized_sample

SHAPE, DIM = (1, 3, 2), 2
x0 = torch.rand(4, *SHAPE, generator=generator(0))


def build(likelihood=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FlowVAE(
            encoder=MLPEncoder(SHAPE, DIM, (8,)),
            decoder=MLPDecoder(DIM, SHAPE, (8,)),
            bank=PotentialBank([MLPPotential(DIM, (6, 5)) for _ in range(3)]),
            prior=DiffusionPrior(DIM, fields=3),
            residual=HJResidual(),
            likelihood=likelihood,
        ).eval()


K = torch.tensor([2, 0, 1, 2])


@pytest.mark.parametrize("likelihood", [BernoulliLikelihood(), GaussianLikelihood(0.5)])
@pytest.mark.parametrize(
    ("choose", "weights"),
    [
        (lambda bank: 1, torch.eye(3)[1].expand(4, 3)),
        (lambda bank: K, torch.eye(3)[K]),
        (lambda bank: bank[0] + 0.5 * bank[1], torch.tensor([1.0, 0.5, 0.0]).expand(4, 3)),
        (lambda bank: bank.superpose(), torch.ones(4, 3)),
        (lambda bank: bank.mix(torch.tensor([0.2, 0.3, 0.5])), torch.tensor([0.2, 0.3, 0.5]).expand(4, 3)),
    ],
    ids=["index", "indices", "expression", "superposed", "mixed"],
)
def test_generate_equals_a_rollout_by_hand(likelihood, choose, weights):
    """Catches a random latent, a lost first frame, frames in the wrong order, and logits for pictures."""
    model = build(likelihood)
    frames = model.generate(x0, choose(model.bank), steps=3)
    assert frames.shape == (4, 4, *SHAPE)
    z = model.encoder(x0).mean
    for t in range(4):
        decoded = model.decoder(z)
        picture = decoded.sigmoid() if isinstance(likelihood, BernoulliLikelihood) else decoded
        torch.testing.assert_close(frames[:, t], picture)
        velocities = torch.stack(
            [autograd_gradient(u, z, torch.full((4,), float(t))) for u in model.bank.potentials], 1
        )
        z = z + (weights.unsqueeze(-1) * velocities).sum(1)
    torch.testing.assert_close(frames[:, 0], model.decode(model.encode(x0).mean).mean)


def test_flow_of_one_latent_and_of_many():
    """Catches a decoder or a flow that takes one batch dimension only."""
    model, z = build(), normal(0, 2, 3, DIM).float()
    trajectory = model.flow_of(1).rollout(z, steps=2, log_det=None)
    torch.testing.assert_close(trajectory.z[:, 1, 2], model.flow_of(model.bank[1]).rollout(z[1, 2], steps=2).z)
    torch.testing.assert_close(model.decode(trajectory.z).mean[2, 1, 2], model.decode(trajectory.z[2, 1, 2]).mean)
    assert trajectory.log_det is None


def test_flow_of_one_latent_by_index():
    """Catches groups that need a batch."""
    model, z = build(), normal(0, DIM).float()
    torch.testing.assert_close(
        model.flow_of(1).rollout(z, steps=2).z, model.flow_of(model.bank[1]).rollout(z, steps=2).z
    )


def test_double_precision():
    """Catches a dtype that does not follow the input."""
    model = build().double()
    frames = torch.stack([x0, x0], 1).double()
    assert model.generate(x0.double(), K, 2).dtype == torch.float64
    assert model.objective(frames, K, generator(0)).total.dtype == torch.float64


def test_flow_stays_in_float32_under_autocast():
    """Catches a generated trajectory in bfloat16."""
    model, z = build(), normal(0, 4, DIM).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.flow_of(K).rollout(z, steps=3)
    torch.testing.assert_close(mixed.z, model.flow_of(K).rollout(z, steps=3).z, rtol=0, atol=0)


def test_flow_leaves_the_mode_of_a_potential_alone():
    """Catches an evaluation that switches somebody else's module to evaluation mode."""
    potential = MLPPotential(DIM, (4,))
    build().generate(x0, potential, 2)
    assert potential.training


def test_generate_draws_nothing():
    """Catches a sample of the posterior in place of its mean."""
    model, state = build(), torch.get_rng_state()
    assert torch.equal(model.generate(x0, K, 2), model.generate(x0, K, 2))
    assert torch.equal(state, torch.get_rng_state())


def test_reparameterized_sample_has_the_law_and_the_gradients():
    """Catches a variance for a standard deviation, and a sample without a trajectory for gradients."""
    mean, scale = normal(0, 2, 3).requires_grad_(), (normal(1, 2, 3).abs() + 0.5).requires_grad_()
    many = Independent(Normal(mean.expand(40_000, 2, 3), scale.expand(40_000, 2, 3)), 1)
    sample = reparameterized_sample(many, generator(0)).detach()
    noise = (sample - mean.detach()) / scale.detach()
    assert (noise.mean(0).abs() < 5 / 200).all()
    assert ((noise.square().mean(0) - 1).abs() < 5 * math.sqrt(2) / 200).all()
    one = reparameterized_sample(Normal(mean, scale), generator(1))
    to_mean, to_scale = torch.autograd.grad(one.sum(), (mean, scale))
    torch.testing.assert_close(to_mean, torch.ones_like(mean))
    torch.testing.assert_close(mean + scale * to_scale, one)


def test_reparameterized_sample_and_generators():
    """Catches a generator that is ignored, silently or because the distribution cannot take one."""
    normals, state = Independent(Normal(torch.zeros(4, 2), 1.0), 1), torch.get_rng_state()
    first, second, other = (reparameterized_sample(normals, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    laplace = Independent(Laplace(torch.zeros(4, 2), 1.0), 1)
    with pytest.raises(TypeError, match=r"^generator: expected None for a Laplace"):
        reparameterized_sample(laplace, generator(0))
    torch.manual_seed(0)
    free = reparameterized_sample(laplace)
    torch.manual_seed(0)
    assert torch.equal(free, laplace.rsample())


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_bernoulli_is_the_cross_entropy(batch):
    """Catches probabilities for logits, a mean over pixels, and pixels between 0 and 1 that are refused."""
    logits, x = 30 * normal(0, *batch, *SHAPE), normal(1, *batch, *SHAPE).sigmoid()
    likelihood = BernoulliLikelihood()(logits)
    cross_entropy = binary_cross_entropy_with_logits(logits, x, reduction="none").sum((-3, -2, -1))
    torch.testing.assert_close(likelihood.log_prob(x), -cross_entropy)
    torch.testing.assert_close(likelihood.mean, logits.sigmoid())


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_gaussian_has_its_constant(scale):
    """Catches a dropped normaliser, a variance for a standard deviation, and a mean over pixels."""
    decoded, x = normal(0, 2, *SHAPE), normal(1, 2, *SHAPE)
    by_hand = -(x - decoded).square().sum((1, 2, 3)) / (2 * scale**2) - 3 * math.log(2 * math.pi * scale**2)
    torch.testing.assert_close(GaussianLikelihood(scale)(decoded).log_prob(x), by_hand)


def test_encoder_head_is_mean_and_log_variance():
    """Catches swapped halves, and a log standard deviation for a log variance."""
    encoder = MLPEncoder(SHAPE, DIM, (8,))
    with torch.no_grad():
        encoder.head.linear.weight.zero_()
        encoder.head.linear.bias.copy_(torch.tensor([1.0, 2.0, math.log(4.0), math.log(9.0)]))
    posterior = encoder(x0)
    torch.testing.assert_close(posterior.mean, torch.tensor([1.0, 2.0]).expand(4, 2))
    torch.testing.assert_close(posterior.stddev, torch.tensor([2.0, 3.0]).expand(4, 2))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("scale", lambda: GaussianLikelihood(0.0)),
        ("hidden", lambda: MLPEncoder(SHAPE, DIM, ())),
        ("hidden", lambda: MLPDecoder(DIM, SHAPE, (8, 0))),
    ],
)
def test_wrong_arguments(name, call):
    """Catches messages that do not name the argument."""
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
