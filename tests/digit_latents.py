"""Models whose latent is the digits of an image, so that what any flow does to an image is known."""

from pathlib import Path

import numpy as np
import torch
from torch.distributions import Independent, Normal

from latentflow import DiffusionPrior, FlowVAE, FunctionPotential, PotentialBank, PotentialFlow, QuadraticPotential
from latentflow.vae import GaussianLikelihood
from latentflow_experiments.data import FactorSequences, Family
from latentflow_experiments.data.factors import Factor
from latentflow_experiments.data.frames import FactorGrid

SIZES = (3, 6, 5, 6)
FACTORS = tuple(Factor(name, size) for name, size in zip(("kind", "x", "y", "hue"), SIZES, strict=True))
FAMILY = Family("tiny", "Tiny", FACTORS, (3, 1, 4), "tiny", "", "")


class Digits:
    """A store of images of which every pixel holds one digit of the index."""

    synthetic, path, shape = None, Path("digits"), (3, 1, 4)

    def __init__(self):
        self.digits = tuple(tuple(range(size)) for size in SIZES)
        self.grid = FactorGrid(FAMILY.grid.names, SIZES)

    def read(self, indices):
        digits = self.grid.decode(indices)
        return np.broadcast_to(digits[:, None, :, None], (len(indices), 1, 4, 3)).astype(np.uint8)

    def sha256(self):
        return "0" * 64


NAMES = ("x", "y", "hue")


def factors():
    return FactorSequences(Digits(), FAMILY, "train", NAMES)


def model(potentials, dynamics=PotentialFlow, decode=lambda z: z):
    """The latent is the digits of the image; the decoder is linear."""
    return FlowVAE(
        encoder=lambda x: Independent(Normal(255 * x[:, 0, 0], 1.0), 1),
        decoder=lambda z: decode(z)[:, None, None].expand(-1, 3, 1, -1) / 255,
        bank=PotentialBank(potentials),
        prior=DiffusionPrior(4, fields=len(potentials)),
        residual=None,
        likelihood=GaussianLikelihood(),
        dynamics=dynamics,
    )


def translation(coordinate, speed=1.0):
    return QuadraticPotential(4, vector=speed * torch.eye(4)[coordinate])


def clocked(coordinate):
    """A translation by ``t`` at time ``t``."""
    return FunctionPotential(lambda z, t: t * z[..., coordinate])
