"""The log-likelihood by importance sampling, on models whose evidence is known."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from closed_forms import generator, normal
from torch import nn
from torch.distributions import ContinuousBernoulli, Independent, MultivariateNormal, Normal, kl_divergence

from latentflow import (
    BernoulliLikelihood,
    DiffusionPrior,
    FirstOrder,
    FlowVAE,
    FoldError,
    FunctionPotential,
    GaussianLikelihood,
    GaussianPrior,
    HopfLaxFlow,
    Hutchinson,
    MarginalBound,
    PotentialBank,
    QuadraticPotential,
    TransportedPrior,
)
from latentflow.experiments.baselines.autoencoder import Autoencoder
from latentflow.experiments.metrics import log_likelihood
from latentflow.experiments.metrics.log_likelihood import (
    AsTrained,
    BinarisedBernoulli,
    CeilingError,
    UnitGaussian,
    legacy_score,
    log_likelihood_table,
    measure_log_likelihood,
)
from latentflow.experiments.metrics.proposals import (
    FromEncoder,
    FromEncoderStandard,
    FromFlow,
    FromTVAE,
    ProposalFoldError,
)

DIM, SHAPE, STEPS, FIELDS = 2, (1, 2, 2), 2, 2
PIXELS = math.prod(SHAPE)
WEIGHT = torch.linalg.qr(normal(0, PIXELS, DIM)).Q @ torch.tensor([1.5, 0.8], dtype=torch.float64).diag()
FLOWS = (torch.tensor([1.2, 0.9], dtype=torch.float64), torch.tensor([0.8, 1.3], dtype=torch.float64))
near = {"rtol": 1e-10, "atol": 1e-10}


@dataclass(frozen=True)
class Frames:
    """Sequences held in memory, of shape (fields, images, T+1, *SHAPE)."""

    frames: torch.Tensor

    @property
    def names(self):
        return tuple(f"move {k}" for k in range(len(self.frames)))

    @property
    def steps(self):
        return self.frames.shape[2] - 1

    @property
    def shape(self):
        return tuple(self.frames.shape[3:])

    def starts(self, k):
        return torch.arange(self.frames.shape[1])

    def sequence(self, indices, k):
        return self.frames[k, indices]


def sequences(images, seed=5):
    """Frames near the images of latents that follow the flows."""
    moved = normal(seed, FIELDS, images, 1, DIM)
    moved = moved * torch.stack([torch.stack([f**t for t in range(STEPS + 1)]) for f in FLOWS]).unsqueeze(1)
    pixels = moved @ WEIGHT.mT + 0.3 * normal(seed + 1, FIELDS, images, STEPS + 1, PIXELS)
    return Frames(pixels.reshape(*pixels.shape[:-1], *SHAPE))


class Linear(nn.Module):
    """Decodes a latent as W z."""

    def forward(self, z):
        return (z @ WEIGHT.mT).reshape(-1, *SHAPE)


def diagonal(mean, variance):
    return Independent(Normal(mean, variance.sqrt()), 1)


def posterior(x, variance):
    """The posterior of z ~ N(0, variance I) from x = W z + noise, exact and diagonal since W'W is."""
    precision = (WEIGHT.mT @ WEIGHT).diagonal() + 1 / torch.as_tensor(variance, dtype=torch.float64).unsqueeze(-1)
    mean = x.flatten(-3) @ WEIGHT / precision
    return diagonal(mean, (1 / precision).expand_as(mean))


def evidence(x, variance):
    covariance = variance * WEIGHT @ WEIGHT.mT + torch.eye(PIXELS, dtype=torch.float64)
    return MultivariateNormal(torch.zeros(PIXELS, dtype=torch.float64), covariance).log_prob(x.flatten(-3))


def widened(x):
    """A proposal that is not the posterior: off its mean, and wider."""
    exact = posterior(x, 1.0)
    return diagonal(exact.mean + 0.1, 1.6 * exact.variance)


def build(encoder=widened, potentials=None, **options):
    flows = [QuadraticPotential(DIM, f.diag() - torch.eye(DIM, dtype=torch.float64)) for f in FLOWS]
    return FlowVAE(
        encoder=encoder,
        decoder=options.pop("decoder", Linear()),
        bank=PotentialBank(potentials or flows),
        prior=options.pop("prior", None) or DiffusionPrior(DIM, FIELDS, diffusivity=0.2).double(),
        residual=None,
        likelihood=options.pop("likelihood", None) or GaussianLikelihood(),
        **options,
    ).eval()


def measure(model, data, kind, **options):
    options = {"observations": (UnitGaussian(),)} | options
    return measure_log_likelihood(model.decode, lambda k: kind(model, k), data, **options)


def variances(model, k):
    return [1 + 2 * model.prior.diffusivity[k].item() * t for t in range(STEPS + 1)]


def laws(model, data, kind, k, t):
    """The evidence of each frame, and the laws of the proposal and of the posterior, in closed form."""
    frames, variance = data.frames[k], variances(model, k)[t]
    proposal = widened(frames[:, t])
    if kind is FromFlow:
        start = widened(frames[:, 0])
        proposal = diagonal(start.mean * FLOWS[k] ** t, start.variance * FLOWS[k] ** (2 * t))
    return evidence(frames[:, t], variance), proposal, posterior(frames[:, t], variance)


def second_moment(p, q):
    """E_q[(p / q)^2] of diagonal normal laws, finite where 2 / var_p > 1 / var_q."""
    a, b = 1 / p.variance, 1 / q.variance
    both = 2 * a - b
    assert (both > 0).all()
    exponent = (2 * a * p.mean - b * q.mean) ** 2 / both - 2 * a * p.mean**2 + b * q.mean**2
    return ((a.log() - (b.log() + both.log()) / 2) + exponent / 2).sum(-1).exp()


def constant_weights(model, kind, frames, variance_of_t):
    """Check that every weight is the evidence, at every time."""
    decode, proposal = model.decode, kind
    with torch.no_grad():
        z, log_ratio = proposal.draw(frames, 6, generator(0))
        log_prob = UnitGaussian().log_prob(frames[0], decode(z[:, :, 0]))
    expected = torch.stack([evidence(frames[0, t], v) for t, v in enumerate(variance_of_t)])
    torch.testing.assert_close(log_prob + log_ratio[:, :, 0], expected.expand(6, -1), **near)


def test_weights_are_the_evidence_where_the_encoder_is_the_posterior():
    """Row 37; catches a prior of time 0 or another k, a missing constant, frames paired with other frames' latents."""
    model = build(lambda x: posterior(x, torch.tensor(variances(model, 1), dtype=torch.float64)))
    constant_weights(model, FromEncoder(model, 1), sequences(1).frames[1], variances(model, 1))
    baseline = Autoencoder(lambda x: posterior(x, 1.0), Linear(), GaussianLikelihood())
    constant_weights(baseline, FromEncoderStandard(baseline), sequences(1).frames[1], [1.0] * (STEPS + 1))


def test_the_standard_error_is_that_of_the_mean_over_the_images():
    """Catches the spread over times or samples, a biased deviation, and images that are chosen otherwise."""
    baseline, data = Autoencoder(lambda x: posterior(x, 1.0), Linear(), GaussianLikelihood()), sequences(9)
    result = measure(baseline, data, lambda model, k: FromEncoderStandard(model), samples=(1, 2), images=5)
    chosen = torch.randperm(9, generator=generator(0))[:5].sort().values
    assert (result.images, result.steps, result.samples) == (5, STEPS, (1, 2))
    for k, one in enumerate(result.transformations["Gaussian, variance 1"].values()):
        truth = evidence(data.frames[k, chosen, 1:], 1.0)
        assert one.estimates[2].bound == pytest.approx(float(truth.mean()), abs=1e-9)
        assert one.estimates[2].standard_error == pytest.approx(float(truth.mean(1).std()) / 5**0.5, abs=1e-9)


def carrying(data, start):
    """A model whose flow of potential 1 carries the posterior of one sequence's first frame to those of the others."""
    model = build()
    exact = [posterior(data.frames[1, 0, t], v) for t, v in enumerate(variances(model, 1))]
    steps = []
    for now, then in pairwise(exact):
        stretch = (then.variance / now.variance).sqrt()
        matrix = stretch.diag() - torch.eye(DIM, dtype=torch.float64)
        steps.append(QuadraticPotential(DIM, matrix, then.mean - stretch * now.mean))
    u = FunctionPotential(lambda z, t: sum((t.floor() == n) * s(z, t) for n, s in enumerate(steps)))
    return build(lambda x: start(exact[0], len(x)), [QuadraticPotential(DIM).double(), u])


def test_bounds_are_the_evidence_where_the_flow_carries_posterior_to_posterior():
    """Row 37; catches log_det of the wrong sign, step or time, a prior at z_0, and any constant, for all S."""
    data = sequences(1)
    model = carrying(data, lambda exact, n: diagonal(exact.mean.expand(n, -1), exact.variance.expand(n, -1)))
    constant_weights(model, FromFlow(model, 1), data.frames[1], variances(model, 1))
    result = measure(model, Frames(data.frames), FromFlow, samples=(1, 3, 30))
    for n, estimate in result.transformations["Gaussian, variance 1"]["move 1"].estimates.items():
        expected = [float(evidence(data.frames[1, 0, t], variances(model, 1)[t])) for t in range(1, STEPS + 1)]
        assert estimate.per_time == pytest.approx(expected, abs=1e-9)
        assert estimate.bound == pytest.approx(sum(expected) / STEPS, abs=1e-9)
        assert (estimate.effective_samples, estimate.largest_share) == pytest.approx((n, 1 / n))
        assert math.isnan(estimate.standard_error)


@pytest.mark.parametrize("kind", [FromFlow, FromEncoder])
def test_bounds_rise_from_the_elbo_to_the_evidence(kind):
    """Row 38; catches a biased weight, swapped transformations or times, t = 0 counted, and S = 1 from another draw."""
    model, data, images = build(), sequences(15), 15
    result = measure(model, data, kind, samples=(1, 100, 1000))
    for k, one in enumerate(result.transformations["Gaussian, variance 1"].values()):
        first, some, last = (one.estimates[n] for n in (1, 100, 1000))
        for t in range(1, STEPS + 1):
            truth, proposal, exact = laws(model, data, kind, k, t)
            spread = float((second_moment(exact, proposal) - 1).mean())
            error = 5 * math.sqrt(spread / (1000 * images))
            assert last.per_time[t - 1] == pytest.approx(float(truth.mean()) - spread / 2000, abs=error)
            elbo = float((truth - kl_divergence(proposal.base_dist, exact.base_dist).sum(-1)).mean())
            assert first.per_time[t - 1] == pytest.approx(elbo, abs=0.04)
            assert first.per_time[t - 1] <= some.per_time[t - 1] <= last.per_time[t - 1]
        assert first.effective_samples == 1
        assert first.largest_share == 1
        assert 1 < some.effective_samples < 100
        assert last.bound == pytest.approx(sum(last.per_time) / STEPS)
    bounds = [one.estimates[1000].bound for one in result.transformations["Gaussian, variance 1"].values()]
    assert result.average["Gaussian, variance 1"][1000] == pytest.approx(sum(bounds) / FIELDS)


@pytest.mark.parametrize("kind", [FromFlow, FromEncoder])
def test_weights_are_the_evidence_in_the_mean(kind):
    """Row 39; catches a biased weight: the z-score of the mean, with its exact variance, for a batch of sequences."""
    model, data, count = build(), sequences(2), 20_000
    with torch.no_grad():
        z, log_ratio = kind(model, 0).draw(data.frames[0], count, generator(1))
        log_prob = model.decode(z).log_prob(data.frames[0].transpose(0, 1))
    for t in range(STEPS + 1):
        truth, proposal, exact = laws(model, data, kind, 0, t)
        mean = (log_prob[:, t] + log_ratio[:, t] - truth).exp().mean(0)
        assert ((mean - 1) / ((second_moment(exact, proposal) - 1) / count).sqrt()).abs().max() < 5


def test_latents_belong_to_their_frames():
    """Catches a batch whose times and sequences are swapped, in the latents or in their densities."""
    frames = sequences(3).frames[0]
    baseline = Autoencoder(widened, Linear(), GaussianLikelihood())
    zero, one = torch.zeros(DIM, dtype=torch.float64), torch.ones(DIM, dtype=torch.float64)
    diffused = [diagonal(zero, v * one) for v in variances(build(), 0)]
    standard = [diagonal(zero, one)] * (STEPS + 1)
    for proposal, priors in ((FromEncoder(build(), 0), diffused), (FromEncoderStandard(baseline), standard)):
        z, log_ratio = proposal.draw(frames, 4, generator(0))
        for t in range(STEPS + 1):
            expected = priors[t].log_prob(z[:, t]) - widened(frames[:, t]).log_prob(z[:, t])
            torch.testing.assert_close(log_ratio[:, t], expected, **near)


@pytest.mark.parametrize("volume", [FirstOrder(), FirstOrder(Hutchinson())])
def test_the_volume_is_exact_whatever_the_model_trains_with(volume):
    """Catches the surrogate determinant or its noise in a weight, which is then no bound."""
    frames = sequences(2).frames[0]
    drawn = [FromFlow(build(bound=MarginalBound(v)), 0).draw(frames, 3, generator(0)) for v in (volume, FirstOrder())]
    assert torch.equal(drawn[0][1], FromFlow(build(), 0).draw(frames, 3, generator(0))[1])
    assert torch.equal(drawn[0][1], drawn[1][1])


def test_a_flow_that_is_exact_in_time():
    """Catches the volumes of single steps added up where a path carries that of its whole way."""
    model, frames = build(dynamics=HopfLaxFlow, prior=GaussianPrior(DIM).double()), sequences(2).frames[1]
    z, log_ratio = FromFlow(model, 1).draw(frames, 3, generator(0))
    start, standard = widened(frames[:, 0]), diagonal(torch.zeros(DIM).double(), torch.ones(DIM).double())
    for t in range(STEPS + 1):
        stretch = 1 + t * (FLOWS[1] - 1)
        law = diagonal(start.mean * stretch, start.variance * stretch**2)
        torch.testing.assert_close(log_ratio[:, t], standard.log_prob(z[:, t]) - law.log_prob(z[:, t]), **near)


def test_a_prior_that_flows_along_costs_the_same_at_every_time():
    """Catches a prior evaluated at other points than the latents, and shapes that broadcast the wrong way."""
    model = build()
    model.prior = TransportedPrior(GaussianPrior(DIM).double(), model.bank)
    _, log_ratio = FromFlow(model, 1).draw(sequences(3).frames[1], 4, generator(0))
    torch.testing.assert_close(log_ratio, log_ratio[:, :1].expand_as(log_ratio), **near)


def test_a_flow_that_folds_gives_no_bound_but_the_share():
    """Catches a bound of a map without a density, a determinant whose sign hides the fold, and a share of steps."""
    flip = QuadraticPotential(DIM, -2.5 * torch.eye(DIM, dtype=torch.float64))  # det (I + H) > 0
    cubic = FunctionPotential(lambda z, t: (t < 1) * -z.pow(3).sum(-1) / 6)  # I + H = 1 - z
    standard = build(lambda x: diagonal(0 * x.flatten(1)[:, :DIM], 1 + 0 * x.flatten(1)[:, :DIM]), [flip, cubic])
    data = sequences(10)
    with pytest.raises(ProposalFoldError, match=r"100 %") as caught:
        FromFlow(standard, 0).draw(data.frames[0], 4, generator(0))
    assert isinstance(caught.value, FoldError)
    result = measure(standard, data, FromFlow, samples=(1, 400))
    found = result.transformations["Gaussian, variance 1"]
    assert (found["move 0"].folded, found["move 0"].estimates) == (pytest.approx(1.0), None)
    share = 1 - float(Normal(0.0, 1.0).cdf(torch.tensor(1.0))) ** 2
    assert found["move 1"].folded == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 4000))
    assert result.average["Gaussian, variance 1"] is None
    assert "100.0 %" in log_likelihood_table(result)
    mixed = measure(build(potentials=[flip, QuadraticPotential(DIM).double()]), data, FromFlow, samples=(1,))
    assert mixed.transformations["Gaussian, variance 1"]["move 1"].estimates is not None
    assert mixed.average["Gaussian, variance 1"] is None


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

    def draw(self, frames, samples, generator=None):
        self.frames = frames
        shape = (samples, frames.shape[1], len(frames))
        return torch.zeros(*shape, DIM).double(), torch.full(shape, self.log_ratio).double()


def fixed(model, data, observations, proposal=None, **options):
    return measure_log_likelihood(model.decode, lambda k: proposal or Fixed(), data, observations, **options)


def grey(images=3):
    frames = torch.rand(FIELDS, images, STEPS + 1, *SHAPE, generator=generator(7), dtype=torch.float64)
    return Frames(frames)


def test_binarised_frames_are_the_same_for_every_method_and_the_proposal_sees_grey_ones():
    """Catches frames binarised anew for each sample, method or selection, by a threshold, or before the proposal."""
    logits, data, proposal = normal(3, *SHAPE), grey(), Fixed()
    model, observation = build(decoder=Ignorant(logits), likelihood=BernoulliLikelihood()), BinarisedBernoulli()
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
    binary = BinarisedBernoulli().observe(x, generator(0))
    expected = bernoulli.log_prob(binary)
    torch.testing.assert_close(BinarisedBernoulli().log_prob(binary, bernoulli), expected, **near)
    continuous = Independent(ContinuousBernoulli(logits=logits), 3)
    torch.testing.assert_close(BinarisedBernoulli().log_prob(binary, continuous), expected, **near)
    torch.testing.assert_close(AsTrained("own").log_prob(x, continuous), continuous.log_prob(x), **near)
    with pytest.raises(TypeError, match=r"^distribution: expected a Bernoulli, got Normal"):
        BinarisedBernoulli().log_prob(x, pictures)
    with pytest.raises(TypeError, match=r"^distribution: expected a density of grey values"):
        AsTrained("own").log_prob(x, bernoulli)


def test_a_perfect_decoder_reaches_the_ceiling_and_nothing_exceeds_it():
    """Catches a ceiling of the wrong pixels or sign, and a wrong density that is reported."""
    still = Frames(torch.ones(FIELDS, 2, STEPS + 1, *SHAPE, dtype=torch.float64))
    model = build(decoder=Ignorant(torch.full(SHAPE, 50.0).double()), likelihood=BernoulliLikelihood())
    ceiling = -PIXELS / 2 * math.log(2 * math.pi)
    result = fixed(model, still, [BinarisedBernoulli(), UnitGaussian()])
    for name, highest in (("Bernoulli, binarised", 0.0), ("Gaussian, variance 1", ceiling)):
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
    monkeypatch.setattr(log_likelihood, "PIXELS", 3 * STEPS * PIXELS)

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
