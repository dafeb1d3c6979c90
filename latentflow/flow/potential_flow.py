r"""The flow along the gradient of a potential."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentflow.calculus import Field, JetRequest, Time, check_points, evaluate_jet
from latentflow.flow.fold import OnFold, report_fold
from latentflow.flow.path import Path
from latentflow.flow.volume import SlogDet, Volume, VolumeChange
from latentflow.potentials.algebra import as_module


@dataclass(frozen=True)
class Step:
    r"""One discrete step.

    Attributes:
        z: The point after the step, of shape ``(*batch, dim)``.
        action: :math:`h |\nabla u|^2`, of shape ``(*batch,)``.
        volume: The change of volume, or None if it was not asked for.
    """

    z: Tensor
    action: Tensor
    volume: VolumeChange | None


class PotentialFlow(nn.Module):
    r"""The latent flow :math:`\dot z = \nabla_z u(z, t)` along a potential.

    It transports a density by :math:`\partial_t q = -\operatorname{div}(q \nabla u)`. The discrete flow is Euler's
    scheme :math:`z_{n+1} = z_n + h \nabla u(z_n, t_n)` with :math:`t_n = t_0 + n h` and

    .. math::
        \log q_{n+1}(z_{n+1}) = \log q_n(z_n) - \log|\det(I + h \nabla^2 u(z_n, t_n))| .

    One derivative pass gives the velocity and the volume of a step.

    Args:
        potential: The field ``u``: a :class:`Potential` or any callable ``u(z, t)``.
        on_fold: What to do where a step is not invertible: ``"raise"``, ``"warn"`` or ``"ignore"``. None means
            ``"warn"`` in training mode and ``"raise"`` in evaluation mode.

    References:
        | Flow Factorized Representation Learning (Song et al., 2023)
        | https://arxiv.org/abs/2309.13167

    Example:
        >>> from latentflow import QuadraticPotential
        >>> flow = PotentialFlow(QuadraticPotential(2, matrix=torch.diag(torch.tensor([1.0, -0.5]))))
        >>> path = flow.rollout(torch.ones(4, 2), steps=3)
        >>> torch.testing.assert_close(path.z[-1], torch.tensor([8.0, 0.125]).expand(4, 2))
        >>> torch.testing.assert_close(path.log_det[-1], torch.zeros(4))
    """

    def __init__(self, potential: Field, on_fold: OnFold | None = None) -> None:
        super().__init__()
        if not callable(potential):
            raise TypeError(f"potential: expected a callable u(z, t), got {type(potential).__name__}")
        self.potential = as_module(potential)
        self.on_fold = on_fold

    def velocity(self, z: Tensor, t: Time) -> Tensor:
        r"""Compute the velocity :math:`\nabla_z u(z, t)`.

        Args:
            z: The points, of shape ``(*batch, dim)``.
            t: The times: a number, ``()`` or ``(*batch,)``.

        Returns:
            The velocity, of shape ``(*batch, dim)``.
        """
        return evaluate_jet(self.potential, z, t, JetRequest()).gradient

    def step(self, z: Tensor, t: Time, dt: float = 1.0, volume: Volume | None = None) -> Step:
        r"""Make one step :math:`z + h \nabla u(z, t)`.

        Args:
            z: The points, of shape ``(*batch, dim)``.
            t: The times before the step: a number, ``()`` or ``(*batch,)``.
            dt: The length :math:`h` of the step, of either sign.
            volume: How to compute the change of volume, or None to leave it out.

        Returns:
            The step. It is not checked for folds; ``step.volume`` says where they are.
        """
        request = JetRequest() if volume is None else volume.request(z)
        jet = evaluate_jet(self.potential, z, t, request)
        action = dt * jet.gradient.square().sum(-1)
        return Step(z + dt * jet.gradient, action, None if volume is None else volume.change(jet, dt))

    def rollout(
        self,
        z0: Tensor,
        steps: int = 8,
        start: float = 0.0,
        dt: float = 1.0,
        volume: Volume | None = SlogDet(),  # noqa: B008 - frozen
    ) -> Path:
        r"""Follow the discrete flow from ``z0``.

        Args:
            z0: The points to start from, of shape ``(*batch, dim)``.
            steps: The number ``T`` of steps, zero or more.
            start: The time :math:`t_0` of ``z0``.
            dt: The length of a step.
            volume: ``SlogDet()`` (exact), ``FirstOrder()`` (the paper's surrogate), or None to leave it out.

        Returns:
            The path, with ``T+1`` points.

        Raises:
            TypeError: If ``z0`` is not a floating-point tensor.
            ValueError: If ``steps`` is negative or not an integer, or a shape does not fit.
            FloatingPointError: If the path leaves the finite numbers, in which case the message names the step and the
                samples, or if a volume is NaN.
            FoldError: If a step is not invertible and the policy is ``"raise"``.
        """
        check_points(z0)
        if not isinstance(steps, int) or steps < 0:
            raise ValueError(f"steps: expected an integer of at least 0, got {steps!r}")
        times = start + dt * torch.arange(steps + 1, dtype=torch.float64)
        made: list[Step] = []
        z = z0
        for time in times[:-1].tolist():
            made.append(self.step(z, time, dt, volume))
            z = made[-1].z
        points = torch.stack([z0, *(step.z for step in made)])
        _check_finite(points, times)
        start_value = torch.zeros_like(points[0, ..., 0])
        action = _accumulate(start_value, [step.action for step in made])
        times = times.to(z0)
        if volume is None:
            return Path(times, points, None, action)
        changes = [step.volume for step in made if step.volume is not None]
        log_det = _accumulate(start_value, [change.log_det for change in changes])
        if not changes:
            return Path(times, points, log_det, action)
        if log_det.isnan().any():
            raise FloatingPointError("log_det: expected numbers, got NaN; the second derivatives of u are not finite")
        folded = torch.stack([change.folded for change in changes])
        report_fold(folded, times, self.on_fold or ("warn" if self.training else "raise"))
        sign = torch.stack([change.sign for change in changes])
        known = [change.smallest_eigenvalue for change in changes if change.smallest_eigenvalue is not None]
        smallest = torch.stack(known) if len(known) == len(changes) else None
        return Path(times, points, log_det, action, sign, folded, smallest)


def _accumulate(start: Tensor, increments: list[Tensor]) -> Tensor:
    return torch.stack([start, *increments]).cumsum(0)


def _check_finite(points: Tensor, times: Tensor) -> None:
    if torch.isfinite(points).all():
        return
    bad = ~torch.isfinite(points).all(-1).reshape(len(points), -1)
    step = int(bad.any(1).nonzero()[0])
    samples = bad[step].nonzero().flatten().tolist()
    shown = ", ".join(map(str, samples[:5])) + (", ..." if len(samples) > 5 else "")
    where = "z0: expected finite points, got others" if step == 0 else f"the path is not finite after step {step}"
    remedy = "" if step == 0 else "; use smaller steps or a smoother potential"
    raise FloatingPointError(
        f"{where} (t = {float(times[step]):g}) for {len(samples)} of {bad.shape[1]} samples (numbers {shown}){remedy}"
    )
