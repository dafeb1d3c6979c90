"""The optimal transport between two Gaussians, learned from samples and held against its closed form.

    python examples/gaussian_transport.py --out runs/gaussians

A flow starts from N(m0, S0) and is trained on samples of N(m1, S1) by maximum likelihood. Many flows have that end. The
one that also solves the Hamilton-Jacobi equation is the optimal transport, which for Gaussians is known: a linear map
of cost W2^2. There are three ways to train: likelihood alone; with the squared residual of the equation; and a flow
that solves the equation by construction, z_t = z_0 + t grad u0(z_0). Each is held against the closed form, and is
certified without it.
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
ALONE, PENALISED, CONSTRUCTED = KINDS = ("likelihood alone", "with the residual", "by construction")
ADAPTIVE = lf.ODE("dopri5", rtol=1e-3, atol=1e-3)
COARSE = lf.ODE("rk4", options={"step_size": 0.5})  # enough for the straight paths that the residual asks for


@dataclass(frozen=True)
class Settings:
    """How to train."""

    steps: int = 300
    batch: int = 256
    width: int = 64
    rate: float = 2e-2
    residual_weight: float = 0.07
    seed: int = 0


class Problem:
    """Two Gaussians, the potential that carries the one to the other, and their squared distance."""

    def __init__(self, start: MultivariateNormal, end: MultivariateNormal) -> None:
        moments = (start.loc, start.covariance_matrix, end.loc, end.covariance_matrix)
        self.start, self.end, self.dim = start, end, len(start.loc)
        self.potential = lf.gaussian_transport_potential(*moments)
        self.wasserstein_squared = float(lf.gaussian_wasserstein2(*moments, squared=True))


def problem(dim: int) -> Problem:
    """Make two strongly correlated Gaussians, 3 apart and turned against each other."""
    generator = torch.Generator().manual_seed(dim)
    spectrum = torch.logspace(math.log10(2.0), -1, dim, dtype=torch.float64)  # standard deviations 1.41 to 0.32
    ends = []
    for mean in (-1.5, 1.5):
        axes = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
        shift = torch.full((dim,), mean / dim**0.5, dtype=torch.float64)
        ends.append(MultivariateNormal(shift, axes @ spectrum.diag() @ axes.mT))
    return Problem(*ends)


def draw_samples(normal: MultivariateNormal, count: int, generator: torch.Generator) -> Tensor:
    """Draw samples of shape ``(count, dim)`` from a generator of one's own."""
    noise = torch.randn(count, len(normal.loc), generator=generator, dtype=torch.float64)
    return normal.loc + noise @ normal.scale_tril.mT


def draw_matched(normal: MultivariateNormal, count: int, generator: torch.Generator) -> Tensor:
    """Draw samples whose mean and covariance are those of the Gaussian, so that a quadratic has its true mean."""
    noise = torch.randn(count, len(normal.loc), generator=generator, dtype=torch.float64)
    noise = noise - noise.mean(0)
    factor = torch.linalg.cholesky(noise.mT @ noise / count)
    return normal.loc + torch.linalg.solve_triangular(factor, noise.mT, upper=False).mT @ normal.scale_tril.mT


def make_flow(kind: str, dim: int, width: int) -> lf.flow.Flow:
    """Make a flow along the same network, as the potential itself or as what the potential starts from."""
    network = lf.ResNetPotential(dim, width, depth=1, rank=dim)
    if kind == CONSTRUCTED:
        return lf.HopfLaxFlow(network).double()
    return lf.PotentialFlow(network).double()


def train(exact: Problem, settings: Settings, kind: str) -> lf.flow.Flow:
    """Fit a flow from the one Gaussian to samples of the other."""
    torch.manual_seed(settings.seed)  # the initial weights
    generator = torch.Generator().manual_seed(settings.seed + 1)
    flow = make_flow(kind, exact.dim, settings.width)
    residual, ode = (lf.HJResidual(), COARSE) if kind == PENALISED else (None, ADAPTIVE)
    adam = torch.optim.Adam(flow.parameters(), lr=settings.rate, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, settings.steps)
    bar = tqdm(range(settings.steps), desc=f"dim {exact.dim}, {kind}", mininterval=1)
    for _ in bar:
        z = draw_samples(exact.end, settings.batch, generator)
        trajectory = flow.integrate(z, [1.0, 0.0], ode, running_cost=residual)
        loss = nll = -(exact.start.log_prob(trajectory.z[-1]) + trajectory.log_det[-1]).mean()
        if trajectory.cost is not None:
            # the integral of the squared residual backwards in time is negative
            loss = nll - settings.residual_weight * trajectory.cost[-1].mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        adam.step()
        decay.step()
        bar.set_postfix(nll=f"{nll.item():.3f}", refresh=False)
    return flow.eval()


def evaluate(flow: lf.flow.Flow, exact: Problem, seed: int, samples: int) -> dict[str, float]:
    """Compare a flow with the closed form, on fresh samples and by an adaptive solver, and certify it."""
    generator, ode = torch.Generator().manual_seed(seed + 2), lf.ODE("dopri5", rtol=1e-7, atol=1e-9)
    z0, z1 = draw_matched(exact.start, samples, generator), draw_samples(exact.end, samples, generator)
    mapped = exact.potential.transport(z0)
    straight = torch.stack([lf.transport.mccann_interpolation(z0, mapped, float(t)) for t in TIMES])
    with torch.no_grad():
        trajectory = flow.integrate(z0, TIMES, replace(ode, divergence=None), running_cost=lf.HJResidual())
        log_q = flow.push_forward(exact.start, [0.0, 1.0], ode).log_prob(z1)
        slopes = [
            lf.gradient(flow.potential, z, float(t)) - lf.gradient(exact.potential, z, float(t))
            for t, z in zip(TIMES, straight, strict=True)
        ]
    certificate = lf.transport_certificate(trajectory, flow.potential, generator=generator)
    size = exact.wasserstein_squared

    def relative(difference: Tensor) -> float:
        return float((difference.square().sum(-1).mean() / size).sqrt())

    return {
        "wasserstein_squared": size,
        "action": float(trajectory.action[-1].mean()),
        "excess": float(trajectory.action[-1].mean()) / size - 1,
        "displacement_squared": float((trajectory.z[-1] - z0).square().sum(-1).mean()),
        "kl": float((exact.end.log_prob(z1) - log_q).mean()),
        "map_error": relative(trajectory.z[-1] - mapped),
        "path_error": max(relative(difference) for difference in trajectory.z - straight),
        "gradient_error": relative(torch.stack(slopes)),
        "residual": float(trajectory.cost[-1].mean().clamp(min=0).sqrt()),
        "ratio": float(certificate.ratio),
        "ratio_low": float(certificate.ratio_interval[0]),
        "ratio_high": float(certificate.ratio_interval[1]),
        "dual_share": float(certificate.dual / certificate.displacement),
    }


def draw(axes: Axes, flow: lf.flow.Flow, exact: Problem, seed: int) -> None:
    """Draw learned paths over the exact ones, and two standard deviations of both Gaussians."""
    angle = torch.linspace(0, 2 * math.pi, 200, dtype=torch.float64)
    circle = 2 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    for normal, color in ((exact.start, "tab:blue"), (exact.end, "tab:red")):
        ellipse = normal.loc + circle @ normal.scale_tril.mT
        axes.plot(*ellipse.T.numpy(), color=color, linewidth=1)
    z0 = draw_samples(exact.start, 40, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        trajectory = flow.integrate(z0, torch.linspace(0, 1, 17), lf.ODE(divergence=None)).z.numpy()
    target = exact.potential.transport(z0).numpy()
    axes.plot([z0[:, 0], target[:, 0]], [z0[:, 1], target[:, 1]], color="0.75", linewidth=2.5)
    axes.plot(trajectory[..., 0], trajectory[..., 1], color="black", linewidth=0.7)
    axes.scatter(z0[:, 0], z0[:, 1], s=5, color="tab:blue", zorder=3)
    axes.scatter(trajectory[-1, :, 0], trajectory[-1, :, 1], s=5, color="tab:red", zorder=3)
    axes.set(aspect="equal", xticks=[], yticks=[])


def main(arguments: list[str]) -> None:
    """Train in three ways, compare, draw the plane."""
    parser = argparse.ArgumentParser(description="Optimal transport between Gaussians, learned and exact.")
    parser.add_argument("--out", type=Path, required=True, help="folder of gaussians.png and gaussians.json")
    parser.add_argument("--dims", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--samples", type=int, default=4_000, help="fresh samples to measure on")
    options = parser.parse_args(arguments)
    settings = Settings(steps=options.steps, seed=options.seed)
    results: dict[str, dict[str, float]] = {}
    start, figure = time.perf_counter(), Figure(figsize=(11.4, 3.5), layout="constrained")
    panels = dict(zip(KINDS, figure.subplots(1, len(KINDS), sharex=True, sharey=True), strict=True))
    for dim in options.dims:
        exact = problem(dim)
        for kind in KINDS:
            name, begin = f"dim {dim}, {kind}", time.perf_counter()
            flow = train(exact, settings, kind)
            seconds = time.perf_counter() - begin
            results[name] = evaluate(flow, exact, options.seed, options.samples) | {"seconds": seconds}
            if dim == 2:
                draw(panels[kind], flow, exact, options.seed)
                panels[kind].set_title(kind)
                panels[kind].set_xlabel(f"action {results[name]['action']:.3f}, W2² {exact.wasserstein_squared:.3f}")
    if 2 in options.dims:
        write_figure(options.out / "gaussians.png", figure)
    facts = {"settings": asdict(settings), "samples": options.samples, "seconds": time.perf_counter() - start}
    write_json(options.out / "gaussians.json", {"provenance": describe_run(arguments, **facts), "results": results})


if __name__ == "__main__":
    run(main)
