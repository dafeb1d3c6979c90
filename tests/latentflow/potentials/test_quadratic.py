"""The quadratic potential in closed form."""

import pytest
import torch
from hypothesis import given
from strategies import batches, close, dims, jet_of, jets_close, rand, randn, reference_jet, request_of, seeds

from latentflow import Derivative, QuadraticPotential, jet
from latentflow.calculus import evaluate_jet


@given(dims, batches, seeds)
def test_closed_form_with_a_matrix_that_is_not_symmetric(dim, batch, seed):
    """Row 1; catches M z in place of its symmetric part, a missing 1/2, and 1/2 v'Av for a probe."""
    M, b = randn(dim, dim, seed=seed), randn(dim, seed=seed + 1)
    A = (M + M.mT) / 2
    u = QuadraticPotential(dim, M, b, constant=0.7)
    z, t, v = randn(*batch, dim, seed=seed + 2), rand(*batch, seed=seed), randn(*batch, 2, dim, seed=seed + 3)
    expected = jet_of(
        value=torch.einsum("...i,ij,...j->...", z, M, z) / 2 + z @ b + 0.7,
        gradient=z @ A + b,
        time_derivative=torch.zeros_like(t),
        laplacian=M.trace().expand(batch),
        hessian=A.expand(*batch, dim, dim),
        quadratic=torch.einsum("...i,ij,...j->...", v, M, v),
    )
    jets_close(evaluate_jet(u, z, t, request_of(v, laplacian=True, hessian=True)), expected)
    jets_close(reference_jet(u, z, t, v), expected)
    close(u.symmetric, A)


def test_the_parameter_may_be_any_square_matrix():
    """Catches a gradient that reaches one triangle only: d tr A / dM = I, and the motion sees both triangles."""
    u = QuadraticPotential(3, randn(3, 3))
    jet(u, randn(4, 3), 0.0).laplacian.sum().backward()
    close(u.matrix.grad, 4 * torch.eye(3, dtype=torch.float64))
    u.zero_grad()
    z = randn(1, 3)
    jet(u, z, 0.0).gradient.sum().backward()
    close(u.matrix.grad, (z + z.mT) / 2)
    close(u.vector.grad, torch.ones(3, dtype=torch.float64))


def test_starts_at_rest_and_from_a_copy():
    """Catches a default that moves, and a parameter that shares memory with the caller's matrix."""
    assert (jet(QuadraticPotential(3), torch.ones(2, 3), 0.0, requires=Derivative.HESSIAN).hessian == 0).all()
    matrix = torch.eye(2, dtype=torch.float64)
    u = QuadraticPotential(2, matrix)
    matrix.zero_()
    close(jet(u, randn(1, 2), 0.0).laplacian, torch.tensor([2.0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"matrix": torch.zeros(2, 3)}, r"matrix: expected shape \(2, 2\), got \(2, 3\)"),
        ({"matrix": torch.zeros(3, 3)}, r"matrix: expected shape \(2, 2\), got \(3, 3\)"),
        ({"vector": torch.zeros(2, 1)}, r"vector: expected shape \(2,\), got \(2, 1\)"),
    ],
)
def test_shapes_are_checked(arguments, message):
    """Catches a column vector that broadcasts to a matrix of velocities."""
    with pytest.raises(ValueError, match=message):
        QuadraticPotential(2, **arguments)


def test_points_of_another_dimension_are_refused():
    """Catches a matrix product of unrelated sizes."""
    with pytest.raises(ValueError, match=r"z: expected shape \(\*batch, 2\), got \(4, 3\)"):
        jet(QuadraticPotential(2).double(), randn(4, 3), 0.0)
