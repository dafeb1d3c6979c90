"""The check of estimators passes the library's own and catches planted biases."""

from dataclasses import dataclass

import pytest
import torch

from latentflow import Derivative, Exact, Hutchinson
from latentflow.calculus import FixedProbes, HutchPlusPlus, JetRequest
from latentflow.testing import check_estimator


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "estimator",
    [
        Exact(),
        Hutchinson(),
        Hutchinson(probes=3, noise="gaussian"),
        Hutchinson(generator=seeded(1)),
        HutchPlusPlus(probes=3),
        HutchPlusPlus(probes=6, noise="gaussian"),
    ],
)
def test_unbiased_estimators_pass(estimator):
    """Catches a false alarm."""
    check_estimator(estimator)


class Mean(Hutchinson):
    """Divides by one probe too many."""

    def laplacian(self, jet):
        return jet.quadratic.sum(-1) / (jet.quadratic.shape[-1] + 1)


class Uniform(Hutchinson):
    """Noise of variance 1/3."""

    def draw(self, z):
        return 2 * torch.rand(*z.shape[:-1], 1, z.shape[-1], dtype=z.dtype) - 1


class Shared(Hutchinson):
    """One draw for the whole batch."""

    def draw(self, z):
        return super().draw(z[:1]).expand(*z.shape[:-1], self.probes, z.shape[-1])


class Fresh(Hutchinson):
    """Fixed noise that is drawn again each time."""

    def fixed(self, z):
        return self


class FixedWrongly(Hutchinson):
    """Fixed noise of another size."""

    def fixed(self, z):
        return FixedProbes(1.1 * self.draw(z))


@dataclass(frozen=True)
class Half(Exact):
    """Not random, and wrong."""

    def laplacian(self, jet):
        return super().laplacian(jet) / 2


class Column(Exact):
    """One more dimension."""

    def laplacian(self, jet):
        return super().laplacian(jet).unsqueeze(-1)


class ByHessian(Exact):
    """The trace of a Hessian that its own request asks for."""

    def request(self, u, z, t):
        return JetRequest(Derivative.HESSIAN)

    def laplacian(self, jet):
        return jet.hessian.diagonal(dim1=-2, dim2=-1).sum(-1)


class Unasked(ByHessian):
    """Reads what it did not request."""

    def request(self, u, z, t):
        return JetRequest(Derivative.LAPLACIAN)


class FixedForIntegration(Hutchinson):
    """Fixed noise that is right for the points it was drawn for, and half as large when it is asked a second time."""

    def fixed(self, z):
        object.__setattr__(self, "probes", self.probes + 1)
        return FixedProbes(self.draw(z) if self.probes == 2 else 0.7 * self.draw(z))


def test_an_estimator_may_request_what_it_reads():
    """Catches a jet that overwrites the request of its estimator: a Hessian that is gone when the trace is taken."""
    check_estimator(ByHessian())


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Mean(probes=4), r"^laplacian: expected a mean of .* standard errors of .* away in 4000 estimates"),
        (Uniform(), r"^laplacian: expected a mean of"),
        (Shared(), "^laplacian: expected noise of its own for every sample"),
        (Fresh(), "^fixed: expected the same noise in every evaluation"),
        (FixedWrongly(), "^laplacian of fixed noise: expected a mean of"),
        (Half(), "^laplacian: expected the exact value"),
        (Unasked(), r"^laplacian, many estimates: .*hessian was not requested"),
        (FixedForIntegration(), "^log_det of integrate: expected a mean of"),
        (Column(), r"^laplacian: expected shape \(4000,\), got \(4000, 1\)"),
    ],
)
def test_planted_bugs_are_caught(estimator, message):
    """Catches a check that looks at nothing: each kind of bug has its own message."""
    with pytest.raises(AssertionError, match=message):
        check_estimator(estimator)


def test_the_global_generator_is_restored():
    """Catches a check that seeds the caller's randomness."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_estimator(Hutchinson())
    assert torch.equal(torch.rand(3), expected)
