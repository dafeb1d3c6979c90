r"""What a derivative pass is asked for, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace

from torch import Tensor

from latentflow.calculus.arguments import expand_weight

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
