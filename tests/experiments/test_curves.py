"""The picture of errors against the time of training."""

import json

import pytest
from matplotlib.figure import Figure

from latentflow_experiments.configuration import TrainConfig
from latentflow_experiments.errors import ExperimentError
from latentflow_experiments.reports.curves import draw_curves, read_curves, validation_table
from latentflow_experiments.runs import RunFolder


def write_run(path, errors, seed=0):
    """Write a folder with a log of errors at 1, 2, ... minutes, among records of the loss."""
    folder = RunFolder(path)
    folder.create(TrainConfig("digits", seed=seed))
    records = [{"step": 1, "seconds": 3.0, "reconstruction": 7.0}]
    for minute in range(len(next(iter(errors.values())))):
        values = {f"validation/{name}": found[minute] for name, found in errors.items()}
        records.append({"step": 10 * (minute + 1), "seconds": 60.0 * (minute + 1), **values})
    folder.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_curves_are_those_of_the_log(tmp_path, monkeypatch):
    """Catches seconds for minutes, the loss for an error, a run under another name, and panels out of order."""
    first = write_run(tmp_path / "a", {"scaling": [9.0, 5.0], "rotation": [8.0, 4.0]})
    second = write_run(tmp_path / "b", {"scaling": [7.0, 3.0], "rotation": [6.0, 2.0]}, seed=1)
    assert read_curves(first) == {"scaling": ([1.0, 2.0], [9.0, 5.0]), "rotation": ([1.0, 2.0], [8.0, 4.0])}
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: drawn.append(self) or save(self, *args, **kwargs)
    )
    draw_curves([first, second], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    panels = drawn[0].axes
    assert [panel.get_title() for panel in panels] == ["scaling", "rotation"]
    lines = {line.get_label(): line.get_xydata().tolist() for line in panels[1].get_lines()}
    assert lines == {"digits --seed 0": [[1, 8], [2, 4]], "digits --seed 1": [[1, 6], [2, 2]]}


def test_the_table_has_the_last_errors(tmp_path):
    """Catches the best error for the last one, and a time in seconds."""
    runs = [write_run(tmp_path / str(seed), {"hue": [9.0, 5.0 + seed, 7.0 + seed]}, seed) for seed in (0, 1)]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in validation_table(runs).splitlines()]
    assert rows[0] == ["run", "minutes", "validation hue"]
    assert rows[2:] == [["`digits --seed 0`", "3.0", "7.0"], ["`digits --seed 1`", "3.0", "8.0"]]


def test_what_cannot_be_drawn_is_refused(tmp_path):
    """Catches an empty panel for a run without such errors, and curves of different things in one panel."""
    run = write_run(tmp_path / "a", {"scaling": [9.0]})
    other = write_run(tmp_path / "b", {"hue": [9.0]})
    with pytest.raises(ExperimentError, match=r"b: expected errors of scaling, got hue$"):
        draw_curves([run, other], tmp_path / "curves.png")
    other.metrics.write_text(json.dumps({"step": 1, "seconds": 1.0}) + "\n")
    with pytest.raises(ExperimentError, match=r"expected errors on validation sequences, got none; train with"):
        draw_curves([run, other], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()
