"""The configuration of a training run, as its folder holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from torch import nn

from latentflow_experiments.data import DATASETS, SequenceConfig, SequenceDataset
from latentflow_experiments.data.arrays import is_unlabelled
from latentflow_experiments.errors import DataError, ExperimentError, UsageError
from latentflow_experiments.methods import METHODS, MethodOptions
from latentflow_experiments.methods.method import Method, ModelSettings, require
from latentflow_experiments.reading import BROKEN, brief
from latentflow_experiments.records import read_json, write_json
from latentflow_experiments.residuals import check_pde

if TYPE_CHECKING:
    MethodName = str
    Baseline = Any
else:  # what the command line reads
    MethodName = Literal[tuple(METHODS)]
    Baseline = MethodOptions


@dataclass(frozen=True)
class ModelConfig(ModelSettings):
    """The model, with the defaults of the command line; :class:`ModelSettings` explains every field."""

    method: MethodName = "flow"
    supervision: Literal["labels", "taught", "weak"] = "labels"
    label_estimator: Literal["straight-through", "exact"] = "straight-through"
    balance: float | None = None
    dim: int = 32
    hidden: tuple[int, ...] = (128,)
    network: Literal["auto", "mlp", "gated", "mixed", "conv", "song2023"] = "auto"
    width: int = 1024
    likelihood: Literal["bernoulli", "continuous-bernoulli", "gaussian", "laplace"] = "laplace"
    decoded_frames: int | None = 3
    bound: Literal["joint", "marginal", "stochastic", "smoothing", "paper"] = "joint"
    pde: str = "exact-hj"
    residual_weight: float = 100.0
    prior: Literal["diffusion", "gaussian", "mixture", "vamp"] = "diffusion"
    baseline: Baseline = field(default_factory=MethodOptions)

    def __post_init__(self) -> None:
        for name in ("dim", "width"):
            require(getattr(self, name) >= 1, name, "a positive integer", getattr(self, name))
        require(len(self.hidden) > 0 and min(self.hidden) >= 1, "hidden", "positive widths", self.hidden)
        require(self.residual_weight >= 0, "residual-weight", "a number of at least 0", self.residual_weight)
        require(self.balance is None or self.balance >= 0, "balance", "a number of at least 0", self.balance)
        frames = self.decoded_frames
        require(frames is None or frames >= 1, "decoded-frames", "a positive integer", frames)
        require(self.method in METHODS, "method", f"one of {', '.join(METHODS)}", self.method)
        if self.supervision != "labels":
            able = ", ".join(name for name, method in METHODS.items() if method.infers_labels)
            require(
                METHODS[self.method].infers_labels,
                "supervision",
                f"labels for every method but {able}",
                self.supervision,
            )
        if self.bound in ("stochastic", "smoothing", "paper"):
            require(self.prior == "diffusion", "prior", f"diffusion for --bound {self.bound}", self.prior)
        check_pde(self.pde)

    @property
    def described(self) -> Method[Any]:
        """The description of the method."""
        return METHODS[self.method]

    def build(self, data: SequenceDataset) -> nn.Module:
        """Build the model for sequences, with freshly initialized weights; see :meth:`Method.build`.

        Raises:
            UsageError: If the configuration names a PDE of the user's that cannot be had, or the transformations of the
                sequences are unknown and it does not infer them.
        """
        if is_unlabelled(data):
            names = f"{len(data.names)} flows for sequences without labels"
            require(self.supervision == "weak", "supervision", f"weak to train {names}", self.supervision)
        model: nn.Module = self.described.build(self, data)
        return model

    @property
    def reads_labels(self) -> bool:
        """Whether training reads which transformation a sequence has."""
        return self.described.reads_labels(self)


EARLIER: dict[str, Any] = {
    "network": "mlp",
    "likelihood": "bernoulli",
    "decoded_frames": None,
    "pde": "hj",
    "balance": 100.0,
}
"""What runs were made with before there was a choice; their configurations do not say it."""


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        dataset: The images: the name of a data set, or the path of sequences of your own, which are an npz file with
            frames and, if known, labels and names; a folder of folders of PNG frames; or a folder of GIF or MP4 clips.
            Folders of labels above them are read as labels.
        seed: Seed of the initial weights and of every batch.
        batch_size: Sequences in a step, over all processes; of one transformation where training reads which, mixed
            elsewhere.
        parts: Parts of a batch, which are drawn on their own and shared out over the processes; a process computes
            its parts one after the other and adds up their gradients. By default one for each process that the run
            begins with. It decides what is computed: the same parts in any number of processes are the same run.
        learning_rate: Peak learning rate of Adam, after the warm-up; it falls to zero by a cosine.
        warmup_steps: Steps over which the learning rate rises.
        clip_norm: Largest norm of the gradient; a longer one is shortened to it. 0 for no limit.
        validations: How often in the course of a training to log its errors on validation sequences; 0 for never.
        sequences: Which sequences of images.
        model: The model.
        objects: What was given in Python and cannot be opened or built again from here.
    """

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar=f"{{{','.join(DATASETS)}}}|PATH")]
    seed: int = 0
    batch_size: int = 128
    parts: int | None = None
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    clip_norm: float = 3000.0
    validations: int = 20
    sequences: SequenceConfig = field(default_factory=SequenceConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objects: tyro.conf.Suppress[tyro.conf.Fixed[tuple[str, ...]]] = ()

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", "an integer of at least 0", self.seed)
        require(self.batch_size >= 1, "batch-size", "a positive integer", self.batch_size)
        require(self.parts is None or self.parts >= 1, "parts", "a positive integer", self.parts)
        require(
            self.batch_size % (self.parts or 1) == 0,
            "batch-size",
            f"a number that {self.parts} parts divide",
            self.batch_size,
        )
        require(0 < self.learning_rate < float("inf"), "learning-rate", "a positive number", self.learning_rate)
        require(self.warmup_steps >= 0, "warmup-steps", "an integer of at least 0", self.warmup_steps)
        require(0 <= self.clip_norm < float("inf"), "clip-norm", "a number of at least 0", self.clip_norm)
        require(self.validations >= 0, "validations", "an integer of at least 0", self.validations)

    @property
    def part_size(self) -> int:
        """The sequences in a part of a batch."""
        return self.batch_size // (self.parts or 1)

    def shared_over(self, processes: int) -> TrainConfig:
        """Return the configuration with its parts, by default one for each process.

        Args:
            processes: The number of processes.

        Returns:
            The configuration.

        Raises:
            UsageError: If the processes cannot have equally many parts, or the parts equally many sequences.
        """
        parts = processes if self.parts is None else self.parts
        require(parts % processes == 0, "parts", f"a multiple of the {processes} processes", parts)
        return replace(self, parts=parts)

    def write(self, path: Path) -> None:
        """Write the configuration as JSON; see :func:`write_json`."""
        write_json(path, self.known())

    def known(self) -> dict[str, Any]:
        """Return what is known as JSON holds it; of a model that was given in Python only what training reads."""
        values = asdict(self)
        if len(self.objects) > 1:
            values["model"] = {name: values["model"][name] for name in ("method", "supervision")}
        return values

    @staticmethod
    def from_json(path: Path) -> TrainConfig:
        """Read a configuration.

        Args:
            path: The file.

        Returns:
            The configuration.

        Raises:
            ExperimentError: If the file is missing, is not JSON, or does not hold the fields of a configuration.
        """
        try:
            return TrainConfig.from_values(read_json(path, "the configuration of a run"))
        except DataError:
            raise
        except FileNotFoundError:
            raise ExperimentError(f"{path}: expected the configuration of a run, got no such file") from None
        except (*BROKEN, UsageError) as error:
            raise ExperimentError(f"{path}: expected the configuration of a run, got {brief(error)}") from error

    @staticmethod
    def from_values(values: dict[str, Any]) -> TrainConfig:
        """Build the configuration from its values in JSON."""
        objects, model = tuple(values.get("objects", ())), values["model"]
        if len(objects) < 2:  # else the model was given in Python, and only what training reads is known
            baseline = MethodOptions(**model.get("baseline", {}))  # as with the sequences below
            model = EARLIER | model | {"hidden": tuple(model["hidden"]), "baseline": baseline}
        sequences = {"variants": 0} | values.get("sequences", {})  # runs before there was a choice have none
        chosen = SequenceConfig(**(sequences | {"transformations": tuple(sequences.get("transformations", ()))}))
        read = {"model": ModelConfig(**model), "sequences": chosen, "objects": objects}
        before = {"clip_norm": 0.0, "parts": 1}  # nothing was clipped or divided before there was a choice
        return TrainConfig(**(before | values | read))

    def difference(self, other: TrainConfig) -> str | None:
        """Name the first field in which two configurations differ, or None if they are equal."""
        return _difference(asdict(self), asdict(other))


@dataclass(frozen=True)
class Budget:
    """The budget of training: a number of steps, of minutes or of minutes of the processor, exactly one of them.

    Attributes:
        steps: Number of steps; the run is reproducible bit for bit on a CPU.
        minutes: Wall-clock minutes of training; the learning rate follows the clock.
        cpu_minutes: Minutes of all cores of the CPU together, which other work on the machine does not shorten; the
            learning rate follows them.
    """

    steps: int | None = None
    minutes: float | None = None
    cpu_minutes: float | None = None

    def __post_init__(self) -> None:
        given = [f.name for f in fields(self) if getattr(self, f.name) is not None]
        if len(given) != 1:
            raise UsageError(
                f"budget: expected one of steps, minutes and cpu-minutes, got {' and '.join(given) or 'none'}"
            )
        require(self.steps is None or self.steps >= 1, "steps", "a positive integer", self.steps)
        require(self.minutes is None or self.minutes > 0, "minutes", "a positive number", self.minutes)
        require(self.cpu_minutes is None or self.cpu_minutes > 0, "cpu-minutes", "a positive number", self.cpu_minutes)

    @property
    def seconds(self) -> float | None:
        """The seconds to train, by the wall clock or the processor's; None for a number of steps."""
        minutes = self.cpu_minutes if self.minutes is None else self.minutes
        return None if minutes is None else 60 * minutes

    def warmup(self, steps: int) -> int:
        """Return the steps of a warm-up: those asked for, but no more than a tenth of a budget of steps."""
        return steps if self.steps is None else min(steps, self.steps // 10)

    def progress(self, steps: int, seconds: float) -> float:
        """Return the share of the budget that is spent, 1 or more when it is used up."""
        if self.seconds is not None:
            return seconds / self.seconds
        assert self.steps is not None, "a budget has steps or seconds"
        return steps / self.steps


def options(chosen: dict[str, Any], default: dict[str, Any]) -> list[str]:
    """Write what differs from the default as options of the command line.

    Args:
        chosen: The values of a dataclass, nested as ``asdict`` nests them.
        default: The default values.

    Returns:
        The options, such as ``["--learning-rate", "0.01"]``.

    Example:
        >>> chosen = {"seed": 0, "model": {"hidden": (8, 8), "quick": True}}
        >>> default = {"seed": 0, "model": {"hidden": (4,), "quick": False}}
        >>> assert options(chosen, default) == ["--hidden", "8", "8", "--quick"]
    """
    words: list[str] = []
    for name, value in chosen.items():
        if isinstance(value, dict):
            words += options(value, default[name])
        elif value != default[name]:
            words.append("--" + name.replace("_", "-"))
            if value is not True:
                words += map(str, value if isinstance(value, tuple) else [value])
    return words


def _difference(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> str | None:
    for name, value in ours.items():
        if isinstance(value, dict):
            nested = _difference(value, theirs[name], f"{prefix}{name}.")
            if nested is not None:
                return nested
        elif value != theirs[name]:
            return f"{prefix}{name} is {theirs[name]!r} there and {value!r} here"
    return None
