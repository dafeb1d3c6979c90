"""The metrics of a run, written into its folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from latentflow_experiments.data import (
    ArraySequences,
    DatasetName,
    SequenceDataset,
    Source,
    open_sequences,
    open_transfer,
)
from latentflow_experiments.data.arrays import is_unlabelled
from latentflow_experiments.errors import UsageError
from latentflow_experiments.methods.matching import Recovery
from latentflow_experiments.methods.method import Choice
from latentflow_experiments.methods.pixels import LAST
from latentflow_experiments.metrics.composition import composition_table, measure_compositions
from latentflow_experiments.metrics.consistency import consistency_table, measure_consistency
from latentflow_experiments.metrics.disentanglement import (
    FixedFactorTable,
    draw_codes,
    factor_vae_score,
    measure_dci,
    measure_mig,
    measure_sap,
)
from latentflow_experiments.metrics.equivariance import Equivariance, equivariance_table, measure_equivariance
from latentflow_experiments.metrics.information import measure_explicitness, measure_infomec
from latentflow_experiments.metrics.interaction import interaction_table, measure_interactions
from latentflow_experiments.metrics.likelihood import (
    AsTrained,
    BinarizedBernoulli,
    Observation,
    UnitGaussian,
    legacy_score,
    log_likelihood_table,
    measure_log_likelihood,
)
from latentflow_experiments.metrics.predictability import make_pairs, shuffle_labels, vp_score
from latentflow_experiments.metrics.transport import Optimality, measure_optimality, transport_table
from latentflow_experiments.records import write_json
from latentflow_experiments.reports.strips import draw_composition_strips, draw_strips
from latentflow_experiments.reports.tables import table
from latentflow_experiments.runs import (
    RunFolder,
    TrainedRun,
    chosen_device,
    describe_run,
    open_run,
    read_evaluation,
)

HARDLY = 1.1
"""How many times better than a static picture flows should be not to be taken for useless."""


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a run.

    Attributes:
        equivariance: How far the frames of the flows are from the transformed images.
        transport: How far the flows are from optimal transport, by the name of the transformation; empty for a method
            without flows.
        recovery: How well the transformations were recovered, of a run without labels; else None.
        choice: What was chosen on validation sequences.
        data: The data set and its split; of a stand-in it says that it is synthetic.
        inferred: How many test sequences the model itself gave to each flow, where nobody knows their transformation,
            and the flows without one; else None.
        unfinished: Why the numbers are not yet those of a trained model; None if they are.
    """

    equivariance: Equivariance
    transport: dict[str, Optimality]
    recovery: Recovery | None
    choice: Choice
    data: str
    inferred: dict[str, Any] | None = None
    unfinished: str | None = None

    @property
    def gain(self) -> float:
        """How many times smaller the errors of the flows are than those of the first picture held still."""
        errors = self.equivariance.errors.values()
        return sum(error.static for error in errors) / max(sum(error.output for error in errors), 1e-12)

    def verdict(self) -> str:
        """Say in a line whether the flows predict anything, and loudly if training had hardly begun."""
        than = f"than the first picture held still ({self.gain:.2f} times)"
        text = f"the flows predict the frames {self.gain:.1f} times better than the first picture held still"
        if self.gain < HARDLY:
            text = f"WARNING: the flows predict the frames {'worse' if self.gain < 1 else 'hardly better'} {than}"
        return text if self.unfinished is None else f"WARNING: {self.unfinished}\n{text}"

    def table(self) -> str:
        """Lay out the errors and the certificates for the terminal, in Markdown."""
        parts = [self.data, equivariance_table(self.equivariance)]
        if self.transport:
            parts.append(transport_table(self.transport))
        if self.recovery is not None:
            r = self.recovery
            parts.append(
                f"transformation recovered without labels: accuracy {100 * r.accuracy:.2f} %, mutual information "
                f"{r.mutual_information:.4f} nats of {math.log(len(r.counts)):.4f}, {r.sequences:,} sequences"
            )
        if self.inferred is not None:
            counts = ", ".join(f"{count:,} to {name}" for name, count in self.inferred["sequences"].items())
            empty = ", ".join(self.inferred["without"])
            left_out = f"; left out, since they got none: {empty}" if empty else ""
            parts.append(f"no labels: the model itself gave test sequences to its flows ({counts}){left_out}")
        return "\n\n".join([*parts, self.verdict()])


def evaluate(
    folder: RunFolder, source: Source | None = None, device: str = "cpu", *, trust: bool = False
) -> Evaluation:
    """Evaluate a run's newest checkpoint on its test split; write the result and the strips into its folder.

    Args:
        folder: The run.
        source: Where the data files are.
        device: Where to compute.
        trust: Whether code of the run's own may be run; see :func:`open_run`.

    Returns:
        The errors and the certificates.

    Raises:
        ExperimentError: If the run or its data cannot be read, or a result is not finite.
    """
    return evaluate_run(open_run(folder, source, device, trust=trust), folder)


def evaluate_run(run: TrainedRun, folder: RunFolder) -> Evaluation:
    """Evaluate a run that is open, and write the result and the strips into its folder; see :func:`evaluate`."""
    return _evaluate(run, folder, folder.evaluation, folder.strips)


def evaluate_transfer(
    folder: RunFolder, name: DatasetName, source: Source | None = None, device: str = "cpu", *, trust: bool = False
) -> Evaluation:
    """Evaluate a run of digits or MNIST on another data set, which it never saw.

    The images are reduced to the size of the digits and put into the red channel. The result and the strips go into
    files of their own in the folder of the run.

    Args:
        folder: The run.
        name: The data set.
        source: Where the files of the data set are.
        device: Where to compute.
        trust: See :func:`open_run`.

    Returns:
        The errors and the certificates.

    Raises:
        ExperimentError: If the run or the images cannot be read.
        UsageError: If the run is of another kind of data, or the data set has no such form.

    References:
        Y. Song, T. A. Keller, N. Sebe and M. Welling, Flow Factorized Representation Learning, 2023, figure 7.
    """
    run = open_run(folder, source, device, trust=trust)
    other = open_transfer(name, run.config.dataset, run.config.sequences, source).to(chosen_device(device))
    return _evaluate(replace(run, data=other), folder, folder.transfer, folder.transfer_strips)


def _evaluate(run: TrainedRun, folder: RunFolder, record: Path, picture: Path) -> Evaluation:
    method = run.config.model.described
    unknown, names = is_unlabelled(run.data), run.data.names
    run = replace(run, data=method.labelled(run.model, run.data))
    choice = method.choose(run.model, run.data if unknown else run.validation)
    motion, flows = method.motion(run.model, choice), method.flows(run.model, choice)
    with torch.inference_mode():
        draw_strips(motion, run.data, picture)
    recovery = method.recovery(run.model, choice, run.data)
    result = Evaluation(
        equivariance=measure_equivariance(motion, run.data),
        transport={} if flows is None else measure_optimality(flows, run.data),
        recovery=recovery,
        choice=choice,
        data=f"{run.data.name}, {run.data.split}",
        inferred=_describe_inferred(run.data, names) if unknown else None,
        unfinished=None
        if run.progress.steps > run.config.warmup_steps
        else (
            f"only {run.progress.steps} steps were made, no more than the {run.config.warmup_steps} of the warm-up: "
            "these are not the numbers of a trained model"
        ),
    )
    written = {
        "result": asdict(result.equivariance),
        "transport": {name: asdict(entry) for name, entry in result.transport.items()},
        "recovery": None if recovery is None else asdict(recovery),
        "choice": asdict(choice),
        "inferred": result.inferred,
        "provenance": describe_run(run, folder),
    }
    write_json(record, written)
    return result


def _describe_inferred(data: SequenceDataset, names: Sequence[str]) -> dict[str, Any]:
    counts = {name: len(data.starts(k)) for k, name in enumerate(data.names)}
    return {
        "labels": "by the model's own posterior",
        "sequences": counts,
        "without": [n for n in names if n not in counts],
    }


Part = Literal["likelihood", "vp", "composition", "consistency", "disentanglement"]


CODES, STAGES = 2000, 20  # images in random states, and trees of the boosted classifier for each class


SHARES = (0.1, 0.01)


MORE = 4
"""The steps beyond the trained ones over which the errors are measured."""


@dataclass(frozen=True)
class MeasureConfig:
    """The extent of the metrics of a run.

    Attributes:
        images: Test sequences of each transformation for the likelihood.
        sequences: Test sequences of each transformation for the consistency, at most.
        samples: Numbers of importance samples.
        pairs: Pairs of each transformation for the predictability score.
        epochs: Passes through the training pairs of its classifier.
        start: State of the transformations that do not change, for digits and MNIST; by default as the run was trained.
    """

    images: int = 50
    sequences: int = 1000
    samples: tuple[int, ...] = (1, 100, 1000)
    pairs: int = 1000
    epochs: int = 60
    start: Literal["canonical", "random"] | None = None

    def __post_init__(self) -> None:
        for name in ("images", "sequences", "samples", "pairs", "epochs"):
            values = getattr(self, name)
            least = min(values) if isinstance(values, tuple) and values else values
            if isinstance(least, tuple) or least < 1:
                raise UsageError(f"{name}: expected positive integers, got {values!r}")


def measure(
    folder: RunFolder,
    part: Part,
    config: MeasureConfig,
    source: Source | None = None,
    device: str = "cpu",
    *,
    trust: bool = False,
) -> str:
    """Measure one part of an evaluated run, and write what was found into its folder.

    Args:
        folder: The run.
        part: What to measure.
        config: How much of it.
        source: Where the data files are.
        device: Where to compute.
        trust: See :func:`open_run`.

    Returns:
        The tables, in Markdown.

    Raises:
        ExperimentError: If the run or its data cannot be read, or it was not evaluated.
        UsageError: If the part does not apply to the method of the run.
    """
    run = open_run(folder, source, device, trust=trust)
    if config.start is not None:
        sequences = replace(run.config.sequences, start=config.start)
        run = replace(run, data=open_sequences(run.config.dataset, "test", sequences, source).to(chosen_device(device)))
    choice = Choice.from_values(read_evaluation(folder)["choice"])
    run = replace(run, data=run.config.model.described.labelled(run.model, run.data))
    result, text = PARTS[part](run, choice, config, folder)
    written = {"result": result, "settings": asdict(config), "provenance": describe_run(run, folder)}
    write_json(folder.metric(part), written)
    return f"{run.data.name}, {run.data.split}\n\n{text}"


Measured = tuple[dict[str, Any], str]


def _likelihood(run: TrainedRun, choice: Choice, config: MeasureConfig, folder: RunFolder) -> Measured:  # noqa: ARG001 - the signature of all parts
    method = run.config.model.described
    decode = method.motion(run.model, choice).decode
    likelihood = run.config.model.likelihood
    observations: tuple[Observation, ...] = (UnitGaussian(),)
    if likelihood in ("bernoulli", "continuous-bernoulli"):
        observations = (BinarizedBernoulli(), *observations)
    if likelihood == "continuous-bernoulli":
        observations = (*observations, AsTrained("continuous Bernoulli"))
    if likelihood == "laplace":
        observations = (*observations, AsTrained("Laplace", -math.log(2 * LAST)))
    result: dict[str, Any] = {}
    texts = []
    for name, proposal_of_k in method.proposals(run.model, choice).items():
        found = measure_log_likelihood(decode, proposal_of_k, run.data, observations, config.images, config.samples)
        folded = any(one.folded for one in found.transformations[UnitGaussian().name].values())
        legacy = None if folded else legacy_score(decode, proposal_of_k, run.data, config.images)
        result[name] = {"bounds": asdict(found), "legacy_score": legacy}
        score = "none, since it folds" if legacy is None else f"{legacy:.2f}"
        texts.append(f"proposal: {name}\n\n{log_likelihood_table(found)}\n\nlegacy score: {score}")
    return result, "\n\n".join(texts)


def _predictability(run: TrainedRun, choice: Choice, config: MeasureConfig, folder: RunFolder) -> Measured:  # noqa: ARG001 - the signature of all parts
    if len(run.data.names) < 2:
        raise UsageError(f"vp: expected at least 2 transformations to tell apart, got only {run.data.names[0]!r}")
    generator = torch.Generator().manual_seed(0)
    count = min(config.pairs, *(len(run.data.starts(k)) for k in range(len(run.data.names))))
    pairs = make_pairs(run.config.model.described.motion(run.model, choice), run.data, count, generator)
    result: dict[str, Any] = {}
    header = ("labels", "trained on", "last epoch", "s.e.", "best epoch", "chance", "tested on")
    rows: list[tuple[str, ...]] = []
    shuffled = shuffle_labels(pairs.labels, generator)
    for labels, kind in ((pairs.labels, "true"), (shuffled, "shuffled")):
        for share in SHARES if kind == "true" else SHARES[1:]:
            score = vp_score(
                pairs.first, pairs.last, labels, share, torch.Generator().manual_seed(0), epochs=config.epochs
            )
            result[f"{kind}, {share:g}"] = asdict(score)
            percent = [f"{100 * x:.2f} %" for x in (score.last, score.standard_error, score.best, score.chance)]
            rows.append((kind, f"{score.train_pairs:,} ({share:.0%})", *percent, f"{score.test_pairs:,}"))
    return result, table(header, rows, left=0)


def _composition(run: TrainedRun, choice: Choice, config: MeasureConfig, folder: RunFolder) -> Measured:  # noqa: ARG001 - the signature of all parts
    method = run.config.model.described
    flows = method.flows(run.model, choice)
    if flows is None or not method.composes:
        raise UsageError(f"composition: expected a run of flows, got one of {run.config.model.method}")
    if isinstance(run.data, ArraySequences):
        run.data.composed_starts(())  # refuses, before anything is computed
    errors = measure_compositions(flows.model, flows.order, run.data)
    interactions = measure_interactions(flows.model, flows.order, run.data)
    draw_composition_strips(flows.model, flows.order, run.data, folder.composition_strips)
    result = {
        "errors": {name: None if e is None else asdict(e) for name, e in errors.items()},
        "interactions": {name: None if i is None else asdict(i) for name, i in interactions.items()},
    }
    return result, f"{composition_table(errors)}\n\n{interaction_table(interactions)}"


def _consistency(run: TrainedRun, choice: Choice, config: MeasureConfig, folder: RunFolder) -> Measured:  # noqa: ARG001 - the signature of all parts
    motion = run.config.model.described.motion(run.model, choice)
    found = measure_consistency(motion, run.data, _open_longer(run, config.start), config.sequences)
    beyond = {name: asdict(errors) | {"relative": errors.relative} for name, errors in found.beyond.items()}
    return asdict(found) | {"beyond": beyond}, consistency_table(found)


def _open_longer(run: TrainedRun, start: Literal["canonical", "random"] | None = None) -> SequenceDataset | None:
    """Open sequences of more steps, the first of which are those of a run; None where there are no such images."""
    chosen = run.config.sequences
    if not run.data.fractional or isinstance(run.data, ArraySequences) or (start or chosen.start) == "random":
        return None
    steps = run.data.steps
    hue = None if chosen.last_hue is None else chosen.last_hue * (steps + MORE) / steps
    longer = replace(chosen, states=steps + MORE + 1, last_hue=hue, start="canonical")
    return open_sequences(run.config.dataset, "test", longer, run.source).to(next(run.model.parameters()).device)


def _disentanglement(run: TrainedRun, choice: Choice, config: MeasureConfig, folder: RunFolder) -> Measured:  # noqa: ARG001 - the signature of all parts
    encode = run.config.model.described.encoder(run.model)
    if encode is None:
        raise UsageError(
            f"disentanglement: expected a run whose latents are coordinates, got {run.config.model.method}"
        )
    generator = torch.Generator().manual_seed(0)
    codes, factors = draw_codes(encode, run.data, CODES, generator)
    vae = factor_vae_score(FixedFactorTable(codes, factors), codes, factors.shape[1], generator=generator)
    dci = measure_dci(codes, factors, stages=STAGES, generator=generator)
    information, ease = measure_infomec(codes, factors), measure_explicitness(codes, factors, generator=generator)
    result: dict[str, Any] = {
        "MIG": measure_mig(codes, factors).score,
        "SAP": measure_sap(codes, factors, generator=generator).score,
        "DCI disentanglement": dci.disentanglement,
        "DCI completeness": dci.completeness,
        "DCI informativeness": dci.informativeness,
        "FactorVAE score": vae.score,
        "FactorVAE chance": vae.chance,
        "InfoM": information.modularity,
        "InfoE": information.explicitness,
        "InfoC": information.compactness,
        "active codes": int(information.active.sum()),
        "explicitness": ease.explicitness,
        "size": ease.size,
        "images": len(codes),
    }
    return result, table(tuple(result), [tuple(f"{value:.3f}" for value in result.values())], left=0)


PARTS: dict[Part, Callable[[TrainedRun, Choice, MeasureConfig, RunFolder], Measured]] = {
    "likelihood": _likelihood,
    "vp": _predictability,
    "composition": _composition,
    "consistency": _consistency,
    "disentanglement": _disentanglement,
}
