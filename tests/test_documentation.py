"""The links of the documentation, and the check of its layout."""

import re
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

pytest.importorskip("sphinx", reason="the extra docs")

import check_layout  # noqa: E402 - beside the pages
import commands  # noqa: E402
import links  # noqa: E402


def test_names_lead_to_what_they_name():
    """Catches a short name of another package's object, and a method that is no longer there."""
    names = links.public_names()
    assert names["PotentialFlow"] == names["latentflow.PotentialFlow"] == "latentflow.flow.PotentialFlow"
    assert names["pde.InBox"] == "latentflow.pde.InBox"
    assert names["Flow.follow"] == "latentflow.flow.Flow.follow"
    assert names["latentflow.pde.residual.PDEResidual"] == "latentflow.pde.PDEResidual"


def test_inventories_are_in_the_format_of_sphinx(tmp_path):
    """Catches an inventory that Sphinx cannot read, so that all links to torch are lost."""
    address, file = links.write_inventories(tmp_path)["torch"]
    head, _, body = Path(file).read_bytes().partition(b"# compressed by zlib\n")
    assert head.startswith(b"# Sphinx inventory version 2\n# Project: torch\n")
    lines = zlib.decompress(body).decode().splitlines()
    assert "torch.Generator py:class 1 generated/torch.Generator.html#$ -" in lines
    assert address.startswith("https://docs.pytorch.org/")


def test_the_terms_of_the_glossary():
    """Catches a term that is defined and never linked, as a changed directive would have it."""
    terms = dict(links._terms(ROOT / "docs" / "glossary.md"))
    assert terms["fold"] == "Fold"
    assert terms["log-determinant"] == "Log-determinant"
    text = (ROOT / "docs" / "glossary.md").read_text()
    assert len(terms) == len(re.findall(r"^[A-Z].*\n  \S", text, flags=re.MULTILINE)) > 10


@pytest.mark.skipif(check_layout.find_browser() is None, reason="chromium is not on PATH")
def test_the_layout_check_finds_what_is_wrong(tmp_path):
    """Catches a check that finds nothing: a page that is too wide, a lost picture, and a formula that is not drawn."""
    page = (
        "<!doctype html><meta name=viewport content='width=device-width'><body style='margin:0'><article>{}</article>"
    )
    wide = "<p style='width:700px'>wide</p>"
    framed = "<div style='overflow-x:auto'><p style='width:3000px'>framed</p></div>"
    for name, body in {
        "good": framed,
        "wide": wide,
        "picture": "<img src='none.png'>",
        "formula": "<span class='math'>x</span>",
    }.items():
        (tmp_path / f"{name}.html").write_text(page.format(body))
    found = {(entry["page"], entry["width"]) for entry in check_layout.check(tmp_path, check_layout.find_browser())}
    both = {(name, width) for name in ("picture.html", "formula.html") for width in check_layout.WIDTHS}
    assert found == {("wide.html", 390), *both}
    assert not (tmp_path / "layout-check.html").exists()


def test_the_page_of_a_command_has_all_its_options():
    """Catches a help that is read wrongly: an option that is lost, or its text at another one."""
    head, groups = commands.parse(commands.ask("generate"))
    assert head == "Transform images by the flows of an evaluated run: frames and a picture."
    options = {name: about for group in groups for name, about in group.options}
    assert options["--count INT"] == "Test images to take, at most. (default: 8)"
    assert options["PATH"] == "Folder of the run. (required)"
    assert {"--device STR", "--trust", "--images [PATH [PATH ...]]", "--data {None}|PATH"} <= options.keys()
    assert [group.about for group in groups if group.title == "source options"] == ["Where the data is."]
    page = commands.pages()["train"]
    assert "Go on from the checkpoint in `--out`." in page  # else two dashes become one long one
    fields = [line for line in page.splitlines() if line.startswith("`--")]
    assert len(fields) == len({line.split()[0] for line in fields}) > 40
    assert set(commands.names()) <= set(commands.EXAMPLES)
