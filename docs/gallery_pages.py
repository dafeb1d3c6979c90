"""The gallery as an extension of Sphinx: the order of its examples, the look of their pictures, and links from them.

``sphinx_gallery`` runs the scripts below ``docs/gallery`` and writes their pages into ``docs/auto_gallery``. A script
whose text has not changed is not run again; remove that folder after a change of the library.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from links import public_names
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import latentflow

OUT = "auto_gallery"
"""The folder of the pages, below the documentation."""

ORDER = {
    "first_steps": (
        "plot_gaussian_onto_gaussian.py",
        "plot_jet.py",
        "plot_laplacians.py",
        "plot_four_residuals.py",
        "plot_own_residual.py",
        "plot_own_potential.py",
        "plot_bank.py",
        "plot_collocation.py",
    ),
    "flows_and_densities": (
        "plot_change_of_variables.py",
        "plot_euler_and_ode.py",
        "plot_fold.py",
        "plot_variational_inference.py",
        "plot_two_moons.py",
        "plot_priors.py",
        "plot_score.py",
    ),
    "optimal_transport": (
        "plot_certificate.py",
        "plot_hopf_lax.py",
        "plot_convex_potential.py",
        "plot_distances.py",
        "plot_fit_transport.py",
        "plot_colors.py",
    ),
    "image_sequences": (
        "plot_digits.py",
        "plot_weak_supervision.py",
        "plot_own_sequences.py",
    ),
}
"""The examples of each group, in the order of reading."""

STYLE = {
    "axes.prop_cycle": plt.cycler(color=["#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#475569"]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.figsize": (7.4, 4.1),
    "font.size": 10.5,
    "image.cmap": "viridis",
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.facecolor": "white",
}
"""What the pictures have in common; a script that was downloaded runs without it."""

PICTURE = re.compile(r"\n\.\. image-sg:: [^\n]*\n(?:  +[^\n]*\n)+")
TITLE = re.compile(r"\n(?P<title>[^\n]+)\n(?P<line>=+)\n")


def position(file: str) -> int:
    """Return the place of a script in its group; raise a ValueError if it is not listed."""
    names = [name for group in ORDER.values() for name in group]
    if Path(file).name not in names:
        raise ValueError(f"docs/gallery: expected one of ORDER in docs/gallery_pages.py, got {Path(file).name}")
    return names.index(Path(file).name)


def place(folder: str) -> int:
    """Return the place of a group in the gallery; raise a ValueError if it is not listed."""
    return list(ORDER).index(Path(folder).name)


def style(_configuration: dict[str, Any], _file: str) -> None:
    """Set the look of the pictures before a script runs."""
    plt.rcParams.update(STYLE)


def show_picture_first(_app: Sphinx, page: str, source: list[str]) -> None:
    """Move the first picture of an example to the top of its page, below the title."""
    picture, title = PICTURE.search(source[0]), TITLE.search(source[0])
    if page.startswith(f"{OUT}/") and picture and title and title.end() < picture.start():
        before, between, after = title.end(), picture.start(), picture.end()
        text = source[0]
        source[0] = text[:before] + picture.group() + text[before:between] + text[after:]


def name_everyday_names(_app: Sphinx, env: BuildEnvironment) -> None:
    """Let the names that the library exports at its top lead to their pages, so that the code of examples links."""
    objects = env.domains["py"].objects
    for name in latentflow.__all__:
        entry = objects.get(public_names().get(name))
        if entry is not None:
            objects.setdefault(f"latentflow.{name}", entry._replace(aliased=True))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("source-read", show_picture_first)
    app.connect("env-updated", name_everyday_names)
    app.add_css_file("gallery.css", priority=900)  # after those of sphinx_gallery
    return {"parallel_read_safe": True, "parallel_write_safe": True}
