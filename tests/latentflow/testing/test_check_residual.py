"""The contract check of residuals passes what keeps the contract, and names what is broken."""

import copy

import pytest
import torch
from strategies import network, wave
from torch import nn

from latentflow import Derivative, HJResidual, PDEResidual, ViscousHJResidual
from latentflow.pde import NonPositiveForce
from latentflow.testing import check_residual


class Sound(PDEResidual):
    """A sound residual to plant bugs in: every derivative of the jet, a parameter and a penalty."""

    requires = (
        Derivative.LAPLACIAN
        | Derivative.HESSIAN
        | Derivative.SECOND_TIME_DERIVATIVE
        | Derivative.GRADIENT_TIME_DERIVATIVE
    )

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.7))

    def from_jet(self, jet, z, t):
        second = jet.laplacian + jet.hessian.square().sum((-2, -1)) + jet.gradient_time_derivative.sum(-1)
        first = jet.time_derivative + self.weight * jet.gradient.square().sum(-1)
        return first + second + jet.second_time_derivative + (t + z.sum(-1)).sin()

    def penalty(self, z, t):
        return self.weight.square() * z.square().sum(-1) * t


def changed(**methods):
    """A residual with some methods replaced; each takes the sound one's method first."""

    def wrap(name, method):
        sound = getattr(Sound, name)
        return lambda self, *arguments: method(lambda *a: sound(self, *a), self, *arguments)

    return type("Changed", (Sound,), {name: wrap(name, method) for name, method in methods.items()})()


@pytest.mark.parametrize(
    "residual",
    [Sound(), HJResidual(), HJResidual(NonPositiveForce(3)), ViscousHJResidual(0.1).double(), HJResidual.inequality()],
)
@pytest.mark.parametrize("batch", [(4,), (2, 1, 3)])
def test_sound_residuals_pass(residual, batch):
    """Catches a false alarm, the worst that a check can do."""
    check_residual(residual, dim=3, batch=batch)


@pytest.mark.parametrize("u", [wave, network(3), network(3) + wave], ids=["function", "network", "sum"])
def test_any_potential_serves(u):
    """Catches a check that works on its own potential only."""
    check_residual(Sound(), dim=3, u=u)


def test_the_residual_itself_is_left_alone():
    """Catches a check that converts or moves the user's modules."""
    residual, u = Sound(), network(3)
    before = copy.deepcopy([residual.state_dict(), u.state_dict()])
    check_residual(residual, dim=3, u=u)
    for old, module in zip(before, (residual, u), strict=True):
        assert all(
            torch.equal(old[name], now) and old[name].dtype == now.dtype for name, now in module.state_dict().items()
        )
        assert all(p.grad is None for p in module.parameters())


def wrong_in_place(method, self, jet, z, t):
    result = method(jet, z, t)
    z.mul_(2)
    return result


def wrong_jet(method, self, jet, z, t):
    result = method(jet, z, t)
    jet.gradient.mul_(2)
    return result


def frozen(method, self, jet, z, t):
    return method(jet, z, t) - self.weight * jet.value + self.weight.detach() * jet.value


BROKEN = {
    "mean over the batch": (
        {"from_jet": lambda r, self, jet, z, t: r(jet, z, t) + jet.value.mean()},
        "^residual, of the other samples, after the first one was moved: expected no sample",
    ),
    "mean in the penalty": (
        {"penalty": lambda r, self, z, t: r(z, t) + z.mean()},
        "^penalty, of the other samples",
    ),
    "reduced": (
        {"from_jet": lambda r, self, jet, z, t: r(jet, z, t).mean()},
        r"^residual, for a batch: expected shape \(4,\), got \(\)",
    ),
    "one dimension too many": (
        {"penalty": lambda r, self, z, t: r(z, t).unsqueeze(-1)},
        r"^penalty, for a batch: expected shape \(4,\), got \(4, 1\)",
    ),
    "noise": (
        {"from_jet": lambda r, self, jet, z, t: r(jet, z, t) + torch.rand_like(t)},
        "^residual, (with every derivative|in a second evaluation)",
    ),
    "z changed": ({"from_jet": wrong_in_place}, "^z, from_jet: expected the input as it was"),
    "jet changed": ({"from_jet": wrong_jet}, "^gradient of the jet, from_jet: expected the input as it was"),
    "infinite": (
        {"from_jet": lambda r, self, jet, z, t: r(jet, z, t) / (t - t)},
        "^residual, .*: expected finite numbers, got (inf|-inf)",
    ),
    "detached term": (
        {"from_jet": lambda r, self, jet, z, t: r(jet, z, t) + jet.laplacian.detach() - jet.laplacian},
        "^gradient of residual, in z: expected a finite difference",
    ),
    "detached parameter": (
        {"from_jet": frozen},
        "^gradient of residual, in parameter weight of the residual: expected a finite difference",
    ),
    "detached potential": (
        {"from_jet": lambda r, self, jet, z, t: r(jet, z, t) + jet.value.detach()},
        "^gradient of residual, in (z|t): expected a finite difference",
    ),
    "a dtype of its own": (
        {"from_jet": lambda r, self, jet, z, t: r(jet, z, t).double()},
        "^residual, in torch.float32: expected dtype torch.float32, got torch.float64",
    ),
    "single precision": (
        {"penalty": lambda r, self, z, t: r(z, t).float()},
        "^penalty, for a batch: expected dtype torch.float64, got torch.float32",
    ),
    "other without gradients": (
        {"from_jet": lambda r, self, jet, z, t: r(jet, z, t) + (0.1 if torch.is_inference_mode_enabled() else 0.0)},
        "^residual, under torch.inference_mode: expected what it is otherwise",
    ),
    "gradients needed": (
        {"penalty": lambda r, self, z, t: torch.autograd.grad(r(z, t.requires_grad_()).sum(), t)[0]},
        "^penalty, .*: expected no error, got RuntimeError",
    ),
    "one batch dimension": (
        {"from_jet": lambda r, self, jet, z, t: r(jet, z, t) + torch.einsum("bi->b", z)},
        r"^residual, for the batch shape \(\): expected no error",
    ),
    "no samples": (
        {"from_jet": lambda r, self, jet, z, t: r(jet, z, t) + 0 * jet.value.max()},
        r"^residual, for the batch shape \(0,\): expected no error",
    ),
}


@pytest.mark.parametrize(("methods", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_residuals_are_caught(methods, message):
    """Catches a check that does not look: each of these bugs has to be named with its circumstance."""
    with pytest.raises(AssertionError, match=message):
        check_residual(changed(**methods), dim=3)


@pytest.mark.parametrize("name", list(Sound.requires), ids=lambda member: member.name.lower())
def test_requires_that_are_incomplete(name):
    """Catches a derivative that is read and not named, which is a None in the middle of training."""
    residual = type("Incomplete", (Sound,), {"requires": Sound.requires & ~name})()
    with pytest.raises(AssertionError, match=r"^from_jet, with .*, which requires names, .*: expected no error, got"):
        check_residual(residual, dim=3)


def test_requires_that_depend_on_who_asks():
    """Catches a derivative that is read where it happens to be known: the value then depends on the flow's request."""

    class Opportunist(PDEResidual):
        def from_jet(self, jet, z, t):
            return jet.time_derivative + jet.second.get(Derivative.LAPLACIAN, 0)

    with pytest.raises(AssertionError, match=r"^residual, with every derivative: expected with .*requires names"):
        check_residual(Opportunist(), dim=3)


def test_gauge():
    """Catches a gauge check that is always or never made: the value of u must not appear."""
    residual = changed(from_jet=lambda r, self, jet, z, t: jet.time_derivative + 0.1 * jet.value)
    check_residual(residual, dim=3)
    with pytest.raises(AssertionError, match=r"^residual, of u \+ sin t: expected that of u, plus cos t"):
        check_residual(residual, dim=3, gauge=True)
    with pytest.raises(AssertionError, match=r"^residual, of u \+ sin t"):
        check_residual(changed(from_jet=lambda r, self, jet, z, t: 2 * jet.time_derivative), dim=3, gauge=True)


def test_a_time_that_is_the_first_one():
    """Catches a time read off the first sample, which one time for all hides."""
    residual = changed(from_jet=lambda r, self, jet, z, t: r(jet, z, t) + t.reshape(-1)[:1].sum())
    with pytest.raises(AssertionError, match=r"^residual, of the other samples, after the first one was moved"):
        check_residual(residual, dim=3)


def test_one_sample_is_refused():
    """Catches a check that cannot see whether samples couple and says nothing."""
    with pytest.raises(ValueError, match=r"batch: expected a shape of at least two samples, got \(1,\)"):
        check_residual(Sound(), dim=3, batch=(1,))
