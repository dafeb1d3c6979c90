"""Faults that strangers' cases found in the VAE: frames of another shape or range, and events that broadcast."""

import pytest
import torch
from torch.distributions import Independent, Normal

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    GaussianPrior,
    HJResidual,
    LabelPosterior,
    MixturePrior,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
    TransportedPrior,
    VampPrior,
)
from latentflow.vae import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    GaussianLikelihood,
    MLPSequenceClassifier,
    annealed_temperature,
)

SHAPE = (1, 4, 6)


def model(likelihood=None):
    torch.manual_seed(0)
    return FlowVAE(
        MLPEncoder(SHAPE, 2, (8,)),
        MLPDecoder(2, SHAPE, (8,)),
        PotentialBank([MLPPotential(2, (4,), output_scale=0.1)]),
        DiffusionPrior(2),
        HJResidual(),
        likelihood,
    )


K = torch.zeros(3, dtype=torch.int64)


def test_frames_with_the_channel_last_are_refused():
    """Catches A3: a shape with the right number of elements, by which pixels change places without a word."""
    frames = torch.rand(3, 2, *SHAPE)
    with pytest.raises(ValueError, match=r"x: expected shape \(batch, 1, 4, 6\), got \(3, 4, 6, 1\)"):
        model().objective(frames.movedim(2, -1), K)
    with pytest.raises(ValueError, match=r"x: expected shape \(batch, 1, 4, 6\), got \(3, 1, 6, 4\)"):
        model().objective(frames.mT, K)


def test_frames_out_of_range_are_refused():
    """Catches A3: pixels in 0..255, of which Bernoulli's log-probability is in the thousands, and positive."""
    frames = torch.rand(3, 2, *SHAPE)
    with pytest.raises(ValueError, match=r"frames: expected pixels in \[0, 1\], got pixels in .*; divide them by 255"):
        model().objective(255 * frames, K)
    with pytest.raises(TypeError, match=r"frames: .*got torch\.uint8; divide integers by 255"):
        model().objective((255 * frames).to(torch.uint8), K)
    frames[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="frames: expected pixels in"):
        model().objective(frames, K)


def test_a_likelihood_without_a_range_takes_any_frames():
    """Catches a range that is asked of normal pixels as well."""
    assert torch.isfinite(model(GaussianLikelihood()).objective(10 * torch.randn(3, 2, *SHAPE), K).total)


@pytest.mark.parametrize("likelihood", [BernoulliLikelihood(), ContinuousBernoulliLikelihood(), GaussianLikelihood()])
def test_images_of_another_shape_do_not_broadcast(likelihood):
    """Catches A3: a column of pixels that is compared with all columns."""
    law = likelihood(torch.zeros(4, 1, 4, 4))
    with pytest.raises(ValueError, match=r"value: expected shape \(\*batch, 1, 4, 4\), got \(4, 1, 4, 1\)"):
        law.log_prob(torch.full((4, 1, 4, 1), 0.5))
    assert law.expand((2, 4)).log_prob(torch.full((2, 4, 1, 4, 4), 0.5)).shape == (2, 4)


@pytest.mark.parametrize(
    "prior",
    [
        GaussianPrior(3),
        DiffusionPrior(3),
        MixturePrior(3),
        VampPrior(MLPEncoder(SHAPE, 3, (8,)), torch.rand(2, *SHAPE)),
    ],
)
def test_points_of_another_dimension_do_not_broadcast(prior):
    """Catches A3: one coordinate that counts as all three, and its kind in the siblings."""
    with pytest.raises(ValueError, match=r"value: expected shape \(\*batch, 3\), got \(4, 1\)"):
        prior(1.0).log_prob(torch.zeros(4, 1))
    assert prior(1.0).log_prob(torch.zeros(0, 3)).shape == (0,)


def test_the_density_of_an_event_is_that_of_torch():
    """Catches a sum over other dimensions than torch's own."""
    z, wide = torch.randn(5, 3), GaussianPrior(3)
    torch.testing.assert_close(wide().log_prob(z), Independent(Normal(torch.zeros(3), torch.ones(3)), 1).log_prob(z))


@pytest.mark.parametrize("step", [-1e6, -1.0, float("nan")])
def test_a_temperature_does_not_grow(step):
    """Catches A8: a temperature of 1e13 at a negative step."""
    with pytest.raises(ValueError, match="step: expected"):
        annealed_temperature(step)


def test_potentials_of_unequal_dimensions_are_refused_at_once():
    """Catches A8: a bank and a switch that fail only when they are used."""
    with pytest.raises(ValueError, match="potentials: expected potentials of one dimension, got 2 and 3"):
        PotentialBank([MLPPotential(2), MLPPotential(3)])


def assemble(prior, **options):
    """A model of two latents and three potentials."""
    bank = PotentialBank([MLPPotential(2, (4,)) for _ in range(3)])
    return FlowVAE(MLPEncoder(SHAPE, 2, (8,)), MLPDecoder(2, SHAPE, (8,)), bank, prior, HJResidual(), **options)


def test_a_prior_of_fewer_fields_is_refused_at_once():
    """Catches a model that trains until the first sequence of the third transformation comes."""
    with pytest.raises(ValueError, match="prior: expected 3 fields, one for each potential of the bank, got 2"):
        assemble(DiffusionPrior(2, fields=2))
    bank = PotentialBank([MLPPotential(2, (4,))])
    with pytest.raises(ValueError, match=r"prior: expected 3 fields, .* got 1"):
        assemble(TransportedPrior(GaussianPrior(2), bank))
    assemble(TransportedPrior(GaussianPrior(2), MLPPotential(2, (4,))))  # one field for all


@pytest.mark.parametrize("dim", [1, 3])
def test_a_prior_of_other_coordinates_does_not_broadcast(dim):
    """Catches a closed divergence from a prior of one coordinate, which torch broadcasts to all."""
    with pytest.raises(ValueError, match=rf"prior: expected events of shape \(2,\), .* got \({dim},\)"):
        assemble(GaussianPrior(dim)).objective(torch.rand(3, 2, *SHAPE), K)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("k", [None, K], ids=["inferred", "observed"])
def test_a_label_posterior_of_other_classes_is_refused(classes, k):
    """Catches a potential that no sequence is ever given to."""
    model = assemble(GaussianPrior(2), label_posterior=LabelPosterior(MLPSequenceClassifier(SHAPE, 2, classes)))
    text = rf"label_posterior: expected logits of shape \(3, 3\), .* got \(3, {classes}\)"
    with pytest.raises(ValueError, match=text):
        model.objective(torch.rand(3, 2, *SHAPE), k)
