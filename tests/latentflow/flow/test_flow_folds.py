"""Where discrete maps fold, and what is done about it."""

import warnings

import pytest
import torch
from closed_forms import net, normal, spd

from latentflow import FunctionPotential, PotentialFlow, QuadraticPotential, SlogDet
from latentflow.flow import FirstOrder, FoldError, FoldWarning


def sine(amplitude):
    """The potential whose unit step is z + amplitude * sin z."""
    return FunctionPotential(lambda z, t: -amplitude * z.cos().sum(-1))


def diagonal(*values):
    return QuadraticPotential(len(values), torch.tensor(values, dtype=torch.float64).diag())


grid = torch.linspace(-4, 4, 101, dtype=torch.float64).unsqueeze(-1)


@pytest.mark.parametrize("volume", [SlogDet(), SlogDet(eigenvalues=True), FirstOrder()])
@pytest.mark.parametrize("amplitude", [2.5, 0.5])
def test_the_fold_is_where_the_slope_is_not_positive(volume, amplitude):
    """Catches a missing or global fold check."""
    trajectory = PotentialFlow(sine(amplitude)).rollout(grid, 1, log_det=volume, on_fold="ignore")
    slope = 1 + amplitude * grid.squeeze(-1).cos()
    assert torch.equal(trajectory.folded[0], slope <= 0)
    assert torch.equal(trajectory.sign[0], slope.sign())
    assert trajectory.folded.any() == (amplitude > 1)
    torch.testing.assert_close(trajectory.log_det[1], slope.abs().log())


@pytest.mark.parametrize("volume", [SlogDet(), SlogDet(eigenvalues=True)])
def test_two_flips_are_a_fold_of_positive_sign(volume):
    """Catches a guard that looks at the sign of the determinant only."""
    with pytest.raises(FoldError):
        PotentialFlow(diagonal(-2.0, -3.0, 0.1)).eval().rollout(normal(0, 2, 3), 1, log_det=volume)
    trajectory = PotentialFlow(diagonal(-2.0, -3.0, 0.1)).rollout(normal(0, 2, 3), 1, log_det=volume, on_fold="ignore")
    assert (trajectory.sign == 1).all()
    assert trajectory.folded.all()


@pytest.mark.parametrize("seed", range(3))
def test_eigenvalues_change_nothing_but_the_knowledge_of_the_smallest(seed):
    """Catches the largest eigenvalue, that of H rather than I + hH, and a second convention of log_det."""
    flow, z = PotentialFlow(net(3, seed) * 3.0), normal(seed, 2, 5, 3)
    plain, spectral = (
        flow.rollout(z, 3, dt=0.7, on_fold="ignore"),
        flow.rollout(z, 3, dt=0.7, log_det=SlogDet(eigenvalues=True), on_fold="ignore"),
    )
    for name in ("z", "log_det", "sign", "folded"):
        torch.testing.assert_close(getattr(spectral, name), getattr(plain, name))
    assert plain.smallest_eigenvalue is None
    torch.testing.assert_close(spectral.smallest_eigenvalue <= 0, plain.folded)
    matrix = spd(3, seed, -0.9, 1.0)
    trajectory = PotentialFlow(QuadraticPotential(3, matrix)).rollout(z, 2, dt=0.7, log_det=SlogDet(eigenvalues=True))
    smallest = 1 + 0.7 * torch.linalg.eigvalsh(matrix)[0]
    torch.testing.assert_close(trajectory.smallest_eigenvalue, smallest.expand(2, 2, 5).detach())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("policy", [None, "raise", "warn", "ignore"])
def test_policies(training, policy):
    """Catches policies mixed up, and defaults that do not follow the mode."""
    flow = PotentialFlow(sine(2.5)).train(training)
    effect = policy or ("warn" if training else "raise")
    if effect == "raise":
        with pytest.raises(FoldError, match="step 0"):
            flow.rollout(grid, 1, on_fold=policy)
    elif effect == "warn":
        with pytest.warns(FoldWarning, match="step 0"):
            flow.rollout(grid, 1, on_fold=policy)
    else:
        flow.rollout(grid, 1, on_fold=policy)


def test_the_message_names_step_time_and_number():
    """Catches a message about another step than the first that folds."""
    late = FunctionPotential(lambda z, t: -(t >= 2).to(z) * z.square().sum(-1))
    z = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    with pytest.raises(FoldError, match=r"step 2 \(t = 2\) for 3 of 3"):
        PotentialFlow(late).eval().rollout(z, 4)
    only_far = FunctionPotential(lambda z, t: -torch.relu(z - 2.5).pow(3).sum(-1))
    with pytest.raises(FoldError, match=r"for 1 of 3"):
        PotentialFlow(only_far).eval().rollout(z, 1)


def test_one_point_folds():
    """Catches a message that needs a batch."""
    with pytest.raises(FoldError, match="for 1 of 1"):
        PotentialFlow(sine(2.5)).eval().rollout(torch.tensor([3.0]), 1)


def test_unknown_policy():
    """Catches a typo that silently means "warn"."""
    with pytest.raises(ValueError, match="on_fold"):
        PotentialFlow(sine(0.5)).rollout(grid, 1, on_fold="raises")


def test_no_volume_no_check():
    """Catches a trajectory that claims a density, or a fold check that costs a Hessian, where none was asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trajectory = PotentialFlow(sine(2.5)).eval().rollout(grid, 2, log_det=None)
    assert trajectory.log_det is trajectory.sign is trajectory.folded is trajectory.smallest_eigenvalue is None


def test_smaller_steps_do_not_fold():
    """Catches a guard on I + H in place of I + dt H."""
    trajectory = PotentialFlow(sine(2.5)).eval().rollout(grid, 5, dt=0.2)
    assert not trajectory.folded.any()
    assert (trajectory.z[-1].squeeze(-1).diff() > 0).all()
