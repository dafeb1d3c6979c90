"""Action, acceleration and the certificate of a flow: its distance from optimal transport."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentflow.calculus import (
    Field,
    JetRequest,
    Time,
    check_count,
    check_points,
    evaluate_jet,
    expand_time,
    outside_autocast,
)
from latentflow.flow import Path
from latentflow.transport.wasserstein import Clouds, check_blur


def benamou_brenier_action(path: Path) -> Tensor:
    r"""Compute the kinetic action of a path.

    .. math::
        K = \int_{t_0}^{t_T} E\,\tfrac12 |\nabla u|^2\,dt \;\ge\; \frac{W_2^2(q_{t_0}, q_{t_T})}{2\,|t_T - t_0|} ,

    with equality for the optimal transport at constant speed, and no other flow. Mind the factor: over a unit of time
    the least action is half of :math:`W_2^2`.

    Args:
        path: The path, in either direction of time.

    Returns:
        The action, averaged over the batch, of shape ``()``, in squared lengths per time.

    References:
        | A computational fluid mechanics solution to the Monge-Kantorovich mass transfer problem
          (Benamou, Brenier, 2000)
        | https://doi.org/10.1007/s002110050002

    Example:
        >>> import torch
        >>> from latentflow import PotentialFlow
        >>> path = PotentialFlow(lambda z, t: 3 * z[..., 0]).rollout(torch.randn(5, 2), steps=2)
        >>> torch.testing.assert_close(benamou_brenier_action(path), torch.tensor(9.0))  # W2^2 = 36, in time 2
    """
    return path.action[-1].abs().mean() / 2


@outside_autocast
def transport_defect(u: Field, z: Tensor, t: Time) -> Tensor:
    r"""Compute the squared acceleration of the flow.

    .. math::
        \Bigl|\frac{D v}{D t}\Bigr|^2 = |\partial_t \nabla u + \nabla^2 u\,\nabla u|^2
        = |\nabla_z(\partial_t u + \tfrac12 |\nabla u|^2)|^2 .

    It is zero where points move in straight lines at constant speed, as they do under optimal transport. Unlike the
    Hamilton-Jacobi residual it does not change where ``u`` gains a function of time, which moves nothing. The Hessian
    is met in one product only.

    Args:
        u: The potential, or any callable ``u(z, t)``.
        z: The points, of shape ``(*batch, dim)``; for a path, ``path.z``.
        t: The times: a number, ``()`` or ``(*batch,)``; for a path of a batch ``(n,)``, ``path.times[:, None]``.

    Returns:
        The squared acceleration, of shape ``(*batch,)``, in squared lengths per time to the fourth.

    Raises:
        TypeError: If ``z`` is not a floating-point tensor, or ``u`` does not return a tensor.
        ValueError: If ``t`` does not broadcast to ``(*batch,)``, or ``u`` does not return shape ``(*batch,)``.

    Example:
        >>> import torch
        >>> z = torch.randn(5, 2, dtype=torch.float64)
        >>> expanding = lambda z, t: z.square().sum(-1) / 2  # z(t) = z e^t, whose acceleration is z
        >>> torch.testing.assert_close(transport_defect(expanding, z, 0.0), z.square().sum(-1))
    """
    check_points(z)
    velocity = evaluate_jet(u, z, t, JetRequest()).gradient
    request = JetRequest(probes=velocity.unsqueeze(-2), products=True, gradient_time_derivative=True)
    jet = evaluate_jet(u, z, t, request)
    if jet.products is None or jet.gradient_time_derivative is None:
        raise ValueError("u: expected its jet_rule to return the products and gradient_time_derivative, got None")
    return (jet.gradient_time_derivative + jet.products.squeeze(-2)).square().sum(-1)


ENTRIES = 2**22
"""How many entries of the cost matrix are held at a time."""


def c_transform(psi: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r"""Compute :math:`\psi^c(y_j) = \min_i (|x_i - y_j|^2 - \psi(x_i))`.

    Args:
        psi: One value for each point of ``x``, of shape ``(n,)``.
        x: The points that have values, of shape ``(n, dim)``.
        y: The points that get values, of shape ``(m, dim)``.

    Returns:
        The values, of shape ``(m,)``.
    """
    rows = max(1, ENTRIES // len(x))
    parts = torch.split(y, rows)
    costs = (torch.cdist(part, x, compute_mode="donot_use_mm_for_euclid_dist").square() for part in parts)
    return torch.cat([(cost - psi).amin(-1) for cost in costs])


def dual_values(psi: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r"""Turn any function on the points of ``x`` into a lower bound on :math:`W_2^2` of two clouds of paired points.

    By duality :math:`\operatorname{mean}_i \psi(x_i) + \operatorname{mean}_j \psi^c(y_j) \le W_2^2`, whatever the
    function. Transforming back, which replaces :math:`\psi` by :math:`\psi^{cc} \ge \psi`, can only raise it.

    Args:
        psi: One value for each point of ``x``, of shape ``(n,)``; a constant does not matter.
        x: The one cloud, of shape ``(n, dim)``.
        y: Its partners, of shape ``(n, dim)``.

    Returns:
        The values :math:`\psi^{cc}(x_i) + \psi^c(y_i) \le |x_i - y_i|^2`, of shape ``(n,)``; their mean is the bound.
    """
    transformed = c_transform(psi - psi.mean(), x, y)
    return c_transform(transformed, y, x) + transformed


def sinkhorn_values(x: Tensor, y: Tensor, blur: float, scaling: float) -> tuple[Tensor, Tensor]:
    r"""Estimate :math:`W_2^2` by the debiased Sinkhorn divergence, and bound it from below by its potentials.

    Args:
        x: The one cloud, of shape ``(n, dim)``.
        y: Its partners, of shape ``(n, dim)``.
        blur: See :func:`wasserstein2`.
        scaling: See :func:`wasserstein2`.

    Returns:
        The estimate, of shape ``()``, and the values of :func:`dual_values`, of shape ``(n,)``.
    """
    clouds = Clouds.of(x.unsqueeze(0), y.unsqueeze(0), None, None)
    f, g = clouds.potentials(blur, scaling, debias=True)
    shift, unit = (clouds.y_mean - clouds.x_mean)[0], 2 * clouds.size.square()
    estimate = shift.square().sum() + unit[0] * (f.mean() + g.mean())
    tilt = 2 * shift  # |x - y|^2 of the points is that of the centred ones plus what x and y add each for itself
    starts = dual_values(unit * f[0] - x @ tilt, x, y)
    ends = dual_values(unit * g[0] + y @ tilt, y, x)
    return estimate, starts if starts.mean() >= ends.mean() else ends


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
