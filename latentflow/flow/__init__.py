"""Flows along potentials: trajectories, schemes, inverses, log-determinants and push-forward distributions."""

from latentflow.flow.euler import Euler as Euler
from latentflow.flow.euler import Step as Step
from latentflow.flow.flow import Flow as Flow
from latentflow.flow.flow import PotentialFlow as PotentialFlow
from latentflow.flow.hopf_lax import HopfLaxFlow as HopfLaxFlow
from latentflow.flow.hopf_lax import HopfLaxPotential as HopfLaxPotential
from latentflow.flow.inverse import FixedPoint as FixedPoint
from latentflow.flow.inverse import InversionError as InversionError
from latentflow.flow.inverse import Newton as Newton
from latentflow.flow.inverse import Root as Root
from latentflow.flow.inverse import RootSearch as RootSearch
from latentflow.flow.inverse import StepSolver as StepSolver
from latentflow.flow.lbfgs import LBFGS as LBFGS
from latentflow.flow.log_det import FirstOrder as FirstOrder
from latentflow.flow.log_det import LogDet as LogDet
from latentflow.flow.log_det import LogDetSeries as LogDetSeries
from latentflow.flow.log_det import SeriesWarning as SeriesWarning
from latentflow.flow.log_det import SlogDet as SlogDet
from latentflow.flow.log_det import StepDeterminant as StepDeterminant
from latentflow.flow.ode import ODE as ODE
from latentflow.flow.ode import SolverError as SolverError
from latentflow.flow.push_forward import FlowTransform as FlowTransform
from latentflow.flow.push_forward import PushForward as PushForward
from latentflow.flow.trajectory import DensitySource as DensitySource
from latentflow.flow.trajectory import FoldError as FoldError
from latentflow.flow.trajectory import FoldWarning as FoldWarning
from latentflow.flow.trajectory import OnFold as OnFold
from latentflow.flow.trajectory import RunningCost as RunningCost
from latentflow.flow.trajectory import Scheme as Scheme
from latentflow.flow.trajectory import Times as Times
from latentflow.flow.trajectory import Trajectory as Trajectory

__all__ = [
    "LBFGS",
    "ODE",
    "DensitySource",
    "Euler",
    "FirstOrder",
    "FixedPoint",
    "Flow",
    "FlowTransform",
    "FoldError",
    "FoldWarning",
    "HopfLaxFlow",
    "HopfLaxPotential",
    "InversionError",
    "LogDet",
    "LogDetSeries",
    "Newton",
    "OnFold",
    "PotentialFlow",
    "PushForward",
    "Root",
    "RootSearch",
    "RunningCost",
    "Scheme",
    "SeriesWarning",
    "SlogDet",
    "SolverError",
    "Step",
    "StepDeterminant",
    "StepSolver",
    "Times",
    "Trajectory",
]
