"""The flow-factorised VAE: a thin wrapper around potentials, flows, priors and residuals."""

from latentflow.vae.bounds import JointBound as JointBound
from latentflow.vae.bounds import MarginalBound as MarginalBound
from latentflow.vae.dynamics import Dynamics as Dynamics
from latentflow.vae.flow_vae import FlowVAE as FlowVAE
from latentflow.vae.likelihood import BernoulliLikelihood as BernoulliLikelihood
from latentflow.vae.likelihood import GaussianLikelihood as GaussianLikelihood
from latentflow.vae.likelihood import Likelihood as Likelihood
from latentflow.vae.networks import MLPDecoder as MLPDecoder
from latentflow.vae.networks import MLPEncoder as MLPEncoder
from latentflow.vae.objective import Objective as Objective
