"""The gallery: its scripts are whole, listed and public. The build of the documentation runs them."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GALLERY = ROOT / "docs" / "gallery"
SCRIPTS = sorted(GALLERY.glob("*/*.py"))
OWN = ("latentflow", "latentflow_experiments")
FACTS = {"assert_close", "check_potential", "check_residual"}
ROLE = re.compile(r":(?:class|func|meth):`~?([\w.]+)`")

each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.stem}")


@pytest.fixture
def pages(monkeypatch):
    """The extension that arranges the gallery, imported as Sphinx imports it."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("gallery_pages")


@cache
def tree_of(script):
    return ast.parse(script.read_text(encoding="utf-8"), script)


def names_of_calls(script):
    """The last names of all that a script calls, in order."""
    calls = [node.func for node in ast.walk(tree_of(script)) if isinstance(node, ast.Call)]
    return [call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls]


def resolve(name):
    """The object of a dotted name, by imports as far as they go."""
    parts = name.split(".")
    found = importlib.import_module(parts[0])
    for n, part in enumerate(parts[1:], start=2):
        found = getattr(found, part, None) or importlib.import_module(".".join(parts[:n]))
    return found


def test_every_script_is_listed_in_its_group(pages):
    """Catches a script that the gallery leaves out, one that is listed twice or gone, and a group without a title."""
    listed = [(group, name) for group, names in pages.ORDER.items() for name in names]
    assert sorted(listed) == sorted((script.parent.name, script.name) for script in SCRIPTS)
    assert len(SCRIPTS) >= 20
    assert [pages.position(name) for _, name in listed] == list(range(len(listed)))
    assert [pages.place(f"gallery/{group}") for group in pages.ORDER] == list(range(len(pages.ORDER)))
    for group in pages.ORDER:
        title, line = (GALLERY / group / "GALLERY_HEADER.rst").read_text(encoding="utf-8").splitlines()[:2]
        assert line == "-" * len(title)
    with pytest.raises(ValueError, match=r"expected one of ORDER in docs/gallery_pages\.py, got plot_nothing\.py"):
        pages.position("plot_nothing.py")


@each_script
def test_a_page_has_a_title_a_text_and_a_formula(script):
    """Catches a page without a heading, one that says nothing of why, and lines that no window holds."""
    compile(tree_of(script), script, "exec")
    text = ast.get_docstring(tree_of(script))
    title, line, *_ = text.splitlines()
    assert line == "=" * len(title)
    assert 20 <= len(title) <= 75
    assert "math" in text
    prose = [part for part in text.split("\n\n")[1:] if not part.startswith((".. ", " ", "* "))]
    assert 2 <= len(prose) <= 6
    assert max(map(len, script.read_text(encoding="utf-8").splitlines())) <= 120


@each_script
def test_a_script_draws_one_picture_states_facts_and_is_seeded(script):
    """Catches an example that would pass with wrong numbers, one that changes by chance, and a second picture."""
    calls = names_of_calls(script)
    asserts = [node for node in ast.walk(tree_of(script)) if isinstance(node, ast.Assert)]
    assert asserts or FACTS.intersection(calls)
    assert {"manual_seed", "default_rng"}.intersection(calls)
    assert calls.count("subplots") + calls.count("subplot_mosaic") == 1
    assert ast.unparse(tree_of(script).body[-1]) == "plt.show()"


@each_script
def test_a_script_imports_public_names_only(script):
    """Catches an example that a reader cannot copy, since it reaches into a module that may change."""
    imports = [node for node in ast.walk(tree_of(script)) if isinstance(node, ast.ImportFrom)]
    own = [node for node in imports if node.module.split(".")[0] in OWN]
    assert own
    for node in own:
        assert node.module.count(".") <= 1
        assert {alias.name for alias in node.names} <= set(importlib.import_module(node.module).__all__)


@each_script
def test_links_of_a_page_lead_to_names_of_the_library(script):
    """Catches a link to a name that was renamed, which Sphinx leaves as plain text without a word."""
    names = ROLE.findall(script.read_text(encoding="utf-8"))
    assert names or "latentflow_experiments" in script.read_text(encoding="utf-8")
    for name in names:
        assert name.startswith("latentflow.")
        assert callable(resolve(name))


def test_the_picture_comes_first(pages):
    """Catches a page whose picture is below its code, a picture that is lost, and other pages that are rewritten."""
    picture = (
        "\n.. image-sg:: /a.png\n   :alt: a\n   :srcset: /a.png, /a_2_00x.png 2.00x\n   :class: sphx-glr-single-img\n"
    )
    page = f"\n.. note:: n\n\nTitle\n=====\n\nText.\n\n.. code-block:: Python\n\n    code\n{picture}\n\nEnd.\n"
    source = [page]
    pages.show_picture_first(None, "auto_gallery/first_steps/plot_jet", source)
    assert source[0].index("=====") < source[0].index("image-sg") < source[0].index("Text.")
    assert source[0].count(picture) == 1
    assert source[0].replace(picture, "") == page.replace(picture, "")
    other = [page]
    pages.show_picture_first(None, "guide/flows", other)
    assert other == [page]


def test_pictures_share_a_look_that_suits_both_modes(pages):
    """Catches a style that is not applied, and a picture whose background is that of a page."""
    with pages.plt.rc_context():
        pages.style({}, "plot_jet.py")
        assert pages.plt.rcParams["savefig.facecolor"] == "white"
        assert pages.plt.rcParams["font.size"] >= 10
