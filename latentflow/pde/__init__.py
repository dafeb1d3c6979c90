"""Residuals of partial differential equations on potentials."""

from latentflow.pde.force import NonPositiveForce as NonPositiveForce
from latentflow.pde.hamilton_jacobi import HJResidual as HJResidual
from latentflow.pde.residual import PDEResidual as PDEResidual
