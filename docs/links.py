"""Links that authors need not write: from names in the text to the reference, and from terms to the glossary.

As an extension of Sphinx it makes three kinds of links. A name in typewriter letters that the library exports, such as
``PotentialFlow`` or ``latentflow.pde.InBox``, leads to its page; so does a name in a docstring without its module. The
first use of a term of the glossary on a page leads to the glossary. Names of torch and of the standard library lead to
their documentation by an inventory that is written here, so that a build needs no network.
"""

from __future__ import annotations

import importlib
import inspect
import re
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from reference import SUBPACKAGES
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

OTHERS: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "torch": (
        "2.13",
        "https://docs.pytorch.org/docs/stable/",
        {
            "class torch.Tensor": "tensors.html",
            "class torch.Size": "size.html",
            "class torch.dtype": "tensor_attributes.html",
            "class torch.device": "tensor_attributes.html",
            "class torch.Generator": "generated/torch.Generator.html",
            "class torch.nn.Module": "generated/torch.nn.Module.html",
            "function torch.compile": "generated/torch.compile.html",
            "class torch.distributions.distribution.Distribution": "distributions.html",
            "class torch.distributions.categorical.Categorical": "distributions.html",
            "class torch.distributions.multivariate_normal.MultivariateNormal": "distributions.html",
            "class torch.distributions.transforms.Transform": "distributions.html",
        },
    ),
    "python": (
        "3",
        "https://docs.python.org/3/",
        {
            "class collections.abc.Callable": "library/collections.abc.html",
            "class collections.abc.Iterator": "library/collections.abc.html",
            "class collections.abc.Mapping": "library/collections.abc.html",
            "class collections.abc.Sequence": "library/collections.abc.html",
            "class abc.ABC": "library/abc.html",
            "class datetime.timedelta": "library/datetime.html",
            "class enum.Flag": "library/enum.html",
            "class pathlib.Path": "library/pathlib.html",
        },
    ),
}
"""For each project its version, its address, and the page of each name."""

SPELLINGS = {
    "torch._C.Generator": "torch.Generator",
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "Tensor": "torch.Tensor",
    "Distribution": "torch.distributions.distribution.Distribution",
}
"""Names as annotations have them, and as the documentation of torch lists them."""


def write_inventories(folder: Path) -> dict[str, tuple[str, str]]:
    """Write an inventory of each of the other projects in the format of Sphinx; return the mapping for intersphinx."""
    folder.mkdir(parents=True, exist_ok=True)
    mapping = {}
    for name, (version, address, pages) in OTHERS.items():
        lines = []
        for entry, page in pages.items():
            role, target = entry.split()
            lines.append(f"{target} py:{role} 1 {page}#$ -\n")
        head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: {version}\n# compressed by zlib\n"
        (folder / f"{name}.inv").write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
        mapping[name] = (address, str(folder / f"{name}.inv"))
    return mapping


@cache
def public_names() -> dict[str, str]:
    """Return the full name of each public object by each way to write it: short, with its package, as a method."""
    found = {}
    for package in SUBPACKAGES:
        module = importlib.import_module(f"latentflow.{package}")
        for name in module.__all__:
            full = f"latentflow.{package}.{name}"
            value = getattr(module, name)
            found |= dict.fromkeys((name, f"latentflow.{name}", full, f"{package}.{name}"), full)
            found[f"{getattr(value, '__module__', '')}.{name}"] = full
            if inspect.isclass(value):
                members = [member for member in dir(value) if not member.startswith("_")]
                found |= {f"{name}.{member}": f"{full}.{member}" for member in members}
    return found


def resolve(_app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Element | None:
    """Resolve a name of a docstring or an annotation that is written without its package."""
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    full = SPELLINGS.get(target) or public_names().get(target, target)
    if full == target and not target.startswith("latentflow."):
        return None
    again = _pending("py", "obj", full, node["refdoc"])
    again += content.deepcopy()
    if full.startswith("latentflow."):
        domain = env.domains["py"]
        for name in (full, full.rpartition(".")[0]):  # a member without an entry of its own leads to its class
            found = domain.resolve_any_xref(env, node["refdoc"], env.app.builder, name, again, content)
            if found:
                return found[0][1]
        return None
    from sphinx.ext.intersphinx import missing_reference  # noqa: PLC0415 - only with intersphinx

    return missing_reference(env.app, env, again, content)


def link(app: Sphinx, tree: nodes.document) -> None:
    """Turn names and terms of a page of text into references."""
    page = app.env.docname
    if page.startswith(("api", "auto_gallery")):
        return
    names = public_names()
    for literal in list(tree.findall(nodes.literal)):
        text = literal.astext().removesuffix("()")
        if text in names and not _is_linked(literal):
            reference = _pending("py", "obj", names[text], page)
            literal.replace_self(reference)
            reference += literal
    if page != "glossary":
        _link_terms(app, tree, page)


def _pending(domain: str, role: str, target: str, page: str) -> pending_xref:
    """Make a reference that Sphinx resolves later, without content."""
    return pending_xref(
        "", refdomain=domain, reftype=role, reftarget=target, refdoc=page, refexplicit=True, refwarn=True
    )


def _is_linked(node: nodes.Node) -> bool:
    return any(isinstance(parent, (nodes.reference, nodes.title, pending_xref)) for parent in _parents(node))


def _parents(node: nodes.Node) -> Iterator[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


def _link_terms(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Link the first use of each term in a paragraph."""
    left = dict(_terms(Path(app.srcdir) / "glossary.md"))
    for text in list(tree.findall(nodes.Text)):
        if not isinstance(text.parent, nodes.paragraph) or _is_linked(text):
            continue
        pieces: list[nodes.Node] = [text]
        for word, term in list(left.items()):
            for place, piece in enumerate(pieces):
                found = isinstance(piece, nodes.Text) and re.search(rf"\b{re.escape(word)}s?\b", piece.astext())
                if found:
                    whole = piece.astext()
                    reference = _pending("std", "term", term, page)
                    reference += nodes.inline("", found.group(), classes=["xref", "std", "std-term"])
                    ends = [nodes.Text(whole[: found.start()]), reference, nodes.Text(whole[found.end() :])]
                    pieces[place : place + 1] = ends
                    del left[word]
                    break
        if len(pieces) > 1:
            text.parent.replace(text, pieces)


@cache
def _terms(file: Path) -> tuple[tuple[str, str], ...]:
    """List the terms of the glossary, as they are written in a sentence and as they are listed."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    block = "\n".join(lines).partition("```{glossary}")[2].partition("```")[0]
    terms = [line for line in block.splitlines() if line and not line.startswith((" ", ":"))]
    return tuple((term[0].lower() + term[1:] if term[1:2].islower() else term, term) for term in terms)


def readable_signature(  # the arguments of the event
    _app: Sphinx, what: str, _name: str, _value: object, _options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Write a signature as one would: nothing for a class without a constructor, a name for a made default."""
    if what == "class" and signature == "(*args, **kwargs)":
        return "", returns
    if signature:
        signature = signature.replace("<factory>", "...")
        signature = re.sub(r"<(\w+): 0>", r"\1(0)", signature)
        signature = re.sub(r"<(\w+\.\w+): [^>]*>", r"\1", signature)
    return signature, returns


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the links to a build."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("missing-reference", resolve)
    app.connect("doctree-read", link)
    app.connect("autodoc-process-signature", readable_signature)
    return {"parallel_read_safe": True}
