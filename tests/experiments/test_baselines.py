"""The baselines that see single images: their losses by hand, and that training lowers them."""

import pytest
import torch
from closed_forms import generator
from torch.nn.functional import binary_cross_entropy_with_logits

from latentflow import MLPDecoder, MLPEncoder
from latentflow.vae import BernoulliLikelihood
from latentflow_experiments.methods.factor_vae import FactorVAE
from latentflow_experiments.methods.slow_vae import SlowVAE
from latentflow_experiments.methods.tvae import TVAE
from latentflow_experiments.methods.vae import VAE, BetaVAE

SHAPE, DIM, FRAMES = (1, 4, 3), 4, 4
frames = torch.rand(6, FRAMES, *SHAPE, generator=generator(0))
k = torch.tensor([1, 0, 1, 1, 0, 2])
MODELS = {
    "vae": VAE,
    "beta_vae": BetaVAE,
    "factor_vae": lambda *parts: FactorVAE(*parts, dim=DIM, hidden=(16, 16)),
    "slow_vae": SlowVAE,
    "tvae": lambda e, d, likelihood: TVAE(e, MLPEncoder(SHAPE, DIM, (16,)), d, likelihood, DIM, FRAMES),
}


def build(model, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model(MLPEncoder(SHAPE, DIM, (16,)), MLPDecoder(DIM, SHAPE, (16,)), BernoulliLikelihood())


def groups(model):
    if isinstance(model, FactorVAE):
        return [{name: v for name, v in group.items() if name != "scale"} for group in model.parameter_groups()]
    return [{"params": list(model.parameters())}]


@pytest.mark.parametrize("name", MODELS)
def test_training_lowers_the_loss(name):
    """Catches a sign error in a term, a detached term, and parameters that no optimizer sees."""
    model = build(MODELS[name])
    optimizer = torch.optim.Adam(groups(model), lr=3e-3)
    losses = []
    for _ in range(20):
        terms = model(frames, k, generator(1))
        losses.append((terms["total"] - terms.get("discriminator", 0.0)).item())
        optimizer.zero_grad()
        terms["total"].backward()
        assert all((p.grad != 0).any() for p in model.parameters())
        optimizer.step()
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("name", MODELS)
def test_terms(name):
    """Catches terms of a wrong shape or that are missing, draws from the global source, and a model that reads k."""
    model = build(MODELS[name])
    state = torch.get_rng_state()
    first, second, other = model(frames, k, generator(0)), model(frames, k + 1, generator(0)), model(frames, k)
    torch.set_rng_state(state)
    again = model(frames, k)
    assert {"total", "reconstruction", "kl"} <= first.keys()
    assert all(term.shape == () and term.isfinite() for term in first.values())
    assert all(torch.equal(first[term], second[term]) for term in first)
    assert all(torch.equal(other[term], again[term]) for term in other)
    assert first["total"] != other["total"]
    torch.set_rng_state(state)
    model(frames, k, generator(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_beta_vae_by_hand():
    """Catches means over pixels or coordinates, sums over images, and a weight on the wrong term."""
    model = build(BetaVAE)
    terms = model(frames, k, generator(3))
    images = frames.flatten(0, 1)
    posterior = model.encoder(images)
    mean, variance = posterior.mean, posterior.variance
    z = mean + variance.sqrt() * torch.randn(mean.shape, generator=generator(3))
    entropy = binary_cross_entropy_with_logits(model.decoder(z), images, reduction="sum") / len(images)
    kl = (mean.square() + variance - 1 - variance.log()).sum() / 2 / len(images)
    torch.testing.assert_close(terms["reconstruction"], entropy)
    torch.testing.assert_close(terms["kl"], kl)
    torch.testing.assert_close(terms["total"], entropy + 4 * kl)


def test_beta_of_one_is_the_vae():
    """Catches a constant in the weight, and a default of 1."""
    beta, plain = build(lambda *parts: BetaVAE(*parts, beta=1.0)), build(VAE)
    torch.testing.assert_close(beta(frames, k, generator(0)), plain(frames, k, generator(0)))
    assert build(BetaVAE).beta == 4


@pytest.mark.parametrize("name", ["beta_vae", "factor_vae", "slow_vae", "tvae"])
def test_wrong_frames(name):
    """Catches a batch of images that passes for a batch of sequences."""
    with pytest.raises(ValueError, match=r"^frames: expected shape"):
        build(MODELS[name])(frames[:, 0], k)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("beta", lambda *parts: BetaVAE(*parts, beta=-1.0)),
        ("beta", lambda *parts: BetaVAE(*parts, beta=float("nan"))),
        ("dim", lambda *parts: FactorVAE(*parts, dim=0)),
        ("gamma", lambda *parts: FactorVAE(*parts, dim=DIM, gamma=-1.0)),
        ("hidden", lambda *parts: FactorVAE(*parts, dim=DIM, hidden=(8, 0))),
        ("discriminator_scale", lambda *parts: FactorVAE(*parts, dim=DIM, discriminator_scale=0.0)),
        ("beta", lambda *parts: SlowVAE(*parts, beta=-1.0)),
        ("gamma", lambda *parts: SlowVAE(*parts, gamma=-1.0)),
        ("rate", lambda *parts: SlowVAE(*parts, rate=0.0)),
    ],
)
def test_wrong_arguments(name, model):
    """Catches weights that turn the loss upside down without a word."""
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        build(model)


@pytest.mark.parametrize("kind", [VAE, SlowVAE])
def test_a_training_step_sees_some_frames_and_an_evaluation_all(kind):
    """Catches a lot that is drawn with replacement or always the same, and an evaluation on a part."""
    model = build(lambda *parts: kind(*parts, drawn_frames=2))
    times = torch.arange(5.0).reshape(1, 5, 1, 1, 1)
    seen = [model.draw(times, generator(seed)).flatten().tolist() for seed in range(40)]
    if kind is SlowVAE:
        assert {tuple(pair) for pair in seen} == {(float(t), t + 1.0) for t in range(4)}
    else:
        assert all(len({*pair}) == 2 for pair in seen)
        assert {place for pair in seen for place in pair} == {0.0, 1.0, 2.0, 3.0, 4.0}
    assert torch.equal(model.eval().draw(times), times)


def test_the_loss_of_drawn_frames_has_the_loss_of_all_as_its_mean():
    """Catches frames that are summed in place of averaged: over all pairs the divergence averages to that of all."""
    whole, drawn = (build(lambda *parts, m=m: BetaVAE(*parts, drawn_frames=m)) for m in (None, 2))
    each = torch.tensor([drawn(frames, generator=generator(seed))["kl"].item() for seed in range(300)])
    assert abs(each.mean() - whole(frames, generator=generator(0))["kl"].item()) < 4 * each.std() / 300**0.5
