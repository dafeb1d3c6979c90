"""Sequences of images of one change each: the data of the experiments."""

from latentflow.experiments.data.digits import load_digits as load_digits
from latentflow.experiments.data.factor_sequences import FactorSequences as FactorSequences
from latentflow.experiments.data.family import FAMILIES as FAMILIES
from latentflow.experiments.data.family import Family as Family
from latentflow.experiments.data.frames import FrameStore as FrameStore
from latentflow.experiments.data.grid import FactorGrid as FactorGrid
from latentflow.experiments.data.images import LabelledImages as LabelledImages
from latentflow.experiments.data.mnist import load_mnist as load_mnist
from latentflow.experiments.data.mnist import read_idx as read_idx
from latentflow.experiments.data.named import DatasetName as DatasetName
from latentflow.experiments.data.named import SequenceConfig as SequenceConfig
from latentflow.experiments.data.named import Source as Source
from latentflow.experiments.data.named import open_sequences as open_sequences
from latentflow.experiments.data.named import open_sprites_as_digits as open_sprites_as_digits
from latentflow.experiments.data.sequence_dataset import SequenceDataset as SequenceDataset
from latentflow.experiments.data.sequence_dataset import subsample as subsample
from latentflow.experiments.data.sequences import TransformationSequences as TransformationSequences
from latentflow.experiments.data.transformed_images import TransformedImages as TransformedImages

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
