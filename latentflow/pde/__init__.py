"""Residuals of partial differential equations on potentials, and where and how they are weighed."""

from latentflow.pde.collocation import AlongPath as AlongPath
from latentflow.pde.collocation import Collocation as Collocation
from latentflow.pde.collocation import InBox as InBox
from latentflow.pde.collocation import PaperPoints as PaperPoints
from latentflow.pde.collocation import Together as Together
from latentflow.pde.continuity import ContinuityResidual as ContinuityResidual
from latentflow.pde.fokker_planck import FokkerPlanckResidual as FokkerPlanckResidual
from latentflow.pde.fokker_planck import LinearFokkerPlanckResidual as LinearFokkerPlanckResidual
from latentflow.pde.fokker_planck import LogFokkerPlanckResidual as LogFokkerPlanckResidual
from latentflow.pde.force import NonPositiveForce as NonPositiveForce
from latentflow.pde.hamilton_jacobi import HJResidual as HJResidual
from latentflow.pde.heat import HeatResidual as HeatResidual
from latentflow.pde.residual import PDEResidual as PDEResidual
from latentflow.pde.viscous import ViscousHJResidual as ViscousHJResidual
from latentflow.pde.wave import WaveResidual as WaveResidual
from latentflow.pde.weighting import CausalWeighting as CausalWeighting
from latentflow.pde.weighting import Weighting as Weighting
