"""Checks that users run on potentials and estimators of their own."""

from latentflow.testing.flow import check_flow as check_flow
from latentflow.testing.potential import check_estimator as check_estimator
from latentflow.testing.potential import check_potential as check_potential
from latentflow.testing.prior import check_prior as check_prior
from latentflow.testing.residual import check_residual as check_residual
