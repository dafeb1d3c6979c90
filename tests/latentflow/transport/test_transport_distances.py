"""Distances between clouds, on the line and between Gaussians."""

import math

import hypothesis.strategies as st
import numpy as np
import ot
import pytest
import torch
from closed_forms import bures_map, generator, normal, root, spd
from hypothesis import given, settings
from scipy.linalg import sqrtm

from latentflow import gaussian_wasserstein2, wasserstein2
from latentflow.transport import BlurWarning, ConvergenceWarning, barycentric_map, mccann_interpolation, wasserstein2_1d

seeds, dims = st.integers(0, 2**31 - 100), st.integers(1, 5)


def emd2(x, y, a=None, b=None):
    """The exact squared distance by linear programming."""
    cost = (x.unsqueeze(1) - y).square().sum(-1).numpy()
    a, b = (np.full(len(p), 1 / len(p)) if w is None else w.numpy() for p, w in ((x, a), (y, b)))
    return float(ot.emd2(a, b, cost))


def simplex(seed, *shape):
    weights = torch.rand(shape, generator=generator(seed), dtype=torch.float64)
    return weights / weights.sum(-1, keepdim=True)


@pytest.mark.filterwarnings("ignore::latentflow.transport.BlurWarning")
@given(seeds, st.sampled_from([0.1, 0.9]))
@settings(max_examples=4)
def test_a_translation_is_exact_at_every_blur(seed, blur):
    """Catches a factor of two, the biased divergence, and a mean that is blurred."""
    x, shift = normal(seed, 30, 3), 1 + normal(seed + 1, 3).abs()
    found = wasserstein2(x, x + shift, simplex(seed, 30), simplex(seed, 30), blur=blur, squared=True)
    assert abs(found - shift.square().sum()) < 1e-9
    assert wasserstein2(x, x + shift, blur=blur) == pytest.approx(float(shift.norm()), abs=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 8])
@pytest.mark.parametrize("weighted", [False, True])
def test_points_within_one_percent(dim, weighted):
    """Catches a blur in the wrong units, weights that are swapped or ignored, and too few iterations."""
    x, y = normal(dim, 60, dim), 0.6 * normal(dim + 1, 80, dim) + 0.5
    a, b = (simplex(1, 60), simplex(2, 80)) if weighted else (None, None)
    assert float(wasserstein2(x, y, a, b, squared=True)) == pytest.approx(emd2(x, y, a, b), rel=0.01)
    far = 1e4 + 100 * x, 1e4 + 100 * y  # in other units, and far from the origin
    assert float(wasserstein2(*far, a, b)) == pytest.approx(100 * float(wasserstein2(x, y, a, b)), rel=1e-6)


@pytest.mark.filterwarnings("ignore::latentflow.transport.BlurWarning")
@pytest.mark.parametrize("blur", [1.0, 0.3])
def test_gaussians_on_a_grid_have_the_closed_form_of_their_divergence(blur):
    """Catches a regularisation of blur instead of blur squared, and a cost without its half."""
    grid = torch.linspace(-7, 7, 281, dtype=torch.float64)
    spread = torch.tensor([0.5, 1.1], dtype=torch.float64)
    means = torch.tensor([0.0, 0.8], dtype=torch.float64)
    a, b = ((-(grid - m).square() / (2 * s**2)).softmax(0) for m, s in zip(means, spread, strict=True))

    def entropic(p, q):  # Janati et al. (2020)
        root = math.sqrt(4 * p**2 * q**2 + blur**4)
        return p**2 + q**2 - root + blur**2 * (1 - math.log(2 * blur**2)) + blur**2 * math.log(root + blur**2)

    p, q = spread.tolist()
    expected = entropic(p, q) - entropic(p, p) / 2 - entropic(q, q) / 2 + 0.8**2
    size = 14 + float(
        (a * grid).sum().abs() + (b * grid).sum().abs()
    )  # the sum of the largest distances from the means
    z = grid.unsqueeze(-1)
    assert float(wasserstein2(z, z, a, b, blur=blur / size, scaling=0.95, squared=True)) == pytest.approx(
        expected, abs=3e-4
    )


def test_the_gradient_is_that_of_the_map():
    """Catches a missing half or weight in the gradient; n/2 times that of the square is x - T(x)."""
    x = normal(0, 40, 2).requires_grad_()
    matrix = torch.tensor([[1.6, 0.3], [0.3, 0.8]], dtype=torch.float64)
    y = (x @ matrix).detach()
    (slope,) = torch.autograd.grad(wasserstein2(x, y, squared=True), x)
    torch.testing.assert_close(20 * slope, (x - y).detach(), atol=1e-2, rtol=0)
    value = wasserstein2(x, y)
    (slope,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(40 * value.detach() * slope, (x - y).detach(), atol=1e-2, rtol=0)
    shuffled = y[torch.randperm(40, generator=generator(1))]
    torch.testing.assert_close(barycentric_map(x.detach(), shuffled, blur=3e-3), y, atol=1e-2, rtol=0)


def test_gradients_are_those_of_finite_differences():
    """Catches a gradient that misses the means, or does not reach the weights."""
    inputs = [normal(0, 6, 2), 0.5 * normal(1, 5, 2) + 1, normal(2, 6), normal(3, 5)]

    def value(x, y, a, b):
        return wasserstein2(x, y, a.softmax(0), b.softmax(0), blur=0.03, scaling=0.995, squared=True)

    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    slopes = torch.autograd.grad(value(*leaves), leaves)
    for i, slope in enumerate(slopes):
        away = normal(4 + i, *slope.shape)
        ends = [[x + (s * 1e-5 * away if k == i else 0) for k, x in enumerate(inputs)] for s in (1, -1)]
        found = (value(*ends[0]) - value(*ends[1])) / 2e-5
        assert float((slope * away).sum()) == pytest.approx(float(found), abs=0.015)


def test_equal_clouds():
    """Catches a distance of a cloud to itself, a NaN in its gradient, and a blur that decides without a word."""
    x = normal(0, 3, 20, 2).requires_grad_()
    with pytest.warns(BlurWarning, match="not small against"):
        value = wasserstein2(x, x.detach())
    value.sum().backward()
    assert value.max() < 1e-6
    assert torch.isfinite(x.grad).all()
    point = torch.zeros(4, 2, dtype=torch.float64)
    assert wasserstein2(point, point + 1).item() == pytest.approx(2**0.5)  # clouds without size


def test_heavy_points_draw_more():
    """Catches weights that the map ignores: one point goes to the mean, a pair splits as the weights say."""
    y = torch.tensor([[0.0, 0.0], [4.0, 8.0]], dtype=torch.float64)
    weights = torch.tensor([0.25, 0.75], dtype=torch.float64)
    torch.testing.assert_close(barycentric_map(y[:1], y, None, weights), weights @ y[None])
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)  # the first takes all of the light point
    expected = torch.tensor([[2.0, 4.0], [4.0, 8.0]], dtype=torch.float64)
    found = barycentric_map(x, y, None, weights, scaling=0.995)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)


FAR_AWAY = [1e5, 1e20]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", FAR_AWAY)
@pytest.mark.parametrize("line", [False, True])
def test_points_without_weight_are_left_out(dtype, far, line):
    """Catches a point of weight zero that takes part: NaN from one at 1e20 in float32, and 0.06 % off from 1e5."""
    x = normal(0, 6, 2).to(dtype).requires_grad_()
    y = (3 + normal(1, 5, 2)).to(dtype)
    a, b = simplex(2, 6).to(dtype), simplex(3, 5).to(dtype).requires_grad_()

    def padded(cloud, weights):
        pad = torch.tensor([[far, 0.0]], dtype=dtype)
        return torch.cat([cloud[:2], pad, cloud[2:], -pad]), torch.cat(
            [weights[:2], weights.new_zeros(1), weights[2:], weights.new_zeros(1)]
        )

    def distance(x, y, a, b, squared):
        if line:
            return wasserstein2_1d(x[:, 0], y[:, 0], a, b, squared=squared)
        return wasserstein2(x, y, a, b, squared=squared)

    (x_all, a_all), (y_all, b_all) = padded(x, a), padded(y, b)
    for squared in (True, False):
        expected, found = distance(x, y, a, b, squared), distance(x_all, y_all, a_all, b_all, squared)
        torch.testing.assert_close(found, expected)
        slopes = [torch.autograd.grad(value, [x, b], retain_graph=True) for value in (found, expected)]
        for one, other in zip(*slopes, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", FAR_AWAY)
def test_the_map_of_and_to_points_without_weight(dtype, far):
    """Catches a NaN image, and a point of weight zero that others are sent to."""
    x = torch.tensor([[0.0, 0.0], [far, 0.0], [0.0, 1.0]], dtype=dtype)
    y = torch.tensor([[0.0, 1.0], [1.0, 1.0], [far, 0.0]], dtype=dtype)
    weights = torch.tensor([0.5, 0.5, 0.0], dtype=dtype)
    assert float(wasserstein2(x[::2], y, None, weights)) == pytest.approx(1.0, abs=1e-4)
    images = barycentric_map(x, y, weights[[0, 2, 1]], weights)
    torch.testing.assert_close(images[::2], barycentric_map(x[::2], y[:2]))
    torch.testing.assert_close(images[1], y[1])  # the end of the cloud in its direction
    on_a_point = torch.cat([x[::2], x[:1]])  # the formula continues the map to all of space
    again = barycentric_map(on_a_point, y, weights, weights)
    torch.testing.assert_close(again[2], again[0])


def test_weights_of_zero_differ_between_the_clouds_of_a_batch():
    """Catches one mask for all clouds of a batch."""
    x, y = normal(0, 2, 5, 2), 3 + normal(1, 2, 4, 2)
    weights = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.25, 0.5, 0.25]], dtype=torch.float64)
    expected = [wasserstein2(x[i], y[i][weights[i] > 0], None, weights[i][weights[i] > 0]) for i in range(2)]
    torch.testing.assert_close(wasserstein2(x, y, None, weights), torch.stack(expected))


@pytest.mark.parametrize(("n", "m", "dim"), [(100, 100, 2), (60, 80, 3)])
def test_iterations_go_on_until_they_have_converged(n, m, dim):
    """Catches iterations that stop early: at a blur of .002 a map .15 off in the mean and a square .4 % too small."""
    x, y = normal(0, n, dim), normal(1, m, dim) * torch.linspace(0.5, 1.5, dim, dtype=torch.float64)
    cost = (x.unsqueeze(1) - y).square().sum(-1)
    plan = torch.tensor(ot.emd(np.full(n, 1 / n), np.full(m, 1 / m), cost.numpy()))
    images = barycentric_map(x, y, blur=0.002)
    assert float((images - n * plan @ y).norm(dim=-1).mean()) < 0.011
    assert (images.mean(0) - y.mean(0)).abs().max() < 2 * 1e-3 * y.abs().max()
    assert float(wasserstein2(x, y, blur=0.002, squared=True)) == pytest.approx(float((plan * cost).sum()), rel=3e-4)


@pytest.mark.parametrize("call", [wasserstein2, barycentric_map])
def test_iterations_that_do_not_converge_say_so(call):
    """Catches a result that is off without a word."""
    x, y = normal(0, 60, 3), normal(1, 80, 3)
    with pytest.warns(ConvergenceWarning, match=r"1 of 1 cases: up to .* use a larger blur \(now 5e-05\)") as caught:
        call(x, y, blur=5e-5, scaling=0.5)
    assert caught[0].filename == __file__


def test_gradients_stay_switched_off():
    """Catches a mode of gradients that the iterations leave changed."""
    x, y = normal(0, 5, 2).requires_grad_(), normal(1, 5, 2) + 3
    with torch.no_grad():
        assert not wasserstein2(x, y).requires_grad
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        wasserstein2(normal(0, 5, 2), y)
    assert wasserstein2(x, y).requires_grad


@pytest.mark.filterwarnings("ignore::latentflow.transport.BlurWarning")
@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (0,)])
def test_batches_of_clouds(batch):
    """Catches clouds of one batch that share a size or a schedule."""
    x, y = normal(0, *batch, 12, 2), 2 + normal(1, *batch, 9, 2)
    scale = 1 + torch.arange(math.prod(batch), dtype=torch.float64).reshape(*batch, 1, 1)
    x, y = scale * x, scale * y
    weights = simplex(2, 9)
    found, images = wasserstein2(x, y, None, weights, blur=0.1), barycentric_map(x, y, None, weights, blur=0.1)
    assert found.shape == batch
    assert images.shape == x.shape
    line = wasserstein2_1d(x[..., 0], y[..., 0], None, weights)
    for i in np.ndindex(batch):
        torch.testing.assert_close(found[i], wasserstein2(x[i], y[i], None, weights, blur=0.1), rtol=1e-11, atol=0)
        torch.testing.assert_close(images[i], barycentric_map(x[i], y[i], None, weights, blur=0.1))
        torch.testing.assert_close(line[i], wasserstein2_1d(x[i][:, 0], y[i][:, 0], None, weights))


@given(seeds, st.integers(1, 9), st.integers(1, 9))
def test_the_line_is_exact(seed, n, m):
    """Catches points that are not sorted, weights that do not follow them, and a quantile off by one."""
    x, y, a, b = normal(seed, n), normal(seed + 1, m), simplex(seed + 2, n), simplex(seed + 3, m)
    assert float(wasserstein2_1d(x, y, a, b, squared=True)) == pytest.approx(emd2(x[:, None], y[:, None], a, b))
    assert float(wasserstein2_1d(x, y)) ** 2 == pytest.approx(emd2(x[:, None], y[:, None]))
    other = normal(seed + 4, n)
    paired = (x.sort().values - other.sort().values).square().mean()
    torch.testing.assert_close(wasserstein2_1d(x, other, squared=True), paired, rtol=1e-11, atol=1e-14)


def test_gradients_on_the_line():
    """Catches a gradient that does not reach the points or the weights, or is NaN where there is no distance."""
    x, y = normal(0, 4).requires_grad_(), normal(1, 6).requires_grad_()
    logits = normal(2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y, w: wasserstein2_1d(x, y, w.softmax(0)), (x, y, logits))
    (slope,) = torch.autograd.grad(wasserstein2_1d(x, x.detach()), x)
    assert torch.equal(slope, torch.zeros_like(x))


@given(dims, seeds)
def test_gaussians(dim, seed):
    """Catches a wrong root, a missing trace, and a distance that is not one."""
    m, s = normal(seed, 3, dim), torch.stack([spd(dim, seed + i) for i in range(3)])
    middle = np.real(sqrtm((root(s[0]) @ s[1] @ root(s[0])).numpy()))
    expected = (m[1] - m[0]).square().sum() + (s[0] + s[1]).trace() - 2 * np.trace(middle)
    found = gaussian_wasserstein2(m[0], s[0], m[1], s[1], squared=True)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    matrix = bures_map(s[0], s[1])  # the cost of the map
    move = matrix - torch.eye(dim, dtype=torch.float64)
    torch.testing.assert_close(found, (m[1] - m[0]).square().sum() + (move @ s[0] @ move).trace())
    pairs = gaussian_wasserstein2(m[:, None], s[:, None], m, s)
    assert pairs.shape == (3, 3)
    torch.testing.assert_close(pairs, pairs.mT, atol=1e-6, rtol=1e-9)
    assert pairs[0, 2] <= pairs[0, 1] + pairs[1, 2] + 1e-9


def test_gradients_between_gaussians():
    """Catches the NaN of a matrix root where eigenvalues are equal."""
    eye, m = torch.eye(2, dtype=torch.float64), normal(0, 2, 2)

    def value(m0, a, m1, b):
        return gaussian_wasserstein2(m0, eye + a + a.mT, m1, eye + b + b.mT, squared=True)

    for size in (0.0, 0.1):  # equal covariances with equal eigenvalues, and others
        a, b = size * normal(1, 2, 2), size * normal(2, 2, 2)
        inputs = [x.clone().requires_grad_() for x in (m[0], a, m[1], b)]
        assert torch.autograd.gradcheck(value, inputs)
    s = (2 * eye).requires_grad_()
    slopes = torch.autograd.grad(gaussian_wasserstein2(m[0], s, m[0], 2 * eye, squared=True), s)
    assert torch.isfinite(slopes[0]).all()


@given(dims, seeds, st.floats(0, 1))
def test_interpolation_is_a_geodesic(dim, seed, t):
    """Catches ends that are swapped: the distances from both ends are those of a straight line."""
    x, matrix = normal(seed, 15, dim), spd(dim, seed)
    y = x @ matrix
    middle = mccann_interpolation(x, lambda x: x @ matrix, t)
    torch.testing.assert_close(middle, mccann_interpolation(x, y, torch.tensor(t, dtype=torch.float64)))
    whole = emd2(x, y)
    assert emd2(x, middle) == pytest.approx(t**2 * whole, abs=1e-10)
    assert emd2(middle, y) == pytest.approx((1 - t) ** 2 * whole, abs=1e-10)
    times = torch.linspace(0, 1, 15, dtype=torch.float64)
    torch.testing.assert_close(mccann_interpolation(x, y, times)[-1], y[-1])


@given(seeds)
def test_distances_are_metrics(seed):
    """Catches a squared distance returned as one, and an order of the arguments that matters."""
    x, y, z = normal(seed, 3, 12, 2) + 3 * normal(seed + 1, 3, 1, 2)
    gaussians = [(normal(seed + n, 3), spd(3, seed + n)) for n in range(3)]
    pairs = [(0, 1), (1, 2), (0, 2)]
    for distance, points in (
        (wasserstein2, (x, y, z)),
        (lambda a, b: wasserstein2_1d(a[:, 0], b[:, 0]), (x, y, z)),
        (lambda a, b: gaussian_wasserstein2(*a, *b), gaussians),
    ):
        first, second, direct = (float(distance(points[i], points[j])) for i, j in pairs)
        assert direct <= (first + second) * (1 + 1e-9)
        assert float(distance(points[2], points[0])) == pytest.approx(direct, rel=1e-9)


def test_independent_samples_are_further_apart():
    """Catches a finite-sample distance that is taken for that of the distributions: it is above, in the mean."""
    scale = torch.linspace(0.6, 1.6, 8, dtype=torch.float64)
    exact = float((scale - 1).square().sum())
    found = [
        float(wasserstein2(normal(2 * i, 50, 8), normal(2 * i + 1, 50, 8) * scale, squared=True)) for i in range(4)
    ]
    assert np.mean(found) - 3 * np.std(found) > exact


x, y = normal(0, 5, 2), normal(1, 5, 2) + 5


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: wasserstein2([1.0], y), TypeError, "x: expected a tensor, got list"),
        (lambda: wasserstein2(x.long(), y), TypeError, "x: expected a floating-point tensor, got torch.int64"),
        (lambda: wasserstein2(x, y.float()), TypeError, r"y: expected a tensor of torch\.float64"),
        (lambda: wasserstein2(x, y[:, :1]), ValueError, "y: expected the batch shape and dim of x"),
        (lambda: wasserstein2(x[:0], y), ValueError, "x: expected shape .* with points"),
        (lambda: wasserstein2(x, y * math.nan), ValueError, "y: expected finite points"),
        (lambda: wasserstein2(x, y, torch.ones(5)), ValueError, "x_weights: expected weights .* sum to 1"),
        (lambda: wasserstein2(x, y, None, torch.ones(4) / 4), ValueError, "y_weights: expected shape"),
        (lambda: wasserstein2(x, y, torch.ones(3, 5) / 5), ValueError, "x_weights: expected shape"),
        (lambda: wasserstein2(x, y, torch.tensor([2.0, -1, 0, 0, 0])), ValueError, "x_weights: expected weights"),
        (lambda: wasserstein2(x, y, torch.full((5,), math.nan)), ValueError, "x_weights: expected weights"),
        (lambda: wasserstein2(x, y, blur=0.0), ValueError, "blur: expected"),
        (lambda: barycentric_map(x, y, scaling=1.0), ValueError, "scaling: expected"),
        (lambda: wasserstein2_1d(torch.tensor(1.0), x), ValueError, "x: expected shape"),
        (lambda: wasserstein2_1d(x[0], "y"), TypeError, "y: expected a tensor, got 'y'"),
        (
            lambda: gaussian_wasserstein2(x[0], torch.eye(3, dtype=x.dtype), x[1], torch.eye(2, dtype=x.dtype)),
            ValueError,
            "S0: expected shape",
        ),
        (
            lambda: gaussian_wasserstein2(x[0].long(), torch.eye(2, dtype=x.dtype), x[1], torch.eye(2, dtype=x.dtype)),
            TypeError,
            "m0: expected",
        ),
        (
            lambda: gaussian_wasserstein2(x[0], torch.eye(2, dtype=x.dtype), x[1], -torch.eye(2, dtype=x.dtype)),
            ValueError,
            "S1: .* positive semidefinite",
        ),
        (
            lambda: gaussian_wasserstein2(
                x[0], torch.eye(2, dtype=x.dtype), x[1], torch.ones(2, 2, dtype=x.dtype).triu()
            ),
            ValueError,
            "S1: .* symm",
        ),
        (
            lambda: gaussian_wasserstein2(
                x[0], torch.eye(2, dtype=x.dtype), torch.ones(1, dtype=x.dtype), torch.ones(1, 1, dtype=x.dtype)
            ),
            ValueError,
            "m1: expected shape",
        ),
        (lambda: mccann_interpolation(x, y[0], 0.5), ValueError, "y: expected the shape of x"),
        (lambda: mccann_interpolation(x, y, torch.zeros(3)), ValueError, "t: expected"),
    ],
)
def test_wrong_input_is_named(call, error, message):
    """Catches input that goes through to a number, or fails somewhere deep with a message of torch."""
    with pytest.raises(error, match=message):
        call()


def test_single_precision():
    """Catches a float64 constant in a float32 call."""
    a, b = x.float(), y.float()
    assert wasserstein2(a, b).dtype == barycentric_map(a, b).dtype == wasserstein2_1d(a, b).dtype == torch.float32
    torch.testing.assert_close(wasserstein2(a, b).double(), wasserstein2(x, y), rtol=1e-4, atol=0)
    assert gaussian_wasserstein2(a[0], torch.eye(2), a[1], torch.eye(2)).dtype == torch.float32
