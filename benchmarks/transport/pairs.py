r"""Pairs of distributions with a known optimal map between them.

References:
    | Do Neural Optimal Transport Solvers Work? A Continuous Wasserstein-2 Benchmark (Korotin et al., 2021)
    | https://arxiv.org/abs/2106.01954
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from latentflow import gaussian_transport_potential

CURVATURE = 0.01
"""The curvature of the bowl in each of the two networks of a potential."""


class KnownPair(Protocol):
    """A pair whose optimal map is known."""

    @property
    def dim(self) -> int:
        """The number of coordinates."""

    @property
    def variance(self) -> float:
        """The total variance of the target."""

    def source(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw points of the source, of shape ``(count, dim)``."""

    def target(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw points of the target, of shape ``(count, dim)``."""

    def map(self, x: Tensor) -> Tensor:
        """Map points of the source ``(count, dim)`` by the optimal map."""


@dataclass(frozen=True)
class MixturePair:
    r"""A mixture of three components, and its image under the gradient of a convex potential.

    The points are :math:`x = \sigma A_i \varepsilon + m_i` with a component ``i`` drawn by lot and a standard normal
    :math:`\varepsilon`. The map is :math:`T = \nabla \psi` with
    :math:`\psi(x) = s\,(f_1(x) + f_2(x) + \langle b, x \rangle)` and two convex networks

    .. math::
        h_0 = q_0(x), \qquad h_l = \operatorname{celu}(W_l h_{l-1} + q_l(x)), \qquad
        f = w^\top h_2 + 0.005\,|x|^2, \qquad q_l(x) = (A_l^\top x)^2 + B_l x + c_l .

    Attributes:
        arrays: The arrays of the file, in float32.
    """

    arrays: Mapping[str, Tensor]

    @staticmethod
    def load(path: Path) -> MixturePair:
        """Load a pair from its file."""
        with np.load(path) as file:
            return MixturePair({name: torch.from_numpy(file[name]) for name in file.files})

    @property
    def dim(self) -> int:
        """The number of coordinates."""
        return self.arrays["input_means"].shape[1]

    @property
    def variance(self) -> float:
        """The total variance of the target."""
        return float(self.arrays["output_total_variance"])

    def source(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw points of the mixture, of shape ``(count, dim)``."""
        maps = self.arrays["input_maps"] * self.arrays["input_std"]
        return draw_mixture(count, maps, self.arrays["input_means"], generator)

    def target(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw images of points of the mixture, of shape ``(count, dim)``."""
        return self.map(self.source(count, generator))

    def map(self, x: Tensor) -> Tensor:
        """Map points of the source ``(count, dim)`` by the optimal map."""
        with torch.enable_grad():
            points = x.detach().requires_grad_()
            (images,) = torch.autograd.grad(self._potential(points).sum(), points)
        return images.detach()

    def _potential(self, x: Tensor) -> Tensor:
        arrays = self.arrays
        total = x @ arrays["output_shift"]
        for name in ("icnn1", "icnn2"):
            hidden = self._quadratic(name, 0, x)
            for layer in (1, 2):
                hidden = F.celu(hidden @ arrays[f"{name}.convex.{layer - 1}"].mT + self._quadratic(name, layer, x))
            total = total + (hidden @ arrays[f"{name}.final"].mT).squeeze(-1) + CURVATURE / 2 * x.square().sum(-1)
        return arrays["output_scale"] * total

    def _quadratic(self, name: str, layer: int, x: Tensor) -> Tensor:
        square, weight, bias = (self.arrays[f"{name}.{part}.{layer}"] for part in ("quadratic", "linear", "bias"))
        return (x @ square).square() + x @ weight.mT + bias


@dataclass(frozen=True)
class ClusterPair:
    r"""A mixture of three Gaussians, and its image that is drawn towards 40 points :math:`a_j`.

    The map is the gradient of a convex function,

    .. math::
        \psi(x) = 0.1\,|x|^2 + \tau \log \sum_j e^{\langle a_j, x \rangle / \tau}, \qquad
        T(x) = 0.2\,x + \sum_j a_j \operatorname{softmax}_j \langle a_j, x \rangle / \tau, \qquad
        \tau = 0.3 \sqrt{\dim} .

    Attributes:
        means: The means of the components, of shape ``(3, dim)``.
        maps: The matrices that make their noise, of shape ``(3, dim, dim)``.
        points: The points :math:`a_j`, of shape ``(40, dim)``.
        variance: The total variance of the target, from 2^16 points.
    """

    means: Tensor
    maps: Tensor
    points: Tensor
    variance: float

    @staticmethod
    def draw(dim: int, seed: int) -> ClusterPair:
        """Draw a pair: means and points are standard normal, and the noise has the mean variance 1/4."""
        generator = torch.Generator().manual_seed(seed)
        means, points = torch.randn(3, dim, generator=generator), torch.randn(40, dim, generator=generator)
        pair = ClusterPair(means, torch.randn(3, dim, dim, generator=generator) / (2 * dim**0.5), points, math.nan)
        return replace(pair, variance=float(pair.target(2**16, generator).var(0).sum()))

    @property
    def dim(self) -> int:
        """The number of coordinates."""
        return self.means.shape[1]

    def source(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw points of the mixture, of shape ``(count, dim)``."""
        return draw_mixture(count, self.maps, self.means, generator)

    def target(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw images of points of the mixture, of shape ``(count, dim)``."""
        return self.map(self.source(count, generator))

    def map(self, x: Tensor) -> Tensor:
        """Map points of the source ``(count, dim)`` by the optimal map."""
        return 0.2 * x + (x @ self.points.mT / (0.3 * self.dim**0.5)).softmax(-1) @ self.points


@dataclass(frozen=True)
class GaussianPair:
    r"""Two Gaussians, whose covariances have eigenvalues from 1/2 to 2 along axes drawn by lot.

    The eigenvalues are :math:`\tfrac12 \cdot 4^{i / (\dim - 1)}`, and the means standard normal.

    Attributes:
        means: The means, of shape ``(2, dim)``.
        roots: The symmetric roots of the covariances, of shape ``(2, dim, dim)``.

    References:
        | Wasserstein-2 Generative Networks (Korotin et al., 2021), section 5.1
        | https://arxiv.org/abs/1909.13082
    """

    means: Tensor
    roots: Tensor

    @staticmethod
    def draw(dim: int, seed: int) -> GaussianPair:
        """Draw a pair."""
        generator = torch.Generator().manual_seed(seed)
        values = 4.0 ** torch.linspace(0, 1, dim, dtype=torch.float64) / 2
        axes = torch.linalg.qr(torch.randn(2, dim, dim, generator=generator, dtype=torch.float64)).Q
        return GaussianPair(torch.randn(2, dim, generator=generator), ((axes * values.sqrt()) @ axes.mT).float())

    @property
    def dim(self) -> int:
        """The number of coordinates."""
        return self.means.shape[1]

    @property
    def variance(self) -> float:
        """The total variance of the target."""
        return float(self.roots[1].square().sum())

    def source(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw points of the first Gaussian, of shape ``(count, dim)``."""
        return self.means[0] + torch.randn(count, self.dim, generator=generator) @ self.roots[0]

    def target(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw points of the second Gaussian, of shape ``(count, dim)``."""
        return self.means[1] + torch.randn(count, self.dim, generator=generator) @ self.roots[1]

    def map(self, x: Tensor) -> Tensor:
        """Map points of the source ``(count, dim)`` by the optimal map."""
        S0, S1 = self.roots.double() @ self.roots.double()
        m0, m1 = self.means.double()
        return gaussian_transport_potential(m0, S0, m1, S1).transport(x.double()).float()


def draw_mixture(count: int, maps: Tensor, means: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw points ``(count, dim)`` of a mixture of Gaussians with even weights.

    Args:
        count: The number of points.
        maps: The matrices that make the noise of a component from a standard normal, of shape ``(k, dim, dim)``.
        means: The means, of shape ``(k, dim)``.
        generator: The source of randomness.

    Returns:
        The points.
    """
    component = torch.randint(len(means), (count,), generator=generator)
    points = torch.randn(count, means.shape[1], generator=generator)
    for i, (matrix, mean) in enumerate(zip(maps, means, strict=True)):
        own = component == i
        points[own] = points[own] @ matrix.mT + mean
    return points
