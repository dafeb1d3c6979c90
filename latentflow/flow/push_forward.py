r"""The distribution of a flow's end when its start is random."""

from __future__ import annotations

from typing import ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from latentflow.flow.trajectory import Path

Shape: TypeAlias = torch.Size | list[int] | tuple[int, ...]
"""A shape of samples or of a batch."""


class FlowMap(Protocol):
    """A map between the two ends of a flow."""

    def forward(self, z: Tensor, *, density: bool) -> Path:
        """Follow the flow from its start, with or without ``log_det``."""

    def inverse(self, z: Tensor) -> Path:
        """Follow the flow back from its end, with ``log_det``."""


class PushForward(Distribution):
    r"""The distribution of :math:`z_T` when :math:`z_0` has a given one; see :meth:`PotentialFlow.push_forward`.

    .. math:: \log q_T(z_T) = \log q_0(z_0) - \log|\det \partial z_T / \partial z_0|

    ``log_prob`` follows the flow back from the point at which it is asked. ``rsample_and_log_prob`` needs no inverse
    and costs one pass. The batch shape is that of the base. Samples come from torch's global source of randomness, as
    those of every torch distribution do.

    Args:
        base: The distribution of :math:`z_0`, with events of shape ``(dim,)``. If its density is not positive
            everywhere, build it with ``validate_args=False``, so that points outside have log-density ``-inf``.
        flow: The map.
        validate_args: Whether to check the points at which the density is asked; None for torch's default.

    Raises:
        ValueError: If the events of the base are not vectors.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, base: Distribution, flow: FlowMap, validate_args: bool | None = None) -> None:
        if not isinstance(base, Distribution):
            raise TypeError(f"base: expected a torch.distributions.Distribution, got {type(base).__name__}")
        if len(base.event_shape) != 1:
            raise ValueError(
                f"base: expected events of shape (dim,), got {tuple(base.event_shape)}; "
                "torch.distributions.Independent turns batch dimensions into event dimensions"
            )
        self.base = base
        self.flow = flow
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether gradients flow through samples: whether they do in the base."""
        return bool(self.base.has_rsample)

    def expand(self, batch_shape: Shape, _instance: PushForward | None = None) -> PushForward:
        """Repeat the distribution.

        Args:
            batch_shape: The new batch shape, to which the old one broadcasts.

        Returns:
            The distribution with that batch shape.
        """
        new: PushForward = self._get_checked_instance(PushForward, _instance)  # type: ignore[no-untyped-call]
        new.base = self.base.expand(torch.Size(batch_shape))
        new.flow = self.flow
        Distribution.__init__(new, new.base.batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw samples without a graph.

        Args:
            sample_shape: The shape of independent samples.

        Returns:
            The samples, of shape ``(*sample_shape, *batch, dim)``.
        """
        with torch.no_grad():
            return self.flow.forward(self.base.sample(torch.Size(sample_shape)), density=False).z[-1]

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw samples through which gradients flow, to the base and to the potential.

        Args:
            sample_shape: The shape of independent samples.

        Returns:
            The samples, of shape ``(*sample_shape, *batch, dim)``.

        Raises:
            NotImplementedError: If the base has no ``rsample``.
        """
        return self.flow.forward(self.base.rsample(torch.Size(sample_shape)), density=False).z[-1]

    def rsample_and_log_prob(self, sample_shape: Shape = ()) -> tuple[Tensor, Tensor]:
        """Draw samples and compute their log-density in the same pass.

        Args:
            sample_shape: The shape of independent samples.

        Returns:
            The samples, of shape ``(*sample_shape, *batch, dim)``, and their log-density, ``(*sample_shape, *batch)``.

        Raises:
            NotImplementedError: If the base has no ``rsample``.
            ValueError: See :meth:`PotentialFlow.push_forward`.
        """
        z0 = self.base.rsample(torch.Size(sample_shape))
        path = self.flow.forward(z0, density=True)
        log_q0: Tensor = self.base.log_prob(z0)
        return path.z[-1], log_q0 - _log_det(path)

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-density.

        Args:
            value: The points, of a shape that broadcasts with ``(*batch, dim)``.

        Returns:
            The log-density, in nats.

        Raises:
            ValueError: If the shape does not fit; see also :meth:`PotentialFlow.push_forward`.
        """
        if self._validate_args:
            self._validate_sample(value)
        shape: torch.Size = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)  # type: ignore[no-untyped-call]
        path = self.flow.inverse(value.expand(shape).contiguous())
        log_q0: Tensor = self.base.log_prob(path.z[-1])
        return log_q0 + _log_det(path)


def _log_det(path: Path) -> Tensor:
    if path.log_det is None:
        raise ValueError("flow: expected a map with log_det, got one without")
    return path.log_det[-1]
