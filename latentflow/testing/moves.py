r"""Paths and volumes from the velocity of a flow alone."""

from __future__ import annotations

import torch
from torch import Tensor

from latentflow.flow import PotentialFlow
from latentflow.testing.reference import derivative

START, STEPS, DT = 0.125, 3, 0.25
TIMES = [START + n * DT for n in range(STEPS + 1)]
SUBSTEPS = 4


def euler(flow: PotentialFlow, z: Tensor) -> tuple[Tensor, Tensor]:
    """Make the steps with the velocity alone."""
    points, action = [z], [z.new_zeros(z.shape[:-1])]
    for t in TIMES[:-1]:
        velocity = flow.velocity(points[-1], t)
        points.append(points[-1] + DT * velocity)
        action.append(action[-1] + DT * velocity.square().sum(-1))
    return torch.stack(points), torch.stack(action)


def runge_kutta(flow: PotentialFlow, z: Tensor) -> tuple[Tensor, Tensor]:
    """Solve the equation of the velocity with many small steps."""
    points, action, h = [z], [z.new_zeros(z.shape[:-1])], DT / SUBSTEPS
    for start in TIMES[:-1]:
        here, spent = points[-1], action[-1]
        for i in range(SUBSTEPS):
            t = start + i * h
            one = flow.velocity(here, t)
            two = flow.velocity(here + h / 2 * one, t + h / 2)
            three = flow.velocity(here + h / 2 * two, t + h / 2)
            four = flow.velocity(here + h * three, t + h)
            here = here + h / 6 * (one + 2 * two + 2 * three + four)
            squares = [v.square().sum(-1) for v in (one, two, three, four)]
            spent = spent + h / 6 * (squares[0] + 2 * squares[1] + 2 * squares[2] + squares[3])
        points.append(here)
        action.append(spent)
    return torch.stack(points), torch.stack(action)


def volumes_of(points: Tensor, z: Tensor) -> Tensor:
    """Give the log-determinants of points ``(T+1, *batch, dim)`` as functions of the start, by reverse mode."""
    volumes = []
    for point in points:
        rows = [derivative(point[..., i], z) for i in range(z.shape[-1])]
        volumes.append(torch.linalg.slogdet(torch.stack(rows, -2)).logabsdet)
    return torch.stack(volumes)
