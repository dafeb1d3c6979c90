"""InfoM, InfoE, InfoC and explicitness on codes whose scores are known."""

import pytest
import torch

from latentflow_experiments.metrics.information import (
    explicitness_of_curve,
    measure_explicitness,
    measure_infomec,
)

COUNT = 1200


@pytest.fixture(scope="module")
def table():
    """Two independent factors of three values, and noise."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(3, (COUNT, 2), generator=generator)
    return factors, torch.randn(COUNT, 4, generator=generator)


def test_a_code_for_each_factor(table):
    """Catches a share of sums over the wrong axis."""
    factors, noise = table
    found = measure_infomec(factors + 0.01 * noise[:, :2], factors)
    assert found.modularity > 0.97
    assert found.compactness > 0.97
    assert found.explicitness > 0.99
    assert found.information.diag().min() > 0.97
    assert found.information[0, 1] < 0.02


def test_two_codes_for_each_factor_are_modular_but_not_compact(table):
    """Catches an exchange of modularity and compactness: (1/2 - 1/4) / (1 - 1/4) is a third."""
    factors, noise = table
    found = measure_infomec(factors[:, [0, 0, 1, 1]] + 0.01 * noise, factors)
    assert found.modularity > 0.97
    assert found.compactness == pytest.approx(1 / 3, abs=0.02)


def test_codes_of_both_factors_are_neither(table):
    """Catches a least value that is not subtracted: each code says all of both factors."""
    factors, noise = table
    codes = torch.stack([3 * factors[:, 0] + factors[:, 1], factors[:, 0] + 3 * factors[:, 1]], 1) + 0.01 * noise[:, :2]
    found = measure_infomec(codes, factors)
    assert found.modularity == pytest.approx(0, abs=0.02)
    assert found.compactness == pytest.approx(0, abs=0.02)
    assert found.explicitness > 0.99  # both are linear in the codes


def test_a_code_that_hardly_varies_takes_no_part(table):
    """Catches collapsed codes, whose noise would be scaled up and counted."""
    factors, noise = table
    codes = torch.cat([factors.double(), 1e-3 * noise.double()[:, :1], torch.ones(COUNT, 1, dtype=torch.float64)], 1)
    found = measure_infomec(codes, factors)
    assert found.active.tolist() == [True, True, False, False]
    assert found.modularity > 0.97


def test_a_factor_that_no_line_tells_apart(table):
    """Catches an explicitness by a classifier that is not linear: exclusive or has none, its codes have all."""
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(2, (COUNT, 2), generator=generator)
    factors = torch.stack([bits[:, 0] ^ bits[:, 1], bits[:, 0]], 1)
    codes = bits + 0.01 * table[1][:, :2]
    assert measure_infomec(codes, factors).explicitness == pytest.approx(0.5, abs=0.01)
    both, plain = (
        measure_explicitness(codes, chosen, generator=torch.Generator().manual_seed(0)) for chosen in (factors, bits)
    )
    assert plain.explicitness > 0.97
    assert both.explicitness < plain.explicitness - 0.05
    assert both.losses[0, 0] > 0.6
    assert both.losses[-1, 0] < 0.1


def test_noise_says_nothing(table):
    """Catches a score above 0 where there is nothing to read."""
    factors, noise = table
    assert measure_infomec(noise, factors).explicitness < 0.02
    found = measure_explicitness(noise, factors, generator=torch.Generator().manual_seed(0))
    assert (found.explicitness, found.size) == (0, 0.5)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.0, 0.0, 0.0], 1.0),  # the simplest is as good as any
        ([2.0, 1.0, 0.0], 0.0),  # linear
        ([2.0, 2.0, 0.0], -0.5),
        ([1.0, 0.0, 3.0], 0.75),  # a worse probe later does not matter: (1 / 2) of 2
        ([5.0, 2.0, 0.0], -0.5),  # above the baseline counts as the baseline
        ([2.0, 2.0, 2.0], 0.0),  # nothing can be read
    ],
)
def test_explicitness_of_curves(losses, expected):
    """Catches a curve that is not made to fall, and a triangle that is not halved."""
    assert explicitness_of_curve([0.0, 1.0, 2.0], losses, 2.0) == pytest.approx(expected)


@pytest.mark.parametrize(("capacities", "losses"), [([1.0], [0.0]), ([1.0, 1.0], [0.0, 0.0]), ([0.0, 1.0], [0.0])])
def test_curves_that_are_refused(capacities, losses):
    """Catches an area over no capacities."""
    with pytest.raises(ValueError, match="capacities: expected at least two, rising, with a loss for each"):
        explicitness_of_curve(capacities, losses, 1.0)


def test_one_factor_is_refused(table):
    """Catches a modularity of a single factor, which divides zero by zero."""
    factors, noise = table
    with pytest.raises(ValueError, match="factors: expected at least two factors, got 1"):
        measure_infomec(noise, factors[:, :1])
