r"""The map of a flow as a transform of torch.distributions, and the distribution of the flow's end."""

from __future__ import annotations

from typing import ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, kl_divergence, register_kl
from torch.distributions.transforms import Transform

from latentflow.calculus.checks import check_flag, check_instance, check_methods, check_points
from latentflow.flow.trajectory import (
    DensitySource,
    OnFold,
    Scheme,
    Times,
    Trajectory,
    check_policy,
    check_scheme,
    real_times,
)

Shape: TypeAlias = torch.Size | list[int] | tuple[int, ...]
"""A shape of samples or of a batch."""


class Followable(Protocol):
    """What a transform needs of a flow; :class:`Flow` has it."""

    @property
    def training(self) -> bool:
        """Whether the flow is in training mode, in which stochastic log-determinants are allowed."""

    def follow(self, z0: Tensor, times: Times, scheme: Scheme, *, on_fold: OnFold | None = None) -> Trajectory:
        """Follow the flow from its start."""

    def inverse(self, z: Tensor, times: Times, scheme: Scheme, on_fold: OnFold | None = None) -> Trajectory:
        """Follow the flow back from its end."""

    def density_source(self, scheme: Scheme) -> DensitySource | None:
        """Return the source of log-determinants under a scheme."""


class FlowTransform(Transform):
    r"""The map :math:`z_0 \mapsto z_T` of a flow; made by :meth:`Flow.transform`.

    ``log_abs_det_jacobian`` is free after the transform or its inverse was called on the same tensors with a density;
    it follows the flow otherwise.

    Args:
        flow: The flow.
        times: The times of the flow, from its start to its end; the flow checks their order when it is followed.
        scheme: The scheme.
        on_fold: See :meth:`Flow.follow`.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If ``on_fold`` is unknown.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, flow: Followable, times: Times, scheme: Scheme, on_fold: OnFold | None = None) -> None:
        super().__init__()
        check_methods("flow", flow, ("follow", "inverse", "density_source"), "a Flow")
        check_scheme(scheme)
        check_policy(on_fold)
        real_times(times)
        self.flow = flow
        self.times = times
        self.scheme = scheme
        self.on_fold = on_fold
        self._last: tuple[Tensor, Tensor, Tensor] | None = None  # a start, its end and the log-determinant between them

    def with_cache(self, cache_size: int = 1) -> FlowTransform:  # noqa: ARG002 - torch's signature
        """Return the transform itself, which keeps the last log-determinant in any case."""
        return self

    def call_and_log_det(self, z0: Tensor) -> tuple[Tensor, Tensor]:
        r"""Map points and compute the log-determinant in the same pass.

        Args:
            z0: The points, of shape ``(*batch, dim)``.

        Returns:
            The points :math:`z_T`, and :math:`\log|\det \partial z_T / \partial z_0|`, of shape ``(*batch,)``.

        Raises:
            ValueError: If the scheme has no log-determinant, or a stochastic one in evaluation mode.
        """
        self.check_density()
        return self._end(self.flow.follow(z0, self.times, self.scheme, on_fold=self.on_fold))

    def inverse_and_log_det(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""Map points back and compute the log-determinant :math:`\log|\det \partial z_0 / \partial z_T|`.

        Args:
            z: The points, of shape ``(*batch, dim)``.

        Returns:
            The points :math:`z_0`, and the log-determinant, of shape ``(*batch,)``.

        Raises:
            ValueError: See :meth:`call_and_log_det`.
        """
        self.check_density()
        return self._end(self.flow.inverse(z, self.times, self.scheme, self.on_fold))

    def check_density(self) -> None:
        """Check that a density may be reported; raise a ValueError otherwise."""
        source = self.flow.density_source(self.scheme)
        if source is None:
            raise ValueError(
                f"scheme: expected one with a log-determinant, without which no density, got {self.scheme}"
            )
        if source.stochastic and not self.flow.training:
            raise ValueError(
                f"scheme: expected an exact log-determinant in evaluation mode, got {source!r}: the noise of random "
                "probes biases a likelihood upwards"
            )

    @staticmethod
    def _end(trajectory: Trajectory) -> tuple[Tensor, Tensor]:
        if trajectory.log_det is None:
            raise ValueError("scheme: expected one with a log-determinant, got one without")
        return trajectory.z[-1], trajectory.log_det[-1]

    def _call(self, x: Tensor) -> Tensor:
        scheme = self.scheme.without_density()
        return self.flow.follow(x, self.times, scheme, on_fold=self.on_fold).z[-1]

    def _inverse(self, y: Tensor) -> Tensor:
        if self.scheme.density is None:
            return self.flow.inverse(y, self.times, self.scheme, self.on_fold).z[-1]
        x, log_det = self.inverse_and_log_det(y)
        self._last = (x, y, -log_det)
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log-determinant between a start ``x`` and its end ``y``, of shape ``(*batch,)``."""
        if self._last is not None and self._last[0] is x and self._last[1] is y:
            return self._last[2]
        return self.call_and_log_det(x)[1]

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def same_map(self, other: FlowTransform) -> bool:
        """Return whether another transform is the same map: of one flow, along the same times by the same scheme."""
        if self is other:
            return True
        ours, theirs = real_times(self.times), real_times(other.times)
        same_times = ours.shape == theirs.shape and bool((ours == theirs.to(ours)).all())
        return same_times and self.flow == other.flow and self.scheme == other.scheme


class PushForward(Distribution):
    r"""The distribution of :math:`z_T` when :math:`z_0` has a given one; made by :meth:`Flow.push_forward`.

    .. math:: \log q_T(z_T) = \log q_0(z_0) - \log|\det \partial z_T / \partial z_0|

    ``log_prob`` follows the flow back from the point at which it is evaluated. ``rsample_and_log_prob`` needs no
    inverse and costs one pass. The batch shape is that of the base. Samples come from torch's global source of
    randomness, as those of every torch distribution do.

    Args:
        base: The distribution of :math:`z_0`, with events of shape ``(dim,)``. If its density is not positive
            everywhere, build it with ``validate_args=False``, so that points outside have log-density ``-inf``.
        transform: The map.
        validate_args: Whether to check the points at which the density is evaluated; None for torch's default.

    Raises:
        TypeError: If ``base`` is not a distribution.
        ValueError: If the events of the base are not vectors.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __init__(self, base: Distribution, transform: FlowTransform, validate_args: bool | None = None) -> None:
        if not isinstance(base, Distribution):
            raise TypeError(f"base: expected a torch.distributions.Distribution, got {type(base).__name__}")
        check_instance("transform", transform, FlowTransform, "the transform of a flow")
        if validate_args is not None:
            check_flag("validate_args", validate_args)
        if len(base.event_shape) != 1:
            raise ValueError(
                f"base: expected events of shape (dim,), got {tuple(base.event_shape)}; "
                "torch.distributions.Independent turns batch dimensions into event dimensions"
            )
        self.base = base
        self.transform = transform
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # an attribute in torch
        """Return whether gradients flow through samples, as they do in the base or not."""
        return bool(self.base.has_rsample)

    def expand(self, batch_shape: Shape, _instance: PushForward | None = None) -> PushForward:
        """Return the distribution with a batch shape to which its own broadcasts."""
        new: PushForward = self._get_checked_instance(PushForward, _instance)  # type: ignore[no-untyped-call]  # torch has no types for it
        new.base = self.base.expand(torch.Size(batch_shape))
        new.transform = self.transform
        Distribution.__init__(new, new.base.batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw samples ``(*sample_shape, *batch, dim)`` without a graph."""
        with torch.no_grad():
            samples: Tensor = self.transform(self.base.sample(torch.Size(sample_shape)))
            return samples

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw samples ``(*sample_shape, *batch, dim)`` through which gradients flow, to the base and the potential.

        Raises:
            NotImplementedError: If the base has no ``rsample``.
        """
        samples: Tensor = self.transform(self.base.rsample(torch.Size(sample_shape)))
        return samples

    def rsample_and_log_prob(self, sample_shape: Shape = ()) -> tuple[Tensor, Tensor]:
        """Draw samples and compute their log-density in the same pass.

        Args:
            sample_shape: The shape of independent samples.

        Returns:
            The samples, of shape ``(*sample_shape, *batch, dim)``, and their log-density, ``(*sample_shape, *batch)``.

        Raises:
            NotImplementedError: If the base has no ``rsample``.
            ValueError: See :meth:`Flow.push_forward`.
        """
        z0 = self.base.rsample(torch.Size(sample_shape))
        z, log_det = self.transform.call_and_log_det(z0)
        if z0.numel() == 0:
            return z, log_det
        log_q0: Tensor = self.base.log_prob(z0)
        return z, log_q0 - log_det

    def log_prob(self, value: Tensor) -> Tensor:
        """Compute the log-density.

        Args:
            value: The points, of a shape that broadcasts with ``(*batch, dim)``.

        Returns:
            The log-density, in nats.

        Raises:
            ValueError: If the shape does not fit; see also :meth:`Flow.push_forward`.
        """
        check_points(value, self.event_shape[-1], name="value")
        if self._validate_args and value.isnan().any():
            raise ValueError("value: expected numbers, got NaN")
        shape: torch.Size = torch.broadcast_shapes(value.shape, self.batch_shape + self.event_shape)  # type: ignore[no-untyped-call]  # torch has no types for it
        z0, log_det = self.transform.inverse_and_log_det(value.expand(shape).contiguous())
        if z0.numel() == 0:  # torch's own distributions do not take empty batches
            return log_det
        log_q0: Tensor = self.base.log_prob(z0)
        return log_q0 + log_det


@register_kl(PushForward, PushForward)  # type: ignore[no-untyped-call,untyped-decorator]  # torch has no types for it
def _kl_of_one_map(p: PushForward, q: PushForward) -> Tensor:
    r"""Compute :math:`KL(f_\# p \| f_\# q) = KL(p \| q)` for an injective map; other maps have no closed form."""
    if not p.transform.same_map(q.transform):
        raise NotImplementedError("q: expected push-forwards by the same flow, times and scheme, got another map")
    divergence: Tensor = kl_divergence(p.base, q.base)
    return divergence
