"""Features of time."""

import math

import pytest
import torch
from hypothesis import given
from strategies import batches, close, network, rand, randn, reference_jet, seeds
from torch import nn

from latentflow import jet
from latentflow.potentials import FourierEmbedding, SinusoidalEmbedding, TimeEmbedding


class Polynomial(TimeEmbedding):
    """A learned embedding of the user's own, without a derivative."""

    def __init__(self):
        super().__init__(3)
        self.coefficient = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, t):
        return self.coefficient * t.unsqueeze(-1).pow(torch.arange(3).to(t))


EMBEDDINGS = [SinusoidalEmbedding(8), FourierEmbedding(6, scale=2.0), SinusoidalEmbedding(2), Polynomial()]


@given(batches, seeds)
@pytest.mark.parametrize("embedding", EMBEDDINGS, ids=lambda embedding: type(embedding).__name__)
def test_derivative_is_the_jvp(embedding, batch, seed):
    """Catches a missing frequency factor, a wrong sign, or features in another order than the values."""
    embedding, t = embedding.double(), 10 * rand(*batch, seed=seed)
    value, derivative = embedding.with_derivative(t)
    expected = torch.func.jvp(embedding, (t,), (torch.ones_like(t),))
    assert value.shape == (*batch, embedding.features)
    close(value, expected[0])
    close(derivative, expected[1])


@pytest.mark.parametrize(("features", "period"), [(6, 100.0), (8, 7.0), (2, 50.0), (4, 1.0)])
def test_sinusoids_by_hand(features, period):
    """Catches a spacing by m in place of m - 1, and frequencies in place of periods."""
    half = features // 2
    frequencies = [period ** (-i / max(half - 1, 1)) for i in range(half)]
    for t in (0.0, 1.3, -2.0):
        expected = [math.sin(w * t) for w in frequencies] + [math.cos(w * t) for w in frequencies]
        actual = SinusoidalEmbedding(features, period)(torch.tensor(t))
        close(actual, torch.tensor(expected), tolerance=1e-6)


def test_fourier_features_by_hand():
    """Catches a factor 2 pi, and a scale applied to the variance or to the period."""
    generator = torch.Generator().manual_seed(3)
    frequencies = 0.5 * torch.randn(4, generator=generator)
    embedding = FourierEmbedding(8, scale=0.5, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0.3, -4.0])
    expected = torch.stack([torch.cat([(w * frequencies).sin(), (w * frequencies).cos()]) for w in t])
    close(embedding(t), expected, tolerance=1e-6)


@pytest.mark.parametrize("embedding", [SinusoidalEmbedding(6), FourierEmbedding(6)])
def test_frequencies_are_fixed(embedding):
    """Catches frequencies that are trained, or that a checkpoint does not hold."""
    assert list(embedding.parameters()) == []
    assert embedding.state_dict()["frequencies"].shape == (3,)
    close(embedding(torch.tensor(2.0)).square().sum(), torch.tensor(3.0), tolerance=1e-6)


def test_a_learned_embedding_is_trained_through_the_time_derivative():
    """Catches an embedding evaluated without a graph inside the rule of the network."""
    u = network(2, embedding=Polynomial())
    z, t = randn(4, 2), rand(4)
    result = jet(u, z, t, None)
    close(result.time_derivative, reference_jet(u, z, t).time_derivative)
    result.time_derivative.sum().backward()
    gradient = u.embedding.coefficient.grad
    assert gradient[0] != 0  # through the slope of the first layer: its own derivative is zero
    assert gradient[2] != 0


@pytest.mark.parametrize("make", [SinusoidalEmbedding, FourierEmbedding])
@pytest.mark.parametrize("features", [0, -2, 3, 2.0])
def test_features_come_in_pairs(make, features):
    """Catches an odd number that is rounded down, so that the layer after it does not fit."""
    with pytest.raises(ValueError, match=f"features: expected a positive (even )?integer, got {features}"):
        make(features)


def test_scales_are_checked():
    """Catches a period ratio or a scale of zero, which makes every feature constant or nan."""
    with pytest.raises(ValueError, match=r"max_period: expected a finite number of at least 1, got 0\.5"):
        SinusoidalEmbedding(4, max_period=0.5)
    for scale in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"scale: expected a positive number, got {scale}"):
            FourierEmbedding(4, scale=scale)
