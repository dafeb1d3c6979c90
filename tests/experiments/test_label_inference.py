"""Labels that a trained model infers for its evaluation."""

import pytest
import torch
from closed_forms import generator

from latentflow import DiffusionPrior, FlowVAE, LabelPosterior, MLPDecoder, MLPEncoder, MLPPotential, PotentialBank
from latentflow.vae import MLPSequenceClassifier, StraightThrough
from latentflow_experiments.methods.matching import infer_labels

SHAPE, FRAMES, CLASSES = (2, 3, 2), 4, 3


def classifier(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLPSequenceClassifier(SHAPE, FRAMES, CLASSES, (8,)).double()


def frames(seed=0, batch=5):
    return torch.rand(batch, FRAMES, *SHAPE, generator=generator(seed), dtype=torch.float64)


def test_evaluation_takes_the_most_probable_label_without_noise():
    """Catches Gumbel noise in an evaluation, and an entropy of the wrong sign or base."""
    bank = PotentialBank([MLPPotential(2, (4,)) for _ in range(CLASSES)])
    parts = MLPEncoder(SHAPE, 2, (4,)), MLPDecoder(2, SHAPE, (4,)), bank, DiffusionPrior(2, CLASSES), None
    posterior = LabelPosterior(classifier(), StraightThrough())
    model = FlowVAE(*parts, label_posterior=posterior).double().eval()
    x, state = frames(batch=40), torch.get_rng_state()
    labels, entropy = infer_labels(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(labels, classifier()(x).argmax(-1))
    torch.testing.assert_close(entropy, posterior(x).entropy(), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"^model: expected one with a label posterior"):
        infer_labels(FlowVAE(*parts), x)
