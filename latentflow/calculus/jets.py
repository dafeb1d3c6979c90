r"""What a derivative pass is asked for, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from latentflow.calculus.arguments import expand_weight


@dataclass(frozen=True)
class JetRequest:
    r"""The second derivatives that a pass is asked for, beyond value, gradient and time derivative.

    Attributes:
        laplacian: Whether to return the exact trace of the Hessian.
        hessian: Whether to return the Hessian itself.
        probes: Directions :math:`v`, of shape ``(*batch, probes, dim)``, for which to return
            :math:`v^\top H v`; or None.
    """

    laplacian: bool = False
    hessian: bool = False
    probes: Tensor | None = None

    @property
    def second_order(self) -> bool:
        """Whether any second derivative is asked for."""
        return self.laplacian or self.hessian or self.probes is not None


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
    """

    value: Tensor
    gradient: Tensor
    time_derivative: Tensor
    laplacian: Tensor | None = None
    hessian: Tensor | None = None
    quadratic: Tensor | None = None

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
        columns = {field.name: [getattr(jet, field.name) for jet in jets] for field in fields(Jet)}
        known = {name: column for name, column in columns.items() if not any(x is None for x in column)}
        return Jet(**{name: function(*column) for name, column in known.items()})

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
