"""Latent dynamics driven by PDEs and optimal transport."""

from latentflow._version import __version__ as __version__
from latentflow.calculus import Estimator as Estimator
from latentflow.calculus import Exact as Exact
from latentflow.calculus import FixedProbes as FixedProbes
from latentflow.calculus import Hutchinson as Hutchinson
from latentflow.calculus import HutchPlusPlus as HutchPlusPlus
from latentflow.calculus import InnerHessian as InnerHessian
from latentflow.calculus import Jet as Jet
from latentflow.calculus import JetRequest as JetRequest
from latentflow.calculus import LaplacianEstimate as LaplacianEstimate
from latentflow.calculus import PositiveParameter as PositiveParameter
from latentflow.calculus import estimate_laplacian as estimate_laplacian
from latentflow.calculus import gradient as gradient
from latentflow.calculus import gradient_time_derivative as gradient_time_derivative
from latentflow.calculus import hessian as hessian
from latentflow.calculus import hessian_vector_product as hessian_vector_product
from latentflow.calculus import jet as jet
from latentflow.calculus import laplacian as laplacian
from latentflow.calculus import second_time_derivative as second_time_derivative
from latentflow.flow import Discrete as Discrete
from latentflow.flow import FirstOrder as FirstOrder
from latentflow.flow import FixedPoint as FixedPoint
from latentflow.flow import FoldError as FoldError
from latentflow.flow import FoldWarning as FoldWarning
from latentflow.flow import HopfLaxFlow as HopfLaxFlow
from latentflow.flow import HopfLaxPotential as HopfLaxPotential
from latentflow.flow import InversionError as InversionError
from latentflow.flow import LogDetSeries as LogDetSeries
from latentflow.flow import Newton as Newton
from latentflow.flow import ODEOptions as ODEOptions
from latentflow.flow import Path as Path
from latentflow.flow import PotentialFlow as PotentialFlow
from latentflow.flow import PushForward as PushForward
from latentflow.flow import RunningCost as RunningCost
from latentflow.flow import SeriesWarning as SeriesWarning
from latentflow.flow import SlogDet as SlogDet
from latentflow.flow import SolverError as SolverError
from latentflow.flow import Step as Step
from latentflow.flow import Volume as Volume
from latentflow.flow import VolumeChange as VolumeChange
from latentflow.pde import AlongPath as AlongPath
from latentflow.pde import CausalWeighting as CausalWeighting
from latentflow.pde import Collocation as Collocation
from latentflow.pde import ContinuityResidual as ContinuityResidual
from latentflow.pde import FokkerPlanckResidual as FokkerPlanckResidual
from latentflow.pde import HeatResidual as HeatResidual
from latentflow.pde import HJResidual as HJResidual
from latentflow.pde import InBox as InBox
from latentflow.pde import LinearFokkerPlanckResidual as LinearFokkerPlanckResidual
from latentflow.pde import LogFokkerPlanckResidual as LogFokkerPlanckResidual
from latentflow.pde import NonPositiveForce as NonPositiveForce
from latentflow.pde import PDEResidual as PDEResidual
from latentflow.pde import Together as Together
from latentflow.pde import ViscousHJResidual as ViscousHJResidual
from latentflow.pde import WaveResidual as WaveResidual
from latentflow.pde import Weighting as Weighting
from latentflow.potentials import FourierEmbedding as FourierEmbedding
from latentflow.potentials import FourierPotential as FourierPotential
from latentflow.potentials import FunctionPotential as FunctionPotential
from latentflow.potentials import ICNNPotential as ICNNPotential
from latentflow.potentials import IdentityEmbedding as IdentityEmbedding
from latentflow.potentials import LayeredPotential as LayeredPotential
from latentflow.potentials import Layers as Layers
from latentflow.potentials import MLPPotential as MLPPotential
from latentflow.potentials import Potential as Potential
from latentflow.potentials import PotentialBank as PotentialBank
from latentflow.potentials import QuadraticPotential as QuadraticPotential
from latentflow.potentials import ResNetPotential as ResNetPotential
from latentflow.potentials import SinusoidalEmbedding as SinusoidalEmbedding
from latentflow.potentials import SwitchedPotential as SwitchedPotential
from latentflow.potentials import TimeEmbedding as TimeEmbedding
from latentflow.potentials import log_cosh as log_cosh
from latentflow.priors import DiffusedPrior as DiffusedPrior
from latentflow.priors import DiffusionPrior as DiffusionPrior
from latentflow.priors import GaussianPrior as GaussianPrior
from latentflow.priors import MixturePrior as MixturePrior
from latentflow.priors import TransportedPrior as TransportedPrior
from latentflow.priors import VampPrior as VampPrior
from latentflow.transport import BlurWarning as BlurWarning
from latentflow.transport import Certificate as Certificate
from latentflow.transport import GaussianTransportPotential as GaussianTransportPotential
from latentflow.transport import barycentric_map as barycentric_map
from latentflow.transport import benamou_brenier_action as benamou_brenier_action
from latentflow.transport import gaussian_transport_potential as gaussian_transport_potential
from latentflow.transport import gaussian_wasserstein2 as gaussian_wasserstein2
from latentflow.transport import mccann_interpolation as mccann_interpolation
from latentflow.transport import transport_certificate as transport_certificate
from latentflow.transport import transport_defect as transport_defect
from latentflow.transport import wasserstein2 as wasserstein2
from latentflow.transport import wasserstein2_1d as wasserstein2_1d
from latentflow.vae import BernoulliLikelihood as BernoulliLikelihood
from latentflow.vae import ContinuousBernoulliLikelihood as ContinuousBernoulliLikelihood
from latentflow.vae import Dynamics as Dynamics
from latentflow.vae import ExactSum as ExactSum
from latentflow.vae import FlowVAE as FlowVAE
from latentflow.vae import GaussianLikelihood as GaussianLikelihood
from latentflow.vae import JointBound as JointBound
from latentflow.vae import LabelPosterior as LabelPosterior
from latentflow.vae import MarginalBound as MarginalBound
from latentflow.vae import MLPDecoder as MLPDecoder
from latentflow.vae import MLPEncoder as MLPEncoder
from latentflow.vae import MLPSequenceClassifier as MLPSequenceClassifier
from latentflow.vae import Objective as Objective
from latentflow.vae import StochasticBound as StochasticBound
from latentflow.vae import StraightThrough as StraightThrough
from latentflow.vae import annealed_temperature as annealed_temperature
from latentflow.vae import effective_sample_size as effective_sample_size
from latentflow.vae import importance_weighted_bound as importance_weighted_bound

__all__ = [
    "AlongPath",
    "BernoulliLikelihood",
    "BlurWarning",
    "CausalWeighting",
    "Certificate",
    "Collocation",
    "ContinuityResidual",
    "ContinuousBernoulliLikelihood",
    "DiffusedPrior",
    "DiffusionPrior",
    "Discrete",
    "Dynamics",
    "Estimator",
    "Exact",
    "ExactSum",
    "FirstOrder",
    "FixedPoint",
    "FixedProbes",
    "FlowVAE",
    "FokkerPlanckResidual",
    "FoldError",
    "FoldWarning",
    "FourierEmbedding",
    "FourierPotential",
    "FunctionPotential",
    "GaussianLikelihood",
    "GaussianPrior",
    "GaussianTransportPotential",
    "HJResidual",
    "HeatResidual",
    "HopfLaxFlow",
    "HopfLaxPotential",
    "HutchPlusPlus",
    "Hutchinson",
    "ICNNPotential",
    "IdentityEmbedding",
    "InBox",
    "InnerHessian",
    "InversionError",
    "Jet",
    "JetRequest",
    "JointBound",
    "LabelPosterior",
    "LaplacianEstimate",
    "LayeredPotential",
    "Layers",
    "LinearFokkerPlanckResidual",
    "LogDetSeries",
    "LogFokkerPlanckResidual",
    "MLPDecoder",
    "MLPEncoder",
    "MLPPotential",
    "MLPSequenceClassifier",
    "MarginalBound",
    "MixturePrior",
    "Newton",
    "NonPositiveForce",
    "ODEOptions",
    "Objective",
    "PDEResidual",
    "Path",
    "PositiveParameter",
    "Potential",
    "PotentialBank",
    "PotentialFlow",
    "PushForward",
    "QuadraticPotential",
    "ResNetPotential",
    "RunningCost",
    "SeriesWarning",
    "SinusoidalEmbedding",
    "SlogDet",
    "SolverError",
    "Step",
    "StochasticBound",
    "StraightThrough",
    "SwitchedPotential",
    "TimeEmbedding",
    "Together",
    "TransportedPrior",
    "VampPrior",
    "ViscousHJResidual",
    "Volume",
    "VolumeChange",
    "WaveResidual",
    "Weighting",
    "__version__",
    "annealed_temperature",
    "barycentric_map",
    "benamou_brenier_action",
    "effective_sample_size",
    "estimate_laplacian",
    "gaussian_transport_potential",
    "gaussian_wasserstein2",
    "gradient",
    "gradient_time_derivative",
    "hessian",
    "hessian_vector_product",
    "importance_weighted_bound",
    "jet",
    "laplacian",
    "log_cosh",
    "mccann_interpolation",
    "second_time_derivative",
    "transport_certificate",
    "transport_defect",
    "wasserstein2",
    "wasserstein2_1d",
]
