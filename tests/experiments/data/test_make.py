"""Stand-ins in the formats of the published files: whole, resumable, and never mixed with others."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from latentflow_experiments.cli import main
from latentflow_experiments.data.check import check_folder
from latentflow_experiments.data.factors import FactorSequences
from latentflow_experiments.data.render import make as module
from latentflow_experiments.data.render.make import RenderedFrames, make, render_images, renderer_name
from latentflow_experiments.data.render.pool import _interrupts_held, _processes
from latentflow_experiments.data.render.sprites import draw_sprites
from latentflow_experiments.data.sets.dsprites import DSPRITES
from latentflow_experiments.data.sets.falcor3d import FALCOR3D
from latentflow_experiments.data.sets.shapes3d import SHAPES3D
from latentflow_experiments.data.stores import open_frames
from latentflow_experiments.errors import DataError, ExperimentError

SIZES = {"dsprites": 300, "shapes3d": 200, "falcor3d": 130}


def stand_in(family, digits):
    """Sprites, and in place of MuJoCo's pictures noise that depends on the digits."""
    if family is DSPRITES:
        return draw_sprites(digits)
    channels, height, width = family.shape
    bases = np.array(family.grid.bases)
    return np.stack(
        [np.random.default_rng(row @ bases).integers(0, 256, (height, width, channels), np.uint8) for row in digits]
    )


@pytest.fixture
def noise(monkeypatch, tmp_path):
    """Pieces of 16 images that are quickly made, and a cache of the test's own."""
    monkeypatch.setattr(module._Plan, "size", 16)
    monkeypatch.setattr(module, "renderer_name", lambda family: "noise")
    monkeypatch.setattr("latentflow_experiments.data.stores.npz.pooch.os_cache", lambda _: tmp_path / "cache")
    monkeypatch.setattr(
        module,
        "render_images",
        lambda family, rows: draw_sprites(rows) if family is DSPRITES else stand_in(family, rows),
    )
    return module


def contents(folder):
    """All files of a folder and their bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("family", [DSPRITES, SHAPES3D, FALCOR3D], ids=lambda f: f.name)
def test_the_loader_reads_what_was_rendered(noise, tmp_path, family):
    """Catches rows in another order than the grid's, labels of other values, and a mark that gets lost."""
    assert make(family, tmp_path / "set", size=SIZES[family.name], workers=1)
    frames = open_frames(family, tmp_path / "set")
    assert frames.digits == family.subset(SIZES[family.name])
    every = np.arange(len(frames.grid))
    there = frames.grid.decode(every)
    rows = np.stack([np.array(kept)[there[:, j]] for j, kept in enumerate(frames.digits)], -1)
    assert (frames.read(every) == module.render_images(family, rows)).all()
    assert frames.synthetic["family"] == family.name
    assert frames.synthetic["digits"] == [list(kept) for kept in frames.digits]
    report = check_folder(tmp_path / "set")
    assert (report.faults, report.images, report.synthetic) == ((), len(every), True)
    assert FactorSequences(frames, family).name == f"{family.name} (synthetic)"
    assert not (tmp_path / "set" / ".partial").exists()


def test_the_file_of_sprites_has_the_published_keys(noise, tmp_path):
    """Catches an archive that other people's loaders do not read."""
    make(DSPRITES, tmp_path, size=300, workers=1)
    with np.load(tmp_path / DSPRITES.file, allow_pickle=True, encoding="latin1") as archive:
        assert set(archive) == {"imgs", "latents_classes", "latents_values", "metadata", "synthetic"}
        metadata = archive["metadata"][()]
        assert metadata["latents_names"] == ("color", "shape", "scale", "orientation", "posX", "posY")
        assert archive["imgs"].dtype == np.uint8
        assert archive["imgs"].max() == 1
        values, classes = archive["latents_values"], archive["latents_classes"]
    np.testing.assert_allclose(values[:, 1], classes[:, 1] + 1)
    np.testing.assert_allclose(values[:, 2], 0.5 + classes[:, 2] / 10)
    np.testing.assert_allclose(values[:, 3], 2 * np.pi * classes[:, 3] / 39)
    np.testing.assert_allclose(values[:, 4:], classes[:, 4:] / 31)
    with zipfile.ZipFile(tmp_path / DSPRITES.file) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_DEFLATED}


@pytest.mark.parametrize("family", [DSPRITES, SHAPES3D, FALCOR3D], ids=lambda f: f.name)
@pytest.mark.parametrize("when", [1, 4])
def test_an_interrupted_call_goes_on_to_the_same_bytes(noise, monkeypatch, tmp_path, family, when):
    """Catches pieces that are rendered again or lost, and files that depend on the time of day."""
    size = SIZES[family.name]
    make(family, tmp_path / "whole", size=size, workers=1)
    rendered = module.render_images
    calls = []

    def interrupted(family, rows):
        calls.append(len(rows))
        if len(calls) == when + 1:
            raise KeyboardInterrupt
        return rendered(family, rows)

    monkeypatch.setattr(module, "render_images", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(family, tmp_path / "parts", size=size, workers=1)
    assert not (tmp_path / "parts" / family.file).exists()
    assert make(family, tmp_path / "parts", size=size, workers=1)
    assert sum(calls) == np.prod([len(kept) for kept in family.subset(size)]) + calls[when]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_frames_without_a_file_are_those_of_the_file(tmp_path):
    """Catches a sheet of other images than a stand-in has."""
    make(DSPRITES, tmp_path, size=300, workers=1)
    with np.load(tmp_path / DSPRITES.file) as archive:
        images, classes = archive["imgs"], archive["latents_classes"]
    frames = RenderedFrames(DSPRITES)
    indices = frames.grid.encode(classes[::29])
    assert (frames.read(indices)[..., 0] == 255 * images[::29]).all()
    assert frames.synthetic["renderer"] == "latentflow"
    assert len(frames.grid) == 737_280


def test_nothing_is_overwritten(noise, tmp_path):
    """Catches a set of another size, or the originals, under a second call."""
    folder = tmp_path / "set"
    make(SHAPES3D, folder, size=200, workers=1)
    before = contents(folder)
    assert not make(SHAPES3D, folder, size=200, workers=1)
    with pytest.raises(DataError, match=r"expected no images or those of 324 images of shapes3d .* got 144 images"):
        make(SHAPES3D, folder, size=400, workers=1)
    assert contents(folder) == before
    (tmp_path / "original" / "images").mkdir(parents=True)
    path = tmp_path / "original" / "images" / "000000.png"
    module.write_pngs(path.parent, stand_in(FALCOR3D, np.zeros((1, 7), int)), np.array([0]))
    with pytest.raises(DataError, match="got one with the original files"):
        make(FALCOR3D, tmp_path / "original", size=130, workers=1)


def test_pieces_of_another_set_are_left_alone(noise, monkeypatch, tmp_path):
    """Catches a set of two halves that do not belong together."""

    def stop(family, rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "render_images", stop)
    with pytest.raises(KeyboardInterrupt):
        make(SHAPES3D, tmp_path, size=200, workers=1)
    with pytest.raises(DataError, match=r"expected pieces of 324 images of shapes3d .* got 144 images"):
        make(SHAPES3D, tmp_path, size=400, workers=1)


def test_a_folder_that_cannot_be_written_to(noise, tmp_path):
    """Catches a traceback, and an hour of rendering before it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"expected a folder to write to, got .*; try --out"):
        make(DSPRITES, tmp_path / "file" / "set", size=300, workers=1)


HEED = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
"""Take Ctrl-C as a program in a terminal does, also where these tests run in the background and ignore it."""


def wait_until_gone(group, seconds=10):
    """Wait until a group of processes has ended."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, "a process stays behind"
        time.sleep(0.05)


def test_ctrl_c_while_processes_start_waits_for_them():
    """Catches tracebacks of processes that import when Ctrl-C comes, which all of a terminal get, and of those that
    start after the first one has left."""
    taken, heeded = None, signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with _interrupts_held(), ProcessPoolExecutor(1, _processes(module.__name__)) as pool:
            os.kill(os.getpid(), signal.SIGINT)
            taken = pool.submit(signal.getsignal, signal.SIGINT).result()
    except KeyboardInterrupt:
        assert taken is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    else:
        pytest.fail("Ctrl-C was lost")
    finally:
        signal.signal(signal.SIGINT, heeded)


def test_ctrl_c_in_several_processes_keeps_what_is_there(tmp_path, capsys, monkeypatch):
    """Catches processes that stay behind, and pieces that a real signal destroys."""
    try:
        render_images(SHAPES3D, np.array([[0, 0, 0, 0, 0, 0]]))
    except ExperimentError as error:
        pytest.skip(str(error))
    out = tmp_path / "shapes3d"
    monkeypatch.setitem(vars(SHAPES3D), "piece", 16)  # many of them, so that not all are there when the signal comes
    small = "from latentflow_experiments.data.sets.shapes3d import SHAPES3D; vars(SHAPES3D)['piece'] = 16; "
    code = f"{HEED}{small}from latentflow_experiments.__main__ import main; sys.exit(main())"
    words = ["data", "make", "shapes3d", "--size", "400", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list((out / ".partial").glob("*.npz")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopped; the same command goes on" in output
    assert "Traceback" not in errors
    images = int(np.prod([len(kept) for kept in SHAPES3D.subset(400)]))
    kept = list((out / ".partial").glob("*.npz"))
    assert 0 < len(kept) < images / 16
    wait_until_gone(process.pid)
    assert main(words) == 0
    assert f"shapes3d (synthetic) is in {out}" in capsys.readouterr().out
    frames = open_frames(SHAPES3D, out)
    assert len(frames.grid) == images
    indices = np.array([0, 130, images - 1])
    there = frames.grid.decode(indices)
    rows = np.stack([np.array(values)[there[:, j]] for j, values in enumerate(frames.digits)], -1)
    assert (frames.read(indices) == render_images(SHAPES3D, rows)).all()


def test_a_missing_renderer_is_named(monkeypatch):
    """Catches a stand-in that ends in an unexpected error where the extra for rendering is not installed."""
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ExperimentError, match=r'expected MuJoCo, got .*; pip install "latentflow-torch\[render\]"'):
        renderer_name(SHAPES3D)  # comes before the first picture
