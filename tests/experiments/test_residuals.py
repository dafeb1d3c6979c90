"""The PDE of a run, by its name or from a user's file."""

from pathlib import Path

import pytest
import torch

from latentflow import FunctionPotential, HJResidual, PDEResidual
from latentflow_experiments.configuration import ModelConfig
from latentflow_experiments.data import open_sequences
from latentflow_experiments.errors import UsageError
from latentflow_experiments.methods import MethodOptions
from latentflow_experiments.residuals import RESIDUALS, build_residual, check_pde

TELEGRAPH = f"{Path(__file__).parents[2] / 'examples' / 'telegraph.py'}:Telegraph"
DIGITS = open_sequences("digits", "test")
Z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
T = torch.rand(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def square(z, t):
    return z.square().sum(-1) / 2


def plane(z, t):
    return z[..., 0] - t / 2


@pytest.mark.parametrize(
    ("name", "solution"),
    [
        ("hj", plane),
        ("hj-inequality", lambda z, t: plane(z, t) - t),
        ("viscous-hj", plane),
        ("heat", lambda z, t: square(z, t) + 0.1 * 3 * t),
        ("fokker-planck", lambda z, t: 0 * t),  # the stationary law exp(-|z|^2 / 2 D) does not move
        ("wave", lambda z, t: square(z, t) + 3 * t.square() / 2),
        (TELEGRAPH, lambda z, t: (z[..., 0]) * torch.exp(-0.2 * t)),
    ],
)
def test_a_name_stands_for_its_equation(name, solution):
    """Catches a name that builds another equation, or a coefficient that starts elsewhere."""
    residual = build_residual(name, 3, (4,))
    torch.testing.assert_close(residual(FunctionPotential(solution), Z, T), torch.zeros_like(T), rtol=0, atol=1e-6)
    assert residual(FunctionPotential(lambda z, t: square(z, t) * (3 + t)), Z, T).abs().max() > 0.1


@pytest.mark.parametrize("name", [*RESIDUALS, TELEGRAPH])
def test_every_name_trains(name):
    """Catches an equation that the model cannot take, and a coefficient that the optimizer does not see."""
    torch.manual_seed(0)
    model = ModelConfig(dim=3, hidden=(5,), width=8, bound="joint", pde=name).build(DIGITS)
    model(torch.rand(2, 3, 3, 28, 28), torch.tensor([0, 2]))["total"].backward()
    learners = [*model.encoder.parameters(), *([] if model.residual is None else model.residual.parameters())]
    assert all(parameter.grad is not None for parameter in learners)
    assert next(model.bank.parameters()).grad.abs().max() > 0


def test_a_convex_start_is_optimal_over_all_steps():
    """Catches a bowl that is too deep for the number of steps, and one that forbids contraction."""
    torch.manual_seed(0)
    model = ModelConfig(dim=3, hidden=(5,), width=8, pde="convex-hj").build(DIGITS).double()
    trajectory = model.flow_of(0).rollout(10 * Z, steps=8)
    assert (trajectory.smallest_eigenvalue > 0.02 - 1e-12).all()
    with torch.no_grad():
        for parameter in model.bank.parameters():
            parameter.fill_(-5.0)
    trajectory = model.flow_of(0).rollout(Z, steps=8)
    assert (trajectory.smallest_eigenvalue[-1] > 0.02 - 1e-12).all()
    assert (trajectory.smallest_eigenvalue[-1] < 0.03).all()


@pytest.mark.parametrize("prior", ["diffusion", "gaussian", "mixture", "vamp"])
def test_every_prior_trains(prior):
    """Catches a prior that the model cannot take, and one whose parameters get no gradient."""
    torch.manual_seed(0)
    model = ModelConfig(dim=3, hidden=(5,), width=8, prior=prior).build(DIGITS)
    model(torch.rand(2, 3, 3, 28, 28), torch.tensor([0, 2]))["total"].backward()
    assert all(parameter.grad is not None for parameter in model.prior.parameters())


@pytest.mark.parametrize("method", ["flow", "vae", "beta-vae", "factor-vae", "slow-vae", "tvae", "poflow"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous-bernoulli", "gaussian"])
def test_every_method_is_built_alike(method, likelihood):
    """Catches a method with another encoder, decoder or likelihood, which a comparison of methods would measure."""
    torch.manual_seed(0)
    model = ModelConfig(method=method, dim=9, hidden=(5,), width=8, likelihood=likelihood).build(DIGITS)
    if method == "poflow":
        model = model.model
    flow = ModelConfig(dim=9, hidden=(5,), width=8, likelihood=likelihood).build(DIGITS)  # 9 is a whole capsule
    for part in ("encoder", "decoder"):
        shapes = [[p.shape for p in getattr(some, part).parameters()] for some in (model, flow)]
        assert shapes[0] == shapes[1]
    assert type(model.likelihood) is type(flow.likelihood)
    terms = model(torch.rand(2, 9, 3, 28, 28), torch.tensor([0, 2]), torch.Generator().manual_seed(0))
    assert terms["total"].isfinite()


def test_the_options_of_a_baseline_reach_it():
    """Catches a weight of the command line that is read and not used."""
    weights = MethodOptions(beta=2.0, tc_weight=3.0, slow_weight=5.0, slow_rate=7.0)
    beta, factor, slow = (
        ModelConfig(method=method, dim=3, width=8, baseline=weights).build(DIGITS)
        for method in ("beta-vae", "factor-vae", "slow-vae")
    )
    assert (beta.beta, factor.gamma, slow.gamma, slow.rate) == (2.0, 3.0, 5.0, 7.0)
    capsules = ModelConfig(method="tvae", dim=10, width=8).build(DIGITS)
    assert capsules.mean.shape == (18,)  # two capsules of nine slots, the least that hold ten coordinates


def test_a_module_works_as_a_file_does(tmp_path, monkeypatch):
    """Catches a loader that only takes paths."""
    (tmp_path / "own_pde_of_a_user.py").write_text("from latentflow import HJResidual as Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(build_residual("own_pde_of_a_user:Mine", 2, (4,)), HJResidual)


@pytest.mark.parametrize(
    ("content", "name", "cause"),
    [
        ("", "nowhere.py:Mine", "FileNotFoundError"),
        ("", "file.py:Mine", "AttributeError"),
        ("1 / 0", "file.py:Mine", "ZeroDivisionError"),
        ("class Mine:\n    def __init__(self, dim): pass", "file.py:Mine", "TypeError"),
        ("class Mine: pass", "file.py:Mine", "TypeError: Mine is no PDEResidual class"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(content, name, cause, tmp_path, monkeypatch):
    """Catches a traceback for a mistake of the user's."""
    monkeypatch.chdir(tmp_path)
    Path("file.py").write_text(content)
    with pytest.raises(UsageError, match=f"pde: expected .*{cause}"):
        build_residual(name, 2, (4,))


@pytest.mark.parametrize("name", ["hamilton", "file.py:", ":Mine", ""])
def test_an_unknown_name_is_refused_before_the_run(name):
    """Catches a run that fails after its folder was made."""
    with pytest.raises(UsageError, match=r"pde: expected one of .*hj, .*exact-hj"):
        check_pde(name)


def test_the_example_is_the_telegraph_equation():
    """Catches a sign: exp(-a t) cos(k z) cosh(w t) solves it where w^2 = a^2 - k^2."""
    residual: PDEResidual = build_residual(TELEGRAPH, 1, ()).double()
    a, k = residual.damping.item(), 0.05
    w = (a * a - k * k) ** 0.5
    field = FunctionPotential(lambda z, t: torch.exp(-a * t) * torch.cos(k * z[..., 0]) * torch.cosh(w * t))
    torch.testing.assert_close(residual(field, Z[:, :1], T), torch.zeros_like(T), rtol=0, atol=1e-9)
