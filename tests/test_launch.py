"""The launch files of the examples: each passes a linter, and starts the command that it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from latentflow_experiments.cli import main

LAUNCH = Path(__file__).parents[1] / "examples" / "launch"
LINTER = Path(sys.executable).with_name("shellcheck")
RECORDING = """#!/usr/bin/env bash
echo "$@" >> "$RECORD"
"""

NAMES = """#!/usr/bin/env bash
echo node7
sleep 0.2
echo node8
"""

SMALL = ("--dim", "3", "--hidden", "5", "--width", "8", "--batch-size", "12", "--device", "cpu", "--threads", "1")


def run(script, *words, path="", **variables):
    """Run a launch file, with programs of a folder before those of this environment."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"} | variables
    environment["PATH"] = os.pathsep.join([str(path), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment["PYTHONPATH"] = os.pathsep.join([str(LAUNCH.parents[1]), os.environ.get("PYTHONPATH", "")])
    command = ["bash", str(LAUNCH / script), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


def program(folder, name, text):
    """Put a program into a folder."""
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.skipif(not LINTER.exists(), reason="the linter is in the extra dev")
@pytest.mark.parametrize("script", sorted(path.name for path in LAUNCH.iterdir()))
def test_the_launch_files_pass_a_linter(script):
    """Catches words that are split, variables that are not set, and a syntax that only some shells know."""
    done = subprocess.run([str(LINTER), str(LAUNCH / script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_one_machine_trains_and_goes_on(tmp_path):
    """Catches a launch file that starts no training, one process only, or anew where it should go on."""
    out = tmp_path / "run"
    assert main(["train", "digits", "--steps", "2", *SMALL, "--parts", "2", "--out", str(out)]) == 0
    done = run("one_machine.sh", "digits", "--steps", "4", *SMALL, OUT=str(out), PROCESSES="2")
    assert done.returncode == 0, done.stderr[-2000:]
    sessions = json.loads((out / "environment.json").read_text())["sessions"]
    assert [session["processes"] for session in sessions] == [1, 2]
    assert json.loads((out / "evaluation.json").read_text())["provenance"]["steps"] == 4


def test_one_machine_begins_and_goes_on_by_the_same_command(tmp_path):
    """Catches a first call that wants a run to go on with, and another number of processes than was asked for."""
    program(tmp_path, "torchrun", RECORDING)
    record, out = tmp_path / "record", tmp_path / "run"
    for _ in range(2):
        done = run("one_machine.sh", "digits", path=tmp_path, OUT=str(out), PROCESSES="2", RECORD=str(record))
        assert done.returncode == 0, done.stderr
        out.mkdir(exist_ok=True)
        (out / "config.json").write_text("{}")
    first, second = record.read_text().splitlines()
    assert first == (
        "--standalone --nproc-per-node 2 --max-restarts 3 -m latentflow_experiments train digits --out " + str(out)
    )
    assert second == f"{first} --resume"


def test_a_launch_file_without_a_folder_says_so():
    """Catches a folder of a run that is called as the dataset, or nothing."""
    done = run("one_machine.sh", "digits")
    assert done.returncode != 0
    assert "expected the folder of the run" in done.stderr


def test_several_nodes_start_one_torchrun_on_each(tmp_path):
    """Catches a place of meeting that differs between machines, and a job that begins anew when it is queued again.

    The names of the machines come with a pause, so that a reader which leaves after the first one ends the job.
    """
    program(tmp_path, "srun", RECORDING)
    program(tmp_path, "scontrol", NAMES)
    record, out = tmp_path / "record", tmp_path / "run"
    slurm = {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "5", "RECORD": str(record)}
    for _ in range(2):
        done = run("several_nodes.sh", "digits", "--steps", "2", path=tmp_path, OUT=str(out), **slurm)
        assert done.returncode == 0, done.stderr
        out.mkdir(exist_ok=True)
        (out / "config.json").write_text("{}")
    first, second = record.read_text().splitlines()
    assert first == (
        "torchrun --nnodes 2 --nproc-per-node gpu --max-restarts 3 --rdzv-id 5 --rdzv-backend c10d "
        f"--rdzv-endpoint node7:29500 -m latentflow_experiments train digits --steps 2 --out {out}"
    )
    assert second == f"{first} --resume"
