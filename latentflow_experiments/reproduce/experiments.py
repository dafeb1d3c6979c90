"""The tables and figures: which runs they need, what is read of them, and what the paper claims."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from latentflow_experiments.configuration import ModelConfig, TrainConfig
from latentflow_experiments.data import DATASETS, SequenceConfig
from latentflow_experiments.evaluation import Part
from latentflow_experiments.methods import MethodOptions
from latentflow_experiments.reproduce.paper import LIKELIHOOD, SHARES

Records = Mapping[str, Mapping[str, Any]]
"""What was measured of a run: the JSON of its ``evaluation`` and of each part, by name."""

OURS, WEAK, PENALTY = "Ours (labels)", "Ours (no labels)", "Ours (labels, equation as a penalty)"


@dataclass(frozen=True)
class Row:
    """A row of a table: a run, repeated for each seed.

    Attributes:
        name: The name, that of the row of the paper where there is one.
        config: The run.
    """

    name: str
    config: TrainConfig


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: The name, that of the column of the paper where there is one.
        read: Reads the number of a run; None where it has none.
        part: What has to be measured beside the evaluation; None for nothing.
        digits: The decimals that are shown.
        best: Which number is best, the ``lowest`` or the ``highest``.
        methods: The methods that have it; none for all.
    """

    name: str
    read: Callable[[Records], float | None]
    part: Part | None = None
    digits: int = 1
    best: Literal["lowest", "highest"] = "lowest"
    methods: tuple[str, ...] = ()

    def part_of(self, row: Row) -> Part | None:
        """Return what has to be measured of a row."""
        return None if self.methods and row.config.model.method not in self.methods else self.part


Means = Mapping[str, Mapping[str, float]]
"""Means over seeds by row and column."""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        text: The claim.
        holds: Says of means whether it holds; None if a row or column that it needs is missing.
    """

    text: str
    holds: Callable[[Means], bool | None]


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        name: Its name on the command line.
        title: What it shows.
        rows: The rows.
        columns: The columns.
        claims: What the paper claims by it.
        note: What a reader has to know, in a sentence or more.
        further: Columns of what the paper did not measure, which are laid out as a table of their own.
    """

    name: str
    title: str
    rows: Sequence[Row]
    columns: Sequence[Column]
    claims: Sequence[Claim] = ()
    note: str = ""
    further: Sequence[Column] = ()

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """The columns, and the further ones."""
        return (*self.columns, *self.further)


@dataclass(frozen=True)
class Picture:
    """A picture that a run leaves in its folder.

    Attributes:
        row: The run.
        file: The file.
        caption: What it shows.
        part: What has to be measured for it; None for nothing.
        transfer: The data set of the images, where they are of a kind that the run never saw.
    """

    row: Row
    file: str
    caption: str
    part: Part | None = None
    transfer: str | None = None


@dataclass(frozen=True)
class Figure:
    """A figure of the paper.

    Attributes:
        name: Its name on the command line.
        title: What it shows.
        pictures: The pictures.
    """

    name: str
    title: str
    pictures: Sequence[Picture]

    @property
    def files(self) -> list[str]:
        """The names of the files of its pictures in a report."""
        return [f"{self.name}-{i}.png" for i in range(1, len(self.pictures) + 1)]


def configure(dataset: str, sequences: SequenceConfig | None = None, **model: object) -> TrainConfig:
    """Configure a run with the defaults of the library, apart from settings of its model."""
    return TrainConfig(dataset, sequences=sequences or SequenceConfig(), model=replace(ModelConfig(), **model))  # type: ignore[arg-type]  # the fields of a model


def _error(name: str) -> Callable[[Records], float | None]:
    def read(records: Records) -> float | None:
        error = records["evaluation"]["result"]["errors"].get(name)
        return None if error is None else float(error["output"])

    return read


def _relative(records: Records) -> float | None:
    errors = records["evaluation"]["result"]["errors"].values()
    return sum(float(error["output"]) / float(error["static"]) for error in errors) / len(errors)


def _transport(records: Records) -> float | None:
    entries = records["evaluation"]["transport"].values()
    ratios = [entry["ratio"] for entry in entries]
    return None if not ratios or None in ratios else max(map(float, ratios))


def _folded(records: Records) -> float | None:
    entries = records["evaluation"]["transport"].values()
    return 100 * max(float(entry["folded"]) for entry in entries) if entries else None


def _recovered(records: Records) -> float | None:
    found = records["evaluation"]["recovery"]
    return None if found is None else 100 * float(found["accuracy"])


def _likelihood(records: Records) -> float | None:
    """Read the bound of a frame under unit variance, by the flow where there is one."""
    proposals = records.get("likelihood", {}).get("result", {})
    found = proposals.get("flow") or proposals.get("encoder")
    if found is None:
        return None
    bounds = found["bounds"]
    name = next((name for name in bounds["average"] if name.startswith("Gaussian")), None)
    average = None if name is None else bounds["average"][name]
    return None if average is None else float(average[str(max(bounds["samples"]))])


def _predictability(share: float) -> Callable[[Records], float | None]:
    def read(records: Records) -> float | None:
        scores = records.get("vp", {}).get("result", {})
        score = scores.get(f"true, {share:g}")
        return None if score is None else 100 * float(score["last"])

    return read


def _mean(values: Iterable[float | None]) -> float | None:
    """Average numbers; None if there are none, or one of them is missing."""
    known = list(values)
    return statistics.mean(known) if known and None not in known else None  # type: ignore[type-var]  # no None is left


def _consistency(name: str, key: str) -> Callable[[Records], float | None]:
    """Read a number of the consistency, the mean over transformations or pairs of them."""

    def read(records: Records) -> float | None:
        found = records.get("consistency", {}).get("result", {}).get(name, {}).values()
        return _mean(None if entry is None else entry[key] for entry in found)

    return read


def _of_codes(name: str) -> Callable[[Records], float | None]:
    def read(records: Records) -> float | None:
        value = records.get("disentanglement", {}).get("result", {}).get(name)
        return None if value is None else float(value)

    return read


ALONE = {"VAE": "vae", "beta-VAE": "beta-vae", "FactorVAE": "factor-vae", "SlowVAE": "slow-vae"}
"""Methods that move one coordinate, or none, by the names of their rows."""

FURTHER = (
    Column("error / still, 4 more steps", _consistency("beyond", "relative"), "consistency", digits=3),
    Column("way back, round trip", _consistency("back", "round_trip"), "consistency", digits=4),
    Column("orders apart / change", _consistency("commutators", "apart"), "consistency", digits=3),
    *(
        Column(name, _of_codes(name), "disentanglement", digits=3, best="highest", methods=tuple(ALONE.values()))
        for name in ("InfoM", "InfoE", "InfoC", "explicitness", "DCI disentanglement", "FactorVAE score")
    ),
)
"""What reviewers ask for beyond the errors, with the scores of latents that are coordinates."""


def _error_columns(names: Sequence[str], *, likelihood: bool = False) -> tuple[Column, ...]:
    errors = [Column(name, _error(name)) for name in names]
    bound = [Column(LIKELIHOOD, _likelihood, "likelihood", best="highest")] if likelihood else []
    return (
        *errors,
        *bound,
        Column("error / still picture", _relative, digits=3),
        Column("cost / W2²", _transport, digits=3),
        Column("folded, %", _folded),
        Column("k recovered, %", _recovered, best="highest"),
    )


def _lower(one: str, others: Sequence[str], columns: Sequence[str]) -> Callable[[Means], bool | None]:
    """Say whether one row has lower numbers than all others in all columns."""

    def holds(means: Means) -> bool | None:
        rows = [means.get(name, {}) for name in (one, *others)]
        if any(column not in row for row in rows for column in columns):
            return None
        return all(rows[0][column] < row[column] for row in rows[1:] for column in columns)

    return holds


def _higher(one: str, others: Sequence[str], columns: Sequence[str]) -> Callable[[Means], bool | None]:
    """Say whether one row has higher numbers than all others in all columns."""

    def holds(means: Means) -> bool | None:
        flipped = {row: {name: -value for name, value in cells.items()} for row, cells in means.items()}
        return _lower(one, others, columns)(flipped)

    return holds


def _within(one: str, other: str, share: float, columns: Sequence[str]) -> Callable[[Means], bool | None]:
    """Say whether one row is above another by no more than a share of it, in all columns."""

    def holds(means: Means) -> bool | None:
        first, second = means.get(one, {}), means.get(other, {})
        if any(column not in row for row in (first, second) for column in columns):
            return None
        return all(first[column] <= (1 + share) * second[column] for column in columns)

    return holds


def _methods(dataset: str) -> list[Row]:
    """List the methods of tables 1 and 2, those that move one coordinate also with 10 coordinates."""
    rows = [Row(name, configure(dataset, method=kind)) for name, kind in ALONE.items()]
    rows += [Row("TVAE", configure(dataset, method="tvae")), Row("PoFlow", configure(dataset, method="poflow"))]
    rows += [
        Row(OURS, configure(dataset)),
        Row(WEAK, configure(dataset, supervision="weak")),
        Row(PENALTY, configure(dataset, pde="forced-hj")),
    ]
    return rows + [
        Row(f"{name}, 10 coordinates", configure(dataset, method=kind, dim=10)) for name, kind in ALONE.items()
    ]


def _sweeps(dataset: str) -> list[Row]:
    """List the weights of beta-VAE and FactorVAE that others use."""
    betas = [
        Row(f"beta-VAE, beta {beta:g}", configure(dataset, method="beta-vae", baseline=MethodOptions(beta=beta)))
        for beta in (2.0, 8.0, 16.0)
    ]
    weights = [
        Row(
            f"FactorVAE, gamma {weight:g}",
            configure(dataset, method="factor-vae", baseline=MethodOptions(tc_weight=weight)),
        )
        for weight in (2.0, 10.0, 35.0)
    ]
    return betas + weights


STAND_IN = "The images are a synthetic stand-in, so that errors are not to be compared with those of the paper."


def _errors_of_methods(name: str, title: str, dataset: str, note: str, more: Sequence[Row] = ()) -> Table:
    names = DATASETS[dataset].transformations
    others = (*ALONE, "TVAE", "PoFlow")
    return Table(
        name,
        title,
        [*_methods(dataset), *more],
        _error_columns(names, likelihood=True),
        (
            Claim("The flows with labels have the least error in every column.", _lower(OURS, others, names)),
            Claim("The flows without labels have less error than every baseline.", _lower(WEAK, others, names)),
            Claim("Without labels the errors are larger by no more than 15 %.", _within(WEAK, OURS, 0.15, names)),
            Claim("PoFlow is the best of the baselines in every column.", _lower("PoFlow", (*ALONE, "TVAE"), names)),
            Claim(
                "SlowVAE has less error than beta-VAE and FactorVAE.",
                _lower("SlowVAE", ("beta-VAE", "FactorVAE"), names),
            ),
            Claim("FactorVAE has less error than beta-VAE.", _lower("FactorVAE", ("beta-VAE",), names)),
            Claim("The flows with labels have the highest likelihood.", _higher(OURS, others, (LIKELIHOOD,))),
        ),
        note,
        FURTHER,
    )


def _errors_at_128(name: str, title: str, dataset: str) -> Table:
    names = DATASETS[dataset].transformations
    return Table(
        name,
        title,
        [row for row in _methods(dataset) if row.name in ("TVAE", "PoFlow", OURS, PENALTY)],
        _error_columns(names),
        (
            Claim("The flows have less error than PoFlow in every column.", _lower(OURS, ("PoFlow",), names)),
            Claim("PoFlow has less error than TVAE in every column.", _lower("PoFlow", ("TVAE",), names)),
        ),
        STAND_IN,
    )


def _predictabilities(name: str, title: str, dataset: str, note: str) -> Table:
    kinds = (OURS, "PoFlow", "TVAE", "FactorVAE", "beta-VAE")
    rows = {row.name: row for row in _methods(dataset)}
    return Table(
        name,
        title,
        [rows[kind] for kind in (*reversed(kinds), WEAK)],
        [
            Column(label, _predictability(share), "vp", best="highest")
            for label, share in zip(SHARES, (0.1, 0.01), strict=True)
        ],
        (
            Claim("The flows have the highest score at both shares.", _higher(OURS, kinds[1:], SHARES)),
            Claim("PoFlow has the highest score of the baselines.", _higher("PoFlow", kinds[2:], SHARES)),
            Claim("FactorVAE has a lower score than beta-VAE.", _lower("FactorVAE", ("beta-VAE",), SHARES)),
        ),
        note,
    )


MNIST = DATASETS["mnist"].transformations
PRIORS = {
    "standard Gaussian": "gaussian",
    "mixture of Gaussians": "mixture",
    "VampPrior": "vamp",
    "diffusion": "diffusion",
}
EQUATIONS = {
    "heat": "heat",
    "Fokker-Planck": "fokker-planck",
    "Hamilton-Jacobi": "hj",
    "Hamilton-Jacobi with a force": "forced-hj",
    "Hamilton-Jacobi by construction": "exact-hj",
}
LIKELIHOOD_NOTE = (
    "The log-likelihood bounds that of a frame under unit variance, which no model can have above -2161.3 on MNIST and "
    "-11291.9 at 64 pixels. The numbers of the paper are above, by a sign of the divergence; only the order compares."
)


def _priors() -> Table:
    others = tuple(name for name in PRIORS if name != "diffusion")
    return Table(
        "table7",
        "Priors, on MNIST",
        [Row(name, configure("mnist", bound="marginal", prior=prior)) for name, prior in PRIORS.items()],
        _error_columns(MNIST),
        (Claim("The diffusion prior has the least error in every column.", _lower("diffusion", others, MNIST)),),
        "The marginal bound, the only one in which the prior of later times takes part.",
    )


def _equations() -> Table:
    forced = "Hamilton-Jacobi with a force"
    return Table(
        "table8",
        "Equations of the potential, on MNIST",
        [Row(name, configure("mnist", pde=pde)) for name, pde in EQUATIONS.items()],
        _error_columns(MNIST),
        (
            Claim("Hamilton-Jacobi with a force has the least error.", _lower(forced, tuple(EQUATIONS)[:3], MNIST)),
            Claim(
                "Hamilton-Jacobi has less error than heat and Fokker-Planck.",
                _lower("Hamilton-Jacobi", ("heat", "Fokker-Planck"), MNIST),
            ),
            Claim("Fokker-Planck has less error than heat.", _lower("Fokker-Planck", ("heat",), MNIST)),
        ),
    )


def _counts() -> Table:
    names = ("1 transformation", "2 transformations", "3 transformations")
    rows = [
        Row(name, configure("mnist", SequenceConfig(transformations=MNIST[: i + 1] if i < 2 else ())))
        for i, name in enumerate(names)
    ]
    return Table(
        "table9",
        "Numbers of transformations, on MNIST",
        rows,
        _error_columns(MNIST),
        (
            Claim(
                "With three transformations the error of scaling is larger than with one by no more than 2 %.",
                _within(names[2], names[0], 0.02, MNIST[:1]),
            ),
            Claim(
                "With three transformations the error of rotation is larger than with two by no more than 2 %.",
                _within(names[2], names[1], 0.02, MNIST[1:2]),
            ),
        ),
    )


def _lengths() -> Table:
    both = SequenceConfig(transformations=MNIST[:2])
    rows = [
        Row("9 states", configure("mnist", both)),
        Row("12 states", configure("mnist", replace(both, states=12))),
    ]
    return Table(
        "table10",
        "Lengths of sequences, on MNIST",
        rows,
        _error_columns(MNIST[:2]),
        (Claim("Longer sequences have larger errors.", _lower("9 states", ("12 states",), MNIST[:2])),),
        "The error of 12 states is a sum over more steps, and over larger changes.",
    )


TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        _errors_of_methods("table1", "Methods on MNIST", "mnist", LIKELIHOOD_NOTE, _sweeps("mnist")),
        _errors_of_methods("table2", "Methods on Shapes3D", "shapes3d", f"{STAND_IN} {LIKELIHOOD_NOTE}"),
        _errors_at_128("table3", "Methods on Falcor3D, 128 pixels", "falcor3d"),
        _errors_at_128("table4", "Methods on Isaac3D, 128 pixels", "isaac3d"),
        _predictabilities("table5", "Predictability of variations on MNIST, in percent", "mnist", ""),
        _predictabilities("table6", "Predictability of variations on Shapes3D, in percent", "shapes3d", STAND_IN),
        _priors(),
        _equations(),
        _counts(),
        _lengths(),
    )
}
"""The tables by name."""


def _strips(dataset: str, *names: str) -> list[Picture]:
    rows = {row.name: row for row in _methods(dataset)}
    return [Picture(rows[name], "strips.png", f"{name}: the data above the flow") for name in names]


def _compositions(*datasets: str) -> list[Picture]:
    return [
        Picture(Row(OURS, configure(name)), "composition.png", "Flows switched and superposed", "composition")
        for name in datasets
    ]


def _random_starts() -> Picture:
    row = Row(f"{OURS}, random starts", configure("mnist", SequenceConfig(start="random")))
    return Picture(row, "composition.png", "The same, trained on digits in random states", "composition")


def _transfer() -> list[Picture]:
    row = Row(OURS, configure("mnist"))
    return [Picture(row, "transfer.png", "Shapes of dSprites, which the model never saw", transfer="dsprites")]


FIGURES: Mapping[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure("fig3", "Flows on MNIST, with and without labels", _strips("mnist", OURS, WEAK)),
        Figure("fig4", "Flows on Shapes3D, with and without labels", _strips("shapes3d", OURS, WEAK)),
        Figure("fig5", "Flows that are switched", _compositions("mnist", "shapes3d")),
        Figure("fig6", "Flows that are superposed", [*_compositions("mnist", "shapes3d"), _random_starts()]),
        Figure("fig7", "Images of another kind", _transfer()),
        Figure(
            "fig8",
            "Methods at 128 pixels",
            [*_strips("falcor3d", "TVAE", "PoFlow", OURS), *_strips("isaac3d", "TVAE", "PoFlow", OURS)],
        ),
        Figure("fig10", "More flows on MNIST", _strips("mnist", OURS, PENALTY)),
        Figure("fig11", "More flows on Shapes3D", _strips("shapes3d", OURS, PENALTY)),
        Figure("fig12", "More flows at 128 pixels", [*_strips("falcor3d", OURS), *_strips("isaac3d", OURS)]),
        Figure("fig13", "More compositions on MNIST", [*_compositions("mnist"), _random_starts()]),
        Figure("fig14", "More compositions on Shapes3D", _compositions("shapes3d")),
        Figure("fig15", "Compositions at 128 pixels", _compositions("isaac3d", "falcor3d")),
    )
}
"""The figures by name; the others of the paper are drawings and pseudo-code."""
