"""Priors over latents: modules that build a distribution for a time and a field."""

from latentflow.priors.arguments import Prior as Prior
from latentflow.priors.diffused import DiffusedPrior as DiffusedPrior
from latentflow.priors.diffusion import DiffusionPrior as DiffusionPrior
from latentflow.priors.gaussian import GaussianPrior as GaussianPrior
from latentflow.priors.mixture import MixturePrior as MixturePrior
from latentflow.priors.transported import TransportedPrior as TransportedPrior
from latentflow.priors.vamp import VampPrior as VampPrior
