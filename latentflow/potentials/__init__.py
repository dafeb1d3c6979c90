"""Scalar fields u(z, t) and their algebra."""

from latentflow.potentials.activation import log_cosh as log_cosh
from latentflow.potentials.algebra import FunctionPotential as FunctionPotential
from latentflow.potentials.algebra import Potential as Potential
from latentflow.potentials.algebra import ScaledPotential as ScaledPotential
from latentflow.potentials.algebra import SumPotential as SumPotential
from latentflow.potentials.bank import MixedPotential as MixedPotential
from latentflow.potentials.bank import PotentialBank as PotentialBank
from latentflow.potentials.bank import SelectedPotential as SelectedPotential
from latentflow.potentials.fourier import FourierPotential as FourierPotential
from latentflow.potentials.icnn import ICNNPotential as ICNNPotential
from latentflow.potentials.layered import LayeredPotential as LayeredPotential
from latentflow.potentials.layered import Layers as Layers
from latentflow.potentials.low_rank import LowRankQuadratic as LowRankQuadratic
from latentflow.potentials.mlp import MLPPotential as MLPPotential
from latentflow.potentials.quadratic import QuadraticPotential as QuadraticPotential
from latentflow.potentials.resnet import ResNetPotential as ResNetPotential
from latentflow.potentials.switched import SwitchedPotential as SwitchedPotential
from latentflow.potentials.time_embedding import FourierEmbedding as FourierEmbedding
from latentflow.potentials.time_embedding import IdentityEmbedding as IdentityEmbedding
from latentflow.potentials.time_embedding import SinusoidalEmbedding as SinusoidalEmbedding
from latentflow.potentials.time_embedding import TimeEmbedding as TimeEmbedding
