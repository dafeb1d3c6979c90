"""How campaigns judge and count: what is a fault, what the table says, and the exit code."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("resource", reason="limits the memory of a process")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

from robustness import __main__ as command  # noqa: E402 - not on every system
from robustness import record, run_mutations  # noqa: E402
from robustness.commands import Ended, Outcome, misbehaviour, summary  # noqa: E402
from robustness.tiny import leftovers, strict_json, weights  # noqa: E402

FINE = Ended(0, "a table\n", " 50%|#####     |\r100%|##########|\n", 1.0, 9, hung=False)
LINE = "latentflow: error: config.json: expected a number, got 'x'\n"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"code": 1, "err": FINE.err + LINE}, None),
        ({"code": 2, "err": "a warning\n" + LINE}, None),
        ({"code": 130}, None),
        ({"code": -15}, None),
        ({"code": -2}, None),
        ({"code": 1}, "0 lines of error"),
        ({"code": 1, "err": LINE + LINE}, "2 lines of error"),
        ({"code": 1, "err": LINE.replace("x", "\x1b[2J")}, "not fit for a terminal"),
        ({"code": 1, "err": LINE.replace("x", "x" * 9000)}, "not fit for a terminal"),
        ({"err": LINE}, "exit code 0 with a line of error"),
        ({"code": 1, "err": "Traceback (most recent call last):\nKeyError: 1\n" + LINE}, "a traceback"),
        ({"code": -11}, "exit code -11"),
        ({"code": 3}, "exit code 3"),
    ],
)
def test_what_is_wrong_with_the_way_a_command_ended(changes, fault):
    """Catches a campaign that takes a traceback, silence or two lines for a refusal."""
    found = misbehaviour(replace(FINE, **changes))
    assert found is None if fault is None else fault in found


def test_nan_is_no_json():
    """Catches a check of results by a reader that takes NaN."""
    assert strict_json('{"a": [1.5, null]}') == {"a": [1.5, None]}
    for text in ('{"a": NaN}', "[-Infinity]", "{"):
        with pytest.raises(ValueError, match=r"JSON|Expecting"):
            strict_json(text)


@pytest.fixture
def folder(tmp_path):
    """Something with the files of a run."""
    run = tmp_path / "original" / "run"
    run.mkdir(parents=True)
    config = {"seed": 0, "model": {"pde": "hj", "hidden": [3]}}
    (run / "config.json").write_text(json.dumps(config))
    (run / "environment.json").write_text(json.dumps([config]))
    for name in ("evaluation.json", "likelihood.json"):
        (run / name).write_text(json.dumps({"result": {"a": 1.0}, "provenance": {"run": config}}))
    (run / "metrics.jsonl").write_text('{"step": 5}\n{"step": 10}\n')
    tensors = {name: {"dtype": "F32", "shape": [2], "data_offsets": [8 * i, 8 * i + 8]} for i, name in enumerate("ab")}
    run_mutations._write_tensors(run / "checkpoint.safetensors", tensors, np.arange(4, dtype="<f4").tobytes())
    shutil.copy(run / "checkpoint.safetensors", run.parent / "wider.safetensors")
    (run / "strips.png").write_bytes(b"\x89PNG" * 9)
    (run / "events.out").write_bytes(b"x" * 30)
    return run


def test_the_same_seed_is_the_same_damage(folder, tmp_path):
    """Catches commands of one case that are tried on folders damaged in different ways."""
    done = set()
    for case in range(60):
        seen = []
        for _ in range(2):
            place = tmp_path / "place"
            place.mkdir()
            run = shutil.copytree(folder, place / "run")
            what = run_mutations.mutate(run, folder.parent, np.random.default_rng([7, case]))
            files = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file() and p.stat().st_size < 2**26}
            seen.append((what, {name: data for name, data in files.items() if name != "zero"}))
            run.chmod(0o700)
            shutil.rmtree(place)
        assert seen[0] == seen[1]
        done.add(seen[0][0].partition(":")[0])
    assert len(done) > 6


def test_weights_and_leftovers(folder):
    """Catches a comparison that a changed bit passes, and a temporary that counts as a checkpoint or not at all."""
    before = weights(folder)
    assert [key.partition(":")[2] for key in before] == ["a", "b"]
    (folder / ".checkpoint.safetensors.abcdefgh.safetensors").touch()
    assert weights(folder) == before
    assert leftovers(folder) == [".checkpoint.safetensors.abcdefgh.safetensors"]
    path = folder / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert [key for key, value in weights(folder).items() if value != before[key]] == ["checkpoint.safetensors:b"]


def outcomes(*names):
    return [Outcome(i, "a kind", "something", name, "why", 0.5) for i, name in enumerate(names)]


def test_a_case_that_was_skipped_does_not_count():
    """Catches a table in which what was not tried has held."""
    found = record.count(["fine", "skipped", "bad", "fine"], ("fine", "skipped", "bad"), ("bad",), 3)
    assert (found.tried, found.held, found.seed) == (3, 2, 3)
    assert found.outcomes == {"fine": 2, "skipped": 1, "bad": 1}
    assert summary(outcomes("fine", "bad"), ("fine", "bad")).splitlines()[1].split() == ["a", "kind", "1", "1"]


def test_the_page_is_that_of_the_record(tmp_path):
    """Catches a table edited by hand, and paths of a machine in the record."""
    page = record.PAGE.read_text(encoding="utf-8")
    assert record.render(record.load(), page) == page
    counts = {"kills": record.count(["identical", "lost"], ("identical", "lost"), ("lost",), 0)}
    record.save(counts, tmp_path / "counts.json")
    assert record.load(tmp_path / "counts.json") == counts
    assert "/" not in (tmp_path / "counts.json").read_text()
    assert "identical 1, lost 1" in record.block(counts)
    assert record.block(counts).count("not tried yet") == len(record.TITLES) - 1


def test_every_campaign_has_its_line():
    """Catches a campaign that the page leaves out."""
    assert list(record.TITLES) == list(command.CAMPAIGNS)
    for campaign in command.CAMPAIGNS.values():
        assert set(campaign.module.BAD) < set(campaign.module.OUTCOMES)


@pytest.mark.parametrize(("names", "code"), [(("identical",), 0), (("identical", "lost"), 1)])
def test_the_exit_code_says_whether_all_held(names, code, monkeypatch, tmp_path, capsys):
    """Catches a campaign that finds faults and succeeds."""
    fake = replace(command.CAMPAIGNS["kills"], run=lambda cases, seed: outcomes(*names))
    monkeypatch.setitem(command.CAMPAIGNS, "kills", fake)
    assert command.main(["kills", "--json", str(tmp_path / "all.json")]) == code
    assert [one["outcome"] for one in json.loads((tmp_path / "all.json").read_text())["kills"]] == list(names)
    out = capsys.readouterr().out
    assert ("lost: why" in out) == bool(code)
    assert out.splitlines()[-1].split() == ["|", "kills", "|", str(len(names)), "|", "1", "|"]


@pytest.mark.parametrize("arguments", [[], ["fire"], ["kills", "--cases", "0"]])
def test_nonsense_is_a_usage_error(arguments):
    """Catches a command that does nothing and succeeds."""
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
