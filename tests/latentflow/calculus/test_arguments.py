"""The checks of points, times and fields: what is refused, and what the message says."""

import pytest
import torch
from strategies import randn

from latentflow import Exact, Hutchinson, Jet, MLPPotential, QuadraticPotential, gradient, hessian, jet, laplacian
from latentflow.calculus import JetRequest, evaluate_jet
from latentflow.calculus.checks import check_points, expand_time


def square(z, t):
    return z.square().sum(-1)


OPERATORS = [jet, gradient, laplacian, hessian]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("u", [square, MLPPotential(3).double(), QuadraticPotential(3).double()])
@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), TypeError, r"z: expected a floating-point tensor, got torch.int64"),
        (torch.zeros(2, 3, dtype=torch.complex128), TypeError, r"z: expected a floating-point .* torch.complex128"),
        ([[1.0, 2.0, 3.0]], TypeError, r"z: expected a tensor of shape \(\*batch, dim\), got list"),
        (torch.tensor(1.0), ValueError, r"z: expected shape \(\*batch, dim\), got \(\)"),
    ],
)
def test_points_are_refused_by_every_operator(operator, u, z, error, message):
    """Catches integer latents that would silently truncate, and an operator that skips the check."""
    with pytest.raises(error, match=message):
        operator(u, z, 0.0)


def test_points_of_another_dimension_are_refused():
    """Catches a broadcast of one coordinate against a network of three."""
    check_points(torch.zeros(4, 3), 3)
    with pytest.raises(ValueError, match=r"z: expected shape \(\*batch, 3\), got \(4, 1\)"):
        check_points(torch.zeros(4, 1), 3)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    ("batch", "shape"), [((5,), (3,)), ((5,), (1, 1)), ((5,), (5, 1)), ((), (1,)), ((2, 3), (2,)), ((0,), (2,))]
)
def test_times_that_do_not_broadcast_are_refused(operator, batch, shape):
    """Catches a time of shape (B, 1) that would turn a batch of B into B x B."""
    with pytest.raises(ValueError, match=r"t: expected a number, shape \(\) or .*, got \(\d"):
        operator(square, randn(*batch, 2), torch.zeros(shape))


@pytest.mark.parametrize("t", [2, 2.0, torch.tensor(2), torch.tensor([2.0]), torch.tensor([[2.0], [2.0]])])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_time_takes_shape_and_dtype_of_the_points(t, dtype):
    """Catches an integer time that stays integer, or a default-dtype time that promotes the result."""
    time = expand_time(t, torch.zeros(2, 3, 4, dtype=dtype))
    assert time.dtype == dtype
    assert torch.equal(time, torch.full((2, 3), 2.0, dtype=dtype))


def test_time_of_each_column_broadcasts_over_rows():
    """Catches an expansion along the wrong batch dimension."""
    time = expand_time(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(2, 3, 4))
    assert torch.equal(time, torch.tensor([[1.0, 2.0, 3.0]] * 2))


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_field_must_return_one_value_for_each_point(operator):
    """Catches u(z).sum(), the batch-summed field, and a forgotten squeeze."""
    z = randn(4, 2)
    for wrong in (lambda z, t: z.sum(), lambda z, t: z.sum(-1, keepdim=True), lambda z, t: z):
        with pytest.raises(ValueError, match=r"u: expected u\(z, t\) to return shape \(4,\) .* got \("):
            operator(wrong, z, 0.0)
    with pytest.raises(TypeError, match=r"u: expected u\(z, t\) to return a tensor, got float"):
        operator(lambda z, t: 1.0, z, 0.0)


@pytest.mark.parametrize("u", [MLPPotential(3), QuadraticPotential(3)])
def test_points_and_parameters_of_different_dtypes_are_refused(u):
    """Catches a silent cast of the points to the dtype of the network."""
    with pytest.raises(TypeError, match=r"z: expected a tensor of torch\.float32, got torch\.float64"):
        jet(u, randn(2, 3), 0.0)


@pytest.mark.parametrize("estimator", [Exact(), Hutchinson()])
def test_an_estimator_refuses_a_jet_without_its_field(estimator):
    """Catches a Laplacian of None handed on to a log-density."""
    plain = Jet(torch.zeros(2), torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"(laplacian|quadratic) was not requested"):
        estimator.laplacian(plain)


def test_a_rule_that_does_not_answer_is_named():
    """Catches None returned as a Hessian by a rule of the user's own."""

    class Lazy:
        def __call__(self, z, t):
            return square(z, t)

        def jet_rule(self, z, t, request):
            return Jet(square(z, t), 2 * z, torch.zeros_like(t))

    assert torch.equal(evaluate_jet(Lazy(), torch.ones(2, 3), 0.0, JetRequest()).gradient, 2 * torch.ones(2, 3))
    with pytest.raises(ValueError, match="u: expected its jet_rule to return the hessian"):
        hessian(Lazy(), randn(2, 3), 0.0)
    with pytest.raises(ValueError, match="u: expected its jet_rule to return the laplacian that was requested"):
        laplacian(Lazy(), randn(2, 3), 0.0)


@pytest.mark.parametrize("probes", [0, -1, 1.0, None])
def test_hutchinson_refuses_a_wrong_number_of_probes(probes):
    """Catches an estimate averaged over no probe, that is nan."""
    with pytest.raises(ValueError, match=f"probes: expected a positive integer, got {probes}"):
        Hutchinson(probes=probes)


def test_hutchinson_refuses_unknown_noise():
    """Catches a typing error that silently falls back to one of the two distributions."""
    with pytest.raises(ValueError, match="noise: expected 'rademacher' or 'gaussian', got 'normal'"):
        Hutchinson(noise="normal")
