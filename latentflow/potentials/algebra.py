"""Potentials and their vector space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from latentflow.calculus import Field, Jet, JetRequest, evaluate_jet
from latentflow.calculus.checks import (
    check_callable,
    check_count,
    check_finite_number,
    check_points,
    check_sequence,
    check_tensor,
    expand_time,
    expand_weight,
)
from latentflow.calculus.jets import automatic_jet


@runtime_checkable
class SupportsLipschitz(Protocol):
    """A field that may know a Lipschitz constant of its gradient."""

    def lipschitz_gradient(self) -> Tensor | None:
        r"""Return an upper bound of :math:`\sup_{z, t} |\nabla_z^2 u|_2`, of shape ``()``, or None."""


def gradient_bounds(fields: Iterable[object]) -> Tensor | None:
    """Return the bounds of several fields, of shape ``(fields,)``; None if one of them is not known."""
    bounds = []
    for field in fields:
        bound = field.lipschitz_gradient() if isinstance(field, SupportsLipschitz) else None
        if bound is None:
            return None
        bounds.append(bound)
    return torch.stack(bounds)


COMPILED = ("_compiled_call_impl", "_compiled_rule")
"""The attributes that :meth:`Potential.compile` sets."""


class Potential(nn.Module, ABC):
    r"""A scalar field :math:`u(z, t)` whose gradient is the velocity of a latent flow.

    Subclass it and write ``forward``. A subclass that knows its own derivatives overrides :meth:`jet_rule`;
    without it, automatic differentiation serves. Potentials form a vector space: ``u + v``, ``u - v``,
    ``-u``, ``a * u`` and ``u / 2`` are potentials, and so is the sum with any callable ``v(z, t)``.

    Only :math:`\nabla_z u` moves the flow, so ``u`` and ``u + c(t)`` move it alike (gauge freedom).
    ``u`` has to be twice continuously differentiable in ``z``, three times where its Laplacian is trained.

    Example:
        >>> class Well(Potential):
        ...     def forward(self, z, t):
        ...         return -0.5 * z.pow(2).sum(-1)
        >>> from latentflow import gradient
        >>> z = torch.randn(4, 2)
        >>> torch.testing.assert_close(gradient(3 * Well() - Well(), z, 0.0), -2 * z)
    """

    @abstractmethod
    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the field.

        Args:
            z: The points, of shape ``(*batch, dim)``.
            t: The times, of shape ``(*batch,)`` or one that broadcasts to it.

        Returns:
            The values, of shape ``(*batch,)``.
        """

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Compute value, gradient, time derivative and what the request asks for in one pass.

        Override it to offer a rule that knows the structure of the field; it has to agree with automatic
        differentiation and be differentiable itself.

        Args:
            z: The points, of shape ``(*batch, dim)``.
            t: The times, of shape ``(*batch,)``.
            request: The second derivatives wanted.

        Returns:
            The jet.
        """
        return automatic_jet(self, z, t, request)

    def compile(self, **options: Any) -> None:  # noqa: ANN401 - what torch.compile takes
        """Compile the field and its derivatives in place, by :func:`torch.compile`.

        Jets without the exact trace are compiled: velocities, probes and products. The trace of a network stays as it
        is, since its blocks and its own backward pass are quicker than what the compiler makes of plain operations. The
        names of the weights stay, and a copy is not compiled.

        Args:
            **options: Those of :func:`torch.compile`.
        """
        super().compile(**options)
        self._compiled_rule = torch.compile(self.jet_rule, **options)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a file holds: all but the compiled rule, which has the weights of this potential."""
        return {name: value for name, value in self.__dict__.items() if name not in COMPILED}

    def lipschitz_gradient(self) -> Tensor | None:
        r"""Bound the spectral norm of the Hessian: a Lipschitz constant of the velocity in ``z``, at all times.

        With :math:`L \ge \sup_{z, t} |\nabla_z^2 u(z, t)|_2`, steps of :math:`|h| L < 1` are certified: the discrete
        map :math:`z + h \nabla u` is a bijection that folds nowhere, and :class:`FixedPoint` inverts it with an error
        that shrinks by :math:`|h| L` each time. A larger ``L`` proves nothing: the bound may be far above the supremum,
        and large positive eigenvalues do no harm.

        Returns:
            The bound, of shape ``()``, differentiable in the parameters; None where none is known, as here.

        Example:
            >>> from latentflow import QuadraticPotential
            >>> u = QuadraticPotential(2, matrix=torch.diag(torch.tensor([1.0, -3.0])))
            >>> assert (0.5 * u + 0.25 * u).lipschitz_gradient() == 2.25
        """
        return None

    @property
    def inner_width(self) -> int | None:
        r"""The width ``n`` of a factor ``F`` with :math:`H = F^\top C F` that :meth:`jet_rule` gives on request.

        None, the default, where there is no such factor. Where ``n`` is below ``dim``, determinants cost less by it.
        """
        return None

    def __add__(self, other: Field) -> Potential:
        if not callable(other):
            return NotImplemented
        return SumPotential([self, other])

    def __radd__(self, other: Field | int) -> Potential:
        if isinstance(other, int) and other == 0:  # the start of the builtin sum
            return self
        if not callable(other):
            return NotImplemented
        return SumPotential([other, self])

    def __mul__(self, weight: float | Tensor) -> Potential:
        if not isinstance(weight, (int, float, Tensor)):
            return NotImplemented
        return ScaledPotential(self, weight)

    __rmul__ = __mul__

    def __truediv__(self, number: float | Tensor) -> Potential:
        if not isinstance(number, (int, float, Tensor)):
            return NotImplemented
        return ScaledPotential(self, 1 / number)

    def __neg__(self) -> Potential:
        return ScaledPotential(self, -1.0)

    def __sub__(self, other: Field) -> Potential:
        if not callable(other):
            return NotImplemented
        return self + ScaledPotential(other, -1.0)

    def __rsub__(self, other: Field) -> Potential:
        if not callable(other):
            return NotImplemented
        return SumPotential([other, -self])


class FunctionPotential(Potential):
    r"""A potential given by a function.

    Args:
        function: Maps ``z`` of shape ``(*batch, dim)`` and ``t`` of shape ``(*batch,)`` to ``(*batch,)``. If it is
            a module, its parameters belong to this potential.
        dim: The number of coordinates, or None for any.

    Raises:
        TypeError: If ``function`` cannot be called.
        ValueError: If ``dim`` is not positive.

    Example:
        >>> from latentflow import laplacian
        >>> u = FunctionPotential(lambda z, t: z.pow(2).sum(-1) * t, dim=3)
        >>> z = torch.randn(4, 3, dtype=torch.float64)
        >>> torch.testing.assert_close(laplacian(u, z, 0.5), torch.full((4,), 3.0, dtype=torch.float64))
    """

    def __init__(self, function: Field, dim: int | None = None) -> None:
        super().__init__()
        check_callable("function", function)
        if dim is not None:
            check_count("dim", dim)
        self.function = function
        self.dim = dim

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate the function at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        check_points(z, self.dim)
        return self.function(z, expand_time(t, z))


def as_module(field: Field, name: str = "potential") -> nn.Module:
    """Turn a field into a module, so that a composite potential can own it; raise a TypeError if it is not callable."""
    if isinstance(field, nn.Module):
        return field
    check_callable(name, field)
    return FunctionPotential(field)


def as_modules(fields: Sequence[Field], name: str) -> nn.ModuleList:
    """Turn fields into modules; raise a TypeError or ValueError if there is none, or their dimensions differ."""
    if not isinstance(fields, nn.ModuleList):
        check_sequence(name, fields, "potential", check_callable)
    modules = nn.ModuleList(as_module(field, name) for field in fields)
    dims = sorted({dim for dim in map(dim_of, modules) if dim is not None})
    if len(dims) > 1:
        raise ValueError(f"{name}: expected potentials of one dimension, got {' and '.join(map(str, dims))}")
    return modules


def dim_of(*fields: object) -> int | None:
    """Return the number of coordinates of the first field that knows it; None if none does."""
    dims = (getattr(field, "dim", None) for field in fields)
    return next((dim for dim in dims if isinstance(dim, int)), None)


class SumPotential(Potential):
    r"""The sum :math:`\sum_i u_i`: the velocities superpose, and so do the Laplacians (log-determinants do not).

    Args:
        terms: The fields, at least one.

    Raises:
        TypeError: If a term is not callable.
        ValueError: If there are no terms, or they have different numbers of coordinates.

    Example:
        >>> u = SumPotential([lambda z, t: z.sum(-1), lambda z, t: t * z.sum(-1)])
        >>> torch.testing.assert_close(u(torch.ones(3, 2), torch.tensor(2.0)), torch.full((3,), 6.0))
    """

    def __init__(self, terms: Sequence[Field]) -> None:
        super().__init__()
        self.terms = as_modules(terms, "terms")

    @property
    def dim(self) -> int | None:
        """The number of coordinates, if a term knows it."""
        return dim_of(*self.terms)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Add the values of the terms at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        check_points(z)
        return torch.stack([term(z, t) for term in self.terms]).sum(0)

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Add the jets of the terms."""
        return Jet.total([evaluate_jet(term, z, t, request) for term in self.terms])

    def lipschitz_gradient(self) -> Tensor | None:
        """Add the bounds of the terms; None if one of them is not known."""
        bounds = gradient_bounds(self.terms)
        return None if bounds is None else bounds.sum(0)


class ScaledPotential(Potential):
    r"""The multiple :math:`a\,u`: the same paths at ``a`` times the velocity.

    Args:
        potential: The field ``u``.
        weight: The factor ``a``: a number, or a tensor of shape ``()`` or ``(*batch,)``; a parameter stays one.

    Raises:
        TypeError: If the potential is not callable, or the weight is neither a number nor a floating-point tensor.
        ValueError: If the weight is a number that is not finite.

    Example:
        >>> u = ScaledPotential(lambda z, t: z.sum(-1), 0.5)
        >>> torch.testing.assert_close(u(torch.ones(3, 2), torch.tensor(0.0)), torch.ones(3))
    """

    weight: Tensor | float

    def __init__(self, potential: Field, weight: float | Tensor) -> None:
        super().__init__()
        self.potential = as_module(potential)
        if not isinstance(weight, Tensor):
            self.weight = check_finite_number("weight", weight)
            return
        check_tensor("weight", weight)
        if isinstance(weight, nn.Parameter):
            self.weight = weight
        else:
            self.register_buffer("weight", weight, persistent=weight.ndim == 0)  # not the weights of one batch

    @property
    def dim(self) -> int | None:
        """The number of coordinates, if the potential knows it."""
        return dim_of(self.potential)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Scale the value at ``z`` of shape ``(*batch, dim)`` and ``t``; the result is ``(*batch,)``."""
        check_points(z)
        value: Tensor = self.potential(z, t)
        weight = expand_weight(self.weight, z.shape[:-1]) if isinstance(self.weight, Tensor) else self.weight
        return value * weight

    @property
    def per_sample(self) -> bool:
        """Whether every sample has a weight of its own."""
        return isinstance(self.weight, Tensor) and self.weight.ndim > 0

    @property
    def inner_width(self) -> int | None:
        """That of the potential."""
        return getattr(self.potential, "inner_width", None)

    def jet_rule(self, z: Tensor, t: Tensor, request: JetRequest) -> Jet:
        """Scale the jet of the potential."""
        return evaluate_jet(self.potential, z, t, request).scale(self.weight)

    def lipschitz_gradient(self) -> Tensor | None:
        """Scale the bound of the potential by the largest absolute weight of a sample."""
        bounds = gradient_bounds([self.potential])
        if bounds is None:
            return None
        weight = torch.as_tensor(self.weight, dtype=bounds.dtype, device=bounds.device).abs()
        return bounds[0] * (weight.amax() if weight.numel() > 0 else 0.0)
