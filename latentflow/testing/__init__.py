"""Checks that users run on potentials, estimators, residuals, flows and priors of their own."""

from latentflow.testing.flow import check_flow as check_flow
from latentflow.testing.potential import check_estimator as check_estimator
from latentflow.testing.potential import check_potential as check_potential
from latentflow.testing.prior import check_prior as check_prior
from latentflow.testing.residual import check_residual as check_residual

__all__ = [
    "check_estimator",
    "check_flow",
    "check_potential",
    "check_prior",
    "check_residual",
]
