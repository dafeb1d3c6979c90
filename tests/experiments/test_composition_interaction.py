"""How much flows are in each other's way, on models whose flows are known."""

import pytest
import torch
from digit_latents import FAMILY, Digits, clocked, factors, model, translation

from latentflow import QuadraticPotential
from latentflow_experiments.data import FactorSequences
from latentflow_experiments.metrics.interaction import measure_interactions


def test_interactions_of_flows_that_do_not_commute():
    """Catches a commutator of other step counts, ends paired with those of other samples, and a signed cross term."""
    a = torch.diag(torch.tensor([0.0, 0.3, 0.0, -0.2]))
    b = torch.zeros(4, 4)
    b[1, 3] = b[3, 1] = 0.4
    shift = torch.tensor([0.0, 1.0, 0.0, -1.0])
    known = model([QuadraticPotential(4, a, shift), QuadraticPotential(4, b), translation(2)])
    data = factors()
    result = measure_interactions(known, (0, 1, 2), data, batch_size=4, limit=9)
    starts = data.composed_starts((0, 1))
    starts = starts[torch.randperm(len(starts), generator=torch.Generator().manual_seed(0))[:9].sort().values]
    z0 = torch.from_numpy(FAMILY.grid.decode(starts.numpy())).double()
    a, b, shift = a.double(), b.double(), shift.double()

    def steps(z, *moves):
        for move in moves:
            z = z + move(z)
        return z

    first, second = (lambda z: z @ a + shift), (lambda z: z @ b)
    one, other = steps(z0, first, first, second, second), steps(z0, second, second, first, first)
    way = ((one - z0).norm(dim=1) + (other - z0).norm(dim=1)).mean() / 2
    cross, product, z = [], [], z0
    for _ in range(4):
        v, w = first(z), second(z)
        cross.append((v * w).sum(1).abs())
        product.append(v.norm(dim=1) * w.norm(dim=1))
        z = z + v + w
    signs = (first(z0) * second(z0)).sum(1).sign()
    assert len(signs.unique()) > 1
    found = result["x, y"]
    share = ((one - other).norm(dim=1).mean() / way).item()
    assert share > 0.1
    assert found.commutator_restart == pytest.approx(share, rel=1e-4)
    assert found.commutator_continue == pytest.approx(share, rel=1e-4)
    assert found.cross_term == pytest.approx(torch.stack(cross).mean().item(), rel=1e-4)
    assert found.cross_relative == pytest.approx((sum(cross).sum() / sum(product).sum()).item(), rel=1e-4)
    for pair in ("x, hue", "y, hue"):
        assert result[pair].commutator_restart == pytest.approx(0, abs=1e-6)
        assert result[pair].cross_relative == pytest.approx(0, abs=1e-6)


def test_an_odd_number_of_steps_and_a_clock_that_goes_on():
    """Catches a commutator of four steps and three, and clocks of the commutator that are one."""
    data = FactorSequences(Digits(), FAMILY, "train", ("x", "hue"))
    assert data.steps == 5
    result = measure_interactions(model([translation(1), clocked(3)]), (0, 1), data, limit=9)["x, hue"]
    assert result.commutator_restart == pytest.approx(0, abs=1e-6)
    # the clocked one goes 0 + 1 when it acts first and 2 + 3 when it acts second; the other one goes 2
    assert result.commutator_continue == pytest.approx(4 / ((5**0.5 + 29**0.5) / 2), rel=1e-5)
