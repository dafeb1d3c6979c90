"""Optimal transport: distances, closed forms, and certificates of flows."""

from latentflow.transport.certificate import Certificate as Certificate
from latentflow.transport.certificate import benamou_brenier_action as benamou_brenier_action
from latentflow.transport.certificate import transport_certificate as transport_certificate
from latentflow.transport.certificate import transport_defect as transport_defect
from latentflow.transport.coordinates import Coordinates as Coordinates
from latentflow.transport.coordinates import MatchedPotential as MatchedPotential
from latentflow.transport.coupling import Coupling as Coupling
from latentflow.transport.coupling import Independent as Independent
from latentflow.transport.coupling import MinibatchAssignment as MinibatchAssignment
from latentflow.transport.dual import DualPotential as DualPotential
from latentflow.transport.fit import fit_transport as fit_transport
from latentflow.transport.gaussian import GaussianTransportPotential as GaussianTransportPotential
from latentflow.transport.gaussian import gaussian_transport_potential as gaussian_transport_potential
from latentflow.transport.gaussian import gaussian_wasserstein2 as gaussian_wasserstein2
from latentflow.transport.gaussian import mccann_interpolation as mccann_interpolation
from latentflow.transport.optimal_flow_matching import OptimalFlowMatching as OptimalFlowMatching
from latentflow.transport.pair_certificate import PairCertificate as PairCertificate
from latentflow.transport.pair_certificate import pair_certificate as pair_certificate
from latentflow.transport.reflow import Reflow as Reflow
from latentflow.transport.sinkhorn import ConvergenceWarning as ConvergenceWarning
from latentflow.transport.training import Training as Training
from latentflow.transport.training import TransportMethod as TransportMethod
from latentflow.transport.transport_bank import TransportBank as TransportBank
from latentflow.transport.transport_map import TransportMap as TransportMap
from latentflow.transport.transport_map import Validation as Validation
from latentflow.transport.wasserstein import BlurWarning as BlurWarning
from latentflow.transport.wasserstein import barycentric_map as barycentric_map
from latentflow.transport.wasserstein import wasserstein2 as wasserstein2
from latentflow.transport.wasserstein import wasserstein2_1d as wasserstein2_1d

__all__ = [
    "BlurWarning",
    "Certificate",
    "ConvergenceWarning",
    "Coordinates",
    "Coupling",
    "DualPotential",
    "GaussianTransportPotential",
    "Independent",
    "MatchedPotential",
    "MinibatchAssignment",
    "OptimalFlowMatching",
    "PairCertificate",
    "Reflow",
    "Training",
    "TransportBank",
    "TransportMap",
    "TransportMethod",
    "Validation",
    "barycentric_map",
    "benamou_brenier_action",
    "fit_transport",
    "gaussian_transport_potential",
    "gaussian_wasserstein2",
    "mccann_interpolation",
    "pair_certificate",
    "transport_certificate",
    "transport_defect",
    "wasserstein2",
    "wasserstein2_1d",
]
