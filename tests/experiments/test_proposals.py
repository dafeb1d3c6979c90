"""Where importance sampling looks: weights against closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from closed_forms import generator
from linear_gaussian import (
    DIM,
    FIELDS,
    FLOWS,
    PIXELS,
    STEPS,
    WEIGHT,
    Frames,
    Linear,
    build,
    diagonal,
    evidence,
    laws,
    measure,
    near,
    posterior,
    sequences,
    variances,
    widened,
)
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from latentflow import (
    FunctionPotential,
    GaussianPrior,
    HopfLaxFlow,
    Hutchinson,
    MarginalBound,
    QuadraticPotential,
    TransportedPrior,
)
from latentflow.flow import FirstOrder, FoldError
from latentflow.vae import GaussianLikelihood
from latentflow_experiments.methods.autoencoder import Autoencoder
from latentflow_experiments.methods.proposals import (
    FromEncoder,
    FromEncoderStandard,
    FromFlow,
    FromSharedFlow,
    ProposalFoldError,
)
from latentflow_experiments.metrics.likelihood import UnitGaussian, log_likelihood_table, measure_log_likelihood


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
    constant_weights(baseline, FromEncoderStandard(baseline.encode), sequences(1).frames[1], [1.0] * (STEPS + 1))


def test_the_standard_error_is_that_of_the_mean_over_the_images():
    """Catches the spread over times or samples, a biased deviation, and images that are chosen otherwise."""
    baseline, data = Autoencoder(lambda x: posterior(x, 1.0), Linear(), GaussianLikelihood()), sequences(9)
    result = measure(baseline, data, lambda model, k: FromEncoderStandard(model.encode), samples=(1, 2), images=5)
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
        assert math.isinf(estimate.standard_error)


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
    for proposal, priors in ((FromEncoder(build(), 0), diffused), (FromEncoderStandard(baseline.encode), standard)):
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


def joint_posterior(k, frames):
    """The posterior of the first latent given all frames after the first: exact and diagonal."""
    powers = torch.stack([FLOWS[k] ** t for t in range(1, STEPS + 1)])
    precision = 1 + (WEIGHT.mT @ WEIGHT).diagonal() * powers.square().sum(0)
    mean = ((frames[:, 1:].flatten(-3) @ WEIGHT) * powers).sum(1) / precision
    return diagonal(mean, (1 / precision).expand_as(mean))


def joint_evidence(k, frames):
    stacked = torch.cat([WEIGHT * FLOWS[k] ** t for t in range(1, STEPS + 1)])
    covariance = stacked @ stacked.mT + torch.eye(len(stacked), dtype=torch.float64)
    return MultivariateNormal(torch.zeros(len(stacked), dtype=torch.float64), covariance).log_prob(
        frames[:, 1:].flatten(1)
    )


@pytest.mark.parametrize("k", range(FIELDS))
def test_one_latent_explains_the_sequence(k):
    """Catches a volume that does not cancel, a divergence paid at every time, and a prior of a later time."""
    data = sequences(3)
    frames = data.frames[k]
    for image in range(3):  # the encoder knows the answer, which it could not from the first frame
        exact = joint_posterior(k, frames[image : image + 1])
        one = Frames(data.frames[:, image : image + 1])
        model = build(encoder=lambda x, exact=exact: exact)
        estimate = measure(model, one, FromSharedFlow, samples=(1, 3)).transformations[UnitGaussian().name][
            data.names[k]
        ]
        expected = joint_evidence(k, frames[image : image + 1]).item()
        for n in (1, 3):
            assert estimate.estimates[n].sequence == pytest.approx(expected, abs=1e-10)


def test_frames_of_a_shared_flow_have_the_prior_that_the_flow_makes():
    """Catches the evidence of the model's own prior in place of the one that was carried along."""
    data = sequences(4)
    result = measure(build(), data, FromSharedFlow, samples=(4000,)).transformations[UnitGaussian().name]
    for k in range(FIELDS):
        estimate = result[data.names[k]].estimates[4000]
        for t in range(1, STEPS + 1):
            moved = WEIGHT * FLOWS[k] ** t
            covariance = moved @ moved.mT + torch.eye(PIXELS, dtype=torch.float64)
            law = MultivariateNormal(torch.zeros(PIXELS, dtype=torch.float64), covariance)
            expected = law.log_prob(data.frames[k, :, t].flatten(-3)).mean().item()
            assert estimate.per_time[t - 1] == pytest.approx(expected, abs=0.1)  # ESS of hundreds


def test_independent_frames_add_up():
    """Catches a sequence of independent frames that is weighed as one, or averaged."""
    data = sequences(3)
    model = Autoencoder(widened, Linear(), GaussianLikelihood())
    result = measure_log_likelihood(
        model.decode, lambda k: FromEncoderStandard(model.encode), data, (UnitGaussian(),), samples=(1, 50)
    )
    for one in result.transformations[UnitGaussian().name].values():
        for estimate in one.estimates.values():
            assert estimate.sequence == pytest.approx(sum(estimate.per_time))
    marginal = measure(build(), data, FromFlow, samples=(1,))
    assert marginal.sequence[UnitGaussian().name] is None
