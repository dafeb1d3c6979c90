"""Action, acceleration and the certificate of a flow: its distance from optimal transport."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentflow.calculus import Derivative, Field, JetRequest, Time, evaluate_jet
from latentflow.calculus.checks import (
    check_callable,
    check_count,
    check_generator,
    check_instance,
    check_points,
    check_positive,
    expand_time,
)
from latentflow.calculus.jets import outside_autocast
from latentflow.flow import Trajectory
from latentflow.transport.samples import device_of
from latentflow.transport.sinkhorn import Clouds, check_blur


def benamou_brenier_action(trajectory: Trajectory) -> Tensor:
    r"""Compute the kinetic action of a trajectory.

    .. math::
        K = \int_{t_0}^{t_T} E\,\tfrac12 |\nabla u|^2\,dt \;\ge\; \frac{W_2^2(q_{t_0}, q_{t_T})}{2\,|t_T - t_0|} ,

    with equality for optimal transport at constant speed only.

    Args:
        trajectory: The trajectory, in either direction of time.

    Returns:
        The action, averaged over the batch, of shape ``()``, in squared lengths per time.

    References:
        | A computational fluid mechanics solution to the Monge-Kantorovich mass transfer problem
          (Benamou, Brenier, 2000)
        | https://doi.org/10.1007/s002110050002

    Example:
        >>> from latentflow import PotentialFlow
        >>> trajectory = PotentialFlow(lambda z, t: 3 * z[..., 0]).rollout(torch.randn(5, 2), steps=2)
        >>> torch.testing.assert_close(benamou_brenier_action(trajectory), torch.tensor(9.0))  # W2^2 = 36, in time 2
    """
    check_instance("trajectory", trajectory, Trajectory, "a Trajectory")
    if trajectory.action.numel() == 0:
        raise ValueError(f"trajectory: expected samples, got points of shape {tuple(trajectory.z.shape)}")
    return trajectory.action[-1].abs().mean() / 2


@outside_autocast
def transport_defect(u: Field, z: Tensor, t: Time) -> Tensor:
    r"""Compute the squared acceleration of the flow.

    .. math::
        \Bigl|\frac{D v}{D t}\Bigr|^2 = |\partial_t \nabla u + \nabla^2 u\,\nabla u|^2
        = |\nabla_z(\partial_t u + \tfrac12 |\nabla u|^2)|^2 .

    It is zero where points move in straight lines at constant speed, as under optimal transport. A function of time
    added to ``u`` does not change it, unlike the Hamilton-Jacobi residual. It needs one Hessian-vector product.

    Args:
        u: The potential, or any callable ``u(z, t)``.
        z: The points, of shape ``(*batch, dim)``, such as ``trajectory.z``.
        t: The times: a number, ``()`` or ``(*batch,)``, such as ``trajectory.times[:, None]``.

    Returns:
        The squared acceleration, of shape ``(*batch,)``, in squared lengths per time to the fourth.

    Raises:
        TypeError: If ``z`` is not a floating-point tensor, or ``u`` does not return a tensor.
        ValueError: If ``t`` does not broadcast to ``(*batch,)``, or ``u`` does not return shape ``(*batch,)``.

    Example:
        >>> z = torch.randn(5, 2, dtype=torch.float64)
        >>> expanding = lambda z, t: z.square().sum(-1) / 2  # z(t) = z e^t, whose acceleration is z
        >>> torch.testing.assert_close(transport_defect(expanding, z, 0.0), z.square().sum(-1))
    """
    check_points(z)
    velocity = evaluate_jet(u, z, t, JetRequest()).gradient
    request = JetRequest(Derivative.PRODUCTS | Derivative.GRADIENT_TIME_DERIVATIVE, velocity.unsqueeze(-2))
    jet = evaluate_jet(u, z, t, request)
    return (jet.gradient_time_derivative + jet.products.squeeze(-2)).square().sum(-1)


MAX_COST_ENTRIES = 2**22
"""The largest number of entries of the cost matrix in memory."""


def c_transform(psi: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r"""Compute :math:`\psi^c(y_j) = \min_i (|x_i - y_j|^2 - \psi(x_i))`, ``(m,)``, from ``psi`` of shape ``(n,)``."""
    rows = max(1, MAX_COST_ENTRIES // len(x))
    parts = torch.split(y, rows)
    costs = (torch.cdist(part, x, compute_mode="donot_use_mm_for_euclid_dist").square() for part in parts)
    return torch.cat([(cost - psi).amin(-1) for cost in costs])


def dual_values(psi: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r"""Compute :math:`\psi^{cc}(x_i) + \psi^c(y_i) \le |x_i - y_i|^2`, ``(n,)``, whose mean is at most :math:`W_2^2`.

    The inequality holds for every function :math:`\psi`, and :math:`\psi^{cc} \ge \psi`.
    """
    transformed = c_transform(psi - psi.mean(), x, y)
    return c_transform(transformed, y, x) + transformed


def sinkhorn_values(x: Tensor, y: Tensor, blur: float, scaling: float) -> tuple[Tensor, Tensor]:
    r"""Estimate :math:`W_2^2` by the Sinkhorn divergence, and compute :func:`dual_values` of its potentials."""
    clouds = Clouds.build(x.unsqueeze(0), y.unsqueeze(0), None, None)
    f, g = clouds.potentials(blur, scaling, debias=True, stacklevel=5)
    shift, unit = (clouds.y_mean - clouds.x_mean)[0], 2 * clouds.size.square()
    estimate = shift.square().sum() + unit[0] * (f.mean() + g.mean())
    tilt = 2 * shift  # |x - y|^2 = |centered x - centered y|^2 + a function of x + a function of y
    starts = dual_values(unit * f[0] - x @ tilt, x, y)
    ends = dual_values(unit * g[0] + y @ tilt, y, x)
    return estimate, starts if starts.mean() >= ends.mean() else ends


@dataclass(frozen=True)
class Certificate:
    r"""The cost of a trajectory, and the cost of optimal transport between its start :math:`x_i` and end :math:`y_i`.

    For every flow, on the sample, and up to the error of the solver,

    .. math::
        \text{dual} \le \text{lower} \le W_2^2 \le \text{displacement} \le \text{cost} .

    Tensors have shape ``()`` and are in squared lengths, except for ``wasserstein`` and ``sinkhorn``, in lengths.

    Attributes:
        cost: :math:`(t_T - t_0) \int E |\nabla u|^2\,dt`.
        displacement: The mean of :math:`|y_i - x_i|^2`; equal to ``cost`` along straight lines at constant speed.
        wasserstein: :math:`W_2`: exact where ``dual`` reaches ``displacement``, otherwise ``sinkhorn`` within bounds.
        gap: ``cost`` - :math:`W_2^2`; zero for optimal transport.
        ratio: ``cost`` / :math:`W_2^2`; one for optimal transport, infinite where :math:`W_2 = 0` and points move.
        dual: The lower bound on :math:`W_2^2` by the potential; None without a potential.
        lower: The best lower bound known.
        sinkhorn: The Sinkhorn estimate of :math:`W_2`; None if it was not needed.
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
    trajectory: Trajectory,
    potential: Field | None = None,
    *,
    samples: int = 512,
    blur: float = 0.01,
    scaling: float = 0.95,
    level: float = 0.95,
    resamples: int = 1000,
    generator: torch.Generator | None = None,
) -> Certificate:
    r"""Certify how far the flow along a trajectory is from optimal transport.

    The cost of a flow is at least :math:`W_2^2` of its ends. For *any* function :math:`\psi`,

    .. math::
        \operatorname{mean}_i \psi(x_i) + \operatorname{mean}_j \min_i \bigl(|x_i - y_j|^2 - \psi(x_i)\bigr) \le W_2^2 .

    The choice :math:`\psi = -2 (t_T - t_0)\,u(\cdot, t_0)`, or its mirror image at the end, gives equality where ``u``
    solves the Hamilton-Jacobi equation. A function of time added to ``u`` does not change the bound.

    The intervals resample pairs with the potentials of the transport held fixed. They show the error of the sample, not
    the upward bias of :math:`W_2^2` on few points, which is zero where ``dual`` reaches ``displacement``.

    Args:
        trajectory: The trajectory of a flow, of any batch shape, in either direction of time.
        potential: The potential of the flow; None for no bound by duality.
        samples: The largest number of samples; a random part of more is drawn. Memory and time grow with its square.
        blur: See :func:`wasserstein2`; used where ``dual`` does not reach ``displacement``.
        scaling: See :func:`wasserstein2`.
        level: The level of the bootstrap intervals.
        resamples: The number of resamples.
        generator: The source of randomness.

    Returns:
        The certificate, without gradients, in the dtype of the trajectory; computed in float64 where the device has it.

    Raises:
        ValueError: If the trajectory has fewer than two times, no samples, or numbers that are not finite, or an
            argument is out of range.

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
    if not check_positive("level", level) < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")
    check_instance("trajectory", trajectory, Trajectory, "a Trajectory")
    if potential is not None:
        check_callable("potential", potential, "a callable u(z, t) or None")
    check_generator(generator)
    pairs = _Pairs.build(trajectory, samples, generator)
    moved = (pairs.end - pairs.start).square().sum(-1)
    displacement = moved.mean()
    values = [] if potential is None else _potential_values(potential, trajectory, pairs)
    best = max(values, key=lambda value: float(value.mean()), default=None)
    dual = None if best is None else best.mean()
    sinkhorn: Tensor | None = None
    if best is None or not _is_tight(best, moved, pairs):
        estimate, found = sinkhorn_values(pairs.start, pairs.end, blur, scaling)
        best = found if best is None or found.mean() > best.mean() else best
        squared = torch.minimum(torch.maximum(estimate, best.mean()), displacement).clamp(min=0.0)
        sinkhorn = estimate.clamp(min=0.0).sqrt()
    else:
        squared = displacement
    cost = pairs.cost.mean()
    gaps, ratios = _resample(pairs.cost, best, squared, resamples, generator)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=gaps.dtype, device=gaps.device)
    dtype = trajectory.z.dtype
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
    """The points at both ends of a trajectory and the cost of each, in the highest precision."""

    start: Tensor
    end: Tensor
    cost: Tensor
    elapsed: float
    index: Tensor

    @staticmethod
    def build(trajectory: Trajectory, samples: int, generator: torch.Generator | None) -> _Pairs:
        if len(trajectory.times) < 2:
            raise ValueError(f"trajectory: expected at least two times, got {len(trajectory.times)}")
        z, action = trajectory.z.detach(), trajectory.action.detach()[-1].reshape(-1)
        if len(action) == 0:
            raise ValueError(f"trajectory: expected samples, got points of shape {tuple(z.shape)}")
        best = torch.float32 if z.device.type == "mps" else torch.float64
        start, end = (z[i].reshape(-1, z.shape[-1]) for i in (0, -1))
        if len(action) > samples:
            index = torch.randperm(len(action), generator=generator, device=device_of(generator, z))[:samples].to(
                z.device
            )
        else:
            index = torch.arange(len(action), device=z.device)
        elapsed = float(trajectory.times[-1] - trajectory.times[0])
        pairs = _Pairs(start[index].to(best), end[index].to(best), elapsed * action[index].to(best), elapsed, index)
        if not all(torch.isfinite(part).all() for part in (pairs.start, pairs.end, pairs.cost)):
            raise ValueError("trajectory: expected finite points and actions, got others")
        return pairs


def _potential_values(potential: Field, trajectory: Trajectory, pairs: _Pairs) -> list[Tensor]:
    """Compute the dual values of the potential at the start and, mirrored, at the end."""

    def at(end: int) -> Tensor:
        z = trajectory.z[end].detach().reshape(-1, trajectory.z.shape[-1])[pairs.index]
        values = potential(z, expand_time(trajectory.times[end].detach(), z)).to(pairs.start)
        if values.shape != z.shape[:-1] or not torch.isfinite(values).all():
            raise ValueError(f"potential: expected finite values of shape {tuple(z.shape[:-1])}, got others")
        return 2 * pairs.elapsed * values

    return [dual_values(-at(0), pairs.start, pairs.end), dual_values(at(-1), pairs.end, pairs.start)]


def _is_tight(values: Tensor, moved: Tensor, pairs: _Pairs) -> bool:
    """Return whether a lower bound equals the upper bound, up to rounding."""
    scale = (pairs.start - pairs.start.mean(0)).square().sum(-1).amax() + moved.amax()
    return bool((moved - values).mean() <= 64 * torch.finfo(moved.dtype).eps * scale)


def _ratio(cost: Tensor, squared: Tensor) -> Tensor:
    """Compute the ratio: one where both are zero, infinite where only the distance is zero."""
    ratio = torch.where(squared > 0, cost / squared, torch.inf)
    return torch.where((squared <= 0) & (cost <= 0), 1.0, ratio)


def _resample(
    cost: Tensor, values: Tensor, squared: Tensor, resamples: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Compute gaps and ratios of resampled pairs, of shape ``(resamples,)`` each."""
    device = device_of(generator, cost)
    index = torch.randint(len(cost), (resamples, len(cost)), generator=generator, device=device).to(cost.device)
    costs, distances = cost[index].mean(-1), squared + (values - values.mean())[index].mean(-1)
    return costs - distances, _ratio(costs, distances)
