r"""Which potential explains which sequence: known, drawn, or all of them in turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution

from latentflow.calculus import Field
from latentflow.flow import Path
from latentflow.potentials import PotentialBank
from latentflow.priors import Prior
from latentflow.vae.bounds import Bound


class Assignment(Protocol):
    """Says which potential each sequence of a batch flows along, and how much it counts."""

    def batch_shape(self, batch: int) -> torch.Size:
        """Give the shape in which a batch of so many sequences is explained."""

    def potential(self, bank: PotentialBank) -> Field:
        """Give the potential of every sequence."""

    def divergence(self, bound: Bound, posterior: Distribution, path: Path, prior: Prior) -> Tensor:
        """Estimate the divergence at each time, of shape ``(T+1, *batch_shape)``, in nats."""

    def weights(self) -> Tensor | None:
        """Give how much each explanation counts, of the batch shape and with mean 1; None if all count the same."""

    def average(self, x: Tensor) -> Tensor:
        """Average over the batch: ``(*others, *batch_shape)`` to ``(*others,)``."""


@dataclass(frozen=True)
class Known:
    """Every sequence has the potential of its label.

    Attributes:
        k: The labels, int64 of shape ``(batch,)``.
    """

    k: Tensor

    def batch_shape(self, batch: int) -> torch.Size:
        """Give ``(batch,)``."""
        return torch.Size([batch])

    def potential(self, bank: PotentialBank) -> Field:
        """Select the potential of each label."""
        return bank.select(self.k)

    def divergence(self, bound: Bound, posterior: Distribution, path: Path, prior: Prior) -> Tensor:
        """Estimate the divergence under the label, of shape ``(T+1, batch)``."""
        return bound.divergence(posterior, path, prior, self.k)

    def weights(self) -> None:
        """None: all count the same."""

    def average(self, x: Tensor) -> Tensor:
        """Average over the batch."""
        return x.mean(-1)


@dataclass(frozen=True)
class Mixed:
    r"""Every sequence has the potential :math:`\sum_k w_k u_k`, with weights of its own.

    Attributes:
        responsibilities: The weights, of shape ``(batch, K)``; those of a straight-through sample are one-hot.
    """

    responsibilities: Tensor

    def batch_shape(self, batch: int) -> torch.Size:
        """Give ``(batch,)``."""
        return torch.Size([batch])

    def potential(self, bank: PotentialBank) -> Field:
        """Mix the potentials of each sequence."""
        return bank.mix(self.responsibilities)

    def divergence(self, bound: Bound, posterior: Distribution, path: Path, prior: Prior) -> Tensor:
        r"""Weigh the divergences under each label, :math:`\sum_k w_k KL_k`, of shape ``(T+1, batch)``."""
        batch, fields = self.responsibilities.shape
        labels = torch.arange(fields, device=self.responsibilities.device)
        each = [bound.divergence(posterior, path, prior, k.expand(batch)) for k in labels]
        return (torch.stack(each, -1) * self.responsibilities).sum(-1)

    def weights(self) -> None:
        """None: all count the same."""

    def average(self, x: Tensor) -> Tensor:
        """Average over the batch."""
        return x.mean(-1)


@dataclass(frozen=True)
class Enumerated:
    r"""Every sequence is explained once by each potential, and counts by the probability of the label.

    Attributes:
        probabilities: The probabilities :math:`q(k | x_0, \dots, x_T)`, of shape ``(batch, K)``.
    """

    probabilities: Tensor

    @property
    def k(self) -> Tensor:
        """The label of each explanation, of shape ``(K, batch)``."""
        batch, fields = self.probabilities.shape
        return torch.arange(fields, device=self.probabilities.device).unsqueeze(-1).expand(fields, batch)

    def batch_shape(self, batch: int) -> torch.Size:
        """Give ``(K, batch)``."""
        return torch.Size([self.probabilities.shape[-1], batch])

    def potential(self, bank: PotentialBank) -> Field:
        """Select the potential of each explanation."""
        return bank.select(self.k)

    def divergence(self, bound: Bound, posterior: Distribution, path: Path, prior: Prior) -> Tensor:
        """Estimate the divergence under every label, of shape ``(T+1, K, batch)``."""
        return bound.divergence(posterior.expand(self.k.shape), path, prior, self.k)

    def weights(self) -> Tensor:
        """Give the probabilities times K, of shape ``(K, batch)``."""
        return self.probabilities.mT * self.probabilities.shape[-1]

    def average(self, x: Tensor) -> Tensor:
        """Average over the batch and the labels."""
        return (x * self.weights()).mean((-2, -1))
