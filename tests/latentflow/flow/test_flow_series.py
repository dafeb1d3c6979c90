"""The log-determinant by a power series and probes."""

import math
from itertools import product

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import generator, net, normal, spd
from hypothesis import given

from latentflow import Derivative, FunctionPotential, PotentialFlow, QuadraticPotential, SlogDet
from latentflow.calculus import evaluate_jet
from latentflow.flow import LogDetSeries, SeriesWarning

near = {"rtol": 1e-11, "atol": 1e-11}
t0 = torch.zeros((), dtype=torch.float64)


def given_probes(monkeypatch, probes):
    """Let the volume draw these probes, of shape (probes, dim), at every point."""

    def draw(z, count, noise, generator):
        assert count == len(probes)
        return probes.expand(*z.shape[:-1], *probes.shape)

    monkeypatch.setattr("latentflow.flow.log_det.draw_probes", draw)


def truncated(matrix, terms):
    """The sum of (-1)^(k+1) tr M^k / k by matrix powers."""
    powers = [torch.linalg.matrix_power(matrix, k) for k in range(1, terms + 1)]
    traces = [power.diagonal(dim1=-2, dim2=-1).sum(-1) for power in powers]
    return sum((-1) ** (k + 1) * trace / k for k, trace in enumerate(traces, start=1))


@pytest.mark.parametrize("terms", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("dt", [0.5, -0.5])
def test_mean_over_all_probes_is_the_truncated_series(monkeypatch, terms, dim, dt):
    """Catches a sign or factor of any term, one term more or less, powers of the step left out, normalised probes."""
    u, z = net(dim, 3), normal(4, 2, dim)
    hessian = torch.stack([torch.func.hessian(lambda z: u(z, t0))(point) for point in z])
    every = torch.tensor(list(product([-1.0, 1.0], repeat=dim)), dtype=torch.float64)
    given_probes(monkeypatch, every)
    for field in (u, FunctionPotential(u.forward)):
        step = PotentialFlow(field).step(z, 0.0, dt, LogDetSeries(terms, probes=len(every)))
        torch.testing.assert_close(step.determinant.log_det, truncated(dt * hessian, terms), **near)
    assert step.determinant.folded is None
    assert (step.determinant.sign == 1).all()


@given(st.integers(1, 5), st.integers(0, 2**31 - 100), st.sampled_from([2, 5, 8]))
def test_truncation_bound(dim, seed, terms):
    """Catches a bound in the docstring that does not hold, and a series of another function than log det."""
    matrix = spd(dim, seed, -0.6, 0.6)
    rho = torch.linalg.matrix_norm(matrix, 2)
    bound = dim * rho ** (terms + 1) / ((terms + 1) * (1 - rho))
    eye = torch.eye(dim, dtype=torch.float64)
    values, q = torch.linalg.eigh(matrix)
    rotated = FunctionPotential(lambda z, t: (z.square() * values).sum(-1) / 2)  # diagonal: probes are exact
    log_det = PotentialFlow(rotated).step(normal(seed, dim) @ q, 0.0, 1.0, LogDetSeries(terms)).determinant.log_det
    assert abs(log_det - torch.logdet(eye + matrix)) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("noise", ["rademacher", "gaussian"])
def test_unbiased_for_every_noise(noise):
    """Catches probes that are drawn anew for each power, or of another scale: the z-score of the mean of 4000."""
    u, z = FunctionPotential(net(3, 3).forward), normal(4, 3)
    volume = LogDetSeries(4, noise=noise, generator=generator(0))
    assert volume.stochastic
    many = PotentialFlow(u).step(z.repeat(4000, 1), 0.0, 0.5, volume).determinant.log_det
    hessian = torch.func.hessian(lambda z: u(z, t0))(z)
    error = many.mean() - truncated(0.5 * hessian, 4)
    assert abs(error) < 5 * many.std() / math.sqrt(4000)
    several = LogDetSeries(4, probes=1000, noise=noise, generator=generator(1))
    mean = PotentialFlow(u).step(z.repeat(4, 1), 0.0, 0.5, several).determinant.log_det.mean()
    assert abs(mean - truncated(0.5 * hessian, 4)) < 5 * many.std() / math.sqrt(4000)


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_roulette_is_unbiased_for_the_whole_series(terms):
    """Catches terms not weighed by their chance, a chance of each term rather than pair, and the wrong parity."""
    values = torch.tensor([0.7, -0.6], dtype=torch.float64)
    flow = PotentialFlow(QuadraticPotential(2, values.diag()))  # probes are exact
    volume = LogDetSeries(terms, roulette=0.4, generator=generator(terms))
    z = torch.zeros(2, dtype=torch.float64)
    draws = torch.stack([flow.step(z, 0.0, 1.0, volume).determinant.log_det for _ in range(1000)]).detach()
    exact = values.log1p().sum()
    assert abs(draws.mean() - exact) < 5 * draws.std() / math.sqrt(1000)
    assert len(draws.unique()) > 2
    plain = flow.step(z, 0.0, 1.0, LogDetSeries(terms)).determinant.log_det
    assert abs(plain - exact) > 5 * draws.std() / math.sqrt(1000)  # without it the bias would show


def test_gradients():
    """Catches powers that are detached from the parameters or the points."""
    module = PotentialFlow(net(2, 3, (3,)) * 0.5)
    z = normal(4, 2, 2).requires_grad_()
    names, parameters = zip(*module.named_parameters(), strict=True)

    class LogDet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.flow = module

        def forward(self, z):
            return self.flow.step(z, 0.3, 0.5, LogDetSeries(5, generator=generator(0))).determinant.log_det

    def function(z, *parameters):
        named = {f"flow.{name}": parameter for name, parameter in zip(names, parameters, strict=True)}
        return torch.func.functional_call(LogDet(), named, (z,))

    assert torch.autograd.gradcheck(function, (z, *parameters))


def test_a_path_by_the_series():
    """Catches a trajectory that claims to know its folds, and volumes that do not accumulate."""
    u, z = QuadraticPotential(2, torch.diag(torch.tensor([0.3, -0.2], dtype=torch.float64))), normal(0, 4, 2)
    trajectory = PotentialFlow(u).eval().rollout(z, 3, log_det=LogDetSeries(40))
    exact = PotentialFlow(u).eval().rollout(z, 3, log_det=SlogDet())
    torch.testing.assert_close(trajectory.log_det, exact.log_det, **near)
    torch.testing.assert_close(trajectory.z, exact.z, **near)
    assert trajectory.folded is None
    assert (trajectory.sign == 1).all()


@pytest.mark.parametrize("batch", [(), (2, 3), (0,)])
def test_batch_shapes(batch):
    """Catches powers and probes of several points mixed up."""
    u, z = net(2, 0) * 0.3, normal(1, *batch, 2)
    diagonal = FunctionPotential(lambda z, t: z.cos().sum(-1) / 2)  # probes are exact, points differ
    trajectory = PotentialFlow(diagonal).rollout(z, 1, log_det=LogDetSeries(30, probes=3))
    torch.testing.assert_close(trajectory.log_det[1], (1 - z.cos() / 2).log().sum(-1), rtol=1e-6, atol=1e-6)
    assert PotentialFlow(u).rollout(z, 2, log_det=LogDetSeries()).log_det.shape == (3, *batch)


def test_divergence_is_told():
    """Catches a series that is summed where it does not converge, without a word."""
    u = QuadraticPotential(2, torch.diag(torch.tensor([1.5, 0.1], dtype=torch.float64)))
    with pytest.warns(SeriesWarning, match=r"does not converge for 3 of 3 points"):
        PotentialFlow(u).step(normal(0, 3, 2), 0.0, 1.0, LogDetSeries(6))
    PotentialFlow(u).step(normal(0, 3, 2), 0.0, 0.5, LogDetSeries(6))


def test_products_cost_half_of_the_terms():
    """Catches one product for each term: six terms ask for the products of v, Hv and H^2 v."""
    u, z = net(3, 0), normal(1, 4, 3)
    request = LogDetSeries(6, probes=2, generator=generator(0)).request(u, z, 0.0)
    assert request.probes.shape == (4, 6, 3)
    assert Derivative.HESSIAN not in request
    jet = evaluate_jet(u, z, 0.0, request)
    torch.testing.assert_close(jet.products[:, :4], request.probes[:, 2:], **near)


def test_wrong_arguments():
    """Catches messages that do not name the argument."""
    for name, arguments in {
        "terms": {"terms": 0},
        "probes": {"probes": 0},
        "noise": {"noise": "uniform"},
        "roulette": {"roulette": 1.0},
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: expected"):
            LogDetSeries(**arguments)
    volume, u, z = LogDetSeries(), net(2, 0), normal(1, 3, 2)
    with pytest.raises(ValueError, match="quadratic was not requested"):
        volume.determinant(evaluate_jet(u, z, 0.0, SlogDet().request(u, z, 0.0)), 1.0)
