"""Certificates of optimal transport for three flows between two moons and the normal distribution in the plane.

    python examples/plane_transport.py --out runs/plane

Each flow carries the data at t = 0 to N(0, I) at t = 1 and is trained by maximum likelihood alone or with the residual
of the Hamilton-Jacobi equation, or solves that equation by construction: z_t = z_0 + t grad u0(z_0) with a convex
|z|^2 / 2 + u0, the gradient of which is an optimal transport whatever its weights are. All three have about the same
likelihood, and likelihood is all that a density sees. The certificate tells them apart: the action of an optimal
transport is W2^2 between its ends, and its potential proves it by duality, without the equation of any target.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from record import describe_run, run, write_figure, write_json
from torch import Tensor
from torch.distributions import Distribution
from toy_sets import TOY_SETS, ToySet
from tqdm import tqdm

import latentflow as lf

FIXED = torch.linspace(0, 1, 6, dtype=torch.float64), lf.ODE("rk4")
ADAPTIVE = torch.tensor([0.0, 1.0], dtype=torch.float64), lf.ODE("dopri5", rtol=1e-3, atol=1e-3)
TIGHT = lf.ODE("dopri5", rtol=1e-7, atol=1e-9)


@dataclass(frozen=True)
class Settings:
    """How to train."""

    steps: int = 400
    batch: int = 256
    width: int = 64
    rate: float = 2e-2
    residual_weight: float = 0.5
    seed: int = 0


def learned(settings: Settings) -> lf.PotentialFlow:
    """A flow along any potential u(z, t)."""
    time_embedding = lf.potentials.SinusoidalEmbedding(8)
    return lf.PotentialFlow(lf.MLPPotential(2, hidden=2 * (settings.width,), time_embedding=time_embedding))


def constructed(settings: Settings) -> lf.HopfLaxFlow:
    """A flow that solves the equation: u0 is a convex network less 0.9 |z|^2 / 2, so that maps can shrink too."""
    convex = lf.ICNNPotential(2, 2 * (settings.width,), activation=torch.nn.Softplus(beta=6), output_scale=2.0)
    bowl = lf.QuadraticPotential(2, -0.9 * torch.eye(2)).requires_grad_(requires_grad=False)
    return lf.HopfLaxFlow(convex + bowl)


KINDS: dict[str, Callable[[Settings], lf.flow.Flow]] = {
    "likelihood alone": learned,
    "with the residual": learned,
    "by construction": constructed,
}


def train(toy: ToySet, kind: str, settings: Settings) -> lf.flow.Flow:
    """Fit a flow to a distribution, with fresh samples in every step."""
    torch.manual_seed(settings.seed)  # the initial weights
    generator = torch.Generator().manual_seed(settings.seed + 1)
    flow, base = KINDS[kind](settings).double(), lf.GaussianPrior(2).double()()
    weight = settings.residual_weight if kind == "with the residual" else 0.0
    times, ode = FIXED if weight > 0 else ADAPTIVE
    adam = torch.optim.Adam((p for p in flow.parameters() if p.requires_grad), lr=settings.rate, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, settings.steps)
    bar = tqdm(range(settings.steps), desc=kind, mininterval=1)
    for _ in bar:
        trajectory = flow.integrate(
            toy.sample(settings.batch, generator), times, ode, running_cost=lf.HJResidual() if weight > 0 else None
        )
        nll = -(base.log_prob(trajectory.z[-1]) + trajectory.log_det[-1]).mean()
        loss = nll if trajectory.cost is None else nll + weight * trajectory.cost[-1].mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        adam.step()
        decay.step()
        bar.set_postfix(nll=f"{nll.item():.3f}", refresh=False)
    return flow.eval()


def evaluate(flow: lf.flow.Flow, toy: ToySet, base: Distribution, seed: int, samples: int) -> dict[str, float]:
    """Measure the likelihood of fresh samples and certify their paths."""
    generator = torch.Generator().manual_seed(seed + 2)
    z = toy.sample(samples, generator)
    with torch.no_grad():
        trajectory = flow.integrate(z, torch.linspace(0, 1, 9, dtype=torch.float64), TIGHT)
        defect = lf.transport.transport_defect(flow.potential, trajectory.z, trajectory.times.unsqueeze(-1)).mean()
    found = lf.transport_certificate(trajectory, flow.potential, generator=generator)
    log_q = base.log_prob(trajectory.z[-1]) + trajectory.log_det[-1]
    squared = found.wasserstein.square()
    return {
        "kl": float((toy.log_prob(z) - log_q).mean()),
        "kl_error": float((toy.log_prob(z) - log_q).std() / samples**0.5),
        "cost": float(found.cost),
        "displacement": float(found.displacement),
        "wasserstein_squared": float(squared),
        "gap": float(found.gap),
        "ratio": float(found.ratio),
        "ratio_low": float(found.ratio_interval[0]),
        "ratio_high": float(found.ratio_interval[1]),
        "dual_share": float(found.dual / found.displacement),
        "lower_share": float(found.lower / found.displacement),
        "defect": float((defect / squared).sqrt()),
        "certified": float(found.samples),
    }


def draw(axes: Axes, flow: lf.flow.Flow, z: Tensor, result: dict[str, float]) -> None:
    """Draw the paths of samples from the data (red) to the normal distribution (blue)."""
    with torch.no_grad():
        times, scheme = torch.linspace(0, 1, 25, dtype=torch.float64), replace(TIGHT, divergence=None)
        path = flow.integrate(z, times, scheme).z.numpy()
    axes.plot(path[..., 0], path[..., 1], color="0.55", linewidth=0.5)
    for points, color in ((path[0], "tab:red"), (path[-1], "tab:blue")):
        axes.scatter(points[:, 0], points[:, 1], s=4, color=color, zorder=3)
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.set_xlabel(
        f"cost / W2² {result['ratio']:.3f}, KL {result['kl']:.3f}\n"
        f"dual bound {100 * result['dual_share']:.2f} % of mean |z1 - z0|²"
    )


def main(arguments: list[str]) -> None:
    """Train three flows, certify and draw them."""
    parser = argparse.ArgumentParser(description="Certificates of optimal transport in the plane.")
    parser.add_argument("--out", type=Path, required=True, help="folder of plane.png and plane.json")
    parser.add_argument("--set", choices=TOY_SETS, default="two moons", metavar="SET")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--samples", type=int, default=5_000, help="fresh samples to measure on")
    options = parser.parse_args(arguments)
    settings, toy = Settings(steps=options.steps, seed=options.seed), TOY_SETS[options.set]()
    results: dict[str, dict[str, float]] = {}
    start, figure = time.perf_counter(), Figure(figsize=(9.6, 3.5), layout="constrained")
    z = toy.sample(200, torch.Generator().manual_seed(options.seed))
    for kind, axes in zip(KINDS, figure.subplots(1, len(KINDS), sharex=True, sharey=True), strict=True):
        begin = time.perf_counter()
        flow = train(toy, kind, settings)
        seconds = time.perf_counter() - begin
        base = lf.GaussianPrior(2).double()()
        results[kind] = evaluate(flow, toy, base, options.seed, options.samples) | {"seconds": seconds}
        draw(axes, flow, z, results[kind])
        axes.set_title(kind)
    write_figure(options.out / "plane.png", figure)
    facts = {"settings": asdict(settings), "samples": options.samples, "seconds": time.perf_counter() - start}
    write_json(options.out / "plane.json", {"provenance": describe_run(arguments, **facts), "results": results})


if __name__ == "__main__":
    run(main)
