"""Push-forward distributions against closed forms, quadrature and the samples themselves."""

import math
from dataclasses import replace

import hypothesis.strategies as st
import pytest
import torch
from closed_forms import net, normal, spd
from hypothesis import given, settings
from torch.distributions import (
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Uniform,
)

from latentflow import FunctionPotential, Hutchinson, PotentialBank, PotentialFlow, QuadraticPotential
from latentflow.flow import ODE, Euler, FirstOrder, FoldError, LogDetSeries, PushForward

dims, seeds = st.integers(1, 4), st.integers(0, 2**31 - 100)
rk4 = ODE("rk4", options={"step_size": 0.125})
schemes = pytest.mark.parametrize("scheme", [rk4, Euler()], ids=["continuous", "discrete"])
grid = [0.0, 0.5, 1.0]


def standard(*shape):
    return Independent(Normal(torch.zeros(shape, dtype=torch.float64), 1.0), 1)


@given(dims, seeds)
@settings(max_examples=6)
def test_gaussian_through_a_linear_flow(dim, seed):
    """Catches a log_det of the wrong sign, a start confused with the end, and a step taken for a flow."""
    matrix, vector = spd(dim, seed, -0.5, 0.5), normal(seed + 1, dim)
    base = MultivariateNormal(normal(seed + 2, dim), spd(dim, seed + 3))
    flow, z = PotentialFlow(QuadraticPotential(dim, matrix, vector)), 2 * normal(seed + 4, 5, dim)
    eye = torch.eye(dim, dtype=torch.float64)
    spectrum, q = torch.linalg.eigh(matrix)
    moved = q @ torch.diag(torch.expm1(spectrum) / spectrum) @ q.mT @ vector
    maps = {
        rk4: (torch.linalg.matrix_exp(matrix), moved),
        Euler(): ((eye + matrix / 2) @ (eye + matrix / 2), (eye + (eye + matrix / 2)) @ vector / 2),
    }
    for scheme, (f, c) in maps.items():
        expected = MultivariateNormal(f @ base.mean + c, f @ base.covariance_matrix @ f.mT)
        found = flow.push_forward(base, grid, scheme).log_prob(z)
        torch.testing.assert_close(found, expected.log_prob(z), rtol=1e-5, atol=1e-5)


@schemes
@given(seeds)
@settings(max_examples=5)
def test_mass_is_one_in_one_dimension(scheme, seed):
    """Catches a density along the samples' own trajectories instead of at the point asked, and a lost normaliser."""
    flow = PotentialFlow(net(1, seed) * 0.5)
    z = torch.linspace(-14, 14, 2001, dtype=torch.float64)
    with torch.no_grad():
        density = flow.push_forward(standard(1), grid, scheme).log_prob(z.unsqueeze(-1)).exp()
    assert float(torch.trapezoid(density, z)) == pytest.approx(1, abs=1e-6)
    assert (density - standard(1).log_prob(z.unsqueeze(-1)).exp()).abs().max() > 1e-3


@schemes
def test_mass_is_one_in_two_dimensions(scheme):
    """Catches a determinant of the diagonal, or a trace in its place."""
    flow = PotentialFlow(net(2, 5))
    axis = torch.linspace(-8, 8, 97, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = flow.push_forward(standard(2), grid, scheme).log_prob(z).exp()
    assert float(density.sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=1e-6)


@schemes
@given(dims, seeds)
@settings(max_examples=5)
def test_samples_and_points_have_one_density(scheme, dim, seed):
    """Catches two conventions of log_prob: that of the pass forth and that of the inverse."""
    flow = PotentialFlow(net(dim, seed) * 0.5)
    distribution = flow.push_forward(MultivariateNormal(normal(seed, dim), spd(dim, seed)), grid, scheme)
    torch.manual_seed(seed % 1000)
    z, log_q = distribution.rsample_and_log_prob((3, 4))
    assert z.shape == (3, 4, dim)
    torch.testing.assert_close(distribution.log_prob(z), log_q, rtol=1e-5, atol=1e-5)
    torch.manual_seed(seed % 1000)
    torch.testing.assert_close(distribution.sample((3, 4)), z.detach())


@schemes
def test_samples_follow_the_density(scheme):
    """Catches samples of another distribution: a chi-square test on 20 cells that the density makes equally likely."""
    flow = PotentialFlow(net(1, 3))
    distribution = flow.push_forward(standard(1), grid, scheme)
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    torch.manual_seed(0)
    with torch.no_grad():
        mass = torch.cumulative_trapezoid(distribution.log_prob(z.unsqueeze(-1)).exp(), z)
        samples = distribution.sample((20_000,)).squeeze(-1)
    edges = z[1:][torch.searchsorted(mass, torch.arange(1, 20, dtype=torch.float64) / 20)]
    exact = torch.diff(mass[torch.searchsorted(z[1:], edges)], prepend=torch.zeros(1).double(), append=torch.ones(1))
    counts = torch.bincount(torch.bucketize(samples, edges), minlength=20)
    chi_square = float(((counts - 20_000 * exact).square() / (20_000 * exact)).sum())
    assert abs(chi_square - 19) / math.sqrt(2 * 19) < 5  # the z-score of a chi-square of 19 degrees of freedom


@schemes
def test_change_of_variables_in_the_mean(scheme):
    """Catches log_prob that is off by a constant: E[p(z) / q(z)] = 1 under samples of q, for a narrower p."""
    flow = PotentialFlow(net(2, 6))
    distribution = flow.push_forward(standard(2), grid, scheme)
    narrow = Independent(Normal(distribution.sample((500,)).mean(0), 0.5), 1)
    torch.manual_seed(1)
    with torch.no_grad():
        z, log_q = distribution.rsample_and_log_prob((4000,))
    weights = (narrow.log_prob(z) - log_q).exp()
    assert abs(weights.mean() - 1) < 5 * weights.std() / math.sqrt(4000)


@schemes
def test_batch_shapes(scheme):
    """Catches a batch shape that is lost, broadcast the wrong way round, or shared between samples."""
    loc = normal(0, 3, 2)
    base = Independent(Normal(loc, 1.0), 1)
    flow = PotentialFlow(FunctionPotential(net(2, 1).forward))
    distribution = flow.push_forward(base, grid, scheme)
    assert distribution.batch_shape == (3,)
    assert distribution.event_shape == (2,)
    assert distribution.sample().shape == (3, 2)
    assert distribution.sample((0,)).shape == (0, 3, 2)
    z = normal(1, 5, 1, 2)
    found = distribution.log_prob(z)
    assert found.shape == (5, 3)
    for i in range(3):
        alone = flow.push_forward(Independent(Normal(loc[i], 1.0), 1), grid, scheme)
        torch.testing.assert_close(found[:, i], alone.log_prob(z.squeeze(1)), rtol=1e-9, atol=1e-9)


@schemes
def test_each_sample_has_its_own_potential(scheme):
    """Catches points that are not given the batch shape, which a potential for each sample needs."""
    bank = PotentialBank([net(2, 0), net(2, 10)])
    k = torch.tensor([1, 0, 1])
    distribution = PotentialFlow(bank.select(k)).push_forward(standard(3, 2), grid, scheme)
    z = normal(1, 2)
    found = distribution.log_prob(z)
    for i in range(3):
        alone = PotentialFlow(bank[int(k[i])]).push_forward(standard(2), grid, scheme)
        torch.testing.assert_close(found[i], alone.log_prob(z), rtol=1e-9, atol=1e-9)


@schemes
def test_expand(scheme):
    """Catches an expansion that loses the flow, the validation, or repeats a sample."""
    distribution = PotentialFlow(net(2, 1)).push_forward(standard(2), grid, scheme, validate_args=False)
    wide = distribution.expand((4, 3))
    assert isinstance(wide, PushForward)
    assert wide.batch_shape == (4, 3)
    assert wide._validate_args is False
    z = normal(1, 4, 3, 2)
    torch.testing.assert_close(wide.log_prob(z), distribution.log_prob(z), rtol=1e-9, atol=1e-9)
    assert len(wide.sample().reshape(-1, 2).unique(dim=0)) == 12


def test_mixture_of_push_forwards():
    """Catches a distribution that torch's own wrappers do not take."""
    flow, loc = PotentialFlow(net(2, 1)), normal(0, 3, 2)
    parts = flow.push_forward(Independent(Normal(loc, 1.0), 1), grid, Euler())
    weights = torch.distributions.Categorical(probs=torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64))
    mixture, z = MixtureSameFamily(weights, parts), normal(1, 4, 2)
    terms = [
        w.log() + flow.push_forward(Independent(Normal(m, 1.0), 1), grid, Euler()).log_prob(z)
        for w, m in zip(weights.probs, loc, strict=True)
    ]
    torch.testing.assert_close(mixture.log_prob(z), torch.stack(terms).logsumexp(0), rtol=1e-9, atol=1e-9)


@schemes
def test_gradients(scheme):
    """Catches a density that trains neither the potential nor the base, and samples that carry no gradient."""
    matrix = spd(2, 0, -0.4, 0.4)
    loc = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    flow = PotentialFlow(QuadraticPotential(2, matrix))
    distribution = flow.push_forward(Independent(Normal(loc, 1.0), 1), [0.0, 1.0], scheme)
    z = normal(1, 6, 2)
    leaves = [loc, flow.potential.matrix]
    found = torch.autograd.grad(distribution.log_prob(z).sum(), leaves)
    a = matrix.clone().requires_grad_()
    own = (a + a.mT) / 2
    f = torch.linalg.matrix_exp(own) if scheme is rk4 else torch.eye(2).double() + own
    closed = MultivariateNormal(f @ loc, f @ f.mT)
    expected = torch.autograd.grad(closed.log_prob(z).sum(), [loc, a])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert distribution.has_rsample
    slopes = torch.autograd.grad(distribution.rsample((5,)).sum(), leaves)
    torch.testing.assert_close(slopes[0], 5 * f.detach().sum(0), rtol=1e-5, atol=1e-5)
    assert not distribution.sample().requires_grad


def test_a_base_without_reparameterized_samples():
    """Catches has_rsample that is promised for every base."""

    class Drawn(Laplace):
        has_rsample = False

        def rsample(self, sample_shape=()):
            raise NotImplementedError

    zeros = torch.zeros(2, dtype=torch.float64)
    distribution = PotentialFlow(net(2, 0)).push_forward(Independent(Drawn(zeros, zeros + 1), 1), grid, Euler())
    assert not distribution.has_rsample
    with pytest.raises(NotImplementedError):
        distribution.rsample()
    assert distribution.log_prob(zeros).isfinite()


def test_points_outside_of_the_base():
    """Catches NaN or an error where a base that is not validated has no density."""
    base = Independent(Uniform(torch.zeros(1), torch.ones(1), validate_args=False), 1, validate_args=False)
    double = PotentialFlow(QuadraticPotential(1, torch.eye(1))).push_forward(base, [0.0, 1.0], Euler())
    z = torch.tensor([[-0.5], [0.5], [1.5], [2.5]])
    inf = torch.inf
    torch.testing.assert_close(double.log_prob(z).exp(), torch.tensor([0.0, 0.5, 0.5, 0.0]))
    torch.testing.assert_close(double.log_prob(z)[[0, 3]], torch.tensor([-inf, -inf]))


def test_a_fold_loses_mass_and_is_refused():
    """Catches a density that is reported where the step folds: only the injective one has E[p(g(z)) |g'| / q] = 1."""
    z = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    target = Normal(torch.tensor(math.pi, dtype=torch.float64), 0.5)
    for amplitude, mass in ((0.5, 1.0), (2.5, None)):
        flow = PotentialFlow(FunctionPotential(lambda z, t, a=amplitude: -a * z.cos().sum(-1))).eval()
        slope = (1 + amplitude * z.cos()).abs()
        total = torch.trapezoid(target.log_prob(z + amplitude * z.sin()).exp() * slope, z).item()
        distribution = flow.push_forward(standard(1), [0.0, 1.0], Euler())
        if mass is not None:
            assert total == pytest.approx(1, abs=1e-6)
            distribution.rsample_and_log_prob((100,))
        else:
            assert total > 1.01
            with pytest.raises(FoldError):
                distribution.rsample_and_log_prob((100,))
            distribution.sample((100,))  # a folded map still moves samples
            covered = torch.trapezoid(distribution.log_prob(z.unsqueeze(-1)).exp(), z)
            assert covered < 0.95  # one of several preimages counts


@pytest.mark.parametrize(
    "arguments",
    [
        {"scheme": ODE(divergence=Hutchinson())},
        {"scheme": Euler(FirstOrder(Hutchinson()))},
        {"scheme": Euler(LogDetSeries())},
    ],
)
def test_noise_is_refused_in_evaluation_only(arguments):
    """Catches a stochastic density in a reported likelihood: noise raises it."""
    z = normal(1, 5, 2)
    flow = PotentialFlow(FunctionPotential((net(2, 0) * 0.2).forward))
    distribution = flow.train().push_forward(standard(2), grid, **arguments)
    assert distribution.log_prob(z).isfinite().all()
    assert distribution.rsample_and_log_prob()[1].isfinite()
    flow.eval()
    for call in (lambda: distribution.log_prob(z), distribution.rsample_and_log_prob):
        with pytest.raises(ValueError, match=r"^scheme: expected an exact .* in evaluation mode"):
            call()
    distribution.sample()
    distribution.rsample()


def test_no_volume_no_density():
    """Catches a density without its determinant."""
    flow = PotentialFlow(net(2, 0))
    for scheme in (Euler(None), replace(rk4, divergence=None)):
        distribution = flow.push_forward(standard(2), grid, scheme)
        distribution.sample()
        with pytest.raises(ValueError, match="scheme: expected one with a log-determinant, without which no density"):
            distribution.log_prob(torch.zeros(2, dtype=torch.float64))


def test_wrong_arguments():
    """Catches messages that do not name the argument, and a base whose coordinates are a batch."""
    flow = PotentialFlow(net(2, 0))
    with pytest.raises(ValueError, match=r"^base: expected events of shape \(dim,\), got \(\); .*Independent"):
        flow.push_forward(Normal(torch.zeros(2), 1.0), grid, ODE())
    with pytest.raises(TypeError, match=r"^base: expected"):
        flow.push_forward(torch.zeros(2), grid, ODE())
    with pytest.raises(TypeError, match=r"^scheme: expected"):
        flow.push_forward(standard(2), grid, "dopri5")
    distribution = flow.push_forward(standard(2), grid, Euler(), validate_args=True)
    with pytest.raises(ValueError, match="shape"):
        distribution.log_prob(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="value: expected numbers"):
        distribution.log_prob(torch.tensor([0.0, torch.nan], dtype=torch.float64))
    loose = flow.push_forward(standard(2), grid, Euler(), validate_args=False)
    with pytest.raises(FloatingPointError):
        loose.log_prob(torch.tensor([0.0, torch.nan], dtype=torch.float64))
