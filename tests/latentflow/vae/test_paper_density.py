"""The paper's densities: as written, and why they bound nothing."""

import math

import pytest
import torch
from closed_forms import generator, normal
from torch import nn
from torch.distributions import Independent, Normal

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    GaussianLikelihood,
    GaussianPrior,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
    laplacian,
)
from latentflow_experiments.song2023 import PaperDensity

DIM, STEPS, STRETCH = 3, 4, 0.4
eye = torch.eye(DIM, dtype=torch.float64)


class Ignorant(nn.Module):
    """Decodes every latent as the same picture."""

    def forward(self, z):
        return z.new_zeros(len(z), 1, 2, 2)


def standard(x):
    return Independent(Normal(x.new_zeros(len(x), DIM), 1.0), 1)


def build(matrix, prior):
    return FlowVAE(
        encoder=standard,
        decoder=Ignorant(),
        bank=PotentialBank([QuadraticPotential(DIM, matrix), QuadraticPotential(DIM).double()]),
        prior=prior,
        residual=None,
        likelihood=GaussianLikelihood(),
        bound=PaperDensity(),
    )


def test_every_time_by_hand():
    """Catches the exact determinant, a prior at z_t, a volume of the wrong sign or field, a time that is one off."""
    matrix = 0.1 * (normal(0, DIM, DIM) + normal(0, DIM, DIM).mT)
    prior = DiffusionPrior(DIM, fields=2, diffusivity=0.3).double()
    model = build(matrix, prior)
    z0, k = normal(1, 5, DIM), torch.tensor([0, 1, 0, 0, 1])
    path = PotentialFlow(model.bank.select(k)).rollout(z0, STEPS, volume=PaperDensity().volume)
    found = PaperDensity().divergence(Independent(Normal(0.5 * z0, 2.0), 1), path, prior, k)
    expected = Normal(0.5 * z0, 2.0).log_prob(z0).sum(-1) - Normal(0.0, 1.0).log_prob(z0).sum(-1)
    for t in range(1, STEPS + 1):
        n = t - 1
        expected = expected - laplacian(model.bank.select(k), path.z[n], float(n)).add(1).log()
        expected = expected + math.log(1 + DIM * 0.3 / (1 + 2 * 0.3 * n))
        torch.testing.assert_close(found[t], expected, rtol=1e-6, atol=1e-6)  # D is a float32 softplus


def test_it_exceeds_the_evidence():
    """Catches a volume that is punished: the counterexample shows that this is no bound."""
    model = build(STRETCH * eye, DiffusionPrior(DIM, fields=2, diffusivity=1e-12).double())
    frames = torch.rand(7, 2, 1, 2, 2, generator=generator(0), dtype=torch.float64)
    objective = model.objective(frames, torch.zeros(7, dtype=torch.int64))
    evidence = Normal(0.0, 1.0).log_prob(frames[:, 1]).sum((1, 2, 3)).mean()
    found = -(objective.reconstruction_per_time[1] + objective.kl_per_time[1])
    torch.testing.assert_close(found, evidence + math.log(1 + DIM * STRETCH), rtol=1e-9, atol=1e-9)


def test_it_wants_a_prior_that_diffuses():
    """Catches a prior without a coefficient that fails with an attribute error."""
    model = build(STRETCH * eye, GaussianPrior(DIM).double())
    with pytest.raises(TypeError, match=r"^prior: expected one that diffuses"):
        model.objective(torch.rand(2, 3, 1, 2, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
