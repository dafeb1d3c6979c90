"""The metrics of disentanglement on codes whose scores are known."""

import math

import numpy as np
import pytest
import torch
from closed_forms import generator
from sklearn.metrics import mutual_info_score

from latentflow_experiments.metrics.disentanglement import (
    FixedFactorTable,
    _concentration,
    factor_vae_score,
    gap,
    measure_dci,
    measure_mig,
    measure_sap,
)

ROWS, VALUES, FACTORS = 1200, 4, 3
factors = torch.randint(VALUES, (ROWS, FACTORS), generator=generator(0))
binary = factors % 2
noise = torch.randn(ROWS, 4, generator=generator(1), dtype=torch.float64)
ROTATION = torch.tensor([[2, 2, -1], [-1, 2, 2], [2, -1, 2]], dtype=torch.float64) / 3


def one_to_one(values):
    """Make one monotone code of each factor, permuted and scaled, with a code of noise between them."""
    codes = values.double()
    return torch.stack((-3 * codes[:, 2], noise[:, 0], 0.1 * codes[:, 0] ** 1.5 + 7, 40 * codes[:, 1]), dim=1)


def entangled(values):
    """Make codes each of which mixes all factors, off the lattice, where a sum could tell its summands."""
    return (values.double() - values.double().mean(0) + 0.3 * noise[:, 1:]) @ ROTATION


def mig(codes, values):
    return measure_mig(codes, values).score


def sap(codes, values):
    return measure_sap(codes, values, generator=generator(2)).score


def disentanglement(codes, values):
    return measure_dci(codes, values, stages=8, generator=generator(2)).disentanglement


def completeness(codes, values):
    return measure_dci(codes, values, stages=8, generator=generator(2)).completeness


def factor_vae(codes, values):
    table = FixedFactorTable(codes, values)
    votes = {"train_votes": 150, "test_votes": 150}
    return factor_vae_score(table, codes, values.shape[1], **votes, threshold=0, generator=generator(2)).score


@pytest.mark.parametrize(
    ("score", "values", "perfect", "mixed", "none"),
    [
        (mig, factors, 1.0, 0.1, 0.0),
        (sap, binary, 0.5, 0.1, 0.0),
        (disentanglement, factors, 1.0, 0.4, 0.0),
        (completeness, factors, 1.0, 0.4, 0.0),
        (factor_vae, factors, 1.0, 0.75, 1 / FACTORS),
    ],
)
def test_from_one_to_one_codes_to_noise(score, values, perfect, mixed, none):
    """Catches a wrong axis, a gap to another than the second, a missing normalisation by entropy or variance."""
    codes = one_to_one(values)
    assert score(codes, values) == pytest.approx(perfect, abs=0.06)
    assert score(entangled(values), values) < mixed
    assert score(noise, values) == pytest.approx(none, abs=0.13 if none else 0.05)


@pytest.mark.parametrize("score", [mig, sap, disentanglement, completeness, factor_vae])
def test_order_and_scale_of_the_codes_do_not_matter(score):
    """Catches weights, thresholds or regularisations that depend on the scale or the place of a code."""
    codes = torch.cat((entangled(factors), factors[:, :1] + 0.5 * noise[:, :1]), dim=1)
    reference = score(codes, factors)
    assert score(codes[:, [3, 1, 0, 2]], factors) == pytest.approx(reference, abs=0.01)
    scaled = codes * torch.tensor([0.0078125, 1.0, 128.0, -4.0], dtype=torch.float64)
    assert score(scaled, factors) == pytest.approx(reference, abs=0.02)


@pytest.mark.parametrize("score", [mig, sap, disentanglement, factor_vae])
def test_a_code_that_never_varies_changes_nothing(score):
    """Catches a division by a range, deviation, variance or importance of zero."""
    codes = entangled(factors)
    constant = torch.cat((torch.full((ROWS, 1), 3.0, dtype=torch.float64), codes), dim=1)
    assert score(constant, factors) == pytest.approx(score(codes, factors), abs=0.01)


@pytest.mark.parametrize("score", [mig, sap, disentanglement, completeness, factor_vae])
def test_names_of_the_values_do_not_matter(score):
    """Catches values of factors taken for numbers from 0."""
    codes = one_to_one(factors)
    assert score(codes, 10 * factors - 3) == pytest.approx(score(codes, factors), abs=1e-12)


def test_mig_of_a_small_table():
    """Catches a wrong logarithm, a sum in place of the gap, and a division by the entropy of the code."""
    v = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    codes = torch.tensor([[2.0, 2, 2, 9, 9, 9, 9, 2], [0, 1, 0, 1, 0, 1, 0, 1], [5] * 8]).T
    information = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    result = measure_mig(codes, v[:, None])
    expected = torch.tensor([[information], [0], [0]], dtype=torch.float64)
    torch.testing.assert_close(result.information, expected, rtol=1e-12, atol=1e-12)
    assert result.score == pytest.approx(information / math.log(2), rel=1e-12)
    assert measure_mig(codes[:, [0, 0]], v[:, None]).score == 0
    assert measure_mig(codes[:, :1], v[:, None]).score == pytest.approx(result.score)


def test_mig_is_that_of_equally_wide_bins():
    """Catches bins of equal counts, another number of bins, and a largest code in a bin of its own."""
    codes = torch.cat((noise, noise[:, :1] + factors[:, :1]), dim=1)
    result = measure_mig(codes, factors)
    for i, code in enumerate(codes.T.numpy()):
        binned = np.digitize(code, np.linspace(code.min(), code.max(), 21)[1:-1])
        for j, factor in enumerate(factors.T.numpy()):
            assert float(result.information[i, j]) == pytest.approx(mutual_info_score(factor, binned), abs=1e-12)


def test_mig_divides_by_the_entropy_of_an_unbalanced_factor():
    """Catches a division by the logarithm of the number of values."""
    v = torch.tensor([0] * 7 + [1])
    result = measure_mig(v[:, None].float(), v[:, None])
    assert result.score == pytest.approx(1, rel=1e-12)
    assert float(result.information) == pytest.approx(-(7 * math.log(7 / 8) + math.log(1 / 8)) / 8, rel=1e-12)


def test_sap_is_measured_on_other_rows():
    """Catches an accuracy on the training part or on all rows, and codes and factors exchanged."""
    codes = one_to_one(binary)
    result = measure_sap(codes, binary, generator=generator(3))
    for i, j in ((0, 2), (2, 0), (3, 1)):
        assert result.accuracies[i, j] == 1
    right = result.accuracies * (ROWS // 3)
    torch.testing.assert_close(right, right.round())
    torch.testing.assert_close(result.gaps, gap(result.accuracies))
    assert result.score == pytest.approx(float(result.gaps.mean()))


def test_sap_of_a_threshold_between_noisy_codes():
    """Catches a classifier that does not find the threshold: the best one is right with probability Phi(1)."""
    v = torch.arange(6000) % 2
    codes = torch.stack((2.0 * v, 0.0 * v), dim=1) + torch.randn(6000, 2, generator=generator(4))
    result = measure_sap(50 * codes + 1000, v[:, None], generator=generator(5))
    assert float(result.accuracies[0, 0]) == pytest.approx(0.8413, abs=0.025)
    assert result.score == pytest.approx(0.3413, abs=0.045)


def test_dci_weights():
    """Catches rows for columns, a logarithm of another base, and a plain mean over codes that do not matter."""
    importance = torch.tensor([[0.75, 0.0], [0.25, 0.25], [0.0, 0.75], [0.0, 0.0]], dtype=torch.float64)
    assert _concentration(importance) == pytest.approx((0.75 * 1 + 0.5 * 0 + 0.75 * 1) / 2, rel=1e-12)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(4)
    assert _concentration(importance.T) == pytest.approx(1 - entropy, rel=1e-12)
    assert _concentration(torch.zeros(3, 2)) == 0


def test_dci_of_codes_that_share_a_factor_or_a_code():
    """Catches disentanglement and completeness mixed up."""
    pair = factors[:, :2]
    both = (VALUES * pair[:, 0] + pair[:, 1]).double()
    joint = measure_dci(torch.stack((both, noise[:, 0]), dim=1), pair, stages=8, generator=generator(6))
    assert joint.disentanglement < 0.1
    assert joint.completeness > 0.9
    assert joint.informativeness > 0.95
    halves = torch.stack((pair[:, 0] // 2, pair[:, 0] % 2, pair[:, 1] // 2, pair[:, 1] % 2), dim=1).double()
    parts = measure_dci(halves, pair, stages=8, generator=generator(6))
    assert parts.disentanglement > 0.95
    assert 0.4 < parts.completeness < 0.6  # each factor in two of four codes
    torch.testing.assert_close(parts.importance.sum(0), torch.ones(2).double())


def test_dci_informativeness_is_measured_on_other_rows():
    """Catches the accuracy on the training part, and an error in place of an accuracy."""
    result = measure_dci(noise[:300], factors[:300], stages=20, generator=generator(7))
    assert result.informativeness == pytest.approx(1 / VALUES, abs=0.12)


def test_factor_vae_leaves_out_collapsed_codes():
    """Catches a collapsed code that gets all votes, a division by zero, and a threshold on the variance."""
    codes = torch.stack((0.06 * factors[:, 0], 0.02 * factors[:, 1], 0 * factors[:, 2]), dim=1).double()
    table, votes = FixedFactorTable(codes, factors), {"train_votes": 100, "test_votes": 100}
    all_of_them = factor_vae_score(table, codes, FACTORS, **votes, threshold=0, generator=generator(8))
    assert all_of_them.active.tolist() == [True, True, False]
    result = factor_vae_score(table, codes, FACTORS, **votes, generator=generator(8))
    assert result.active.tolist() == [True, False, False]
    assert result.votes.sum() == 100
    assert (result.votes[1:] == 0).all()
    nothing = factor_vae_score(table, codes, FACTORS, **votes, threshold=5.0, generator=generator(8))
    assert nothing.score == nothing.chance == 1 / FACTORS
    assert not nothing.active.any()


def test_factor_vae_votes():
    """Catches factors in turns for factors at random, a batch of another size, and votes for the largest variance."""
    asked = []
    table = FixedFactorTable(factors.double(), factors)

    def sample(factor, count, source):
        asked.append((factor, count))
        return table(factor, count, source)

    result = factor_vae_score(sample, factors.double(), FACTORS, 200, 100, generator=generator(9))
    assert {count for _, count in asked} == {64}
    assert len(asked) == 300
    counts = torch.tensor([factor for factor, _ in asked[:200]]).bincount()
    assert torch.equal(result.votes, torch.diag(counts))
    assert counts.min() > 40


def test_the_table_draws_values_evenly_and_fixes_one_factor():
    """Catches a value that is drawn as often as it occurs, and another factor that is fixed with it."""
    values = factors.clone()
    values[:, 1] = (torch.arange(ROWS) < 50).long()
    table, source = FixedFactorTable(values.double(), values), generator(10)
    drawn = torch.stack([table(1, 64, source) for _ in range(200)])
    assert (drawn[:, :, 1] == drawn[:, :1, 1]).all()
    assert 0.4 < drawn[:, 0, 1].mean() < 0.6
    assert (drawn.std(1)[:, [0, 2]] > 0.5).all()


@pytest.mark.parametrize("score", [mig, sap, disentanglement, factor_vae])
def test_generator(score):
    """Catches draws from a global source of randomness, of torch or numpy."""
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global one
    codes = entangled(factors)
    assert score(codes, factors) == score(codes, factors)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


ONE_VALUE = torch.stack((factors[:, 0], torch.ones(ROWS, dtype=torch.int64)), dim=1)
RARE = torch.zeros(ROWS, 2, dtype=torch.int64)
RARE[0] = 1
TABLE = FixedFactorTable(noise, factors)
MEASURES = (measure_mig, measure_sap, measure_dci, FixedFactorTable)


@pytest.mark.parametrize("measure", MEASURES)
def test_wrong_tables(measure):
    """Catches a factor of one value scored as if it could be told, and codes of other rows than the factors."""
    with pytest.raises(ValueError, match=r"^factors: expected at least two values of each factor, got one of factor 1"):
        measure(noise, ONE_VALUE)
    for bad in (factors[1:], factors[:, 0], factors.double(), factors[:, :0]):
        with pytest.raises(ValueError, match=r"^factors: expected"):
            measure(noise, bad)
    for bad in (noise[:, 0], noise.long(), noise / 0, noise[:, :0]):
        with pytest.raises(ValueError, match=r"^codes: expected"):
            measure(bad, factors)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("bins", lambda: measure_mig(noise, factors, bins=1)),
        ("regularisation", lambda: measure_sap(noise, factors, regularisation=0.0)),
        ("train_share", lambda: measure_sap(noise, factors, train_share=1.0)),
        ("train_share", lambda: measure_dci(noise, factors, train_share=0.0)),
        ("factors", lambda: measure_sap(noise, RARE, train_share=0.1, generator=generator(0))),
        ("stages", lambda: measure_dci(noise, factors, stages=0)),
        ("codes", lambda: measure_dci(noise[:, :1], factors)),
        ("factors", lambda: measure_dci(noise, factors[:, :1])),
        ("factors", lambda: factor_vae_score(TABLE, noise, 1)),
        ("batch_size", lambda: factor_vae_score(TABLE, noise, FACTORS, batch_size=1)),
        ("train_votes", lambda: factor_vae_score(TABLE, noise, FACTORS, train_votes=0)),
        ("test_votes", lambda: factor_vae_score(TABLE, noise, FACTORS, test_votes=0)),
        ("threshold", lambda: factor_vae_score(TABLE, noise, FACTORS, threshold=math.nan)),
        ("sample", lambda: factor_vae_score(TABLE, noise[:, :2], FACTORS)),
    ],
)
def test_wrong_arguments(name, call):
    """Catches messages that do not name the argument."""
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
