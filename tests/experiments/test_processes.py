"""Training in several processes: the numbers of one process, checkpoints at another number, and who starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from safetensors.torch import load_file

from latentflow_experiments.cli import main
from latentflow_experiments.configuration import TrainConfig
from latentflow_experiments.errors import UsageError
from latentflow_experiments.training.session import Hardware

HERE = Path(__file__).parent
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def launch(*words, **variables):
    """Run a command of torchrun on one thread, and return what it says."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"} | variables
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*TORCHRUN, *map(str, words)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The runs of two processes."""
    folder = tmp_path_factory.mktemp("two")
    launch(HERE / "two_processes.py", folder)
    return folder


def totals(folder):
    """The losses, and the errors on validation sequences."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    dropped = ("seconds", "step")
    return [{key: value for key, value in line.items() if key not in dropped} for line in lines]


def assert_close(ours, theirs, tolerance):
    """Compare weights and the state of the optimizer of two checkpoints."""
    first, second = (load_file(folder / "checkpoint.safetensors") for folder in (ours, theirs))
    assert first.keys() == second.keys()
    for name in first:
        one, other = first[name], second[name]
        if name.endswith("exp_avg_sq"):  # in the unit of a gradient, whose rounding a square doubles
            one, other = one.sqrt(), other.sqrt()
        scale = float(one.abs().max()) + 1e-6
        assert (one - other).abs().max() <= tolerance * scale, name


TOLERANCES = dict.fromkeys(two_processes.RUNS, 2e-5) | {"bfloat16": 2e-2}


@pytest.mark.parametrize("name", two_processes.RUNS)
def test_two_processes_compute_what_one_does(two, tmp_path, name):
    """Catches a batch that grows with the processes, gradients that are summed for averaged, other noise, moments of
    potentials that a batch does not use, and metrics of one process only."""
    two_processes.train(tmp_path, name, 1)
    assert_close(tmp_path / name, two / name, TOLERANCES[name])
    ours, theirs = totals(tmp_path / name), totals(two / name)
    assert len(ours) == two_processes.STEPS + 2
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=TOLERANCES[name], abs=1e-4)


@pytest.mark.parametrize("name", ["labels", "sharded"])
def test_two_processes_stop_and_go_on_to_the_same_bits(two, name):
    """Catches a part of a process that a checkpoint misses."""
    assert_close(two / name, two / "stopped" / name, 0.0)


@pytest.mark.parametrize("name", ["labels", "sharded"])
def test_one_process_goes_on_with_a_run_of_two(two, name):
    """Catches a checkpoint that holds the part of one process, and a batch that depends on their number."""
    two_processes.train(two / "left", name, 1)
    assert_close(two / name, two / "left" / name, TOLERANCES[name])


def test_parts_are_settled_by_the_processes():
    """Catches parts that processes cannot share, and that a resumed run forgets."""
    config = TrainConfig("digits", batch_size=12)
    assert config.shared_over(1).part_size == 12
    assert config.shared_over(3).parts == 3
    assert TrainConfig("digits", batch_size=12, parts=6).shared_over(3).part_size == 2
    with pytest.raises(UsageError, match=r"^parts: expected a multiple of the 2 processes, got 3"):
        TrainConfig("digits", batch_size=12, parts=3).shared_over(2)
    with pytest.raises(UsageError, match=r"^batch-size: expected a number that 5 parts divide, got 12"):
        config.shared_over(5)
    values = config.shared_over(2).known()
    assert TrainConfig.from_values(values).parts == 2
    del values["parts"]
    assert TrainConfig.from_values(values).parts == 1  # of a run before there was a choice


def test_torchrun_says_how_many_processes_there_are(monkeypatch):
    """Catches devices that have to be named twice, and a contradiction that is found by torch."""
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    for name, value in (("LOCAL_WORLD_SIZE", 4), ("WORLD_SIZE", 8), ("TORCHELASTIC_RESTART_COUNT", 1)):
        monkeypatch.setenv(name, str(value))
    placed = Hardware().placed()
    assert (placed.devices, placed.nodes) == (4, 2)
    assert Hardware().restarted()
    with pytest.raises(UsageError, match=r"^devices: expected 4 as torchrun has started, or none, got 2"):
        Hardware(devices=2).placed()
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"^strategy: expected fsdp with several devices or nodes"):
        Hardware(strategy="fsdp").launch()


def test_a_job_that_restarts_needs_a_folder(monkeypatch, capsys):
    """Catches a job that begins anew in another folder after every restart."""
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    for name, value in (("LOCAL_WORLD_SIZE", 1), ("WORLD_SIZE", 1), ("TORCHELASTIC_MAX_RESTARTS", 3)):
        monkeypatch.setenv(name, str(value))
    assert main(["train", "digits", "--steps", "2"]) == 2
    assert "out: expected the folder of the run" in capsys.readouterr().err


FAILING = """
import os, signal, sys
from pathlib import Path
from latentflow_experiments.training import loop
from latentflow_experiments.cli import main
from latentflow_experiments.training.processes import end_process
loop.CHECKPOINT_SECONDS = 0.0
original = loop.draw_kinds

def kinds(config, step, *others):
    if step == 4 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return original(config, step, *others)

loop.draw_kinds = kinds
sys.exit(end_process(main(sys.argv[1:])))  # as the command ends: threads of gloo may abort an interpreter
"""


def test_torchrun_goes_on_from_the_last_checkpoint(tmp_path):
    """Catches a restart that begins anew, stops at its own folder, or ends in other weights."""
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    small = ("--dim", "3", "--hidden", "5", "--width", "8", "--batch-size", "12", "--steps", "6", "--precision", "32")
    words = ("train", "digits", *small, "--device", "cpu", "--threads", "1", "--validations", "0")
    own_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # as in examples/launch
    launch("--max-restarts", "1", script, *words, "--out", tmp_path / "died", **own_store)
    sessions = json.loads((tmp_path / "died" / "environment.json").read_text())["sessions"]
    assert len(sessions) == 2
    assert all(session["processes"] == 2 for session in sessions)
    assert main([*words, "--parts", "2", "--out", str(tmp_path / "straight")]) == 0
    assert_close(tmp_path / "straight", tmp_path / "died", 2e-5)
