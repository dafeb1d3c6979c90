"""The measurement of training in several processes, and the script for accelerators."""

import json

import pytest
import torch
from matplotlib import image

from benchmarks import gpu, scaling, scaling_worker
from benchmarks.scaling import Run, StepTime


def runs_of(model, case, parameters):
    """The runs that a model of the time predicts, where two processes on one machine slow each other by 10 %."""
    message = 4 * parameters / model.bandwidth + 2 * model.latency
    alone = StepTime(model.fixed, model.each, 0.0, 1.0, 0.0, 0.0)

    def seconds(processes, batch, strategy, parts):
        computed = parts * alone(1, batch / processes / parts) * (1.0 if strategy == "auto" else 1.1)
        return computed + (model.exposed * message if processes > 1 else 0.0)

    return [
        Run(name, count, *rest, parameters, seconds(count, *rest), message * (count - 1), 100.0)
        for name, count, *rest in scaling.plan()
        if name == case
    ]


LOSSES = {"mnist": [[5.0, 3.5, 3.0], [4.0, 3.5, 2.0]]}


def predicted():
    """A model, and the runs of all cases that it predicts."""
    model = StepTime(0.02, 0.001, 4e6, 2e8, 50e-6, 0.7)
    return model, [run for case in scaling.BATCHES for run in runs_of(model, case, 10**6)]


def test_the_model_is_recovered_from_what_it_predicts():
    """Catches a bandwidth of bits, a batch of all processes for that of one, and a share of another time."""
    model, runs = predicted()
    for case in scaling.BATCHES:
        found = scaling.fit(runs, case)
        for name in ("fixed", "each", "message", "bandwidth", "exposed"):
            assert getattr(found, name) == pytest.approx(getattr(model, name), rel=1e-9)


def test_a_ring_sends_each_number_twice():
    """Catches a message that grows with the processes, and one that does not depend on them."""
    model = StepTime(0.0, 1.0, 1e6, 1e6, 0.0, 1.0)
    assert [model(count, 0.0) for count in (1, 2, 4, 1000)] == pytest.approx([0, 1, 1.5, 1.998])
    latency = StepTime(0.0, 1.0, 0.0, 1.0, 0.25, 1.0)
    assert [latency(count, 0.0) for count in (1, 2, 5)] == [0, 0.5, 2]


def test_the_table_says_what_the_runs_took():
    """Catches an efficiency of other work, beside a run with other parts, and a row that is left out."""
    model, runs = predicted()
    batch = scaling.BATCHES["mnist"]
    rows = [[cell.strip() for cell in line.split("|")] for line in scaling.tables(runs).splitlines() if "mnist" in line]
    assert len(rows) == 8
    alone, half, message = model(1, batch), model(1, batch / 2), model(2, batch) - model(1, batch)
    pairs = [  # of the time that one process needs for as many sequences, and two apart, to that of two together
        (alone / 2, 1.1 * alone / 2, 1.1 * half + message),
        (alone, 1.1 * alone, 1.1 * alone + message),
        (alone, 1.1 * alone, 1.1 * alone + message),
        (4 * alone, 4 * 1.1 * alone, 4 * 1.1 * alone + message),
    ]
    found = [tuple(float(cell) for cell in row[6:8]) for row in rows if row[2].startswith("2,")]
    for found_pair, (one, two, together) in zip(found, pairs, strict=True):
        assert found_pair == pytest.approx((one / together, two / together), abs=0.0051)
    assert rows[-1][3] == f"{8 * batch} in 8"


def test_the_picture_and_the_page_are_written(tmp_path, monkeypatch):
    """Catches a page without its tables, and a picture that cannot be drawn."""
    _, runs = predicted()
    facts = {"processor": "P", "cores": 2, "libraries": {"torch": "2"}, "date": "2026-11-28T00:00:00", "commit": "abc"}
    (tmp_path / "scaling.json").write_text(
        json.dumps({"provenance": facts, "runs": [scaling.asdict(run) for run in runs], "losses": LOSSES})
    )
    page = tmp_path / "scaling.md"
    blocks = ("measured", "losses", "machine", "model")
    page.write_text("".join(f"<!-- begin {name} -->\n\n<!-- end -->\n\n" for name in blocks))
    for name, path in (("NUMBERS", "scaling.json"), ("PAGE", "scaling.md"), ("PICTURE", "scaling.png")):
        monkeypatch.setattr(scaling, name, tmp_path / path)
    scaling.main(["--render"])
    assert scaling.tables(runs) in page.read_text()
    assert "commit `abc`" in page.read_text()
    row = page.read_text().partition("begin losses")[2].partition("`mnist`")[2]
    assert [cell.strip() for cell in row.split("|")[1:5]] == ["5.000", "4.000", "3.000", "2.000"]
    assert image.imread(tmp_path / "scaling.png").shape[1] == 1320


def test_a_worker_measures_its_steps(capsys, monkeypatch):
    """Catches a line that is not JSON, and steps that are not counted."""
    monkeypatch.setattr(scaling_worker, "STEPS", 2)
    monkeypatch.setattr(scaling_worker, "WARM_UP", 1)
    monkeypatch.setattr("sys.argv", ["scaling_worker", "mnist", "4", "auto", "2"])
    threads = torch.get_num_threads()
    scaling_worker.main()
    torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(found["seconds"]) == 2
    assert len(found["losses"]) == 3
    assert found["processes"] == 1
    assert found["memory"] >= found["before"] > 0


def test_the_script_for_a_gpu_runs_on_the_cpu(capsys):
    """Catches a script that nobody ran for lack of a GPU, and a comparison that compares nothing."""
    gpu.main(["--device", "cpu", "--quick"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + len(list(gpu.tasks(quick=True)))
    assert all(0 <= float(line.split("|")[6]) < 0.05 for line in lines[1:])
    with pytest.raises(AssertionError, match="jets"):
        gpu.check_close([torch.ones(2)], [torch.zeros(2)], 1e-3, "jets")
