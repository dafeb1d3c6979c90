"""Data sets of the user's own: an npz file, a folder of frames, or a folder of clips."""

from __future__ import annotations

import difflib
import io
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentflow_experiments.data.arrays import CHANNELS, LEAST, ArraySequences, name_labels
from latentflow_experiments.data.dataset import SequenceConfig, Source
from latentflow_experiments.data.stores.npz import read_keys, read_member
from latentflow_experiments.errors import DataError, UsageError
from latentflow_experiments.reading import brief, open_regular, read_limited, reading

__all__ = ["STEPS", "check_place", "own_stem", "read_images", "read_own"]

STEPS = 5000
"""The steps of training, if the user names no budget."""

MOST_BYTES = 2**32
"""The largest size of all frames in memory, in bytes."""

MOST_FILE_BYTES = 2**28
"""The largest size of one picture or clip on the disk, in bytes."""

PICTURES = (".png", ".jpg", ".jpeg")
CLIPS = (".gif", ".mp4")
LAYOUTS = (
    "FOLDER/SEQUENCE/FRAME.png, FOLDER/LABEL/SEQUENCE/FRAME.png, FOLDER/CLIP.gif or FOLDER/LABEL/CLIP.gif (or .mp4)"
)

Pixels = NDArray[np.uint8]


def own_stem(name: str) -> str:
    """Name the folder of a run after a place.

    Example:
        >>> own_stem("data/my.npz"), own_stem("../clips/"), own_stem("digits"), own_stem(".")
        ('my', 'clips', 'digits', 'own')
    """
    return Path(name).stem or "own"


def check_place(name: str, source: Source, known: Sequence[str]) -> Path:
    """Find the place of data of the user's own.

    Args:
        name: The path, as the user gave it.
        source: Where it is instead, if it moved.
        known: The names of the other data sets.

    Returns:
        The path.

    Raises:
        UsageError: If there is nothing, with the nearest name.
    """
    place = Path(name) if source.data is None else source.data
    if place.exists():
        return place
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "; if it moved since a training, --data names its place"
    raise UsageError(
        f"dataset: expected one of {', '.join(known)}, or the path of an npz file or of a folder, got {str(place)!r}, "
        f"which does not exist{hint}"
    )


def read_own(name: str, config: SequenceConfig, place: Path) -> ArraySequences:
    """Read all sequences of the user's own data.

    Args:
        name: The path, as the user gave it; its last part is the name of the data.
        config: The transformations to take, or the names of those to infer, and the number of frames.
        place: The path to read.

    Returns:
        The sequences.

    Raises:
        DataError: If a file is damaged, is not a file, leads out of the folder, or is too large.
        UsageError: If the sequences do not fit together, or the configuration does not fit to them.
    """
    if config.of_images:
        own = "sequences of your own, whose frames are as they are"
        raise UsageError(f"start, last-hue, variants: expected none of them for {own}")
    if config.states is not None and config.states < 2:
        raise UsageError(f"states: expected at least 2, got {config.states}")
    found = _read_folder(place, config.states) if place.is_dir() else _read_npz(place)
    frames, labels, names = found.frames, found.labels, found.names
    if config.states is not None:
        if frames.shape[1] < config.states:
            raise UsageError(
                f"states: expected at most {frames.shape[1]}, the frames of a sequence, got {config.states}"
            )
        frames = frames[:, : config.states]
    title = Path(name).name or "own"
    try:
        if config.transformations and labels is None:
            return ArraySequences(frames, None, config.transformations, name=title)
        if config.transformations:
            kinds, known = name_labels(labels, len(frames), names)
            frames, chosen = _select(frames, kinds.numpy(), known, config.transformations)
            return ArraySequences(frames, chosen, config.transformations, name=title)
        return ArraySequences(frames, labels, names, name=title)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error


def _select(
    frames: NDArray[Any], kinds: NDArray[np.int64], known: Sequence[str], chosen: Sequence[str]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Take the sequences of some transformations, in the order of their names."""
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"transformations: expected some of {', '.join(known)}, got {name!r}{hint}")
    if len(set(chosen)) != len(chosen):
        raise UsageError(f"transformations: expected distinct ones, got {' '.join(chosen)}")
    places = np.full(len(known), -1)
    places[[known.index(name) for name in chosen]] = np.arange(len(chosen))
    kept = places[kinds] >= 0
    return frames[kept], places[kinds[kept]]


@dataclass(frozen=True)
class _Found:
    frames: NDArray[Any]
    labels: Any = None
    names: tuple[str, ...] | None = None


def _read_npz(path: Path) -> _Found:
    """Read the arrays ``frames``, ``labels`` and ``names``."""
    keys = read_keys(path)
    others = [key for key in keys if key not in ("frames", "labels", "names")]
    if others:
        raise DataError(f"{path}: expected the keys frames, labels and names, got {brief(others[0])}")
    frames = read_member(path, "frames", MOST_BYTES, _check_frames)
    labels = read_member(path, "labels", MOST_FILE_BYTES, _check_list("iuU")) if "labels" in keys else None
    names = read_member(path, "names", MOST_FILE_BYTES, _check_list("U")) if "names" in keys else None
    return _Found(frames, labels, None if names is None else tuple(map(str, names)))


def _check_frames(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype != np.uint8 and dtype.kind != "f":
        raise ValueError(f"{dtype}; expected uint8 or floating point")
    if len(shape) not in (4, 5):
        raise ValueError(f"shape {brief(shape)}; expected (N, T+1, C, H, W) or (N, T+1, H, W)")


def _check_list(kinds: str) -> Callable[[tuple[int, ...], np.dtype[Any]], None]:
    def check(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        if len(shape) != 1 or dtype.kind not in kinds:
            what = "names" if kinds == "U" else "integers or names"
            raise ValueError(f"{dtype} of shape {brief(shape)}; expected {what} of shape (n,)")

    return check


@dataclass(frozen=True)
class _Sequence:
    """A sequence on the disk: a clip, or a folder of pictures."""

    path: Path
    pictures: tuple[Path, ...] = ()
    label: str | None = None


def _read_folder(root: Path, states: int | None) -> _Found:
    """Read all sequences of a folder, as uint8."""
    listed = _list_sequences(root)
    if not listed:
        raise DataError(f"{root}: expected sequences as {LAYOUTS}, got an empty folder")
    if len(listed) < LEAST:
        raise DataError(f"{root}: expected at least {LEAST} sequences, got {len(listed)}")
    read: list[Pixels] = []
    total = 0
    for one in listed:
        frames: list[Pixels] = []
        for frame in islice(_frames_of(one), states):
            total += frame.nbytes
            if total > MOST_BYTES:
                raise DataError(f"{root}: expected at most {MOST_BYTES:,} bytes of frames, got more at {one.path}")
            if frames and frame.shape != frames[0].shape:
                raise UsageError(f"{one.path}: expected frames of one size, got {_size(frames[0])} and {_size(frame)}")
            if read and frame.shape[:2] != read[0].shape[1:3]:
                raise UsageError(
                    f"{one.path}: expected frames of {_size(read[0][0])} pixels as in {listed[0].path}, got "
                    f"{_size(frame)}; make them equal"
                )
            frames.append(frame)
        if not frames:
            raise DataError(f"{one.path}: expected frames, got none")
        stacked = np.stack(frames)
        grey = (stacked[..., :1] == stacked).all()
        read.append(stacked[..., :1].copy() if grey else stacked)
    _check_lengths(listed, [len(frames) for frames in read], states)
    channels = max(frames.shape[-1] for frames in read)
    every = np.stack([np.broadcast_to(frames, (*frames.shape[:-1], channels)) for frames in read])
    labels = None if listed[0].label is None else np.array([one.label for one in listed])
    return _Found(np.ascontiguousarray(every.transpose(0, 1, 4, 2, 3)), labels)


def _check_lengths(listed: Sequence[_Sequence], lengths: Sequence[int], states: int | None) -> None:
    shortest, longest = int(np.argmin(lengths)), int(np.argmax(lengths))
    least = lengths[shortest]
    if states is not None and least < states:
        raise UsageError(f"states: expected at most {least}, the frames of {listed[shortest].path}, got {states}")
    if least != lengths[longest]:
        raise UsageError(
            f"{listed[longest].path}: expected {least} frames as in the shortest sequence, {listed[shortest].path}, "
            f"got {lengths[longest]}; --states {max(least, 2)} takes the first {max(least, 2)} of each"
        )


def _size(frame: Pixels) -> str:
    return f"{frame.shape[1]} x {frame.shape[0]}"


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Order names as people count: frame2 before frame10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path.name) if part]


def _entries(folder: Path, root: Path) -> list[Path]:
    """List what is not hidden in a folder, in natural order; a link that leads out of the root is refused."""
    with reading(folder, "a readable folder"):
        found = sorted(
            (path for path in folder.iterdir() if not path.name.startswith(".")),
            key=lambda path: (_natural(path), path.name),
        )
        for path in found:
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise DataError(f"{path}: expected a file in the folder, got a link that leads out of it")
            if not path.exists():
                raise DataError(f"{path}: expected a file, got a link to nothing")
            mode = path.stat().st_mode
            if not stat.S_ISDIR(mode):
                open_regular(path).close()
                if path.suffix.lower() not in PICTURES + CLIPS:
                    raise DataError(
                        f"{path}: expected a folder, a {', '.join(PICTURES + CLIPS)} file, got another kind"
                    )
    return found


def _list_sequences(root: Path) -> list[_Sequence]:
    """Find the layout of a folder and list its sequences."""
    resolved = root.resolve()
    found: list[_Sequence] = []
    for path in _entries(root, resolved):
        if not path.is_dir():
            found.append(_clip(path, None))
            continue
        inside = _entries(path, resolved)
        if inside and all(_is_picture(entry) for entry in inside):
            found.append(_Sequence(path, tuple(inside)))
            continue
        if not inside:
            raise DataError(f"{path}: expected frames or sequences, got an empty folder")
        for entry in inside:
            if not entry.is_dir():
                found.append(_clip(entry, path.name))
                continue
            pictures = _entries(entry, resolved)
            if not pictures or not all(_is_picture(picture) for picture in pictures):
                raise DataError(f"{entry}: expected a folder of pictures; sequences are {LAYOUTS}")
            found.append(_Sequence(entry, tuple(pictures), path.name))
    bare = [one for one in found if one.label is None]
    if bare and len(bare) < len(found):
        raise DataError(f"{bare[0].path}: expected a label as the other sequences have, got none; they are {LAYOUTS}")
    return found


def _is_picture(path: Path) -> bool:
    return not path.is_dir() and path.suffix.lower() in PICTURES


def _clip(path: Path, label: str | None) -> _Sequence:
    if path.suffix.lower() not in CLIPS:
        raise DataError(f"{path}: expected a clip or a folder, got a picture alone; sequences are {LAYOUTS}")
    return _Sequence(path, (), label)


def _frames_of(one: _Sequence) -> Iterator[Pixels]:
    """Decode the frames of a sequence one by one, each ``(height, width, 3)``."""
    if one.pictures:
        for path in one.pictures:
            yield next(_pictures(path, ("PNG", "JPEG")))
    elif one.path.suffix.lower() == ".gif":
        yield from _pictures(one.path, ("GIF",))
    else:
        yield from _video(one.path)


def _pictures(path: Path, formats: tuple[str, ...]) -> Iterator[Pixels]:
    """Decode a picture, or the pictures of an animation."""
    expected = f"a complete {' or '.join(formats)} picture"
    data = io.BytesIO(read_limited(path, MOST_FILE_BYTES))
    with reading(path, expected), warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is checked here
        with Image.open(data, formats=formats) as image:
            _check_area(image.width, image.height)
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"pixels of mode {image.mode}; expected 8 bits a channel")
            count = 0
            while True:
                try:
                    image.seek(count)
                except EOFError:
                    return
                yield np.asarray(image.convert("RGB"))
                count += 1
                if count == getattr(image, "n_frames", 1):
                    return


def _check_area(width: int, height: int) -> None:
    if not 0 < width * height * 3 <= MOST_FILE_BYTES:
        raise ValueError(f"a picture of {width} x {height} pixels, which is too large")


def _video(path: Path) -> Iterator[Pixels]:
    """Decode the frames of an MP4 file by PyAV."""
    try:
        import av  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise UsageError(f'{path}: reading MP4 needs PyAV: pip install "latentflow-torch[video]"') from None
    data = io.BytesIO(read_limited(path, MOST_FILE_BYTES))
    try:
        with av.open(data, "r", format="mp4") as container:
            if not container.streams.video:
                raise DataError(f"{path}: expected a video, got none in the file")
            coded = container.streams.video[0].codec_context
            _check_area(coded.width, coded.height)
            for frame in container.decode(video=0):
                with reading(path, "a complete MP4 clip"):
                    _check_area(frame.width, frame.height)
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (av.error.FFmpegError, ValueError, EOFError) as error:
        raise DataError(f"{path}: expected a complete MP4 clip, got {brief(error)}") from error


def read_images(paths: Sequence[Path], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Read single images for a model: the array ``images`` of an npz file, or PNG files.

    Args:
        paths: The files.
        shape: The shape of an image of the model, ``(channels, height, width)``.

    Returns:
        The images, uint8 or floating point, shape ``(n, channels, height, width)``.

    Raises:
        DataError: If a file is damaged, or its images are of another shape.
    """
    found: list[NDArray[Any]] = []
    for path in paths:
        if path.suffix.lower() == ".npz":
            images = read_member(path, "images", MOST_BYTES, _check_images)
            images = images[:, None] if images.ndim == 3 else images
        else:
            pixels = next(_pictures(path, ("PNG", "JPEG"))).transpose(2, 0, 1)
            images = pixels[None, :1] if shape[0] == CHANNELS[0] and (pixels[:1] == pixels).all() else pixels[None]
        if images.shape[1:] != shape or not len(images):
            raise DataError(
                f"{path}: expected images of shape {shape}, (channels, height, width), got {images.shape[1:]}"
            )
        if images.dtype != np.uint8 and not (images.min() >= 0 and images.max() <= 1):
            raise DataError(f"{path}: expected values in [0, 1], got [{images.min():g}, {images.max():g}]")
        found.append(images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1))
    return np.concatenate(found)


def _check_images(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype != np.uint8 and dtype.kind != "f":
        raise ValueError(f"{dtype}; expected uint8 or floating point")
    if len(shape) not in (3, 4):
        raise ValueError(f"shape {brief(shape)}; expected (n, C, H, W) or (n, H, W)")
