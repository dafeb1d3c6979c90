"""The drawings of the concepts, computed with the library; ``python docs/concepts/draw.py`` writes the PNG files.

Lines and words are grey of middle brightness on nothing, so that they can be read on a light page and on a dark one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from latentflow import HJResidual, HopfLaxFlow, PotentialBank, PotentialFlow, QuadraticPotential, jet
from latentflow.transport import gaussian_wasserstein2, transport_certificate

FOLDER = Path(__file__).parent
GREY, BLUE, RED, GREEN = "#858b94", "#3f83c8", "#d0643c", "#4c9a62"
STYLE = {
    "font.size": 11,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.transparent": True,
    "savefig.dpi": 110,
    "axes.titlecolor": GREY,
}


def grid(half: float = 2.0, count: int = 121) -> tuple[Tensor, Tensor]:
    """Return the coordinates of a square grid and its points, of shapes ``(n,)`` and ``(n, n, 2)``."""
    axis = torch.linspace(-half, half, count)
    return axis, torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)


def hills(z: Tensor, t: object = 0.0) -> Tensor:  # noqa: ARG001 - the signature of a field
    """Compute a field with two hills."""
    return (-(z - torch.tensor([0.9, 0.5])).square().sum(-1)).exp() + 0.7 * (
        -(z + torch.tensor([0.9, 0.4])).square().sum(-1) / 0.7
    ).exp()


def plane(axes: Axes, title: str, half: float = 2.0) -> None:
    """Make the axes those of the plane of two latents."""
    axes.set(xlim=(-half, half), ylim=(-half, half), xticks=[], yticks=[], title=title, aspect="equal")


def potential() -> Figure:
    """Draw contours of a field and its gradient."""
    figure, axes = plt.subplots(figsize=(4.2, 4))
    axis, z = grid()
    axes.contour(axis, axis, hills(z), levels=10, colors=GREY, linewidths=0.8)
    arrows = grid(1.8, 12)[1].reshape(-1, 2)
    found = jet(hills, arrows, 0.0)
    axes.quiver(*arrows.T, *found.gradient.T, color=BLUE, angles="xy", scale=11, width=0.006)
    plane(axes, "contours of u, arrows of its gradient")
    return figure


def jets() -> Figure:
    """Draw a function with its tangent and its parabola at a point."""
    figure, axes = plt.subplots(figsize=(5, 3.2))
    x = torch.linspace(-2.2, 2.2, 200)[:, None]

    def u(z: Tensor, t: object) -> Tensor:  # noqa: ARG001
        return (1.5 * z).sin().sum(-1) - 0.2 * z.square().sum(-1)

    point = torch.tensor([[0.45]])
    found = jet(u, point, 0.0)
    value, slope, bend = float(found.value), float(found.gradient), float(found.laplacian)
    step = x[:, 0] - point[0, 0]
    near = step.abs() < 1.1
    axes.plot(x, u(x, 0), color=GREY, lw=2, label="u")
    axes.plot(x[near], value + slope * step[near], color=BLUE, lw=2, label="value and gradient")
    parabola = value + slope * step + bend * step.square() / 2
    axes.plot(x[near], parabola[near], color=RED, lw=2, label="and second derivative")
    axes.plot(point, [value], "o", color=GREY)
    axes.set(xlabel="z", ylabel="u(z)")
    axes.legend(frameon=False, labelcolor=GREY, fontsize=9)
    return figure


def residual() -> Figure:
    """Draw the residual of a potential that does not solve the equation and of one that does."""
    figure, parts = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
    z = grid(2.0, 81)[1]

    def still(points: Tensor, t: Tensor | float) -> Tensor:  # noqa: ARG001
        return points.square().sum(-1) / 2

    def solving(points: Tensor, t: Tensor | float) -> Tensor:
        return points.square().sum(-1) / (2 * (t + 1))

    for axes, u, title in zip(parts, (still, solving), ("u = |z|² / 2", "u = |z|² / (2 (t + 1))"), strict=True):
        values = HJResidual()(u, z.reshape(-1, 2), 0.0).reshape(81, 81)
        image = axes.imshow(values, extent=(-2, 2, -2, 2), origin="lower", cmap="RdBu_r", vmin=-4, vmax=4)
        plane(axes, f"{title}: largest |r| = {float(values.abs().max()):.1f}")
    bar = figure.colorbar(image, ax=parts, shrink=0.85)
    bar.outline.set_edgecolor(GREY)
    return figure


def flow() -> Figure:
    """Draw paths along a gradient, with the density at the start and at the end."""
    figure, axes = plt.subplots(figsize=(4.6, 4))
    generator = torch.Generator().manual_seed(3)
    z0 = 0.45 * torch.randn(260, 2, generator=generator) - torch.tensor([0.6, 0.9])
    path = PotentialFlow(hills).rollout(z0, steps=24, dt=0.035)
    for n in range(0, 260, 6):
        axes.plot(*path.z[:, n].T, color=GREY, lw=0.7, alpha=0.8)
    axes.scatter(*path.z[0].T, s=7, color=BLUE, label="start")
    axes.scatter(*path.z[-1].T, s=7, color=RED, label="end")
    axes.legend(frameon=False, labelcolor=GREY, fontsize=9, loc="upper left", markerscale=2)
    plane(axes, "points that follow the gradient")
    return figure


def fold() -> Figure:
    """Draw the image of a grid under a short step and under one that folds."""
    figure, parts = plt.subplots(1, 2, figsize=(7, 3.5), layout="constrained")
    lines = torch.linspace(-1.5, 1.5, 25)
    fine = torch.linspace(-1.5, 1.5, 201)

    def well(z: Tensor, t: object) -> Tensor:  # noqa: ARG001
        return (-z.square().sum(-1) / 0.8).exp()

    for axes, length in zip(parts, (0.25, 0.9), strict=True):
        step = PotentialFlow(well)
        for line in lines:
            for points in (torch.stack([line.expand(201), fine], 1), torch.stack([fine, line.expand(201)], 1)):
                moved = step.rollout(points, steps=1, dt=length, log_det=None).z[-1]
                axes.plot(*moved.T, color=BLUE if length < 0.5 else RED, lw=0.6)
        _, z = grid(1.5, 41)
        hessian = torch.func.vmap(torch.func.hessian(lambda p: well(p, 0)))(z.reshape(-1, 2))
        margin = 1 + length * float(torch.linalg.eigvalsh(hessian).min())
        plane(axes, f"h = {length:g}: smallest eigenvalue {margin:.2f}", 1.6)
    return figure


def bank() -> Figure:
    """Draw the paths of two potentials and of their sum."""
    figure, axes = plt.subplots(figsize=(4.4, 4))
    turn = QuadraticPotential(2, torch.tensor([[0.4, 0.0], [0.0, -0.6]]))
    shift = QuadraticPotential(2, vector=torch.tensor([0.0, 1.0]))
    potentials = PotentialBank([turn, shift])
    z0 = torch.tensor([[-0.9, -1.3], [-0.4, -1.3], [0.4, -1.3], [0.9, -1.3]])
    for field, color, label in (
        (potentials[0], BLUE, "bank[0]"),
        (potentials[1], RED, "bank[1]"),
        (potentials.superpose(), GREEN, "bank.superpose()"),
    ):
        path = PotentialFlow(field).rollout(z0, steps=40, dt=0.045, log_det=None).z.detach()
        for n in range(len(z0)):
            axes.plot(*path[:, n].T, color=color, lw=1.8, label=label if n == 0 else None)
    axes.scatter(*z0.T, color=GREY, zorder=3)
    axes.legend(frameon=False, labelcolor=GREY, fontsize=9, loc="upper left")
    plane(axes, "two flows and their superposition")
    return figure


def bounds() -> Figure:
    """Draw which latents are random under the joint and under the marginal bound."""
    figure, parts = plt.subplots(2, 1, figsize=(6.4, 4.2), layout="constrained")
    for axes, title, random in zip(parts, ("joint bound", "marginal bound"), ((0,), (0, 1, 2, 3)), strict=True):
        for t in range(4):
            drawn = t in random
            circle = mpl.patches.Circle((t, 1), 0.2, ec=RED if drawn else BLUE, fc="none", lw=2)
            square = mpl.patches.Rectangle((t - 0.18, -0.28), 0.36, 0.36, ec=GREY, fc="none", lw=1.5)
            axes.add_patch(circle)
            axes.add_patch(square)
            axes.text(t, 1, f"$z_{t}$", ha="center", va="center")
            axes.text(t, -0.1, f"$x_{t}$", ha="center", va="center")
            axes.annotate("", (t, 0.12), (t, 0.78), arrowprops={"arrowstyle": "->", "color": GREY})
            if t:
                axes.annotate("", (t - 0.22, 1), (t - 0.78, 1), arrowprops={"arrowstyle": "->", "color": BLUE})
            if drawn:
                axes.text(t, 1.36, "KL", ha="center", color=RED)
        axes.set(xlim=(-0.5, 3.6), ylim=(-0.4, 1.65), aspect="equal", title=title)
        axes.axis("off")
    return figure


def certificate() -> Figure:
    """Draw the bounds of the certificate beside the true distance, for an optimal flow and one that is not."""
    figure, axes = plt.subplots(figsize=(6, 2.6))
    generator = torch.Generator().manual_seed(0)
    z0 = torch.randn(512, 2, generator=generator)
    stretch = HopfLaxFlow(QuadraticPotential(2, torch.diag(torch.tensor([1.0, -0.5]))))
    mean = torch.zeros(2)
    end = torch.diag(torch.tensor([4.0, 0.25]))
    truth = float(gaussian_wasserstein2(mean, torch.eye(2), mean, end, squared=True))
    half = math.pi / 3

    def turning(z: Tensor, t: Tensor | float) -> Tensor:
        angle = 2 * half * torch.as_tensor(t)
        a, b = angle.cos(), angle.sin()
        return 1.2 * half * ((z[..., 0].square() - z[..., 1].square()) * a + 2 * z[..., 0] * z[..., 1] * b) / 2

    paths = (stretch.rollout(z0, steps=8, dt=1 / 8), PotentialFlow(turning).rollout(z0, steps=40, dt=1 / 40))
    for place, (path, name) in enumerate(zip(paths, ("Hopf-Lax flow", "flow that turns"), strict=True)):
        found = transport_certificate(path)
        nearest = float(found.wasserstein) ** 2
        axes.plot([nearest, float(found.cost)], [place, place], color=GREY, lw=2)
        axes.plot(nearest, place, "|", ms=18, mew=3, color=BLUE)
        axes.plot(float(found.cost), place, "o", ms=8, color=RED)
        axes.text(-0.05, place, name, ha="right", va="center", transform=axes.get_yaxis_transform())
    axes.set(
        ylim=(-0.6, 1.6), yticks=[], xlabel="blue: squared distance of the ends; red: cost of the paths", xlim=(0, None)
    )
    axes.axvline(truth, color=GREEN, lw=1, ls="--")
    axes.text(truth, 1.62, "closed form", color=GREEN, ha="center", va="bottom", fontsize=9)
    return figure


DRAWINGS: dict[str, Callable[[], Figure]] = {
    "potential": potential,
    "jet": jets,
    "residual": residual,
    "flow": flow,
    "fold": fold,
    "bank": bank,
    "bounds": bounds,
    "certificate": certificate,
}


def main() -> None:
    """Draw all, next to this file."""
    torch.manual_seed(0)
    with mpl.rc_context(STYLE):
        for name, draw in DRAWINGS.items():
            figure = draw()
            figure.savefig(FOLDER / f"{name}.png", bbox_inches="tight")
            plt.close(figure)


if __name__ == "__main__":
    main()
