"""The distribution of an inferred label: its samples, its divergence, its penalty."""

import math

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import generator, normal
from hypothesis import given
from torch import nn
from torch.distributions import Categorical, kl_divergence

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    HJResidual,
    LabelPosterior,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
)
from latentflow.vae import ExactSum, MLPSequenceClassifier, StraightThrough, annealed_temperature

SHAPE, FRAMES, CLASSES = (2, 3, 2), 4, 3
seeds = st.integers(0, 2**31 - 100)
temperatures = pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 6.0])


def classifier(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLPSequenceClassifier(SHAPE, FRAMES, CLASSES, (8,)).double()


def frames(seed=0, batch=5):
    return torch.rand(batch, FRAMES, *SHAPE, generator=generator(seed), dtype=torch.float64)


def categorical(logits):
    return Categorical(logits=logits, validate_args=False)


def draw(logits, temperature, seed):
    return StraightThrough(temperature).assign(categorical(logits), generator(seed)).responsibilities


@temperatures
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_straight_through_sample_is_exactly_one_hot(temperature, dtype):
    """Catches a soft sample in the forward pass, and the rounding of hard + soft - soft."""
    sample = draw(3 * normal(1, 500, CLASSES).to(dtype), temperature, 2)
    assert sample.dtype == dtype
    assert ((sample == 0) | (sample == 1)).all()
    assert (sample.sum(-1) == 1).all()


def test_probabilities_have_the_precision_of_float32():
    """Catches a divergence in bfloat16, where a certain label is 1.1016 nats from the uniform one, beyond log 3."""
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [0.0, 0.0, 9.0]]).bfloat16()
    posterior = LabelPosterior(lambda _: logits)
    q = posterior(frames(batch=4).bfloat16())
    assert q.logits.dtype == torch.float32
    exact = Categorical(logits=logits.double(), validate_args=False)
    expected = posterior.collapse_penalty(exact).float()
    torch.testing.assert_close(posterior.collapse_penalty(q), expected, rtol=1e-4, atol=0)
    assert (posterior.divergence(q) <= math.log(3)).all()


@temperatures
def test_its_gradient_is_that_of_the_soft_sample_at_the_same_noise(temperature):
    """Catches noise drawn twice, a detached sample, a temperature of the logits only, and the gradient of q itself."""
    logits, weights = normal(3, 7, CLASSES), normal(4, 7, CLASSES)
    ours = logits.clone().requires_grad_()
    (draw(ours, temperature, 5) * weights).sum().backward()
    soft = logits.clone().requires_grad_()
    gumbel = -torch.empty(7, CLASSES, dtype=torch.float64).exponential_(generator=generator(5)).log()
    (((soft.log_softmax(-1) + gumbel) / temperature).softmax(-1) * weights).sum().backward()
    torch.testing.assert_close(ours.grad, soft.grad, rtol=1e-12, atol=1e-12)
    assert (ours.grad != 0).any()


@temperatures
def test_the_law_of_a_sample_is_the_posterior_at_any_temperature(temperature):
    """Catches noise of another law, noise divided by the temperature, and logits sharpened by it; 5 s.e."""
    count, logits = 40_000, torch.tensor([0.0, 1.0, -1.5], dtype=torch.float64)
    sample = draw(logits.expand(count, CLASSES), temperature, 6)
    q = logits.softmax(0)
    assert ((sample.mean(0) - q).abs() < 5 * (q * (1 - q) / count).sqrt()).all()
    pairs = sample[::2].mT @ sample[1::2] / (count / 2)  # neighbours are independent
    joint = q.outer(q)
    assert ((pairs - joint).abs() < 5 * (joint * (1 - joint) / (count / 2)).sqrt()).all()


def test_samples_come_from_the_generator():
    """Catches a draw from the global source of randomness, and a generator that is not used."""
    state = torch.get_rng_state()
    logits = torch.zeros(50, CLASSES, dtype=torch.float64)
    first, second, other = (draw(logits, 1.0, seed) for seed in (0, 0, 1))
    ExactSum().assign(categorical(logits))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@given(seeds, st.floats(0, 60))
def test_the_divergence_lies_between_zero_and_log_k(seed, scale):
    """Catches an entropy for a divergence, log K missing, and a mean for a sum over the labels."""
    q = categorical(scale * normal(seed, 4, CLASSES))
    divergence = LabelPosterior.divergence(q)
    assert ((divergence >= -1e-12) & (divergence <= math.log(CLASSES) + 1e-12)).all()
    uniform = Categorical(probs=torch.ones(CLASSES, dtype=torch.float64))
    torch.testing.assert_close(divergence, kl_divergence(q, uniform), rtol=1e-11, atol=1e-11)


def test_the_divergence_of_certain_and_of_ignorant_posteriors():
    """Catches a constant that is off at both ends."""
    logits = torch.tensor([[0.0, 0.0, 0.0], [7.0, 7.0, 7.0], [900.0, 0.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.0, math.log(3)], dtype=torch.float64)
    torch.testing.assert_close(LabelPosterior.divergence(categorical(logits)), expected, rtol=1e-12, atol=1e-12)


def test_annealed_temperature():
    """Catches a rate for its inverse, and a floor that is a ceiling."""
    assert annealed_temperature(0) == 1.0
    assert round(annealed_temperature(90_000), 4) == 0.0672
    assert annealed_temperature(30_000) == pytest.approx(math.exp(-0.9), rel=1e-12)
    assert annealed_temperature(10**7) == 0.05
    assert annealed_temperature(100, rate=0.01, floor=0.2) == pytest.approx(math.exp(-1), rel=1e-12)


def penalty(logits, balance=1.0):
    return LabelPosterior(nn.Identity(), balance=balance).collapse_penalty(categorical(logits))


def test_the_penalty_is_zero_for_a_balanced_and_log_k_for_a_collapsed_batch():
    """Catches the mean of the divergences, which is log K for both, and a weight that does not enter."""
    certain = 800 * torch.eye(CLASSES, dtype=torch.float64)
    for logits, expected in [
        (certain, 0.0),
        (certain.repeat(4, 1), 0.0),
        (torch.zeros(5, CLASSES, dtype=torch.float64), 0.0),
        (certain[:1].expand(6, CLASSES), math.log(CLASSES)),
    ]:
        assert penalty(logits).item() == pytest.approx(expected, abs=1e-12)
        assert penalty(logits, 7.0).item() == pytest.approx(7 * expected, abs=1e-11)


@given(seeds)
def test_the_penalty_is_the_divergence_of_the_mean_posterior(seed):
    """Catches a mean of logarithms, a sum over the batch, and the wrong axis."""
    logits = 3 * normal(seed, 5, CLASSES)
    mean = Categorical(probs=logits.softmax(-1).mean(0))
    uniform = Categorical(probs=torch.ones(CLASSES, dtype=torch.float64))
    torch.testing.assert_close(penalty(logits), kl_divergence(mean, uniform), rtol=1e-11, atol=1e-11)


def test_gradients_stay_finite_where_a_probability_underflows():
    """Catches 0 log 0: a NaN in the first step after a posterior has become certain, in single precision."""
    logits = torch.tensor([[200.0, 0.0, -200.0]]).repeat(4, 1).requires_grad_()
    q = categorical(logits)
    assert (q.probs[:, 1:] == 0).all()
    LabelPosterior(nn.Identity()).collapse_penalty(q).backward(retain_graph=True)
    assert torch.isfinite(logits.grad).all()
    LabelPosterior.divergence(q).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_the_penalty_pushes_away_from_a_collapse():
    """Catches a reward for it, and a gradient that stops at the most frequent label."""
    bias = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64).requires_grad_()
    before = penalty(normal(8, 30, CLASSES) + bias)
    before.backward()
    assert bias.grad[0] > 0
    assert (bias.grad[1:] < 0).all()
    assert penalty(normal(8, 30, CLASSES) + bias.detach() - bias.grad) < before


def test_the_posterior_sees_every_frame_of_its_own_sequence():
    """Catches a classifier of one frame, frames in no order, and samples that see each other."""
    posterior, x = LabelPosterior(classifier()), frames().requires_grad_()
    posterior(x).logits[2, 0].backward()
    seen = x.grad.abs().flatten(2).amax(-1) > 0
    assert seen[2].all()
    assert not seen[[0, 1, 3, 4]].any()
    assert not torch.allclose(posterior(x).logits, posterior(x.flip(1)).logits)


def test_probabilities_stay_in_single_precision_under_autocast():
    """Catches a divergence that is computed from bfloat16."""
    posterior = LabelPosterior(MLPSequenceClassifier(SHAPE, FRAMES, CLASSES, (8,)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = posterior(frames().float())
    assert q.logits.dtype == torch.float32
    torch.testing.assert_close(q.probs.sum(-1), torch.ones(5))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("temperature", lambda: StraightThrough(0.0)),
        ("temperature", lambda: StraightThrough(float("nan"))),
        ("balance", lambda: LabelPosterior(nn.Identity(), balance=-1.0)),
        ("balance", lambda: LabelPosterior(nn.Identity(), balance=float("nan"))),
        ("hidden", lambda: MLPSequenceClassifier(SHAPE, FRAMES, CLASSES, ())),
        ("x", lambda: classifier()(frames()[:, :-1])),
    ],
)
def test_wrong_arguments(name, call):
    """Catches messages that do not name the argument, and sequences of another length."""
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()


def test_labels_teach_the_posterior():
    """Catches labels that reach the flows only, and a posterior that is pushed to uniform where labels are given."""
    frames = torch.rand(5, 3, 1, 4, 4, generator=generator(3))
    k = torch.tensor([0, 1, 1, 0, 1])
    parts = {"encoder": MLPEncoder((1, 4, 4), 2), "decoder": MLPDecoder(2, (1, 4, 4)), "residual": HJResidual()}
    parts |= {"bank": PotentialBank([MLPPotential(2, (4,)) for _ in range(2)]), "prior": DiffusionPrior(2, fields=2)}
    plain = FlowVAE(**parts).objective(frames, k, generator(0))
    posterior = LabelPosterior(MLPSequenceClassifier((1, 4, 4), 3, 2))
    taught = FlowVAE(**parts, label_posterior=posterior).objective(frames, k, generator(0))
    expected = torch.nn.functional.cross_entropy(posterior.network(frames), k)
    torch.testing.assert_close(taught.label_kl, expected)
    torch.testing.assert_close(taught.total, plain.total + expected)
