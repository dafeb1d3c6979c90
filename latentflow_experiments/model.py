"""The model of the experiments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from latentflow import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    DiffusionPrior,
    ExactSum,
    FlowVAE,
    GaussianLikelihood,
    GaussianPrior,
    HopfLaxFlow,
    ICNNPotential,
    JointBound,
    LabelPosterior,
    MarginalBound,
    MixturePrior,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    MLPSequenceClassifier,
    Potential,
    PotentialBank,
    PotentialFlow,
    StochasticBound,
    StraightThrough,
    VampPrior,
)
from latentflow.priors import Prior
from latentflow.vae import Bound, Likelihood
from latentflow_experiments.baselines import TVAE, VAE, BetaVAE, FactorVAE, PoFlow, SlowVAE
from latentflow_experiments.configuration import ModelConfig
from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.pde import SOLVED, build_residual
from latentflow_experiments.song2023 import PaperDensity

LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "bernoulli": BernoulliLikelihood,
    "continuous-bernoulli": ContinuousBernoulliLikelihood,
    "gaussian": GaussianLikelihood,
}
MIXTURE_COMPONENTS, PSEUDO_INPUTS = 10, 50
CONTRACTION = 0.98  # to what share of a length all steps together may contract it: one minus this


class TrainableModel(Protocol):
    """A module that training can train."""

    def __call__(self, frames: Tensor, k: Tensor | None, generator: torch.Generator) -> dict[str, Tensor]:
        """Compute the terms of the loss on sequences of transformations k; ``total`` is what training minimises."""


def build_model(config: ModelConfig, data: SequenceDataset) -> nn.Module:
    """Build the model that a configuration describes.

    Args:
        config: The configuration.
        data: The sequences that it is for; their frames say the shape of an image, their names and steps the rest.

    Returns:
        The model, with freshly initialised weights from torch's global source of randomness. All methods have an
        encoder and a decoder of one architecture.

    Raises:
        UsageError: If the configuration names a PDE of the user's that cannot be had.
    """
    if config.method == "flow":
        return build_flow_vae(config, data)
    if config.method == "poflow":
        plain = replace(config, prior="gaussian", pde="none", bound="joint", supervision="labels")
        return PoFlow(build_flow_vae(plain, data))
    return _build_autoencoder(config, data)


def _build_autoencoder(config: ModelConfig, data: SequenceDataset) -> nn.Module:
    """Build a baseline without potentials; the latents of a topographic VAE are whole capsules, so a few more."""
    likelihood, baseline = LIKELIHOODS[config.likelihood](), config.baseline
    dim = config.dim if config.method != "tvae" else (data.steps + 1) * math.ceil(config.dim / (data.steps + 1))
    encoder, decoder = _build_encoder(config, data, dim), _build_decoder(config, data, dim)
    match config.method:
        case "beta-vae":
            return BetaVAE(encoder, decoder, likelihood, baseline.beta)
        case "factor-vae":
            return FactorVAE(encoder, decoder, likelihood, dim, baseline.tc_weight)
        case "slow-vae":
            return SlowVAE(encoder, decoder, likelihood, gamma=baseline.slow_weight, rate=baseline.slow_rate)
        case "tvae":
            return TVAE(encoder, _build_encoder(config, data, dim), decoder, likelihood, dim, data.steps + 1)
        case _:
            return VAE(encoder, decoder, likelihood)


def build_flow_vae(config: ModelConfig, data: SequenceDataset) -> FlowVAE:
    """Build the flow-factorised VAE that a configuration describes, as :func:`build_model` does."""
    fields = len(data.names)
    potentials = [_build_potential(config, data.steps) for _ in range(fields)]
    encoder = _build_encoder(config, data, config.dim)
    return FlowVAE(
        encoder=encoder,
        decoder=_build_decoder(config, data, config.dim),
        bank=PotentialBank(potentials),
        prior=_build_prior(config, data, encoder),
        residual=build_residual(config.pde, config.dim, config.hidden),
        likelihood=LIKELIHOODS[config.likelihood](),
        bound=_build_bound(config),
        residual_weight=config.residual_weight,
        dynamics=HopfLaxFlow if config.pde in SOLVED else PotentialFlow,
        label_posterior=None if config.supervision == "labels" else _build_label_posterior(config, data),
        decoded_frames=config.decoded_frames,
    )


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Group the parameters as torch's optimisers take them.

    Args:
        model: The model.

    Returns:
        The groups; ``scale`` in one of them is a factor on the learning rate.
    """
    if isinstance(model, FactorVAE):
        return model.parameter_groups()
    return [{"params": list(model.parameters())}]


def _build_encoder(config: ModelConfig, data: SequenceDataset, dim: int) -> MLPEncoder:
    return MLPEncoder(data.shape, dim, (config.width, config.width))


def _build_decoder(config: ModelConfig, data: SequenceDataset, dim: int) -> MLPDecoder:
    return MLPDecoder(dim, data.shape, (config.width, config.width))


def _build_bound(config: ModelConfig) -> Bound:
    match config.bound:
        case "marginal":
            return MarginalBound()
        case "joint":
            return JointBound()
        case "stochastic":
            return StochasticBound()
        case "looking":
            return StochasticBound(config.dim)
        case "paper":
            return PaperDensity()


def _build_label_posterior(config: ModelConfig, data: SequenceDataset) -> LabelPosterior:
    network = MLPSequenceClassifier(data.shape, data.steps + 1, len(data.names))
    estimator = ExactSum() if config.label_estimator == "exact" else StraightThrough()
    return LabelPosterior(network, estimator, config.balance)


def _build_potential(config: ModelConfig, steps: int) -> Potential:
    """Build one potential; a convex one, less a bowl, keeps the map of all steps the gradient of a convex function."""
    if config.pde == "convex-hj":
        return ICNNPotential(config.dim, config.hidden) + _bowl(steps)
    return MLPPotential(config.dim, config.hidden)


def _bowl(steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    def bowl(z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG001 - a field of the point and the time
        return -CONTRACTION / (2 * steps) * z.square().sum(-1)

    return bowl


def _build_prior(config: ModelConfig, data: SequenceDataset, encoder: MLPEncoder) -> Prior:
    match config.prior:
        case "diffusion":
            return DiffusionPrior(config.dim, len(data.names))
        case "gaussian":
            return GaussianPrior(config.dim)
        case "mixture":
            return MixturePrior(config.dim, MIXTURE_COMPONENTS)
        case "vamp":
            return VampPrior(encoder, torch.rand(PSEUDO_INPUTS, *data.shape))
