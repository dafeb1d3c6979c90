"""Latent dynamics driven by PDEs and optimal transport."""

from latentflow._version import __version__ as __version__
from latentflow.calculus import Estimator as Estimator
from latentflow.calculus import Exact as Exact
from latentflow.calculus import Hutchinson as Hutchinson
from latentflow.calculus import Jet as Jet
from latentflow.calculus import JetRequest as JetRequest
from latentflow.calculus import gradient as gradient
from latentflow.calculus import hessian as hessian
from latentflow.calculus import jet as jet
from latentflow.calculus import laplacian as laplacian
from latentflow.flow import FirstOrder as FirstOrder
from latentflow.flow import FoldError as FoldError
from latentflow.flow import FoldWarning as FoldWarning
from latentflow.flow import Path as Path
from latentflow.flow import PotentialFlow as PotentialFlow
from latentflow.flow import SlogDet as SlogDet
from latentflow.flow import Step as Step
from latentflow.pde import HJResidual as HJResidual
from latentflow.pde import NonPositiveForce as NonPositiveForce
from latentflow.pde import PDEResidual as PDEResidual
from latentflow.potentials import FourierEmbedding as FourierEmbedding
from latentflow.potentials import FunctionPotential as FunctionPotential
from latentflow.potentials import MLPPotential as MLPPotential
from latentflow.potentials import Potential as Potential
from latentflow.potentials import PotentialBank as PotentialBank
from latentflow.potentials import QuadraticPotential as QuadraticPotential
from latentflow.potentials import SinusoidalEmbedding as SinusoidalEmbedding
from latentflow.potentials import SwitchedPotential as SwitchedPotential
from latentflow.potentials import TimeEmbedding as TimeEmbedding
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
    "Estimator",
    "Exact",
    "FirstOrder",
    "FlowVAE",
    "FoldError",
    "FoldWarning",
    "FourierEmbedding",
    "FunctionPotential",
    "GaussianLikelihood",
    "GaussianPrior",
    "HJResidual",
    "Hutchinson",
    "Jet",
    "JetRequest",
    "JointBound",
    "MLPDecoder",
    "MLPEncoder",
    "MLPPotential",
    "MarginalBound",
    "NonPositiveForce",
    "Objective",
    "PDEResidual",
    "Path",
    "Potential",
    "PotentialBank",
    "PotentialFlow",
    "QuadraticPotential",
    "SinusoidalEmbedding",
    "SlogDet",
    "Step",
    "SwitchedPotential",
    "TimeEmbedding",
    "__version__",
    "gradient",
    "hessian",
    "jet",
    "laplacian",
]
