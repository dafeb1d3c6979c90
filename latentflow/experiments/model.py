"""The model of the experiments on 28 x 28 images."""

from __future__ import annotations

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    HJResidual,
    JointBound,
    MarginalBound,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    NonPositiveForce,
    PotentialBank,
)
from latentflow.experiments.configuration import ModelConfig

IMAGE = (3, 28, 28)


def build_model(config: ModelConfig, fields: int) -> FlowVAE:
    """Build the flow-factorised VAE that a configuration describes.

    Args:
        config: The configuration.
        fields: The number of transformations.

    Returns:
        The model, with freshly initialised weights from torch's global source of randomness.
    """
    potentials = [MLPPotential(config.dim, config.hidden) for _ in range(fields)]
    return FlowVAE(
        encoder=MLPEncoder(IMAGE, config.dim, (config.width, config.width)),
        decoder=MLPDecoder(config.dim, IMAGE, (config.width, config.width)),
        bank=PotentialBank(potentials),
        prior=DiffusionPrior(config.dim, fields),
        residual=HJResidual(NonPositiveForce(config.dim, config.hidden) if config.force else None),
        bound=JointBound() if config.bound == "joint" else MarginalBound(),
        residual_weight=config.residual_weight,
    )
