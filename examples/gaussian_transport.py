"""The optimal transport between two Gaussians, learned from samples and held against its closed form.

    python examples/gaussian_transport.py --out runs/gaussians

A flow starts from N(m0, S0) and is trained on samples of N(m1, S1) by maximum likelihood. Many flows have that end. The
one that also has a Hamilton-Jacobi residual of zero is the optimal transport, which for Gaussians is

    T(x) = m1 + A (x - m0),   A = S0^(-1/2) (S0^(1/2) S1 S0^(1/2))^(1/2) S0^(-1/2),
    W2^2 = |m1 - m0|^2 + tr(S0 + S1 - 2 (S0^(1/2) S1 S0^(1/2))^(1/2)),

and its potential is u(z, t) = z' A_t z / 2 + b_t' z + c_t with A_t = (A - I) R, b_t = R b_0, R = (I + t (A - I))^(-1),
b_0 = m1 - A m0: points move in straight lines at constant speed.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from record import describe_run, run, write_figure, write_json
from torch import Tensor
from torch.distributions import MultivariateNormal
from tqdm import tqdm

import latentflow as lf

TIMES = torch.linspace(0, 1, 9, dtype=torch.float64)


@dataclass(frozen=True)
class Settings:
    """How to train."""

    steps: int = 800
    batch: int = 256
    width: int = 64
    rate: float = 1e-2
    tolerance: float = 1e-3
    residual_weight: float = 0.5
    seed: int = 0


def root(matrix: Tensor) -> Tensor:
    """Take the square root of a symmetric positive matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ values.sqrt().diag() @ vectors.mT


class GaussianTransport:
    """The optimal transport between two Gaussians in closed form."""

    def __init__(self, start: MultivariateNormal, end: MultivariateNormal) -> None:
        self.start, self.end, self.dim = start, end, len(start.loc)
        half = root(start.covariance_matrix)
        middle = root(half @ end.covariance_matrix @ half)
        inverse = torch.linalg.inv(half)
        self.matrix = inverse @ middle @ inverse
        spread = (start.covariance_matrix + end.covariance_matrix - 2 * middle).trace()
        self.wasserstein_squared = float((end.loc - start.loc).square().sum() + spread)

    def __call__(self, z: Tensor) -> Tensor:
        """Map points of shape ``(*batch, dim)``."""
        return self.end.loc + (z - self.start.loc) @ self.matrix

    def potential(self, t: float) -> lf.QuadraticPotential:
        """Give the potential at a time, up to a constant, which moves nothing."""
        eye = torch.eye(self.dim, dtype=self.matrix.dtype)
        resolvent = torch.linalg.inv(eye + t * (self.matrix - eye))
        vector = resolvent @ (self.end.loc - self.matrix @ self.start.loc)
        return lf.QuadraticPotential(self.dim, (self.matrix - eye) @ resolvent, vector)


def problem(dim: int) -> GaussianTransport:
    """Make two strongly correlated Gaussians, 3 apart and turned against each other."""
    generator = torch.Generator().manual_seed(dim)
    spectrum = torch.logspace(math.log10(2.0), -1, dim, dtype=torch.float64)  # standard deviations 1.41 to 0.32
    ends = []
    for mean in (-1.5, 1.5):
        axes = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
        shift = torch.full((dim,), mean / dim**0.5, dtype=torch.float64)
        ends.append(MultivariateNormal(shift, axes @ spectrum.diag() @ axes.mT))
    return GaussianTransport(*ends)


def draw_samples(normal: MultivariateNormal, count: int, generator: torch.Generator) -> Tensor:
    """Draw samples of shape ``(count, dim)`` from a generator of one's own."""
    noise = torch.randn(count, len(normal.loc), generator=generator, dtype=torch.float64)
    return normal.loc + noise @ normal.scale_tril.mT


def train(exact: GaussianTransport, settings: Settings, name: str) -> lf.PotentialFlow:
    """Fit a flow from the one Gaussian to samples of the other."""
    torch.manual_seed(settings.seed)  # the initial weights
    generator = torch.Generator().manual_seed(settings.seed + 1)
    flow = lf.PotentialFlow(lf.ResNetPotential(exact.dim, settings.width, depth=1, rank=exact.dim)).double()
    ode = lf.ODEOptions("dopri5", rtol=settings.tolerance, atol=settings.tolerance)
    adam = torch.optim.Adam(flow.parameters(), lr=settings.rate, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, settings.steps)
    bar = tqdm(range(settings.steps), desc=name, mininterval=1)
    for _ in bar:
        z = draw_samples(exact.end, settings.batch, generator)
        path = flow.integrate(z, [1.0, 0.0], ode, running_cost=lf.HJResidual())
        nll = -(exact.start.log_prob(path.z[-1]) + path.log_det[-1]).mean()
        defect = -path.cost[-1].mean()  # integrals backwards in time are negative
        adam.zero_grad()
        (nll + settings.residual_weight * defect).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        adam.step()
        decay.step()
        bar.set_postfix(nll=f"{nll.item():.3f}", residual=f"{defect.item() ** 0.5:.3f}", refresh=False)
    return flow.eval()


def evaluate(flow: lf.PotentialFlow, exact: GaussianTransport, seed: int, samples: int) -> dict[str, float]:
    """Compare a flow with the closed form, on fresh samples and by an adaptive solver."""
    generator, ode = torch.Generator().manual_seed(seed + 2), lf.ODEOptions("dopri5", rtol=1e-7, atol=1e-9)
    z0, z1 = draw_samples(exact.start, samples, generator), draw_samples(exact.end, samples, generator)
    straight = torch.lerp(z0, exact(z0), TIMES[:, None, None])
    with torch.no_grad():
        path = flow.integrate(z0, TIMES, ode, divergence=None, running_cost=lf.HJResidual())
        log_q = flow.push_forward(exact.start, [0.0, 1.0], ode).log_prob(z1)
        slopes = [
            lf.gradient(flow.potential, z, float(t)) - lf.gradient(exact.potential(float(t)), z, 0.0)
            for t, z in zip(TIMES, straight, strict=True)
        ]
    size = exact.wasserstein_squared

    def relative(difference: Tensor) -> float:
        return float((difference.square().sum(-1).mean() / size).sqrt())

    return {
        "wasserstein_squared": size,
        "action": float(path.action[-1].mean()),
        "displacement_squared": float((path.z[-1] - z0).square().sum(-1).mean()),
        "kl": float((exact.end.log_prob(z1) - log_q).mean()),
        "map_error": relative(path.z[-1] - exact(z0)),
        "path_error": max(relative(difference) for difference in path.z - straight),
        "gradient_error": relative(torch.stack(slopes)),
        "residual": float(path.cost[-1].mean().clamp(min=0).sqrt()),
    }


def draw(axes: Axes, flow: lf.PotentialFlow, exact: GaussianTransport, seed: int) -> None:
    """Draw learned paths over the exact ones, and two standard deviations of both Gaussians."""
    angle = torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)
    circle = 2 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    for normal, colour in ((exact.start, "tab:blue"), (exact.end, "tab:red")):
        ellipse = normal.loc + circle @ root(normal.covariance_matrix)
        axes.plot(*ellipse.T.numpy(), color=colour, linewidth=1)
    z0 = draw_samples(exact.start, 40, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        path = flow.integrate(z0, torch.linspace(0, 1, 17), divergence=None).z.numpy()
    target = exact(z0).numpy()
    axes.plot([z0[:, 0], target[:, 0]], [z0[:, 1], target[:, 1]], color="0.75", linewidth=2.5)
    axes.plot(path[..., 0], path[..., 1], color="black", linewidth=0.7)
    axes.scatter(z0[:, 0], z0[:, 1], s=5, color="tab:blue", zorder=3)
    axes.scatter(path[-1, :, 0], path[-1, :, 1], s=5, color="tab:red", zorder=3)
    axes.set(aspect="equal", xticks=[], yticks=[])


def main(arguments: list[str]) -> None:
    """Train with and without the residual, compare, draw the plane."""
    parser = argparse.ArgumentParser(description="Optimal transport between Gaussians, learned and exact.")
    parser.add_argument("--out", type=Path, required=True, help="folder of gaussians.png and gaussians.json")
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--samples", type=int, default=10_000, help="fresh samples to measure on")
    options = parser.parse_args(arguments)
    held = Settings(steps=options.steps, seed=options.seed)
    kinds = {"with the residual": held, "likelihood alone": replace(held, residual_weight=0.0)}
    results: dict[str, dict[str, float]] = {}
    start, figure = time.perf_counter(), Figure(figsize=(8.4, 3.5), layout="constrained")
    panels = dict(zip(kinds, figure.subplots(1, len(kinds), sharex=True, sharey=True), strict=True))
    for dim in options.dims:
        exact = problem(dim)
        for kind, settings in kinds.items():
            name, begin = f"dim {dim}, {kind}", time.perf_counter()
            flow = train(exact, settings, name)
            seconds = time.perf_counter() - begin
            results[name] = evaluate(flow, exact, options.seed, options.samples) | {"seconds": seconds}
            if dim == 2:
                draw(panels[kind], flow, exact, options.seed)
                panels[kind].set_title(kind)
                panels[kind].set_xlabel(f"action {results[name]['action']:.3f}, W2² {exact.wasserstein_squared:.3f}")
    if 2 in options.dims:
        write_figure(options.out / "gaussians.png", figure)
    facts = {"settings": asdict(held), "samples": options.samples, "seconds": time.perf_counter() - start}
    write_json(options.out / "gaussians.json", {"provenance": describe_run(arguments, **facts), "results": results})


if __name__ == "__main__":
    run(main)
