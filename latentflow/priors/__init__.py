"""Priors over latents: modules that build a distribution for a time and a field."""

from latentflow.priors.diffusion import DiffusionPrior as DiffusionPrior
from latentflow.priors.gaussian import GaussianPrior as GaussianPrior
