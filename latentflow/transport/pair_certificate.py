r"""The certificate of a pair: a bracket around the distance of two distributions from one potential."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeAlias

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from latentflow.calculus import Derivative, Field, JetRequest, evaluate_jet
from latentflow.calculus.checks import check_count, check_generator, check_methods, check_positive, check_tensor
from latentflow.flow import LBFGS, RootSearch
from latentflow.potentials.algebra import as_module
from latentflow.transport.dual import CANDIDATES, MAX_ENTRIES, height, lowest
from latentflow.transport.samples import Samples, device_of, take

Interval: TypeAlias = tuple[float, float]
"""The ends of an interval."""

BATCHES, BATCH = 8, 1024
"""How many batches are assigned, and the largest size of one."""

MARGIN = 0.05
"""The share of the excess that the upper end keeps: the excess is that of other pairs of samples, and some hundredths
of it were seen to be missing."""


@dataclass(frozen=True)
class PairCertificate:
    r"""A bracket around :math:`W_2^2(P, Q)` from a potential :math:`u`; all costs are in squared lengths.

    Attributes:
        lower: The lower end of the bracket: that of ``dual_interval``, at least 0.
        upper: The upper end of the bracket: the larger one of ``primal`` and ``dual`` + ``gap`` + a twentieth of the
            excess, at the upper end of its interval, and at most ``upper_bound``.
        upper_bound: The upper end of the interval of the mean :math:`W_2^2` between batches of up to 1,024 samples. The
            mean is at least :math:`W_2^2(P, Q)` whatever the potential, and far above it where coordinates are many.
        dual: :math:`2 (E_Q\,u(y, 1) - E_P\,u(x))`, at most :math:`W_2^2` for any potential.
        dual_interval: Its bootstrap interval.
        gap: The estimate of :math:`W_2^2` - ``dual``, which may come out below zero.
        gap_interval: Its bootstrap interval.
        primal: :math:`E_P |\nabla u(x)|^2`, the cost of the map.
        primal_interval: Its bootstrap interval.
        end_distance: The estimate of :math:`W_2^2(T_\# P, Q)`, how far the end of the map is from the target.
        end_interval: Its bootstrap interval.
        smallest_eigenvalue: The smallest eigenvalue of :math:`I + \nabla^2 u` at up to 4,096 samples; the map is a
            gradient of a convex function only if it is positive everywhere.
        not_found: The share of points of the target whose minimum was not found; above zero, ``dual`` may be too large.
        level: The level of the intervals.
        samples: The smaller number of samples of both sides.
    """

    lower: float
    upper: float
    upper_bound: float
    dual: float
    dual_interval: Interval
    gap: float
    gap_interval: Interval
    primal: float
    primal_interval: Interval
    end_distance: float
    end_interval: Interval
    smallest_eigenvalue: float
    not_found: float
    level: float
    samples: int

    @property
    def width(self) -> float:
        """The width of the bracket relative to its middle."""
        return 2 * (self.upper - self.lower) / (self.upper + self.lower) if self.upper > 0 else 0.0


@torch.no_grad()
def pair_certificate(
    potential: Field,
    source: Samples,
    target: Samples,
    *,
    samples: int = 2**15,
    level: float = 0.95,
    resamples: int = 1000,
    search: RootSearch = LBFGS(max_iterations=60, tolerance=1e-4, shrink=True),  # noqa: B008 - frozen
    generator: torch.Generator | None = None,
) -> PairCertificate:
    r"""Bracket the distance of two distributions, whose samples the potential was not trained on.

    For every function :math:`u`, with :math:`u(y, 1) = \min_x (u(x) + \tfrac12 |x - y|^2)`,

    .. math::
        W_2^2(P, Q) = \underbrace{2 \bigl(E_Q\,u(y, 1) - E_P\,u(x)\bigr)}_{\text{dual}}
        + \underbrace{\min_\pi E_\pi\, 2 c(x, y)}_{\text{gap}} , \qquad
        c(x, y) = \tfrac12 |x - y|^2 + u(x) - u(y, 1) \ge 0 ,

    over the couplings :math:`\pi` of both. The dual is a mean over samples. The gap between samples, by exact
    assignment, is in the mean larger than between the distributions, since the mean of couplings of samples is a
    coupling of the distributions. That excess is measured where the gap is known to be zero: between :math:`P` and
    :math:`T_\# P`, and between the minima of the points of :math:`Q` and :math:`Q`. The smaller one is subtracted. The
    means are over 8 batches of up to 1,024 points, and the distance of the end of the map from the target is estimated
    in the same way.

    The lower end is a bound, up to its interval, if every minimum was found: each is searched for twice, from :math:`y`
    and from the best of 2,048 points of the source, and the lower one counts. The upper end is an estimate. The cost of
    the map is an upper bound where its end is the target. The gap takes the excess between :math:`P` and :math:`Q` to
    be no smaller than between the other two pairs, which need not be so: a part of what the potential has left out is
    averaged away over the distance of samples. So a twentieth of the excess is left in; some hundredths of it were
    seen to be missing. The larger of both counts. ``upper_bound`` takes no excess off, and needs no assumption but its
    interval.

    Args:
        potential: The potential :math:`u`, evaluated at time 0.
        source: Samples of the source, a tensor ``(n, dim)`` or a callable; see :func:`fit_transport`.
        target: Samples of the target.
        samples: The largest number of samples of each side.
        level: The level of the intervals.
        resamples: The number of resamples.
        search: The search for minima, in the dtype of the samples, in float32 at least. The error of a value falls with
            the square of the relative tolerance.
        generator: The source of randomness.

    Returns:
        The certificate, computed in float64.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If a shape or a number does not fit.

    References:
        | Optimal Transport: Old and New (Villani, 2009), theorem 5.10
        | https://doi.org/10.1007/978-3-540-71050-9

    Example:
        >>> from latentflow import gaussian_transport_potential
        >>> _ = torch.manual_seed(0)  # an interval at 95 % misses one time in twenty
        >>> m, S = torch.zeros(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])
        >>> u = gaussian_transport_potential(m, S, m + 1, torch.eye(2))
        >>> x = torch.distributions.MultivariateNormal(m, S).sample((4000,))
        >>> found = pair_certificate(u, x, torch.randn(4000, 2) + 1)
        >>> assert found.lower < 2.2 < found.upper  # W2^2 is 2.174
    """
    check_count("samples", samples)
    check_count("resamples", resamples)
    if not check_positive("level", level) < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")
    check_methods("search", search, ("search",), "LBFGS(), Newton() or another RootSearch")
    check_generator(generator)
    x, y = (take(*side, samples, generator) for side in (("source", source), ("target", target)))
    check_tensor("target", y, ("n", x.shape[-1]), like=x)
    searched = torch.promote_types(x.dtype, torch.float32)
    u, x, y = copy.deepcopy(as_module(potential, "potential")).to(searched), x.to(searched), y.to(searched)
    ends = lowest(u, y, search, x[:CANDIDATES])
    u, x, y, back = u.double(), x.double(), y.double(), ends.x.double()
    jet = evaluate_jet(u, x, 0.0, JetRequest())
    starts, image = jet.value, x + jet.gradient
    values = height(u, back, y)
    batches = _Batches.split(x, y, image, back, starts, values)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=x.dtype, device=x.device)

    def interval(resampled: Tensor) -> Interval:
        low, high = resampled.quantile(tails).tolist()
        return low, high

    means = [_resampled_means(part, resamples, generator) for part in (starts, values)]
    duals = 2 * (means[1] - means[0])
    resampled = _resampled_means(torch.cat([batches.gaps, batches.between.unsqueeze(-1)], -1), resamples, generator)
    gaps, between = resampled[:, :2].amax(-1), resampled[:, 2]
    largest_gaps = torch.lerp(gaps.clamp(min=0.0), between, MARGIN)
    cost = (image - x).square().sum(-1)
    primals = _resampled_means(cost, resamples, generator)
    dual_interval = interval(duals)
    upper_bound = interval(duals + between)[1]
    return PairCertificate(
        lower=max(dual_interval[0], 0.0),
        upper=min(interval(torch.maximum(duals + largest_gaps, primals))[1], upper_bound),
        upper_bound=upper_bound,
        dual=float(2 * (values.mean() - starts.mean())),
        dual_interval=dual_interval,
        gap=float(batches.gaps.mean(0).max()),
        gap_interval=interval(gaps),
        primal=float(cost.mean()),
        primal_interval=interval(primals),
        end_distance=float(batches.end_distance.mean()),
        end_interval=interval(_resampled_means(batches.end_distance, resamples, generator)),
        smallest_eigenvalue=smallest_eigenvalue(u, x),
        not_found=1 - float(ends.found.double().mean()),
        level=level,
        samples=min(len(x), len(y)),
    )


def smallest_eigenvalue(u: Field, x: Tensor) -> float:
    r"""Compute the smallest eigenvalue of :math:`I + \nabla^2 u` at up to 4,096 points, fewer of large matrices."""
    points = x[: min(4096, max(1, MAX_ENTRIES // x.shape[-1] ** 2))]
    hessian = evaluate_jet(u, points, 0.0, JetRequest(Derivative.HESSIAN)).hessian
    return 1 + float(torch.linalg.eigvalsh(hessian).min())


@dataclass(frozen=True)
class _Batches:
    """What was assigned in each batch.

    Attributes:
        between: The gap between the samples, of shape ``(batches,)``.
        gaps: Both estimates of the gap between the distributions, of shape ``(batches, 2)``.
        end_distance: The distance of the end of the map from the target, without the excess, of shape ``(batches,)``.
    """

    between: Tensor
    gaps: Tensor
    end_distance: Tensor

    @staticmethod
    def split(x: Tensor, y: Tensor, image: Tensor, back: Tensor, starts: Tensor, values: Tensor) -> _Batches:
        """Assign batches of the samples, with the images of ``x`` and the minima ``back`` of ``y``."""
        size = min(BATCH, len(x) // (2 * BATCHES), len(y) // (2 * BATCHES))
        # the potential where the map leads, and at the minima, if those are the lowest
        arrived = starts + (image - x).square().sum(-1) / 2
        departed = values - (back - y).square().sum(-1) / 2
        between, gaps, ends = [], [], []
        for i in range(BATCHES):
            own, other = (slice(k * size, (k + 1) * size) for k in (i, BATCHES + i))
            gap = _assigned(_costs(x[own], y[own], starts[own], values[own]))
            forth = _assigned(_costs(x[own], image[other], starts[own], arrived[other]))
            across = _assigned(_costs(back[other], y[own], departed[other], values[own]))
            gaps.append(torch.stack([gap - forth, gap - across]))
            between.append(gap)
            end = _assigned(torch.cdist(image[own], y[own]).square())
            ends.append(end - _assigned(torch.cdist(image[own], image[other]).square()))
        return _Batches(torch.stack(between), torch.stack(gaps), torch.stack(ends))


def _costs(x: Tensor, y: Tensor, starts: Tensor, values: Tensor) -> Tensor:
    """Compute the costs :math:`2 c(x, y)` of all pairs."""
    return torch.cdist(x, y).square() + 2 * (starts.unsqueeze(-1) - values)


def _assigned(costs: Tensor) -> Tensor:
    """Compute the mean cost of the best assignment."""
    rows, columns = linear_sum_assignment(costs.cpu().numpy())
    return costs[torch.from_numpy(rows), torch.from_numpy(columns)].mean()


def _resampled_means(values: Tensor, resamples: int, generator: torch.Generator | None) -> Tensor:
    """Compute the means of resamples of ``(n, *rest)`` values, of shape ``(resamples, *rest)``."""
    device = device_of(generator, values)
    rows = max(1, MAX_ENTRIES // len(values))
    counts = [min(rows, resamples - i) for i in range(0, resamples, rows)]
    parts = (torch.randint(len(values), (count, len(values)), generator=generator, device=device) for count in counts)
    return torch.cat([values[index.to(values.device)].mean(1) for index in parts])
