"""Scalar fields u(z, t), their vector space, and banks of them."""

from latentflow.potentials.algebra import FunctionPotential as FunctionPotential
from latentflow.potentials.algebra import Potential as Potential
from latentflow.potentials.algebra import ScaledPotential as ScaledPotential
from latentflow.potentials.algebra import SumPotential as SumPotential
from latentflow.potentials.bank import MixedPotential as MixedPotential
from latentflow.potentials.bank import PotentialBank as PotentialBank
from latentflow.potentials.bank import SelectedPotential as SelectedPotential
from latentflow.potentials.bank import SwitchedPotential as SwitchedPotential
from latentflow.potentials.features import FourierEmbedding as FourierEmbedding
from latentflow.potentials.features import IdentityEmbedding as IdentityEmbedding
from latentflow.potentials.features import SinusoidalEmbedding as SinusoidalEmbedding
from latentflow.potentials.features import TimeEmbedding as TimeEmbedding
from latentflow.potentials.features import log_cosh as log_cosh
from latentflow.potentials.fourier import FourierPotential as FourierPotential
from latentflow.potentials.icnn import ICNNPotential as ICNNPotential
from latentflow.potentials.layered import LayeredPotential as LayeredPotential
from latentflow.potentials.layered import Layers as Layers
from latentflow.potentials.mlp import MLPPotential as MLPPotential
from latentflow.potentials.quadratic import LowRankQuadratic as LowRankQuadratic
from latentflow.potentials.quadratic import QuadraticPotential as QuadraticPotential
from latentflow.potentials.resnet import ResNetPotential as ResNetPotential

__all__ = [
    "FourierEmbedding",
    "FourierPotential",
    "FunctionPotential",
    "ICNNPotential",
    "IdentityEmbedding",
    "LayeredPotential",
    "Layers",
    "LowRankQuadratic",
    "MLPPotential",
    "MixedPotential",
    "Potential",
    "PotentialBank",
    "QuadraticPotential",
    "ResNetPotential",
    "ScaledPotential",
    "SelectedPotential",
    "SinusoidalEmbedding",
    "SumPotential",
    "SwitchedPotential",
    "TimeEmbedding",
    "log_cosh",
]
