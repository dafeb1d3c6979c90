"""The pages of the reference, one for each subpackage, written from what the subpackages export.

``docs/conf.py`` calls :func:`write` before every build; a new public name needs no edit of a page.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import latentflow

SUBPACKAGES = ("calculus", "potentials", "flow", "pde", "priors", "transport", "vae", "testing")
FOLDER = Path(__file__).parent / "api"

TABLE = ".. autosummary::\n"
_PAGE = """# {title}

{sentence}

```{{eval-rst}}
{options}
   {names}
```
"""


def pages() -> dict[str, str]:
    """Return the text of each page by its name: that of the everyday names, and one for each subpackage."""
    texts = {"latentflow": _everyday()}
    for name in SUBPACKAGES:
        module = importlib.import_module(f"latentflow.{name}")
        texts[name] = _page(
            module, list(module.__all__), f".. currentmodule:: {module.__name__}\n\n{TABLE}   :toctree: generated\n"
        )
    return texts


def write(folder: Path = FOLDER) -> None:
    """Write the pages into a folder; a page whose text has not changed is left alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        file = folder / f"{name}.md"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def _everyday() -> str:
    homes = {name: home for home in SUBPACKAGES for name in importlib.import_module(f"latentflow.{home}").__all__}
    names = [f"~latentflow.{homes[name]}.{name}" for name in latentflow.__all__ if name in homes]
    return _page(latentflow, names, TABLE)


def _page(module: ModuleType, names: list[str], options: str) -> str:
    sentence = (module.__doc__ or "").strip()
    return _PAGE.format(title=module.__name__, sentence=sentence, options=options, names="\n   ".join(names))
