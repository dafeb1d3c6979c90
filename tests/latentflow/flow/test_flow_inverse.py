"""Euler steps undone: the solvers of one step, and whole flows."""

import math
from dataclasses import replace
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import net, normal, spd
from hypothesis import given, settings
from torch import nn

from latentflow import ODE, FunctionPotential, PotentialBank, PotentialFlow, QuadraticPotential, SlogDet
from latentflow.flow import LBFGS, Euler, FirstOrder, FixedPoint, FoldError, FoldWarning, InversionError, Newton

near = {"rtol": 1e-10, "atol": 1e-10}
dims, seeds = st.integers(1, 5), st.integers(0, 2**31 - 100)
quartic = FunctionPotential(lambda z, t: z.square().sum(-1).square() / 4 + (z**4).sum(-1))  # convex, not Lipschitz
sine = FunctionPotential(lambda z, t: -0.6 * z.cos().sum(-1))  # the step z + 0.6 h sin z


def step(u, z, t, dt):
    """One step by plain autograd."""
    z = z.detach().requires_grad_()
    gradient = torch.autograd.grad(u(z, torch.full(z.shape[:-1], t, dtype=z.dtype)).sum(), z)[0]
    return (z + dt * gradient).detach()


@pytest.mark.parametrize("solver", [Newton(), FixedPoint(), LBFGS(), LBFGS(memory=1, shrink=True)])
@given(dims, seeds, st.sampled_from([(), (4,), (2, 3), (0,)]), st.sampled_from([0.4, -0.3, 1.0]))
def test_solvers_undo_a_step(solver, dim, seed, batch, dt):
    """Catches a missing step length, time or sign, and a batch shape that is lost."""
    u, z = net(dim, seed) * 0.3, normal(seed + 1, *batch, dim)
    torch.testing.assert_close(solver.solve(u, step(u, z, 0.7, dt), 0.7, dt), z, **near)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_newton_goes_where_the_step_is_no_contraction(scale):
    """Catches a fixed-point iteration in Newton's place, undamped steps, and one step length for all samples."""
    z = scale * normal(0, 64, 3)
    y = step(quartic, z, 0.0, 1.0)
    torch.testing.assert_close(Newton().solve(quartic, y, 0.0, 1.0), z, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(LBFGS().solve(quartic, y, 0.0, 1.0), z, rtol=1e-9, atol=1e-9)
    if scale >= 1:
        # at the larger scale the iteration overflows, where infinity must not count as small beside infinity
        with pytest.raises(InversionError, match=r"of 64 points in 200 iterations .*use Newton\(\)"):
            FixedPoint().solve(quartic, y, 0.0, 1.0)


@pytest.mark.parametrize("search", [Newton(), LBFGS(), LBFGS(shrink=True)], ids=repr)
def test_a_search_starts_where_it_is_told_and_reports_what_it_did_not_find(search):
    """Catches a start that is ignored, a failure that is hidden, and points put back in another order."""
    z = normal(0, 40, 3) * torch.linspace(0.1, 4.0, 40)[:, None]
    y = step(quartic, z, 0.0, 1.0)
    at_once = replace(search, max_iterations=1).search(quartic, y, 0.0, 1.0, z)
    assert at_once.found.all()
    torch.testing.assert_close(at_once.z, z)
    early = replace(search, max_iterations=3).search(quartic, y, 0.0, 1.0)
    residual = step(quartic, early.z, 0.0, 1.0) - y
    torch.testing.assert_close(early.residual, residual)
    scale = 1 + y.norm(dim=-1) + (step(quartic, early.z, 0.0, 1.0) - early.z).norm(dim=-1)
    assert torch.equal(early.found, residual.norm(dim=-1) <= torch.finfo(z.dtype).eps ** 0.75 * scale)
    assert not early.found.all()


def test_lbfgs_leaves_points_that_are_not_finite():
    """Catches one bad point that stops the search for all, or that is called found."""
    z = normal(0, 6, 3)
    y = step(quartic, z, 0.0, 1.0)
    y[2] = math.nan
    root = LBFGS(shrink=True).search(quartic, y, 0.0, 1.0)
    good = torch.arange(6) != 2
    assert torch.equal(root.found, good)
    torch.testing.assert_close(root.z[good], z[good], **near)


def test_lbfgs_counts_no_more_evaluations_than_points_need():
    """Catches points that are found and evaluated on: the quadratic is found at once, the others in 20 iterations."""
    counts = []

    def field(z, t):
        counts.append(len(z))
        return quartic(z, t)

    z = torch.cat([torch.zeros(90, 3), normal(0, 10, 3) * 3]).double()
    LBFGS(shrink=True).search(FunctionPotential(field), step(quartic, z, 0.0, 1.0), 0.0, 1.0)
    assert counts[0] == 100
    assert max(counts[2:]) <= 10


def test_newton_needs_its_damping():
    """Catches undamped Newton steps: for the step z + c tanh(9 z) they run away from a far start."""
    steep = FunctionPotential(lambda z, t: (9 * z).cosh().log().sum(-1) * 4 / 9)
    z = torch.tensor([[-0.001], [0.06], [0.3], [0.6]], dtype=torch.float64)  # the second would cycle
    y = step(steep, z, 0.0, 1.0)
    torch.testing.assert_close(Newton().solve(steep, y, 0.0, 1.0), z, **near)


def test_newton_starts_where_the_step_folds_and_ends_where_it_does_not():
    """Catches a search for any zero: of the three points that lead to y, one is a maximum, where the step flips."""
    folding = FunctionPotential(lambda z, t: -2.5 * z.cos().sum(-1))
    y = torch.linspace(-9, 9, 61, dtype=torch.float64).unsqueeze(-1)
    z = Newton().solve(folding, y, 0.0, 1.0)
    torch.testing.assert_close(z + 2.5 * z.sin(), y, **near)
    assert (1 + 2.5 * z.cos() > 0).all()


def test_fixed_point_converges_at_the_rate_of_its_lipschitz_constant():
    """Catches an iteration that is damped or that stops early: 0.6^n, in math of a linear field."""
    u = QuadraticPotential(2, torch.tensor([[0.0, 0.6], [0.6, 0.0]], dtype=torch.float64))
    y = torch.ones(1, 2, dtype=torch.float64)
    enough = math.ceil(math.log(1e-6 * 3) / math.log(0.6)) + 1
    FixedPoint(tolerance=1e-6, max_iterations=enough).solve(u, y, 0.0, 1.0)
    with pytest.raises(InversionError):
        FixedPoint(tolerance=1e-6, max_iterations=enough - 6).solve(u, y, 0.0, 1.0)


def test_samples_are_solved_alone():
    """Catches a step length or a stop that samples share: the easy ones are the same beside hard ones."""
    z = torch.cat([normal(0, 3, 2), 50 * normal(1, 3, 2)])
    y = step(quartic, z, 0.0, 1.0)
    together = Newton().solve(quartic, y, 0.0, 1.0)
    for i in range(6):
        torch.testing.assert_close(Newton().solve(quartic, y[i], 0.0, 1.0), together[i], **near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", [Newton(), FixedPoint()])
def test_default_tolerance_follows_the_dtype(solver, dtype):
    """Catches a tolerance that float32 cannot reach, and one that float64 need not be content with."""
    z = normal(0, 50, 3).to(dtype)
    y = z + 0.6 * z.sin()
    found = solver.solve(sine, y, 0.0, 1.0)
    assert found.dtype == dtype
    assert (found - z).abs().max() < 20 * torch.finfo(dtype).eps * z.abs().max()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("solver", [Newton(), FixedPoint()])
def test_modes_agree(mode, solver):
    """Catches a result that is less accurate where no gradient is wanted, and a changed input."""
    u, y = net(2, 0) * 0.3, normal(1, 4, 2)
    kept, expected = y.clone(), solver.solve(u, y, 0.5, 1.0)
    with mode():
        found = solver.solve(u, y, 0.5, 1.0)
    assert torch.equal(found, expected)
    assert torch.equal(y, kept)


class Inverse(nn.Module):
    def __init__(self, solver, density=True):
        super().__init__()
        self.flow = PotentialFlow(net(2, 3, (3,)) * 0.5)
        self.scheme, self.density = Euler(SlogDet() if density else None, solver), density

    def forward(self, z):
        trajectory = self.flow.inverse(z, [0.0, 0.5, 1.0], self.scheme, on_fold="ignore")
        total = trajectory.z[-1].sin().sum(-1) + trajectory.action[-1]
        return total + trajectory.log_det[-1] if self.density else total


@pytest.mark.parametrize("solver", [Newton(), FixedPoint(), Newton(order=2)])
def test_first_derivatives(solver):
    """Catches a root without gradient, to the point or to any parameter, and a volume at a detached point."""
    module, z = Inverse(solver), normal(4, 2, 2).requires_grad_()
    names, parameters = zip(*module.named_parameters(), strict=True)

    def function(z, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (z,))

    assert torch.autograd.gradcheck(function, (z, *parameters))


@pytest.mark.parametrize("solver", [Newton(order=2), FixedPoint(order=2), Newton(order=3)])
def test_second_derivatives_with_two_corrections(solver):
    """Catches corrections that do not add an order each."""
    module, z = Inverse(solver, density=False), normal(4, 1, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(module, (z,))


def test_second_derivatives_need_two_corrections():
    """Catches a default that pretends: for y = z + z^3, z'' = -6 z / (1 + 3 z^2)^3, and one correction gives zero."""
    cubic = FunctionPotential(lambda z, t: z.pow(4).sum(-1) / 4)
    for order, expected in ((1, 0.0), (2, -6 / 64)):
        y = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(Newton(order=order).solve(cubic, y, 0.0, 1.0).sum(), y, create_graph=True)
        torch.testing.assert_close(slope, torch.full_like(slope, 1 / 4))
        (curvature,) = torch.autograd.grad(slope.sum(), y, allow_unused=True) if slope.requires_grad else (None,)
        found = 0.0 if curvature is None else curvature.item()
        assert found == pytest.approx(expected, abs=1e-9)


@given(dims, seeds, st.sampled_from([[0.0, 1.0, 2.0, 3.0], [0.0, 0.2, 1.1], [1.0, 0.5, 0.25], [0.5]]))
@settings(max_examples=15)
def test_the_way_back_is_the_way_forth_reversed(dim, seed, times):
    """Catches steps undone in the wrong order or at the time after them, a grid taken for uniform, and wrong signs."""
    flow, z = PotentialFlow(net(dim, seed) * 0.3), normal(seed + 1, 4, dim)
    points, log_det, action = [z], [torch.zeros(4, dtype=torch.float64)], [torch.zeros(4, dtype=torch.float64)]
    for before, after in pairwise(times):
        made = flow.step(points[-1], before, after - before, SlogDet())
        points.append(made.z)
        log_det.append(log_det[-1] + made.determinant.log_det)
        action.append(action[-1] + made.action)
    back = flow.inverse(points[-1], times, Euler(), on_fold="ignore")
    torch.testing.assert_close(back.times, torch.tensor(times[::-1], dtype=torch.float64))
    torch.testing.assert_close(back.z, torch.stack(points[::-1]), **near)
    torch.testing.assert_close(back.log_det, torch.stack(log_det[::-1]) - log_det[-1], **near)
    torch.testing.assert_close(back.action, torch.stack(action[::-1]) - action[-1], **near)


@pytest.mark.parametrize("volume", [SlogDet(eigenvalues=True), FirstOrder(), None])
def test_accounts_of_the_steps_undone(volume):
    """Catches signs, folds and eigenvalues of another step than the one undone, or of the inverse step."""
    flow, z = PotentialFlow(net(3, 1) * 0.3), normal(2, 4, 3)
    trajectory = flow.rollout(z, 3, dt=0.5, log_det=volume, on_fold="ignore")
    back = flow.inverse(trajectory.z[-1], trajectory.times, Euler(volume), on_fold="ignore")
    for name in ("sign", "folded", "smallest_eigenvalue"):
        forth, there = getattr(trajectory, name), getattr(back, name)
        assert (forth is None) == (there is None)
        if forth is not None:
            torch.testing.assert_close(there, forth.flip(0), **near)
    assert (back.log_det is None) == (volume is None)


def test_each_sample_is_undone_along_its_own_potential():
    """Catches solvers that evaluate the unsolved samples only, with the potentials of others."""
    bank = PotentialBank([net(2, 0) * 0.3, quartic, QuadraticPotential(2, spd(2, 0))])
    k, z = torch.tensor([2, 0, 1, 1, 0]), normal(0, 5, 2)
    flow = PotentialFlow(bank.select(k))
    trajectory = flow.rollout(z, 2, dt=0.5)
    torch.testing.assert_close(flow.inverse(trajectory.z[-1], trajectory.times, Euler()).z[-1], z, rtol=1e-8, atol=1e-8)


def test_message_names_the_step():
    """Catches an error that leaves the user to search: no point leads to y = -1 where z + 2 z^2 >= -1/8."""
    late = FunctionPotential(lambda z, t: (t >= 1) * 2 / 3 * z.pow(3).sum(-1))
    y = torch.tensor([[-1.0], [0.5], [-2.0]], dtype=torch.float64)
    with pytest.raises(InversionError, match=r"^step 1 \(t = 1\): Newton found no point .* to 2 of 3 points in 50"):
        PotentialFlow(late).inverse(y, [0.0, 1.0, 2.0], Euler())


def test_a_singular_step():
    """Catches NaN where the point is found and the step is flat there: I + H = 0."""
    flat = QuadraticPotential(1, torch.tensor([[-1.0]], dtype=torch.float64))
    with pytest.raises(InversionError, match="singular at 1 of the 1"):
        PotentialFlow(flat).inverse(torch.zeros(1, 1, dtype=torch.float64), [0.0, 1.0], Euler())


def test_folds_follow_the_policy():
    """Catches a way back that reports the log-determinant of a folded step as that of a density."""
    flip = QuadraticPotential(2, torch.tensor([[-3.0, 0.0], [0.0, 0.5]], dtype=torch.float64))
    z = normal(0, 3, 2)
    flow, scheme = PotentialFlow(flip), Euler(solver=FixedPoint())
    with pytest.raises(InversionError):
        flow.inverse(z, [0.0, 1.0], scheme)

    class Known:
        def solve(self, u, y, t, dt):
            return y / torch.tensor([-2.0, 1.5], dtype=torch.float64)

    with pytest.raises(FoldError, match=r"step 0 \(t = 0\)"):
        flow.eval().inverse(z, [0.0, 1.0, 2.0], Euler(solver=Known()))
    with pytest.warns(FoldWarning):
        flow.train().inverse(z, [0.0, 1.0], Euler(solver=Known()))


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        (ValueError, "tolerance", lambda: Newton(tolerance=0.0)),
        (ValueError, "max_iterations", lambda: Newton(max_iterations=0)),
        (ValueError, "order", lambda: FixedPoint(order=0)),
        (ValueError, "times", lambda: PotentialFlow(sine).inverse(torch.ones(2), [0.0, 0.0], Euler())),
        (ValueError, "times", lambda: PotentialFlow(sine).inverse(torch.ones(2), [], ODE())),
        (TypeError, "times, scheme", lambda: PotentialFlow(sine).inverse(torch.ones(2), [0.0, 1.0])),
        (TypeError, "scheme", lambda: PotentialFlow(sine).inverse(torch.ones(2), [0.0, 1.0], "dopri5")),
        (TypeError, "z", lambda: PotentialFlow(sine).inverse(torch.ones(2, dtype=torch.int64), [0.0, 1.0], ODE())),
    ],
)
def test_wrong_arguments(error, name, call):
    """Catches messages that do not name the argument."""
    with pytest.raises(error, match=f"^{name}: expected"):
        call()
