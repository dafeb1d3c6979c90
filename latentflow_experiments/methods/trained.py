"""A trained model made into a method: what has to be chosen is chosen on validation sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from latentflow import FlowVAE
from latentflow_experiments.baselines import TVAE, VAE, Autoencoder, PoFlow
from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.methods.matching import Matching, match
from latentflow_experiments.methods.method import AlongFlow, Method
from latentflow_experiments.methods.single_dimension import SingleDimension, Static, Traversal, search_traversals

__all__ = ["Choice", "choose", "method_of"]


@dataclass(frozen=True)
class Choice:
    """What was chosen on validation sequences.

    Attributes:
        matching: The potential of each transformation, for a model that was trained without labels; else None.
        traversals: The coordinate and bound of each transformation, for a model without a rule; else None.
    """

    matching: Matching | None = None
    traversals: tuple[Traversal, ...] | None = None

    @staticmethod
    def from_values(values: dict[str, Any]) -> Choice:
        """Make the choice of which JSON holds the values."""
        matching, traversals = values["matching"], values["traversals"]
        return Choice(
            None if matching is None else Matching(tuple(matching["order"]), tuple(map(tuple, matching["counts"]))),
            None if traversals is None else tuple(Traversal(**traversal) for traversal in traversals),
        )


def choose(model: nn.Module, validation: SequenceDataset) -> Choice:
    """Choose what a method needs and its training did not say.

    Args:
        model: The model, in evaluation mode.
        validation: Sequences that were not trained on and will not be tested on.

    Returns:
        The choice.
    """
    if isinstance(model, FlowVAE) and model.label_posterior is not None:
        return Choice(matching=match(model, validation))
    if isinstance(model, Autoencoder) and not isinstance(model, VAE):
        return Choice(traversals=search_traversals(model, validation))
    return Choice()


def method_of(model: nn.Module, choice: Choice) -> Method:
    """Make a trained model a method.

    Args:
        model: The model, in evaluation mode.
        choice: What was chosen for it.

    Returns:
        The method.

    Raises:
        TypeError: If the model is none of those that are compared.
    """
    matching = choice.matching
    if isinstance(model, FlowVAE):
        return AlongFlow(model, tuple(range(len(model.bank))) if matching is None else matching.order)
    if isinstance(model, PoFlow):
        return AlongFlow(model.model, tuple(range(len(model.model.bank))))
    if isinstance(model, TVAE):
        return model
    if isinstance(model, Autoencoder):
        return Static(model) if choice.traversals is None else SingleDimension(model, choice.traversals)
    raise TypeError(f"model: expected one of the methods that are compared, got {type(model).__name__}")
