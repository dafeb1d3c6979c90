"""Checks of potentials and of estimators of the Laplacian."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from latentflow.calculus import Derivative, Estimator, Field, JetRequest, Time, jet, laplacian
from latentflow.calculus.checks import check_callable, check_count, expand_time
from latentflow.calculus.operators import check_estimator as check_operator
from latentflow.flow import ODE, PotentialFlow
from latentflow.potentials import Potential
from latentflow.potentials.algebra import SupportsLipschitz
from latentflow.potentials.bank import has_samples
from latentflow.testing.cases import (
    Case,
    check_case,
    converted,
    describe,
    explained,
    require_close,
    require_finite,
    reverse_jet,
    tensors,
    weighted_slopes,
)

AUTODIFF = "what automatic differentiation of the values gives"

STEP = 1e-3


def check_potential(
    u: Field,
    dim: int,
    batch: Sequence[int] = (4,),
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    tolerance: float | None = None,
) -> None:
    r"""Check a potential against its own values.

    Every request for derivatives is put to ``u`` and every field of the answer compared with reverse over reverse mode
    of ``u(z, t)``, as are its gradients in the point, the time and the parameters. Checked besides:

    - values and derivatives have the right shapes, for the batch shapes ``()`` and ``(0,)`` and one more dimension too;
    - no sample depends on another one, and a second evaluation gives the same;
    - nothing changes for a time that is a number or a tensor of shape ``()``, nor under ``torch.no_grad`` and
      ``torch.inference_mode``;
    - the inputs are not changed, and dtypes follow them, in float32 and in float64;
    - ``lipschitz_gradient``, if it is known, bounds the eigenvalues of the Hessians seen.

    The points are normal, the times uniform in [0, 1]. A module is copied and converted to the dtype; a function has to
    follow the dtype of its points, so pass a module that holds tensors as it is, not in a closure. Where ``u`` holds
    data of each sample, such as ``bank.select(k)``, only the given batch shape is tried.

    Args:
        u: The potential, or any callable ``u(z, t)``.
        dim: The number of coordinates.
        batch: The batch shape, of at least two samples.
        seed: The seed of the points.
        dtype: The dtype to compare in.
        tolerance: How far a field may be off, relative to one plus its largest entry; None for the square root of the
            machine epsilon.

    Raises:
        AssertionError: If the contract is broken. The message names the field, the request or circumstance, the largest
            error and where it is.
        ValueError: If the batch shape has fewer than two samples.

    Example:
        A rule of one's own, which leaves the rarer requests to automatic differentiation:

        >>> from latentflow import Derivative, Jet, Potential
        >>> from latentflow.calculus import JetRequest
        >>> class Spring(Potential):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.stiffness = nn.Parameter(torch.tensor(2.0))
        ...     def forward(self, z, t):
        ...         return -0.5 * self.stiffness * (1 + t) * z.square().sum(-1)
        ...     def trace(self, z, t):
        ...         return -self.stiffness * (1 + t) * z.shape[-1]
        ...     def jet_rule(self, z, t, request):
        ...         if request != JetRequest(Derivative.LAPLACIAN):
        ...             return super().jet_rule(z, t, request)
        ...         square, force = z.square().sum(-1), -self.stiffness * (1 + t)
        ...         first = self(z, t), force[..., None] * z, -0.5 * self.stiffness * square
        ...         return Jet.answer(request, *first, laplacian=lambda: self.trace(z, t))
        >>> check_potential(Spring(), dim=3)

        A bug is caught where it is:

        >>> class Broken(Spring):
        ...     def trace(self, z, t):
        ...         return -self.stiffness * z.shape[-1] * torch.ones_like(t)  # forgets the time
        >>> try:
        ...     check_potential(Broken(), dim=3)
        ... except AssertionError as error:
        ...     assert str(error).startswith("laplacian, request of laplacian: expected what automatic")
    """
    check_callable("u", u)
    case = Case.draw(u, dim, batch, seed, dtype, tolerance)
    with torch.enable_grad():
        _check_inputs(case)
        _check_independence(case)
        _check_derivatives(case)
        _check_modes(case)
        _check_times(case)
        if not has_samples(u):
            _check_batches(case)
        _check_bound(case)
        _check_other_dtype(u, case)


def _check_inputs(case: Case) -> None:
    z, t, probes = case.z.clone(), case.t.clone(), case.probes.clone()
    with torch.no_grad():
        value = case.value("forward", z, t)
        _require_untouched(case, "forward", z, t, probes)
        require_close("value", value, torch.zeros_like(t), math.inf, "forward", "")  # its shape and dtype
        require_finite("value", value, "forward")
        require_close("value", case.value("forward", z, t), value, case.tolerance, "in a second evaluation", "the same")
        answer = case.fields("under torch.no_grad", z, t, replace(case.everything, probes=probes))
        _require_untouched(case, "jet_rule", z, t, probes)
        for name, field in answer.items():
            require_finite(name, field, "jet_rule")


def _require_untouched(case: Case, where: str, z: Tensor, t: Tensor, probes: Tensor) -> None:
    for name, now, before in (("z", z, case.z), ("t", t, case.t), ("probes", probes, case.probes)):
        if not torch.equal(now, before):
            raise AssertionError(f"{name}, {where}: expected the input as it was, got it changed in place")


def _check_independence(case: Case) -> None:
    """Move the first sample and see that the other ones stay."""
    z, t = case.z.clone(), case.t.clone()
    z.view(-1, z.shape[-1])[0] += 1
    t.view(-1)[0] += 1

    def others(z: Tensor, t: Tensor) -> dict[str, Tensor]:
        fields = case.fields("for a batch", z, t, case.everything)
        fields["value of forward"] = case.value("forward", z, t)
        return {name: field.flatten(0, case.t.ndim - 1)[1:] for name, field in fields.items()}

    case.compare(others(case.z, case.t), others(case.z, case.t), "in a second evaluation", "the same")
    where = "of the other samples, after the first one was moved"
    case.compare(others(z, t), others(case.z, case.t), where, "no sample to depend on another one")


def _check_derivatives(case: Case) -> None:
    """Compare every field of every request, and its gradients, with reverse over reverse mode."""
    z, t = case.z.clone().requires_grad_(), case.t.clone().requires_grad_()
    inputs: dict[str, Tensor] = {"z": z, "t": t}
    if isinstance(case.u, nn.Module):
        inputs |= {f"parameter {name}": p for name, p in case.u.named_parameters() if p.requires_grad}
    with explained("value", "reverse over reverse mode"):
        expected = tensors(reverse_jet(case.u, z, t, case.probes))
    slopes = {name: weighted_slopes(field, inputs) for name, field in expected.items()}
    for request in case.requests():
        where = describe(request)
        answer = case.fields(where, z, t, request)
        unknown = () if request.probes is not None else ("quadratic", "products")
        known = {name: expected[name] for name in answer if name not in unknown}
        case.compare(answer, known, where, AUTODIFF)
        for name in known:
            with explained(f"gradient of {name}", where):
                found = weighted_slopes(answer[name], inputs)
            for (source, actual), wanted in zip(found.items(), slopes[name].values(), strict=True):
                require_close(f"gradient of {name} in {source}", actual, wanted, case.tolerance, where, AUTODIFF)


def _check_modes(case: Case) -> None:
    expected = case.fields("with gradients", case.z, case.t, case.everything)
    modes: list[tuple[str, Callable[[], torch.no_grad | torch.inference_mode]]] = [
        ("under torch.no_grad", torch.no_grad),
        ("under torch.inference_mode", torch.inference_mode),
    ]
    for where, mode in modes:
        with mode():
            answer = case.fields(where, case.z, case.t, case.everything)
            case.compare(answer, expected, where, "what it is otherwise")


def _check_times(case: Case) -> None:
    moment = torch.tensor(0.3, dtype=case.z.dtype, device=case.z.device)
    full = expand_time(moment, case.z).contiguous()
    expected = case.fields("for one time", case.z, full, case.everything)
    times: list[tuple[str, Time]] = [("for a number t", 0.3), ("for t of shape ()", moment)]
    for where, time in times:
        answer = case.fields(where, case.z, time, case.everything)
        case.compare(answer, expected, where, "what a time of each sample's own gives")
    if isinstance(case.u, Potential):
        where = "forward for t of shape () (see latentflow.calculus.expand_time)"
        value = case.value(where, case.z, moment)
        case.compare({"value": value}, {"value": expected["value"]}, where, "what a time of each sample's own gives")


def _check_batches(case: Case) -> None:
    z, t, probes = case.z, case.t, case.probes
    flat = (z.reshape(-1, z.shape[-1]), t.reshape(-1), probes.reshape(-1, *probes.shape[-2:]))
    full = case.fields("for a batch", z, t, case.everything)
    fields = {name: field.flatten(0, t.ndim - 1) for name, field in full.items()}
    cases: dict[str, Callable[[Tensor], Tensor]] = {
        "for the batch shape ()": lambda x: x[0],
        "for the batch shape (0,)": lambda x: x[:0],
        "for a batch shape of two dimensions": lambda x: torch.stack([x, x]),
    }
    for where, pick in cases.items():
        points, times, directions = (pick(x) for x in flat)
        answer = case.fields(where, points, times, replace(case.everything, probes=directions))
        answer["value of forward"] = case.value(f"forward {where}", points, times)
        expected = {name: pick(field) for name, field in fields.items()}
        expected["value of forward"] = expected["value"]
        case.compare(answer, expected, where, "what it is in a batch")


def _check_bound(case: Case) -> None:
    bound = case.u.lipschitz_gradient() if isinstance(case.u, SupportsLipschitz) else None
    if bound is None:
        return
    hessian = case.fields("request of hessian", case.z, case.t, JetRequest(Derivative.HESSIAN))["hessian"]
    largest, limit = float(torch.linalg.eigvalsh(hessian.detach()).abs().max()), float(bound.detach())
    if limit < largest - case.tolerance * (1 + largest):
        raise AssertionError(f"lipschitz_gradient: expected at least {largest:.6g}, an eigenvalue, got {limit:.6g}")


def _check_other_dtype(u: Field, case: Case) -> None:
    other = torch.float32 if case.z.dtype == torch.float64 else torch.float64
    here = replace(case, u=converted(u, other), tolerance=max(case.tolerance, 1e-3))
    z, t, probes = (x.to(other) for x in (case.z, case.t, case.probes))
    where = f"in {other}"
    answer = here.fields(where, z, t, replace(case.everything, probes=probes))
    answer["value of forward"] = here.value(where, z, t)
    full = case.fields(f"in {case.z.dtype}", case.z, case.t, case.everything)
    expected = {name: field.to(other) for name, field in full.items()}
    expected["value of forward"] = expected["value"]
    here.compare(answer, expected, where, f"what it is in {case.z.dtype}")


def check_estimator(estimator: Estimator, dim: int = 5, draws: int = 4000, seed: int = 0) -> None:
    r"""Check that the mean of many estimates of a Laplacian is the Laplacian.

    The field is :math:`u(z) = \tfrac12 z^\top A z + \tfrac1{12} \sum_i z_i^4` with a full positive ``A``, at one point.
    A stochastic estimator has to come within five standard errors of :math:`\operatorname{tr} A + |z|^2`, and its
    estimates must not be all the same; any other has to be exact. This holds for :func:`latentflow.laplacian`, for
    :func:`latentflow.jet` with and without further derivatives, and for the log-determinant of an integrated step. What
    ``estimator.fixed`` draws has to stay fixed.

    Args:
        estimator: The estimator. Its own generator advances; without one, torch's global generator is seeded meanwhile
            and restored.
        dim: The number of coordinates.
        draws: The number of estimates.
        seed: The seed of the field and of torch's global generator.

    Raises:
        AssertionError: If the estimator breaks its contract.

    Example:
        >>> from latentflow import Hutchinson
        >>> check_estimator(Hutchinson(probes=2))
        >>> class Short(Hutchinson):
        ...     def draw(self, z):
        ...         return 0.9 * super().draw(z)
        >>> try:
        ...     check_estimator(Short())
        ... except AssertionError as error:
        ...     assert "standard errors" in str(error)
    """
    check_operator("estimator", estimator)
    check_count("draws", draws)
    check_case(dim, (draws, 2), seed)
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    matrix, point = root @ root.mT, torch.randn(dim, generator=generator, dtype=torch.float64)

    def field(z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG001 - a field of the point and the time
        return ((z @ matrix) * z).sum(-1) / 2 + z.pow(4).sum(-1) / 12

    exact = float(matrix.trace() + point.square().sum())
    z = point.repeat(draws, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found: dict[str, Tensor] = {}
        with explained("laplacian", "many estimates"):
            found["laplacian"] = laplacian(field, z, 0.0, estimator)
        with explained("jet", "many estimates"):
            found["laplacian of a jet"] = jet(field, z, 0.0, estimator).laplacian
            full = jet(field, z, 0.0, estimator, Derivative.HESSIAN)
            found["laplacian of a jet with a Hessian"] = full.laplacian
        with explained("fixed", "many estimates"):
            fixed = estimator.fixed(z)
            found["laplacian of fixed noise"] = laplacian(field, z, 0.0, fixed)
            again = laplacian(field, z, 0.0, fixed)
        with explained("integrate", "one step of Euler's method"):
            step = ODE("euler", divergence=estimator)
            log_det = PotentialFlow(field).integrate(z, [0.0, STEP], step).log_det
            found["log_det of integrate"] = z.new_zeros(0) if log_det is None else log_det[-1] / STEP
    for name, values in found.items():
        if values.shape != (draws,):
            raise AssertionError(f"{name}: expected shape ({draws},), got {tuple(values.shape)}")
    if not torch.equal(found["laplacian of fixed noise"], again):
        raise AssertionError("fixed: expected the same noise in every evaluation, got other estimates")
    if full.hessian.shape != (draws, dim, dim):
        raise AssertionError(f"hessian: expected shape ({draws}, {dim}, {dim}), got {tuple(full.hessian.shape)}")
    for name, values in found.items():
        mean, error = float(values.mean()), float(values.std()) / math.sqrt(draws)
        roundoff = 1e-12 * (1 + abs(exact))
        if not estimator.stochastic and float((values - exact).abs().max()) > roundoff:
            raise AssertionError(f"{name}: expected the exact value {exact:.6g}, got {mean:.6g}")
        if estimator.stochastic and error <= roundoff:
            raise AssertionError(
                f"{name}: expected noise of its own for every sample, got the same estimate everywhere"
            )
        if abs(mean - exact) > 5 * error + roundoff:
            raise AssertionError(
                f"{name}: expected a mean of {exact:.6g}, got {mean:.6g}, {abs(mean - exact) / error:.3g} standard "
                f"errors of {error:.2g} away in {draws} estimates"
            )
