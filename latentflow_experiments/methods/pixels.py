"""The distributions of pixels that a run can choose."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor
from torch.distributions import Distribution, constraints

from latentflow.vae import (
    BernoulliLikelihood,
    ContinuousBernoulliLikelihood,
    GaussianLikelihood,
    LaplaceLikelihood,
    Likelihood,
)

EARLY = 0.25
"""The share of a training in which pixels are Bernoulli before they are Laplace variables."""

FIRST, LAST = 0.5, 0.05
"""The scale of a pixel when it becomes a Laplace variable, and at the end of the training."""


class LateLaplaceLikelihood:
    r"""Pixels as Bernoulli variables in the first part of a training, and as ever sharper Laplace variables after it.

    Both take the decoder's output as logits of the picture. The Bernoulli cross-entropy learns colors and outlines
    quickly; the Laplace density then replaces the mean of a pixel by its median, which sharpens the edges and is what
    the equivariance error measures. Its scale falls from 0.5 to 0.05 by equal factors, since a sudden change costs more
    steps than it gains. Every measurement is of the last density.

    Attributes:
        scale: The scale of a pixel; None for a Bernoulli variable.

    Example:
        >>> import torch
        >>> likelihood, decoded = LateLaplaceLikelihood(), torch.randn(2, 1, 4, 4)
        >>> likelihood.anneal(spent=0.0)
        >>> torch.testing.assert_close(likelihood(decoded).mean, decoded.sigmoid())
        >>> likelihood.anneal(spent=0.7)
        >>> assert 0.05 < likelihood.scale < 0.5
    """

    support: ClassVar[constraints.Constraint] = constraints.unit_interval

    def __init__(self) -> None:
        self.scale: float | None = LAST

    def anneal(self, spent: float) -> None:
        """Set the density to that of a share of the training."""
        late = (spent - EARLY) / (1 - EARLY)
        self.scale = None if late < 0 else FIRST * (LAST / FIRST) ** min(late, 1.0)

    def __call__(self, decoded: Tensor) -> Distribution:
        """Build the distribution from logits of shape ``(*batch, channels, height, width)``."""
        likelihood = BernoulliLikelihood() if self.scale is None else LaplaceLikelihood(self.scale)
        return likelihood(decoded)


LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "bernoulli": BernoulliLikelihood,
    "continuous-bernoulli": ContinuousBernoulliLikelihood,
    "gaussian": GaussianLikelihood,
    "laplace": LateLaplaceLikelihood,
}
"""The likelihoods, by their names on the command line."""
