"""Runs on data of the user's own, by the command and from Python."""

import json
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import SMALL, complaint
from torch.utils.data import DataLoader, TensorDataset

import latentflow_experiments
from latentflow import (
    DiffusionPrior,
    FlowVAE,
    HJResidual,
    LabelPosterior,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
)
from latentflow.vae import MLPSequenceClassifier
from latentflow_experiments import ArraySequences, ModelConfig, fit
from latentflow_experiments.checkpoints import read_checkpoint
from latentflow_experiments.cli import main
from latentflow_experiments.configuration import TrainConfig
from latentflow_experiments.data.own import read_own
from latentflow_experiments.errors import ExperimentError, UsageError
from latentflow_experiments.records import write_json
from latentflow_experiments.training.session import Hardware

RESULTS = Path(__file__).parent.parent.parent / "docs" / "results"
PAGE = RESULTS.parent / "guide" / "own_data.md"
TINY = ModelConfig(dim=3, hidden=(5,), width=8)


def moving_bars(count=24):
    """Bars that move down (0) or to the right (1), from random places."""
    generator = np.random.default_rng(0)
    frames, labels = np.zeros((count, 4, 8, 8), np.uint8), np.arange(count) % 2
    for sequence, label in zip(frames, labels, strict=True):
        first = generator.integers(0, 4)
        for t, frame in enumerate(sequence):
            (frame if label == 0 else frame.T)[first + t] = 255
    return frames, labels


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    """An npz file of moving bars."""
    path = tmp_path_factory.mktemp("own") / "bars.npz"
    frames, labels = moving_bars()
    np.savez(path, frames=frames, labels=labels, names=np.array(["down", "right"]))
    return path


@pytest.fixture(scope="module")
def made(bars):
    """A run of twelve steps on it."""
    assert main(["train", str(bars), "--steps", "12", "--out", str(bars.parent / "run"), *SMALL]) == 0
    return bars.parent / "run"


def own_model(names=2, posterior=None):
    torch.manual_seed(0)
    return FlowVAE(
        MLPEncoder((1, 8, 8), 3, (8,)),
        MLPDecoder(3, (1, 8, 8), (8,)),
        PotentialBank([MLPPotential(3, (5,)) for _ in range(names)]),
        DiffusionPrior(3, names),
        HJResidual(),
        label_posterior=posterior,
    )


def test_a_run_of_an_npz_file_is_evaluated_compared_and_generates(made, bars, capsys):
    """Catches a command that knows the names of the built-in data sets only."""
    evaluation = json.loads((made / "evaluation.json").read_text())
    assert set(evaluation["result"]["errors"]) == {"down", "right"}
    assert json.loads((made / "config.json").read_text())["dataset"] == str(bars)
    for command in (["evaluate"], ["check"], ["compare"], ["generate"]):
        assert main([*command, str(made)]) == 0
    with np.load(made / "generated.npz") as made_frames:
        assert made_frames["frames"].shape == (2 * 2, 4, 1, 8, 8)
        assert made_frames["labels"].tolist() == [0, 0, 1, 1]
        assert ((made_frames["frames"] >= 0) & (made_frames["frames"] <= 1)).all()
    data = read_own("generated.npz", latentflow_experiments.data.SequenceConfig(), bars)
    assert data.names == ("down", "right")
    capsys.readouterr()
    assert main(["measure", str(made), "--parts", "composition"]) == 2
    assert "several changes at once" in complaint(capsys)
    measuring = ["--images", "2", "--samples", "1", "2", "--pairs", "2", "--epochs", "1"]
    assert main(["measure", str(made), "--parts", "likelihood", *measuring]) == 0


def test_images_of_the_users_are_transformed(made, tmp_path, capsys):
    """Catches PNG files of three grey channels, an npz file in another scale, and images of another size."""
    pixels = moving_bars()[0][:3, 0]
    np.savez(tmp_path / "images.npz", images=pixels)
    Image.fromarray(pixels[0]).convert("RGB").save(tmp_path / "one.png")
    files = [str(tmp_path / "images.npz"), str(tmp_path / "one.png")]
    assert main(["generate", str(made), "--images", *files]) == 0
    with np.load(made / "generated.npz") as generated:
        frames = generated["frames"].reshape(2, 4, 4, 1, 8, 8)
    np.testing.assert_allclose(frames[:, 0], frames[:, 3], atol=1e-6)  # the first image is both npz and PNG
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "large.png")
    assert main(["generate", str(made), "--images", str(tmp_path / "large.png")]) == 1
    assert "large.png: expected images of shape (1, 8, 8)" in complaint(capsys)


def test_a_run_in_a_thread_ends_in_the_same_weights(tmp_path):
    """Catches a training that a server starts in a thread, which gets no signals and may not ask for them."""
    data, settings = ArraySequences(*moving_bars()), {"steps": 3, "batch_size": 6, "seed": 3}
    plain = fit(TINY, data, out=tmp_path / "plain", **settings)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(fit, TINY, data, out=tmp_path / "run", **settings).result()
    expected, found = (read_checkpoint(one.checkpoint)[0] for one in (plain, run))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_resumed_run_ends_in_the_same_weights(tmp_path, monkeypatch):
    """Catches sequences that are drawn or split anew, or a Ctrl-C in Python that loses the run."""
    frames, labels = moving_bars()
    settings = {"steps": 9, "batch_size": 6, "seed": 3}
    whole = fit(TINY, ArraySequences(frames, labels), out=tmp_path / "whole", **settings)
    plain, calls = ArraySequences.sequence, []

    def interrupted(self, indices, k):
        calls.append(k)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return plain(self, indices, k)

    with monkeypatch.context() as patch:
        patch.setattr(ArraySequences, "sequence", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(TINY, ArraySequences(frames, labels), out=tmp_path / "run", **settings)
    stopped = read_checkpoint(tmp_path / "run" / "checkpoint.safetensors")[1].steps
    assert 0 < stopped < 9
    with pytest.raises(ExperimentError, match="expected the data that the run was trained on"):
        fit(TINY, ArraySequences(255 - frames, labels), out=tmp_path / "run", resume=True, **settings)
    again = fit(TINY, ArraySequences(frames, labels), out=tmp_path / "run", resume=True, **settings)
    expected, found = (read_checkpoint(run.checkpoint)[0] for run in (whole, again))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_other_data_is_refused(made, bars, tmp_path, capsys):
    """Catches errors on sequences that are not the test sequences of the run."""
    frames, labels = moving_bars()
    np.savez(tmp_path / "other.npz", frames=255 - frames, labels=labels, names=np.array(["down", "right"]))
    moved = tmp_path / "moved.npz"
    moved.write_bytes(bars.read_bytes())
    assert main(["evaluate", str(made), "--data", str(moved)]) == 0
    assert main(["evaluate", str(made), "--data", str(tmp_path / "other.npz")]) == 1
    assert "expected the data that the run was trained on, with SHA-256" in complaint(capsys)


def test_flows_without_labels_are_evaluated_by_their_own_posterior(tmp_path, capsys):
    """Catches a matching to labels that nobody gave, and an error of a flow that has no sequences."""
    np.savez(tmp_path / "bars.npz", frames=moving_bars()[0])
    out = tmp_path / "run"
    names = ["--transformations", "a", "b", "c"]
    command = ["train", str(tmp_path / "bars.npz"), "--steps", "4", "--out", str(out), *SMALL, *names]
    assert main(command) == 2
    assert "supervision: expected weak to train 3 flows for sequences without labels" in complaint(capsys)
    assert main([*command, "--supervision", "weak"]) == 0
    evaluation = json.loads((out / "evaluation.json").read_text())
    inferred = evaluation["inferred"]
    assert inferred["labels"] == "by the model's own posterior"
    assert sorted([*inferred["sequences"], *inferred["without"]]) == ["a", "b", "c"]
    assert set(evaluation["result"]["errors"]) == set(evaluation["transport"]) == set(inferred["sequences"])
    assert (evaluation["recovery"], evaluation["choice"]["matching"]) == (None, None)
    assert "the model itself gave test sequences to its flows" in capsys.readouterr().out
    assert main(["generate", str(out)]) == 0


def test_one_change_is_trained_but_not_told_apart(tmp_path, capsys):
    """Catches sequences without labels that need names, and a classifier of one class."""
    np.savez(tmp_path / "bars.npz", frames=moving_bars()[0])
    out = tmp_path / "run"
    assert main(["train", str(tmp_path / "bars.npz"), "--steps", "2", "--out", str(out), *SMALL]) == 0
    assert set(json.loads((out / "evaluation.json").read_text())["result"]["errors"]) == {"change"}
    assert main(["measure", str(out), "--parts", "vp"]) == 2
    assert "vp: expected at least 2 transformations to tell apart, got only 'change'" in complaint(capsys)


def test_a_misspelt_name_says_what_is_near(capsys):
    """Catches a name that is taken for a path that does not exist."""
    assert main(["train", "mnits"]) == 2
    assert "did you mean 'mnist'?" in complaint(capsys)
    assert main(["train", "gone/clips"]) == 2
    assert "if it moved since a training, --data names its place" in complaint(capsys)


@pytest.mark.parametrize("unknown", [False, True])
def test_a_model_of_the_users_is_trained_and_evaluated_again(unknown, tmp_path, capsys):
    """Catches a configuration that claims to rebuild the model, and weights that are not those of the checkpoint."""
    frames, labels = moving_bars()
    names = ("down", "right")
    data = ArraySequences(frames, None if unknown else labels, names)
    posterior = LabelPosterior(MLPSequenceClassifier((1, 8, 8), 4, 2)) if unknown else None
    run = fit(own_model(posterior=posterior), data, steps=3, out=tmp_path / "run", batch_size=4)
    config = json.loads(run.config.read_text())
    assert config["objects"] == ["data", "a model FlowVAE"]
    assert config["model"] == {"method": "flow", "supervision": "weak" if unknown else "labels"}
    before = json.loads(run.evaluation.read_text())
    found = latentflow_experiments.evaluate(run.path, data, own_model(posterior=posterior))
    assert json.loads(run.evaluation.read_text())["result"] == before["result"]
    assert set(found.equivariance.errors) <= set(names)
    assert main(["evaluate", str(run.path)]) == 1
    assert "which no file holds; call there: latentflow_experiments.evaluate(" in complaint(capsys)
    with pytest.raises(UsageError, match="model: expected the module"):
        latentflow_experiments.evaluate(run, data)
    assert main(["check", str(run.path)]) == 0


def test_fit_obeys_the_hardware(tmp_path, monkeypatch):
    """Catches a number of threads or a compilation that is asked for and ignored, and threads that nobody asked for."""
    compiled, before = [], torch.get_num_threads()
    monkeypatch.setattr(Hardware, "compile_networks", lambda self, model: compiled.append((self.compile, model)))
    data, chosen = ArraySequences(moving_bars()[0]), []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    fit(TINY, data, steps=1, out=tmp_path / "a", batch_size=4, hardware=Hardware(device="cpu", threads=3, compile=True))
    fit(TINY, data, steps=1, out=tmp_path / "b", batch_size=4)
    assert chosen == [3, before]
    assert [asked for asked, _ in compiled] == [True, False]
    assert all(isinstance(model, FlowVAE) for _, model in compiled)


def test_fit_trains_as_it_is_told(tmp_path):
    """Catches an argument of training that is left at its default."""
    given = {"batch_size": 4, "parts": 2, "learning_rate": 0.5, "warmup_steps": 3, "clip_norm": 7.0, "seed": 5}
    folder = fit(TINY, ArraySequences(moving_bars()[0]), steps=1, out=tmp_path / "run", **given)
    config = TrainConfig.from_json(folder.config)
    assert {name: getattr(config, name) for name in given} == given


def test_fit_refuses_what_does_not_fit(tmp_path):
    """Catches a folder that is made, or written by two, before the arguments are checked."""
    frames, labels = moving_bars()
    data = ArraySequences(frames, labels)
    with pytest.raises(TypeError, match="model: expected a ModelConfig or a FlowVAE, got Linear"):
        fit(torch.nn.Linear(2, 2), data, steps=1, out=tmp_path / "run")
    with pytest.raises(TypeError, match=r"data: expected ArraySequences\(frames\) or another SequenceDataset, got nd"):
        fit(TINY, frames, steps=1, out=tmp_path / "run")
    with pytest.raises(TypeError, match="seed: expected an integer, got 'one'"):
        fit(TINY, data, steps=1, out=tmp_path / "run", seed="one")
    with pytest.raises(UsageError, match="model: expected 2 potentials"):
        fit(own_model(3), data, steps=1, out=tmp_path / "run")
    with pytest.raises(ExperimentError, match="expected a run to go on with"):
        fit(TINY, data, steps=1, out=tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
    write_json((tmp_path / "config.json"), {})
    with pytest.raises(ExperimentError, match="holds a run already"):
        fit(TINY, data, steps=1, out=tmp_path)


def test_importing_the_package_stays_light():
    """Catches an import of torch by the package, for which --help would wait."""
    code = "import sys, latentflow_experiments as e; assert 'torch' not in sys.modules; print(e.__all__)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        latentflow_experiments.fly  # noqa: B018


def test_the_page_of_results_shows_what_the_run_measured():
    """Catches a number that was edited by hand, and a result without its command and commit."""
    page = (RESULTS / "own_data.md").read_text(encoding="utf-8")
    evaluation = json.loads((RESULTS / "own-data" / "evaluation.json").read_text())
    for name, error in evaluation["result"]["errors"].items():
        assert f"| {name} | {error['output']:.0f} | {error['static']:.0f} |" in page
    (session,) = evaluation["provenance"]["training"]
    assert session["command"] in page
    assert session["commit"] in page
    assert "dirty" not in session["commit"]


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    """Catches a documented example that does not run, or takes 15 lines or more."""
    monkeypatch.chdir(tmp_path)
    example = blocks()[0]
    assert len([line for line in example.splitlines() if line.strip()]) < 15
    exec(compile(example, str(PAGE), "exec"), {})
    assert Path("runs/mine/strips.png").exists()


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_the_module_of_the_page(tmp_path):
    """Catches a term that Lightning cannot log, and a module that it cannot optimize."""
    lightning = pytest.importorskip("pytorch_lightning")
    scope = {}
    exec(compile(blocks()[1], str(PAGE), "exec"), scope)
    frames, labels = moving_bars()
    loader = DataLoader(TensorDataset(torch.from_numpy(frames)[:, :, None] / 255, torch.from_numpy(labels)), 6)
    module = scope["LitFlowVAE"](own_model())
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False, default_root_dir=tmp_path
    )
    trainer.fit(module, loader)
    logged = trainer.logged_metrics
    assert {"total", "reconstruction", "kl", "residual"} <= set(logged)
    assert all(torch.isfinite(value) for value in logged.values())
