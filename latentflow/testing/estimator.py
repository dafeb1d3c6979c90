r"""Check that an estimator of the Laplacian is unbiased."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from latentflow.calculus import Estimator, laplacian
from latentflow.testing.comparison import explained


def check_estimator(estimator: Estimator, dim: int = 5, draws: int = 4000, seed: int = 0) -> None:
    r"""Check that the mean of many estimates of a Laplacian is the Laplacian.

    The field is :math:`u(z) = \tfrac12 z^\top A z + \tfrac1{12} \sum_i z_i^4` with a full positive ``A``, at one point.
    A stochastic estimator has to come within five standard errors of :math:`\operatorname{tr} A + |z|^2`, and its
    estimates must not be all the same; any other has to be exact. What ``estimator.fixed`` draws has to stay fixed.

    Args:
        estimator: The estimator. Its own generator advances; without one, torch's global generator is seeded meanwhile
            and restored.
        dim: The number of coordinates.
        draws: The number of estimates.
        seed: The seed of the field and of torch's global generator.

    Raises:
        AssertionError: If the estimator breaks its contract.

    Example:
        >>> from latentflow import Hutchinson
        >>> check_estimator(Hutchinson(probes=2))
        >>> class Short(Hutchinson):
        ...     def draw(self, z):
        ...         return 0.9 * super().draw(z)
        >>> try:
        ...     check_estimator(Short())
        ... except AssertionError as error:
        ...     assert "standard errors" in str(error)
    """
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    matrix, point = root @ root.mT, torch.randn(dim, generator=generator, dtype=torch.float64)

    def field(z: Tensor, t: Tensor) -> Tensor:  # noqa: ARG001 - a field of the point and the time
        return ((z @ matrix) * z).sum(-1) / 2 + z.pow(4).sum(-1) / 12

    exact = float(matrix.trace() + point.square().sum())
    z = point.repeat(draws, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with explained("laplacian", "many estimates"):
            estimates = laplacian(field, z, 0.0, estimator)
            fixed = estimator.fixed(z)
            first, second = laplacian(field, z, 0.0, fixed), laplacian(field, z, 0.0, fixed)
    if estimates.shape != (draws,):
        raise AssertionError(f"laplacian: expected shape ({draws},), got {tuple(estimates.shape)}")
    if not torch.equal(first, second):
        raise AssertionError("fixed: expected the same noise in every evaluation, got other estimates")
    for name, found in (("laplacian", estimates), ("laplacian of fixed noise", first)):
        mean, error = float(found.mean()), float(found.std()) / math.sqrt(draws)
        roundoff = 1e-12 * (1 + abs(exact))
        if not estimator.stochastic and float((found - exact).abs().max()) > roundoff:
            raise AssertionError(f"{name}: expected the exact value {exact:.6g}, got {mean:.6g}")
        if estimator.stochastic and error <= roundoff:
            raise AssertionError(
                f"{name}: expected noise of its own for every sample, got the same estimate everywhere"
            )
        if abs(mean - exact) > 5 * error + roundoff:
            raise AssertionError(
                f"{name}: expected a mean of {exact:.6g}, got {mean:.6g}, {abs(mean - exact) / error:.3g} standard "
                f"errors of {error:.2g} away in {draws} estimates"
            )
