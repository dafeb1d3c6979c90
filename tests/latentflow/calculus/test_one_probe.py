"""The exact Laplacian with the gradient of one probe."""

import pytest
import torch
from closed_forms import generator, normal
from torch import nn

from latentflow import ODE, Derivative, Exact, MLPPotential, PotentialFlow, jet, laplacian
from latentflow.calculus import JetRequest, evaluate_jet
from latentflow.calculus.estimators import ExactWithProbe

DIM = 3


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLPPotential(DIM, hidden=(5, 4)).double()


class Own(nn.Module):
    """A module without a rule."""

    def __init__(self):
        super().__init__()
        self.inner = network(1)

    def forward(self, z, t):
        return self.inner(z, t).sin()


def one_probe(seed=0):
    return Exact(gradient="one probe", generator=generator(seed))


FIELDS = {"network": network, "module": Own, "reverse mode": lambda: lambda z, t: z.prod(-1) * t + z.pow(4).sum(-1)}


@pytest.mark.parametrize("name", FIELDS)
def test_the_value_is_the_exact_one(name):
    """Catches the value of the probe in place of the trace."""
    u, z = FIELDS[name](), normal(1, 6, DIM)
    exact = laplacian(u, z, 0.4)
    torch.testing.assert_close(laplacian(u, z, 0.4, one_probe()), exact, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(laplacian(u, z, 0.4, one_probe()), exact, rtol=1e-12, atol=1e-12)
    full = jet(u, z, 0.4, one_probe(), requires=Derivative.SECOND_TIME_DERIVATIVE)
    torch.testing.assert_close(full.laplacian, exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(full.gradient, jet(u, z, 0.4).gradient)


def test_the_gradient_is_that_of_the_probe():
    """Catches a gradient of the trace: the Laplacian of z'Az/2 has the gradient I in A, and v'Av has vv'."""
    A, z = normal(2, DIM, DIM).requires_grad_(), normal(3, 4, DIM)
    probe = normal(4, 4, 1, DIM)
    value = laplacian(lambda z, t: torch.einsum("...i,ij,...j->...", z, A, z) / 2, z, 0.0, ExactWithProbe(probe))
    torch.testing.assert_close(value, A.trace().expand(4))
    weights = normal(5, 4)
    found = torch.autograd.grad((weights * value).sum(), A)[0]
    torch.testing.assert_close(found, torch.einsum("b,bri,brj->ij", weights, probe, probe))


@pytest.mark.parametrize("name", ["network", "module"])
@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_the_gradient_is_unbiased(name, noise):
    """Catches a gradient that is zero, doubled, or of a probe of another size: 4 standard errors of 800 draws,
    twenty of which are the points of one batch.

    The loss is not linear in the Laplacian, so a gradient at the value of the probe would be biased.
    """
    u, batches = FIELDS[name](), 40
    z = normal(6, 2, DIM)
    weights = [weight for weight in u.parameters() if weight.requires_grad]

    def gradient(estimator, points):
        loss = laplacian(u, points, 0.3, estimator).square().mean()
        found = torch.autograd.grad(loss, weights, materialize_grads=True)
        return torch.cat([part.flatten() for part in found])

    exact = gradient(Exact(), z)
    estimator = Exact("one probe", noise, generator(7))
    draws = torch.stack([gradient(estimator, z.repeat(20, 1)) for _ in range(batches)])
    error = draws.std(0) / batches**0.5
    assert (draws.std(0) > 1e-6).any()
    assert ((draws.mean(0) - exact).abs() <= 4 * error + 1e-12).all()


def test_its_variance_is_the_known_one():
    """Catches probes of other moments: for z'Az/2 an entry beside the diagonal of vv' has variance one."""
    A, z = torch.zeros(DIM, DIM, dtype=torch.float64, requires_grad=True), normal(8, 4000, DIM)
    value = laplacian(
        lambda z, t: torch.einsum("...i,ij,...j->...", z, A.expand(1, DIM, DIM)[0], z) / 2, z, 0.0, one_probe()
    )
    (mean,) = torch.autograd.grad(value.mean(), A)
    beside = mean - torch.eye(DIM, dtype=torch.float64)
    torch.testing.assert_close(mean.diagonal(), torch.ones(DIM, dtype=torch.float64))
    assert 0 < beside.abs().max() < 4 / 4000**0.5


def test_it_is_refused_where_a_gradient_is_differentiated_again():
    """Catches a biased penalty on a gradient, and a transform that would differentiate the trace."""
    u, z = network(), normal(9, 4, DIM).requires_grad_()
    value = laplacian(u, z, 0.1, one_probe())
    with pytest.raises(RuntimeError, match=r"Exact: expected gradient='exact'"):
        torch.autograd.grad(value.sum(), z, create_graph=True)
    with pytest.raises(ValueError, match=r"gradient: expected 'exact' inside of torch.func"):
        torch.func.grad(lambda z: laplacian(u, z, 0.1, one_probe()).sum())(z)


def test_the_trace_needs_no_graph():
    """Catches a trace that keeps what a gradient of it would need."""
    u, z = network(), normal(10, 4, DIM)
    request = ExactWithProbe(normal(11, 4, 1, DIM)).request(u, z, 0.0)
    assert request.detached == Derivative.LAPLACIAN
    for field in (u, Own()):
        answer = evaluate_jet(field, z, 0.0, request)
        assert not answer.laplacian.requires_grad
        assert answer.quadratic.requires_grad
    assert evaluate_jet(u, z, 0.0, JetRequest(Derivative.LAPLACIAN)).laplacian.requires_grad


def test_log_densities_of_a_flow_are_exact():
    """Catches a probe that the solver sees in its right-hand side."""
    flow, z = PotentialFlow(network()), normal(12, 5, DIM)
    ours, exact = (flow.integrate(z, [0.0, 1.0], ODE("rk4", divergence=by)).log_det for by in (one_probe(), Exact()))
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)
    gradients = [
        torch.autograd.grad(part[-1].sum(), flow.potential.parameters(), allow_unused=True) for part in (ours, exact)
    ]
    assert any(g is not None and not torch.allclose(g, h) for g, h in zip(*gradients, strict=True))


def test_arguments():
    """Catches a misspelt gradient that would be exact without a word."""
    with pytest.raises(ValueError, match="gradient: expected"):
        Exact(gradient="probe")
    with pytest.raises(ValueError, match="noise: expected"):
        Exact(noise="uniform")
    with pytest.raises(TypeError, match="detached: expected members of Derivative"):
        JetRequest(Derivative.LAPLACIAN, detached=1)
