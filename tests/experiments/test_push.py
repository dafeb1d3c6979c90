"""Runs on a hub: what is uploaded, what its card says, and what others load."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from hub_stub import hub
from huggingface_hub import constants
from tiny_run import complaint

from latentflow import FlowVAE, HopfLaxFlow
from latentflow.vae import ConvEncoder, GatedDecoder, LaplaceLikelihood
from latentflow_experiments.checkpoints import Progress, save_checkpoint
from latentflow_experiments.cli import main
from latentflow_experiments.configuration import ModelConfig, TrainConfig
from latentflow_experiments.data import open_sequences
from latentflow_experiments.hub import shared_model
from latentflow_experiments.methods.pixels import LAST
from latentflow_experiments.records import read_json, write_json
from latentflow_experiments.runs import RunFolder, TrainedRun, open_run

pytestmark = pytest.mark.usefixtures("few_digits")

FILES = {"README.md", "config.json", "model.safetensors", "strips.png"}


@pytest.fixture
def online(monkeypatch, tmp_path):
    """A hub on this machine, which this process and its children use."""
    with hub() as server:
        for name, value in server.environment(tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", server.address)  # read when it was imported
        yield server


def record(run, file, edit):
    """Change a record of a run, with its checksum."""
    values = read_json(run / file, "a record")
    edit(values)
    write_json(run / file, values)


def remake(run, steps=3, **settings):
    """Give a run other settings of its model, with a checkpoint of freshly initialized weights."""
    record(run, "config.json", lambda values: values["model"].update(settings))
    model = TrainConfig.from_json(run / "config.json").model.build(open_sequences("digits", "test"))
    save_checkpoint(run / "checkpoint.safetensors", model, torch.optim.Adam(model.parameters()), Progress(steps, 1.0))


LOADED = """
import sys, torch
from latentflow import FlowVAE
model = FlowVAE.from_pretrained("someone/digits")
assert not any(name.startswith("latentflow_experiments") for name in sys.modules)
images, name = torch.load(sys.argv[1]), sys.argv[2]
torch.save(model.generate(images, k=1, steps=8), name)
"""


def test_a_pushed_run_is_loaded_by_its_name_without_the_experiments(run, online, tmp_path, capsys):
    """Catches a model that only this package can load, another model than that of the run, and a public private one."""
    assert main(["push", str(run), "someone/digits", "--private"]) == 0
    assert f"pushed to {online.address}/someone/digits" in capsys.readouterr().out
    assert set(online.files["someone/digits"]) == FILES
    assert online.private == {"someone/digits": True}
    assert online.files["someone/digits"]["strips.png"] == (run / "strips.png").read_bytes()
    model, images = open_run(RunFolder(run)).model, torch.rand(3, 3, 28, 28)
    torch.save(images, tmp_path / "images.pt")
    arguments = [sys.executable, "-c", LOADED, str(tmp_path / "images.pt"), str(tmp_path / "frames.pt")]
    threads = str(torch.get_num_threads())  # as the run chose; bits depend on them
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    loaded = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    assert loaded.returncode == 0, loaded.stderr
    frames = torch.load(tmp_path / "frames.pt")
    with torch.no_grad():
        assert torch.equal(frames, model.generate(images, k=1, steps=8))


def test_a_dry_run_writes_the_folder_and_uploads_nothing(run, online, tmp_path, capsys):
    """Catches an upload that nobody asked for, and a card whose three lines do not load the model."""
    place = tmp_path / "new" / "model"
    assert main(["push", str(run), "someone/digits", "--dry-run", str(place)]) == 0
    assert capsys.readouterr().out.strip().endswith(f"wrote {place}")
    assert {path.name for path in place.iterdir()} == FILES
    assert online.requests == []
    (code,) = re.findall(r"```python\n(.*?)```", (place / "README.md").read_text(), flags=re.DOTALL)
    assert code.count("\n") == 3
    namespace = {"images": torch.rand(2, 3, 28, 28)}
    exec(code.replace('"someone/digits"', repr(str(place))), namespace)
    assert namespace["frames"].shape == (2, 9, 3, 28, 28)


def test_the_card_says_what_the_records_say(run, tmp_path):
    """Catches a card with numbers of its own, without the origin of the data, or that hides how little was trained."""
    assert main(["push", str(run), "someone/digits", "--dry-run", str(tmp_path)]) == 0
    card = (tmp_path / "README.md").read_text()
    evaluation = json.loads((run / "evaluation.json").read_text())
    (session,) = json.loads((run / "environment.json").read_text())["sessions"]
    for name, error in evaluation["result"]["errors"].items():
        row = next(
            line for line in card.splitlines() if line.startswith(f"| {name}") and f"{error['output']:.1f}" in line
        )
        assert f"{error['static']:.1f}" in row
        entry = evaluation["transport"][name]
        words = next(line for line in card.splitlines() if line.startswith(f"- {name}: the cost is"))
        assert f"{entry['ratio']:.4f} times W2^2" in words
        assert ("folds at none" in words) == (entry["folded"] == 0)
        assert ("gives no lower bound" in words) == (entry["dual"] is None)
    assert session["data"]["sha256"] in card
    assert evaluation["provenance"]["data"]["sha256"] in card
    assert f"commit {session['commit'] or 'not noted'}" in card
    assert "seed 0, 3 steps" in card
    assert "for 3 steps, no more than the warm-up" in " ".join(card.split())
    assert "command: `" in card
    assert "synthetic" not in card
    assert "Likelihood" not in card


def test_a_stand_in_is_called_synthetic_and_a_likelihood_is_shown(run, tmp_path):
    """Catches a synthetic stand-in that passes for the data whose name it has, and a measurement that is left out."""
    record(run, "environment.json", lambda values: values["sessions"][0]["data"].update(synthetic={"seed": 0}))
    average, sequence = {"Laplace": {"10": -12.34}}, {"Laplace": None}
    bounds = {"samples": [1, 10], "steps": 8, "images": 7, "average": average, "sequence": sequence}
    noted = {"result": {"flow": {"bounds": bounds}}, "provenance": {"steps": 3}}
    write_json(run / "likelihood.json", noted)
    assert main(["push", str(run), "someone/digits", "--dry-run", str(tmp_path)]) == 0
    card = " ".join((tmp_path / "README.md").read_text().split())
    assert "trained on `digits`, **a synthetic stand-in for the data of that name**" in card
    assert "data: `digits`, synthetic;" in card
    assert "averaged over 7 test sequences" in card
    assert "| Laplace: by flow | -12.3 |" in card


def test_a_weak_run_names_the_flow_of_each_transformation(run, tmp_path):
    """Catches a card that numbers the flows as the data does, where the model has found them in another order."""
    remake(run, supervision="weak")
    order = [2, 0, 1]
    matching = {"order": order, "counts": [[0] * 3] * 3}
    record(run, "evaluation.json", lambda values: values["choice"].update(matching=matching))
    assert main(["push", str(run), "someone/digits", "--dry-run", str(tmp_path / "model")]) == 0
    card = (tmp_path / "model" / "README.md").read_text()
    for name, k in zip(("scaling", "rotation", "coloring"), order, strict=True):
        assert re.search(rf"^\| {name} +\| +{k} \|$", card, flags=re.MULTILINE)
    assert "generate(images, k=2, steps=8)" in card
    model = FlowVAE.from_pretrained(tmp_path / "model")
    assert model.label_posterior(torch.rand(2, 9, 3, 28, 28)).logits.shape == (2, 3)


def test_the_default_run_of_mnist_is_made_of_parts_of_the_library(tmp_path):
    """Catches a new default of the command whose runs nobody could share."""
    data = open_sequences("digits", "test")  # of the shape of MNIST
    config = ModelConfig()
    run = TrainedRun(None, config.build(data).eval(), data, data, None)
    shared = shared_model(run)
    shared.save_pretrained(tmp_path)
    again = FlowVAE.from_pretrained(tmp_path)
    assert isinstance(again.likelihood, LaplaceLikelihood)
    assert again.likelihood.scale == LAST
    assert again.dynamics is HopfLaxFlow
    assert (type(again.encoder), type(again.decoder)) == (ConvEncoder, GatedDecoder)
    images = torch.rand(2, *data.shape)
    assert torch.equal(again.generate(images, 0, 2), shared.generate(images, 0, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "vae"}, "run: expected one of --method flow, got one of --method vae"),
        ({"network": "song2023"}, "encoder: expected a part of latentflow, got PaperEncoder"),
        ({"pde": "convex-hj"}, "expected a part of latentflow, got _bowl.<locals>.bowl"),
    ],
)
def test_a_run_with_parts_of_the_experiments_is_refused(settings, message, run, tmp_path, capsys):
    """Catches a folder that others cannot load, and half of one that is left behind."""
    remake(run, **settings)
    assert main(["push", str(run), "someone/digits", "--dry-run", str(tmp_path / "model")]) in (1, 2)
    assert message in complaint(capsys)
    assert not (tmp_path / "model").exists()


def test_a_run_with_code_of_its_own_is_refused_before_it_is_run(run, tmp_path, capsys):
    """Catches code of a stranger's run that pushing would import."""
    record(run, "config.json", lambda values: values["model"].update(pde="evil.py:Residual"))
    assert main(["push", str(run), "someone/digits", "--dry-run", str(tmp_path / "model")]) == 1
    assert "got the residual evil.py:Residual, which nobody else has" in complaint(capsys)


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        (
            "evaluation.json",
            lambda path: path.unlink(),
            "expected an evaluated run, got none; use: latentflow evaluate",
        ),
        ("strips.png", lambda path: path.unlink(), "strips.png: missing; use: latentflow evaluate"),
    ],
)
def test_a_run_that_was_not_evaluated_is_refused(file, edit, message, run, tmp_path, capsys):
    """Catches a card without errors or without its picture."""
    edit(run / file)
    assert main(["push", str(run), "someone/digits", "--dry-run", str(tmp_path / "model")]) == 1
    assert message in complaint(capsys)


def test_numbers_of_another_checkpoint_are_refused(run, tmp_path, capsys):
    """Catches a card with the errors of a model that was trained further since."""
    record(run, "evaluation.json", lambda values: values["provenance"].update(steps=2))
    assert main(["push", str(run), "someone/digits", "--dry-run", str(tmp_path / "model")]) == 1
    assert "expected numbers of the newest checkpoint, with 3 steps, got those of 2 steps" in complaint(capsys)


def test_what_the_network_says_is_one_line(run, online, monkeypatch, capsys):
    """Catches a traceback, or exit code 0, for a token that the hub refuses and for a hub that is not there."""
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert main(["push", str(run), "someone/digits"]) == 1
    line = complaint(capsys)
    assert line.startswith(
        "latentflow: error: someone/digits: expected an upload to the hub, got HfHubHTTPError: Client "
    )
    assert "401 Unauthorized" in line
    assert "Invalid username or password" in line
    assert online.files == {}
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert main(["push", str(run), "someone/digits"]) == 1
    assert "expected an upload to the hub, got ConnectError" in complaint(capsys)


def test_wrong_names_and_a_missing_extra_are_said_before_anything_is_read(tmp_path, run, monkeypatch, capsys):
    """Catches minutes of work before a name that no hub takes is refused."""
    for name in ("digits", "a/b/c", "../x", "a b/c"):
        assert main(["push", str(run), name]) == 2
        assert "repository: expected OWNER/NAME, got" in complaint(capsys)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["push", str(run), "someone/digits"]) == 1
    assert 'pip install "latentflow-torch[hub]"' in complaint(capsys)
