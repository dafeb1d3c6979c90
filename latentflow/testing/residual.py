r"""Check that the residual of an equation keeps its contract."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from latentflow.calculus import Field, Jet, JetRequest, Time, evaluate_jet
from latentflow.calculus.checks import check_instance, expand_time
from latentflow.calculus.jets import WITHOUT_PROBES
from latentflow.pde import PDEResidual
from latentflow.testing.cases import (
    Case,
    check_case,
    converted,
    explained,
    require_close,
    require_finite,
    slopes_of,
    tensors,
)

STEP = 1e-5
SLOPE_TOLERANCE = 1e-6


def check_residual(
    residual: PDEResidual,
    dim: int,
    u: Field | None = None,
    batch: Sequence[int] = (4,),
    seed: int = 0,
    *,
    gauge: bool = False,
) -> None:
    r"""Check a residual, its penalty and its initial condition on a potential.

    What can be checked without knowing the equation:

    - one finite number for each sample, for the batch shapes ``()`` and ``(0,)`` and one more dimension too;
    - no sample depends on another one, and a second evaluation gives the same;
    - nothing changes for a time that is a number or a tensor of shape ``()``, nor under ``torch.no_grad`` and
      ``torch.inference_mode``;
    - the inputs are not changed, and dtypes follow them, in float32 and in float64;
    - ``requires`` names all second derivatives that are read;
    - gradients in the points, the times and all parameters, those of the potential and the residual's own, agree with
      finite differences.

    Whether it is the equation that you want is a matter of a solution: check that the residual vanishes on one. The
    points are normal, the times uniform in [0, 1]; modules are copied and converted to the dtype.

    Args:
        residual: The residual.
        dim: The number of coordinates.
        u: The potential, or any callable ``u(z, t)``; None for a convex one whose derivatives are not zero anywhere.
        batch: The batch shape, of at least two samples.
        seed: The seed of the points.
        gauge: Whether to check that ``u + g(t)`` has the residual :math:`r + g'(t)`. So it is for equations
            :math:`\partial_t u + F(\nabla u, \nabla^2 u) = 0`.

    Raises:
        AssertionError: If the contract is broken. The message names what is wrong, under which circumstance, the
            largest error and where it is.
        ValueError: If the batch shape has fewer than two samples.

    Example:
        >>> from latentflow import Derivative
        >>> class Burning(PDEResidual):  # a flame front
        ...     requires = Derivative.LAPLACIAN
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.width = nn.Parameter(torch.tensor(0.1))
        ...     def from_jet(self, jet, z, t):
        ...         return jet.time_derivative + jet.gradient.norm(dim=-1) - self.width * jet.laplacian
        >>> check_residual(Burning(), dim=3, gauge=True)
        >>> class Forgetful(Burning):
        ...     requires = Derivative(0)
        >>> try:
        ...     check_residual(Forgetful(), dim=3)
        ... except AssertionError as error:
        ...     assert "requires" in str(error)
    """
    check_instance("residual", residual, PDEResidual, "a PDEResidual")
    check_case(dim, batch, seed)
    field = _Swell(dim) if u is None else u
    case = Case.draw(field, dim, batch, seed, torch.float64, None)
    subject = _Subject(converted(residual, torch.float64, "residual"), case)
    with torch.enable_grad():
        subject.check_requires()
        subject.check_inputs()
        subject.check_independence()
        subject.check_circumstances()
        subject.check_slopes()
        if gauge:
            subject.check_gauge()
        single = replace(case, u=converted(field, torch.float32), tolerance=1e-3)
        subject.check_single_precision(_Subject(converted(residual, torch.float32, "residual"), single))


class _Swell(nn.Module):
    """A convex field that changes with time, with no derivative of order two or less that vanishes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        direction = 1 + torch.arange(dim, dtype=torch.float64).cos() / 2
        self.wave = nn.Parameter(direction / direction.norm())
        self.height = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.growth = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        bowl = (1 + self.growth * t) * z.square().sum(-1) / 2
        return bowl + self.height * torch.sin((z * self.wave).sum(-1) + 1.5 * t)


@dataclass(frozen=True)
class _Subject:
    """A residual and the case that it is checked on, both in one dtype."""

    residual: PDEResidual
    case: Case

    def fields(self, where: str, z: Tensor, t: Time, u: Field | None = None) -> dict[str, Tensor]:
        """Evaluate all that has one number for each sample."""
        residual, field = self.residual, self.case.u if u is None else u
        found: dict[str, Tensor] = {}
        for name, evaluate in (
            ("residual", lambda: residual(field, z, t)),
            ("penalty", lambda: residual.penalty(z, expand_time(t, z))),
        ):
            with explained(name, where):
                found[name] = evaluate()
        return found

    def from_jet(self, where: str, jet: Jet) -> Tensor:
        """Evaluate the residual on a given jet, which must not change."""
        case = self.case
        inputs = {"z": case.z, "t": case.t} | {f"{name} of the jet": field for name, field in tensors(jet).items()}
        before = {name: tensor.clone() for name, tensor in inputs.items()}
        with explained("from_jet", where):
            result: Tensor = self.residual.from_jet(jet, case.z, case.t)
        for name, tensor in inputs.items():
            if not torch.allclose(tensor, before[name], rtol=0, atol=0, equal_nan=True):
                raise AssertionError(f"{name}, from_jet: expected the input as it was, got it changed in place")
        return result

    def check_requires(self) -> None:
        """Hide what is not named, then spoil it, and see that the residual stays."""
        case = self.case
        named = self.residual.requires
        with torch.no_grad():
            with explained("u", "every derivative"):
                full = evaluate_jet(case.u, case.z, case.t, JetRequest(WITHOUT_PROBES))
            kept = {name: tensor for name, tensor in full.second.items() if name in named}
            spoilt = {name: torch.full_like(tensor, math.nan) for name, tensor in full.second.items()} | kept
            where = f"with {named.names or 'nothing'}, which requires names, and no other second derivative"
            expected = self.from_jet(where, replace(full, second=kept))
            found = self.from_jet("with every derivative", replace(full, second=spoilt))
            what = f"{where}, the same"
            require_close("residual", found, expected, case.tolerance, "with every derivative", what)

    def check_inputs(self) -> None:
        """See that inputs stay, that there is one finite number for each sample, and the same one again."""
        case = self.case
        z, t = case.z.clone(), case.t.clone()
        with torch.no_grad():
            first, second = self.fields("for a batch", z, t), self.fields("in a second evaluation", z, t)
        for name, now, before in (("z", z, case.z), ("t", t, case.t)):
            if not torch.equal(now, before):
                raise AssertionError(f"{name}: expected the input as it was, got it changed in place")
        for name, field in first.items():
            require_close(name, field, torch.zeros_like(t), math.inf, "for a batch", "")  # its shape and dtype
            require_finite(name, field, "for a batch")
        case.compare(second, first, "in a second evaluation", "the same")

    def check_independence(self) -> None:
        """Move the first sample and see that the other ones stay."""
        z, t = self.case.z.clone(), self.case.t.clone()
        z.view(-1, z.shape[-1])[0] += 1
        t.view(-1)[0] += 1
        where = "of the other samples, after the first one was moved"
        moved, expected = (
            {name: field.flatten()[1:] for name, field in self.fields(where, *points).items()}
            for points in ((z, t), (self.case.z, self.case.t))
        )
        self.case.compare(moved, expected, where, "no sample to depend on another one")

    def check_circumstances(self) -> None:
        """Evaluate without gradients, at one time for all, and in other batch shapes."""
        z, t, compare = self.case.z, self.case.t, self.case.compare
        full = self.fields("with gradients", z, t)
        for mode in (torch.no_grad, torch.inference_mode):
            where = f"under torch.{mode.__name__}"
            with mode():
                compare(self.fields(where, z, t), full, where, "what it is otherwise")
        moment = torch.tensor(0.3, dtype=z.dtype, device=z.device)
        expected = self.fields("for one time", z, expand_time(moment, z).contiguous())
        times: list[tuple[str, Time]] = [("for a number t", 0.3), ("for t of shape ()", moment)]
        for where, time in times:
            compare(self.fields(where, z, time), expected, where, "what a time of each sample's own gives")
        shapes: dict[str, Callable[[Tensor], Tensor]] = {
            "for the batch shape ()": lambda x: x[0],
            "for the batch shape (0,)": lambda x: x[:0],
            "for a batch shape of two dimensions": lambda x: torch.stack([x, x]),
        }
        for where, pick in shapes.items():
            found = self.fields(where, pick(z.reshape(-1, z.shape[-1])), pick(t.reshape(-1)))
            wanted = {name: pick(field.reshape(-1)) for name, field in full.items()}
            compare(found, wanted, where, "what it is in a batch")

    def check_slopes(self) -> None:
        """Compare gradients with central differences, along one direction for each input and parameter."""
        case = self.case
        z, t = case.z.clone().requires_grad_(), case.t.clone().requires_grad_()
        sources: dict[str, Tensor] = {"z": z, "t": t}
        for owner, module in (("u", case.u), ("the residual", self.residual)):
            if isinstance(module, nn.Module):
                learned = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
                sources |= {f"parameter {name} of {owner}": p for name, p in learned}
        generator = torch.Generator().manual_seed(case.t.numel())

        def draw(like: Tensor) -> Tensor:
            return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

        weights = draw(case.t)

        def totals() -> dict[str, Tensor]:
            return {name: (field * weights).sum() for name, field in self.fields("with gradients", z, t).items()}

        slopes = {name: slopes_of(total, list(sources.values())) for name, total in totals().items()}
        for i, (source, tensor) in enumerate(sources.items()):
            direction = draw(tensor)
            with torch.no_grad():
                tensor.add_(STEP * direction)
                above = totals()
                tensor.sub_(2 * STEP * direction)
                below = totals()
                tensor.add_(STEP * direction)
            for name, slope in slopes.items():
                where, found = f"in {source}", (slope[i] * direction).sum()
                expected = (above[name] - below[name]) / (2 * STEP)
                require_close(f"gradient of {name}", found, expected, SLOPE_TOLERANCE, where, "a finite difference")

    def check_gauge(self) -> None:
        """Add a function of time."""
        z, t, u = self.case.z, self.case.t, self.case.u
        raised = self.fields("of u + sin t", z, t, u=lambda z, t: u(z, t) + t.sin())["residual"]
        expected = self.fields("of u", z, t)["residual"] + t.cos()
        require_close("residual", raised, expected, self.case.tolerance, "of u + sin t", "that of u, plus cos t")

    def check_single_precision(self, single: _Subject) -> None:
        """Compare with the same residual and potential in float32."""
        z, t = self.case.z, self.case.t
        expected = {name: field.float() for name, field in self.fields("in torch.float64", z, t).items()}
        where = "in torch.float32"
        single.case.compare(single.fields(where, z.float(), t.float()), expected, where, "what it is in torch.float64")
