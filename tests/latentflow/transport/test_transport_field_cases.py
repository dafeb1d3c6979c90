"""Faults that strangers' cases found in transport: weightless points, unconverged maps, thin Gaussians."""

import math
import warnings

import numpy as np
import ot
import pytest
import torch
from geomloss import SamplesLoss

from latentflow import gaussian_transport_potential, gaussian_wasserstein2, wasserstein2
from latentflow.transport import BlurWarning, ConvergenceWarning, barycentric_map, wasserstein2_1d


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("far", [3.0, 1e5, 1e20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_without_weight_take_no_part(far, dtype):
    """Catches A2: padding that moves the mean and the size of a cloud, and overflows far away."""
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=dtype)
    y = torch.tensor([[0.0, 1.0], [1.0, 1.0], [far, 0.0]], dtype=dtype)
    half = torch.tensor([0.5, 0.5, 0.0], dtype=dtype)
    for weightless in (True, False):
        cloud, weights = (y, half) if weightless else (y[:2], None)
        cloud = cloud.clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            distance = wasserstein2(x, cloud, None, weights)
            images = barycentric_map(x, cloud.detach(), None, weights)
        slope = torch.autograd.grad(distance, cloud)[0]
        if weightless:
            padded = distance, images, slope
    torch.testing.assert_close(padded[0], distance.detach(), rtol=0, atol=0)
    torch.testing.assert_close(padded[1], images, rtol=0, atol=0)
    torch.testing.assert_close(padded[2][:2], slope, rtol=0, atol=0)
    assert not padded[2][2].any()
    torch.testing.assert_close(padded[0], torch.tensor(1.0, dtype=dtype))
    torch.testing.assert_close(padded[1], y[:2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("far", [-1e20, 1e20])
def test_points_without_weight_on_the_line(far):
    """Catches A2 on the line: infinity times an interval without length, on either side."""
    x, y = torch.tensor([0.0, 2.0, far]), torch.tensor([3.0, 5.0])
    half = torch.tensor([0.5, 0.5, 0.0])
    torch.testing.assert_close(wasserstein2_1d(x, y, half), torch.tensor(3.0))
    torch.testing.assert_close(wasserstein2_1d(y, x, None, half), torch.tensor(3.0))


def test_the_image_of_a_point_without_weight_is_that_of_the_map_there():
    """Catches an image of the point that took its place."""
    x, y = normal(0, 6, 2), 3 + normal(1, 5, 2)
    weights = torch.tensor([0.2] * 5 + [0.0], dtype=torch.float64)
    images = barycentric_map(x, y, weights, blur=0.2)
    torch.testing.assert_close(images[:5], barycentric_map(x[:5], y, blur=0.2), rtol=1e-9, atol=1e-9)
    near = barycentric_map(torch.cat([x[:5], x[:1] + 1e-9]), y, weights, blur=0.2)
    torch.testing.assert_close(near[5], near[0], rtol=1e-6, atol=1e-6)
    assert ((images[5] >= y.amin(0)) & (images[5] <= y.amax(0))).all()


@pytest.mark.parametrize("blur", [0.05, 0.01, 0.002])
def test_a_barycentric_map_converges_or_says_so(blur):
    """Catches A4: images far off at a small blur, without a word; against a linear program."""
    x, y = normal(0, 60, 2), normal(1, 60, 2) * torch.tensor([0.5, 1.5]).double() + 1
    cost = torch.cdist(x, y).square().numpy()
    exact = torch.as_tensor(ot.emd(np.full(60, 1 / 60), np.full(60, 1 / 60), cost) * 60) @ y
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = barycentric_map(x, y, blur=blur)
    error = (images - exact).norm(dim=-1)
    size = float((x - x.mean(0)).norm(dim=-1).max() + (y - y.mean(0)).norm(dim=-1).max())
    assert any(issubclass(one.category, ConvergenceWarning) for one in caught) or error.mean() <= 3 * blur * size


def test_the_marginal_of_a_converged_map_is_right():
    """Catches a tolerance that is not that of the plan: the mean of the images is the mean of the targets."""
    x, y = normal(2, 40, 3), 2 + normal(3, 30, 3)
    size = (y - y.mean(0)).norm(dim=-1).max()
    assert (barycentric_map(x, y, blur=0.05).mean(0) - y.mean(0)).norm() <= 2e-3 * size


@pytest.mark.parametrize("blur", [0.3, 0.1, 0.05])
def test_the_divergence_is_that_of_geomloss(blur):
    """Catches another divergence than the debiased one of the field's library, at its own slow and sure settings."""
    x, y = normal(13, 40, 2), 1 + 3 * normal(14, 30, 2)
    size = float((x - x.mean(0)).norm(dim=-1).max() + (y - y.mean(0)).norm(dim=-1).max())
    theirs = SamplesLoss("sinkhorn", p=2, blur=blur * size, scaling=0.99, debias=True)
    expected = 2 * theirs(x - x.mean(0), y - y.mean(0)) + (y.mean(0) - x.mean(0)).square().sum()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlurWarning)
        found = wasserstein2(x, y, blur=blur, scaling=0.9, squared=True)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)


def low_rank(seed, dim, rank):
    root = normal(seed, dim, rank)
    return root @ root.mT


@pytest.mark.parametrize(("first", "second"), [(2, 3), (3, 2), (1, 1), (0, 2), (0, 0), (3, 3)])
def test_thin_gaussians_have_a_distance(first, second):
    """Catches covariances of low rank that are refused; the limit of ones that are not, which is continuous."""
    m0, m1, S0, S1 = normal(4, 3), normal(5, 3), low_rank(6, 3, first), low_rank(7, 3, second)
    found = gaussian_wasserstein2(m0, S0, m1, S1, squared=True)
    for ridge in (1e-6, 1e-10):
        more = ridge * torch.eye(3).double()
        near = gaussian_wasserstein2(m0, S0 + more, m1, S1 + more, squared=True)
        torch.testing.assert_close(found, near, rtol=0, atol=20 * math.sqrt(ridge))
    torch.testing.assert_close(
        gaussian_wasserstein2(m0, S0, m0, S0, squared=True), torch.tensor(0.0).double(), atol=1e-6, rtol=0
    )


def test_the_distance_of_a_gaussian_from_a_point():
    """Catches a wrong trace: |m1 - m0|^2 + tr S0; and a gradient to the means that is lost."""
    S0, point = low_rank(8, 3, 2), normal(9, 3).requires_grad_()
    found = gaussian_wasserstein2(torch.zeros(3).double(), S0, point, torch.zeros(3, 3).double(), squared=True)
    torch.testing.assert_close(found, point.detach().square().sum() + S0.trace())
    torch.testing.assert_close(torch.autograd.grad(found, point)[0], 2 * point.detach())


def test_what_is_no_gaussian_is_refused():
    """Catches A8: a NaN mean that becomes a NaN distance, and a negative eigenvalue taken for rounding."""
    m, S = torch.zeros(2).double(), torch.eye(2).double()
    with pytest.raises(ValueError, match="m0: expected finite numbers"):
        gaussian_wasserstein2(m * math.nan, S, m, S)
    with pytest.raises(ValueError, match="S1: expected a positive semidefinite matrix"):
        gaussian_wasserstein2(m, S, m, torch.diag(torch.tensor([1.0, -1e-9])).double())
    with pytest.raises(ValueError, match="S0: expected a source that reaches all 2 directions"):
        gaussian_transport_potential(m, 0 * S, m, S)


def test_the_map_to_a_thin_gaussian():
    """Catches a target of low rank that is refused though the map exists."""
    m, S0, S1 = torch.zeros(3).double(), low_rank(10, 3, 3), low_rank(11, 3, 1)
    u = gaussian_transport_potential(m, S0, m + 1, S1)
    torch.testing.assert_close(u.matrix @ S0 @ u.matrix, S1, rtol=1e-6, atol=1e-6)
    z = normal(12, 5, 3)
    moved = z + torch.func.vmap(torch.func.grad(lambda z: u(z, torch.zeros(()).double())))(z)
    torch.testing.assert_close(moved, u.transport(z))


def test_empty_batches_of_clouds():
    """Catches an amax over no clouds."""
    x, y = torch.zeros(0, 5, 2), torch.zeros(0, 4, 2)
    assert wasserstein2(x, y).shape == (0,)
    assert barycentric_map(x, y).shape == (0, 5, 2)
    assert wasserstein2_1d(torch.zeros(0, 5), torch.zeros(0, 4)).shape == (0,)
