"""The code and the commands that the documents show."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/guide/*.md"))]


def blocks(document: Path, language: str) -> list[tuple[int, str]]:
    """The fenced blocks of one language, each with the number of lines above it."""
    text = document.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)), match.group(1)) for match in found]


CODE = [
    pytest.param(document, above, code, id=f"{document.relative_to(ROOT)}:{above}")
    for document in DOCUMENTS
    for above, code in blocks(document, "python")
]


@pytest.mark.parametrize(("document", "above", "code"), CODE)
def test_shown_code_runs(document, above, code, tmp_path, monkeypatch):
    """Catches an example that no longer matches the package; the tests shown as examples run too."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    exec(compile("\n" * above + code, document, "exec"), namespace)
    for name, shown in namespace.items():
        if name.startswith("test_"):
            shown()


def test_readme_shows_code_and_the_two_commands():
    """Catches a README whose commands `.ci/run` would not find, or that lost its example."""
    assert blocks(ROOT / "README.md", "python")
    assert [code for _, code in blocks(ROOT / "README.md", "bash")] == [
        'pip install -c constraints.txt -e ".[experiments]" && latentflow train digits\n',
        'pip install -c constraints.txt -e ".[dev]" && pytest\n',
    ]
