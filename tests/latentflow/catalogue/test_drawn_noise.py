"""Estimates with the noise that they draw themselves, where enumeration cannot look."""

import pytest
import torch
from strategies import symmetric

from latentflow import Hutchinson, QuadraticPotential, laplacian
from latentflow.calculus import HutchPlusPlus


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
@pytest.mark.parametrize("estimator", [Hutchinson, HutchPlusPlus])
def test_the_mean_over_draws_is_the_trace(estimator, noise):
    """Catches a subspace that depends on the probes of the rest: the z-score of 20000 draws, H indefinite."""
    matrix = symmetric(4, 2)
    assert torch.linalg.eigvalsh(matrix).sign().unique().numel() == 2
    z = torch.zeros(20_000, 4, dtype=torch.float64)
    values = laplacian(QuadraticPotential(4, matrix), z, 0.0, estimator(3, noise, torch.Generator().manual_seed(0)))
    assert abs(values.mean() - matrix.trace()) < 5 * values.std() / 20_000**0.5
