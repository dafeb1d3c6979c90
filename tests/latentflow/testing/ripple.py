"""A sound potential to plant bugs in."""

from dataclasses import replace

import torch
from torch import nn

from latentflow import Derivative, Jet, Potential
from latentflow.calculus import InnerHessian


class Ripple(Potential):
    """A sound potential with a rule for every request: h sin(k.z + c t), where h and k are learned."""

    def __init__(self):
        super().__init__()
        self.height = nn.Parameter(torch.tensor(0.8))
        self.wave = nn.Parameter(torch.tensor([0.5, -1.2, 0.7]))

    def phase(self, z, t):
        return z @ self.wave + 1.5 * t

    def forward(self, z, t):
        return self.height * self.phase(z, t).sin()

    @property
    def inner_width(self):
        return 1

    def jet_rule(self, z, t, request):
        k, phase = self.wave, self.phase(z, t)
        value, slope = self.height * phase.sin(), self.height * phase.cos()
        curvature = -value
        return Jet.answer(
            request,
            value=value,
            gradient=slope.unsqueeze(-1) * k,
            time_derivative=1.5 * slope,
            laplacian=lambda: curvature * k.square().sum(),
            hessian=lambda: curvature[..., None, None] * torch.outer(k, k),
            quadratic=lambda v: curvature.unsqueeze(-1) * (v @ k).square(),
            products=lambda v: (curvature.unsqueeze(-1) * (v @ k)).unsqueeze(-1) * k,
            second_time_derivative=lambda: 2.25 * curvature,
            gradient_time_derivative=lambda: 1.5 * curvature.unsqueeze(-1) * k,
            inner_hessian=lambda: InnerHessian(curvature[..., None, None], k.unsqueeze(0)),
        )

    def lipschitz_gradient(self):
        return self.height.abs() * self.wave.square().sum()


def altered(**changes):
    """A ripple whose rule has some fields changed after the fact: each change maps the jet to the new field."""

    class Altered(Ripple):
        def jet_rule(self, z, t, request):
            jet = super().jet_rule(z, t, request)
            for name, change in changes.items():
                jet = changed_field(jet, name, change)
            return jet

    return Altered()


def changed_field(jet, name, change):
    """A jet with one field changed, where it holds that field; a change to None takes the field away."""
    if name in ("value", "gradient", "time_derivative"):
        return replace(jet, **{name: change(jet)})
    if name == "inner_hessian":
        return jet if jet.factors is None else replace(jet, factors=change(jet))
    derivative = Derivative[name.upper()]
    if derivative not in jet.second:
        return jet
    new = change(jet)
    if new is None:
        return replace(jet, second={key: field for key, field in jet.second.items() if key != derivative})
    return jet.including(derivative, new)
