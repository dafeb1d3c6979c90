"""No points at all: every method gives results of the right shape, or says that it needs points."""

import pytest
import torch
from closed_forms import net, normal
from torch.distributions import MultivariateNormal

from latentflow import ODE, HJResidual, Hutchinson, ICNNPotential, PotentialFlow, SlogDet, gaussian_wasserstein2
from latentflow.flow import Euler, FirstOrder, FixedPoint, HopfLaxFlow, LogDetSeries, Newton
from latentflow.transport import (
    barycentric_map,
    benamou_brenier_action,
    transport_certificate,
    transport_defect,
    wasserstein2,
    wasserstein2_1d,
)

shapes = pytest.mark.parametrize("batch", [(0,), (3, 0), (0, 0)])
base = MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
SCHEMES = [
    Euler(),
    Euler(SlogDet(eigenvalues=True)),
    Euler(FirstOrder()),
    Euler(LogDetSeries()),
    Euler(None),
    ODE(),
    ODE("rk4", options={"step_size": 0.1}),
    ODE("scipy_solver", adjoint=True),
    ODE(divergence=Hutchinson()),
]


@shapes
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("make", [PotentialFlow, HopfLaxFlow])
def test_flows_of_no_points(batch, scheme, make):
    """Catches a reduction over nothing, in a flow, its inverse, its density or its samples."""
    flow, z = make(ICNNPotential(2, (4,)).double()), torch.zeros(*batch, 2, dtype=torch.float64)
    trajectory = flow.follow(z, [0.0, 0.5, 1.0], scheme, HJResidual())
    assert trajectory.z.shape == (3, *batch, 2)
    assert trajectory.cost.shape == trajectory.action.shape == (3, *batch)
    assert (trajectory.log_det is None) == (scheme.density is None)
    assert flow.inverse(trajectory).z.shape == (3, *batch, 2)
    assert flow.velocity(z, 0.0).shape == z.shape
    law = flow.push_forward(base, [0.0, 1.0], scheme)
    assert law.rsample(batch).shape == z.shape
    if scheme.density is not None:
        assert law.log_prob(z).shape == batch
        assert law.rsample_and_log_prob(batch)[1].shape == batch
    with pytest.raises(ValueError, match="value: expected shape"):
        law.log_prob(torch.zeros(*batch, 3, dtype=torch.float64))


@shapes
def test_transport_of_no_points(batch):
    """Catches the NaN of a mean over nothing."""
    z = torch.zeros(*batch, 2, dtype=torch.float64)
    trajectory = PotentialFlow(net(2, 0)).rollout(z, 2)
    for call in (benamou_brenier_action, transport_certificate):
        with pytest.raises(ValueError, match="trajectory: expected samples, got points of shape"):
            call(trajectory)
    for distance, points in ((wasserstein2, z), (barycentric_map, z), (wasserstein2_1d, z[..., 0])):
        with pytest.raises(ValueError, match=r"x: expected shape .* with points"):
            distance(points, points)
    assert transport_defect(net(2, 0), z, 0.0).shape == batch
    covariances = torch.eye(2, dtype=torch.float64).expand(*batch, 2, 2)
    assert gaussian_wasserstein2(z, covariances, z, covariances).shape == batch
    some = torch.zeros(0, 4, 2, dtype=torch.float64)  # no clouds, of four points each
    assert wasserstein2(some, some).shape == (0,)
    for solver in (Newton(), FixedPoint()):
        assert solver.solve(net(2, 0), z, 0.0, 1.0).shape == z.shape
    assert normal(0, *batch, 2).shape == z.shape
