"""The configuration of Sphinx."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import reference

import latentflow

reference.write()

project = "latentflow"
author = "The latentflow authors"
copyright = f"2026, {author}"
version = release = latentflow.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"latentflow {version}"

myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autosummary_filename_map = {"latentflow.calculus.jet": "latentflow.calculus.jet-function"}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

if os.environ.get("LATENTFLOW_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

# The gallery: docs/gallery_pages.py has the order and the look of the examples.
extensions += ["sphinx_gallery.gen_gallery", "gallery_pages"]
exclude_patterns += ["gallery", "auto_gallery/**/*.ipynb"]
html_static_path = ["_static"]
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
