"""Run folders in the hands of strangers: damaged, owned by others, made with code, stopped too early."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_run import SMALL, complaint

from latentflow_experiments.checkpoints import read_checkpoint
from latentflow_experiments.cli import main
from latentflow_experiments.errors import ExperimentError, UsageError
from latentflow_experiments.records import read_json, write_json
from latentflow_experiments.residuals import build_residual
from latentflow_experiments.runs import RunFolder, check_run

pytestmark = pytest.mark.usefixtures("few_digits")

CODE = """from pathlib import Path
from latentflow import HJResidual
Path(r'{marker}').touch()
class Mine(HJResidual): pass
"""


@pytest.mark.parametrize("name", ["config.json", "environment.json", "evaluation.json", "checkpoint.safetensors"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_found(run, name, place, capsys):
    """Catches A7: other weights or another configuration after one bit has changed, and exit 0."""
    path = run / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    assert [state.path.name for state in check_run(RunFolder(run)) if state.fault] == [name]
    assert main(["check", str(run)]) == 1
    assert "1 file that is damaged" in complaint(capsys)
    commands = {"evaluation.json": ["compare"], "environment.json": ["evaluate"]}
    assert main([*commands.get(name, ["evaluate"]), str(run)]) == 1
    assert name in complaint(capsys)


def test_a_check_finds_what_later_commands_refuse(run, capsys):
    """Catches a check that passes a checkpoint of another model, a log of other text and a lost evaluation."""
    assert main(["check", str(run)]) == 0
    config = read_json(run / "config.json", "a configuration")
    write_json(run / "config.json", config | {"model": config["model"] | {"width": 9}})
    (run / "metrics.jsonl").write_text('{"step": 50}\n', encoding="utf-16")
    (run / "evaluation.json").unlink()
    faults = {state.path.name: state.fault for state in check_run(RunFolder(run)) if state.fault}
    assert set(faults) == {"checkpoint.safetensors", "metrics.jsonl", "evaluation.json"}
    assert "another architecture" in faults["checkpoint.safetensors"]
    assert "latentflow evaluate" in faults["evaluation.json"]
    assert main(["check", str(run)]) == 1
    assert "3 files that are damaged" in complaint(capsys)


def test_weights_that_are_not_numbers_are_refused(run, capsys):
    """Catches A7: a NaN weight that ends as NaN in evaluation.json."""
    tensors, progress = read_checkpoint(run / "checkpoint.safetensors")
    from latentflow_experiments.checkpoints import SUM, _sum_of  # noqa: PLC0415 - a file with a right checksum

    name = next(name for name in tensors if name.startswith("model.") and tensors[name].is_floating_point())
    tensors[name].view(-1)[0] = math.nan
    text = json.dumps({"steps": progress.steps, "seconds": progress.seconds})
    save_file(tensors, run / "checkpoint.safetensors", {"progress": text, SUM: _sum_of(tensors, text)})
    before = (run / "evaluation.json").read_bytes()
    assert main(["evaluate", str(run)]) == 1
    assert f"NaN or infinity in {name}" in complaint(capsys)
    assert (run / "evaluation.json").read_bytes() == before


def test_json_never_holds_nan(tmp_path):
    """Catches A7: a file that no other program can read, and a NaN that is taken for a result."""
    path = tmp_path / "a.json"
    write_json(path, {"ratio": math.inf, "list": [1, (2.5, None)], "text": "\x1b[31m"})
    assert read_json(path, "numbers") == {"ratio": None, "list": [1, [2.5, None]], "text": "\x1b[31m"}
    with pytest.raises(ExperimentError, match=r"a\.json: result: rate: expected a number, got NaN"):
        write_json(path, {"result": {"rate": math.nan}})
    assert read_json(path, "numbers")["list"] == [1, [2.5, None]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": 1, "a": 2}',
        "[" * 200_000,
        '{"a": 1}',
        '{"a": 1, "sha256": "0"}',
    ],
)
def test_damaged_json_is_one_line(tmp_path, text):
    """Catches C1: what json, recursion and unicode raise, which nobody listed."""
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ExperimentError, match=r"a\.json: expected "):
        read_json(path, "numbers")


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
@pytest.mark.parametrize("name", ["config.json", "checkpoint.safetensors", "environment.json"])
def test_what_is_no_file_is_refused_at_once(run, kind, name, capsys):
    """Catches B3: a pipe in the place of a file, which waits for ever."""
    path = run / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    assert main(["evaluate", str(run)]) == 1
    assert name in complaint(capsys)


def test_a_second_owner_is_refused(run, capsys):
    """Catches A9: two trainings into one folder, the configuration of one beside the weights of the other."""
    with RunFolder(run).owned("training"):
        words = ["train", "digits", "--resume", "--steps", "3", "--out", str(run), *SMALL]
        code = f"import sys; from latentflow_experiments.cli import main; sys.exit(main({words}))"
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert f"process {os.getpid()}, which is training" in process.stderr.strip().splitlines()[-1]
    assert main(["train", "digits", "--resume", "--steps", "3", "--out", str(run), *SMALL]) == 0


def test_what_killed_owners_left_is_cleared(run):
    """Catches temporaries that stay for ever after a kill in the middle of a write."""
    left = run / ".checkpoint.safetensors.abcdefgh.safetensors"
    left.write_bytes(b"half")
    with RunFolder(run).owned("training"):
        assert not left.exists()
    assert (run / "checkpoint.safetensors").exists()


def test_code_that_a_run_names_needs_trust(tmp_path, monkeypatch, capsys):
    """Catches B1: a file that runs because a folder from elsewhere names it; and C7: a relative path to it."""
    marker = tmp_path / "marker"
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(CODE.format(marker=marker))
    train = ["train", "digits", "--steps", "2", "--out", "run", "--pde", "mine.py:Mine", *SMALL]
    assert main(train) == 0
    monkeypatch.chdir(tmp_path.parent)
    Path(tmp_path, "mine.py").rename(tmp_path / "gone.py")
    marker.unlink()
    assert main(["evaluate", str(tmp_path / "run")]) == 1
    assert "add --trust" in complaint(capsys)
    assert not marker.exists()
    assert main(["evaluate", str(tmp_path / "run"), "--trust"]) == 0
    assert marker.exists()
    capsys.readouterr()
    code = tmp_path / "run" / "residual.py"
    code.write_text(code.read_text() + "# changed\n")
    marker.unlink()
    assert main(["evaluate", str(tmp_path / "run"), "--trust"]) == 1
    assert "got changed code" in complaint(capsys)
    assert not marker.exists()


def test_a_resumed_run_uses_the_code_it_began_with(tmp_path, monkeypatch, capsys):
    """Catches a file that was changed between two sessions of one run."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(CODE.format(marker=tmp_path / "marker"))
    train = ["train", "digits", "--steps", "2", "--out", "run", "--pde", "mine.py:Mine", *SMALL]
    assert main(train) == 0
    assert main([*train, "--resume"]) == 0
    Path("mine.py").write_text(CODE.format(marker=tmp_path / "other"))
    capsys.readouterr()
    assert main([*train, "--resume"]) == 1
    assert "a run of other code" in complaint(capsys)


@pytest.mark.parametrize("name", ["posix:fork", "os:getcwd", "latentflow:MLPPotential"])
def test_nothing_but_a_residual_is_called(name):
    """Catches B1: posix:fork, which is called to see what it makes."""
    before = os.getpid()
    with pytest.raises(UsageError, match="is no PDEResidual class"):
        build_residual(name, 2, (4,))
    assert os.getpid() == before


def test_a_run_killed_before_its_first_checkpoint_goes_on(run, capsys):
    """Catches C2: --resume that says there is no checkpoint, and without it advice to use --resume."""
    before = read_json(run / "evaluation.json", "an evaluation")["result"]
    (run / "checkpoint.safetensors").unlink()
    assert main(["train", "digits", "--resume", "--steps", "3", "--out", str(run), *SMALL]) == 1
    assert "expected a checkpoint, got no such file" in complaint(capsys)  # one is lost: it was evaluated
    for later in ("evaluation.json", "metrics.jsonl"):
        (run / later).unlink()
    assert main(["train", "digits", "--resume", "--steps", "3", "--out", str(run), *SMALL]) == 0
    assert read_json(run / "evaluation.json", "an evaluation")["result"] == before
    capsys.readouterr()
    assert main(["train", "digits", "--resume", "--out", str(run / "none"), *SMALL]) == 1
    assert "expected a run to go on with" in complaint(capsys)


def test_the_first_checkpoint_is_that_of_step_0(tmp_path, monkeypatch):
    """Catches C2: a run that has nothing to go on with in its first minute."""
    from latentflow_experiments.training import processes  # noqa: PLC0415

    steps = []
    monkeypatch.setattr(processes, "save_checkpoint", lambda *given, write: steps.append(given[-1].steps))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("latentflow_experiments.cli.evaluate", lambda *args, **options: type("", (), {"table": str})())
        assert main(["train", "digits", "--steps", "3", "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert steps == [0, 3]


def test_a_failed_start_leaves_nothing(tmp_path, monkeypatch, capsys):
    """Catches C3: a folder without a run, on which compare stops."""
    monkeypatch.chdir(tmp_path)
    assert main(["train", "digits", "--pde", "missing.py:Mine", "--out", "run", *SMALL]) == 2
    assert "pde" in complaint(capsys)
    assert not Path("run").exists()


def test_compare_leaves_out_what_is_no_evaluated_run(run, tmp_path, capsys):
    """Catches C3: one folder that is no run, for which no other is shown."""
    (tmp_path / "empty").mkdir()
    assert main(["compare", str(run), str(tmp_path / "empty")]) == 0
    shown = capsys.readouterr().out
    assert "`digits" in shown
    assert "left out: " in shown
    assert "empty: expected an evaluated run" in shown
    assert main(["compare", str(tmp_path / "empty")]) == 1
    assert main(["compare"]) == 2
    assert "folders: expected" in complaint(capsys)


def test_too_short_a_run_says_so(run, capsys):
    """Catches A10: brown blobs and a certificate of 1.02 that look like a result."""
    assert main(["evaluate", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "WARNING: only 3 steps were made" in shown
    assert "than the first picture held still" in shown


def test_an_unexpected_error_is_one_line(run, monkeypatch, capsys):
    """Catches C1: an exception class that nobody listed."""
    monkeypatch.setattr("latentflow_experiments.cli.evaluate", lambda *args, **options: {}["secret\x1b[31m"])
    assert main(["evaluate", str(run)]) == 1
    line = complaint(capsys)
    assert "unexpected KeyError" in line
    assert "--debug" in line
    assert "\x1b" not in line
    with pytest.raises(KeyError):
        main(["evaluate", str(run)], debug=True)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    """Catches C1: safetensors' own error at a checkpoint."""
    from latentflow_experiments import checkpoints  # noqa: PLC0415

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    assert main(["train", "digits", "--steps", "2", "--out", str(tmp_path / "run"), *SMALL]) == 1
    assert "expected room for a checkpoint" in complaint(capsys)
    monkeypatch.undo()
    assert main(["train", "digits", "--steps", "2", "--resume", "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_a_checkpoint_names_its_checksum(trained):
    """Catches a checksum that is left out of the file."""
    with safe_open(trained / "checkpoint.safetensors", "pt") as file:
        assert len(file.metadata()["sha256"]) == 64
    assert all(
        torch.isfinite(tensor).all() for tensor in read_checkpoint(trained / "checkpoint.safetensors")[0].values()
    )


def command(*words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "latentflow_experiments", *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_the_front_door_imports_nothing():
    """Catches C9: help that waits for torch, matplotlib and scikit-learn."""
    code = (
        "import sys; from latentflow_experiments.__main__ import main; "
        "sys.argv[1:] = ['{}']; main(); print('torch' in sys.modules)"
    )
    for word in ("--help", "evaluat"):
        done = subprocess.run([sys.executable, "-c", code.format(word)], capture_output=True, text=True, check=False)
        assert done.stdout.strip().endswith("False"), done.stderr
    assert "exit codes" in command("--help").stdout
    assert command("--version").stdout.startswith("latentflow ")
    wrong = command("trian")
    assert wrong.returncode == 2
    assert "did you mean 'train'?" in wrong.stderr
    assert command().returncode == 2


def test_the_commands_of_the_help_are_those_of_the_parser(capsys):
    """Catches a command that the front door does not know, and a text that differs from that of the parser."""
    from latentflow_experiments import cli  # noqa: PLC0415
    from latentflow_experiments.__main__ import COMMANDS  # noqa: PLC0415

    described = {name.lower(): getattr(cli, name).__doc__.splitlines()[0] for name in map(str.capitalize, COMMANDS)}
    assert described == COMMANDS


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["train", "digts"], "did you mean 'digits'?"),
        (["train", "digits", "--method", "vea"], "did you mean 'vae'?"),
        (["train", "digits", "--lerning-rate", "3"], "Perhaps you meant: --learning-rate"),
        (["data", "lst"], "Available subcommands: list, fetch"),
    ],
)
def test_a_wrong_word_is_answered_by_the_nearest(words, hint, capsys):
    """Catches a list of all words and no more, and a box of several lines whose breaks are written out."""
    assert main(words) == 2
    line = complaint(capsys)
    assert hint in line
    assert "\\n" not in line


def test_names_that_a_terminal_cannot_show(run, tmp_path, capsys):
    """Catches C7: a traceback of the encoding after the work was done, and B4: control characters in a message."""
    odd = tmp_path / "r\u00fcn\x1b[31m"
    shutil.copytree(run, odd)
    done = command("evaluate", str(odd), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    shutil.rmtree(odd)
    assert main(["evaluate", str(odd)]) == 1
    assert "\x1b" not in capsys.readouterr().err
