r"""A stochastic Laplacian with its error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from latentflow.calculus.arguments import Field, Time, check_points
from latentflow.calculus.estimators import Estimator
from latentflow.calculus.evaluation import evaluate_jet
from latentflow.calculus.jets import Jet
from latentflow.calculus.precision import outside_autocast


class SamplingEstimator(Estimator, Protocol):
    """An estimator that knows its own error."""

    def standard_error(self, jet: Jet) -> Tensor:
        """Read the standard error, of shape ``(*batch,)``, off the jet that answers the request."""


@dataclass(frozen=True)
class LaplacianEstimate:
    """An estimate of the Laplacian.

    Attributes:
        value: The estimate, of shape ``(*batch,)``.
        standard_error: Its standard error, of shape ``(*batch,)``, itself an estimate from the spread of the probes.
    """

    value: Tensor
    standard_error: Tensor


@outside_autocast
def estimate_laplacian(u: Field, z: Tensor, t: Time, estimator: SamplingEstimator) -> LaplacianEstimate:
    r"""Estimate :math:`\Delta_z u(z, t)` by random probes, with the standard error.

    Args:
        u: The field, see :func:`latentflow.jet`.
        z: The points, of shape ``(*batch, dim)``.
        t: The times: a number, ``()`` or ``(*batch,)``.
        estimator: ``Hutchinson(probes)`` or ``HutchPlusPlus(probes)``, with at least two random forms to compare: two
            probes of Hutchinson, six products of Hutch++.

    Returns:
        The estimate and its error, one for each point.

    Raises:
        TypeError: See :func:`latentflow.jet`.
        ValueError: If there are too few probes; see also :func:`latentflow.jet`.

    Example:
        >>> import torch
        >>> from latentflow import Hutchinson
        >>> z = torch.randn(4, 3, dtype=torch.float64)
        >>> diagonal = estimate_laplacian(lambda z, t: z.pow(2).sum(-1), z, 0.0, Hutchinson(probes=8))
        >>> assert diagonal.standard_error.max() < 1e-12  # Rademacher probes are exact there
    """
    check_points(z)
    jet = evaluate_jet(u, z, t, estimator.request(u, z, t))
    return LaplacianEstimate(estimator.laplacian(jet), estimator.standard_error(jet))
