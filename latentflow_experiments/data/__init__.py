"""Sequences of images of one change each: the data of the experiments."""

from latentflow_experiments.data.arrays import ArraySequences as ArraySequences
from latentflow_experiments.data.dataset import DataSet as DataSet
from latentflow_experiments.data.dataset import SequenceConfig as SequenceConfig
from latentflow_experiments.data.dataset import Source as Source
from latentflow_experiments.data.factors import FactorSequences as FactorSequences
from latentflow_experiments.data.factors import Family as Family
from latentflow_experiments.data.frames import FrameStore as FrameStore
from latentflow_experiments.data.sequences import SequenceDataset as SequenceDataset
from latentflow_experiments.data.sequences import subsample as subsample
from latentflow_experiments.data.sets import DATASETS as DATASETS
from latentflow_experiments.data.sets import FAMILIES as FAMILIES
from latentflow_experiments.data.sets import DatasetName as DatasetName
from latentflow_experiments.data.sets import check_dataset as check_dataset
from latentflow_experiments.data.sets import default_steps as default_steps
from latentflow_experiments.data.sets import open_sequences as open_sequences
from latentflow_experiments.data.sets import open_splits as open_splits
from latentflow_experiments.data.sets import open_transfer as open_transfer
from latentflow_experiments.data.transformed import LabelledImages as LabelledImages
from latentflow_experiments.data.transformed import TransformationSequences as TransformationSequences
from latentflow_experiments.data.transformed import TransformedImages as TransformedImages

__all__ = [
    "DATASETS",
    "FAMILIES",
    "ArraySequences",
    "DataSet",
    "DatasetName",
    "FactorSequences",
    "Family",
    "FrameStore",
    "LabelledImages",
    "SequenceConfig",
    "SequenceDataset",
    "Source",
    "TransformationSequences",
    "TransformedImages",
    "check_dataset",
    "default_steps",
    "open_sequences",
    "open_splits",
    "open_transfer",
    "subsample",
]
