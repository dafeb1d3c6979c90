"""The model of the experiments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    GaussianPrior,
    HopfLaxFlow,
    ICNNPotential,
    JointBound,
    MarginalBound,
    MixturePrior,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    Potential,
    PotentialBank,
    PotentialFlow,
    VampPrior,
)
from latentflow.experiments.configuration import ModelConfig
from latentflow.experiments.data import SequenceDataset
from latentflow.experiments.pde import SOLVED, build_residual
from latentflow.priors import Prior

MIXTURE_COMPONENTS, PSEUDO_INPUTS = 10, 50
CONTRACTION = 0.98  # to what share of a length all steps together may contract it: one minus this


def build_model(config: ModelConfig, data: SequenceDataset) -> FlowVAE:
    """Build the flow-factorised VAE that a configuration describes.

    Args:
        config: The configuration.
        data: The sequences that it is for; their frames say the shape of an image, their names and steps the rest.

    Returns:
        The model, with freshly initialised weights from torch's global source of randomness.

    Raises:
        UsageError: If the configuration names a PDE of the user's that cannot be had.
    """
    fields = len(data.names)
    potentials = [_build_potential(config, data.steps) for _ in range(fields)]
    encoder = MLPEncoder(data.shape, config.dim, (config.width, config.width))
    return FlowVAE(
        encoder=encoder,
        decoder=MLPDecoder(config.dim, data.shape, (config.width, config.width)),
        bank=PotentialBank(potentials),
        prior=_build_prior(config, data, encoder),
        residual=build_residual(config.pde, config.dim, config.hidden),
        bound=JointBound() if config.bound == "joint" else MarginalBound(),
        residual_weight=config.residual_weight,
        dynamics=HopfLaxFlow if config.pde in SOLVED else PotentialFlow,
    )


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
