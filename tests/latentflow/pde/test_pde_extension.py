"""What an equation has to say of itself, so that a new one touches its class, its export and its test only."""

import pytest
import torch
from closed_forms import normal
from solutions import times
from torch import nn

import latentflow.pde
from latentflow import FokkerPlanckResidual, HJResidual, MLPPotential, PDEResidual
from latentflow.calculus import PositiveParameter
from latentflow.pde import HJInequality, LinearFokkerPlanckResidual

EXPORTED = [
    exported
    for exported in map(vars(latentflow.pde).get, latentflow.pde.__all__)
    if isinstance(exported, type) and issubclass(exported, PDEResidual) and exported is not PDEResidual
]
NAMES = {
    "continuity",
    "fokker-planck",
    "heat",
    "hj",
    "hj-inequality",
    "linear-fokker-planck",
    "log-fokker-planck",
    "viscous-hj",
    "wave",
}
STARTS = {  # what a learnable coefficient starts from
    "viscous-hj": ("viscosity", 0.1),
    "heat": ("diffusivity", 0.1),
    "fokker-planck": ("diffusion", 0.1),
    "log-fokker-planck": ("diffusion", 0.1),
    "linear-fokker-planck": ("diffusion", 0.1),
    "wave": ("speed", 1.0),
}


def of_name(equation):
    return equation.name


def test_every_equation_has_a_name_of_its_own():
    """Catches an equation that is not exported, two of one name, and a name that is not the customary one."""
    assert sorted(equation.name for equation in EXPORTED) == sorted(NAMES)


@pytest.mark.parametrize("equation", EXPORTED, ids=of_name)
def test_every_equation_is_built_to_be_learned(equation):
    """Catches a class that needs arguments, a coefficient elsewhere or frozen, and a parameter without a gradient."""
    residual = equation.learnable(3, (5,)).double()
    assert type(residual) is equation
    if equation.name in STARTS:
        name, start = STARTS[equation.name]
        coefficient = getattr(residual, name)
        assert isinstance(coefficient, PositiveParameter)
        assert coefficient().item() == pytest.approx(start, rel=1e-5)
    field, z, t = MLPPotential(3, (4,)).double(), normal(0, 6, 3), times(1, 6)
    with torch.no_grad():
        for i, parameter in enumerate([*field.parameters(), *residual.parameters()]):
            if parameter.ndim > 0:
                parameter.copy_(normal(10 + i, *parameter.shape))
    residual.loss(field, (z, t)).backward()
    assert bool(list(residual.parameters())) is (equation.name in {*STARTS, "continuity"})
    gradients = {name: parameter.grad for name, parameter in residual.named_parameters()}
    constant = {name for name in gradients if name.startswith("potential.") and gradients[name] is None}
    assert all((gradients[name] != 0).any() for name in gradients.keys() - constant)
    assert len(constant) < max(1, len(gradients))


@pytest.mark.parametrize("equation", [FokkerPlanckResidual, LinearFokkerPlanckResidual])
def test_the_drift_restores(equation):
    """Catches a drift of the other sign or of another strength: the potential is -|z|^2 / 2."""
    z = normal(0, 5, 3)
    torch.testing.assert_close(equation.learnable(3).drift(z, times(1, 5)), -z.square().sum(-1) / 2)


def test_the_widths_of_a_network_are_passed_on():
    """Catches widths that are ignored."""
    sizes = {
        sum(parameter.numel() for parameter in latentflow.pde.ContinuityResidual.learnable(2, hidden).parameters())
        for hidden in ((4,), (8,), (4, 4))
    }
    assert len(sizes) == 3


@pytest.mark.parametrize("equation", EXPORTED, ids=of_name)
def test_what_an_equation_acts_on(equation):
    """Catches an equation for a density that a flow is trained with."""
    density = equation.name in {"continuity", "log-fokker-planck"}
    assert equation.acts_on == ("density" if density else "potential")


def test_the_inequality_is_a_class():
    """Catches two definitions of one inequality."""
    assert type(HJResidual.inequality()) is type(HJInequality.learnable(2)) is HJInequality


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("EikonalResidual", "eikonal"),
        ("HJBResidual", "hjb"),
        ("MeanFieldHJResidual", "mean-field-hj"),
        ("Schroedinger", "schroedinger"),
        ("Residual", "residual"),
    ],
)
def test_names_of_new_equations(name, expected):
    """Catches abbreviations that are cut into letters, and an empty name."""
    assert type(name, (PDEResidual,), {}).name == expected


def test_a_name_that_is_given():
    """Catches a given name that is written over, and a subclass that inherits the name of its parent."""

    class KdVResidual(PDEResidual):
        name = "korteweg-de-vries"

        def from_jet(self, jet, z, t):
            return jet.time_derivative

    class Damped(KdVResidual):
        pass

    assert KdVResidual.name == KdVResidual.learnable(2).name == "korteweg-de-vries"
    assert Damped.name == "damped"
    assert isinstance(Damped.learnable(2), nn.Module)
