"""Integrals over densities by the trapezoidal rule, and priors to integrate."""

import torch
from closed_forms import net, normal

from latentflow import (
    DiffusionPrior,
    GaussianPrior,
    MixturePrior,
    MLPEncoder,
    PotentialBank,
    TransportedPrior,
    VampPrior,
)
from latentflow.priors import DiffusedPrior

SHAPE = (1, 2, 2)


def grid(dim):
    """Points and the cell of a grid that integrates smooth densities of scales between 0.5 and 1.5 to roundoff."""
    reach, step = 12.0, 0.05 if dim == 1 else 0.15
    axis = torch.arange(-reach, reach + step / 2, step, dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * dim).reshape(-1, dim), step**dim


def mixture(dim, seed=0, components=3):
    """A mixture whose weights, means and scales all differ."""
    prior = MixturePrior(dim, components).double()
    with torch.no_grad():
        prior.logits.copy_(normal(seed, components))
        prior.mean.copy_(normal(seed + 1, components, dim))
        prior.log_scale.copy_(normal(seed + 2, components, dim).tanh() * 0.4)
    return prior


def encoder(dim, seed=0):
    """An encoder whose means and scales depend on the input."""
    network = MLPEncoder(SHAPE, dim, (6,)).double()
    with torch.no_grad():
        for i, parameter in enumerate(network.parameters()):
            parameter.copy_(normal(seed + i, *parameter.shape) / 3)
    return network


def vamp(dim, seed=0, components=4):
    return VampPrior(encoder(dim, seed), normal(seed + 50, components, *SHAPE).sigmoid()).double()


def mild(dim, seed):
    """A net whose unit steps are invertible."""
    return 0.1 * net(dim, seed)


def bank(dim):
    return PotentialBank([mild(dim, 3), mild(dim, 33)])


PRIORS = {
    "gaussian": (lambda dim: GaussianPrior(dim).double(), 1),
    "diffusion": (lambda dim: DiffusionPrior(dim, 2, 0.3).double(), 2),
    "mixture": (mixture, 1),
    "vamp": (vamp, 1),
    "diffused mixture": (lambda dim: DiffusedPrior(mixture(dim), 2, 0.1).double(), 2),
    "diffused vamp": (lambda dim: DiffusedPrior(vamp(dim), 2, 0.1).double(), 2),
    "transported gaussian": (lambda dim: TransportedPrior(GaussianPrior(dim).double(), bank(dim)), 2),
    "transported mixture": (lambda dim: TransportedPrior(mixture(dim), mild(dim, 5)), 1),
}
"""Builders of every prior, from the number of coordinates, and the number of its fields."""
