"""The model of the experiments on 28 x 28 images."""

from __future__ import annotations

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
from latentflow.experiments.data import TransformationSequences
from latentflow.experiments.pde import SOLVED, build_residual
from latentflow.priors import Prior

IMAGE = (3, 28, 28)
MIXTURE_COMPONENTS, PSEUDO_INPUTS = 10, 50
STEPS = TransformationSequences().steps
CONTRACTION = 0.98  # to what share of a length all steps together may contract it: one minus this


def build_model(config: ModelConfig, fields: int) -> FlowVAE:
    """Build the flow-factorised VAE that a configuration describes.

    Args:
        config: The configuration.
        fields: The number of transformations.

    Returns:
        The model, with freshly initialised weights from torch's global source of randomness.

    Raises:
        UsageError: If the configuration names a PDE of the user's that cannot be had.
    """
    potentials = [_build_potential(config) for _ in range(fields)]
    encoder = MLPEncoder(IMAGE, config.dim, (config.width, config.width))
    return FlowVAE(
        encoder=encoder,
        decoder=MLPDecoder(config.dim, IMAGE, (config.width, config.width)),
        bank=PotentialBank(potentials),
        prior=_build_prior(config, fields, encoder),
        residual=build_residual(config.pde, config.dim, config.hidden),
        bound=JointBound() if config.bound == "joint" else MarginalBound(),
        residual_weight=config.residual_weight,
        dynamics=HopfLaxFlow if config.pde in SOLVED else PotentialFlow,
    )


def _build_potential(config: ModelConfig) -> Potential:
    """Build one potential; a convex one, less a bowl, keeps the map of all steps the gradient of a convex function."""
    if config.pde == "convex-hj":
        return ICNNPotential(config.dim, config.hidden) + _bowl
    return MLPPotential(config.dim, config.hidden)


def _bowl(z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG001 - a field of the point and the time
    return -CONTRACTION / (2 * STEPS) * z.square().sum(-1)


def _build_prior(config: ModelConfig, fields: int, encoder: MLPEncoder) -> Prior:
    match config.prior:
        case "diffusion":
            return DiffusionPrior(config.dim, fields)
        case "gaussian":
            return GaussianPrior(config.dim)
        case "mixture":
            return MixturePrior(config.dim, MIXTURE_COMPONENTS)
        case "vamp":
            return VampPrior(encoder, torch.rand(PSEUDO_INPUTS, *IMAGE))
