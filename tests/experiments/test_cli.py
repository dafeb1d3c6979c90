"""The command line: what it says, its exit codes, and what it leaves in place."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest
import torch
from tiny_run import SMALL, complaint

from latentflow_experiments.__main__ import main as run_command
from latentflow_experiments.cli import Train, _parse, main
from latentflow_experiments.configuration import Budget, ModelConfig, TrainConfig
from latentflow_experiments.data import DATASETS, open_sequences
from latentflow_experiments.methods import MethodOptions
from latentflow_experiments.methods.method import Choice
from latentflow_experiments.records import read_json, write_json
from latentflow_experiments.runs import RunFolder

pytestmark = pytest.mark.usefixtures("few_digits")


def test_training_leaves_a_whole_run_folder(trained):
    """Catches a result without the command, seed, commit and data that made it."""
    names = {path.name for path in trained.iterdir() if "tfevents" not in path.name}
    assert names == {
        "checkpoint.safetensors",
        "config.json",
        "environment.json",
        "evaluation.json",
        "metrics.jsonl",
        "strips.png",
    }
    evaluation = json.loads((trained / "evaluation.json").read_text())
    assert set(evaluation["result"]["errors"]) == {"scaling", "rotation", "coloring"}
    assert evaluation["result"]["images"] == 60
    assert evaluation["provenance"]["steps"] == 3
    assert len(evaluation["provenance"]["data"]["sha256"]) == 64
    (session,) = json.loads((trained / "environment.json").read_text())["sessions"]
    assert session["seed"] == 0
    assert session["packages"]["torch"] == torch.__version__
    assert {"command", "commit", "date", "platform", "threads"} <= set(session)


def test_evaluate_prints_the_table_it_writes(run, capsys):
    """Catches a table that is not the result in the folder."""
    (run / "evaluation.json").unlink()
    assert main(["evaluate", str(run)]) == 0
    out = capsys.readouterr().out
    result = json.loads((run / "evaluation.json").read_text())["result"]
    for name, error in result["errors"].items():
        row = next(line for line in out.splitlines() if name in line)
        assert f"{error['output']:.2f}" in row
    assert f"{result['reconstruction']:.2f}" in out


@pytest.mark.parametrize(
    ("options", "chosen", "flows"),
    [
        (["--method", "vae"], None, False),
        (["--method", "beta-vae"], "traversals", False),
        (["--method", "poflow"], None, True),
        (["--supervision", "weak"], "matching", True),
    ],
)
def test_every_kind_of_method_is_evaluated(options, chosen, flows, tmp_path, capsys):
    """Catches a choice that is made on test images or not kept, and a certificate for a method without flows."""
    out = tmp_path / "run"
    assert main(["train", "digits", "--steps", "2", "--out", str(out), *SMALL, *options]) == 0
    evaluation = json.loads((out / "evaluation.json").read_text())
    choice = Choice.from_values(evaluation["choice"])
    assert [name for name, value in vars(choice).items() if value is not None] == ([chosen] if chosen else [])
    assert set(evaluation["transport"]) == ({"scaling", "rotation", "coloring"} if flows else set())
    assert (evaluation["recovery"] is not None) == (chosen == "matching")
    assert ("recovered without labels: accuracy" in capsys.readouterr().out) == (chosen == "matching")
    assert evaluation["provenance"]["validation"] == open_sequences("digits", "validation").identity()
    errors = evaluation["result"]["errors"].values()
    assert all(error["output_interval"][0] < error["output"] < error["output_interval"][1] for error in errors)
    if options[-1] == "vae":
        assert all(error["output"] == error["static"] for error in errors)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (
            ["train", "digits", "--steps", "3", "--minutes", "1"],
            "expected one of steps, minutes and cpu-minutes, got steps and minutes",
        ),
        (["train", "digits", "--resume"], "resume: expected --out"),
        (["train", "digits", "--steps", "0"], "steps: expected a positive integer, got 0"),
        (["train", "digits", "--minutes", "nan"], "minutes: expected a positive number, got nan"),
        (["train", "digits", "--learning-rate", "-1"], "learning-rate: expected a positive number, got -1.0"),
        (["train", "digits", "--dim", "0"], "dim: expected a positive integer, got 0"),
        (["train", "digits", "--seed", "-1"], "seed: expected an integer of at least 0, got -1"),
        (["train", "digits", "--cpu-minutes", "0"], "cpu-minutes: expected a positive number, got 0.0"),
        (["train", "digits", "--balance", "-1"], "balance: expected a number of at least 0, got -1.0"),
        (["train", "digits", "--beta", "-1"], "beta: expected a number of at least 0, got -1.0"),
        (["train", "digits", "--decoded-frames", "0"], "decoded-frames: expected a positive integer, got 0"),
        (["train", "digits", "--method", "vae", "--supervision", "weak"], "supervision: expected labels"),
        (["train", "digits", "--bound", "smoothing", "--prior", "gaussian"], "prior: expected diffusion"),
    ],
)
def test_values_out_of_range_are_usage_errors(arguments, cause, capsys, tmp_path, monkeypatch):
    """Catches a run that starts, and a folder that is made, before its arguments are checked."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert cause in complaint(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["train", "cifar"], "of a folder, got 'cifar', which does not exist"),
        (["train", "digits", "--speed", "9"], "--speed"),
        (["fly"], "fly"),
        ([], "train, evaluate"),
    ],
)
def test_nonsense_is_a_usage_error_of_one_line(arguments, cause, capsys):
    """Catches an unknown flag that is ignored, and an error that takes a box of several lines."""
    assert main(arguments) == 2
    assert cause in complaint(capsys)


def test_a_missing_and_a_truncated_data_file_are_named(tmp_path, capsys):
    """Catches a traceback of the parser, and an empty run folder left behind."""
    data = tmp_path / "data"
    data.mkdir()
    arguments = ["train", "mnist", "--steps", "1", "--out", str(tmp_path / "run"), "--data", str(data)]
    assert main(arguments) == 1
    assert "train-images-idx3-ubyte.gz" in complaint(capsys)
    (data / "train-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b\x08\x00")
    (data / "train-labels-idx1-ubyte.gz").write_bytes(b"")
    assert main(arguments) == 1
    assert "expected a complete gzip file" in complaint(capsys)
    assert not (tmp_path / "run").exists()


def test_an_unwritable_folder_is_named(tmp_path, capsys):
    """Catches a failure that shows only at the first checkpoint."""
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run"
    assert main(["train", "digits", "--steps", "1", "--out", str(out), *SMALL]) == 1
    assert f"{out}: expected a folder that can be written to" in complaint(capsys)


def test_an_earlier_run_is_never_overwritten(run, capsys):
    """Catches a second run that destroys the checkpoint of the first."""
    before = (run / "checkpoint.safetensors").read_bytes()
    assert main(["train", "digits", "--steps", "1", "--out", str(run), *SMALL]) == 1
    assert "holds a run already" in complaint(capsys)
    assert main(["train", "digits", "--steps", "9", "--out", str(run), "--resume"]) == 1
    assert "another configuration: batch_size is 6 there and 128 here" in complaint(capsys)
    assert (run / "checkpoint.safetensors").read_bytes() == before


def test_evaluate_names_what_is_wrong_with_a_run(run, tmp_path, capsys):
    """Catches errors that end in a traceback of JSON, safetensors or torch."""
    assert main(["evaluate", str(tmp_path / "nowhere")]) == 1
    assert "config.json: expected the configuration of a run, got no such file" in complaint(capsys)
    config = read_json(run / "config.json", "a configuration")
    write_json(run / "config.json", config | {"model": config["model"] | {"width": 9}})
    assert main(["evaluate", str(run)]) == 1
    assert "another architecture" in complaint(capsys)
    write_json(run / "config.json", {"dataset": "digits", "speed": 9, "model": {"hidden": []}})
    assert main(["evaluate", str(run)]) == 1
    assert "config.json: expected the configuration of a run, got" in complaint(capsys)
    (run / "config.json").write_text("{")
    assert main(["evaluate", str(run)]) == 1
    assert "config.json: expected the configuration of a run" in complaint(capsys)


def test_a_loss_that_is_not_finite_is_one_line(tmp_path, capsys):
    """Catches a run that ends in a traceback, or goes on with NaN."""
    arguments = ["train", "digits", "--steps", "50", "--out", str(tmp_path / "run"), *SMALL]
    assert main([*arguments, "--learning-rate", "1e30", "--warmup-steps", "0"]) == 1
    assert "not finite" in complaint(capsys)


def test_configurations_survive_json(tmp_path):
    """Catches a tuple that comes back as a list, so that a resumed run differs from itself."""
    model = ModelConfig(method="slow-vae", hidden=(4, 5), baseline=MethodOptions(slow_rate=2.5))
    config = TrainConfig("mnist", seed=3, learning_rate=0.25, model=model)
    config.write(tmp_path / "config.json")
    assert TrainConfig.from_json(tmp_path / "config.json") == config


def test_configurations_of_before_are_read(tmp_path):
    """Catches a run of an older version that is read with the defaults of today, and built as what it is not."""
    values = asdict(TrainConfig("digits"))
    for name in ("method", "supervision", "label_estimator", "baseline"):  # these have not changed
        del values["model"][name]
    for name in ("network", "likelihood", "decoded_frames", "pde", "balance"):
        del values["model"][name]
    del values["clip_norm"]
    write_json(tmp_path / "config.json", values)
    model = ModelConfig(network="mlp", likelihood="bernoulli", decoded_frames=None, pde="hj", balance=100.0)
    assert TrainConfig.from_json(tmp_path / "config.json") == TrainConfig("digits", clip_norm=0.0, model=model)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--minutes", "2.5", "--seed", "3", "--precision", "32", "--data", "a folder"],
        ["--cpu-minutes", "3", "--method", "slow-vae", "--slow-rate", "2.5", "--likelihood", "continuous-bernoulli"],
        ["--supervision", "weak", "--label-estimator", "exact", "--balance", "3.5", "--decoded-frames", "2"],
        ["--steps", "7", "--hidden", "4", "5", "--pde", "heat", "--bound", "joint", "--prior", "vamp", *SMALL[4:]],
    ],
)
def test_the_hint_after_ctrl_c_repeats_every_option(arguments, tmp_path):
    """Catches a resumed run that is refused because the hint forgot what the run was made of."""
    command = _parse(["train", "mnist", *arguments])
    assert _parse(command.resuming(RunFolder(tmp_path))) == replace(command, out=tmp_path, resume=True)


def test_default_budgets():
    """Catches a quick start that is not quick."""
    assert Train(TrainConfig("digits")).budget() == Budget(steps=DATASETS["digits"].steps)
    assert Train(TrainConfig("mnist")).budget() == Budget(steps=20_000)
    assert Train(TrainConfig("digits"), cpu_minutes=2.0).budget() == Budget(cpu_minutes=2.0)


def test_missing_extras_are_named():
    """Catches a command that ends in an import error where only the core is installed."""
    code = (
        "import sys; sys.modules['kornia'] = None; sys.argv[1:] = ['data', 'list']; "
        "from latentflow_experiments.__main__ import main; sys.exit(main())"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert process.stderr.startswith("latentflow: error: the command needs kornia")
    assert 'pip install "latentflow-torch[experiments]"' in process.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="writes to /dev/full")
@pytest.mark.parametrize("words", [("--help",), ("data", "list")])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_that_cannot_be_written(monkeypatch, words, unbuffered):
    """Catches a traceback or an error where `head` has read enough, and exit code 0 where a table is lost."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = [sys.executable, "-m", "latentflow_experiments", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 141)
    process.stderr.close()
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"latentflow: error: .*No space left on device\n", done.stderr)
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, check=False)
    assert (closed.returncode, closed.stderr) == (0, b"")


def test_debug_shows_a_failure_to_read_as_it_is(monkeypatch):
    """Catches an error of the system that is taken for one of the output, so that --debug shows no traceback."""

    def fail(words, *, debug):
        assert debug
        raise FileNotFoundError(*words)

    monkeypatch.setattr("latentflow_experiments.cli.main", fail)
    monkeypatch.setattr(sys, "argv", ["latentflow", "check", "run", "--debug"])
    with pytest.raises(FileNotFoundError, match="run"):
        run_command()


def test_ctrl_c_keeps_a_checkpoint_and_resume_finishes(tmp_path):
    """Catches a real signal to a real process that loses the run."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "latentflow_experiments", "train", "digits", "--out", str(out), *SMALL]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--steps", "1000000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 120
    while not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size > 0):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"stopped; go on with: latentflow train digits --out {out} --resume" in output
    hint = shlex.split(output[output.index("go on with: latentflow ") :].splitlines()[0].removeprefix("go on with: "))
    assert _parse(hint[1:]) == replace(_parse(command[3:]), steps=1000000, resume=True)
    steps = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert main([*command[3:], "--steps", str(steps + 60), "--resume"]) == 0
    assert json.loads((out / "evaluation.json").read_text())["provenance"]["steps"] == steps + 60
