"""The flow-factorized VAE as the experiments build it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    GaussianPrior,
    HopfLaxFlow,
    ICNNPotential,
    JointBound,
    LabelPosterior,
    MarginalBound,
    MixturePrior,
    MLPPotential,
    Potential,
    PotentialBank,
    PotentialFlow,
    VampPrior,
)
from latentflow.priors import Prior
from latentflow.vae import (
    Bound,
    ExactSum,
    StochasticBound,
    StraightThrough,
    annealed_temperature,
)
from latentflow_experiments.data import ArraySequences, SequenceDataset
from latentflow_experiments.data.arrays import is_unlabelled
from latentflow_experiments.errors import UsageError
from latentflow_experiments.methods.matching import Recovery, label_by_model, match, measure_recovery
from latentflow_experiments.methods.method import (
    CONV_SIDE,
    Choice,
    FlowMotion,
    Method,
    ModelSettings,
    build_classifier,
    build_decoder,
    build_encoder,
)
from latentflow_experiments.methods.pixels import LIKELIHOODS
from latentflow_experiments.methods.proposals import FromEncoder, FromFlow, FromSharedFlow, Proposal
from latentflow_experiments.residuals import SOLVED, build_residual
from latentflow_experiments.song2023 import PaperDensity

MIXTURE_COMPONENTS, PSEUDO_INPUTS = 10, 50
CONTRACTION = 0.98  # the share of a length by which all steps together may shorten it
PAPER_STEPS = 90_000


class FlowMethod(Method[FlowVAE]):
    """The flows of latentflow."""

    name = "flow"
    infers_labels = True
    composes = True

    def build(self, settings: ModelSettings, data: SequenceDataset) -> FlowVAE:
        """Build the model."""
        return build_flow_vae(settings, data)

    def reads_labels(self, settings: ModelSettings) -> bool:
        """Return whether the supervision is not weak."""
        return settings.supervision != "weak"

    def parameter_groups(self, model: FlowVAE) -> list[dict[str, Any]]:
        """Group the label posterior apart, so that Adam keeps the largest second moments of its gradient (AMSGrad).

        Once the posterior is sure of its labels its gradient vanishes, and the averages of Adam with it. A single
        sequence that draws another label then moves all its weights by many times the learning rate: in one training
        two transformations came to share a flow in this way after twenty thousand good steps.
        """
        posterior = model.label_posterior
        if posterior is None:
            return super().parameter_groups(model)
        own = set(posterior.parameters())
        others = [parameter for parameter in model.parameters() if parameter not in own]
        return [{"params": others}, {"params": list(posterior.parameters()), "amsgrad": True}]

    def anneal(self, model: FlowVAE, spent: float) -> None:
        """Lower the temperature of straight-through labels as the paper does over its 90,000 iterations."""
        super().anneal(model, spent)
        posterior = model.label_posterior
        if posterior is not None and isinstance(posterior.estimator, StraightThrough):
            posterior.estimator = StraightThrough(annealed_temperature(PAPER_STEPS * spent))

    def choose(self, model: FlowVAE, validation: SequenceDataset) -> Choice:
        """Match the potentials to the transformations, of a model with a label posterior.

        Sequences that the model itself has labelled say which potentials they have.
        """
        if isinstance(validation, ArraySequences) and validation.potentials is not None:
            return Choice(potentials=validation.potentials)
        return Choice() if model.label_posterior is None else Choice(matching=match(model, validation))

    def labelled(self, model: FlowVAE, data: SequenceDataset) -> SequenceDataset:
        """Return the sequences, those without labels with their most probable potentials."""
        return label_by_model(model, data) if is_unlabelled(data) else data

    def recovery(self, model: FlowVAE, choice: Choice, data: SequenceDataset) -> Recovery | None:
        """Measure how well the label posterior recovers the transformations."""
        return None if choice.matching is None else measure_recovery(model, choice.matching, data)

    def motion(self, model: FlowVAE, choice: Choice) -> FlowMotion:
        """Return the flows."""
        return self.flows(model, choice)

    def flows(self, model: FlowVAE, choice: Choice) -> FlowMotion:
        """Return the flows, in the order of the transformations."""
        if choice.potentials is not None:
            return FlowMotion(model, choice.potentials)
        return FlowMotion(model, tuple(range(len(model.bank))) if choice.matching is None else choice.matching.order)

    def proposals(self, model: FlowVAE, choice: Choice) -> dict[str, Callable[[int], Proposal]]:
        """Return the flow, and the posterior of each frame; only the flow for a model of whole sequences."""
        flows = self.flows(model, choice)
        if isinstance(model.bound, JointBound):
            return {"flow": lambda k: FromSharedFlow(model, flows.order[k])}
        return propose(flows)


def propose(flows: FlowMotion) -> dict[str, Callable[[int], Proposal]]:
    """Return the proposals of a model of flows: along the flow, and the posterior of each frame."""
    model, order = flows.model, flows.order
    return {"flow": lambda k: FromFlow(model, order[k]), "encoder": lambda k: FromEncoder(model, order[k])}


def build_flow_vae(settings: ModelSettings, data: SequenceDataset) -> FlowVAE:
    """Build the flow-factorized VAE of the settings.

    Args:
        settings: The settings.
        data: The sequences; the shape of their frames, their names and their steps are read.

    Returns:
        The model, with freshly initialized weights from torch's global source of randomness.

    Raises:
        UsageError: If the settings name a PDE of the user's that cannot be had.
    """
    fields = len(data.names)
    potentials = [_build_potential(settings, data.steps) for _ in range(fields)]
    encoder = build_encoder(settings, data, settings.dim)
    return FlowVAE(
        encoder=encoder,
        decoder=build_decoder(settings, data, settings.dim),
        bank=PotentialBank(potentials),
        prior=_build_prior(settings, data, encoder),
        residual=build_residual(settings.pde, settings.dim, settings.hidden),
        likelihood=LIKELIHOODS[settings.likelihood](),
        bound=_build_bound(settings),
        residual_weight=settings.residual_weight,
        dynamics=HopfLaxFlow if settings.pde in SOLVED else PotentialFlow,
        label_posterior=None if settings.supervision == "labels" else _build_label_posterior(settings, data),
        decoded_frames=settings.decoded_frames,
    )


def _build_bound(settings: ModelSettings) -> Bound:
    match settings.bound:
        case "marginal":
            return MarginalBound()
        case "joint":
            return JointBound()
        case "stochastic":
            return StochasticBound()
        case "smoothing":
            return StochasticBound(settings.dim)
        case "paper":
            return PaperDensity()
        case _:
            raise UsageError(f"bound: expected a bound of the command line, got {settings.bound!r}")


def _build_label_posterior(settings: ModelSettings, data: SequenceDataset) -> LabelPosterior:
    estimator = ExactSum() if settings.label_estimator == "exact" else StraightThrough()
    balance = default_balance(data) if settings.balance is None else settings.balance
    return LabelPosterior(build_classifier(settings, data), estimator, balance)


BALANCE, NATS = 100.0, 0.01
"""The weight against collapse for small images, and that for each number of a sequence of larger ones. On eight frames
of 3 x 64 x 64 a training collapses with 100, begins to with 464, and does not with 1,000."""


def default_balance(data: SequenceDataset) -> float:
    """Return the weight against collapse for sequences, in nats of a sequence; it has to grow with the images.

    Args:
        data: The sequences.

    Returns:
        0.01 for each number of a sequence of images with sides of at least 64 pixels, and at least 100.
    """
    if min(data.shape[1:]) < CONV_SIDE:
        return BALANCE
    return max(BALANCE, NATS * (data.steps + 1) * math.prod(data.shape))


def _build_potential(settings: ModelSettings, steps: int) -> Potential:
    """Build one potential; a convex one, less a bowl, keeps the map of all steps the gradient of a convex function."""
    if settings.pde == "convex-hj":
        return ICNNPotential(settings.dim, settings.hidden) + _bowl(steps)
    return MLPPotential(settings.dim, settings.hidden)


def _bowl(steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    def bowl(z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG001 - a field of the point and the time
        return -CONTRACTION / (2 * steps) * z.square().sum(-1)

    return bowl


def _build_prior(settings: ModelSettings, data: SequenceDataset, encoder: nn.Module) -> Prior:
    match settings.prior:
        case "diffusion":
            return DiffusionPrior(settings.dim, len(data.names))
        case "gaussian":
            return GaussianPrior(settings.dim)
        case "mixture":
            return MixturePrior(settings.dim, MIXTURE_COMPONENTS)
        case "vamp":
            return VampPrior(encoder, torch.rand(PSEUDO_INPUTS, *data.shape))
        case _:
            raise UsageError(f"prior: expected a prior of the command line, got {settings.prior!r}")


METHODS = (FlowMethod(),)
