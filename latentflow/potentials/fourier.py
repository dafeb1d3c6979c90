r"""A sum of plane waves with fixed random frequencies."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentflow.calculus.checks import check_count, check_generator, check_nonnegative, check_positive
from latentflow.potentials.features import IdentityEmbedding
from latentflow.potentials.layered import LayeredPotential, Layers


class FourierPotential(LayeredPotential):
    r"""A sum of plane waves with random frequencies :math:`\omega_j \sim N(0, s^2 I)` and :math:`\nu_j \sim N(0, r^2)`.

    .. math:: u(z, t) = \sum_j w_j \cos(\omega_j^\top z + \nu_j t + \phi_j)

    The amplitudes ``w`` and the phases :math:`\phi`, uniform on the circle at first, are learned; the frequencies are
    buffers. It is a network of one layer, so all its derivatives are sums over the waves, such as
    :math:`\Delta u = -\sum_j w_j |\omega_j|^2 \cos(\omega_j^\top z + \nu_j t + \phi_j)`.

    By default the amplitudes are zero and the flow starts at rest. Their gradients are not zero, and those of the
    phases follow after one step. With ``amplitude`` :math:`a`, :math:`w_j \sim N(0, 2 a^2 / n)`, and ``u`` over the
    draws has mean zero and the covariance :math:`a^2 e^{-s^2 |z - z'|^2 / 2 - r^2 (t - t')^2 / 2}`.

    :meth:`lipschitz_gradient` is :math:`|\Omega^\top \operatorname{diag}(|w|)\, \Omega|_2`, with the frequencies as
    the rows of :math:`\Omega`. It is the norm at a point where every cosine has the sign of its amplitude and the
    absolute value one. There is such a point if the frequencies are linearly independent, and for almost every draw
    there are points as close to it as one likes (Kronecker's theorem). So the bound is the supremum itself.

    Args:
        dim: The number of coordinates.
        features: The number ``n`` of waves.
        scale: The standard deviation ``s`` of the frequencies, in radians per unit of length.
        time_scale: The standard deviation ``r`` of the frequencies in time, in radians per unit of time; with 0 the
            potential does not depend on the time.
        amplitude: The standard deviation ``a`` of the potential at the start.
        generator: The source of randomness, or None for torch's global one.

    Raises:
        ValueError: If a number is out of range.

    References:
        | Random Features for Large-Scale Kernel Machines (Rahimi and Recht, 2007)
        | https://papers.nips.cc/paper/3182-random-features-for-large-scale-kernel-machines

    Example:
        >>> from latentflow import laplacian
        >>> u = FourierPotential(3, features=1, amplitude=1.0)
        >>> z, t = torch.randn(5, 3), torch.rand(5)
        >>> expected = -u.frequencies.square().sum() * u(z, t)
        >>> torch.testing.assert_close(laplacian(u, z, t), expected)
    """

    frequencies: Tensor
    time_frequencies: Tensor

    def __init__(
        self,
        dim: int,
        features: int = 64,
        scale: float = 1.0,
        time_scale: float = 1.0,
        amplitude: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(dim, IdentityEmbedding(), torch.cos)
        check_count("features", features)
        check_positive("scale", scale)
        check_nonnegative("time_scale", time_scale)
        check_nonnegative("amplitude", amplitude)
        check_generator(generator)
        self.register_buffer("frequencies", scale * torch.randn(features, dim, generator=generator))
        self.register_buffer("time_frequencies", time_scale * torch.randn(features, generator=generator))
        self.phases = nn.Parameter(2 * torch.pi * torch.rand(features, generator=generator))
        self.amplitudes = nn.Parameter(amplitude * math.sqrt(2 / features) * torch.randn(features, generator=generator))

    def layers(self) -> Layers:
        """Return the waves as one layer."""
        return Layers(
            input_weights=[self.frequencies],
            time_weights=[self.time_frequencies.unsqueeze(-1)],
            hidden_weights=[],
            biases=[self.phases],
            output=self.amplitudes,
        )
