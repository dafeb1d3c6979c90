"""The log-likelihood by importance sampling, on models whose evidence is known."""

import math
from dataclasses import dataclass

import pytest
import torch
from closed_forms import generator, normal
from linear_gaussian import (
    DIM,
    FIELDS,
    PIXELS,
    SHAPE,
    STEPS,
    Frames,
    build,
    diagonal,
    measure,
    near,
    sequences,
)
from torch import nn
from torch.distributions import ContinuousBernoulli, Independent, Normal

from latentflow import GaussianPrior
from latentflow.vae import BernoulliLikelihood
from latentflow_experiments.methods.proposals import FromEncoder, FromFlow, FromTVAE
from latentflow_experiments.metrics import likelihood
from latentflow_experiments.metrics.likelihood import (
    AsTrained,
    BinarizedBernoulli,
    CeilingError,
    UnitGaussian,
    legacy_score,
    log_likelihood_table,
    measure_log_likelihood,
)


class Ignorant(nn.Module):
    """A decoder of fixed pictures, whatever the latent."""

    def __init__(self, picture):
        super().__init__()
        self.picture = picture

    def forward(self, z):
        return self.picture.expand(len(z), *SHAPE)


@dataclass
class Fixed:
    """A proposal of the latents 0 and a fixed log-ratio, which keeps what it is shown."""

    log_ratio: float = 0.0

    shares_latent = None

    def draw(self, frames, samples, generator=None):
        self.frames = frames
        shape = (samples, frames.shape[1], len(frames))
        return torch.zeros(*shape, DIM).double(), torch.full(shape, self.log_ratio).double()


def fixed(model, data, observations, proposal=None, **options):
    return measure_log_likelihood(model.decode, lambda k: proposal or Fixed(), data, observations, **options)


def grey(images=3):
    frames = torch.rand(FIELDS, images, STEPS + 1, *SHAPE, generator=generator(7), dtype=torch.float64)
    return Frames(frames)


def test_binarized_frames_are_the_same_for_every_method_and_the_proposal_sees_grey_ones():
    """Catches frames binarized anew for each sample, method or selection, by a threshold, or before the proposal."""
    logits, data, proposal = normal(3, *SHAPE), grey(), Fixed()
    model, observation = build(decoder=Ignorant(logits), likelihood=BernoulliLikelihood()), BinarizedBernoulli()
    many = fixed(model, data, [observation], proposal, samples=(1, 7), block=3)
    assert torch.equal(proposal.frames, data.frames[1, -1:])
    once = fixed(model, data, [UnitGaussian(), observation], samples=(1,))
    for name, one in many.transformations[observation.name].items():
        assert one.estimates[7].bound == pytest.approx(one.estimates[1].bound, abs=1e-12)
        again = once.transformations[observation.name][name].estimates[1].bound
        assert again == pytest.approx(one.estimates[1].bound, abs=1e-12)
    other = fixed(model, data, [observation], samples=(1,), seed=1)
    assert other.average != many.average
    half = fixed(model, Frames(torch.full_like(data.frames, 0.5)), [observation], samples=(1,))
    bounds = [one.estimates[1] for one in half.transformations[observation.name].values()]
    assert bounds[0].bound != bounds[1].bound  # every sequence has noise of its own
    assert min(one.standard_error for one in bounds) > 0
    x = torch.tensor([0.0, 0.3, 1.0]).expand(20_000, 3)
    binary = observation.observe(x, generator(0))
    assert set(binary.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(binary.mean(0), x[0], rtol=0, atol=5 * math.sqrt(0.21 / 20_000))


def test_observations_are_the_distributions_of_torch():
    """Catches a missing constant, a mean for a sum, logits for a picture, and pixels of another frame."""
    logits, x = 3 * normal(1, 5, STEPS, *SHAPE), grey().frames[0, 0, 1:]
    bernoulli = BernoulliLikelihood()(logits)
    pictures = Independent(Normal(logits.sigmoid(), 1.0), 3)
    torch.testing.assert_close(UnitGaussian().log_prob(x, bernoulli), pictures.log_prob(x), **near)
    binary = BinarizedBernoulli().observe(x, generator(0))
    expected = bernoulli.log_prob(binary)
    torch.testing.assert_close(BinarizedBernoulli().log_prob(binary, bernoulli), expected, **near)
    continuous = Independent(ContinuousBernoulli(logits=logits), 3)
    torch.testing.assert_close(BinarizedBernoulli().log_prob(binary, continuous), expected, **near)
    torch.testing.assert_close(AsTrained("own").log_prob(x, continuous), continuous.log_prob(x), **near)
    with pytest.raises(TypeError, match=r"^distribution: expected a Bernoulli, got Normal"):
        BinarizedBernoulli().log_prob(x, pictures)
    with pytest.raises(TypeError, match=r"^distribution: expected a density of grey values"):
        AsTrained("own").log_prob(x, bernoulli)


def test_a_perfect_decoder_reaches_the_ceiling_and_nothing_exceeds_it():
    """Catches a ceiling of the wrong pixels or sign, and a wrong density that is reported."""
    still = Frames(torch.ones(FIELDS, 2, STEPS + 1, *SHAPE, dtype=torch.float64))
    model = build(decoder=Ignorant(torch.full(SHAPE, 50.0).double()), likelihood=BernoulliLikelihood())
    ceiling = -PIXELS / 2 * math.log(2 * math.pi)
    result = fixed(model, still, [BinarizedBernoulli(), UnitGaussian()])
    for name, highest in (("Bernoulli, binarized", 0.0), ("Gaussian, variance 1", ceiling)):
        assert [one.ceiling for one in result.transformations[name].values()] == pytest.approx([highest] * FIELDS)
        assert result.average[name] == pytest.approx(dict.fromkeys((1, 100, 1000), highest), abs=1e-12)
    with pytest.raises(CeilingError, match=r"^Gaussian, variance 1, move 0: expected a bound of at most -3\.68"):
        fixed(model, still, [UnitGaussian()], Fixed(10.1))  # with two images, 10 nats are allowed
    fixed(model, still, [UnitGaussian()], Fixed(9.9))
    with pytest.raises(CeilingError, match=r"^own: expected log p\(x \| z\) of at most -4\.00, got -3\.68"):
        fixed(build(decoder=Ignorant(torch.ones(SHAPE).double())), still, [AsTrained("own", -1.0)])
    assert AsTrained("own").ceiling(PIXELS) is None


def test_few_pixels_are_decoded_at_once_and_no_first_frame(monkeypatch):
    """Catches a decoding of all samples in one piece, of x_0, or for each observation anew."""
    model, data, seen = build(), sequences(2), []
    whole = measure(model, data, FromFlow, samples=(1, 10), block=10)
    monkeypatch.setattr(likelihood, "PIXELS", 3 * STEPS * PIXELS)

    def decode(z):
        seen.append(tuple(z.shape))
        return model.decode(z)

    observations = (UnitGaussian(), AsTrained("normal"))
    parts = measure_log_likelihood(decode, lambda k: FromFlow(model, k), data, observations, samples=(1, 10), block=10)
    assert seen == [(n, STEPS, DIM) for n in (3, 3, 3, 1)] * 2 * FIELDS
    for name in ("Gaussian, variance 1", "normal"):
        assert parts.average[name] == pytest.approx(whole.average["Gaussian, variance 1"], abs=1e-12)


def test_the_legacy_score_adds_the_divergence_that_a_bound_subtracts():
    """Catches a repaired sign or half of it: the score is the bound plus 2 KL, and above the evidence."""
    mean = torch.tensor([0.7, -0.4], dtype=torch.float64)
    encoder = lambda x: diagonal(mean.expand(len(x), DIM), torch.ones_like(mean).expand(len(x), DIM))  # noqa: E731
    model = build(encoder, decoder=Ignorant(normal(2, *SHAPE)), prior=GaussianPrior(DIM).double())
    data, images = sequences(400), 400
    score = legacy_score(model.decode, lambda k: FromEncoder(model, k), data, images)
    bound = measure(model, data, FromEncoder, images=images, samples=(1,)).average["Gaussian, variance 1"][1]
    truth = float(UnitGaussian().log_prob(data.frames[:, :, 1:].flatten(0, 2), model.decode(mean)).mean())
    assert (score + bound) / 2 == pytest.approx(truth, abs=1e-9)
    divergence = float(mean.square().sum()) / 2
    error = 2 * math.sqrt(2 * divergence / (images * STEPS * FIELDS))
    assert score - bound == pytest.approx(2 * divergence, abs=5 * error)
    assert score > truth


def test_a_model_that_proposes_itself():
    """Catches latents and log-ratios of another order of axes, which would broadcast."""

    class Topographic:
        def propose(self, frames, samples, generator=None):
            return Fixed(0.5).draw(frames, samples, generator)

    class Transposed:
        def propose(self, frames, samples, generator=None):
            return tuple(x.transpose(0, 1) for x in Fixed().draw(frames, samples, generator))

    z, log_ratio = FromTVAE(Topographic()).draw(grey().frames[0], 4)
    assert z.shape == (4, STEPS + 1, 3, DIM)
    assert (log_ratio == 0.5).all()
    with pytest.raises(ValueError, match=r"^model: expected latents of shape"):
        FromTVAE(Transposed()).draw(grey().frames[0], 4)


def test_the_table_has_every_number():
    """Catches a column under the wrong heading."""
    result = measure(build(), sequences(2), FromEncoder, samples=(1, 20))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in log_likelihood_table(result).splitlines()]
    one = result.transformations["Gaussian, variance 1"]["move 1"]
    last = one.estimates[20]
    assert cells[0][2:] == ["S = 1", "S = 20", "s.e.", "ESS", "share", "ceiling", "folded"]
    assert cells[3][:4] == ["Gaussian, variance 1", "move 1", f"{one.estimates[1].bound:.2f}", f"{last.bound:.2f}"]
    assert cells[3][4:6] == [f"{last.standard_error:.2f}", f"{last.effective_samples:.1f}"]
    assert cells[3][6:] == [f"{last.largest_share:.3f}", f"{one.ceiling:.2f}", "0.0 %"]
    assert cells[4][:3] == ["Gaussian, variance 1", "average", f"{result.average['Gaussian, variance 1'][1]:.2f}"]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("frames", lambda: FromFlow(build(), 0).draw(grey().frames[0, 0], 1)),
        ("frames", lambda: FromEncoder(build(), 0).draw(grey().frames, 1)),
        ("samples", lambda: FromFlow(build(), 0).draw(grey().frames[0], 0)),
        ("images", lambda: fixed(build(), grey(), [UnitGaussian()], images=0)),
        ("samples", lambda: fixed(build(), grey(), [UnitGaussian()], samples=(1, 0))),
        ("samples", lambda: fixed(build(), grey(), [UnitGaussian()], samples=())),
        ("block", lambda: fixed(build(), grey(), [UnitGaussian()], block=0)),
        ("observations", lambda: fixed(build(), grey(), [])),
        ("observations", lambda: fixed(build(), grey(), [UnitGaussian(), UnitGaussian()])),
        ("data", lambda: fixed(build(), grey(0), [UnitGaussian()])),
    ],
)
def test_wrong_arguments(name, call):
    """Catches messages that do not name the argument."""
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
