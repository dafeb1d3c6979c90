"""The topographic VAE: the shared energies, the roll, and the importance weights."""

import itertools

import pytest
import torch
from closed_forms import generator, normal
from torch.distributions import Independent, Normal

from latentflow import MLPDecoder, MLPEncoder
from latentflow.vae import BernoulliLikelihood, GaussianLikelihood
from latentflow_experiments.methods.tvae import TVAE

SHAPE, CAPSULES, FRAMES = (1, 3, 2), 2, 6
DIM = CAPSULES * FRAMES
frames = torch.rand(4, FRAMES, *SHAPE, generator=generator(0))
k = torch.tensor([0, 1, 1, 0])


def build(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TVAE(
            encoder=MLPEncoder(SHAPE, DIM, (8,)),
            energy_encoder=MLPEncoder(SHAPE, DIM, (8,)),
            decoder=MLPDecoder(DIM, SHAPE, (8,)),
            likelihood=BernoulliLikelihood(),
            **({"dim": DIM, "frames": FRAMES} | options),
        )


class Still(Independent):
    """A normal distribution that always "draws" its mean."""

    def rsample(self, sample_shape=()):
        return self.mean


def rolling(seed):
    """A sequence (frames, batch, dim) that rolls by one slot for each frame."""
    first = normal(seed, 3, CAPSULES, FRAMES)
    return torch.stack([first.roll(t, -1) for t in range(FRAMES)]).flatten(-2)


def window(square, spread):
    """The circular sum over slots, by indices."""
    ring = square.reshape(*square.shape[:-1], CAPSULES, FRAMES)
    summed = torch.zeros_like(ring)
    for j, offset in itertools.product(range(FRAMES), range(-spread, spread + 1)):
        summed[..., j] += ring[..., (j + offset) % FRAMES]
    return summed.reshape(square.shape)


@pytest.mark.parametrize("spread", [0, 1, 2])
def test_energy_by_hand(spread):
    """Catches a shift in the wrong direction, a border that is not circular, and capsules that mix."""
    model, u = build(spread=spread).double(), normal(1, FRAMES, 3, DIM)
    expected = torch.zeros_like(u)
    for t, c, j in itertools.product(range(FRAMES), range(CAPSULES), range(FRAMES)):
        for delta, offset in itertools.product((-1, 0, 1), range(-spread, spread + 1)):
            slot = c * FRAMES + (j + delta + offset) % FRAMES
            expected[t, :, c * FRAMES + j] += u[(t + delta) % FRAMES, :, slot] ** 2
    torch.testing.assert_close(model.energy(u), expected)
    more = torch.stack([u, 2 * u])
    torch.testing.assert_close(model.energy(more), torch.stack([expected, 4 * expected]))


def test_a_rolling_sequence_has_rolling_latents():
    """Catches a window that rolls against the path: then neighbouring frames do not share their energies."""
    model = build().double()
    z, u = rolling(1), rolling(2)
    torch.testing.assert_close(model.energy(u), 3 * window(u.square(), model.spread))
    s = model.group(z, u)
    torch.testing.assert_close(s, model.follow(s[0], k=0, steps=FRAMES - 1))
    against = u[[-t % FRAMES for t in range(FRAMES)]]
    assert not torch.allclose(model.energy(against), 3 * window(against.square(), model.spread))


def test_path():
    """Catches a roll across capsules, in the wrong direction, or one that does not come back."""
    model, s = build(), torch.arange(2.0 * DIM).reshape(2, DIM)
    path = model.follow(s, k=1, steps=2 * FRAMES)
    assert path.shape == (2 * FRAMES + 1, 2, DIM)
    assert torch.equal(path[0], s)
    assert torch.equal(path[FRAMES], s)
    assert torch.equal(path[2 * FRAMES], s)
    for c, j in itertools.product(range(CAPSULES), range(FRAMES)):
        assert torch.equal(path[1][:, c * FRAMES + (j + 1) % FRAMES], s[:, c * FRAMES + j])
    assert torch.equal(model.follow(s, k=0, steps=3), path[:4])


def test_group():
    """Catches a mean or a floor in the wrong place: without energy the floor alone divides."""
    model = build().double()
    assert torch.equal(model.mean, torch.full((DIM,), 30.0, dtype=torch.float64))
    z, u = normal(1, FRAMES, 3, DIM), normal(2, FRAMES, 3, DIM)
    torch.testing.assert_close(model.group(z, 0 * u), (z + 30) * 1000)
    torch.testing.assert_close(model.group(z, u).square() * (model.energy(u) + 1e-6), (z + 30).square())


def test_every_term_by_hand():
    """Catches a sum over frames, a lost divergence, one encoder used twice, and frames that change places."""
    model = build()
    terms = model(frames, k, generator(3))
    source = generator(3)
    images = frames.transpose(0, 1).reshape(-1, *SHAPE)
    drawn, kl = [], []
    for encoder in (model.encoder, model.energy_encoder):
        q = encoder(images)
        drawn.append((q.mean + q.stddev * torch.randn(q.mean.shape, generator=source)).reshape(FRAMES, 4, DIM))
        kl.append((q.mean.square() + q.variance - 1 - q.variance.log()).sum(-1).mean() / 2)
    s = (drawn[0] + 30) / (model.energy(drawn[1]) + 1e-6).sqrt()
    logits = model.decoder(s.reshape(-1, DIM))
    entropies = torch.nn.functional.binary_cross_entropy_with_logits(logits, images, reduction="none")
    expected = {"reconstruction": entropies.flatten(1).sum(1).mean(), "kl_z": kl[0], "kl_u": kl[1], "kl": sum(kl)}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(terms["total"], terms["reconstruction"] + sum(kl))


def test_energies_of_an_idle_posterior_are_those_of_the_prior():
    """Catches energies of the mean, which is zero there: the decoder never saw latents of that length."""
    idle = Independent(Normal(torch.zeros(4 * FRAMES, DIM), 1.0), 1)
    model = build()
    del model.energy_encoder
    model.energy_encoder = lambda x: idle
    s = model.infer(frames)
    energy = 3 * (2 * model.spread + 1)  # squares of variance 1 in the window
    z = torch.stack([model.encoder(x).mean for x in frames.unbind(1)])
    torch.testing.assert_close(s, (z + model.mean) / energy**0.5)


def test_inference():
    """Catches latents of the wrong frame or sequence, samples in place of means, and frames that the start sees."""
    model = build()
    s = model.infer(frames)
    assert s.shape == (FRAMES, 4, DIM)
    z = torch.stack([model.encoder(x).mean for x in frames.unbind(1)])
    energies = [model.energy_encoder(x) for x in frames.unbind(1)]
    u = torch.stack([(energy.mean**2 + energy.variance) ** 0.5 for energy in energies])
    torch.testing.assert_close(s, model.group(z, u))
    torch.testing.assert_close(model.start(frames), s[0])
    torch.testing.assert_close(model.infer(frames[[2, 0]]), s[:, [2, 0]])
    assert model.decode(s).mean.shape == (FRAMES, 4, *SHAPE)
    for t in range(FRAMES):
        changed = frames.clone()
        changed[:, t] = 1 - changed[:, t]
        assert torch.equal(model.start(changed), s[0]) == (t in range(2, FRAMES - 1))


def test_proposals_by_hand():
    """Catches a ratio upside down, a latent that is left out of it, and latents that do not enter."""
    model, samples = build(), 3
    s, ratio = model.propose(frames, samples, generator(4))
    assert s.shape == (samples, FRAMES, 4, DIM)
    source = generator(4)
    images = frames.transpose(0, 1).reshape(-1, *SHAPE)
    drawn, ratios = [], []
    for encoder in (model.encoder, model.energy_encoder):
        q = encoder(images)
        x = q.mean + q.stddev * torch.randn(samples, *q.mean.shape, generator=source)
        drawn.append(x.reshape(samples, FRAMES, 4, DIM))
        log_ratio = (Normal(0.0, 1.0).log_prob(x) - Normal(q.mean, q.stddev).log_prob(x)).sum(-1)
        ratios.append(log_ratio.reshape(samples, FRAMES, 4))
    torch.testing.assert_close(s, torch.stack([model.group(z, u) for z, u in zip(*drawn, strict=True)]))
    for t in range(FRAMES):
        entering = ratios[1][:, (t - 1) % FRAMES] + ratios[1][:, t] + ratios[1][:, (t + 1) % FRAMES]
        torch.testing.assert_close(ratio[:, t], ratios[0][:, t] + entering, rtol=1e-4, atol=1e-4)


def test_weights_are_unbiased():
    """Catches weights of the wrong latents: E[w p(x | s)] under the posterior is p(x), as from the prior."""
    count, slots, root_energy = 100_000, 3, 0.7
    images = normal(0, 1, slots, 1, 1, 3)
    scale = torch.tensor(0.9, dtype=torch.float64)
    still = torch.zeros(slots, 3, dtype=torch.float64)

    def likelihoods(shift):
        model = TVAE(
            encoder=lambda x: Independent(Normal(shift * x.flatten(1), scale if shift else scale / scale), 1),
            energy_encoder=lambda x: Independent(
                Normal(still + shift * root_energy, scale if shift else scale / scale), 1
            ),
            decoder=lambda s: s.reshape(-1, 1, 1, 3),
            likelihood=GaussianLikelihood(),
            dim=3,
            frames=slots,
        ).double()
        model.mean.requires_grad_(False).fill_(0.5)
        s, ratio = model.propose(images, count, generator(1))
        weights = (model.decode(s).log_prob(images.transpose(0, 1)) + ratio).exp()[..., 0]
        return weights.mean(0), weights.std(0) / count**0.5

    (proposed, error), (exact, prior_error) = likelihoods(0.3), likelihoods(0.0)
    combined = (error.square() + prior_error.square()).sqrt()
    assert ((proposed - exact).abs() < 4 * combined).all()  # four standard errors
    assert (combined < 0.02 * exact).all()


def test_identical_samples_are_one_sample():
    """Catches a bound that grows by log(n) because the average over samples is a sum."""
    model = build()
    encoders = model.encoder, model.energy_encoder
    del model.encoder, model.energy_encoder
    model.encoder, model.energy_encoder = (lambda x, e=e: Still(e(x).base_dist, 1) for e in encoders)

    def bound(samples):
        s, ratio = model.propose(frames, samples)
        log_weights = model.decode(s).log_prob(frames.transpose(0, 1)) + ratio
        return log_weights.logsumexp(0) - torch.tensor(samples).log()

    torch.testing.assert_close(bound(7), bound(1))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("frames", lambda: build(frames=2)),
        ("dim", lambda: build(dim=DIM + 1)),
        ("dim", lambda: build(dim=0)),
        ("spread", lambda: build(spread=3)),
        ("spread", lambda: build(spread=-1)),
        ("frames", lambda: build().infer(frames[:, :3])),
        ("frames", lambda: build().start(frames[:, 0])),
        ("samples", lambda: build().propose(frames, 0)),
    ],
)
def test_wrong_arguments(name, call):
    """Catches a window that counts a slot twice, and the start of a sequence of which only the first frame is given."""
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
