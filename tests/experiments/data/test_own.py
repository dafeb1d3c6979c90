"""Data of the user's own on the disk: npz, folders and clips, whole, damaged and hostile."""

import io
import os
import sys
import zipfile

import av
import numpy as np
import pytest
import torch
from PIL import Image

from latentflow_experiments.data import SequenceConfig, Source, open_splits
from latentflow_experiments.data.own import read_own
from latentflow_experiments.errors import DataError, ExperimentError, UsageError

RANDOM = np.random.default_rng(0)


def read(path, **options):
    return read_own(str(path), SequenceConfig(**options), path)


def pixels(count, *shape):
    return RANDOM.integers(0, 256, (count, *shape), dtype=np.uint8)


def write_frames(folder, frames):
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{t}.png")


def test_an_npz_file_is_read_as_written(tmp_path):
    """Catches labels or names that are dropped, and transformations in another order than asked for."""
    frames, labels = pixels(9, 4, 3, 8, 8), np.arange(9) % 3
    np.savez_compressed(tmp_path / "a.npz", frames=frames, labels=labels, names=np.array(["x", "y", "z"]))
    data = read(tmp_path / "a.npz", transformations=("z", "x"), states=3)
    assert (data.names, data.steps, len(data)) == (("z", "x"), 2, 6)
    expected = torch.from_numpy(frames[labels == 2][:, :3]).float() / 255
    torch.testing.assert_close(data.sequence(data.starts(0), 0), expected)
    train, test = open_splits(str(tmp_path / "gone.npz"), ("train", "test"), None, Source(data=tmp_path / "a.npz"))
    assert (train.split, test.split, len(test.starts(1))) == ("train", "test", 1)


def test_a_folder_of_frames_is_read_in_natural_order(tmp_path):
    """Catches frame10 before frame2, grey pictures in three channels, and labels in another order than sequences."""
    frames = pixels(6, 11, 8, 5)
    for i, sequence in enumerate(frames):
        write_frames(tmp_path / "own" / ("turn", "grow")[i % 2] / f"s{i}", sequence)
    (tmp_path / "own" / ".hidden").write_text("")
    data = read(tmp_path / "own")
    assert (data.names, data.shape, data.steps) == (("grow", "turn"), (1, 8, 5), 10)
    found = (data.sequence(data.starts(1), 1) * 255).round().byte()[:, :, 0]
    assert np.array_equal(found.numpy(), frames[0::2])
    unlabelled = read(tmp_path / "own" / "turn")
    assert (unlabelled.names, len(unlabelled)) == (("change",), 3)


def test_names_of_one_number_have_one_order(tmp_path):
    """Catches frames of the names 1.png and 01.png in the order of the file system."""
    for i, sequence in enumerate(frames := pixels(3, 2, 4, 4)):
        (tmp_path / f"s{i}").mkdir()
        for name, frame in zip(("1", "01")[:: (-1) ** i], sequence, strict=True):
            Image.fromarray(frame).save(tmp_path / f"s{i}" / f"{name}.png")
    data = read(tmp_path)
    first = (data.sequence(data.starts(0), 0) * 255).round().byte()[:, 0, 0]
    assert np.array_equal(first.numpy(), frames[[0, 1, 2], [1, 0, 1]])


def test_gif_clips_are_read(tmp_path):
    """Catches a palette that is read as grey values, and the first frame of a clip only."""
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
    frames = colors[RANDOM.integers(0, 4, (3, 5, 8, 8))]
    for i, clip in enumerate(frames):
        first, *others = map(Image.fromarray, clip)
        first.save(tmp_path / f"{i}.gif", save_all=True, append_images=others)
    data = read(tmp_path)
    assert (data.steps, data.shape) == (4, (3, 8, 8))
    found = (data.sequence(data.starts(0), 0) * 255).round().byte().permute(0, 1, 3, 4, 2)
    assert np.array_equal(found.numpy(), frames)


def write_clip(path, brightness, size=(32, 32)):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for value in brightness:
            grey = np.full((size[1], size[0], 3), value, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())


def test_mp4_clips_are_read_by_their_labels(tmp_path):
    """Catches frames that are lost at the end of a stream, or come in the order of the file."""
    for i in range(6):
        (tmp_path / f"k{i % 2}").mkdir(exist_ok=True)
        write_clip(tmp_path / f"k{i % 2}" / f"{i}.mp4", [0, 60, 120, 180, 240])
    data = read(tmp_path)
    assert (data.names, data.steps) == (("k0", "k1"), 4)
    means = data.sequence(data.starts(0), 0).mean((2, 3, 4)) * 255
    assert (means - torch.tensor([0.0, 60, 120, 180, 240])).abs().max() < 6


def test_mp4_without_pyav_says_what_to_install(tmp_path, monkeypatch):
    """Catches a traceback of an import."""
    for i in range(3):
        (tmp_path / f"{i}.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r'pip install "latentflow-torch\[video\]"'):
        read(tmp_path)


def damaged_npz(path, kind):  # noqa: PLR0911 - one for each kind
    good = io.BytesIO()
    np.save(good, pixels(6, 3, 4, 4))
    body = good.getvalue()
    if kind == "pickled":
        np.savez(path, frames=np.array([{}, []], object))
        return "object"
    if kind == "fifo":
        os.mkfifo(path)
        return "got a pipe"
    if kind == "other key":
        np.savez(path, frames=pixels(6, 3, 4, 4), speed=3)
        return "expected the keys frames, labels and names, got 'speed'"
    if kind == "integers":
        np.savez(path, frames=np.zeros((6, 3, 4, 4), np.int64))
        return "got int64; expected uint8 or floating point"
    if kind == "flat":
        np.savez(path, frames=np.zeros(5, np.uint8))
        return "expected .N, T.1, C, H, W."
    with zipfile.ZipFile(path, "w") as archive:
        if kind == "huge":
            archive.writestr("frames.npy", body.replace(b"(6, 3, 4, 4)", b"(9" + b"9" * 8 + b", 9)"))
            return "expected an array frames of at most"
        archive.writestr("frames.npy", body[:-7] if kind == "short" else body + b"more")
        return "fewer than" if kind == "short" else "more than"


@pytest.mark.parametrize("kind", ["pickled", "fifo", "other key", "integers", "flat", "huge", "short", "long"])
def test_hostile_npz_files_are_one_line(tmp_path, kind):
    """Catches code that is unpickled, memory that a header asks for, a pipe that waits, and a file half read."""
    path = tmp_path / "a.npz"
    cause = damaged_npz(path, kind)
    with pytest.raises(DataError, match=cause) as error:
        read(path)
    assert str(path) in str(error.value)


def test_a_zip_with_lying_sizes_is_refused(tmp_path):
    """Catches a table of contents that is believed."""
    np.savez(tmp_path / "a.npz", frames=pixels(6, 3, 4, 4))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    place = data.rindex(b"PK\x01\x02")
    data[place + 20 : place + 28] = (2**30).to_bytes(4, "little") * 2
    (tmp_path / "a.npz").write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"a\.npz"):
        read(tmp_path / "a.npz")


def damage_folder(folder, kind):  # noqa: PLR0911 - one for each kind
    if kind == "link":
        (folder.parent / "secret.png").write_bytes((folder / "s0" / "frame0.png").read_bytes())
        (folder / "s1" / "frame0.png").unlink()
        (folder / "s1" / "frame0.png").symlink_to(folder.parent / "secret.png")
        return "frame0.png: expected a file in the folder, got a link that leads out of it"
    if kind == "fifo":
        os.mkfifo(folder / "s1" / "frame9.png")
        return "frame9.png: expected a regular file, got a pipe"
    if kind == "damaged":
        (folder / "s1" / "frame1.png").write_bytes((folder / "s1" / "frame1.png").read_bytes()[:60])
        return "frame1.png: expected a complete PNG or JPEG picture"
    if kind == "size":
        Image.fromarray(pixels(6, 6)).save(folder / "s1" / "frame0.png")
        return "s1: expected frames of 4 x 4 pixels as in .*s0, got 6 x 6"
    if kind == "length":
        Image.fromarray(pixels(4, 4)).save(folder / "s1" / "frame9.png")
        return "s1: expected 3 frames as in the shortest sequence, .*s0, got 4; --states 3 takes the first 3"
    if kind == "text":
        (folder / "s1" / "notes.txt").write_text("")
        return "notes.txt: expected a folder, a .png"
    if kind == "mixed":
        (folder / "clip.gif").write_bytes(b"")
        (folder / "k").mkdir()
        write_frames(folder / "k" / "s", pixels(3, 4, 4))
        return "expected a label as the other sequences have"
    for sequence in list(folder.iterdir()):
        for frame in sequence.iterdir():
            frame.unlink()
        sequence.rmdir()
    return "got an empty folder"


@pytest.mark.parametrize("kind", ["link", "fifo", "damaged", "size", "length", "text", "mixed", "empty"])
def test_hostile_folders_are_one_line(tmp_path, kind):
    """Catches files outside that are read, a pipe that is waited for, and a file that is silently left out."""
    folder = tmp_path / "own"
    for i in range(4):
        write_frames(folder / f"s{i}", pixels(3, 4, 4))
    cause = damage_folder(folder, kind)
    with pytest.raises(ExperimentError, match=cause):
        read(folder)


def test_states_take_the_first_frames_of_unequal_sequences(tmp_path):
    """Catches a remedy that does not work, and a number of frames that the shortest does not have."""
    frames = pixels(4, 5, 4, 4)
    for i, sequence in enumerate(frames):
        write_frames(tmp_path / f"s{i}", sequence[: 3 + i % 2])
    data = read(tmp_path, states=3)
    assert np.array_equal((data.sequence(data.starts(0), 0) * 255).round().byte().numpy()[:, :, 0], frames[:, :3])
    with pytest.raises(UsageError, match=r"states: expected at most 3, the frames of .*s0, got 4"):
        read(tmp_path, states=4)


def test_damaged_clips_are_one_line(tmp_path):
    """Catches a traceback of FFmpeg or of pillow."""
    for suffix in ("mp4", "gif"):
        folder = tmp_path / suffix
        folder.mkdir()
        for i in range(3):
            (folder / f"{i}.{suffix}").write_bytes(b"\x00\x00\x00\x18ftypmp42" + bytes(40))
        with pytest.raises(DataError, match=rf"0\.{suffix}: expected a complete"):
            read(folder)


def test_options_of_other_data_sets_are_refused(tmp_path):
    """Catches an option that is ignored."""
    with pytest.raises(UsageError, match="start, last-hue"):
        read(tmp_path, last_hue=20.0)
    np.savez(tmp_path / "a.npz", frames=pixels(6, 3, 4, 4), labels=["grow", "turn"] * 3)
    with pytest.raises(UsageError, match="expected some of grow, turn, got 'tern'; did you mean 'turn'"):
        read(tmp_path / "a.npz", transformations=("tern",))
