"""Optimal transport: distances, closed forms, and certificates of flows."""

from latentflow.transport.action import benamou_brenier_action as benamou_brenier_action
from latentflow.transport.action import transport_defect as transport_defect
from latentflow.transport.certificate import Certificate as Certificate
from latentflow.transport.certificate import transport_certificate as transport_certificate
from latentflow.transport.gaussian import GaussianTransportPotential as GaussianTransportPotential
from latentflow.transport.gaussian import gaussian_transport_potential as gaussian_transport_potential
from latentflow.transport.gaussian import gaussian_wasserstein2 as gaussian_wasserstein2
from latentflow.transport.interpolation import mccann_interpolation as mccann_interpolation
from latentflow.transport.line import wasserstein2_1d as wasserstein2_1d
from latentflow.transport.sinkhorn import BlurWarning as BlurWarning
from latentflow.transport.sinkhorn import barycentric_map as barycentric_map
from latentflow.transport.sinkhorn import wasserstein2 as wasserstein2
