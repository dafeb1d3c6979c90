"""The configuration of Sphinx."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import commands
import links
import reference

import latentflow

reference.write()
commands.write()

project = "latentflow"
author = "The latentflow authors"
copyright = f"2026, {author}"
version = release = latentflow.__version__

extensions = [
    "links",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "results/tuning.md", "results/reproduction/report.md", "results/reproduction/*/report.md"]
templates_path = ["_templates"]

nitpicky = True
nitpick_ignore = [  # private, and named in annotations of what is public
    ("py:class", "Activation"),
    ("py:class", "Followable"),
    ("py:class", "latentflow.calculus.estimators.ExactWithProbe"),
    ("py:class", "latentflow.calculus.estimators.FixedHutchPlusPlus"),
    ("py:class", "latentflow.pde.equations.DriftDiffusion"),
    ("py:class", "latentflow.potentials.features._Waves"),
    ("py:class", "latentflow.vae.bounds.Assignment"),
    ("py:class", "latentflow.vae.bounds.DeterministicBound"),
    ("py:class", "latentflow.vae.bounds.Enumerated"),
    ("py:class", "latentflow.vae.bounds.Mixed"),
    ("py:class", "latentflow.vae.bounds.StochasticTrajectory"),
]
html_theme = "furo"
html_title = f"latentflow {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autosummary_filename_map = {"latentflow.calculus.jet": "latentflow.calculus.jet-function"}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # the source text, not the memory address of an object
autodoc_typehints = "description"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

intersphinx_mapping = links.write_inventories(Path(__file__).parent / "api" / "inventories")

# The gallery: docs/gallery_pages.py has the order and the look of the examples.
extensions += ["sphinx_gallery.gen_gallery", "gallery_pages"]
exclude_patterns += ["gallery", "auto_gallery/**/*.ipynb"]
sphinx_gallery_conf = {
    "abort_on_example_error": True,
    "backreferences_dir": "api/backreferences",
    "doc_module": ("latentflow",),
    "examples_dirs": ["gallery"],
    "gallery_dirs": ["auto_gallery"],
    "image_srcset": ["2x"],
    "min_reported_time": 0,
    "plot_gallery": True,
    "reference_url": {"latentflow": None},
    "reset_modules": ("matplotlib", "gallery_pages.style"),
    "show_memory": False,
    "show_signature": False,
    "subsection_order": "gallery_pages.place",
    "thumbnail_size": (480, 270),
    "within_subsection_order": "gallery_pages.position",
}
