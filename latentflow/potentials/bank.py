r"""A bank of potentials: one for each transformation, selected, mixed or superposed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from latentflow.calculus import Field, Jet, JetRequest, check_index, evaluate_jet, expand_time, expand_weight
from latentflow.potentials.algebra import Potential, SumPotential, as_module
from latentflow.potentials.bounds import gradient_bounds
from latentflow.potentials.grouping import Groups


class PotentialBank(nn.Module):
    r"""The potentials :math:`u_1, \dots, u_K`, each of which drives one transformation.

    Args:
        potentials: The K fields, at least one.

    Raises:
        ValueError: If there are no potentials.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023)
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import gradient
        >>> bank = PotentialBank([lambda z, t: z.sum(-1), lambda z, t: 2 * z.sum(-1)])
        >>> velocity = gradient(bank.select(torch.tensor([0, 1])), torch.zeros(2, 3), 0.0)
        >>> torch.testing.assert_close(velocity, torch.tensor([[1.0] * 3, [2.0] * 3]))
    """

    def __init__(self, potentials: Sequence[Field]) -> None:
        super().__init__()
        if len(potentials) == 0:
            raise ValueError("potentials: expected at least one potential, got none")
        self.potentials = nn.ModuleList(as_module(potential) for potential in potentials)

    def __len__(self) -> int:
        return len(self.potentials)

    def __getitem__(self, k: int) -> nn.Module:
        return self.potentials[k]

    def select(self, k: int | Tensor) -> SelectedPotential:
        """Choose a potential for each sample.

        Args:
            k: The index of the potential: a number, or an int64 tensor of shape ``(*batch,)`` or one that broadcasts
                to the batch shape of the points.

        Returns:
            The potential :math:`u_{k}(z, t)`.

        Raises:
            TypeError: If ``k`` is not of dtype int64.
            ValueError: If an index lies outside ``0..K-1``.
        """
        return SelectedPotential(self, k)

    def mix(self, weights: Tensor) -> MixedPotential:
        r"""Weigh the potentials.

        Args:
            weights: The weights, of shape ``(K,)``, or ``(*batch, K)`` for weights of each sample's own.

        Returns:
            The potential :math:`\sum_k w_k u_k(z, t)`.

        Raises:
            ValueError: If the last dimension of ``weights`` is not K.
        """
        return MixedPotential(self, weights)

    def superpose(self) -> SumPotential:
        r"""Add all potentials.

        Returns:
            The potential :math:`\sum_k u_k(z, t)`.
        """
        return SumPotential(list(self.potentials))


class SelectedPotential(Potential):
    r"""The potential :math:`u_{k}(z, t)` of a bank, with an index ``k`` for each sample.

    Mixed indices are evaluated in groups: each field sees its own samples only, in one batch. Which those are depends
    on the values of ``k``, so ``torch.func.vmap`` can map over points and times but not over ``k``.

    Args:
        bank: The potentials.
        k: The index: a number, or an int64 tensor of shape ``(*batch,)`` or one that broadcasts to it.

    Raises:
        TypeError: If ``k`` is not of dtype int64.
        ValueError: If an index lies outside ``0..K-1``.
    """

    k: Tensor

    def __init__(self, bank: PotentialBank, k: int | Tensor) -> None:
        super().__init__()
        index = check_index(k, len(bank))
        self.bank = bank
        self.shared = int(k) if index.ndim == 0 else None
        self.register_buffer("k", index, persistent=False)

    @property
    def per_sample(self) -> bool:
        """Whether every sample has an index of its own."""
        return self.shared is None

    @property
    def inner_width(self) -> int | None:
        """That of the selected potential, if all samples share it."""
        return None if self.shared is None else getattr(self.bank[self.shared], "inner_width", None)

    def lipschitz_gradient(self) -> Tensor | None:
        """Bound the Hessian by the largest of the selected potentials' bounds.

        Returns:
            The bound, of shape ``()``, see :meth:`Potential.lipschitz_gradient`; None if one of them has none.
        """
        fields = self.bank.potentials if self.shared is None else [self.bank[self.shared]]
        bounds = gradient_bounds(fields)
        return None if bounds is None else bounds.amax(0)

    def _groups(self, z: Tensor) -> Groups:
        try:
            index = self.k.to(z.device).expand(z.shape[:-1])
        except RuntimeError:
            raise ValueError(
                f"z: expected a batch shape to which k of shape {tuple(self.k.shape)} broadcasts, "
                f"got {tuple(z.shape[:-1])}"
            ) from None
        return Groups(index, len(self.bank))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate each sample's potential at ``z`` of shape ``(*batch, dim)`` and ``t``, as ``(*batch,)``."""
        if self.shared is not None:
            value: Tensor = self.bank[self.shared](z, expand_time(t, z))
            return value
        return self._groups(z).evaluate(list(self.bank.potentials), z, expand_time(t, z))

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Compute the jet of each sample's potential by that potential's own rule."""
        if self.shared is not None:
            return evaluate_jet(self.bank[self.shared], z, t, request)
        return self._groups(z).jet(list(self.bank.potentials), z, t, request)


class MixedPotential(Potential):
    r"""The potential :math:`\sum_k w_k u_k(z, t)` of a bank.

    Args:
        bank: The potentials.
        weights: The weights, of shape ``(K,)`` or ``(*batch, K)``.

    Raises:
        ValueError: If the last dimension of ``weights`` is not K.
    """

    weights: Tensor

    def __init__(self, bank: PotentialBank, weights: Tensor) -> None:
        super().__init__()
        if weights.ndim == 0 or weights.shape[-1] != len(bank):
            raise ValueError(f"weights: expected shape (*batch, {len(bank)}), got {tuple(weights.shape)}")
        self.bank = bank
        if isinstance(weights, nn.Parameter):
            self.weights = weights
        else:
            self.register_buffer("weights", weights, persistent=False)

    @property
    def per_sample(self) -> bool:
        """Whether every sample has weights of its own."""
        return self.weights.ndim > 1

    def lipschitz_gradient(self) -> Tensor | None:
        """Bound the Hessian by the potentials' bounds under the weights, the largest of all samples.

        Returns:
            The bound, of shape ``()``, see :meth:`Potential.lipschitz_gradient`; None if a potential has none.
        """
        bounds = gradient_bounds(self.bank.potentials)
        if bounds is None or self.weights.numel() == 0:
            return bounds if bounds is None else bounds.new_zeros(())
        return (self.weights.abs() * bounds).sum(-1).amax()

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Mix the values at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        weights = [expand_weight(weight, z.shape[:-1]) for weight in self.weights.unbind(-1)]
        values = [potential(z, t) for potential in self.bank.potentials]
        return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(0)

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Mix the jets of the potentials."""
        weights = self.weights.unbind(-1)
        jets = [evaluate_jet(potential, z, t, request) for potential in self.bank.potentials]
        return Jet.total([jet.scale(weight) for jet, weight in zip(jets, weights, strict=True)])
