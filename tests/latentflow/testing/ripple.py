"""A sound potential to plant bugs in."""

from dataclasses import replace

import torch
from torch import nn

from latentflow import Jet, Potential
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
        probes = request.probes
        along = None if probes is None else probes @ k
        curvature = -value
        return Jet(
            value=value,
            gradient=slope.unsqueeze(-1) * k,
            time_derivative=1.5 * slope,
            laplacian=curvature * k.square().sum() if request.laplacian else None,
            hessian=curvature[..., None, None] * torch.outer(k, k) if request.hessian else None,
            quadratic=None if probes is None else curvature.unsqueeze(-1) * along.square(),
            products=(curvature.unsqueeze(-1) * along).unsqueeze(-1) * k if request.products else None,
            second_time_derivative=2.25 * curvature if request.second_time_derivative else None,
            gradient_time_derivative=1.5 * curvature.unsqueeze(-1) * k if request.gradient_time_derivative else None,
            inner_hessian=InnerHessian(curvature[..., None, None], k.unsqueeze(0)) if request.inner_hessian else None,
        )

    def lipschitz_gradient(self):
        return self.height.abs() * self.wave.square().sum()


def altered(**changes):
    """A ripple whose rule has some fields changed after the fact: each change maps the jet to the new field."""

    class Altered(Ripple):
        def jet_rule(self, z, t, request):
            jet = super().jet_rule(z, t, request)
            new = {name: change(jet) for name, change in changes.items() if getattr(jet, name) is not None}
            return replace(jet, **new)

    return Altered()
