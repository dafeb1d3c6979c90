"""The code and the commands that the documents show."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "docs/index.md",
    *sorted(ROOT.glob("docs/guide/*.md")),
    *sorted(ROOT.glob("docs/concepts/*.md")),
]


def blocks(document: Path, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of one language, each with the number of lines above it."""
    text = document.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)), match.group(1)) for match in found]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shown_code_runs(document, tmp_path, monkeypatch):
    """Catches an example that no longer matches the package; a later block may use what an earlier one defines."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for above, code in blocks(document, "python"):
        before = set(namespace)
        exec(compile("\n" * above + code, document, "exec"), namespace)
        for name in set(namespace) - before:
            if name.startswith("test_"):  # the tests shown as examples run too
                namespace[name]()


def test_readme_shows_code_and_the_two_commands():
    """Catches a README whose commands `.ci/run` would not find, or that lost its example."""
    assert blocks(ROOT / "README.md", "python")
    assert [code for _, code in blocks(ROOT / "README.md", "bash")] == [
        'pip install -c constraints.txt -e ".[experiments]" && latentflow train digits\n',
        'pip install -c constraints.txt -e ".[dev]" && pytest\n',
    ]
