"""The commands for data, and training on what they make."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latentflow_experiments.cli import _parse, main
from latentflow_experiments.data import SequenceConfig, Source, open_sequences, open_transfer
from latentflow_experiments.errors import UsageError
from latentflow_experiments.metrics import equivariance, transport
from latentflow_experiments.runs import RunFolder

pytestmark = pytest.mark.usefixtures("few_digits")

SMALL = ["--dim", "3", "--hidden", "5", "--width", "8", "--batch-size", "6", "--device", "cpu", "--steps", "3"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with sprites and nothing else."""
    folder = tmp_path_factory.mktemp("data")
    out = folder / "synthetic" / "dsprites"
    assert main(["data", "make", "dsprites", "--size", "20000", "--workers", "1", "--out", str(out)]) == 0
    return folder


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Evaluations on a few sequences."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equivariance, "LIMIT", 40)
        patch.setattr(transport, "SAMPLES", 30)
        yield


@pytest.fixture(autouse=True)
def places(root, monkeypatch, tmp_path):
    """Data is looked for there, and in an empty cache."""
    monkeypatch.setenv("LATENTFLOW_DATA", str(root))
    monkeypatch.setattr("pooch.os_cache", lambda _: tmp_path / "cache")


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """A run of a few steps on the sprites."""
    out = tmp_path_factory.mktemp("runs") / "dsprites"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATENTFLOW_DATA", str(root))
        patch.setattr("pooch.os_cache", lambda _: out.parent / "cache")
        assert main(["train", "dsprites", "--out", str(out), *SMALL]) == 0
    return out


def complaint(capsys):
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("latentflow: error: ")]
    return line


def test_a_run_on_a_stand_in_says_that_it_is_synthetic(trained, root):
    """Catches made images whose numbers pass for those of the published ones."""
    evaluation = json.loads(RunFolder(trained).evaluation.read_text())
    (session,) = RunFolder(trained).sessions()
    for data in (session["data"], evaluation["provenance"]["data"]):
        assert data["name"] == "dsprites (synthetic)"
        assert data["synthetic"]["renderer"] == "latentflow"
        assert len(data["sha256"]) == 64
    assert set(evaluation["result"]["errors"]) == {"scale", "orientation", "posX", "posY"}
    assert evaluation["result"]["steps"] == 5
    starts = [len(open_sequences("dsprites", "test").starts(k)) for k in range(4)]
    assert evaluation["result"]["images"] == min(*starts, 40)


def test_strips_show_something_of_every_transformation(trained):
    """Catches panels that are empty, and one channel that is drawn in false colors."""
    with Image.open(RunFolder(trained).strips) as file:
        picture = torch.from_numpy(np.array(file.convert("RGB")))
    height, width, _ = picture.shape
    for k in range(4):
        panel = picture[height // 4 : -height // 8, k * width // 4 : (k + 1) * width // 4]
        assert (panel.max(-1).values < 60).float().mean() > 0.3  # the black of the sprites
        middle = panel[panel.shape[0] // 3 : -panel.shape[0] // 3, width // 16 : -width // 16]
        assert ((middle.max(-1).values - middle.min(-1).values) < 8).float().mean() > 0.99  # grey


def test_a_run_is_compared_under_its_options(trained, capsys):
    """Catches a table that leaves the name of the data out."""
    assert main(["compare", str(trained)]) == 0
    row = capsys.readouterr().out.splitlines()[-1].split("|")[1].strip()
    assert row.startswith("`dsprites --batch-size 6")
    assert row.endswith("` (synthetic)")
    assert main(["evaluate", str(trained)]) == 0
    assert capsys.readouterr().out.startswith("dsprites (synthetic), test\n")


def test_the_same_run_through_a_cache(root, tmp_path, trained):
    """Catches a cache that hands out other images than the files."""
    out = tmp_path / "run"
    assert main(["train", "dsprites", "--out", str(out), "--cache-gib", "0.01", *SMALL]) == 0
    checkpoints = [RunFolder(folder).checkpoint.read_bytes() for folder in (trained, out)]
    assert len(checkpoints[0]) == len(checkpoints[1])
    metrics = [json.loads(RunFolder(f).evaluation.read_text())["result"] for f in (trained, out)]
    assert metrics[0] == metrics[1]
    assert (tmp_path / "cache" / "frames").is_dir()


def test_chosen_transformations_and_states(root, tmp_path):
    """Catches options that training drops, or that evaluation forgets."""
    out = tmp_path / "run"
    arguments = ["train", "dsprites", "--out", str(out), "--transformations", "posY", "scale", "--states", "4", *SMALL]
    assert main(arguments) == 0
    result = json.loads(RunFolder(out).evaluation.read_text())["result"]
    assert list(result["errors"]) == ["posY", "scale"]
    assert result["steps"] == 3


def test_mnist_models_are_shown_sprites(root, tmp_path, capsys):
    """Catches an evaluation on other data that overwrites the one on the test set, and sprites of another size."""
    out = tmp_path / "run"
    assert main(["train", "digits", "--out", str(out), *SMALL]) == 0
    before = RunFolder(out).evaluation.read_bytes()
    assert main(["evaluate", str(out), "--transfer", "dsprites"]) == 0
    assert RunFolder(out).evaluation.read_bytes() == before
    transfer = json.loads(RunFolder(out).transfer.read_text())
    assert transfer["provenance"]["data"]["name"] == "dsprites (synthetic, 28 x 28, red)"
    assert RunFolder(out).transfer_strips.is_file()
    shutil.rmtree(out)


def test_sprites_in_the_frame_of_mnist(root):
    """Catches sprites that are cut, squeezed or not averaged over the area of a pixel."""
    data = open_transfer("dsprites", "mnist", SequenceConfig(), Source())
    sprites = open_sequences("dsprites", "train")
    images = data.images
    assert data.shape == (3, 28, 28)
    assert set(images.labels.tolist()) == {0, 1, 2}
    assert len(images) == 3 * 6 * sprites.grid.sizes[3]
    frames = data.sequence(torch.arange(len(images)), 0)[:, 0]
    assert not frames[:, 1:].any()
    mass = frames[:, 0].sum((1, 2)) * (64 / 28) ** 2
    scale = 0.5 + 0.1 * (torch.arange(len(images)) // sprites.grid.sizes[3] % 6)
    squares = images.labels == 0
    torch.testing.assert_close(mass[squares], 19.2**2 * scale[squares] ** 2, rtol=0.12, atol=0)
    grid = torch.arange(28.0)
    centre = (frames[:, 0].sum(1) * grid).sum(1) / frames[:, 0].sum((1, 2))
    assert (centre - 13.5).abs().max() < 1.5
    with pytest.raises(UsageError, match="transfer: expected a run of digits or mnist, got one of shapes3d"):
        open_transfer("dsprites", "shapes3d")


def test_list_says_what_is_here(root, capsys):
    """Catches a stand-in that is listed as the original, and a missing one that is listed as there."""
    assert main(["data", "list"]) == 0
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines()]
    rows = {cells[1].strip(): cells[-2].strip() for cells in lines}
    assert rows["dsprites"] == f"{root / 'synthetic' / 'dsprites'} (synthetic)"
    assert rows["shapes3d"] == rows["isaac3d"] == rows["mnist"] == "no"
    assert "scikit-learn" in rows["digits"]


def test_make_again_and_check(root, capsys):
    """Catches a stand-in that is rendered twice, and a check that finds faults in it."""
    out = root / "synthetic" / "dsprites"
    assert main(["data", "make", "dsprites", "--size", "20000", "--workers", "1"]) == 0
    assert f"dsprites (synthetic) was already in {out}" in capsys.readouterr().out
    assert main(["data", "check", str(out)]) == 0
    assert "dSprites (synthetic stand-in), 15,840 images read, no fault" in capsys.readouterr().out


def test_check_fails_where_there_are_faults(root, tmp_path, capsys):
    """Catches a script that goes on with damaged files."""
    path = next((root / "synthetic" / "dsprites").iterdir())
    (tmp_path / path.name).write_bytes(path.read_bytes()[:-100])
    assert main(["data", "check", str(tmp_path)]) == 1
    assert "expected a data set without faults, got" in complaint(capsys)


def test_show(root, tmp_path, capsys):
    """Catches a sheet without a row for each factor."""
    for arguments, rows in ((["dsprites"], 5), (["digits"], 6), (["dsprites", "--rendered", "--width", "32"], 5)):
        out = tmp_path / "sheet.png"
        assert main(["data", "show", *arguments, "--out", str(out)]) == 0
        width = 32 if "--width" in arguments else 64
        with Image.open(out) as sheet:
            assert sheet.size[1] == 26 + rows * (width + 18)


@pytest.mark.parametrize(
    ("arguments", "code", "cause"),
    [
        (["train", "shapes3d", "--steps", "1"], 1, "`latentflow data make shapes3d`"),
        (["train", "falcor3d", "--steps", "1"], 1, "NVlabs"),
        (
            ["train", "dsprites", "--steps", "1", "--start", "random"],
            2,
            "start, last-hue, variants: expected none of them",
        ),
        (
            ["train", "dsprites", "--steps", "1", "--states", "7"],
            2,
            "states: expected from 2 to 6, the values of scale",
        ),
        (
            ["train", "dsprites", "--steps", "1", "--transformations", "hue"],
            2,
            "names: expected distinct ones of color",
        ),
        (["train", "digits", "--steps", "1", "--transformations", "posX"], 2, "expected distinct ones of scaling"),
        (["train", "digits", "--steps", "1", "--states", "1"], 2, "states: expected at least 2, got 1"),
        (["train", "digits", "--steps", "1", "--cache-gib", "-1"], 2, "cache-gib: expected a size of at least 0"),
        (["data", "make", "dsprites", "--size", "3", "--out", "nowhere"], 2, "size: expected at least"),
        (["data", "make", "dsprites", "--workers", "0"], 2, "workers: expected a positive integer"),
        (["data", "make", "mnist"], 2, "invalid choice"),
        (["data", "fetch", "digits"], 2, "invalid choice"),
        (["data", "check", "nowhere"], 1, "got no such file or folder"),
        (["data", "show", "mnist", "--rendered"], 2, "rendered: expected a family of which there is a stand-in"),
        (["data", "show", "isaac3d"], 1, "latentflow data make isaac3d"),
        (["data"], 2, "list, fetch"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, code, cause, tmp_path, monkeypatch, capsys):
    """Catches a traceback, a message of several lines, and a run folder that is left behind."""
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    assert cause in complaint(capsys)
    assert not [path for path in tmp_path.iterdir() if path.name not in ("cache", "data")]


def test_a_set_without_test_sequences_is_refused_before_training(root, tmp_path, capsys):
    """Catches half an hour of training that cannot be evaluated."""
    data = tmp_path / "few"
    assert main(["data", "make", "dsprites", "--size", "48", "--workers", "1", "--out", str(data)]) == 0
    out = tmp_path / "run"
    assert main(["train", "dsprites", "--data", str(data), "--out", str(out), *SMALL]) == 1
    assert "sequences of " in (said := complaint(capsys))
    assert "got none among 48 images; a larger set has some: `latentflow data make dsprites --size N`" in said
    assert not out.exists()


def test_a_random_start_trains(root, tmp_path):
    """Catches a split that counts images where sequences are many more."""
    out = tmp_path / "run"
    assert main(["train", "digits", "--out", str(out), "--start", "random", "--last-hue", "340", *SMALL]) == 0
    result = json.loads(RunFolder(out).evaluation.read_text())["result"]
    assert result["images"] == 40  # of 360 x 81 sequences


def test_defaults_of_the_families():
    """Catches a default length of training that only digits have."""
    for name in ("dsprites", "shapes3d", "falcor3d", "isaac3d", "mnist"):
        assert _parse(["train", name]).budget().steps == 20_000
    assert _parse(["train", "digits"]).budget().steps == 3000
    assert Path(_parse(["data", "make", "dsprites", "--out", "x"]).command.out) == Path("x")
