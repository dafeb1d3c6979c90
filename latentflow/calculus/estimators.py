r"""Ways to obtain the Laplacian of a field: exactly, or by random probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from latentflow.calculus.jets import Jet, JetRequest


class Estimator(Protocol):
    """Asks a derivative pass for what it needs and reads the Laplacian off the jet that comes back."""

    @property
    def stochastic(self) -> bool:
        """Whether the result is random; a reported likelihood bound refuses such an estimate."""

    def request(self, z: Tensor) -> JetRequest:
        """Say which second derivatives are needed at the points ``z``, of shape ``(*batch, dim)``."""

    def laplacian(self, jet: Jet) -> Tensor:
        """Read the Laplacian, of shape ``(*batch,)``, off the jet that answers the request."""


@dataclass(frozen=True)
class Exact:
    r"""The exact Laplacian :math:`\Delta u = \operatorname{tr} \nabla^2 u`.

    Structured potentials (MLP, quadratic, their sums and banks) use their own rule; any other callable is
    differentiated ``dim`` times by forward over reverse mode.

    Example:
        >>> import torch
        >>> from latentflow import laplacian
        >>> z = torch.randn(4, 3, dtype=torch.float64)
        >>> value = laplacian(lambda z, t: z.pow(2).sum(-1), z, 0.0, Exact())
        >>> torch.testing.assert_close(value, torch.full((4,), 6.0, dtype=torch.float64))
    """

    stochastic: ClassVar[bool] = False

    def request(self, z: Tensor) -> JetRequest:  # noqa: ARG002 - the protocol's signature
        """Ask for the exact trace."""
        return JetRequest(laplacian=True)

    def laplacian(self, jet: Jet) -> Tensor:
        """Return the trace that the pass computed."""
        if jet.laplacian is None:
            raise ValueError("jet: expected a jet with a Laplacian, got one without")
        return jet.laplacian


@dataclass(frozen=True)
class Hutchinson:
    r"""Hutchinson's estimate of the Laplacian, :math:`\frac1m \sum_i v_i^\top H v_i` with :math:`E\,vv^\top = I`.

    It is unbiased. The variance of one probe is :math:`2(\|H\|_F^2 - \sum_i H_{ii}^2)` for Rademacher noise and
    :math:`2\|H\|_F^2` for Gaussian noise; ``m`` independent probes divide it by ``m``. An unbiased Laplacian
    does not make an unbiased :math:`\log|1 + \Delta u|`, nor an unbiased importance weight: use it to train only.

    Args:
        probes: The number ``m`` of probes for each point.
        noise: The distribution of the entries of a probe.
        generator: The source of randomness, or None for torch's global one.

    Raises:
        ValueError: If ``probes`` is not a positive integer, or ``noise`` is unknown.

    References:
        | A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines
          (Hutchinson, 1989)

    Example:
        >>> import torch
        >>> from latentflow import laplacian
        >>> z = torch.randn(4, 3, dtype=torch.float64)
        >>> value = laplacian(lambda z, t: z.pow(2).sum(-1), z, 0.0, Hutchinson(probes=2))
        >>> torch.testing.assert_close(value, torch.full((4,), 6.0, dtype=torch.float64))  # exact: H is diagonal
    """

    probes: int = 1
    noise: Literal["rademacher", "gaussian"] = "rademacher"
    generator: torch.Generator | None = None

    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.probes, int) or self.probes < 1:
            raise ValueError(f"probes: expected a positive integer, got {self.probes!r}")
        if self.noise not in ("rademacher", "gaussian"):
            raise ValueError(f"noise: expected 'rademacher' or 'gaussian', got {self.noise!r}")

    def draw(self, z: Tensor) -> Tensor:
        """Draw probes for the points ``z``.

        Args:
            z: The points, of shape ``(*batch, dim)``.

        Returns:
            The probes, of shape ``(*batch, probes, dim)``, in the dtype and on the device of ``z``.
        """
        shape = (*z.shape[:-1], self.probes, z.shape[-1])
        if self.noise == "gaussian":
            return torch.randn(shape, generator=self.generator, dtype=z.dtype, device=z.device)
        bits = torch.randint(0, 2, shape, generator=self.generator, dtype=z.dtype, device=z.device)
        return 2 * bits - 1

    def request(self, z: Tensor) -> JetRequest:
        """Ask for the quadratic forms of freshly drawn probes."""
        return JetRequest(probes=self.draw(z))

    def laplacian(self, jet: Jet) -> Tensor:
        """Average the quadratic forms over the probes."""
        if jet.quadratic is None:
            raise ValueError("jet: expected a jet with quadratic forms of probes, got one without")
        return jet.quadratic.mean(-1)
