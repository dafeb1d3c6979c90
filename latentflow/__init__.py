"""Latent dynamics driven by PDEs and optimal transport."""

from latentflow._version import __version__ as __version__
from latentflow.calculus import Derivative as Derivative
from latentflow.calculus import Exact as Exact
from latentflow.calculus import Hutchinson as Hutchinson
from latentflow.calculus import Jet as Jet
from latentflow.calculus import gradient as gradient
from latentflow.calculus import hessian as hessian
from latentflow.calculus import jet as jet
from latentflow.calculus import laplacian as laplacian
from latentflow.flow import ODE as ODE
from latentflow.flow import Euler as Euler
from latentflow.flow import HopfLaxFlow as HopfLaxFlow
from latentflow.flow import PotentialFlow as PotentialFlow
from latentflow.flow import SlogDet as SlogDet
from latentflow.flow import Trajectory as Trajectory
from latentflow.pde import FokkerPlanckResidual as FokkerPlanckResidual
from latentflow.pde import HeatResidual as HeatResidual
from latentflow.pde import HJResidual as HJResidual
from latentflow.pde import PDEResidual as PDEResidual
from latentflow.pde import ViscousHJResidual as ViscousHJResidual
from latentflow.pde import WaveResidual as WaveResidual
from latentflow.potentials import FourierPotential as FourierPotential
from latentflow.potentials import FunctionPotential as FunctionPotential
from latentflow.potentials import ICNNPotential as ICNNPotential
from latentflow.potentials import MLPPotential as MLPPotential
from latentflow.potentials import Potential as Potential
from latentflow.potentials import PotentialBank as PotentialBank
from latentflow.potentials import QuadraticPotential as QuadraticPotential
from latentflow.potentials import ResNetPotential as ResNetPotential
from latentflow.potentials import SwitchedPotential as SwitchedPotential
from latentflow.priors import DiffusionPrior as DiffusionPrior
from latentflow.priors import GaussianPrior as GaussianPrior
from latentflow.priors import MixturePrior as MixturePrior
from latentflow.priors import TransportedPrior as TransportedPrior
from latentflow.priors import VampPrior as VampPrior
from latentflow.transport import gaussian_transport_potential as gaussian_transport_potential
from latentflow.transport import gaussian_wasserstein2 as gaussian_wasserstein2
from latentflow.transport import transport_certificate as transport_certificate
from latentflow.transport import wasserstein2 as wasserstein2
from latentflow.vae import FlowVAE as FlowVAE
from latentflow.vae import JointBound as JointBound
from latentflow.vae import LabelPosterior as LabelPosterior
from latentflow.vae import MarginalBound as MarginalBound
from latentflow.vae import MLPDecoder as MLPDecoder
from latentflow.vae import MLPEncoder as MLPEncoder

__all__ = [
    "ODE",
    "Derivative",
    "DiffusionPrior",
    "Euler",
    "Exact",
    "FlowVAE",
    "FokkerPlanckResidual",
    "FourierPotential",
    "FunctionPotential",
    "GaussianPrior",
    "HJResidual",
    "HeatResidual",
    "HopfLaxFlow",
    "Hutchinson",
    "ICNNPotential",
    "Jet",
    "JointBound",
    "LabelPosterior",
    "MLPDecoder",
    "MLPEncoder",
    "MLPPotential",
    "MarginalBound",
    "MixturePrior",
    "PDEResidual",
    "Potential",
    "PotentialBank",
    "PotentialFlow",
    "QuadraticPotential",
    "ResNetPotential",
    "SlogDet",
    "SwitchedPotential",
    "Trajectory",
    "TransportedPrior",
    "VampPrior",
    "ViscousHJResidual",
    "WaveResidual",
    "__version__",
    "gaussian_transport_potential",
    "gaussian_wasserstein2",
    "gradient",
    "hessian",
    "jet",
    "laplacian",
    "transport_certificate",
    "wasserstein2",
]
