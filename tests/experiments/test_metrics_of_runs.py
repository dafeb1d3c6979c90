"""The slower measures of a run, from the command line to the table."""

import json
from functools import partial

import pytest
import torch

from latentflow_experiments import evaluation
from latentflow_experiments.checkpoints import Progress
from latentflow_experiments.cli import main
from latentflow_experiments.configuration import ModelConfig, TrainConfig
from latentflow_experiments.data import SequenceConfig, open_sequences
from latentflow_experiments.errors import UsageError
from latentflow_experiments.evaluation import MeasureConfig
from latentflow_experiments.methods.matching import Matching
from latentflow_experiments.methods.method import Choice
from latentflow_experiments.methods.proposals import (
    FromEncoder,
    FromEncoderStandard,
    FromFlow,
    FromSharedFlow,
    FromTVAE,
)
from latentflow_experiments.metrics.disentanglement import draw_codes
from latentflow_experiments.runs import TrainedRun

pytestmark = pytest.mark.usefixtures("few_digits")

TINY = ["--dim", "9", "--hidden", "5", "--width", "8", "--batch-size", "4", "--steps", "2"]
FEW = ["--images", "2", "--samples", "1", "4", "--pairs", "12", "--epochs", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A trained and evaluated run of four kinds of methods."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = {
        "vae": ["--likelihood", "bernoulli"],
        "tvae": [],
        "poflow": [],
        "flow": [],
        "weak": ["--supervision", "weak", "--bound", "marginal"],
    }
    for name, options in kinds.items():
        method = "flow" if name == "weak" else name
        command = ["train", "digits", "--method", method, *TINY, *options, "--out", str(folder / name)]
        assert main(command) == 0
    return folder


def read(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("name", "proposals"),
    [("vae", {"encoder"}), ("tvae", {"encoder"}), ("flow", {"flow"}), ("weak", {"flow", "encoder"})],
)
def test_likelihood(runs, name, proposals):
    """Catches a part that is not written, a missing observation model, and a bound without its provenance."""
    assert main(["measure", str(runs / name), "--parts", "likelihood", *FEW]) == 0
    record = read(runs / name / "likelihood.json")
    assert record["result"].keys() == proposals
    for found in record["result"].values():
        trained = "Bernoulli, binarized" if name == "vae" else "Laplace"
        assert found["bounds"]["average"].keys() == {trained, "Gaussian, variance 1"}
        for average in found["bounds"]["average"].values():
            assert average is None or average.keys() == {"1", "4"}
    assert record["settings"]["images"] == 2
    assert record["provenance"]["data"]["split"] == "test"


def test_predictability(runs):
    """Catches shuffled labels that are not, and classes that are not balanced."""
    assert main(["measure", str(runs / "vae"), "--parts", "vp", *FEW]) == 0
    result = read(runs / "vae" / "vp.json")["result"]
    assert result.keys() == {"true, 0.1", "true, 0.01", "shuffled, 0.01"}
    assert all(score["chance"] == pytest.approx(1 / 3) for score in result.values())
    assert all(score["train_pairs"] + score["test_pairs"] == 36 for score in result.values())


def test_composition(runs, monkeypatch):
    """Catches compositions in the order of the bank in place of the transformations', and a picture that is missing."""
    assert main(["measure", str(runs / "weak"), "--parts", "composition"]) == 0
    errors = read(runs / "weak" / "composition.json")["result"]["errors"]
    assert {"scaling then rotation, restart", "rotation + coloring", "half scaling"} <= errors.keys()
    assert (runs / "weak" / "composition.png").stat().st_size > 10_000


def test_another_start(runs, monkeypatch):
    """Catches an option that is read and not used, or that changes what the model was trained on."""
    folder = runs / "weak"
    for name in ("measure_compositions", "measure_interactions"):
        monkeypatch.setattr(evaluation, name, partial(getattr(evaluation, name), limit=20))
    assert main(["measure", str(folder), "--parts", "composition", "--start", "random"]) == 0
    record = read(folder / "composition.json")
    assert record["settings"]["start"] == "random"
    assert record["provenance"]["run"]["sequences"]["start"] == "canonical"
    drawn = record["result"]["errors"]["rotation + coloring"]["static"]
    assert main(["measure", str(folder), "--parts", "composition"]) == 0
    assert read(folder / "composition.json")["result"]["errors"]["rotation + coloring"]["static"] != drawn


def test_disentanglement(runs, monkeypatch):
    """Catches a metric that is missing or outside its range."""
    monkeypatch.setattr(evaluation, "CODES", 300)
    assert main(["measure", str(runs / "vae"), "--parts", "disentanglement"]) == 0
    result = read(runs / "vae" / "disentanglement.json")["result"]
    assert result.pop("images") == 300
    assert 0 <= result.pop("active codes") <= 9
    assert len(result) == 12
    assert all(-0.1 <= value <= 1 for value in result.values())


@pytest.mark.parametrize("name", ["vae", "tvae", "poflow", "weak"])
def test_consistency(runs, name):
    """Catches steps beyond the trained ones that are missing or trained, and a way back of what has none."""
    assert main(["measure", str(runs / name), "--parts", "consistency", "--sequences", "3"]) == 0
    result = read(runs / name / "consistency.json")["result"]
    assert list(result["beyond"]) == ["scaling", "rotation", "coloring"]
    assert {len(errors["output"]) - errors["trained"] for errors in result["beyond"].values()} == {4}
    assert len(result["back"]) == (0 if name == "vae" else 3)
    assert len(result["commutators"]) == 3
    if name == "vae":  # holds still
        assert all(errors["relative"] == pytest.approx(1) for errors in result["beyond"].values())
        assert all(entry["apart"] == 0 for entry in result["commutators"].values())


@pytest.mark.parametrize("start", ["canonical", "random"])
def test_longer_sequences(start):
    """Catches more steps where the others would be in states that no training has, and a hue that changes its pace."""
    config = TrainConfig("digits", sequences=SequenceConfig(start=start, last_hue=80.0, states=5))
    data = open_sequences("digits", "test", config.sequences)
    run = TrainedRun(config, torch.nn.Linear(1, 1), data, data, Progress(0, 0.0))
    longer = evaluation._open_longer(run)
    if start == "random":
        assert longer is None
        return
    assert longer.steps == 8
    assert torch.equal(longer.sequence(torch.arange(3), 2)[:, :5], data.sequence(torch.arange(3), 2))


@pytest.mark.parametrize(
    ("name", "part"), [("vae", "composition"), ("poflow", "composition"), ("flow", "disentanglement")]
)
def test_a_part_that_does_not_apply(runs, capsys, name, part):
    """Catches numbers that mean nothing for a method."""
    assert main(["measure", str(runs / name), "--parts", part]) == 2
    assert f"{part}: expected a run" in capsys.readouterr().err


def test_a_run_that_was_not_evaluated(tmp_path, runs, capsys):
    """Catches a choice on validation data that is silently made anew or left out."""
    for name in ("config.json", "checkpoint.safetensors"):
        (tmp_path / name).write_bytes((runs / "vae" / name).read_bytes())
    assert main(["measure", str(tmp_path), "--parts", "vp", *FEW]) == 1
    assert "expected an evaluated run" in capsys.readouterr().err


def test_the_table_of_several_methods(runs, capsys):
    """Catches columns of other runs, a method without flows that has a certificate, and an empty table."""
    main(["measure", str(runs / "vae"), "--parts", "likelihood", "vp", *FEW])
    capsys.readouterr()
    assert main(["compare", *(str(runs / name) for name in ("vae", "tvae", "poflow", "weak"))]) == 0
    errors, likelihood, predictability, shared = capsys.readouterr().out.strip().split("\n\n")
    assert shared.startswith("All with `--batch-size 4 ")
    assert "--dim 9" in shared
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in errors.splitlines()]
    assert rows[0][:5] == ["run", "steps", "E scaling", "E rotation", "E coloring"]
    by_name = {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}
    assert len(by_name) == 4
    assert not any("--dim" in name for name in by_name)
    vae, weak = (next(row for name, row in by_name.items() if kind in name) for kind in ("--method vae", "weak"))
    assert vae["cost / W2^2 scaling"] == ""
    assert float(weak["cost / W2^2 scaling"].replace("inf", "1")) >= 1
    assert vae["E scaling"] == f"{read(runs / 'vae' / 'evaluation.json')['result']['errors']['scaling']['output']:.1f}"
    bound = read(runs / "vae" / "likelihood.json")["result"]["encoder"]["bounds"]["average"]["Gaussian, variance 1"][
        "4"
    ]
    assert f"{bound:.1f}" in likelihood
    assert "VP, labels true, 0.1" in predictability
    assert "k recovered" in predictability


def test_where_the_latents_of_a_frame_are_looked_for():
    """Catches a proposal of another model's prior, and flows in the order of the bank."""
    data = open_sequences("digits", "test")
    order = (2, 0, 1)
    found = {}
    for name, options in {
        "vae": {"method": "vae"},
        "tvae": {"method": "tvae"},
        "poflow": {"method": "poflow"},
        "joint": {"bound": "joint"},
        "marginal": {"bound": "marginal"},
    }.items():
        config = ModelConfig(dim=9, hidden=(5,), width=8, **options)
        model, method = config.build(data).eval(), config.described
        choice = Choice(matching=Matching(order, ())) if name in ("joint", "marginal") else method.choose(model, data)
        found[name] = {k: p(1) for k, p in method.proposals(model, choice).items()}
    assert {name: {k: type(p) for k, p in each.items()} for name, each in found.items()} == {
        "vae": {"encoder": FromEncoderStandard},
        "tvae": {"encoder": FromTVAE},
        "poflow": {"flow": FromFlow, "encoder": FromEncoder},
        "joint": {"flow": FromSharedFlow},
        "marginal": {"flow": FromFlow, "encoder": FromEncoder},
    }
    assert [found["joint"]["flow"].k, found["marginal"]["flow"].k, found["poflow"]["flow"].k] == [0, 0, 1]


def test_codes_of_images_in_random_states():
    """Catches states that belong to other images, and factors that depend on each other."""
    data = open_sequences("digits", "test")

    def encode(x):
        """Read the color: green over red, and blue."""
        total = x.flatten(2).sum(-1)
        return torch.distributions.Normal(total[:, 1:] / total.amax(1, keepdim=True), 1.0)

    codes, factors = draw_codes(encode, data, 120, torch.Generator().manual_seed(0))
    assert codes.shape == (150, 2)
    assert factors.shape == (150, 3)
    green = torch.tensor([0, 1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1])
    torch.testing.assert_close(codes[:, 0], green[factors[:, 2]], rtol=0.02, atol=0.02)
    assert all(len(factors[:, k].unique()) == 9 for k in range(3))


@pytest.mark.parametrize("options", [{"images": 0}, {"samples": ()}, {"samples": (1, 0)}, {"pairs": 0}, {"epochs": 0}])
def test_wrong_settings(options):
    """Catches a measure of nothing."""
    (name,) = options
    with pytest.raises(UsageError, match=f"^{name}: expected positive integers"):
        MeasureConfig(**options)
