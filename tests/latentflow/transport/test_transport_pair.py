"""The bracket around the distance of a pair, against closed forms and exact solvers."""

import importlib

import ot
import pytest
import torch
from closed_forms import normal, spd

from latentflow import FunctionPotential, QuadraticPotential, gaussian_transport_potential, gaussian_wasserstein2
from latentflow.flow import LBFGS, Newton
from latentflow.transport import pair_certificate
from latentflow.transport.dual import Conjugate, _lower, best_start, lowest


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussians(dim, seed=0):
    m0, m1 = normal(seed, 2, dim)
    S0, S1 = spd(dim, seed), spd(dim, seed + 1)

    def sampler(mean, covariance):
        root = torch.linalg.cholesky(covariance)
        return lambda count, generator: mean + torch.randn(count, dim, generator=generator, dtype=mean.dtype) @ root.mT

    truth = float(gaussian_wasserstein2(m0, S0, m1, S1, squared=True))
    return gaussian_transport_potential(m0, S0, m1, S1), sampler(m0, S0), sampler(m1, S1), truth


@pytest.mark.parametrize("dim", [1, 2, 5, 16])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_bracket_holds_the_truth_and_is_narrow_where_the_map_is_optimal(dim, seed):
    """Catches a missing factor, an excess of the assignment that is left in, and an interval of the wrong level."""
    u, source, target, truth = gaussians(dim, seed)
    found = pair_certificate(u, source, target, samples=2**13, generator=seeded(seed))
    assert found.lower < truth < found.upper
    assert found.width < 0.15
    assert abs(found.gap) < 0.02 * truth
    assert abs(found.end_distance) < 0.02 * truth + 0.02
    assert found.not_found == 0
    assert abs(found.dual - truth) < 0.06 * truth
    assert abs(found.primal - truth) < 0.06 * truth
    assert found.smallest_eigenvalue > 0


@pytest.mark.parametrize(("dim", "share"), [(2, 0.5), (2, 1.1), (16, 0.9)])
def test_the_bracket_of_a_wrong_map_is_wide_and_holds_the_truth(dim, share):
    """Catches an upper end at the dual, and a cost of the map that is taken for a bound."""
    u, source, target, truth = gaussians(dim)
    found = pair_certificate(share * u, source, target, samples=2**13, generator=seeded())
    assert found.lower < truth < found.upper
    assert found.dual < truth
    # the dual of a multiple of the potential of Gaussians, by its Hopf-Lax formula in closed form
    rates = share * u.rates
    assert torch.all(1 + rates > 0)
    x, y = source(100_000, seeded(8)), target(100_000, seeded(9))
    v = share * u.vector @ u.axes
    starts = share * u(x, torch.zeros(len(x), dtype=x.dtype))
    y0 = y @ u.axes
    values = (((rates * y0 / 2 + v) * y0 - v.square() / 2) / (1 + rates)).sum(-1)
    assert abs(found.dual - float(2 * (values.mean() - starts.mean()))) < 0.05 * truth


def test_without_a_potential_the_gap_is_the_distance():
    """Catches a gap between other samples than those of the pair: for u = 0 the dual is zero."""
    _, source, target, truth = gaussians(3)
    found = pair_certificate(QuadraticPotential(3).double(), source, target, samples=2**13, generator=seeded())
    assert abs(found.dual) < 1e-9
    assert abs(found.gap - truth) < 0.1 * truth
    assert found.lower == 0
    assert found.upper > truth
    assert found.primal == 0
    assert abs(found.end_distance - truth) < 0.1 * truth


@pytest.mark.parametrize("share", [0.0, 0.6, 1.3])
def test_the_bound_is_the_mean_distance_of_batches_whatever_the_potential(share):
    """Catches an excess that is taken off, and a dual of other samples: on a line, the assignment is a sort."""
    u, source, target, truth = gaussians(1)
    x, y = (
        draw(128 * 4000, seeded(7 + i)).reshape(4000, 128).sort(-1).values for i, draw in enumerate((source, target))
    )
    mean = float((x - y).square().mean())
    found = pair_certificate(share * u, source, target, samples=2**11, generator=seeded())
    assert mean > truth
    assert 0 < found.upper_bound - mean < 0.2 * truth
    assert truth < found.upper <= found.upper_bound  # the cost of the map is 1.7 times as large for a share of 1.3


def test_the_bound_holds_where_the_map_is_rough():
    """Catches a bound that depends on the map: ripples make the cost of the map and both excesses large."""
    u, source, target, truth = gaussians(16)
    rough = u + FunctionPotential(lambda z, t: 0.05 * (6 * z).cos().sum(-1))
    found = pair_certificate(rough, source, target, samples=2**11, generator=seeded())
    assert found.dual < truth < found.upper_bound


def test_the_upper_end_keeps_a_twentieth_of_the_excess(monkeypatch):
    """Catches an excess of other samples: all of it makes the bound above, and none of it the estimate alone."""
    u, source, target, _ = gaussians(16)
    module = importlib.import_module("latentflow.transport.pair_certificate")  # the package has the function
    found = {}
    for share in (0.0, module.MARGIN, 1.0):
        monkeypatch.setattr(module, "MARGIN", share)
        found[share] = pair_certificate(u, source, target, samples=2**13, generator=seeded())
    none, kept, whole = (certificate.upper for certificate in found.values())
    assert whole == found[1.0].upper_bound
    assert abs((kept - none) / (whole - none) - 0.05) < 0.03  # the resamples are the same


def test_of_one_distribution_the_bracket_begins_at_zero():
    """Catches the distance between samples of one distribution, which is above 1 for batches of 512."""
    _, source, _, _ = gaussians(5)
    found = pair_certificate(QuadraticPotential(5).double(), source, source, samples=2**13, generator=seeded())
    assert found.lower == 0
    assert found.upper < 0.2  # a twentieth of the excess is 0.08


def test_the_dual_is_below_the_exact_cost_between_the_samples():
    """Catches a potential that is evaluated at other points: POT's exact cost bounds the dual of the same samples."""
    torch.manual_seed(0)
    x, y = normal(0, 400, 2), normal(1, 400, 2).sinh() + 1
    u = FunctionPotential(lambda z, t: 0.3 * z.square().sum(-1) + z.sum(-1) + 0.2 * z.cos().sum(-1))
    exact = ot.emd2([], [], ot.dist(x.numpy(), y.numpy()))
    found = pair_certificate(u, x, y, generator=seeded())
    assert found.dual <= exact
    assert found.dual > 0.8 * exact
    assert found.samples == 400


def test_the_lowest_of_two_minima_is_found():
    """Catches a local minimum, whose value is too high: in a double well the start decides where a search ends."""
    u = FunctionPotential(lambda z, t: 4 * (z.square() - 1).square().sum(-1) - 0.3 * z.sum(-1))
    y = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64)[:, None]
    grid = torch.linspace(-3, 3, 20001, dtype=torch.float64)[:, None]
    heights = u(grid, torch.zeros(len(grid), dtype=torch.float64)) + (grid - y.T).square().T / 2
    found = lowest(u, y, LBFGS(shrink=True), grid[::500])
    torch.testing.assert_close(found.value, heights.amin(-1), rtol=1e-5, atol=1e-5)
    alone = Newton().search(u, y, 0.0, 1.0)
    value = u(alone.z, torch.zeros(31, dtype=torch.float64)) + (alone.z - y).square().sum(-1) / 2
    assert (value > found.value + 1e-3).any()


def test_the_best_start_is_chosen_far_from_the_origin():
    """Catches squares of lengths that cancel in float32, and heights without the potential or without the distance."""
    u = FunctionPotential(lambda z, t: 0.3 * (z - 1e4).square().sum(-1))
    x, y = normal(1, 300, 2).float() + 1e4, normal(2, 200, 2).float() + 1e4
    far, there = x.double(), y.double()
    costs = u(far, far.new_zeros(300)) + (there.unsqueeze(1) - far).square().sum(-1) / 2
    assert torch.equal(best_start(u, y, x), x[costs.argmin(-1)])


def test_an_end_that_is_no_number_is_not_the_lower_one():
    """Catches a search that was lost in the place of one that was not, from either start."""
    nan, near = float("nan"), torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    one = Conjugate(near, torch.tensor([1.0, nan, 1.0, nan]), torch.tensor([True, False, True, False]))
    two = Conjugate(near + 5, torch.tensor([nan, 2.0, 0.5, nan]), torch.tensor([False, True, True, False]))
    kept = _lower(one, two)
    assert kept.x[:3].squeeze(-1).tolist() == [0.0, 6.0, 7.0]
    assert kept.value[:3].tolist() == [1.0, 2.0, 0.5]
    assert kept.found.tolist() == [True, True, True, False]


def test_minima_that_are_not_found_are_counted():
    """Catches a bound that is reported without a word although the search failed."""
    u, source, target, _ = gaussians(3)
    brief = LBFGS(max_iterations=1, tolerance=1e-12)
    assert pair_certificate(u, source, target, samples=256, search=brief, generator=seeded()).not_found > 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_search_is_precise_whatever_the_dtype_of_the_samples(dtype):
    """Catches minima that are searched in half precision, of which many are not found, and a dual of their values."""
    x, y = (normal(seed, 400, 2).to(dtype) for seed in (1, 2))
    u = QuadraticPotential(2, torch.diag(torch.tensor([0.5, -0.3])))
    found, exact = pair_certificate(u, x, y), pair_certificate(u, x.double(), y.double())
    assert found.not_found == 0
    assert found.dual == pytest.approx(exact.dual, rel=1e-6)


def test_intervals_have_the_width_of_the_means():
    """Catches an interval of the standard deviation, or of another level: that of the mean of n squares is known."""
    u, source, target, _ = gaussians(2)
    found = pair_certificate(u, source, target, samples=2**12, level=0.9, resamples=4000, generator=seeded())
    x = source(100_000, seeded(3))
    cost = (u.transport(x) - x).square().sum(-1)
    width = 2 * 1.645 * float(cost.std()) / 2**6
    low, high = found.primal_interval
    assert abs((high - low) - width) < 0.1 * width


def test_few_samples_are_refused():
    """Catches batches of no points."""
    u, source, _, _ = gaussians(2)
    with pytest.raises(ValueError, match="source: expected at least 16 samples, got 9"):
        pair_certificate(u, source(9, seeded()), source(90, seeded()))
