"""Residuals of partial differential equations on potentials, their collocation points and weights."""

from latentflow.pde.collocation import AlongPath as AlongPath
from latentflow.pde.collocation import Collocation as Collocation
from latentflow.pde.collocation import InBox as InBox
from latentflow.pde.collocation import Together as Together
from latentflow.pde.equations import ContinuityResidual as ContinuityResidual
from latentflow.pde.equations import FokkerPlanckResidual as FokkerPlanckResidual
from latentflow.pde.equations import HeatResidual as HeatResidual
from latentflow.pde.equations import HJInequality as HJInequality
from latentflow.pde.equations import HJResidual as HJResidual
from latentflow.pde.equations import LinearFokkerPlanckResidual as LinearFokkerPlanckResidual
from latentflow.pde.equations import LogFokkerPlanckResidual as LogFokkerPlanckResidual
from latentflow.pde.equations import NonPositiveForce as NonPositiveForce
from latentflow.pde.equations import ViscousHJResidual as ViscousHJResidual
from latentflow.pde.equations import WaveResidual as WaveResidual
from latentflow.pde.residual import CausalWeighting as CausalWeighting
from latentflow.pde.residual import PDEResidual as PDEResidual
from latentflow.pde.residual import Weighting as Weighting

__all__ = [
    "AlongPath",
    "CausalWeighting",
    "Collocation",
    "ContinuityResidual",
    "FokkerPlanckResidual",
    "HJInequality",
    "HJResidual",
    "HeatResidual",
    "InBox",
    "LinearFokkerPlanckResidual",
    "LogFokkerPlanckResidual",
    "NonPositiveForce",
    "PDEResidual",
    "Together",
    "ViscousHJResidual",
    "WaveResidual",
    "Weighting",
]
