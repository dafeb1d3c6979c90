"""Labelled images and the transformation sequences made from them."""

from latentflow.experiments.data.digits import load_digits as load_digits
from latentflow.experiments.data.images import LabelledImages as LabelledImages
from latentflow.experiments.data.mnist import load_mnist as load_mnist
from latentflow.experiments.data.mnist import read_idx as read_idx
from latentflow.experiments.data.named import load_images as load_images
from latentflow.experiments.data.sequences import TransformationSequences as TransformationSequences

__all__ = ["LabelledImages", "TransformationSequences", "load_digits", "load_images", "load_mnist", "read_idx"]
