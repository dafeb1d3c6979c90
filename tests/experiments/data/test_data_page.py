"""The page on data says what the code does."""

import re
from pathlib import Path

import pytest
from test_factor_sequences import Numbered

from latentflow_experiments.data import DATASETS, FAMILIES
from latentflow_experiments.data.factors import SPLITS, FactorSequences
from latentflow_experiments.reports.tables import table

PAGE = Path(__file__).parents[3] / "docs" / "guide" / "data.md"


def cells(text):
    """The cells of the rows of a table in Markdown."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


def splits_table():
    """Count the sequences of every split of every family."""
    rows = [("", "sequences", *SPLITS)]
    for family in FAMILIES.values():
        counts = []
        for split in SPLITS:
            data = FactorSequences(Numbered(family), family, split)
            counts.append(sum(len(data.starts(k)) for k in range(len(data.names))))
        names, sizes = family.grid.names, family.grid.sizes
        every = sum(len(family.grid) // sizes[names.index(name)] for name in family.transformations)
        rows.append((f"`{family.name}`", f"{every:,}", *(f"{count:,} ({count / every:.1%})" for count in counts)))
    return table(rows[0], rows[1:], left=0)


def test_the_splits():
    """Catches numbers that are not those of the draw."""
    page = PAGE.read_text(encoding="utf-8")
    block = re.search(r"<!-- begin splits -->\n(.*?)<!-- end -->", page, flags=re.DOTALL)
    assert block[1].strip() == splits_table()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda f: f.name)
def test_the_families(family):
    """Catches a number of images, a shape or a number of steps that is another one."""
    rows = {row[0]: row for row in cells(PAGE.read_text(encoding="utf-8")) if len(row) == 7}
    _, _, shape, images, transformations, steps, _ = rows[f"`{family.name}`"]
    assert shape == "x".join(map(str, family.shape))
    assert images == f"{len(family.grid):,}"
    assert int(steps) == FactorSequences(Numbered(family), family).steps
    assert len(re.split(r"[,;] ", transformations)) == len(family.transformations)


def test_the_checksums_and_sheets():
    """Catches the checksum of another file, and a picture that is not there."""
    page = PAGE.read_text(encoding="utf-8")
    for files in (dataset.originals for dataset in DATASETS.values()):
        for file in files:
            assert f"`{file.sha256[:8]}...`" in page
    pictures = re.findall(r"!\[[^\]]+\]\((\.\./data/\w+\.png)\)", page)
    assert len(pictures) == 6
    for picture in pictures:
        assert (PAGE.parent / picture).read_bytes().startswith(b"\x89PNG")


if __name__ == "__main__":
    print(splits_table())
