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
from latentflow.pde import HJResidual as HJResidual
from latentflow.pde import NonPositiveForce as NonPositiveForce
from latentflow.pde import PDEResidual as PDEResidual
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
from latentflow.priors import DiffusionPrior as DiffusionPrior
from latentflow.priors import GaussianPrior as GaussianPrior
from latentflow.vae import BernoulliLikelihood as BernoulliLikelihood
from latentflow.vae import FlowVAE as FlowVAE
from latentflow.vae import GaussianLikelihood as GaussianLikelihood
from latentflow.vae import JointBound as JointBound
from latentflow.vae import MarginalBound as MarginalBound
from latentflow.vae import MLPDecoder as MLPDecoder
from latentflow.vae import MLPEncoder as MLPEncoder
from latentflow.vae import Objective as Objective

__all__ = [
    "BernoulliLikelihood",
    "DiffusionPrior",
    "Discrete",
    "Estimator",
    "Exact",
    "FirstOrder",
    "FixedPoint",
    "FixedProbes",
    "FlowVAE",
    "FoldError",
    "FoldWarning",
    "FourierEmbedding",
    "FourierPotential",
    "FunctionPotential",
    "GaussianLikelihood",
    "GaussianPrior",
    "HJResidual",
    "HutchPlusPlus",
    "Hutchinson",
    "ICNNPotential",
    "IdentityEmbedding",
    "InnerHessian",
    "InversionError",
    "Jet",
    "JetRequest",
    "JointBound",
    "LaplacianEstimate",
    "LayeredPotential",
    "Layers",
    "LogDetSeries",
    "MLPDecoder",
    "MLPEncoder",
    "MLPPotential",
    "MarginalBound",
    "Newton",
    "NonPositiveForce",
    "ODEOptions",
    "Objective",
    "PDEResidual",
    "Path",
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
    "SwitchedPotential",
    "TimeEmbedding",
    "Volume",
    "VolumeChange",
    "__version__",
    "estimate_laplacian",
    "gradient",
    "gradient_time_derivative",
    "hessian",
    "hessian_vector_product",
    "jet",
    "laplacian",
    "log_cosh",
    "second_time_derivative",
]
