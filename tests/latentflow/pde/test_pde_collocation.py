"""Where residuals are evaluated, and how much each point counts."""

import math

import pytest
import torch
from closed_forms import generator, net, normal
from solutions import times

from latentflow import HJResidual, MLPPotential, PotentialBank, PotentialFlow, QuadraticPotential
from latentflow.pde import AlongPath, CausalWeighting, InBox, NonPositiveForce, Together

near = {"rtol": 1e-11, "atol": 1e-11}
u = net(2, 0)
CHOICES = {
    "along": AlongPath(),
    "attached": AlongPath(detach=False),
    "box": InBox(-2.0, 3.0, 4),
    "together": Together(AlongPath(), InBox(-2.0, 3.0, 4), AlongPath(detach=False)),
}


def rollout(*batch, steps=3, mover=None, z0=None):
    z0 = normal(1, *batch, 2) if z0 is None else z0
    return PotentialFlow(u if mover is None else mover).rollout(z0, steps, start=1.0, dt=0.5, log_det=None)


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
def test_points_follow_the_trajectory(choice, batch):
    """Catches points that lose the batch shape, the dtype, or the range of times, and a generator that is ignored."""
    trajectory = rollout(*batch)
    state = torch.get_rng_state()
    z, t = choice.points(trajectory, generator(3))
    again = choice.points(trajectory, generator(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(z, again[0])
    assert torch.equal(t, again[1])
    assert z.shape == (len(z), *batch, 2)
    assert t.shape == z.shape[:-1]
    assert z.dtype == t.dtype == torch.float64
    assert ((t >= 1) & (t <= 2.5)).all()
    loss = HJResidual().loss(u, trajectory, generator(3), choice)
    expected = HJResidual()(u, z, t).square()
    torch.testing.assert_close(loss, expected.sum() / max(expected.numel(), 1), **near)


def test_default_is_along_the_trajectory():
    """Catches a default that changes what existing calls compute."""
    trajectory = rollout(5)
    by_default = HJResidual().loss(u, trajectory, generator(4))
    torch.testing.assert_close(by_default, HJResidual().loss(u, trajectory, generator(4), AlongPath()), rtol=0, atol=0)
    z, t = trajectory.sample(generator(4))
    torch.testing.assert_close(by_default, HJResidual().loss(u, (z, t)), **near)


@pytest.mark.parametrize(("choice", "attached"), [("along", False), ("attached", True), ("box", False)])
def test_gradients_to_the_trajectory(choice, attached):
    """Catches points that are moved to where the residual is small, or cut off where they are not to be."""
    z0, mover = normal(1, 5, 2).requires_grad_(), QuadraticPotential(2, torch.eye(2, dtype=torch.float64) / 3)
    learner = net(2, 3)
    HJResidual().loss(learner, rollout(z0=z0, mover=mover), generator(0), CHOICES[choice]).backward()
    assert (z0.grad is not None and bool((z0.grad != 0).all())) is attached
    assert all((parameter.grad != 0).any() for parameter in learner.parameters())


def test_box_is_filled_uniformly():
    """Catches a corner that is lost, and times at the ends only: means and variances within five standard errors."""
    low, high = torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 2.5])
    z, t = InBox(low, high, 20000).points(rollout(), generator(0))
    drawn = torch.cat([z, t.unsqueeze(-1)], -1)
    start = torch.tensor([-1.0, 2.0, 1.0], dtype=torch.float64)
    length = torch.tensor([4.0, 0.5, 1.5], dtype=torch.float64)
    share = (drawn - start) / length
    assert ((share >= 0) & (share <= 1)).all()
    error = 1 / math.sqrt(len(z))
    torch.testing.assert_close(share.mean(0), torch.full_like(start, 0.5), rtol=0, atol=5 * error / math.sqrt(12))
    torch.testing.assert_close(share.var(0), torch.full_like(start, 1 / 12), rtol=0, atol=5 * error / math.sqrt(180))
    correlation = torch.corrcoef(share.T) - torch.eye(3, dtype=torch.float64)
    assert correlation.abs().max() < 5 * error


def test_box_on_a_trajectory_that_runs_backwards():
    """Catches times outside the trajectory where its end is before its start."""
    trajectory = PotentialFlow(u).rollout(normal(1, 5, 2), 2, start=1.0, dt=-0.5, log_det=None)
    _, t = InBox(-1.0, 1.0, 50).points(trajectory, generator(0))
    assert ((t >= 0) & (t <= 1)).all()
    assert t.std() > 0.2


def test_box_serves_one_field_for_each_sample():
    """Catches points without the batch shape, on which a selected bank cannot be evaluated."""
    bank = PotentialBank([MLPPotential(2, (4,)), MLPPotential(2, (4,))]).double()
    k = torch.tensor([0, 1, 1, 0, 1])
    choice = Together(AlongPath(), InBox(-1.0, 1.0, 3))
    loss = HJResidual().loss(bank.select(k), rollout(5), generator(0), choice)
    z, t = choice.points(rollout(5), generator(0))
    each = torch.stack([HJResidual()(bank[int(i)], z[:, j], t[:, j]) for j, i in enumerate(k)], 1)
    torch.testing.assert_close(loss, each.square().mean(), **near)


def test_a_trajectory_without_steps():
    """Catches nan from an empty mean; a box there has its one time."""
    trajectory = rollout(5, steps=0)
    for choice in (AlongPath(), AlongPath(detach=False)):
        assert HJResidual().loss(u, trajectory, collocation=choice) == 0
        assert HJResidual().loss(u, trajectory, collocation=choice, weights=CausalWeighting()) == 0
    assert (InBox(-1.0, 1.0, 3).points(trajectory)[1] == 1.0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InBox(1.0, 1.0, 3), r"^high: expected finite numbers above low = 1.0, got 1.0"),
        (lambda: InBox(torch.zeros(2), torch.tensor([1.0, -1.0]), 3), "^(low|high): expected (a )?finite"),
        (lambda: InBox(0.0, math.inf, 3), "^(low|high): expected (a )?finite"),
        (lambda: InBox(math.nan, 1.0, 3), "^(low|high): expected (a )?finite"),
        (lambda: InBox(0.0, 1.0, 0), "^count: expected a positive integer, got 0"),
        (
            lambda: InBox(0.0, torch.ones(3), 2).points(rollout(5)),
            r"^high: expected a number or shape \(2,\), got \(3,\)",
        ),
        (Together, "^choices: expected at least one"),
        (lambda: CausalWeighting(-1.0), "^tolerance: expected a number of at least 0, got -1.0"),
        (lambda: CausalWeighting(math.nan), "^tolerance: expected"),
        (lambda: CausalWeighting(1.0, bins=0), "^bins: expected a positive integer, got 0"),
    ],
)
def test_wrong_arguments(make, message):
    """Catches arguments that fail later, or never."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("shape", [(3, 4), (4,), (3, 1), ()])
def test_weights_of_points(shape):
    """Catches weights that are normalised, squared, or miss the penalty."""
    force = NonPositiveForce(2, (4,)).double()
    residual, z, t = HJResidual(force, force_penalty=0.7), normal(1, 3, 4, 2), times(2, 3, 4)
    weights = 3 * times(5, *shape)
    cost = (residual(u, z, t).square() - 0.7 * force(z, t)) * weights
    torch.testing.assert_close(residual.loss(u, (z, t), weights=weights), cost.mean(), **near)
    single = residual.loss(u, (z, t), weights=weights.float())
    assert single.dtype == torch.float64


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.ones(3), r"^weights: expected a shape that broadcasts to \(4,\), got \(3,\)"),
        (torch.tensor([1.0, 1.0, -0.5, 1.0]), "^weights: expected numbers of at least 0, got -0.5"),
        (torch.full((4,), math.nan), "^weights: expected numbers of at least 0, got nan"),
    ],
)
def test_wrong_weights(weights, message):
    """Catches weights that do not fit, and those that reward the residual."""
    with pytest.raises(ValueError, match=message):
        HJResidual().loss(u, (normal(1, 4, 2), 0.5), weights=weights)


def causal_by_hand(square, t, tolerance, bins):
    """The weights, point by point, from the definition."""
    low, high = float(t.min()), float(t.max())
    index = [min(int((float(x) - low) / (high - low) * bins), bins - 1) for x in t.flatten()]
    square = square.flatten().tolist()
    means = []
    for b in range(bins):
        mine = [r for r, i in zip(square, index, strict=True) if i == b]
        means.append(sum(mine) / len(mine) if mine else 0.0)
    weights = [math.exp(-tolerance * sum(means[:i])) for i in index]
    return torch.tensor(weights, dtype=torch.float64).reshape(t.shape)


@pytest.mark.parametrize("bins", [1, 2, 5, 40])
@pytest.mark.parametrize("tolerance", [0.0, 0.5, 20.0])
def test_causal_weights(bins, tolerance):
    """Catches a bin that counts itself, sums in place of means, empty bins, and bins without regard to time."""
    square, t = normal(0, 4, 6).square(), 2 + 3 * times(1, 4, 6)
    weights = CausalWeighting(tolerance, bins)(square.clone().requires_grad_(), t)
    assert not weights.requires_grad
    torch.testing.assert_close(weights, causal_by_hand(square, t, tolerance, bins), **near)


def test_causal_loss():
    """Catches weights through which a gradient flows, and those made from the penalty: r^2 alone decides."""
    force = NonPositiveForce(2, (4,)).double()
    residual, z, t, learner = HJResidual(force, force_penalty=5.0), normal(1, 30, 2), times(2, 30), net(2, 4)
    weights = causal_by_hand(residual(learner, z, t).detach().square(), t, 2.0, 3)
    loss = residual.loss(learner, (z, t), weights=CausalWeighting(2.0, 3))
    expected = residual.loss(learner, (z, t), weights=weights)
    torch.testing.assert_close(loss, expected, **near)
    parameters = [*learner.parameters(), *force.parameters()]
    found, wanted = (torch.autograd.grad(x, parameters, allow_unused=True) for x in (loss, expected))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, **near)
    alike = residual.loss(learner, (z, 0.5), weights=CausalWeighting(2.0, 3))
    torch.testing.assert_close(alike, residual.loss(learner, (z, 0.5)), **near)  # one time: nothing is earlier


def test_weighting_of_a_user():
    """Catches an object of weights that is not called with squared residuals and times."""
    z, t = normal(1, 4, 2), times(2, 4)

    def late(squared_residual, t):
        torch.testing.assert_close(squared_residual, HJResidual()(u, z, t).square(), **near)
        assert not squared_residual.requires_grad
        return t

    expected = (t * HJResidual()(u, z, t).square()).mean()
    torch.testing.assert_close(HJResidual().loss(u, (z, t), weights=late), expected, **near)
