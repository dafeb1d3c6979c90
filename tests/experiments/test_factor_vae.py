"""FactorVAE: two players in one backward pass, and the total correlation of a Gaussian."""

import math

import pytest
import torch
from closed_forms import generator
from torch import nn
from torch.distributions import Independent, Normal

from latentflow import MLPDecoder, MLPEncoder
from latentflow.vae import BernoulliLikelihood, GaussianLikelihood
from latentflow_experiments.methods.factor_vae import (
    FactorVAE,
    discriminator_loss,
    permute_coordinates,
    total_correlation,
)

SHAPE, DIM = (1, 3, 2), 3
frames = torch.rand(4, 5, *SHAPE, generator=generator(0))
k = torch.tensor([0, 1, 1, 0])


def build(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder, decoder = MLPEncoder(SHAPE, DIM, (8,)), MLPDecoder(DIM, SHAPE, (8,))
        return FactorVAE(encoder, decoder, BernoulliLikelihood(), DIM, **({"hidden": (8, 8)} | options))


def gradients(term, module):
    return torch.autograd.grad(term, list(module.parameters()), allow_unused=True, retain_graph=True)


class Spy(nn.Module):
    """A discriminator that keeps what it is shown and whether gradients flow into it."""

    def __init__(self, logits=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.logits = logits or (lambda z: torch.zeros(len(z), 2))
        self.seen = []

    def forward(self, z):
        self.seen.append(z)
        return self.weight * self.logits(z).to(z)


def test_the_discriminator_teaches_the_autoencoder_nothing():
    """Catches latents that are not detached in the discriminator's loss: the encoder would help it."""
    model = build()
    term = model(frames, k, generator(0))["discriminator"]
    for part in (model.encoder, model.decoder):
        assert all(gradient is None for gradient in gradients(term, part))
    assert all((gradient != 0).any() for gradient in gradients(term, model.discriminator))


def test_the_total_correlation_teaches_the_discriminator_nothing():
    """Catches weights that are not held constant in the total correlation: the discriminator would be blinded."""
    model = build()
    term = model(frames, k, generator(0))["total_correlation"]
    assert all(gradient is None for gradient in gradients(term, model.discriminator))
    assert all((gradient != 0).any() for gradient in gradients(term, model.encoder))


def test_one_backward_pass_trains_both():
    """Catches a total whose gradients differ from those that each player has alone, and a missing gamma."""
    model = build(gamma=3.0)
    terms = model(frames, k, generator(0))
    ours = terms["reconstruction"] + terms["kl"] + 3 * terms["total_correlation"]
    torch.testing.assert_close(terms["total"], ours + terms["discriminator"])
    torch.testing.assert_close(gradients(terms["total"], model.encoder), gradients(ours, model.encoder))
    theirs = gradients(terms["discriminator"], model.discriminator)
    torch.testing.assert_close(gradients(terms["total"], model.discriminator), theirs)


def test_what_the_discriminator_sees():
    """Catches one class only, halves that overlap, whole samples permuted, and a permutation of the joint class."""
    model = build()
    model.discriminator = Spy()
    model(frames, k, generator(7))
    source = generator(7)
    posterior = model.encoder(frames.flatten(0, 1))
    z = posterior.mean + posterior.stddev * torch.randn(posterior.mean.shape, generator=source)
    known = {tuple(row.tolist()) for row in z}
    correlated, joint, permuted = model.discriminator.seen
    assert correlated.requires_grad
    assert not joint.requires_grad
    assert not permuted.requires_grad
    torch.testing.assert_close(correlated, joint)
    assert len(joint) == len(permuted) == 10
    assert {tuple(row.tolist()) for row in joint} < known
    assert not known & {tuple(row.tolist()) for row in permuted}
    both = torch.cat([joint, permuted])
    torch.testing.assert_close(both.sort(0).values, z.detach().sort(0).values)


def test_both_classes_count():
    """Catches swapped labels, a class that is left out, and a sum in place of the mean of both."""
    model = build()
    model.discriminator = Spy(lambda z: torch.tensor([2.0, 0.5]).expand(len(z), 2))
    terms = model(frames, k, generator(0))
    chance = math.exp(2.0) / (math.exp(2.0) + math.exp(0.5))
    expected = -(math.log(chance) + math.log(1 - chance)) / 2
    torch.testing.assert_close(terms["discriminator"], torch.tensor(expected))
    torch.testing.assert_close(terms["total_correlation"], torch.tensor(1.5))
    sure = torch.tensor([[9.0, 0.0]])
    assert discriminator_loss(sure, -sure) < 1e-3 < discriminator_loss(-sure, sure)


def test_permutation():
    """Catches values that are lost or doubled, and coordinates that are permuted together."""
    z = torch.randn(2000, DIM, generator=generator(0)).double()
    z[:, 1] = z[:, 0]
    permuted = permute_coordinates(z, generator(1))
    assert torch.equal(permuted.sort(0).values, z.sort(0).values)
    assert torch.corrcoef(permuted.T).fill_diagonal_(0).abs().max() < 4 / 2000**0.5  # four standard errors
    fixed = (permuted == z).double().mean(0)
    assert (fixed < 0.01).all()
    assert torch.equal(permuted, permute_coordinates(z, generator(1)))


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_total_correlation_of_a_gaussian(correlation):
    """Catches swapped logits and a halved estimate: with the optimal discriminator it is -log det(R) / 2."""
    covariance = torch.tensor([[1.0, correlation, 0.2], [correlation, 2.0, 0.0], [0.2, 0.0, 0.5]]).double()
    noise = 0.1
    root = torch.linalg.cholesky(covariance - noise**2 * torch.eye(3))

    def optimal(z):
        joint = torch.distributions.MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(z)
        marginals = Normal(0.0, covariance.diagonal().sqrt()).log_prob(z).sum(-1)
        return torch.stack([joint, marginals], -1)

    model = FactorVAE(
        lambda x: Independent(Normal(x.flatten(1) @ root.T, noise), 1),
        lambda z: z.reshape(-1, 1, 1, 3),
        GaussianLikelihood(),
        dim=3,
    )
    model.discriminator = Spy(optimal).double()
    images = torch.randn(20_000, 1, 1, 1, 3, generator=generator(1), dtype=torch.float64)
    estimate = model(images, k, generator(2))["total_correlation"]
    scale = covariance.diagonal().sqrt()
    exact = -torch.logdet(covariance / scale / scale.unsqueeze(-1)) / 2
    single = optimal(model.discriminator.seen[0])
    error = (single[:, 0] - single[:, 1]).std() / 10_000**0.5
    assert (estimate - exact).abs() < 4 * error  # four standard errors of 10,000 samples
    assert error < 0.02
    torch.testing.assert_close(estimate, total_correlation(single))


def test_discriminator():
    """Catches a missing layer, another slope, and a wrong number of logits."""
    with torch.random.fork_rng():
        model = FactorVAE(MLPEncoder(SHAPE, DIM), MLPDecoder(DIM, SHAPE), BernoulliLikelihood(), DIM)
    linear = [layer for layer in model.discriminator if isinstance(layer, nn.Linear)]
    widths = [(layer.in_features, layer.out_features) for layer in linear]
    assert widths == [(DIM, 1000), *[(1000, 1000)] * 4, (1000, 2)]
    slopes = [layer.negative_slope for layer in model.discriminator if not isinstance(layer, nn.Linear)]
    assert slopes == [0.2] * 5


def test_parameter_groups():
    """Catches a parameter in both groups or in none, and the autoencoder's momentum for the discriminator."""
    model = build(discriminator_scale=0.5)
    ours, theirs = model.parameter_groups()
    assert {id(p) for p in theirs["params"]} == {id(p) for p in model.discriminator.parameters()}
    everything = [id(p) for p in (*ours["params"], *theirs["params"])]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())
    assert (theirs["betas"], theirs["scale"]) == ((0.5, 0.9), 0.5)
    optimizer = torch.optim.Adam(model.parameter_groups(), fused=True)
    assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.999), (0.5, 0.9)]


def test_small_batches():
    """Catches an odd image that breaks the halves, and halves that cannot be permuted."""
    model = build()
    assert model(frames[:1], k[:1], generator(0))["total"].isfinite()
    with pytest.raises(ValueError, match=r"^frames: expected .* at least 4 images"):
        model(frames[:1, :3], k[:1])
