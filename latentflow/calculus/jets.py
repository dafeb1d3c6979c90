r"""Fields, the requests for their derivatives, and the jets that answer them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Flag, auto
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from latentflow.calculus.carried import UnknownOperationError
from latentflow.calculus.checks import (
    autocasts,
    check_callable,
    check_points,
    check_tensor,
    check_value,
    describe,
    expand_time,
    expand_weight,
)
from latentflow.calculus.forward_laplacian import ByFormula, carry_forward
from latentflow.calculus.scripts import ScriptedFieldError, calls_script

Field: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A scalar field ``u(z, t)``: ``z`` of shape ``(*batch, dim)``, ``t`` and the result of shape ``(*batch,)``."""

Time: TypeAlias = float | Tensor
"""A time: a number, or a tensor of shape ``()`` or ``(*batch,)``."""

P = ParamSpec("P")
U = TypeVar("U", bound=Field)
R = TypeVar("R")

COORDINATES = 2**13
"""Coordinates of the points that are carried through a field at a time on the CPU, so that its caches hold them."""


class Derivative(Flag):
    r"""Second derivatives of a field, to be requested; members combine by ``|``.

    Value, gradient and time derivative come with every request.

    Attributes:
        LAPLACIAN: The trace :math:`\Delta u` of the Hessian.
        HESSIAN: The Hessian :math:`H = \nabla_z^2 u`.
        SECOND_TIME_DERIVATIVE: :math:`\partial_t^2 u`.
        GRADIENT_TIME_DERIVATIVE: :math:`\partial_t \nabla_z u`.
        QUADRATIC: :math:`v^\top H v` for the probes of the request.
        PRODUCTS: :math:`H v` for the probes of the request.
        INNER_HESSIAN: The Hessian in factors, from potentials whose ``inner_width`` is known.

    Example:
        >>> requires = Derivative.LAPLACIAN | Derivative.HESSIAN
        >>> assert Derivative.HESSIAN in requires and Derivative.PRODUCTS not in requires
    """

    LAPLACIAN = auto()
    HESSIAN = auto()
    SECOND_TIME_DERIVATIVE = auto()
    GRADIENT_TIME_DERIVATIVE = auto()
    QUADRATIC = auto()
    PRODUCTS = auto()
    INNER_HESSIAN = auto()

    @property
    def names(self) -> str:
        """The names of the members, as the fields of a jet have them."""
        return ", ".join(str(member.name).lower() for member in self)


NONE = Derivative(0)
WITHOUT_PROBES = (
    Derivative.LAPLACIAN | Derivative.HESSIAN | Derivative.SECOND_TIME_DERIVATIVE | Derivative.GRADIENT_TIME_DERIVATIVE
)
"""What can be requested by name alone, of any field."""
WITH_PROBES = Derivative.QUADRATIC | Derivative.PRODUCTS


def check_requires(requires: Derivative) -> Derivative:
    """Return required derivatives; raise a TypeError or ValueError unless they need no probes and no factors."""
    if not isinstance(requires, Derivative):
        raise TypeError(f"requires: expected members of Derivative, got {requires!r}")
    if requires & ~WITHOUT_PROBES:
        raise ValueError(f"requires: expected out of {WITHOUT_PROBES.names}, got {requires.names}")
    return requires


@dataclass(frozen=True)
class JetRequest:
    r"""A request for second derivatives, beyond value, gradient and time derivative.

    Attributes:
        derivatives: The second derivatives.
        probes: Directions :math:`v`, of shape ``(*batch, probes, dim)``, for ``QUADRATIC`` and ``PRODUCTS``; else None.
        detached: Those of the second derivatives that are computed without a gradient, which costs less.

    Raises:
        ValueError: If there are probes and neither is requested, or one of the two without probes.

    Example:
        >>> request = JetRequest(Derivative.LAPLACIAN).including(Derivative.HESSIAN)
        >>> assert Derivative.HESSIAN in request and request.probes is None
    """

    derivatives: Derivative = NONE
    probes: Tensor | None = None
    detached: Derivative = NONE

    def __post_init__(self) -> None:
        for name in ("derivatives", "detached"):
            if not isinstance(getattr(self, name), Derivative):
                raise TypeError(f"{name}: expected members of Derivative, got {describe(getattr(self, name))}")
        if self.probes is not None:
            check_tensor("probes", self.probes, ("*batch", "probes", "dim"))
        if bool(self.derivatives & WITH_PROBES) != (self.probes is not None):
            if self.probes is None:
                raise ValueError(f"probes: expected a tensor for {self.derivatives.names}, got None")
            names = self.derivatives.names or "no second derivative"
            raise ValueError(f"derivatives: expected QUADRATIC or PRODUCTS with probes, got {names}")

    def __contains__(self, derivative: Derivative) -> bool:
        return bool(self.derivatives._value_ & derivative._value_)  # the operator builds a member for the result

    def including(self, derivatives: Derivative) -> JetRequest:
        """Return the request with more derivatives that need no probes."""
        return replace(self, derivatives=self.derivatives | derivatives)

    def reshape_probes(self, *batch: int) -> JetRequest:
        """Return the request with probes of shape ``(*batch, probes, dim)``, for as many samples."""
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

    def __post_init__(self) -> None:
        check_tensor("core", self.core, ("*batch", "width", "width"))
        check_tensor("factor", self.factor, ("*stack", "width", "dim"))


@dataclass(frozen=True)
class Jet:
    r"""A scalar field :math:`u` and its derivatives at points :math:`(z, t)`.

    Every field of a jet is linear in :math:`u`, so jets add and scale as potentials do. A second derivative that was
    not requested raises an error when it is read.

    Attributes:
        value: :math:`u`, of shape ``(*batch,)``, in units of length squared per time.
        gradient: The velocity :math:`\nabla_z u`, of shape ``(*batch, dim)``.
        time_derivative: :math:`\partial_t u`, of shape ``(*batch,)``.
        second: The second derivatives that were requested; the properties below read them.
        factors: The Hessian in factors, or None. Jets with different factors do not add in this form.

    Example:
        >>> jet = Jet(torch.ones(3), torch.ones(3, 2), torch.zeros(3), {Derivative.LAPLACIAN: torch.ones(3)})
        >>> assert torch.equal(jet.scale(2.0).laplacian, torch.full((3,), 2.0))
        >>> try:
        ...     jet.hessian
        ... except ValueError as error:
        ...     assert "hessian was not requested" in str(error)
    """

    value: Tensor
    gradient: Tensor
    time_derivative: Tensor
    second: Mapping[Derivative, Tensor] = field(default_factory=dict)
    factors: InnerHessian | None = None

    def __post_init__(self) -> None:
        for name in ("value", "gradient", "time_derivative"):
            if not isinstance(getattr(self, name), Tensor):
                raise TypeError(f"{name}: expected a tensor, got {describe(getattr(self, name))}")
        batch = self.value.shape
        if self.gradient.shape[:-1] != batch or self.gradient.ndim == 0:
            raise ValueError(
                f"gradient: expected shape (*batch, dim) with the batch shape {tuple(batch)} of value, "
                f"got {tuple(self.gradient.shape)}"
            )
        if self.time_derivative.shape != batch:
            raise ValueError(
                f"time_derivative: expected the shape {tuple(batch)} of value, got {tuple(self.time_derivative.shape)}"
            )

    @property
    def laplacian(self) -> Tensor:
        r"""The Laplacian :math:`\Delta u`, or an unbiased estimate of it, of shape ``(*batch,)``."""
        return self._read(Derivative.LAPLACIAN)

    @property
    def hessian(self) -> Tensor:
        r"""The Hessian :math:`H = \nabla_z^2 u`, of shape ``(*batch, dim, dim)``."""
        return self._read(Derivative.HESSIAN)

    @property
    def second_time_derivative(self) -> Tensor:
        r"""The second time derivative :math:`\partial_t^2 u`, of shape ``(*batch,)``."""
        return self._read(Derivative.SECOND_TIME_DERIVATIVE)

    @property
    def gradient_time_derivative(self) -> Tensor:
        r"""The time derivative of the gradient :math:`\partial_t \nabla_z u`, of shape ``(*batch, dim)``."""
        return self._read(Derivative.GRADIENT_TIME_DERIVATIVE)

    @property
    def quadratic(self) -> Tensor:
        r"""The forms :math:`v^\top H v` of the probes, of shape ``(*batch, probes)``."""
        return self._read(Derivative.QUADRATIC)

    @property
    def products(self) -> Tensor:
        r"""The products :math:`H v` with the probes, of shape ``(*batch, probes, dim)``."""
        return self._read(Derivative.PRODUCTS)

    @property
    def inner_hessian(self) -> InnerHessian:
        """The Hessian in factors."""
        if self.factors is None:
            raise ValueError(_not_requested(Derivative.INNER_HESSIAN))
        return self.factors

    @property
    def derivatives(self) -> Derivative:
        """The second derivatives that the jet holds."""
        held = NONE if self.factors is None else Derivative.INNER_HESSIAN
        for derivative in self.second:
            held |= derivative
        return held

    def _read(self, derivative: Derivative) -> Tensor:
        if derivative not in self.second:
            raise ValueError(_not_requested(derivative))
        return self.second[derivative]

    @staticmethod
    def answer(
        request: JetRequest,
        value: Tensor,
        gradient: Tensor,
        time_derivative: Tensor,
        *,
        laplacian: Callable[[], Tensor] | None = None,
        hessian: Callable[[], Tensor] | None = None,
        products: Callable[[Tensor], Tensor] | None = None,
        quadratic: Callable[[Tensor], Tensor] | None = None,
        second_time_derivative: Callable[[], Tensor] | None = None,
        gradient_time_derivative: Callable[[], Tensor] | None = None,
        inner_hessian: Callable[[], InnerHessian] | None = None,
    ) -> Jet:
        r"""Build the jet that answers a request; each function is called only if its result was requested.

        Args:
            request: The request.
            value: :math:`u`, of shape ``(*batch,)``.
            gradient: :math:`\nabla_z u`, of shape ``(*batch, dim)``.
            time_derivative: :math:`\partial_t u`, of shape ``(*batch,)``.
            laplacian: Returns :math:`\Delta u`; the trace of the Hessian if None.
            hessian: Returns :math:`\nabla_z^2 u`.
            products: Maps the probes to :math:`H v`.
            quadratic: Maps the probes to :math:`v^\top H v`; the inner product with :math:`H v` if None.
            second_time_derivative: Returns :math:`\partial_t^2 u`.
            gradient_time_derivative: Returns :math:`\partial_t \nabla_z u`.
            inner_hessian: Returns the Hessian in factors.

        Returns:
            The jet.

        Raises:
            ValueError: If a derivative was requested for which there is no function.
        """
        second: dict[Derivative, Tensor] = {}
        if Derivative.HESSIAN in request and hessian is not None:
            second[Derivative.HESSIAN] = hessian()
        if Derivative.LAPLACIAN in request:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not request.detached & Derivative.LAPLACIAN):
                if Derivative.HESSIAN in second:
                    second[Derivative.LAPLACIAN] = second[Derivative.HESSIAN].diagonal(dim1=-2, dim2=-1).sum(-1)
                elif laplacian is not None:
                    second[Derivative.LAPLACIAN] = laplacian()
                elif hessian is not None:
                    second[Derivative.LAPLACIAN] = hessian().diagonal(dim1=-2, dim2=-1).sum(-1)
        probes = request.probes
        if probes is not None:
            applied = None
            if products is not None and (Derivative.PRODUCTS in request or quadratic is None):
                applied = products(probes)
            if Derivative.PRODUCTS in request and applied is not None:
                second[Derivative.PRODUCTS] = applied
            if Derivative.QUADRATIC in request and quadratic is not None:
                second[Derivative.QUADRATIC] = quadratic(probes)
            elif Derivative.QUADRATIC in request and applied is not None:
                second[Derivative.QUADRATIC] = (probes * applied).sum(-1)
        if Derivative.SECOND_TIME_DERIVATIVE in request and second_time_derivative is not None:
            second[Derivative.SECOND_TIME_DERIVATIVE] = second_time_derivative()
        if Derivative.GRADIENT_TIME_DERIVATIVE in request and gradient_time_derivative is not None:
            second[Derivative.GRADIENT_TIME_DERIVATIVE] = gradient_time_derivative()
        inner = inner_hessian() if Derivative.INNER_HESSIAN in request and inner_hessian is not None else None
        jet = Jet(value, gradient, time_derivative, second, inner)
        check_answer(jet, request)
        return jet

    def including(self, derivative: Derivative, tensor: Tensor) -> Jet:
        """Return the jet with one second derivative added or replaced."""
        return replace(self, second={**self.second, derivative: tensor})

    @staticmethod
    def combine(function: Callable[..., Tensor], *jets: Jet) -> Jet:
        """Apply a linear function to each field of jets that answer the same request.

        Args:
            function: Maps one tensor from each jet, all of the same field, to that field of the result.
            *jets: The jets, at least one.

        Returns:
            The jet of the results, with the second derivatives that all jets hold. A Hessian in factors is kept where
            there is one jet only.

        Example:
            >>> jet = Jet(value=torch.ones(3), gradient=torch.ones(3, 2), time_derivative=torch.zeros(3))
            >>> assert torch.equal(Jet.combine(torch.add, jet, jet).gradient, 2 * jet.gradient)
        """
        first, *others = jets
        shared = [derivative for derivative in first.second if all(derivative in jet.second for jet in others)]
        inner = None if others else first.factors
        return Jet(
            function(*(jet.value for jet in jets)),
            function(*(jet.gradient for jet in jets)),
            function(*(jet.time_derivative for jet in jets)),
            {derivative: function(*(jet.second[derivative] for jet in jets)) for derivative in shared},
            None if inner is None else InnerHessian(function(inner.core), inner.factor),
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> Jet:
        """Apply a linear function to each field."""
        return Jet.combine(function, self)

    @staticmethod
    def total(jets: Sequence[Jet]) -> Jet:
        """Add jets that answer the same request: return the jet of the sum of the potentials."""
        result = jets[0]
        for jet in jets[1:]:
            result = Jet.combine(lambda a, b: a + b, result, jet)
        return result

    def scale(self, weight: float | Tensor) -> Jet:
        """Return the jet of ``weight * u`` for a number or a tensor that broadcasts to ``(*batch,)``."""
        if not isinstance(weight, Tensor):
            return self.map(lambda field: field * weight)
        batch = self.value.shape
        own = expand_weight(weight, batch)
        return self.map(lambda field: field * own.reshape((*batch, *(1,) * (field.ndim - len(batch)))))


def _not_requested(derivative: Derivative) -> str:
    return f"{derivative.names} was not requested: name Derivative.{derivative.name} in requires or in the request"


def check_answer(jet: Jet, request: JetRequest) -> None:
    """Check that a jet answers a request; raise a TypeError or ValueError otherwise."""
    if not isinstance(jet, Jet):
        raise TypeError(f"u: expected its jet_rule to return a Jet, got {type(jet).__name__}")
    wanted = request.derivatives._value_
    held = 0 if jet.factors is None else Derivative.INNER_HESSIAN._value_
    for derivative in jet.second:
        held |= derivative._value_
    if wanted & ~held:
        missing = Derivative(wanted & ~held)
        raise ValueError(f"u: expected its jet_rule to return the {missing.names} that was requested, got none")


def transformed() -> bool:
    """Return whether the code runs inside ``torch.func.vmap``, ``grad``, ``jvp`` or their like.

    Nested forward mode of torch (seen in 2.13) gives wrong numbers through a custom ``autograd.Function`` and through
    ``torch.linalg.slogdet``.
    """
    return torch._C._are_functorch_transforms_active()


def outside_autocast(function: Callable[Concatenate[U, Tensor, P], R]) -> Callable[Concatenate[U, Tensor, P], R]:
    """Make a function of a field ``u``, points ``z`` and more run outside ``torch.autocast``, in float32 or better.

    Second derivatives and determinants lose too much in bfloat16. Outside autocast nothing changes.
    """

    @wraps(function)
    def wrapped(u: U, z: Tensor, *args: P.args, **kwargs: P.kwargs) -> R:
        if not isinstance(z, Tensor) or not autocasts(z.device.type):
            return function(u, z, *args, **kwargs)
        with torch.autocast(z.device.type, enabled=False):
            full = z.to(torch.promote_types(z.dtype, torch.float32)) if z.is_floating_point() else z
            return function(u, full, *args, **kwargs)

    return cast("Callable[Concatenate[U, Tensor, P], R]", wrapped)


@runtime_checkable
class SupportsJet(Protocol):
    """A field with a rule for its derivatives."""

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Return the jet at ``z`` of shape ``(*batch, dim)`` and ``t`` of shape ``(*batch,)``."""


@outside_autocast
def evaluate_jet(u: Field, z: Tensor, t: Time, request: JetRequest) -> Jet:
    r"""Answer a request by the field's own rule where it has one, else by automatic differentiation.

    A request for the Laplacian alone is answered by :func:`forward_jet` if every operation of the field has a rule
    there, at about ``dim + 2`` evaluations of the field. All else is answered by :func:`autodiff_jet`: a Hessian or
    other second derivatives, the operations that :func:`forward_jet` names, and calls inside of ``torch.func``
    transforms or ``torch.compile``.

    Args:
        u: The field.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.
        request: The second derivatives wanted.

    Returns:
        The jet; under ``torch.autocast`` in float32, or in float64 where ``z`` is.

    Raises:
        TypeError: If ``u`` is not callable or does not return a tensor, or ``z`` is not a floating-point tensor.
        ValueError: If a shape does not fit, or the rule of ``u`` leaves out what was requested.
    """
    check_points(z)
    time = expand_time(t, z)
    if not isinstance(request, JetRequest):
        raise TypeError(f"request: expected a JetRequest, got {describe(request)}")
    if request.probes is not None:
        request = _fit_probes(request, request.probes, z)
    if isinstance(u, SupportsJet) and not isinstance(u, type):
        jet = _rule_of(u, request)(z, time, request)
        check_answer(jet, request)
        if jet.gradient.shape != z.shape:
            raise ValueError(
                f"u: expected its jet_rule to return a gradient of shape {tuple(z.shape)}, "
                f"got {tuple(jet.gradient.shape)}"
            )
        return jet
    return automatic_jet(u, z, time, request)


def _rule_of(u: SupportsJet, request: JetRequest) -> Callable[[Tensor, Tensor, JetRequest], Jet]:
    """Return the rule of a field, compiled if it is and serves the request."""
    compiled: Callable[[Tensor, Tensor, JetRequest], Jet] | None = getattr(u, "_compiled_rule", None)
    return u.jet_rule if compiled is None or Derivative.LAPLACIAN in request or transformed() else compiled


def automatic_jet(u: Field, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
    """Answer a request by automatic differentiation: carried forward where that can be, else by ``torch.func``.

    Args:
        u: The field.
        z: The points, of shape ``(*batch, dim)``.
        t: The times, of shape ``(*batch,)``.
        request: The second derivatives wanted.

    Returns:
        The jet.

    Raises:
        TypeError, ValueError: See :func:`evaluate_jet`.
    """
    check_callable("u", u)
    if not (transformed() or torch.compiler.is_compiling()):
        try:
            if request.derivatives == Derivative.LAPLACIAN:
                return forward_jet(u, z, t)
            if request.detached == Derivative.LAPLACIAN in request:
                with torch.no_grad():
                    trace = forward_jet(u, z, t).laplacian
                rest = replace(request, derivatives=request.derivatives & ~Derivative.LAPLACIAN)
                return autodiff_jet(u, z, t, rest).including(Derivative.LAPLACIAN, trace)
        except ScriptedFieldError:
            raise
        except Exception:  # an operation without a rule; what is wrong with the field is said below
            pass
    return autodiff_jet(u, z, t, request)


def _fit_probes(request: JetRequest, probes: Tensor, z: Tensor) -> JetRequest:
    if probes.shape[:-2] != z.shape[:-1] or probes.shape[-1] != z.shape[-1]:
        batch = "".join(f"{size}, " for size in z.shape[:-1])
        raise ValueError(f"probes: expected shape ({batch}probes, {z.shape[-1]}), got {tuple(probes.shape)}")
    return request if probes.dtype == z.dtype else replace(request, probes=probes.to(z.dtype))


@outside_autocast
def forward_jet(u: Field, z: Tensor, t: Time) -> Jet:
    r"""Compute a field with its gradient, time derivative and Laplacian, forward through its operations.

    It costs about ``dim + 2`` evaluations of the field, and its derivatives in the parameters are those of plain
    operations. :func:`latentflow.laplacian` calls it for any module without a rule of its own. On the CPU the field is
    called for a part of many points at a time.

    Rules exist for the operations that networks are made of: sums, products, quotients, powers and functions of each
    entry, products of matrices, einsum, convolutions, attention, softmax, norms, distances and normalized layers,
    solutions of linear systems, changes of shape and selections. None exist for what is written in place, for dropout
    and batch norm, for what stops gradients or has a derivative of its own (``torch.no_grad``,
    ``torch.autograd.Function``), and for derivatives inside of the field.

    Args:
        u: The field, see :func:`latentflow.jet`. No sample may depend on another one.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.

    Returns:
        The jet, with the Laplacian.

    Raises:
        UnknownOperationError: If an operation of the field has no rule; the message names it.
        TypeError: If the field calls TorchScript, and see :func:`latentflow.jet`.
        ValueError: See :func:`latentflow.jet`.

    Example:
        >>> z = torch.randn(5, 3, dtype=torch.float64)
        >>> radial = forward_jet(lambda z, t: z.square().sum(-1).sqrt(), z, 0.0)  # 2 / |z| in three dimensions
        >>> torch.testing.assert_close(radial.laplacian, 2 / z.norm(dim=-1))
    """
    check_points(z)
    check_callable("u", u)
    time = expand_time(t, z)

    def carry(z: Tensor, t: Tensor) -> Jet:
        value, gradient, time_derivative, trace = carry_forward(lambda z, t: check_value(u(z, t), z), z, t)
        return Jet(value, gradient, time_derivative, {Derivative.LAPLACIAN: trace})

    samples = max(1, COORDINATES // max(1, z[:1].numel()))
    if z.device.type == "cpu" and z.ndim > 1 and len(z) > samples:
        try:
            pieces = [carry(*piece) for piece in zip(torch.split(z, samples), torch.split(time, samples), strict=True)]
            return Jet.combine(lambda *parts: torch.cat(parts), *pieces)
        except UnknownOperationError:
            raise
        except Exception:  # a field with a tensor for each sample; what else is wrong with it is said below
            pass
    return carry(z, time)


def autodiff_jet(u: Field, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
    r"""Differentiate a callable by ``torch.func``: one reverse pass, then forward over reverse.

    The reverse pass gives :math:`u, \nabla_z u, \partial_t u` together. Each direction :math:`v` of a second-order
    request costs one forward-mode product :math:`H v = \partial_\epsilon \nabla u(z + \epsilon v)`; the trace and the
    Hessian take ``dim`` of them. One along the time gives :math:`\partial_t^2 u` and :math:`\partial_t \nabla u`.
    No sample may depend on another one (so no batch norm).

    The jet is differentiable to any order that ``u`` is, also under ``torch.no_grad`` and ``torch.inference_mode``.
    """
    check_points(z)
    check_callable("u", u)
    if not isinstance(request, JetRequest):
        raise TypeError(f"request: expected a JetRequest, got {describe(request)}")
    if (request.derivatives or torch.is_grad_enabled()) and calls_script(u):
        raise ScriptedFieldError
    t = expand_time(t, z)
    z, t = z.contiguous(), t.contiguous()  # forward mode refuses points that share their memory, as a repeated time

    def derivatives(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with ByFormula():
            result = vjp(lambda z, t: check_value(u(z, t), z), z, t)
        value: Tensor = result[0]
        gradient, time_derivative = result[1](torch.ones_like(value))
        return value, gradient, time_derivative

    def hessian_times(v: Tensor) -> Tensor:
        product: Tensor = jvp(lambda z: derivatives(z, t)[1], (z,), (v,))[1]
        return product

    def hessian() -> Tensor:
        basis = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        directions = basis.reshape(-1, *(1,) * (z.ndim - 1), z.shape[-1]).expand(-1, *z.shape)
        columns: Tensor = vmap(hessian_times)(directions).movedim(0, -1)
        return columns

    def products(probes: Tensor) -> Tensor:
        if probes.shape[-2] == 0:  # vmap does not map over nothing
            return probes
        applied: Tensor = vmap(hessian_times, in_dims=-2)(probes).movedim(0, -2)
        return applied

    value, gradient, time_derivative = derivatives(z, t)
    change: tuple[Tensor, ...] = ()
    if request.derivatives & (Derivative.SECOND_TIME_DERIVATIVE | Derivative.GRADIENT_TIME_DERIVATIVE):
        change = jvp(lambda t: derivatives(z, t)[1:], (t,), (torch.ones_like(t),))[1]
    return Jet.answer(
        request,
        value,
        gradient,
        time_derivative,
        hessian=hessian,
        products=products,
        second_time_derivative=lambda: change[1],
        gradient_time_derivative=lambda: change[0],
    )
