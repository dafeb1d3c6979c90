"""Sequences of images of one change each: the data of the experiments."""

from latentflow_experiments.data.digits import load_digits as load_digits
from latentflow_experiments.data.factor_sequences import FactorSequences as FactorSequences
from latentflow_experiments.data.family import FAMILIES as FAMILIES
from latentflow_experiments.data.family import Family as Family
from latentflow_experiments.data.frames import FrameStore as FrameStore
from latentflow_experiments.data.grid import FactorGrid as FactorGrid
from latentflow_experiments.data.images import LabelledImages as LabelledImages
from latentflow_experiments.data.mnist import load_mnist as load_mnist
from latentflow_experiments.data.mnist import read_idx as read_idx
from latentflow_experiments.data.named import DatasetName as DatasetName
from latentflow_experiments.data.named import SequenceConfig as SequenceConfig
from latentflow_experiments.data.named import Source as Source
from latentflow_experiments.data.named import open_sequences as open_sequences
from latentflow_experiments.data.named import open_sprites_as_digits as open_sprites_as_digits
from latentflow_experiments.data.sequence_dataset import SequenceDataset as SequenceDataset
from latentflow_experiments.data.sequence_dataset import subsample as subsample
from latentflow_experiments.data.sequences import TransformationSequences as TransformationSequences
from latentflow_experiments.data.transformed_images import TransformedImages as TransformedImages

__all__ = [
    "FAMILIES",
    "DatasetName",
    "FactorGrid",
    "FactorSequences",
    "Family",
    "FrameStore",
    "LabelledImages",
    "SequenceConfig",
    "SequenceDataset",
    "Source",
    "TransformationSequences",
    "TransformedImages",
    "load_digits",
    "load_mnist",
    "open_sequences",
    "open_sprites_as_digits",
    "read_idx",
    "subsample",
]
