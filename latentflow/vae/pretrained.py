"""Models in files that name no code: their tensors in safetensors, and the parts of the library in JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from latentflow._version import __version__
from latentflow.calculus.checks import check_instance, describe
from latentflow.calculus.files import replacing, strict_json
from latentflow.vae.flow_vae import FlowVAE
from latentflow.vae.kinds import KINDS, NAMED

WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""The files of a model."""

FORMAT = 1
"""The version of the format that is written; every version up to it is read."""

LARGEST = 2**18
"""The largest size of the description of a model, in bytes."""

DEEPEST = 32
"""How deeply parts may lie in parts."""

MOST = 10_000
"""How many parts and arguments a model may have, so that no description keeps a reader busy."""

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

REMEDY = "save model.state_dict() instead, and load it into the model that your code builds"

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"
"""What JSON holds."""


def describe_part(part: object, name: str = "model") -> Plain:
    """Describe a part of the library by plain values.

    Args:
        part: The part: an object of one of the :data:`KINDS`.
        name: The name of the part, for the messages.

    Returns:
        The kind and the arguments, as JSON holds them.

    Raises:
        TypeError: If it, or a part of it, is no part of the library.
    """
    return _Describer(name).describe(part, "")


@dataclass
class _Describer:
    """Describes parts, each module once: where it occurs again, the place where it was described."""

    name: str
    places: dict[int, str] = field(default_factory=dict)

    def describe(self, value: object, place: str) -> Plain:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, Real):
            return int(value) if isinstance(value, Integral) else float(value)
        if isinstance(value, (list, tuple, nn.ModuleList)):
            return [self.describe(entry, _below(place, str(i))) for i, entry in enumerate(value)]
        if isinstance(value, Mapping):
            return {
                "entries": {str(key): self.describe(entry, _below(place, str(key))) for key, entry in value.items()}
            }
        name = next((name for name, known in NAMED.items() if known is value), None)
        return self._describe_part(value, place) if name is None else {"name": name}

    def _describe_part(self, part: object, place: str) -> Plain:
        kind = KINDS.get(type(part).__name__)
        if kind is None or type(part) is not kind.made:
            raise TypeError(
                f"{place or self.name}: expected a part of latentflow, got {_origin(part)}, which a file cannot "
                f"describe; {REMEDY}"
            )
        if isinstance(part, nn.Module):
            if id(part) in self.places:
                return {"same": self.places[id(part)]}
            self.places[id(part)] = place
        try:
            arguments = kind.read(part)
        except TypeError as error:  # data of the samples of one batch
            raise TypeError(f"{_below(place, str(error))}; build the model without it") from None
        described = {name: self.describe(value, _below(place, name)) for name, value in arguments.items()}
        return {"kind": kind.made.__name__, **described}


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _origin(part: object) -> str:
    named = part if isinstance(part, type) or hasattr(part, "__qualname__") else type(part)
    return f"{getattr(named, '__qualname__', type(part).__name__)} of {getattr(named, '__module__', 'elsewhere')}"


def build_part(described: Plain) -> object:
    """Build a part again from its description, with tensors that have no memory: they are on the meta device.

    Args:
        described: What :func:`describe_part` returned.

    Returns:
        The part.

    Raises:
        ValueError: If it is no such description, or describes what cannot be built.
    """
    with torch.device("meta"):
        return _Builder().build(described, "", 0)


@dataclass
class _Builder:
    """Builds parts, and remembers where each was described."""

    parts: dict[str, object] = field(default_factory=dict)
    count: int = 0

    def build(self, value: Plain, place: str, depth: int) -> Any:  # noqa: ANN401 - an argument of some constructor
        self.count += 1
        if self.count > MOST:
            raise ValueError(f"{place or 'model'}: expected at most {MOST:,} parts and arguments in all, got more")
        if depth > 2 * DEEPEST:  # a part and a list at each level
            raise ValueError(f"{place}: expected at most {DEEPEST} parts in each other, got more")
        if isinstance(value, list):
            return [self.build(entry, _below(place, str(i)), depth + 1) for i, entry in enumerate(value)]
        if not isinstance(value, dict):
            return value
        match value:
            case {"kind": str(name), **arguments}:
                return self._build_part(name, arguments, place, depth)
            case {"name": str(name)} if len(value) == 1 and name in NAMED:
                return NAMED[name]
            case {"same": str(other)} if len(value) == 1 and other in self.parts:
                return self.parts[other]
            case {"entries": dict(entries)} if len(value) == 1:
                return {key: self.build(entry, _below(place, key), depth + 1) for key, entry in entries.items()}
        raise ValueError(f"{place or 'model'}: expected a part of latentflow, got {_shorten(value)}")

    def _build_part(self, name: str, described: Mapping[str, Plain], place: str, depth: int) -> object:
        kind = KINDS.get(name)
        if kind is None:
            raise ValueError(
                f"{place or 'model'}: expected a kind that latentflow {__version__} knows, got {describe(name)}"
            )
        unknown = sorted(described.keys() - kind.arguments.keys())
        if unknown:
            names = ", ".join(kind.arguments) or "none"
            raise ValueError(f"{place or 'model'}: expected arguments of {name} ({names}), got {describe(unknown[0])}")
        arguments = {key: self.build(value, _below(place, key), depth + 1) for key, value in described.items()}
        try:
            part = (kind.build or kind.made)(**arguments)
        except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
            raise ValueError(
                f"{place or 'model'}: expected arguments that make a {name}, got {_brief(error)}"
            ) from error
        self.parts[place] = part
        return part


def _shorten(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


@dataclass(frozen=True)
class _Place:
    """A tensor of a model: the module that owns it, and its name there."""

    owner: nn.Module
    name: str

    def get(self) -> Tensor:
        tensor: Tensor = getattr(self.owner, self.name)
        return tensor

    def put(self, tensor: Tensor) -> None:
        learned = isinstance(self.get(), nn.Parameter)
        setattr(self.owner, self.name, nn.Parameter(tensor) if learned else tensor)


def _places(model: nn.Module) -> dict[str, _Place]:
    """Find the parameters and buffers of a model, each once; also the buffers that its ``state_dict`` leaves out."""
    found = [*model.named_parameters(), *model.named_buffers()]
    return {name: _Place(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name, _ in found}


def _structure(model: nn.Module) -> dict[str, str]:
    """Return what a description has to reproduce: the classes of all modules, and kinds and shapes of all tensors."""
    structure = {name: f"a {type(module).__name__}" for name, module in model.named_modules()}
    for name, place in _places(model).items():
        tensor = place.get()
        numbers = "numbers" if tensor.is_floating_point() else "integers"
        structure[name] = f"a {type(tensor).__name__} of {numbers} and shape {tuple(tensor.shape)}"
    return structure


def save(model: FlowVAE, folder: Path) -> None:
    """Write a model; see :meth:`FlowVAE.save_pretrained`."""
    safetensors = require_extra("safetensors")
    described = describe_part(model)
    rebuilt = build_part(described)
    assert isinstance(rebuilt, FlowVAE), "its own kind"
    ours, theirs = _structure(model), _structure(rebuilt)
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            raise TypeError(
                f"{name}: expected {theirs.get(name, 'nothing')}, as latentflow builds it, got "
                f"{ours.get(name, 'nothing of its own')}; {REMEDY}"
            )
    text = json.dumps({"latentflow": __version__, "format": FORMAT, "model": described}, indent=2, allow_nan=False)
    if len(text) > LARGEST:
        raise ValueError(f"model: expected a description of at most {LARGEST:,} bytes, got {len(text):,}")
    tensors = {name: place.get().detach().to("cpu", copy=True).contiguous() for name, place in _places(model).items()}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as temporary:
        safetensors.torch.save_file(tensors, temporary, {"format": "pt"})
    with replacing(folder / CONFIG) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def load(source: Path | str, revision: str | None = None) -> FlowVAE:
    """Read a model; see :meth:`FlowVAE.from_pretrained`."""
    check_instance("source", source, (str, Path), "the path of a folder, or OWNER/NAME on the hub")
    require_extra("safetensors")
    local = Path(source).is_dir()
    if not local and not (isinstance(source, str) and REPOSITORY.fullmatch(source)):
        raise FileNotFoundError(f"source: expected a folder, or OWNER/NAME on the hub, got {describe(str(source))}")

    def find(file: str) -> Path:
        return Path(source) / file if local else _download(str(source), file, revision)

    path = find(CONFIG)
    model = _read_description(path)
    _fill(model, find(WEIGHTS))
    return model.eval()


def _download(repository: str, file: str, revision: str | None) -> Path:
    """Fetch a file of the hub into its cache, or find it there."""
    hub = require_extra("huggingface_hub")
    try:
        path: str = hub.hf_hub_download(
            repository, file, revision=revision, library_name="latentflow", library_version=__version__
        )
    except Exception as error:  # of the network, of the hub, or of the name: what there is differs between versions
        raise OSError(
            f"source: expected a folder, or a model of latentflow on the hub, got {describe(repository)}; fetching its "
            f"{file} failed with {type(error).__name__}: {_brief(error)}"
        ) from error
    return Path(path)


def _read_description(path: Path) -> FlowVAE:
    """Build a model, without its numbers, from the description in a file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the description of a model, got no such file")
    with path.open("rb") as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"{path}: expected a description of at most {LARGEST:,} bytes, got more")
    try:
        values = strict_json(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, got {_brief(error)}") from error
    if not isinstance(values, dict) or not {"latentflow", "format", "model"} <= values.keys():
        raise ValueError(f"{path}: expected what save_pretrained writes, got {_shorten(values)}")
    version = values["format"]
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= FORMAT:
        raise ValueError(
            f"{path}: expected a format from 1 to {FORMAT}, which latentflow {__version__} reads, got "
            f"{describe(version)}, written by latentflow {describe(values['latentflow'])}; install that version or a "
            "newer one"
        )
    try:
        model = build_part(values["model"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(model, FlowVAE):
        raise ValueError(f"{path}: expected a FlowVAE, got {describe(model)}")
    return model


def _fill(model: FlowVAE, path: Path) -> None:
    """Give a model without numbers those of a file, whose names and shapes are compared before any is read."""
    safetensors = require_extra("safetensors")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the tensors of a model, got no such file")
    places = _places(model)
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
            for name in sorted(places.keys() | shapes.keys()):
                expected = tuple(places[name].get().shape) if name in places else "none"
                if expected != shapes.get(name, "none"):
                    raise ValueError(f"{path}: expected {name} of shape {expected}, got {shapes.get(name, 'none')}")
            for name, place in places.items():
                place.put(_checked(file.get_tensor(name), place.get(), f"{path}: expected {name}"))
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path}: expected a complete file of tensors, got {_brief(error)}") from error


def _checked(tensor: Tensor, like: Tensor, expected: str) -> Tensor:
    """Copy a tensor of a file, where it has any place in memory, if it holds numbers of the kind of another one."""
    if tensor.is_floating_point() != like.is_floating_point() or tensor.is_complex():
        raise ValueError(f"{expected} of a type such as {like.dtype}, got {tensor.dtype}")
    return tensor.clone()  # aligned, so that sums have the same last digits as before


def require_extra(package: str) -> ModuleType:
    """Import a package of the extra ``hub``."""
    try:
        if package == "safetensors":
            import safetensors.torch  # noqa: PLC0415 - an extra

            return safetensors
        import huggingface_hub  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'models in files: expected {package}, got none installed; pip install "latentflow-torch[hub]"',
            name=error.name,
        ) from error
    return huggingface_hub
