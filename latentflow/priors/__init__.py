"""Priors over latents: callables that build a distribution for a time and a field."""

from latentflow.priors.diffusion import DiffusedPrior as DiffusedPrior
from latentflow.priors.diffusion import DiffusionPrior as DiffusionPrior
from latentflow.priors.diffusion import GaussianPrior as GaussianPrior
from latentflow.priors.diffusion import Prior as Prior
from latentflow.priors.mixture import MixturePrior as MixturePrior
from latentflow.priors.mixture import VampPrior as VampPrior
from latentflow.priors.transported import TransportedPrior as TransportedPrior

__all__ = [
    "DiffusedPrior",
    "DiffusionPrior",
    "GaussianPrior",
    "MixturePrior",
    "Prior",
    "TransportedPrior",
    "VampPrior",
]
