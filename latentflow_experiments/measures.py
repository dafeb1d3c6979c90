"""The slower measures of a run: likelihood, predictability, composition, disentanglement."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from latentflow import FlowVAE, JointBound
from latentflow_experiments.baselines import TVAE, Autoencoder, PoFlow
from latentflow_experiments.composition import (
    composition_table,
    draw_composition_strips,
    interaction_table,
    measure_compositions,
    measure_interactions,
)
from latentflow_experiments.data import Source, open_sequences
from latentflow_experiments.errors import UsageError
from latentflow_experiments.evaluation import TrainedRun, facts_of, open_run, read_evaluation
from latentflow_experiments.files import write_text
from latentflow_experiments.markdown import lay_out
from latentflow_experiments.methods import AlongFlow, Choice, Method, method_of
from latentflow_experiments.metrics.dci import measure_dci
from latentflow_experiments.metrics.factor_codes import draw_codes
from latentflow_experiments.metrics.factor_vae_score import FixedFactorTable, factor_vae_score
from latentflow_experiments.metrics.legacy_score import legacy_score
from latentflow_experiments.metrics.log_likelihood import log_likelihood_table, measure_log_likelihood
from latentflow_experiments.metrics.mig import measure_mig
from latentflow_experiments.metrics.observations import AsTrained, BinarisedBernoulli, Observation, UnitGaussian
from latentflow_experiments.metrics.proposals import (
    FromEncoder,
    FromEncoderStandard,
    FromFlow,
    FromSharedFlow,
    FromTVAE,
    Proposal,
)
from latentflow_experiments.metrics.sap import measure_sap
from latentflow_experiments.metrics.vp_score import make_pairs, shuffle_labels, vp_score
from latentflow_experiments.run_folder import RunFolder

__all__ = ["PARTS", "MeasureConfig", "Part", "measure", "proposals_of"]

Part = Literal["likelihood", "vp", "composition", "disentanglement"]
CODES, STAGES = 2000, 20  # images in random states, and trees of the boosted classifier for each class
SHARES = (0.1, 0.01)


@dataclass(frozen=True)
class MeasureConfig:
    """How much to measure.

    Attributes:
        images: Test sequences of each transformation for the likelihood.
        samples: Numbers of importance samples.
        pairs: Pairs of each transformation for the predictability score.
        epochs: Passes through the training pairs of its classifier.
        start: State of the transformations that do not change, for digits and MNIST; by default as the run was trained.
    """

    images: int = 50
    samples: tuple[int, ...] = (1, 100, 1000)
    pairs: int = 1000
    epochs: int = 60
    start: Literal["canonical", "random"] | None = None

    def __post_init__(self) -> None:
        for name in ("images", "samples", "pairs", "epochs"):
            values = getattr(self, name)
            least = min(values) if isinstance(values, tuple) and values else values
            if isinstance(least, tuple) or least < 1:
                raise UsageError(f"{name}: expected positive integers, got {values!r}")


def measure(
    folder: RunFolder, part: Part, config: MeasureConfig, source: Source | None = None, device: str = "cpu"
) -> str:
    """Measure one part of an evaluated run, and write what was found into its folder.

    Args:
        folder: The run.
        part: What to measure.
        config: How much of it.
        source: Where the data files are.
        device: Where to compute.

    Returns:
        The tables, in Markdown.

    Raises:
        ExperimentError: If the run or its data cannot be read, or it was not evaluated.
        UsageError: If the part does not apply to the method of the run.
    """
    run = open_run(folder, source, device)
    if config.start is not None:
        sequences = replace(run.config.sequences, start=config.start)
        run = replace(run, data=open_sequences(run.config.dataset, "test", sequences, source).to(device))
    choice = Choice.from_values(read_evaluation(folder)["choice"])
    result, text = PARTS[part](run, choice, config, folder)
    written = {"result": result, "settings": asdict(config), "provenance": facts_of(run, folder)}
    write_text(folder.measured(part), json.dumps(written, indent=2) + "\n")
    return f"{run.data.name}, {run.data.split}\n\n{text}"


Measured = tuple[dict[str, Any], str]


def _likelihood(run: TrainedRun, choice: Choice, config: MeasureConfig, folder: RunFolder) -> Measured:  # noqa: ARG001 - the signature of all parts
    method = method_of(run.model, choice)
    likelihood = run.config.model.likelihood
    observations: tuple[Observation, ...] = (UnitGaussian(),)
    if likelihood != "gaussian":
        observations = (BinarisedBernoulli(), *observations)
    if likelihood == "continuous-bernoulli":
        observations = (*observations, AsTrained("continuous Bernoulli"))
    result: dict[str, Any] = {}
    texts = []
    for name, proposal_of_k in proposals_of(run.model, method).items():
        found = measure_log_likelihood(
            method.decode, proposal_of_k, run.data, observations, config.images, config.samples
        )
        folded = any(one.folded for one in found.transformations[UnitGaussian().name].values())
        legacy = None if folded else legacy_score(method.decode, proposal_of_k, run.data, config.images)
        result[name] = {"bounds": asdict(found), "legacy_score": legacy}
        score = "none, since it folds" if legacy is None else f"{legacy:.2f}"
        texts.append(f"proposal: {name}\n\n{log_likelihood_table(found)}\n\nlegacy score: {score}")
    return result, "\n\n".join(texts)


def proposals_of(model: nn.Module, method: Method) -> dict[str, Callable[[int], Proposal]]:
    """Say where the latents of a frame are looked for, by what the model is.

    Args:
        model: The model, in evaluation mode.
        method: The method that was made of it, which knows the order of its flows.

    Returns:
        The proposal of each transformation, by its name: the flow, or the encoder.

    Raises:
        TypeError: If the model is none of those that are compared.
    """
    if isinstance(method, AlongFlow):
        flows, order = method.model, method.order
        if isinstance(model, FlowVAE) and isinstance(flows.bound, JointBound):
            return {"flow": lambda k: FromSharedFlow(flows, order[k])}
        return {"flow": lambda k: FromFlow(flows, order[k]), "encoder": lambda k: FromEncoder(flows, order[k])}
    if isinstance(model, TVAE):
        return {"encoder": lambda k: FromTVAE(model)}  # noqa: ARG005 - the same for all
    if isinstance(model, Autoencoder):
        return {"encoder": lambda k: FromEncoderStandard(model)}  # noqa: ARG005 - the same for all
    raise TypeError(f"model: expected one of the methods that are compared, got {type(model).__name__}")


def _predictability(run: TrainedRun, choice: Choice, config: MeasureConfig, folder: RunFolder) -> Measured:  # noqa: ARG001 - the signature of all parts
    generator = torch.Generator().manual_seed(0)
    count = min(config.pairs, *(len(run.data.starts(k)) for k in range(len(run.data.names))))
    pairs = make_pairs(method_of(run.model, choice), run.data, count, generator)
    result: dict[str, Any] = {}
    rows: list[tuple[str, ...]] = [("labels", "trained on", "last epoch", "s.e.", "best epoch", "chance", "tested on")]
    shuffled = shuffle_labels(pairs.labels, generator)
    for labels, kind in ((pairs.labels, "true"), (shuffled, "shuffled")):
        for share in SHARES if kind == "true" else SHARES[1:]:
            score = vp_score(
                pairs.first, pairs.last, labels, share, torch.Generator().manual_seed(0), epochs=config.epochs
            )
            result[f"{kind}, {share:g}"] = asdict(score)
            percent = [f"{100 * x:.2f} %" for x in (score.last, score.standard_error, score.best, score.chance)]
            rows.append((kind, f"{score.train_pairs:,} ({share:.0%})", *percent, f"{score.test_pairs:,}"))
    return result, lay_out(rows)


def _composition(run: TrainedRun, choice: Choice, config: MeasureConfig, folder: RunFolder) -> Measured:  # noqa: ARG001 - the signature of all parts
    method = method_of(run.model, choice)
    if not isinstance(method, AlongFlow) or isinstance(run.model, PoFlow):
        raise UsageError(f"composition: expected a run of flows, got one of {run.config.model.method}")
    errors = measure_compositions(method.model, method.order, run.data)
    interactions = measure_interactions(method.model, method.order, run.data)
    draw_composition_strips(method.model, method.order, run.data, folder.composition_strips)
    result = {
        "errors": {name: None if e is None else asdict(e) for name, e in errors.items()},
        "interactions": {name: None if i is None else asdict(i) for name, i in interactions.items()},
    }
    return result, f"{composition_table(errors)}\n\n{interaction_table(interactions)}"


def _disentanglement(run: TrainedRun, choice: Choice, config: MeasureConfig, folder: RunFolder) -> Measured:  # noqa: ARG001 - the signature of all parts
    if not isinstance(run.model, Autoencoder):
        raise UsageError(
            f"disentanglement: expected a run whose latents are coordinates, got {run.config.model.method}"
        )
    generator = torch.Generator().manual_seed(0)
    codes, factors = draw_codes(run.model.encode, run.data, CODES, generator)
    vae = factor_vae_score(FixedFactorTable(codes, factors), codes, factors.shape[1], generator=generator)
    dci = measure_dci(codes, factors, stages=STAGES, generator=generator)
    result: dict[str, Any] = {
        "MIG": measure_mig(codes, factors).score,
        "SAP": measure_sap(codes, factors, generator=generator).score,
        "DCI disentanglement": dci.disentanglement,
        "DCI completeness": dci.completeness,
        "DCI informativeness": dci.informativeness,
        "FactorVAE score": vae.score,
        "FactorVAE chance": vae.chance,
        "images": len(codes),
    }
    return result, lay_out([tuple(result), tuple(f"{value:.3f}" for value in result.values())])


PARTS: dict[Part, Callable[[TrainedRun, Choice, MeasureConfig, RunFolder], Measured]] = {
    "likelihood": _likelihood,
    "vp": _predictability,
    "composition": _composition,
    "disentanglement": _disentanglement,
}
