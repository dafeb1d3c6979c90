"""The flow-factorised VAE: a thin wrapper around potentials, flows, priors and residuals."""

from latentflow.vae.bounds import Bound as Bound
from latentflow.vae.bounds import Dynamics as Dynamics
from latentflow.vae.bounds import JointBound as JointBound
from latentflow.vae.bounds import MarginalBound as MarginalBound
from latentflow.vae.bounds import StochasticBound as StochasticBound
from latentflow.vae.bounds import reparameterised_sample as reparameterised_sample
from latentflow.vae.flow_vae import FlowVAE as FlowVAE
from latentflow.vae.flow_vae import Objective as Objective
from latentflow.vae.importance import effective_sample_size as effective_sample_size
from latentflow.vae.importance import importance_weighted_bound as importance_weighted_bound
from latentflow.vae.label_posterior import ExactSum as ExactSum
from latentflow.vae.label_posterior import LabelPosterior as LabelPosterior
from latentflow.vae.label_posterior import MLPSequenceClassifier as MLPSequenceClassifier
from latentflow.vae.label_posterior import StraightThrough as StraightThrough
from latentflow.vae.label_posterior import annealed_temperature as annealed_temperature
from latentflow.vae.networks import BernoulliLikelihood as BernoulliLikelihood
from latentflow.vae.networks import ContinuousBernoulliLikelihood as ContinuousBernoulliLikelihood
from latentflow.vae.networks import GaussianLikelihood as GaussianLikelihood
from latentflow.vae.networks import Likelihood as Likelihood
from latentflow.vae.networks import MLPDecoder as MLPDecoder
from latentflow.vae.networks import MLPEncoder as MLPEncoder
