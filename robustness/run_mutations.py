"""What may be made of the folder of a run by accident or on purpose."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, MutableMapping, MutableSequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MARKER", "VICTIM", "ZEN", "mutate", "plant"]

Rng = np.random.Generator
Mutation = Callable[[Path, Rng], str]

JSON = ("config.json", "environment.json", "evaluation.json", "likelihood.json", "metrics.jsonl")
CHECKPOINT = "checkpoint.safetensors"
FILES = (*JSON, CHECKPOINT, CHECKPOINT, "strips.png", "events")
MARKER, VICTIM = "marker", "victim"
ZEN = "Beautiful is better than ugly"  # what the module ``this`` prints when it is imported
_HOLE = "@hole@"
_HUGE = 10**400


def plant(place: Path) -> None:
    """Write a module beside the run that leaves a mark if anybody imports it.

    Args:
        place: The folder that commands run in.
    """
    code = f"open({str(place / MARKER)!r}, 'a').close()\n\n\nclass R:\n    pass\n"
    (place / "evil.py").write_text(code, encoding="utf-8")
    (place / "evil").mkdir()
    (place / "evil" / "x.py").write_text(code, encoding="utf-8")


def mutate(folder: Path, others: Path, rng: Rng) -> str:
    """Damage the folder of a run in place.

    Args:
        folder: The folder of the run.
        others: The folder with another checkpoint, ``wider.safetensors``.
        rng: The source of chance.

    Returns:
        What was done, in a few words.
    """
    draw = rng.random()
    if draw < 0.3:
        path = _target(folder, rng)
        return f"{path.name.partition('.out')[0]}: {_one_of(BYTES, rng)(path, rng)}"
    if draw < 0.42:
        path = _target(folder, rng)
        return f"{path.name.partition('.out')[0]}: {_one_of(PLACES, rng)(path, rng)}"
    if draw < 0.7:
        path = folder / str(rng.choice(JSON))
        return f"{path.name}: {_one_of(TEXTS, rng)(path, rng)}"
    if draw < 0.78:
        return code(folder, rng)
    if draw < 0.97:
        return f"{CHECKPOINT}: {checkpoint(folder / CHECKPOINT, others, rng)}"
    return names(folder, rng)


def _one_of(mutations: tuple[Mutation, ...], rng: Rng) -> Mutation:
    return mutations[int(rng.integers(len(mutations)))]


def _target(folder: Path, rng: Rng) -> Path:
    name = FILES[int(rng.integers(len(FILES)))]
    return next(folder.glob("events*")) if name == "events" else folder / name


def delete(path: Path, rng: Rng) -> str:  # noqa: ARG001 - the signature of all
    """Remove a file."""
    path.unlink()
    return "deleted"


def empty(path: Path, rng: Rng) -> str:  # noqa: ARG001 - the signature of all
    """Leave nothing of a file."""
    path.write_bytes(b"")
    return "emptied"


def truncate(path: Path, rng: Rng) -> str:
    """Cut a file off."""
    data = path.read_bytes()
    kept = int(rng.integers(len(data)))
    path.write_bytes(data[:kept])
    return f"cut off after {kept} bytes"


def flip(path: Path, rng: Rng) -> str:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    place, bit = int(rng.integers(len(data))), int(rng.integers(8))
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place} flipped"


def zero(path: Path, rng: Rng) -> str:
    """Write zeros over a part of a file, as a disk does that lost a block."""
    data = bytearray(path.read_bytes())
    length = min(len(data), int(rng.choice([1, 16, 512, 4096])))
    first = int(rng.integers(len(data) - length + 1))
    data[first : first + length] = bytes(length)
    path.write_bytes(data)
    return f"{length} bytes zeroed at {first}"


def append(path: Path, rng: Rng) -> str:
    """Write something behind the end."""
    with path.open("ab") as file:
        file.write(rng.bytes(int(rng.choice([1, 100, 5000]))))
    return "bytes behind the end"


BYTES = (delete, empty, truncate, flip, flip, flip, zero, append)


def become_folder(path: Path, rng: Rng) -> str:  # noqa: ARG001 - the signature of all
    """Put a folder in the place of a file."""
    path.unlink()
    path.mkdir()
    return "a folder"


def become_pipe(path: Path, rng: Rng) -> str:  # noqa: ARG001 - the signature of all
    """Put a pipe in the place of a file."""
    path.unlink()
    os.mkfifo(path)
    return "a FIFO"


def become_link(path: Path, rng: Rng) -> str:
    """Put a symbolic link in the place of a file."""
    which = int(rng.integers(4))
    if which == 3:
        shutil.copy(path, path.parent.parent / VICTIM)
    path.unlink()
    path.symlink_to((path.name, "/nowhere/at/all", "/dev/zero", path.parent.parent / VICTIM)[which])
    return ("a link to itself", "a broken link", "a link to /dev/zero", "a link to a file elsewhere")[which]


def forbid(path: Path, rng: Rng) -> str:  # noqa: ARG001 - the signature of all
    """Take the permissions of a file away."""
    path.chmod(0)
    return "no permissions"


PLACES = (become_folder, become_pipe, become_link, become_link, forbid)


def _parsed(path: Path) -> Any:  # noqa: ANN401 - JSON
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def _write(path: Path, content: Any, hole: str = "") -> None:  # noqa: ANN401 - JSON
    def dump(value: Any) -> str:  # noqa: ANN401 - JSON
        return json.dumps(value).replace(json.dumps(_HOLE), hole)

    lines = "".join(dump(value) + "\n" for value in content) if path.suffix == ".jsonl" else dump(content)
    path.write_text(lines, encoding="utf-8")


def _leaves(content: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:  # noqa: ANN401 - JSON
    """List all places in JSON: the dictionary or list, and the key."""
    found = [] if found is None else found
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        found.append((content, key))
        _leaves(value, found)
    return found


VALUES = {
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "1e999": "1e999",
    "10^400": str(_HUGE),
    "-10^400": f"-{_HUGE}",
    "10^5000": "1" + "0" * 5000,
    "-1": "-1",
    "0": "0",
    "1.5": "1.5",
    "null": "null",
    "true": "true",
    "an empty string": '""',
    "a string": '"x"',
    "control characters": json.dumps("\x1b[2J\r\n\x07\u202e"),
    "half a surrogate": '"\\ud800"',
    "a list": "[1, [2], {}]",
    "an object": '{"a": {"b": 1}}',
    "10 MB": '"' + "y" * 10**7 + '"',
    "a list of 10^6 numbers": f"[{'1,' * 10**6}1]",
    "100,000 brackets": "[" * 100_000 + "]" * 100_000,
    "50,000 objects": '{"a":' * 50_000 + "1" + "}" * 50_000,
}
"""What is put in the place of a value, as JSON or what some take for it."""


def value(path: Path, rng: Rng) -> str:
    """Put something else in the place of a value."""
    content = _parsed(path)
    holder, key = _pick(content, rng)
    name = str(rng.choice(list(VALUES)))
    holder[key] = _HOLE
    _write(path, content, VALUES[name])
    return f"{key} is {name}"


def _pick(content: Any, rng: Rng) -> tuple[MutableMapping[Any, Any] | MutableSequence[Any], Any]:  # noqa: ANN401 - JSON
    places = _leaves(content)
    return places[int(rng.integers(len(places)))]


def keys(path: Path, rng: Rng) -> str:
    """Remove, rename, add or repeat a key."""
    content = _parsed(path)
    places = [(holder, key) for holder, key in _leaves(content) if isinstance(holder, dict)]
    holder, key = places[int(rng.integers(len(places)))]
    which = int(rng.integers(5))
    if which == 0:
        del holder[key]
    elif which == 1:
        holder["\x1b[31m\n" + key] = holder.pop(key)
    elif which == 2:
        holder[f"{key} "] = holder[key]
    elif which == 3:
        holder |= {f"more {i}": i for i in range(60_000)}
    else:
        old = json.dumps(holder[key])
        holder[key] = _HOLE
        _write(path, content, f"7, {json.dumps(key)}: {old}")
        return f"{key} twice, 7 first"
    _write(path, content)
    what = ("is missing", "renamed with control characters", "a key beside it", "60,000 keys beside it")[which]
    return f"{key}: {what}"


def repeated(path: Path, rng: Rng) -> str:
    """Repeat a key with another value behind."""
    content = _parsed(path)
    places = [(holder, key) for holder, key in _leaves(content) if isinstance(holder, dict)]
    holder, key = places[int(rng.integers(len(places)))]
    old = json.dumps(holder[key])
    holder[key] = _HOLE
    _write(path, content, f"{old}, {json.dumps(key)}: 7")
    return f"{key} twice, 7 last"


def whole(path: Path, rng: Rng) -> str:
    """Write another text in the place of all."""
    old = path.read_text(encoding="utf-8")
    texts = {
        "100,000 brackets": b"[" * 100_000,
        "50,000 objects": b'{"a":' * 50_000,
        "null": b"null",
        "a list": b"[1]",
        "a string": b'"x"',
        "NaN": b"NaN",
        "no UTF-8": b"\xff\xfe{}",
        "UTF-16": old.encode("utf-16"),
        "a mark of byte order": old.encode("utf-8-sig"),
        "a number of 5,000 digits": b"9" * 5000,
        "twice": (old + old).encode(),
        "200 MB of blanks": old.encode() + b" " * (2 * 10**8),
        "a NUL before it": b"\0" + old.encode(),
        "other ends of lines": old.replace("\n", "\r\n").encode(),
    }
    name = str(rng.choice(list(texts)))
    path.write_bytes(texts[name])
    return name


TEXTS = (value, value, value, value, keys, keys, repeated, whole, whole)


def code(folder: Path, rng: Rng) -> str:
    """Let the equation name code, of a file, a module or the standard library."""
    place = folder.parent
    names = ("evil.py:R", "evil/x.py:R", f"{place}/evil.py:R", "evil:R", "evil.x:R", "posix:fork", "this:s", "os:abort")
    name = str(rng.choice(names))
    both = bool(rng.random() < 0.5)
    for file in ("config.json", "evaluation.json") if both else ("config.json",):
        content = _parsed(folder / file)
        (content if file == "config.json" else content["provenance"]["run"])["model"]["pde"] = name
        _write(folder / file, content)
    return f"pde is {name.replace(f'{place}/', '/')}{' in both files' if both else ''}"


def _tensors(path: Path) -> tuple[dict[str, Any], bytearray]:
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:start]), bytearray(data[start:])


def _write_tensors(path: Path, header: dict[str, Any] | bytes, data: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def checkpoint(path: Path, others: Path, rng: Rng) -> str:
    """Change the tensors, the header or the progress of a checkpoint."""
    return _one_of((tensor, tensor, progress, header), rng)(path, rng) if rng.random() < 0.9 else _wider(path, others)


def _wider(path: Path, others: Path) -> str:
    shutil.copy(others / "wider.safetensors", path)
    return "of another architecture"


def tensor(path: Path, rng: Rng) -> str:
    """Change one tensor."""
    head, data = _tensors(path)
    names_ = [name for name in head if name != "__metadata__" and head[name]["shape"]]
    name, other = (str(word) for word in rng.choice(names_, 2, replace=False))
    entry = head[name]
    first, last = entry["data_offsets"]
    number = {"NaN": np.nan, "infinity": np.inf, "-1e30": -1e30, "zero": 0.0}
    what = str(rng.choice(["renamed", "missing", "reshaped", "another type", "exchanged", "control", *number, *number]))
    if what in number:
        place = first + 4 * int(rng.integers((last - first) // 4))
        data[place : place + 4] = struct.pack("<f", number[what])
    elif what == "renamed":
        head[name + "x"] = head.pop(name)
    elif what == "control":
        head["\x1b[2J\n" + name] = head.pop(name)
    elif what == "missing":
        del head[name]
    elif what == "reshaped":
        entry["shape"] = [*entry["shape"][::-1], 1]
    elif what == "another type":
        entry["dtype"] = "I32"
    else:
        head[name], head[other] = head[other], entry
    _write_tensors(path, head, bytes(data))
    return f"{name}: {what}"


def progress(path: Path, rng: Rng) -> str:
    """Change how far the run has come."""
    head, data = _tensors(path)
    metadata = head.setdefault("__metadata__", {})
    texts = (
        *('{"steps": -1, "seconds": 1.0}', '{"steps": 1e999, "seconds": 1.0}', '{"steps": 5, "seconds": NaN}'),
        *('{"steps": "5", "seconds": 1.0}', '{"steps": 5.5, "seconds": 1.0}', '{"steps": 5, "seconds": "1"}'),
        *(f'{{"steps": {_HUGE}, "seconds": 1.0}}', "[" * 100_000, "null", "", '{"steps": null, "seconds": null}'),
        *('{"steps": true, "seconds": 1.0}', '{"steps": 5, "seconds": -1e308}', '{"step": 5}'),
    )
    which = int(rng.integers(len(texts) + 1))
    key = next((key for key in metadata if "progress" in key), "progress")
    metadata.pop(key, None)
    if which < len(texts):
        metadata[key] = texts[which]
    _write_tensors(path, head, bytes(data))
    return f"progress is {texts[which][:40]}" if which < len(texts) else "no progress"


def header(path: Path, rng: Rng) -> str:
    """Write a hostile header."""
    head, data = _tensors(path)
    text = json.dumps(head).encode()
    name = next(name for name in head if name != "__metadata__")
    far = head | {name: head[name] | {"data_offsets": [0, 2**50]}}
    large = head | {name: head[name] | {"shape": [2**40, 2**20]}}
    nothing = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    contents: dict[str, dict[str, Any] | bytes] = {
        "a length of 2^60": (struct.pack("<Q", 2**60) + text + data),
        "a length of 0": (struct.pack("<Q", 0) + text + data),
        "a length of 90 MB": (struct.pack("<Q", 90_000_000) + text + data),
        "offsets behind the end": far,
        "a shape of 2^60": large,
        "a shape of negative numbers": head | {name: head[name] | {"shape": [-1, -4]}},
        "100,000 brackets": b"[" * 100_000,
        "a tensor twice": text[:-1] + b", " + json.dumps({name: head[name]}).encode()[1:],
        "20 MB of blanks": text + b" " * (2 * 10**7),
        "no JSON": b"\xff" * 100,
        "100,000 tensors": head | {f"t{i}": nothing for i in range(10**5)},
        "metadata of numbers": head | {"__metadata__": {"progress": 7}},
    }
    which = str(rng.choice(list(contents)))
    content = contents[which]
    if which.startswith("a length"):
        assert isinstance(content, bytes)
        path.write_bytes(content)
    else:
        _write_tensors(path, content, bytes(data))
    return which


def names(folder: Path, rng: Rng) -> str:
    """Put files with strange names into the folder, or take its permissions away."""
    which = int(rng.integers(4))
    if which == 0:
        (folder / "\x1b[2J\n.json").write_text("{}", encoding="utf-8")
    elif which == 1:
        (folder / os.fsdecode(b"\xff\xfe.json")).write_bytes(b"x")
    elif which == 2:
        for i in range(3000):
            (folder / f".checkpoint.safetensors.{i:08}.safetensors").touch()
    else:
        folder.chmod(0o500)
    what = ("a file named by control characters", "a file named by no text", "3,000 temporaries", "not writable")
    return f"the folder: {what[which]}"
