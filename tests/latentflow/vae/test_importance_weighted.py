"""The importance-weighted bound, from weights whose bound is known."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import normal
from hypothesis import given

from latentflow.vae.importance import effective_sample_size, importance_weighted_bound, largest_weight_share

seeds = st.integers(0, 2**31 - 1)
near = {"rtol": 1e-12, "atol": 1e-12}
MEASURES = (importance_weighted_bound, effective_sample_size, largest_weight_share)


@given(seeds, st.integers(2, 9))
def test_leaving_one_out_never_helps_on_average(seed, count):
    """Row 38; catches a mean of logarithms times S, and a bound that shrinks with the samples, in every draw."""
    log_weights = 3 * normal(seed, count, 4)
    without = [importance_weighted_bound(torch.cat([log_weights[:i], log_weights[i + 1 :]])) for i in range(count)]
    assert (importance_weighted_bound(log_weights) >= torch.stack(without).mean(0) - 1e-12).all()


@given(seeds)
def test_more_samples_never_lower_the_bound_of_one_draw(seed):
    """Row 38; catches groups that overlap or lose samples: averages of halves lie below the whole."""
    log_weights = 3 * normal(seed, 12, 3)
    bounds = [importance_weighted_bound(log_weights, n) for n in (1, 2, 4, 12)]
    for few, many in pairwise(bounds):
        assert (many >= few - 1e-12).all()


@pytest.mark.parametrize("samples", [None, 1, 2, 3, 7])
@pytest.mark.parametrize("constant", [-2161.34, 0.0, 700.0])
def test_constant_weights_give_the_constant(samples, constant):
    """Row 38; catches a missing log S, the log of the wrong S, and weights that leave the exponent's range."""
    log_weights = torch.full((7, 2), constant, dtype=torch.float64)
    torch.testing.assert_close(importance_weighted_bound(log_weights, samples), log_weights[0], **near)


def test_the_bound_is_the_logarithm_of_the_mean():
    """Catches the mean of logarithms, which has the constants right."""
    weights = torch.tensor([[1.0, 2.0], [3.0, 6.0], [8.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(importance_weighted_bound(weights.log()), weights.mean(0).log(), **near)
    torch.testing.assert_close(importance_weighted_bound(weights.log(), 1), weights.log().mean(0), **near)


@pytest.mark.parametrize("measure", MEASURES)
def test_groups_are_disjoint_and_averaged(measure):
    """Catches groups with strides, a leftover that is used, and an average before the measure."""
    log_weights = normal(0, 11, 2, 3)
    groups = torch.stack([measure(log_weights[i : i + 4]) for i in (0, 4)])
    torch.testing.assert_close(measure(log_weights, 4), groups.mean(0), **near)
    changed = log_weights.clone()
    changed[8:] = 50.0
    assert torch.equal(measure(changed, 4), measure(log_weights, 4))


@pytest.mark.parametrize("measure", MEASURES)
def test_one_sample_without_a_batch_and_float32(measure):
    """Catches a result of another shape or in the precision of the weights."""
    assert measure(torch.zeros(5)).shape == ()
    assert measure(torch.zeros(5, 2, 0)).shape == (2, 0)
    assert measure(torch.zeros(5, dtype=torch.float32)).dtype == torch.float64


def test_the_bound_of_single_precision_weights_is_not_rounded_to_it():
    """Catches a sum of exponentials in float32, and a conversion after it."""
    log_weights = normal(5, 1000).float() - 2000
    expected = importance_weighted_bound(log_weights.double())
    torch.testing.assert_close(importance_weighted_bound(log_weights), expected, rtol=1e-14, atol=0)


def test_effective_samples_and_shares_of_known_weights():
    """Catches a size that is not scale-free, a square left out, and a share of the logarithms."""
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    for scale in (-5000.0, 0.0, 5000.0):
        log_weights = weights.log() + scale
        size, share = effective_sample_size(log_weights), largest_weight_share(log_weights)
        torch.testing.assert_close(size, torch.tensor(100 / 30, dtype=torch.float64), rtol=1e-11, atol=0)
        torch.testing.assert_close(share, torch.tensor(0.4, dtype=torch.float64), rtol=1e-11, atol=0)
    equal = torch.full((6,), -3.0, dtype=torch.float64)
    torch.testing.assert_close(effective_sample_size(equal), torch.tensor(6.0, dtype=torch.float64))
    torch.testing.assert_close(largest_weight_share(equal), torch.tensor(1 / 6, dtype=torch.float64))


def test_weights_of_zero():
    """Catches NaN where a sample, or every sample, has no weight at all."""
    some = torch.tensor([0.0, -torch.inf], dtype=torch.float64)
    torch.testing.assert_close(importance_weighted_bound(some).exp(), torch.tensor(0.5, dtype=torch.float64))
    assert effective_sample_size(some) == 1
    assert largest_weight_share(some) == 1
    none = torch.full((3,), -torch.inf)
    assert importance_weighted_bound(none) == -torch.inf
    assert effective_sample_size(none) == 0
    assert largest_weight_share(none) == 1


def test_the_gradient_is_the_normalised_weight():
    """Catches a detached maximum or group, and a gradient with respect to a copy."""
    log_weights = normal(3, 5, 2).requires_grad_()
    importance_weighted_bound(log_weights).sum().backward()
    torch.testing.assert_close(log_weights.grad, log_weights.detach().softmax(0), **near)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("error", "name", "arguments"),
    [
        (TypeError, "log_weights", ([0.0],)),
        (TypeError, "log_weights", (torch.zeros(3, dtype=torch.int64),)),
        (ValueError, "log_weights", (torch.tensor(1.0),)),
        (ValueError, "log_weights", (torch.zeros(0, 2),)),
        (ValueError, "log_weights", (torch.tensor([0.0, torch.nan]),)),
        (ValueError, "log_weights", (torch.tensor([0.0, torch.inf]),)),
        (ValueError, "samples", (torch.zeros(3), 0)),
        (ValueError, "samples", (torch.zeros(3), 4)),
        (ValueError, "samples", (torch.zeros(3), 1.0)),
    ],
)
def test_wrong_arguments(measure, error, name, arguments):
    """Catches an infinite bound that is reported, and an error later than the call."""
    with pytest.raises(error, match=f"^{name}: expected"):
        measure(*arguments)
