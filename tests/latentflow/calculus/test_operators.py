"""The operators against closed forms: quadratics, radial functions, rotations, time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    batches,
    close,
    dims,
    jets_close,
    network,
    opaque,
    orthogonal,
    rand,
    randn,
    reference_jet,
    request_of,
    seeds,
    symmetric,
    wave,
)

from latentflow import Derivative, Exact, Hutchinson, gradient, hessian, jet, laplacian
from latentflow.calculus import UnknownOperationError, evaluate_jet, jets


@pytest.fixture(scope="module", autouse=True, params=["forward", "torch.func"])
def way(request):
    """Both ways to the Laplacian of a callable: carried forward, and by torch.func."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch.func":
            patch.setattr(jets, "forward_jet", autodiff_only)
        yield


def autodiff_only(u, z, t):
    raise UnknownOperationError("any")


@given(dims, batches, seeds)
def test_quadratic_in_space_and_time(dim, batch, seed):
    """Row 1; catches the row sum 1'H1, a mean over coordinates, the diagonal only, a time counted in the trace."""
    A, b = symmetric(dim, seed), randn(dim, seed=seed + 1)
    z, t, v = randn(*batch, dim, seed=seed + 2), rand(*batch, seed=seed + 3), randn(*batch, 2, dim, seed=seed + 4)

    def u(z, t):
        return (1 + t.pow(3)) * torch.einsum("...i,ij,...j->...", z, A, z) / 2 + z @ b + 7 * t.square()

    result = evaluate_jet(u, z, t, request_of(laplacian=True, hessian=True, probes=v))
    growth = (1 + t.pow(3)).unsqueeze(-1)
    close(result.gradient, growth * (z @ A) + b)
    close(result.time_derivative, 1.5 * t.square() * ((z @ A) * z).sum(-1) + 14 * t)
    close(result.hessian, growth.unsqueeze(-1) * A)
    close(result.laplacian, growth.squeeze(-1) * A.trace())
    close(result.quadratic, growth * ((v @ A) * v).sum(-1))


def test_the_trace_is_not_the_row_sum():
    """Row 1; catches the gradient of the summed gradient, which gives 2a for the traceless [[0, a], [a, 0]]."""
    close(laplacian(lambda z, t: 3 * z[..., 0] * z[..., 1], randn(4, 2), 0.0), torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("dim", range(2, 7))
@pytest.mark.parametrize("p", [1, 2, 3, 4.5, -1])
def test_powers_of_the_radius(dim, p):
    """Row 4; catches a wrong factor of the dimension or a wrong sign: p (p + d - 2) |z|^(p-2)."""
    z = randn(20, dim, seed=dim)
    z = z * (0.3 + z.norm(dim=-1, keepdim=True)) / z.norm(dim=-1, keepdim=True)
    value = laplacian(lambda z, t: z.square().sum(-1).pow(p / 2), z, 0.0)
    close(value, p * (p + dim - 2) * z.norm(dim=-1).pow(p - 2))


@pytest.mark.parametrize("dim", range(2, 7))
def test_fundamental_solutions_are_harmonic(dim):
    """Row 4; catches any trace that is not the sum of all second derivatives."""
    z = randn(20, dim, seed=dim)
    z = z * (0.3 + z.norm(dim=-1, keepdim=True)) / z.norm(dim=-1, keepdim=True)
    power = (lambda r: r.log()) if dim == 2 else (lambda r: r.pow(2 - dim))
    scale = hessian(lambda z, t: power(z.norm(dim=-1)), z, 0.0).abs().amax((-1, -2))
    trace = laplacian(lambda z, t: power(z.norm(dim=-1)), z, 0.0)
    assert (trace.abs() <= 1e-11 * (1 + scale)).all()


@given(dims, seeds, st.booleans())
def test_rotation_covariance(dim, seed, rule):
    """Row 3; catches a trace that depends on the axes, such as the row sum, and densities of each coordinate."""
    u, Q = network(dim, seed=seed), orthogonal(dim, seed=seed)
    field = u if rule else opaque(u)
    z, t = randn(4, dim, seed=seed + 1), rand(4, seed=seed + 2)
    turned, straight = (
        jet(lambda z, t: u(z @ Q.mT, t), z, t, requires=Derivative.HESSIAN),
        jet(field, z @ Q.mT, t, requires=Derivative.HESSIAN),
    )
    close(turned.value, straight.value)
    close(turned.gradient, straight.gradient @ Q)
    close(turned.laplacian, straight.laplacian)
    close(turned.hessian, Q.mT @ straight.hessian @ Q)


@settings(max_examples=10)
@given(dims, batches, seeds)
def test_autodiff_agrees_with_reverse_over_reverse(dim, batch, seed):
    """Catches a mix-up of batch and direction axes, and a second derivative that sees other samples."""
    u = network(dim, seed=seed)
    z, t, v = randn(*batch, dim, seed=seed), rand(*batch, seed=seed), randn(*batch, 3, dim, seed=seed + 1)
    for field in (wave, opaque(u)):
        jets_close(
            evaluate_jet(field, z, t, request_of(v, laplacian=True, hessian=True)), reference_jet(field, z, t, v)
        )


@pytest.mark.parametrize(
    ("field", "slope"),
    [(lambda z, t: torch.zeros(z.shape[:-1]).to(z), 0.0), (lambda z, t: 2 * z.sum(-1), 2.0), (lambda z, t: t, 0.0)],
)
def test_fields_without_curvature(field, slope):
    """Catches a derivative of None where the field does not depend on its argument."""
    z = randn(4, 3)
    result = jet(field, z, 1.0, requires=Derivative.HESSIAN)
    close(result.gradient, torch.full_like(z, slope))
    close(result.laplacian, torch.zeros(4, dtype=torch.float64))
    close(result.hessian, torch.zeros(4, 3, 3, dtype=torch.float64))


@given(dims, batches, seeds, st.booleans())
def test_time_derivative_is_the_jvp_in_time(dim, batch, seed, rule):
    """Catches a time derivative summed or averaged over the batch, and one taken at a shared time."""
    u = network(dim, seed=seed)
    z, t = randn(*batch, dim, seed=seed + 1), rand(*batch, seed=seed + 2)
    expected = torch.func.jvp(lambda t: u(z, t), (t,), (torch.ones_like(t),))[1]
    close(jet(u if rule else opaque(u), z, t, None).time_derivative, expected)


@given(dims, seeds)
def test_operators_are_the_fields_of_the_jet(dim, seed):
    """Catches an operator that returns another field, or ignores the time."""
    u, z, t = network(dim, seed=seed), randn(4, dim, seed=seed), rand(4, seed=seed)
    expected = reference_jet(u, z, t)
    for field in (u, opaque(u)):
        close(gradient(field, z, t), expected.gradient)
        close(laplacian(field, z, t), expected.laplacian)
        close(hessian(field, z, t), expected.hessian)
        jets_close(jet(field, z, t, requires=Derivative.HESSIAN), expected)


def test_a_jet_holds_what_was_asked_for_and_nothing_else():
    """Catches a first-order call that pays for second derivatives, and a Hessian lost beside a random Laplacian."""
    z = randn(4, 3)
    generator = torch.Generator().manual_seed(0)
    for field in (wave, network(3)):
        assert jet(field, z, 0.0, None).derivatives == Derivative(0)
        assert jet(field, z, 0.0, Exact()).derivatives == Derivative.LAPLACIAN
        only = jet(field, z, 0.0, None, requires=Derivative.HESSIAN)
        assert only.derivatives == Derivative.HESSIAN
        both = jet(field, z, 0.0, Hutchinson(2, generator=generator), requires=Derivative.HESSIAN)
        close(both.hessian, only.hessian)
        close(both.laplacian, both.quadratic.mean(-1))


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("field", [wave, network(3)])
def test_inputs_are_not_mutated(field, requires_grad):
    """Catches requires_grad_() on the caller's tensors, a left-over .grad, and a result that depends on the flag."""
    z, t = randn(4, 3).requires_grad_(requires_grad), rand(4).requires_grad_(requires_grad)
    copies = z.detach().clone(), t.detach().clone()
    result = jet(field, z, t, requires=Derivative.HESSIAN)
    assert (z.requires_grad, t.requires_grad) == (requires_grad, requires_grad)
    assert (z.grad, t.grad) == (None, None)
    assert torch.equal(z, copies[0])
    assert torch.equal(t, copies[1])
    jets_close(result, jet(field, *copies, requires=Derivative.HESSIAN), tolerance=0)
