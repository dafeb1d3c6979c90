"""Fields, the requests for their derivatives, and the jets that answer them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

Field: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A scalar field ``u(z, t)``: ``z`` of shape ``(*batch, dim)``, ``t`` and the result of shape ``(*batch,)``."""


Time: TypeAlias = float | Tensor
"""A time: a number, or a tensor of shape ``()`` or ``(*batch,)``."""


def check_points(z: Tensor, dim: int | None = None) -> None:
    """Check that ``z`` is a floating-point tensor of shape ``(*batch, dim)``.

    Args:
        z: The points.
        dim: The number of coordinates expected, or None for any.

    Raises:
        TypeError: If ``z`` is not a tensor of a floating-point dtype.
        ValueError: If ``z`` has no last dimension, or one of another size than ``dim``.
    """
    if not isinstance(z, Tensor):
        raise TypeError(f"z: expected a tensor of shape (*batch, dim), got {type(z).__name__}")
    if not z.is_floating_point():
        raise TypeError(f"z: expected a floating-point tensor, got {z.dtype}")
    if z.ndim == 0:
        raise ValueError("z: expected shape (*batch, dim), got a tensor of shape ()")
    if dim is not None and z.shape[-1] != dim:
        raise ValueError(f"z: expected shape (*batch, {dim}), got {tuple(z.shape)}")


def expand_time(t: Time, z: Tensor) -> Tensor:
    """Give the time ``t`` one value for each point, in the dtype and on the device of ``z``.

    Args:
        t: A number, or a tensor of shape ``()`` or one that broadcasts to ``(*batch,)``.
        z: The points, of shape ``(*batch, dim)``.

    Returns:
        The times, of shape ``(*batch,)``.

    Raises:
        ValueError: If ``t`` does not broadcast to the batch shape of ``z``.

    Example:
        >>> z = torch.zeros(2, 3, 5)
        >>> assert expand_time(0.5, z).shape == (2, 3)
        >>> assert torch.equal(expand_time(torch.tensor([1, 2, 3]), z)[1], torch.tensor([1.0, 2.0, 3.0]))
    """
    time = torch.as_tensor(t, dtype=z.dtype, device=z.device)
    batch = z.shape[:-1]
    try:
        return time.expand(batch)
    except RuntimeError:
        message = (
            f"t: expected a number, shape () or a shape that broadcasts to {tuple(batch)}, got {tuple(time.shape)}"
        )
        raise ValueError(message) from None


def expand_weight(weight: Tensor, batch: torch.Size) -> Tensor:
    """Give a weight one value for each sample.

    Args:
        weight: A tensor of shape ``()`` or one that broadcasts to ``(*batch,)``.
        batch: The batch shape.

    Returns:
        The weights, of shape ``(*batch,)``.

    Raises:
        ValueError: If the weight does not broadcast to the batch shape.
    """
    try:
        return weight.expand(batch)
    except RuntimeError:
        message = f"weight: expected a number or a shape that broadcasts to {tuple(batch)}, got {tuple(weight.shape)}"
        raise ValueError(message) from None


def check_value(value: Tensor, z: Tensor) -> Tensor:
    """Check that a field returned one value for each point and hand that value back.

    Args:
        value: What the field returned at ``z``.
        z: The points, of shape ``(*batch, dim)``.

    Returns:
        ``value``, of shape ``(*batch,)``.

    Raises:
        TypeError: If ``value`` is not a tensor.
        ValueError: If its shape is not the batch shape of ``z``.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"u: expected u(z, t) to return a tensor, got {type(value).__name__}")
    if value.shape != z.shape[:-1]:
        raise ValueError(
            f"u: expected u(z, t) to return shape {tuple(z.shape[:-1])} for z of shape {tuple(z.shape)}, "
            f"got {tuple(value.shape)}"
        )
    return value


P = ParamSpec("P")


U = TypeVar("U", bound=Field)


R = TypeVar("R")


def outside_autocast(function: Callable[Concatenate[U, Tensor, P], R]) -> Callable[Concatenate[U, Tensor, P], R]:
    """Make a function of a field and points run outside ``torch.autocast``, in float32 or better.

    Second derivatives and determinants lose too much in bfloat16. Points of a lower precision, as another layer under
    autocast gives them, are taken to float32 first; outside autocast nothing changes.

    Args:
        function: Takes a field ``u``, points ``z``, and more.

    Returns:
        The same function, to be called in any mode.

    Example:
        >>> @outside_autocast
        ... def square(u, z):
        ...     return z @ z
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     assert square(None, torch.eye(2, dtype=torch.bfloat16)).dtype == torch.float32
    """

    @wraps(function)
    def wrapped(u: U, z: Tensor, *args: P.args, **kwargs: P.kwargs) -> R:
        if not isinstance(z, Tensor) or not _autocasts(z.device.type):
            return function(u, z, *args, **kwargs)
        with torch.autocast(z.device.type, enabled=False):
            full = z.to(torch.promote_types(z.dtype, torch.float32)) if z.is_floating_point() else z
            return function(u, full, *args, **kwargs)

    return cast("Callable[Concatenate[U, Tensor, P], R]", wrapped)


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def transformed() -> bool:
    """Say whether the code runs inside ``torch.func.vmap``, ``grad``, ``jvp`` or their like.

    Nested forward mode of torch (seen in 2.13) gives wrong numbers through a custom ``autograd.Function`` and through
    ``torch.linalg.slogdet``. What depends on it takes another way there.

    Example:
        >>> assert not transformed()
        >>> assert torch.func.vmap(lambda x: x * transformed())(torch.ones(3)).all()
    """
    return torch._C._are_functorch_transforms_active()


DERIVATIVES = frozenset({"laplacian", "hessian", "second_time_derivative", "gradient_time_derivative"})
"""The second derivatives that can be asked for by name."""


@dataclass(frozen=True)
class JetRequest:
    r"""The second derivatives that a pass is asked for, beyond value, gradient and time derivative.

    Attributes:
        laplacian: Whether to return the exact trace of the Hessian.
        hessian: Whether to return the Hessian itself.
        probes: Directions :math:`v`, of shape ``(*batch, probes, dim)``, for which to return
            :math:`v^\top H v`; or None.
        products: Whether to return the products :math:`H v` with the probes as well.
        second_time_derivative: Whether to return :math:`\partial_t^2 u`.
        gradient_time_derivative: Whether to return :math:`\partial_t \nabla_z u`.
        inner_hessian: Whether to return the Hessian as :math:`F^\top C F`, with a core ``C`` at the width of the first
            layer. Ask it only of a potential whose ``inner_width`` is known.

    Raises:
        ValueError: If products are asked for without probes.
    """

    laplacian: bool = False
    hessian: bool = False
    probes: Tensor | None = None
    products: bool = False
    second_time_derivative: bool = False
    gradient_time_derivative: bool = False
    inner_hessian: bool = False

    def __post_init__(self) -> None:
        if self.products and self.probes is None:
            raise ValueError("products: expected probes to multiply the Hessian by, got None")

    def including(self, names: Collection[str]) -> JetRequest:
        """Ask for more fields of the jet.

        Args:
            names: The names of the fields, out of :data:`DERIVATIVES`.

        Returns:
            The request.

        Raises:
            ValueError: If a name is another one.

        Example:
            >>> assert JetRequest(laplacian=True).including({"hessian"}) == JetRequest(laplacian=True, hessian=True)
        """
        unknown = sorted(set(names) - DERIVATIVES)
        if unknown:
            raise ValueError(f"requires: expected names out of {sorted(DERIVATIVES)}, got {unknown}")
        return replace(
            self,
            laplacian=self.laplacian or "laplacian" in names,
            hessian=self.hessian or "hessian" in names,
            second_time_derivative=self.second_time_derivative or "second_time_derivative" in names,
            gradient_time_derivative=self.gradient_time_derivative or "gradient_time_derivative" in names,
        )

    def reshape_probes(self, *batch: int) -> JetRequest:
        """Give the same request with the probes reshaped to another batch shape.

        Args:
            *batch: The batch shape, which holds as many samples.

        Returns:
            The request, with probes of shape ``(*batch, probes, dim)``.
        """
        if self.probes is None:
            return self
        return replace(self, probes=self.probes.reshape(*batch, *self.probes.shape[-2:]))


@dataclass(frozen=True)
class InnerHessian:
    r"""A Hessian in factors, :math:`H = F^\top C F`, cheaper than ``H`` where there are fewer factors than coordinates.

    By Sylvester's identity :math:`\det(I + h F^\top C F) = \det(I + h\,C F F^\top)`, at the width of the core.

    Attributes:
        core: The symmetric matrix ``C``, of shape ``(*batch, width, width)``.
        factor: The matrix ``F``, shared by all points, of shape ``(width, dim)``.
    """

    core: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Jet:
    r"""A scalar field :math:`u` and its derivatives at the points :math:`(z, t)`.

    Every field is linear in :math:`u`, so jets add and scale as potentials do, and every field leads with
    the batch shape. A field that was not asked for is None.

    Attributes:
        value: :math:`u`, of shape ``(*batch,)``, in units of length squared per time.
        gradient: The velocity :math:`\nabla_z u`, of shape ``(*batch, dim)``.
        time_derivative: :math:`\partial_t u`, of shape ``(*batch,)``.
        laplacian: :math:`\Delta u = \operatorname{tr} H`, or an unbiased estimate of it, of shape ``(*batch,)``.
        hessian: :math:`H = \nabla_z^2 u`, of shape ``(*batch, dim, dim)``.
        quadratic: :math:`v^\top H v` for each probe, of shape ``(*batch, probes)``.
        products: :math:`H v` for each probe, of shape ``(*batch, probes, dim)``.
        second_time_derivative: :math:`\partial_t^2 u`, of shape ``(*batch,)``.
        gradient_time_derivative: :math:`\partial_t \nabla_z u`, of shape ``(*batch, dim)``.
        inner_hessian: The Hessian in factors. Jets with different factors cannot be added in this form: their sum
            has None here.
    """

    value: Tensor
    gradient: Tensor
    time_derivative: Tensor
    laplacian: Tensor | None = None
    hessian: Tensor | None = None
    quadratic: Tensor | None = None
    products: Tensor | None = None
    second_time_derivative: Tensor | None = None
    gradient_time_derivative: Tensor | None = None
    inner_hessian: InnerHessian | None = None

    @staticmethod
    def combine(function: Callable[..., Tensor], *jets: Jet) -> Jet:
        """Apply a linear function to each field of jets that answer the same request.

        Args:
            function: Takes one tensor from each jet, all of the same field, and returns that field's result.
            *jets: The jets, at least one.

        Returns:
            The combined jet; a field that is None in one of the jets is None.

        Example:
            >>> import torch
            >>> jet = Jet(value=torch.ones(3), gradient=torch.ones(3, 2), time_derivative=torch.zeros(3))
            >>> total = Jet.combine(torch.add, jet, jet)
            >>> assert torch.equal(total.gradient, 2 * jet.gradient) and total.laplacian is None
        """
        columns = {name: [getattr(jet, name) for jet in jets] for name in TENSORS}
        known = {name: column for name, column in columns.items() if not any(x is None for x in column)}
        inner = jets[0].inner_hessian if len(jets) == 1 else None
        if inner is not None:
            inner = InnerHessian(function(inner.core), inner.factor)
        return Jet(**{name: function(*column) for name, column in known.items()}, inner_hessian=inner)

    def map(self, function: Callable[[Tensor], Tensor]) -> Jet:
        """Apply a linear function to each field; one that is None stays None."""
        return Jet.combine(function, self)

    @staticmethod
    def total(jets: Sequence[Jet]) -> Jet:
        """Add jets field by field: the jet of the sum of the potentials.

        Args:
            jets: The jets, at least one, that answer the same request.

        Returns:
            Their sum.
        """
        result = jets[0]
        for jet in jets[1:]:
            result = Jet.combine(lambda a, b: a + b, result, jet)
        return result

    def scale(self, weight: float | Tensor) -> Jet:
        """Multiply by a weight: the jet of ``weight * u``.

        Args:
            weight: A number, or a tensor of shape ``()`` or ``(*batch,)``.

        Returns:
            The scaled jet.

        Raises:
            ValueError: If the weight does not broadcast to ``(*batch,)``.
        """
        if not isinstance(weight, Tensor):
            return self.map(lambda field: field * weight)
        batch = self.value.shape
        own = expand_weight(weight, batch)
        return self.map(lambda field: field * own.reshape((*batch, *(1,) * (field.ndim - len(batch)))))


TENSORS = tuple(field.name for field in fields(Jet) if field.name != "inner_hessian")
"""The fields of a jet that are tensors."""


@runtime_checkable
class SupportsJet(Protocol):
    """A field that knows its own derivatives."""

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the jet at ``z`` of shape ``(*batch, dim)`` and ``t`` of shape ``(*batch,)``."""


@outside_autocast
def evaluate_jet(u: Field, z: Tensor, t: Time, request: JetRequest) -> Jet:
    """Answer a request by the field's own rule where it has one, else by automatic differentiation.

    Under ``torch.autocast`` the pass runs outside it, in float32 where ``z`` is of a lower precision: second
    derivatives lose too much in bfloat16. Every field of the jet then is float32 (float64 where ``z`` is).

    Args:
        u: The field.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.
        request: The second derivatives wanted.

    Returns:
        The jet.

    Raises:
        TypeError: If ``z`` is not a floating-point tensor, or ``u`` does not return a tensor.
        ValueError: If a shape does not fit.
    """
    check_points(z)
    time = expand_time(t, z)
    if request.probes is not None and request.probes.dtype != z.dtype:
        request = replace(request, probes=request.probes.to(z.dtype))
    if isinstance(u, SupportsJet):
        return u.jet_rule(z, time, request)
    return autodiff_jet(u, z, time, request)


def autodiff_jet(u: Field, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
    r"""Differentiate a callable by ``torch.func``: one reverse pass, then forward over reverse.

    The reverse pass gives :math:`u, \nabla_z u, \partial_t u` together. Each direction :math:`v` of a
    second-order request costs one forward-mode product :math:`H v = \partial_\epsilon \nabla u(z + \epsilon v)`;
    the trace and the Hessian take ``dim`` of them. One more, along the time, gives :math:`\partial_t^2 u` and
    :math:`\partial_t \nabla u`. No sample may depend on another one (so no batch norm).

    Args:
        u: The field, with values of shape ``(*batch,)``.
        z: The points, of shape ``(*batch, dim)``.
        t: The times, of shape ``(*batch,)``.
        request: The second derivatives wanted; the Hessian in factors is not among them.

    Returns:
        The jet. It is differentiable to any order that ``u`` is, and can be computed under ``torch.no_grad``
        and ``torch.inference_mode``.

    Raises:
        TypeError: If ``u`` does not return a tensor.
        ValueError: If ``u`` does not return one value for each point.
    """
    z, t = z.contiguous(), t.contiguous()  # forward mode refuses points that share their memory, as a repeated time

    def derivatives(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        result = vjp(lambda z, t: check_value(u(z, t), z), z, t)
        value: Tensor = result[0]
        gradient, time_derivative = result[1](torch.ones_like(value))
        return value, gradient, time_derivative

    def hessian_times(v: Tensor) -> Tensor:
        product: Tensor = jvp(lambda z: derivatives(z, t)[1], (z,), (v,))[1]
        return product

    value, gradient, time_derivative = derivatives(z, t)
    laplacian = hessian = quadratic = products = second_time = gradient_time = None
    if request.laplacian or request.hessian:
        basis = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        directions = basis.reshape(-1, *(1,) * (z.ndim - 1), z.shape[-1]).expand(-1, *z.shape)
        columns = vmap(hessian_times)(directions).movedim(0, -1)
        hessian = columns if request.hessian else None
        laplacian = columns.diagonal(dim1=-2, dim2=-1).sum(-1) if request.laplacian else None
    if request.probes is not None:
        products = request.probes  # vmap does not map over nothing
        if products.shape[-2] > 0:
            products = vmap(hessian_times, in_dims=-2)(request.probes).movedim(0, -2)
        quadratic = (request.probes * products).sum(-1)
    if request.second_time_derivative or request.gradient_time_derivative:
        change = jvp(lambda t: derivatives(z, t)[1:], (t,), (torch.ones_like(t),))[1]
        gradient_time = change[0] if request.gradient_time_derivative else None
        second_time = change[1] if request.second_time_derivative else None
    return Jet(
        value,
        gradient,
        time_derivative,
        laplacian,
        hessian,
        quadratic,
        products=products if request.products else None,
        second_time_derivative=second_time,
        gradient_time_derivative=gradient_time,
    )
