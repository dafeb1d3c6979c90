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

EARLY = 0.5
"""The share of a training in which pixels are Bernoulli before they are Laplace variables."""


class LateLaplaceLikelihood:
    r"""Pixels as Bernoulli variables in the first half of a training, and as Laplace variables after it.

    Both take the decoder's output as logits of the picture. The Bernoulli cross-entropy learns colors and outlines
    quickly; the Laplace density then replaces the mean of a pixel by its median, which sharpens the edges and is
    what the equivariance error measures. Every measurement is of the Laplace density.

    Attributes:
        early: Whether pixels are Bernoulli variables, as training sets it before each step.

    Example:
        >>> import torch
        >>> likelihood, decoded = LateLaplaceLikelihood(), torch.randn(2, 1, 4, 4)
        >>> torch.testing.assert_close(likelihood(decoded).mean, decoded.sigmoid())
        >>> likelihood.early = True
        >>> torch.testing.assert_close(likelihood(decoded).mean, decoded.sigmoid())
    """

    support: ClassVar[constraints.Constraint] = constraints.unit_interval

    def __init__(self) -> None:
        self.early = False
        self._bernoulli = BernoulliLikelihood()
        self._laplace = LaplaceLikelihood()

    def __call__(self, decoded: Tensor) -> Distribution:
        """Build the distribution from logits of shape ``(*batch, channels, height, width)``."""
        return self._bernoulli(decoded) if self.early else self._laplace(decoded)


LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "bernoulli": BernoulliLikelihood,
    "continuous-bernoulli": ContinuousBernoulliLikelihood,
    "gaussian": GaussianLikelihood,
    "laplace": LateLaplaceLikelihood,
}
"""The likelihoods, by their names on the command line."""
