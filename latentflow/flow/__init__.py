"""Flows along potentials: discrete and continuous, their inverses, paths, volumes and push-forward distributions."""

from latentflow.flow.euler import Discrete as Discrete
from latentflow.flow.euler import Step as Step
from latentflow.flow.flow import PotentialFlow as PotentialFlow
from latentflow.flow.flow import Scheme as Scheme
from latentflow.flow.hopf_lax import HopfLaxFlow as HopfLaxFlow
from latentflow.flow.hopf_lax import HopfLaxPotential as HopfLaxPotential
from latentflow.flow.inverse import FixedPoint as FixedPoint
from latentflow.flow.inverse import InversionError as InversionError
from latentflow.flow.inverse import Newton as Newton
from latentflow.flow.inverse import StepSolver as StepSolver
from latentflow.flow.log_det import FirstOrder as FirstOrder
from latentflow.flow.log_det import LogDetSeries as LogDetSeries
from latentflow.flow.log_det import SeriesWarning as SeriesWarning
from latentflow.flow.log_det import SlogDet as SlogDet
from latentflow.flow.log_det import Volume as Volume
from latentflow.flow.log_det import VolumeChange as VolumeChange
from latentflow.flow.ode import ODEOptions as ODEOptions
from latentflow.flow.ode import RunningCost as RunningCost
from latentflow.flow.ode import SolverError as SolverError
from latentflow.flow.push_forward import FlowMap as FlowMap
from latentflow.flow.push_forward import PushForward as PushForward
from latentflow.flow.trajectory import FoldError as FoldError
from latentflow.flow.trajectory import FoldWarning as FoldWarning
from latentflow.flow.trajectory import OnFold as OnFold
from latentflow.flow.trajectory import Path as Path
