"""Flows along potentials: discrete and continuous, their inverses, paths, volumes and push-forward distributions."""

from latentflow.flow.discrete import Discrete as Discrete
from latentflow.flow.discrete import Step as Step
from latentflow.flow.fold import FoldError as FoldError
from latentflow.flow.fold import FoldWarning as FoldWarning
from latentflow.flow.fold import OnFold as OnFold
from latentflow.flow.hopf_lax import HopfLaxFlow as HopfLaxFlow
from latentflow.flow.hopf_lax_potential import HopfLaxPotential as HopfLaxPotential
from latentflow.flow.inverse import FixedPoint as FixedPoint
from latentflow.flow.inverse import InversionError as InversionError
from latentflow.flow.inverse import Newton as Newton
from latentflow.flow.inverse import StepSolver as StepSolver
from latentflow.flow.ode import ODEOptions as ODEOptions
from latentflow.flow.ode import SolverError as SolverError
from latentflow.flow.path import Path as Path
from latentflow.flow.potential_flow import PotentialFlow as PotentialFlow
from latentflow.flow.push_forward import FlowMap as FlowMap
from latentflow.flow.push_forward import PushForward as PushForward
from latentflow.flow.running_cost import RunningCost as RunningCost
from latentflow.flow.scheme import Scheme as Scheme
from latentflow.flow.series import LogDetSeries as LogDetSeries
from latentflow.flow.series import SeriesWarning as SeriesWarning
from latentflow.flow.volume import FirstOrder as FirstOrder
from latentflow.flow.volume import SlogDet as SlogDet
from latentflow.flow.volume import Volume as Volume
from latentflow.flow.volume import VolumeChange as VolumeChange
