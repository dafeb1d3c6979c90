"""The densities of zuko and torchcfm for tabular.py; this file alone needs them."""

from __future__ import annotations

import torch
import zuko
from torch import Tensor, nn
from torch.func import jacrev, vmap
from torchcfm import ExactOptimalTransportConditionalFlowMatcher
from torchdiffeq import odeint


class ZukoDensity:
    """A flow of zuko, trained by maximum likelihood."""

    def __init__(self, flow: zuko.flows.Flow) -> None:
        self.module = flow

    def loss(self, z: Tensor) -> Tensor:
        """Compute the negative log-likelihood."""
        return -self.module().log_prob(z).mean()

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute the log-density."""
        with torch.no_grad():
            return self.module().log_prob(z)


class ContinuousZukoDensity(ZukoDensity):
    """A continuous flow of zuko, which trains like ours: with a random probe and a loose solver."""

    def loss(self, z: Tensor) -> Tensor:
        """Compute an estimate of the negative log-likelihood."""
        self._solve(exact=False, tolerance=1e-3)
        return super().loss(z)

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute the log-density with the exact divergence."""
        self._solve(exact=True, tolerance=1e-6)
        return super().log_prob(z)

    def _solve(self, *, exact: bool, tolerance: float) -> None:
        transform = self.module.transform
        transform.exact, transform.rtol, transform.atol = exact, tolerance, tolerance


class Velocity(nn.Module):
    """A network for the velocity at a point and a time."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(dim + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, dim)
        )

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Evaluate at ``t`` of shape ``(*batch,)`` and ``z`` of shape ``(*batch, dim)``."""
        return self.net(torch.cat([z, t.unsqueeze(-1)], dim=-1))


class FlowMatchingDensity:
    """A velocity trained by torchcfm's flow matching with optimal transport in each batch.

    It never solves an equation while it trains. Its likelihood does, with the trace of the Jacobian.
    """

    def __init__(self, dim: int, width: int) -> None:
        self.module = Velocity(dim, width)
        self.matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)

    def loss(self, z: Tensor) -> Tensor:
        """Compare the velocity with that of straight lines from noise to data."""
        t, between, target = self.matcher.sample_location_and_conditional_flow(torch.randn_like(z), z)
        return (self.module(t, between) - target).square().sum(-1).mean()

    def log_prob(self, z: Tensor) -> Tensor:
        """Integrate back to the base with the exact divergence."""

        def rates(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            points = state[0]
            jacobian = vmap(jacrev(lambda point: self.module(t, point)))(points)
            velocity = self.module(t.expand(len(points)), points)
            return velocity, jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)

        with torch.no_grad():
            times = torch.tensor([1.0, 0.0], dtype=z.dtype)
            start = (z, torch.zeros(len(z), dtype=z.dtype))
            points, log_det = (part[-1] for part in odeint(rates, start, times, rtol=1e-6, atol=1e-6))
            normal = torch.distributions.Normal(torch.zeros((), dtype=z.dtype), torch.ones((), dtype=z.dtype))
            return normal.log_prob(points).sum(-1) + log_det


def build_other(method: str, dim: int) -> ZukoDensity | FlowMatchingDensity:
    """Make the density of a method, of about as many weights as ours.

    Args:
        method: ``"cnf"``, ``"nsf"`` or ``"ot-cfm"``.
        dim: The number of coordinates.

    Raises:
        ValueError: If the method is unknown.
    """
    if method == "cnf":
        return ContinuousZukoDensity(zuko.flows.CNF(dim, hidden_features=(64, 64)))
    if method == "nsf":
        return ZukoDensity(zuko.flows.NSF(dim, bins=4, transforms=2, hidden_features=(32, 32)))
    if method == "ot-cfm":
        return FlowMatchingDensity(dim, width=64)
    raise ValueError(f"method: expected 'cnf', 'nsf' or 'ot-cfm', got {method!r}")
