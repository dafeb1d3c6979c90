"""Density estimation in the plane by a potential flow that is held to the Hamilton-Jacobi equation.

    python examples/toy_densities.py --out runs/toys

A flow carries N(0, I) at t = 0 to the data at t = 1 along the gradient of a potential u(z, t). It is trained by maximum
likelihood: the data are carried back, log q(z_1) = log N(z_0; 0, I) - log|det dz_1/dz_0|. The same integration returns
the action, the integral of |grad u|^2, and the integral of r^2 with r = u_t + |grad u|^2 / 2, which is zero for optimal
transport. Weighing both lightly makes the paths nearly straight, so that a few steps of a fixed-grid solver are enough
to train with. What is reported is computed anew in float64 by an adaptive solver, with the exact divergence.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from record import describe_run, run, write_figure, write_json
from torch import Tensor
from toy_sets import TOY_SETS, ToySet, entropy
from tqdm import tqdm

import latentflow as lf

EXTENT, COLOURS = 4.5, "BuPu"
Result = dict[str, float]
PANEL = {"xlim": (-EXTENT, EXTENT), "ylim": (-EXTENT, EXTENT), "xticks": [], "yticks": [], "aspect": "equal"}


@dataclass(frozen=True)
class Settings:
    """How to train."""

    steps: int = 2000
    batch: int = 256
    width: int = 64
    rate: float = 1e-2
    solver_steps: int = 5
    action_weight: float = 0.01
    residual_weight: float = 0.2
    tolerance: float | None = None  # of an adaptive solver in place of the fixed steps
    seed: int = 0


class Speed:
    """The running cost |grad u|, whose integral is the length of a path."""

    requires = lf.Derivative(0)

    def running_cost(self, jet: lf.Jet, z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002 - the protocol's signature
        """Compute the speed from the jet that the flow computes anyway."""
        return torch.linalg.vector_norm(jet.gradient, dim=-1)


def train(toy: ToySet, settings: Settings, name: str) -> lf.PotentialFlow:
    """Fit a flow to a distribution, with fresh samples in every step."""
    torch.manual_seed(settings.seed)  # the initial weights
    generator = torch.Generator().manual_seed(settings.seed + 1)
    potential = lf.MLPPotential(2, hidden=3 * (settings.width,), time_embedding=lf.potentials.SinusoidalEmbedding(8))
    flow, base, residual = lf.PotentialFlow(potential), lf.GaussianPrior(2)(), lf.HJResidual()
    backwards, ode = torch.linspace(1, 0, settings.solver_steps + 1, dtype=torch.float64), lf.ODE("rk4")
    if settings.tolerance is not None:
        backwards, ode = backwards[[0, -1]], lf.ODE(rtol=settings.tolerance, atol=settings.tolerance)
    adam = torch.optim.Adam(flow.parameters(), lr=settings.rate, betas=(0.9, 0.99))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, settings.steps)
    bar = tqdm(range(settings.steps), desc=name, mininterval=1)
    for _ in bar:
        z = toy.sample(settings.batch, generator).float()
        trajectory = flow.integrate(z, backwards, ode, running_cost=residual)
        nll = -(base.log_prob(trajectory.z[-1]) + trajectory.log_det[-1]).mean()
        action, defect = -trajectory.action[-1].mean(), -trajectory.cost[-1].mean()  # backwards: negative integrals
        loss = nll + settings.action_weight * action + settings.residual_weight * defect
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        adam.step()
        decay.step()
        bar.set_postfix(nll=f"{nll.item():.3f}", residual=f"{defect.item() ** 0.5:.3f}", refresh=False)
    return flow.double().eval()


def evaluate(flow: lf.PotentialFlow, toy: ToySet, settings: Settings, samples: int) -> Result:
    """Measure a flow on fresh samples: its likelihood, and how far its paths are from straight."""
    generator = torch.Generator().manual_seed(settings.seed + 2)
    base, exact = lf.GaussianPrior(2).double()(), lf.ODE("dopri5", rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        z = toy.sample(samples, generator)
        log_q = flow.push_forward(base, [0.0, 1.0], exact).log_prob(z)
        grid = torch.linspace(0, 1, settings.solver_steps + 1, dtype=torch.float64)
        coarse = flow.push_forward(base, grid, lf.ODE("rk4")).log_prob(z)
        z0 = torch.randn(samples, 2, generator=generator, dtype=torch.float64)
        points_only = replace(exact, divergence=None)
        trajectory = flow.integrate(z0, [0.0, 1.0], points_only, running_cost=lf.HJResidual())
        length = flow.integrate(z0, [0.0, 1.0], points_only, running_cost=Speed()).cost[-1]
    surplus = toy.log_prob(z) - log_q
    displacement = torch.linalg.vector_norm(trajectory.z[-1] - trajectory.z[0], dim=-1)
    action = trajectory.action[-1].mean()
    return {
        "nll": float(-log_q.mean()),
        "entropy": entropy(toy),
        "kl": float(surplus.mean()),
        "kl_error": float(surplus.std() / samples**0.5),
        "nll_coarse": float(-coarse.mean()),
        "length_ratio": float((length / displacement).mean()),
        "action_ratio": float(action / displacement.square().mean()),
        "residual": float(trajectory.cost[-1].mean().clamp(min=0).sqrt()),
        "kinetic": float(action / 2),
    }


def draw_data(axes: Axes, toy: ToySet, seed: int) -> None:
    """Draw a histogram of samples."""
    z = toy.sample(200_000, torch.Generator().manual_seed(seed)).numpy()
    axes.hist2d(z[:, 0], z[:, 1], bins=150, range=[[-EXTENT, EXTENT]] * 2, cmap=COLOURS)


def draw_density(axes: Axes, flow: lf.PotentialFlow, resolution: int) -> float:
    """Draw the learned density and return its integral over the picture, which shows that it is one."""
    line = ((torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution * 2 - 1) * EXTENT
    ode = lf.ODE("dopri5", rtol=1e-4, atol=1e-4)
    learned = flow.push_forward(lf.GaussianPrior(2).double()(), [0.0, 1.0], ode)
    with torch.no_grad():
        density = learned.log_prob(torch.cartesian_prod(line, line)).exp().reshape(resolution, resolution)
    axes.imshow(density.mT.numpy(), origin="lower", extent=2 * (-EXTENT, EXTENT), cmap=COLOURS)
    return float(density.sum() * (2 * EXTENT / resolution) ** 2)


def draw_paths(axes: Axes, flow: lf.PotentialFlow, seed: int) -> None:
    """Draw the paths of samples from their start (blue) to their end (red)."""
    z0 = torch.randn(250, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        z = flow.integrate(z0, torch.linspace(0, 1, 17), lf.ODE(divergence=None)).z.numpy()
    axes.plot(z[..., 0], z[..., 1], color="0.6", linewidth=0.5)
    axes.scatter(z[0, :, 0], z[0, :, 1], s=2.5, color="tab:blue", zorder=3)
    axes.scatter(z[-1, :, 0], z[-1, :, 1], s=2.5, color="tab:red", zorder=3)


def draw_flow(pair: Sequence[Axes], flow: lf.PotentialFlow, result: Result, options: argparse.Namespace) -> None:
    """Draw density and paths with the numbers below."""
    result["mass"] = draw_density(pair[0], flow, options.resolution)
    draw_paths(pair[1], flow, options.seed)
    pair[1].set_xlabel(
        f"NLL {result['nll']:.3f} (entropy {result['entropy']:.3f})\n"
        f"length / distance {result['length_ratio']:.3f}\nresidual {result['residual']:.2f}"
    )


def main(arguments: list[str]) -> None:
    """Train, measure and draw."""
    parser = argparse.ArgumentParser(description="Density estimation in the plane by a potential flow.")
    parser.add_argument("--out", type=Path, required=True, help="folder of toys.png, comparison.png and toys.json")
    parser.add_argument("--sets", nargs="+", choices=TOY_SETS, default=list(TOY_SETS), metavar="SET")
    parser.add_argument("--compare", choices=[*TOY_SETS, "none"], default="pinwheel", metavar="SET")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--samples", type=int, default=10_000, help="fresh samples to measure on")
    parser.add_argument("--resolution", type=int, default=200, help="points along a side of the heat maps")
    options = parser.parse_args(arguments)
    settings = Settings(steps=options.steps, seed=options.seed)
    flows: dict[str, lf.PotentialFlow] = {}
    results: dict[str, Result] = {}
    start = time.perf_counter()

    def fit(name: str, label: str, settings: Settings) -> None:
        begin = time.perf_counter()
        flows[label] = train(TOY_SETS[name](), settings, label)
        seconds = time.perf_counter() - begin
        results[label] = evaluate(flows[label], TOY_SETS[name](), settings, options.samples) | {"seconds": seconds}

    def save(figure: Figure, file: str) -> None:
        write_figure(options.out / file, figure)
        facts = {"settings": asdict(settings), "samples": options.samples, "seconds": time.perf_counter() - start}
        write_json(options.out / "toys.json", {"provenance": describe_run(arguments, **facts), "results": results})

    figure = Figure(figsize=(2.3 * len(options.sets), 7.6), layout="constrained")
    columns = figure.subplots(3, len(options.sets), squeeze=False, subplot_kw=PANEL).T
    for name, column in zip(options.sets, columns, strict=True):
        fit(name, name, settings)
        draw_data(column[0], TOY_SETS[name](), options.seed)
        column[0].set_title(name)
        draw_flow(column[1:], flows[name], results[name], options)
    save(figure, "toys.png")
    if options.compare in flows:
        free = replace(settings, action_weight=0.0, residual_weight=0.0, tolerance=1e-3)
        label = f"{options.compare}, no penalty"
        fit(options.compare, label, free)
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        pairs = figure.subplots(1, 4, subplot_kw=PANEL).reshape(2, 2)
        for title, name, pair in zip(("with the penalty", "without"), (options.compare, label), pairs, strict=True):
            pair[0].set_title(title)
            draw_flow(pair, flows[name], results[name], options)
        save(figure, "comparison.png")


if __name__ == "__main__":
    run(main)
