r"""How far a flow is from optimal transport, with bounds that hold for every flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentflow.calculus import Field, check_count, expand_time
from latentflow.flow import Path
from latentflow.transport.duality import dual_values, sinkhorn_values
from latentflow.transport.sinkhorn import check_blur


@dataclass(frozen=True)
class Certificate:
    r"""What a path costs, and what the optimal transport between the points at its ends costs.

    For the points :math:`x_i` at its start and :math:`y_i` at its end, and up to the error of the solver,

    .. math::
        \text{dual} \le \text{lower} \le W_2^2 \le \text{displacement} \le \text{cost} ,

    on the sample itself, for every flow. All but the distances ``wasserstein`` and ``sinkhorn`` are in squared lengths.

    Attributes:
        cost: :math:`(t_T - t_0) \int E |\nabla u|^2\,dt`, of shape ``()``.
        displacement: The mean of :math:`|y_i - x_i|^2`, of shape ``()``: ``cost`` exceeds it where points move along
            bent paths or change their speed, and it exceeds :math:`W_2^2` where other pairs would be cheaper.
        wasserstein: :math:`W_2` of the points at the two ends, of shape ``()``: Sinkhorn's estimate within its bounds,
            or the root of ``displacement`` where ``dual`` reaches that, which makes it exact.
        gap: ``cost`` - :math:`W_2^2`, of shape ``()``; zero for optimal transport.
        ratio: ``cost`` / :math:`W_2^2`, of shape ``()``; one for optimal transport and where nothing moves, infinite
            where points move and their distribution does not.
        dual: The lower bound on :math:`W_2^2` by the potential, of shape ``()``; None if there is no potential.
        lower: The best lower bound known, of shape ``()``.
        sinkhorn: Sinkhorn's own estimate of :math:`W_2`, of shape ``()``; None if it was not needed.
        gap_interval: A bootstrap interval of ``gap``, of shape ``(2,)``.
        ratio_interval: A bootstrap interval of ``ratio``, of shape ``(2,)``.
        level: The level of the intervals.
        samples: The number of samples used.
    """

    cost: Tensor
    displacement: Tensor
    wasserstein: Tensor
    gap: Tensor
    ratio: Tensor
    dual: Tensor | None
    lower: Tensor
    sinkhorn: Tensor | None
    gap_interval: Tensor
    ratio_interval: Tensor
    level: float
    samples: int


@torch.no_grad()
def transport_certificate(
    path: Path,
    potential: Field | None = None,
    *,
    samples: int = 512,
    blur: float = 0.01,
    scaling: float = 0.95,
    level: float = 0.95,
    resamples: int = 1000,
    generator: torch.Generator | None = None,
) -> Certificate:
    r"""Certify how far the flow along a path is from optimal transport.

    The cost of a flow is at least :math:`W_2^2` of its ends. The potential bounds that from below: for *any* function
    :math:`\psi`,

    .. math::
        \operatorname{mean}_i \psi(x_i) + \operatorname{mean}_j \min_i \bigl(|x_i - y_j|^2 - \psi(x_i)\bigr) \le W_2^2 ,

    and :math:`\psi = -2 (t_T - t_0)\,u(\cdot, t_0)`, or its mirror image at the end, gives equality where ``u`` solves
    the Hamilton-Jacobi equation. Then the sample's :math:`W_2^2` is known to rounding. Elsewhere the bound still holds.
    Where :math:`\partial_t u + \tfrac12 |\nabla u|^2 \le 0` on the hull of the points, it is at least
    :math:`2 (t_T - t_0) (E u(\cdot, t_T) - E u(\cdot, t_0))`, the bound of the fluid formulation, which needs that
    inequality and is not given for that reason. Nothing depends on what ``u`` gains as a function of time.

    The intervals resample pairs with the potentials of the transport held fixed. They show the error of the sample in
    the cost and in :math:`W_2^2`, not the upward bias of :math:`W_2^2` on few points, which is none where ``dual``
    reaches ``displacement``.

    Args:
        path: The path of a flow, of any batch shape, with at least two times, in either direction of time.
        potential: The potential of the flow, for the bound by duality; None to go without.
        samples: The most samples to use; of more, a random part is drawn. Memory and time grow with its square.
        blur: See :func:`wasserstein2`; used where ``dual`` does not reach ``displacement``.
        scaling: See :func:`wasserstein2`.
        level: The level of the bootstrap intervals.
        resamples: How often to resample.
        generator: The source of randomness, or None for torch's global one.

    Returns:
        The certificate, without gradients, computed in float64 where the device has it and given in the dtype of the
        path.

    Raises:
        ValueError: If the path has fewer than two times, no samples, or numbers that are not finite, or a number does
            not fit.

    References:
        | A computational fluid mechanics solution to the Monge-Kantorovich mass transfer problem
          (Benamou, Brenier, 2000)
        | https://doi.org/10.1007/s002110050002

    Example:
        >>> from latentflow import PotentialFlow, gaussian_transport_potential
        >>> m, S = torch.zeros(2, dtype=torch.float64), torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
        >>> u = gaussian_transport_potential(m, S, m + 1, torch.eye(2, dtype=torch.float64))
        >>> z = torch.distributions.MultivariateNormal(m, S).sample((100,))
        >>> certificate = transport_certificate(PotentialFlow(u).rollout(z, steps=4, dt=0.25), u)
        >>> torch.testing.assert_close(certificate.dual, certificate.cost)  # so it is optimal, on these samples
        >>> torch.testing.assert_close(certificate.ratio, torch.ones_like(certificate.ratio))
    """
    check_count("samples", samples)
    check_count("resamples", resamples)
    check_blur(blur, scaling)
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")
    pairs = _Pairs.of(path, samples, generator)
    moved = (pairs.end - pairs.start).square().sum(-1)
    displacement = moved.mean()
    values = [] if potential is None else _potential_values(potential, path, pairs)
    best = max(values, key=lambda value: float(value.mean()), default=None)
    dual = None if best is None else best.mean()
    sinkhorn: Tensor | None = None
    if best is None or not _reaches(best, moved, pairs):
        estimate, found = sinkhorn_values(pairs.start, pairs.end, blur, scaling)
        best = found if best is None or found.mean() > best.mean() else best
        squared = torch.minimum(torch.maximum(estimate, best.mean()), displacement).clamp(min=0.0)
        sinkhorn = estimate.clamp(min=0.0).sqrt()
    else:
        squared = displacement
    cost = pairs.cost.mean()
    gaps, ratios = _resample(pairs.cost, best, squared, resamples, generator)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=gaps.dtype, device=gaps.device)
    dtype = path.z.dtype
    return Certificate(
        cost=cost.to(dtype),
        displacement=displacement.to(dtype),
        wasserstein=squared.sqrt().to(dtype),
        gap=(cost - squared).to(dtype),
        ratio=_ratio(cost, squared).to(dtype),
        dual=None if dual is None else dual.to(dtype),
        lower=best.mean().clamp(min=0.0).to(dtype),
        sinkhorn=None if sinkhorn is None else sinkhorn.to(dtype),
        gap_interval=gaps.quantile(tails).to(dtype),
        ratio_interval=ratios.quantile(tails, interpolation="nearest").to(dtype),
        level=level,
        samples=len(moved),
    )


@dataclass(frozen=True)
class _Pairs:
    """The points at both ends of a path, in the best precision, and what each one cost."""

    start: Tensor
    end: Tensor
    cost: Tensor
    elapsed: float
    index: Tensor

    @staticmethod
    def of(path: Path, samples: int, generator: torch.Generator | None) -> _Pairs:
        if len(path.times) < 2:
            raise ValueError(f"path: expected at least two times, got {len(path.times)}")
        z, action = path.z.detach(), path.action.detach()[-1].reshape(-1)
        if len(action) == 0:
            raise ValueError(f"path: expected samples, got points of shape {tuple(z.shape)}")
        best = torch.float32 if z.device.type == "mps" else torch.float64
        start, end = (z[i].reshape(-1, z.shape[-1]) for i in (0, -1))
        if len(action) > samples:
            index = torch.randperm(len(action), generator=generator, device=_device(generator, z))[:samples].to(
                z.device
            )
        else:
            index = torch.arange(len(action), device=z.device)
        elapsed = float(path.times[-1] - path.times[0])
        pairs = _Pairs(start[index].to(best), end[index].to(best), elapsed * action[index].to(best), elapsed, index)
        if not all(torch.isfinite(part).all() for part in (pairs.start, pairs.end, pairs.cost)):
            raise ValueError("path: expected finite points and actions, got others")
        return pairs


def _potential_values(potential: Field, path: Path, pairs: _Pairs) -> list[Tensor]:
    """The dual values by the potential at the start and, mirrored, at the end."""

    def at(end: int) -> Tensor:
        z = path.z[end].detach().reshape(-1, path.z.shape[-1])[pairs.index]
        values = potential(z, expand_time(path.times[end].detach(), z)).to(pairs.start)
        if values.shape != z.shape[:-1] or not torch.isfinite(values).all():
            raise ValueError(f"potential: expected finite values of shape {tuple(z.shape[:-1])}, got others")
        return 2 * pairs.elapsed * values

    return [dual_values(-at(0), pairs.start, pairs.end), dual_values(at(-1), pairs.end, pairs.start)]


def _reaches(values: Tensor, moved: Tensor, pairs: _Pairs) -> bool:
    """Whether a lower bound is the upper one, up to rounding of the numbers that it is made of."""
    scale = (pairs.start - pairs.start.mean(0)).square().sum(-1).amax() + moved.amax()
    return bool((moved - values).mean() <= 64 * torch.finfo(moved.dtype).eps * scale)


def _ratio(cost: Tensor, squared: Tensor) -> Tensor:
    """The ratio, one where both are zero and infinite where only the distance is."""
    ratio = torch.where(squared > 0, cost / squared, torch.inf)
    return torch.where((squared <= 0) & (cost <= 0), 1.0, ratio)


def _resample(
    cost: Tensor, values: Tensor, squared: Tensor, resamples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Gaps and ratios of resampled pairs, of shape ``(resamples,)`` each."""
    device = _device(generator, cost)
    index = torch.randint(len(cost), (resamples, len(cost)), generator=generator, device=device).to(cost.device)
    costs, distances = cost[index].mean(-1), squared + (values - values.mean())[index].mean(-1)
    return costs - distances, _ratio(costs, distances)


def _device(generator: torch.Generator | None, like: Tensor) -> torch.device:
    return like.device if generator is None else generator.device
