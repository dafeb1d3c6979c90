r"""Transport under a condition: one map for each class or transformation, chosen by an index of each point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from latentflow.calculus.checks import check_index, check_instance, check_points, describe
from latentflow.flow import HopfLaxFlow, RootSearch
from latentflow.potentials import Potential, PotentialBank
from latentflow.transport.transport_map import SEARCH, TransportMap, write_state


@dataclass(frozen=True, eq=False)
class TransportBank:
    r"""Maps :math:`T_k(x) = x + \nabla u_k(x)`, one for each condition ``k``: a class, or a transformation.

    Each map is fitted by :func:`fit_transport` to the samples of its condition, and has its own certificate. The
    potentials are a :class:`PotentialBank`, so that a batch whose points have different conditions is moved in one call
    and the flow of a condition is that of any bank.

    Attributes:
        maps: The maps, in the order of the index.

    Raises:
        TypeError: If one of them is no :class:`TransportMap`.
        ValueError: If there are none, or they have different numbers of coordinates.

    Example:
        >>> from latentflow import gaussian_transport_potential
        >>> m, S = torch.zeros(2), torch.eye(2)
        >>> bank = TransportBank([TransportMap(gaussian_transport_potential(m, S, m + k, S)) for k in (1, 2)])
        >>> x, k = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
        >>> torch.testing.assert_close(bank.map(x, k), x + torch.tensor([1.0, 2.0, 2.0, 1.0])[:, None])
        >>> torch.testing.assert_close(bank.inverse(bank.map(x, k), k), x, rtol=1e-4, atol=1e-4)
    """

    maps: Sequence[TransportMap]

    def __post_init__(self) -> None:
        if not isinstance(self.maps, Sequence):
            raise TypeError(f"maps: expected a sequence of TransportMap, got {describe(self.maps)}")
        if len(self.maps) == 0:
            raise ValueError("maps: expected at least one TransportMap, got none")
        for own in self.maps:
            check_instance("maps", own, TransportMap, "TransportMap")
        _ = self.potentials  # checks the coordinates

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, k: int) -> TransportMap:
        return self.maps[k]

    @cached_property
    def potentials(self) -> PotentialBank:
        """The potentials :math:`u_k` as a bank."""
        return PotentialBank([own.potential for own in self.maps])

    def flow(self, k: int | Tensor) -> HopfLaxFlow:
        """Return the flow of a condition, or that of one condition for each sample: the bank's at ``k``."""
        return self._at(k).flow

    def map(self, x: Tensor, k: int | Tensor) -> Tensor:
        """Map points of the sources.

        Args:
            x: The points, of shape ``(*batch, dim)``.
            k: The condition: a number, or an int64 tensor that broadcasts to ``(*batch,)``.

        Returns:
            The images, of shape ``(*batch, dim)``.

        Raises:
            TypeError: If ``k`` is not of dtype int64.
            ValueError: If an index lies outside ``0..K-1``, or a shape does not fit.
        """
        return self._at(k).map(x)

    def interpolate(self, x: Tensor, k: int | Tensor, t: float) -> Tensor:
        r"""Move points of the sources to the time ``t``, :math:`x + t \nabla u_k(x)`; arguments as in :meth:`map`."""
        return self._at(k).interpolate(x, t)

    def _at(self, k: int | Tensor) -> TransportMap:
        return TransportMap(self.potentials.select(k))

    def inverse(self, y: Tensor, k: int | Tensor, search: RootSearch = SEARCH) -> Tensor:
        """Map points of the targets back; see :meth:`TransportMap.inverse`, also for gradients.

        Args:
            y: The points, of shape ``(*batch, dim)``.
            k: The condition, as in :meth:`map`.
            search: The search for the points.

        Returns:
            The points of the sources, of shape ``(*batch, dim)``.

        Raises:
            InversionError: If some are not found.
        """
        check_points(y, name="y")
        index = check_index(k, len(self)).to(y.device).expand(y.shape[:-1])
        x = torch.empty_like(y)
        for own in sorted(set(index.flatten().tolist())):
            x[index == own] = self.maps[own].inverse(y[index == own], search)
        return x

    def save(self, path: Path | str) -> None:
        """Write all maps to one file, whole or not at all."""
        write_state(Path(path), {"maps": [own.as_dict() for own in self.maps]})

    @staticmethod
    def load(path: Path | str, potentials: Sequence[Potential] | None = None) -> TransportBank:
        """Read the maps from a file.

        Args:
            path: The file.
            potentials: Potentials built like those that were trained, which take the weights; those of
                :func:`fit_transport` if None.

        Returns:
            The maps.

        Raises:
            ValueError: If there are more or fewer potentials than maps.
        """
        states = torch.load(Path(path), weights_only=True)["maps"]
        if potentials is None:
            return TransportBank([TransportMap.from_dict(own) for own in states])
        if len(potentials) != len(states):
            raise ValueError(f"potentials: expected {len(states)}, got {len(potentials)}")
        return TransportBank([TransportMap.from_dict(*own) for own in zip(states, potentials, strict=True)])
