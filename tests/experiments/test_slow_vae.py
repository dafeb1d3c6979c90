"""SlowVAE: the divergence from a Laplace transition, and which frames are pairs."""

import math

import pytest
import torch
from closed_forms import generator, normal
from torch.distributions import Independent, Laplace, Normal, StudentT

from latentflow import MLPDecoder, MLPEncoder
from latentflow.vae import BernoulliLikelihood
from latentflow_experiments.methods.slow_vae import SlowVAE, expected_absolute, laplace_divergence
from latentflow_experiments.methods.vae import BetaVAE

SHAPE, DIM, RATE = (1, 3, 2), 3, 6.0
frames = torch.rand(4, 5, *SHAPE, generator=generator(0))
k = torch.tensor([0, 1, 1, 0])
means = torch.tensor([0.0, 0.05, -0.3, 1.2, -2.0], dtype=torch.float64).repeat_interleave(3)
scales = torch.tensor([0.03, 0.4, 1.5], dtype=torch.float64).repeat(5)


def build(model=SlowVAE, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model(MLPEncoder(SHAPE, DIM, (8,)), MLPDecoder(DIM, SHAPE, (8,)), BernoulliLikelihood(), **options)


def cross_entropy(mean, scale):
    return laplace_divergence(mean, scale, RATE) + Normal(mean, scale).entropy()


def test_cross_entropy_by_monte_carlo():
    """Catches a wrong sign, scale or rate in the closed form of the cross-entropy."""
    count = 100_000
    x = means + scales * normal(1, count, len(means))
    samples = -Laplace(torch.zeros_like(means), 1 / RATE).log_prob(x)
    error = samples.std(0) / count**0.5
    assert ((samples.mean(0) - cross_entropy(means, scales)).abs() < 4 * error).all()  # four standard errors


def test_divergence_by_quadrature():
    """Catches constants that Monte Carlo does not resolve, in the cross-entropy and the entropy."""
    grid = torch.linspace(-1, 1, 400_001, dtype=torch.float64)
    for mean, scale in zip(means, scales, strict=True):
        x = mean + 12 * scale * grid
        q, p = Normal(mean, scale), Laplace(torch.zeros_like(mean), 1 / RATE)
        divergence = torch.trapezoid(q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x)), x)
        torch.testing.assert_close(laplace_divergence(mean, scale, RATE), divergence, rtol=1e-7, atol=1e-7)


def test_divergence_is_positive_and_least_where_it_should_be():
    """Catches a missing entropy: the best normal approximation of a Laplace variable is centred, of scale s."""
    assert (laplace_divergence(means, scales, RATE) > 0).all()
    best = math.sqrt(math.pi / 2) / RATE  # where rate * sqrt(2 / pi) = 1 / s
    mean = torch.zeros((), dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(best, dtype=torch.float64, requires_grad=True)
    slopes = torch.autograd.grad(laplace_divergence(mean, scale, RATE), (mean, scale))
    torch.testing.assert_close(slopes, (torch.zeros_like(mean), torch.zeros_like(scale)), rtol=0, atol=1e-12)


def test_limits():
    """Catches NaN in values or gradients of tiny scales, and a limit that is not |m|."""
    for dtype in (torch.float32, torch.float64):
        mean = torch.tensor([-1.5, 0.7, 0.0, 3.0], dtype=dtype, requires_grad=True)
        scale = torch.tensor([1e-4, 1e-6, 1e-12, 1e-15], dtype=dtype, requires_grad=True)
        value = expected_absolute(mean, scale)
        torch.testing.assert_close(value, mean.abs())
        by_mean, by_scale = torch.autograd.grad(value.sum(), (mean, scale))
        torch.testing.assert_close(by_mean, torch.tensor([-1.0, 1.0, 0.0, 1.0], dtype=dtype))
        torch.testing.assert_close(by_scale, torch.tensor([0.0, 0.0, math.sqrt(2 / math.pi), 0.0], dtype=dtype))
    inputs = (means.clone().requires_grad_(), scales.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda m, s: laplace_divergence(m, s, RATE), inputs)


def test_every_term_by_hand():
    """Catches a lost direction or entropy, terms of another scale, and the other frame's scale in the divergence."""
    model = build(beta=0.5, gamma=2.0, rate=3.0)
    terms = model(frames, k, generator(5))
    posterior = model.encoder(frames.flatten(0, 1))
    mean, scale = (part.reshape(4, 5, DIM) for part in (posterior.mean.detach(), posterior.stddev.detach()))
    total = 0.0
    for sequence in range(4):
        for t in range(1, 5):
            for a, b in ((t, t - 1), (t - 1, t)):
                for i in range(DIM):
                    m, s = float(mean[sequence, a, i] - mean[sequence, b, i]), float(scale[sequence, a, i])
                    phi = (1 + math.erf(-m / s / math.sqrt(2))) / 2
                    absolute = s * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * s**2)) + m * (1 - 2 * phi)
                    total += 3 * absolute - math.log(3 / 2) - math.log(2 * math.pi * math.e * s**2) / 2
    torch.testing.assert_close(terms["transition"], torch.tensor(total / 16))
    plain = build(BetaVAE, beta=0.5)(frames, k, generator(5))
    torch.testing.assert_close(terms["reconstruction"], plain["reconstruction"])
    torch.testing.assert_close(terms["kl"], plain["kl"])
    torch.testing.assert_close(terms["total"], plain["total"] + 2 * terms["transition"])


def test_without_a_transition_it_is_the_beta_vae():
    """Catches interior frames that count twice, and a weight that does not reach its term."""
    slow, plain = build(gamma=0.0, beta=2.0), build(BetaVAE, beta=2.0)
    torch.testing.assert_close(slow(frames, k, generator(0))["total"], plain(frames, k, generator(0))["total"])


def test_pairs_stay_within_a_sequence():
    """Catches pairs of neighbours in the batch, pairs left out, and a pair of the last and the first frame."""
    model = build()
    mean = torch.arange(4.0).reshape(4, 1, 1).expand(4, 5, 1) * 100  # sequences far apart, each of them still
    scale = torch.full_like(mean, 0.2)
    still = 2 * laplace_divergence(torch.zeros(()), torch.tensor(0.2), RATE)
    torch.testing.assert_close(model.transition(mean, scale), still.expand(4, 4))
    jumps = mean.clone()
    jumps[2, 3:] += 1.0  # between the third and the fourth frame of one sequence
    moved = model.transition(jumps, scale) > still + 1
    assert moved.nonzero().tolist() == [[2, 2]]
    order = torch.tensor([2, 0, 3, 1])
    backwards = model.transition(jumps.flip(1), scale.flip(1)).flip(1)
    torch.testing.assert_close(backwards, model.transition(jumps, scale))
    torch.testing.assert_close(model.transition(jumps[order], scale[order]), model.transition(jumps, scale)[order])


def test_each_frame_is_encoded_and_decoded_once():
    """Catches interior frames that are encoded for both of their pairs."""
    model = build()
    seen = []
    model.encoder.register_forward_hook(lambda module, arguments, output: seen.append(len(arguments[0])))
    model.decoder.register_forward_hook(lambda module, arguments, output: seen.append(len(arguments[0])))
    model(frames, k, generator(0))
    assert seen == [20, 20]


def test_what_is_refused():
    """Catches sequences without a pair, a rate of the wrong sign, and an encoder without a closed form."""
    with pytest.raises(ValueError, match=r"^frames: expected .* at least two frames"):
        build()(frames[:, :1], k)
    with pytest.raises(ValueError, match=r"^rate: expected a positive"):
        laplace_divergence(means, scales, -1.0)
    model = build()
    encoder = model.encoder
    del model.encoder
    model.encoder = lambda x: Independent(StudentT(5.0, encoder(x).mean, 1.0), 1)
    with pytest.raises(TypeError, match=r"^encoder: expected a normal"):
        model(frames, k)
