"""Checks that users run on potentials and estimators of their own."""

from latentflow.testing.estimator import check_estimator as check_estimator
from latentflow.testing.potential import check_potential as check_potential
