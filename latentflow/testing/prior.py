"""Checks of priors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal

from latentflow.calculus import Time
from latentflow.calculus.checks import check_callable, check_count
from latentflow.priors import Prior
from latentflow.testing.cases import check_case, converted, explained, require_close, require_finite

MASS_TOLERANCE = 5e-3  # a kink, as that of a Laplace distribution, costs the grid half of it


ERRORS = 5


def check_prior(
    prior: Prior,
    dim: int,
    fields: int = 1,
    times: Sequence[float] = (0.0, 1.0, 2.0),
    draws: int = 4000,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> None:
    r"""Check a prior: that it is a density at every time, that samples follow it, and that it learns.

    At each of the times and for each field:

    - the call gives a distribution with events of shape ``(dim,)``, and the log-density of every point is finite;
    - it has mass one: by quadrature in one and two dimensions, in more by importance sampling from a wider normal
      distribution, within five standard errors;
    - samples follow it: first and second moments agree within five standard errors;
    - ``rsample``, if there is one, carries gradients wherever the log-density does.

    Checked besides: times and indices broadcast and no point depends on another; a number ``t`` and a tensor of shape
    ``()`` give the same, as does a second evaluation, under ``torch.no_grad`` and ``torch.inference_mode`` too; dtypes
    follow the module's, in float32 and in float64; and the log-density has a gradient other than zero in every
    parameter that requires one.

    A module is copied, converted to the dtype and put in evaluation mode; any other callable has to use the dtype. The
    quadrature spans twelve standard deviations to either side, in 1000 steps or 200 by 200.

    Args:
        prior: The prior, called as ``prior(t=..., k=...)``.
        dim: The number of coordinates.
        fields: The number of fields; with one, ``k`` is left out.
        times: The times at which the prior has a distribution, two or more.
        draws: The number of samples.
        seed: The seed of the samples. Torch's global generator is seeded meanwhile and restored.
        dtype: The dtype to check in.

    Raises:
        AssertionError: If the prior breaks its contract; the message says where and by how much.
        ValueError: If there are fewer than two times.

    Example:
        >>> from torch.distributions import Independent, Laplace, Normal
        >>> class LaplacePrior(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.scale = nn.Parameter(torch.ones(2))
        ...     def forward(self, t=0.0, k=None):
        ...         scale = self.scale * (1 + torch.as_tensor(t).to(self.scale)).unsqueeze(-1)
        ...         return Independent(Laplace(torch.zeros_like(scale), scale), 1)
        >>> check_prior(LaplacePrior(), dim=2)

        A bug is caught where it is:

        >>> class Broken(LaplacePrior):
        ...     def forward(self, t=0.0, k=None):
        ...         return Independent(Laplace(torch.zeros(2).to(self.scale), self.scale), 0)  # two events of one
        >>> try:
        ...     check_prior(Broken(), dim=2)
        ... except AssertionError as error:
        ...     assert str(error).startswith("event_shape, t = 0: expected (2,), got ()")
    """
    check_callable("prior", prior, "a prior")
    check_case(dim, (draws, 2), seed)
    check_count("fields", fields)
    if len(times) < 2:
        raise ValueError(f"times: expected two or more, got {len(times)}")
    case = _Case(_evaluated(prior, dtype), dim, fields, times, dtype)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        z = _check_distributions(case, draws)
        _check_broadcasting(case, z)
        _check_modes(case, z)
        _check_parameters(case, z)
        if isinstance(prior, nn.Module):
            _check_other_dtype(prior, case, z)


@dataclass(frozen=True)
class _Case:
    prior: Prior
    dim: int
    fields: int
    times: Sequence[float]
    dtype: torch.dtype

    @property
    def indices(self) -> list[int | None]:
        """The indices to ask for; None where there is one field."""
        return [None] if self.fields == 1 else list(range(self.fields))

    def build(self, where: str, t: Time, k: int | Tensor | None) -> Distribution:
        with explained("prior", where):
            distribution = self.prior(t=t, k=k)
        if not isinstance(distribution, Distribution):
            raise AssertionError(f"prior, {where}: expected a Distribution, got {type(distribution).__name__}")
        if distribution.event_shape != (self.dim,):
            raise AssertionError(f"event_shape, {where}: expected ({self.dim},), got {tuple(distribution.event_shape)}")
        return distribution

    def log_prob(self, where: str, t: Time, k: int | Tensor | None, z: Tensor) -> Tensor:
        distribution = self.build(where, t, k)
        with explained("log_prob", where):
            value: Tensor = distribution.log_prob(z)
        require_close("log_prob", value, z.new_zeros(z.shape[:-1]), math.inf, where, "")  # its shape and dtype
        require_finite("log_prob", value.detach(), where)
        return value


def _evaluated(prior: Prior, dtype: torch.dtype) -> Prior:
    own = converted(prior, dtype, "prior")
    return own.eval() if isinstance(own, nn.Module) else own


def _where(t: float, k: int | None) -> str:
    return f"t = {t:g}" if k is None else f"t = {t:g}, k = {k}"


def _check_distributions(case: _Case, draws: int) -> Tensor:
    """Check every distribution by itself, and give three points of each of the first field's, ``(times, 3, dim)``."""
    points = []
    for k in case.indices:
        for t in case.times:
            where = _where(t, k)
            distribution = case.build(where, t, k)
            with explained("sample", where):
                z = distribution.sample(torch.Size((draws,)))
            require_close("sample", z, z.new_zeros(draws, case.dim, dtype=case.dtype), math.inf, where, "")
            require_finite("sample", z, where)
            density = case.log_prob(where, t, k, z)
            with torch.no_grad():
                _check_mass(case, where, t, k, z)
            if distribution.has_rsample:
                with explained("rsample", where):
                    drawn = distribution.rsample(torch.Size((2,)))
                if density.requires_grad and not drawn.requires_grad:
                    raise AssertionError(f"rsample, {where}: expected samples that carry gradients, got others")
            points.append(z[:3])
    return torch.stack(points[: len(case.times)])


def _check_mass(case: _Case, where: str, t: float, k: int | None, z: Tensor) -> None:
    reference = reference_points(z)
    weighted = Reference(reference.z, reference.weight * case.log_prob(where, t, k, reference.z).exp())
    mass, mass_error = weighted.mean(z.new_ones(len(weighted.z), 1))
    allowed = MASS_TOLERANCE + ERRORS * float(mass_error)
    if not abs(float(mass) - 1) <= allowed:
        raise AssertionError(f"log_prob, {where}: expected mass 1 within {allowed:.2g}, got {float(mass):.6g}")
    expected, expected_error = weighted.mean(moments(weighted.z))
    found, found_error = moments(z).mean(0), moments(z).std(0) / math.sqrt(len(z))
    error = (expected_error.square() + found_error.square()).sqrt()
    off = (found - expected).abs() / (error + MASS_TOLERANCE / ERRORS * (1 + expected.abs()))
    worst = int(off.nan_to_num(nan=math.inf).argmax())
    if not float(off[worst]) <= ERRORS:
        wanted, got, noise = (float(x[worst]) for x in (expected, found, error))
        raise AssertionError(
            f"sample, {where}: expected the moments of the density, {wanted:.4g} for {_name(worst, case.dim)}, "
            f"got {got:.4g} with a standard error of {noise:.1g}"
        )


def _name(moment: int, dim: int) -> str:
    if moment == 2 * dim:
        return "the square of the sum"
    return f"the mean of coordinate {moment}" if moment < dim else f"the mean square of coordinate {moment - dim}"


def _check_broadcasting(case: _Case, z: Tensor) -> None:
    t = torch.tensor(case.times, dtype=case.dtype, device=z.device).unsqueeze(-1)
    k = None if case.fields == 1 else torch.arange(3, device=z.device) % case.fields
    where = "for t of shape (times, 1) and k of shape (batch,)"
    together = case.log_prob(where, t, k, z)
    alone = [
        case.log_prob(_where(time, None), time, None if k is None else int(k[i]), z[n, i])
        for n, time in enumerate(case.times)
        for i in range(z.shape[1])
    ]
    expected = torch.stack(alone).reshape(together.shape)
    _compare("log_prob", together, expected, where, "what each point gives alone")
    first = None if k is None else int(k[0])
    where = "for t of shape ()"
    _compare("log_prob", case.log_prob(where, t[1, 0], first, z[1, 0]), expected[1, 0], where, "what a number t gives")


def _check_modes(case: _Case, z: Tensor) -> None:
    for t, points in zip(case.times, z, strict=True):
        expected = case.log_prob(_where(t, case.indices[0]), t, case.indices[0], points)
        for where, mode in (
            ("in a second evaluation", torch.enable_grad),
            ("under torch.no_grad", torch.no_grad),
            ("under torch.inference_mode", torch.inference_mode),
        ):
            with mode():
                again = case.log_prob(where, t, case.indices[0], points)
            _compare("log_prob", again, expected, where, "what it is otherwise")


def _check_parameters(case: _Case, z: Tensor) -> None:
    if not isinstance(case.prior, nn.Module):
        return
    named = {name: p for name, p in case.prior.named_parameters() if p.requires_grad}
    if not named:
        return
    total = z.new_zeros(())
    for k in case.indices:
        for t, points in zip(case.times, z, strict=True):
            total = total + case.log_prob(_where(t, k), t, k, points).square().sum()
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True) if total.requires_grad else ()
    found = dict(zip(named, gradients or [None] * len(named), strict=True))
    for name, gradient in found.items():
        if gradient is None or not (gradient != 0).any():
            raise AssertionError(
                f"{name}: expected a gradient of log_prob, got {'none' if gradient is None else 'zero'}"
            )
        require_finite(f"gradient in {name}", gradient, "log_prob")


def _check_other_dtype(prior: nn.Module, case: _Case, z: Tensor) -> None:
    other = torch.float32 if case.dtype == torch.float64 else torch.float64
    here = _Case(_evaluated(prior, other), case.dim, case.fields, case.times, other)
    for t, points in zip(case.times, z, strict=True):
        expected = case.log_prob(_where(t, case.indices[0]), t, case.indices[0], points).to(other)
        where = f"in {other}"
        actual = here.log_prob(where, t, case.indices[0], points.to(other))
        require_close("log_prob", actual, expected, 1e-3, where, f"what it is in {case.dtype}")


def _compare(name: str, actual: Tensor, expected: Tensor, where: str, what: str) -> None:
    require_close(name, actual, expected, math.sqrt(torch.finfo(actual.dtype).eps), where, what)


SPAN = 12.0


POINTS = {1: 1001, 2: 201}


WIDER = 1.3


@dataclass(frozen=True)
class Reference:
    """Points ``(points, dim)`` and weights ``(points,)`` of a sum for an integral."""

    z: Tensor
    weight: Tensor

    def mean(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Sum the weighted values over the points, and give the standard error if the points are random.

        Args:
            values: The values, of shape ``(points, n)``.

        Returns:
            The sums and their standard errors, each of shape ``(n,)``.
        """
        terms = self.weight.unsqueeze(-1) * values
        total = terms.sum(0)
        random = self.z.shape[-1] not in POINTS
        return total, terms.std(0) * len(terms) ** 0.5 if random else torch.zeros_like(total)


def reference_points(sample: Tensor) -> Reference:
    """Return the points of an integral over the density of a sample ``(draws, dim)``.

    They are a grid in one and two dimensions, and draws from a wider normal distribution in more.
    """
    dim, centre = sample.shape[-1], sample.mean(0)
    if dim in POINTS:
        spread = SPAN * sample.std(0)
        line = torch.linspace(-1, 1, POINTS[dim], dtype=sample.dtype, device=sample.device)
        grid = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
        cell = (spread * (line[1] - line[0])).prod()
        return Reference(centre + spread * grid, cell.expand(len(grid)))
    eye = torch.eye(dim, dtype=sample.dtype, device=sample.device)
    covariance = WIDER * sample.mT.cov() + 1e-6 * sample.var(0).mean() * eye
    proposal = MultivariateNormal(centre, covariance)
    z = proposal.sample(torch.Size((4 * len(sample),)))
    log_density: Tensor = proposal.log_prob(z)  # type: ignore[no-untyped-call]  # torch has no types for it
    return Reference(z, (-log_density).exp() / len(z))


def moments(z: Tensor) -> Tensor:
    """Return the coordinates, their squares and the square of their sum, of shape ``(points, 2 dim + 1)``."""
    return torch.cat([z, z.square(), z.sum(-1, keepdim=True).square()], dim=-1)
