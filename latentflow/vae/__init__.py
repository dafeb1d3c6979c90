"""The flow-factorized VAE: a thin wrapper around potentials, flows, priors and residuals."""

from latentflow.vae.bounds import Bound as Bound
from latentflow.vae.bounds import JointBound as JointBound
from latentflow.vae.bounds import MarginalBound as MarginalBound
from latentflow.vae.bounds import StochasticBound as StochasticBound
from latentflow.vae.convolutional import ConvDecoder as ConvDecoder
from latentflow.vae.convolutional import ConvEncoder as ConvEncoder
from latentflow.vae.convolutional import ConvSequenceClassifier as ConvSequenceClassifier
from latentflow.vae.flow_vae import FlowVAE as FlowVAE
from latentflow.vae.flow_vae import Objective as Objective
from latentflow.vae.importance import effective_sample_size as effective_sample_size
from latentflow.vae.importance import importance_weighted_bound as importance_weighted_bound
from latentflow.vae.importance import largest_weight_share as largest_weight_share
from latentflow.vae.label_posterior import ExactSum as ExactSum
from latentflow.vae.label_posterior import LabelEstimator as LabelEstimator
from latentflow.vae.label_posterior import LabelPosterior as LabelPosterior
from latentflow.vae.label_posterior import MLPSequenceClassifier as MLPSequenceClassifier
from latentflow.vae.label_posterior import StraightThrough as StraightThrough
from latentflow.vae.label_posterior import annealed_temperature as annealed_temperature
from latentflow.vae.networks import BernoulliLikelihood as BernoulliLikelihood
from latentflow.vae.networks import ContinuousBernoulliLikelihood as ContinuousBernoulliLikelihood
from latentflow.vae.networks import GatedDecoder as GatedDecoder
from latentflow.vae.networks import GaussianLikelihood as GaussianLikelihood
from latentflow.vae.networks import LaplaceLikelihood as LaplaceLikelihood
from latentflow.vae.networks import Likelihood as Likelihood
from latentflow.vae.networks import MLPDecoder as MLPDecoder
from latentflow.vae.networks import MLPEncoder as MLPEncoder

__all__ = [
    "BernoulliLikelihood",
    "Bound",
    "ContinuousBernoulliLikelihood",
    "ConvDecoder",
    "ConvEncoder",
    "ConvSequenceClassifier",
    "ExactSum",
    "FlowVAE",
    "GatedDecoder",
    "GaussianLikelihood",
    "JointBound",
    "LabelEstimator",
    "LabelPosterior",
    "LaplaceLikelihood",
    "Likelihood",
    "MLPDecoder",
    "MLPEncoder",
    "MLPSequenceClassifier",
    "MarginalBound",
    "Objective",
    "StochasticBound",
    "StraightThrough",
    "annealed_temperature",
    "effective_sample_size",
    "importance_weighted_bound",
    "largest_weight_share",
]
