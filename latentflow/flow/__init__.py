"""Flows along potentials: discrete maps, paths and volumes."""

from latentflow.flow.fold import FoldError as FoldError
from latentflow.flow.fold import FoldWarning as FoldWarning
from latentflow.flow.fold import OnFold as OnFold
from latentflow.flow.path import Path as Path
from latentflow.flow.potential_flow import PotentialFlow as PotentialFlow
from latentflow.flow.potential_flow import Step as Step
from latentflow.flow.volume import FirstOrder as FirstOrder
from latentflow.flow.volume import SlogDet as SlogDet
from latentflow.flow.volume import Volume as Volume
from latentflow.flow.volume import VolumeChange as VolumeChange
