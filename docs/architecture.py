"""The drawing of docs/architecture.md: ``python docs/architecture.py`` writes docs/architecture.svg."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

FILE = Path(__file__).with_suffix(".svg")
WIDTH, HEIGHT = 760, 566
COLUMN, STEP, BOX_WIDTH, BOX_HEIGHT = 14, 126, 102, 58
INK, QUIET, PAPER = "#1d2433", "#4a5468", "#fbfaf7"
FILLS = {
    "yours": "#ffffff",
    "potentials": "#d9ead3",
    "calculus": "#fff2c7",
    "flow": "#cfe2f7",
    "pde": "#f9d9c9",
    "priors": "#e4d8f0",
    "transport": "#d0ece7",
    "vae": "#f6d5e0",
}


@dataclass(frozen=True)
class Box:
    """A box of the drawing.

    Attributes:
        title: The large text.
        home: The subpackage, or "yours".
        x: The left edge.
        y: The upper edge.
        width: The width.
        note: The small text; the name of the subpackage if empty.
    """

    title: str
    home: str
    x: float
    y: float
    width: float = BOX_WIDTH
    note: str = ""

    @property
    def middle(self) -> float:
        """The horizontal centre."""
        return self.x + self.width / 2

    def draw(self) -> str:
        """Write the box with its two lines of text."""
        return (
            f'<rect x="{self.x:g}" y="{self.y:g}" width="{self.width:g}" height="{BOX_HEIGHT}" rx="7" '
            f'fill="{FILLS[self.home]}" stroke="{INK}" stroke-width="1.2"/>'
            + text(self.title, self.middle, self.y + 25, 15, weight="600")
            + text(self.note or self.home, self.middle, self.y + 45, 13, color=QUIET)
        )


def text(
    words: str, x: float, y: float, size: int, *, color: str = INK, weight: str = "400", anchor: str = "middle"
) -> str:
    """Write a line of text."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{color}" '
        f'text-anchor="{anchor}">{escape(words)}</text>'
    )


def arrow(*points: tuple[float, float]) -> str:
    """Draw a line through points with a head at the last one."""
    path = " ".join(f"{'M' if number == 0 else 'L'}{x:g},{y:g}" for number, (x, y) in enumerate(points))
    return f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="1.4" marker-end="url(#head)"/>'


def column(number: int) -> float:
    """Return the left edge of a column."""
    return COLUMN + number * STEP


MODEL, FIELD, LAW, SUM, ABOVE = 158, 286, 388, 494, 52
"""The upper edges of the rows."""


def draw() -> str:
    """Write the drawing as SVG."""
    images = Box("images", "yours", column(0), MODEL, note="x₀, x₁, …")
    encoder = Box("encoder", "yours", column(1), MODEL, note="yours, or vae")
    start = Box("q(z₀ | x₀)", "yours", column(2), MODEL, note="distribution")
    flow = Box("flow", "flow", column(3), MODEL, note="flow.follow")
    trajectory = Box("trajectory", "flow", column(4), MODEL)
    decoder = Box("decoder", "yours", column(5), MODEL, note="yours, or vae")
    certificate = Box("certificate", "transport", column(4), ABOVE)
    potential = Box("potential", "potentials", column(0), FIELD)
    jet = Box("jet", "calculus", column(1), FIELD)
    scheme = Box("scheme", "flow", column(3), FIELD, note="Euler, ODE")
    prior = Box("prior", "priors", column(0), LAW)
    residual = Box("residual", "pde", column(2), LAW)
    objective = Box("objective", "vae", column(0), SUM, width=column(5) + BOX_WIDTH - column(0), note=OBJECTIVE)
    boxes = [images, encoder, start, flow, trajectory, decoder]
    boxes += [certificate, potential, jet, scheme, prior, residual, objective]
    half = BOX_HEIGHT / 2
    end = SUM - 2
    lines = [
        arrow((one.x + BOX_WIDTH, MODEL + half), (other.x - 2, MODEL + half)) for one, other in pairwise(boxes[:6])
    ]
    lines += [
        arrow((trajectory.middle, MODEL), (trajectory.middle, ABOVE + BOX_HEIGHT + 2)),
        arrow((potential.x + BOX_WIDTH, FIELD + half), (jet.x - 2, FIELD + half)),
        arrow((jet.x + BOX_WIDTH, FIELD + half), (scheme.x - 2, FIELD + half)),
        arrow((scheme.middle, FIELD), (scheme.middle, MODEL + BOX_HEIGHT + 2)),
        arrow((jet.middle, FIELD + BOX_HEIGHT), (jet.middle, LAW + half), (residual.x - 2, LAW + half)),
        arrow((trajectory.middle, LAW + half), (residual.x + BOX_WIDTH + 2, LAW + half)),
        arrow((trajectory.middle, MODEL + BOX_HEIGHT), (trajectory.middle, end)),
        arrow((decoder.middle, MODEL + BOX_HEIGHT), (decoder.middle, end)),
        arrow((prior.middle, LAW + BOX_HEIGHT), (prior.middle, end)),
        arrow((residual.middle, LAW + BOX_HEIGHT), (residual.middle, end)),
    ]
    labels = [
        text("How data flow through latentflow", COLUMN, 30, 17, weight="600", anchor="start"),
        text("Colored boxes name their subpackage.", COLUMN, 58, 13, color=QUIET, anchor="start"),
        text("White boxes are torch modules and tensors.", COLUMN, 78, 13, color=QUIET, anchor="start"),
        text("∇u, log|det|", column(2) + BOX_WIDTH / 2, FIELD + half - 9, 13),
        text("u, ∂u/∂t, ∇u, Δu, …", jet.middle + 8, FIELD + BOX_HEIGHT + 26, 13, anchor="start"),
        text("points", column(3) + BOX_WIDTH / 2, LAW + half - 9, 13),
        text("log q(z)", trajectory.middle + 8, SUM - 40, 13, anchor="start"),
        text("log p(x | z)", decoder.middle - 8, SUM - 14, 13, anchor="end"),
        text("log p(z)", prior.middle + 8, SUM - 18, 13, anchor="start"),
        text("r(z, t)²", residual.middle + 8, SUM - 18, 13, anchor="start"),
        text("bounds of W₂", certificate.x - 10, ABOVE + half + 5, 13, anchor="end"),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" role="img" font-family="Helvetica, Arial, sans-serif">',
            f"<title>{escape(TITLE)}</title>",
            f'<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0,0 L8,4 L0,8 Z" fill="{INK}"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="{PAPER}"/>',
            *lines,
            *(box.draw() for box in boxes),
            *labels,
            "</svg>",
            "",
        ]
    )


OBJECTIVE = "E[ log q(z) − log p(z) − log p(x | z) ] + weight · E[ r(z, t)² ]"
TITLE = "Images become a latent, a flow moves it, a decoder shows it; a potential drives the flow"


if __name__ == "__main__":
    FILE.write_text(draw(), encoding="utf-8")
