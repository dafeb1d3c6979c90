"""Transported priors against the closed form of linear flows, and their divergences under shared flows."""

from itertools import pairwise

import pytest
import torch
from closed_forms import generator, normal, spd
from quadrature import bank, grid, mild, mixture
from torch.distributions import Independent, MultivariateNormal, Normal

from latentflow import (
    ODE,
    Euler,
    GaussianPrior,
    HopfLaxFlow,
    Hutchinson,
    MixturePrior,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
    TransportedPrior,
)
from latentflow.flow import FirstOrder, FoldError, FoldWarning, InversionError
from latentflow.priors import DiffusedPrior

DIM = 2
EYE = torch.eye(DIM, dtype=torch.float64)
MAPS = [(spd(DIM, 1) - EYE, normal(2, DIM)), (spd(DIM, 3) - EYE, normal(4, DIM))]
near = {"rtol": 1e-11, "atol": 1e-11}
loose = {"rtol": 1e-6, "atol": 1e-6}
tight = ODE(rtol=1e-8, atol=1e-9)
NO_DENSITY = ODE(divergence=None)


def quadratics():
    return PotentialBank([QuadraticPotential(DIM, matrix, vector) for matrix, vector in MAPS])


def affine(k, time, scheme):
    """The map z -> F z + b of the flow along a quadratic, in closed form."""
    matrix, vector = MAPS[k]
    if isinstance(scheme, Euler):
        power, shift = EYE, torch.zeros_like(vector)
        for _ in range(int(time)):
            power, shift = (EYE + matrix) @ power, (EYE + matrix) @ shift + vector
        return power, shift
    augmented = torch.zeros(DIM + 1, DIM + 1, dtype=torch.float64)
    augmented[:DIM, :DIM], augmented[:DIM, DIM] = matrix, vector
    solution = torch.linalg.matrix_exp(time * augmented)
    return solution[:DIM, :DIM], solution[:DIM, DIM]


@pytest.mark.parametrize(("scheme", "last"), [(Euler(), 3.0), (tight, 0.7)])
def test_linear_flow_of_a_normal_distribution(scheme, last):
    """Catches log p_0 at the point in place of its start, log_det of the wrong sign, and another point's time or field.

    The points are anywhere, not on a trajectory from the base: carrying log p_0(z_0) along one is caught as well.
    """
    prior = TransportedPrior(GaussianPrior(DIM).double(), quadratics(), scheme).eval()
    t, k = torch.tensor([[0.0], [1.0], [last], [2.0]], dtype=torch.float64), torch.tensor([1, 0, 0, 1, 0])
    z = 2 * normal(7, 4, 5, DIM)
    law = prior(t, k)
    assert law.batch_shape == (4, 5)
    together = law.log_prob(z)
    torch.testing.assert_close(law.log_prob(z.expand(3, 4, 5, DIM)), together.expand(3, 4, 5), **loose)
    for n, time in enumerate(t.flatten().tolist()):
        for i in range(5):
            matrix, vector = affine(int(k[i]), time, scheme)
            covariance = matrix @ matrix.mT
            expected = MultivariateNormal(vector, (covariance + covariance.mT) / 2).log_prob(z[n, i])
            torch.testing.assert_close(together[n, i], expected, **loose)
            if i < 2:
                torch.testing.assert_close(prior(time, int(k[i])).log_prob(z[n, i]), expected, **loose)


@pytest.mark.parametrize("k", [0, 1])
def test_density_along_a_trajectory_of_a_net(k):
    """Catches steps undone in the wrong order, and potentials that are taken at the times of other steps."""
    start, fields = mixture(DIM), bank(DIM)
    trajectory = PotentialFlow(fields[k]).rollout(normal(0, 6, DIM), 3)
    law = TransportedPrior(start, fields).eval()(trajectory.times.unsqueeze(-1), k)
    expected = start().log_prob(trajectory.z[0]) - trajectory.log_det
    torch.testing.assert_close(law.log_prob(trajectory.z), expected, **near)


@pytest.mark.parametrize("scheme", [Euler(), tight])
def test_samples_stop_at_their_own_times(scheme):
    """Catches samples that go on to the last time, and gradients that do not reach the base and the potential."""
    start = DiffusedPrior(MixturePrior(DIM, 1), 2).double()
    with torch.no_grad():
        start.prior.mean.copy_(normal(0, 1, DIM))
    potentials = quadratics()
    prior = TransportedPrior(GaussianPrior(DIM).double(), potentials, scheme).eval()
    t, k = torch.tensor([0.0, 1.0, 2.0, 1.0]), torch.tensor([0, 1, 0, 0])
    torch.manual_seed(3)
    z = prior(t, k).rsample((6,))
    torch.manual_seed(3)
    z0 = Normal(torch.zeros(6, 4, DIM, dtype=torch.float64), 1.0).rsample()
    for i in range(4):
        matrix, vector = affine(int(k[i]), float(t[i]), scheme)
        torch.testing.assert_close(z[:, i], z0[:, i] @ matrix.mT + vector, **loose)
    z.sum().backward()
    assert all((p.grad != 0).any() for u in potentials.potentials for n, p in u.named_parameters() if n != "constant")
    drawn, log_p = prior(t, k).rsample_and_log_prob((6,))
    torch.testing.assert_close(log_p, prior(t, k).log_prob(drawn), **loose)
    moving = TransportedPrior(start, potentials, scheme).eval()
    assert not moving(t, k).has_rsample
    assert moving(t, k).sample((2,)).shape == (2, 4, DIM)


@pytest.mark.parametrize("scheme", [Euler(), ODE("rk4", options={"step_size": 0.1})])
def test_divergence_is_constant_under_a_shared_flow(scheme):
    """Catches a log_det that is missing: it cancels in the integrand and not in the weight."""
    potential, (z, cell) = mild(1, 3), grid(1)
    q = TransportedPrior(mixture(1, 0), potential, scheme).eval()
    p = TransportedPrior(mixture(1, 60), potential, scheme).eval()
    values = []
    for time in (0.0, 1.0, 3.0):
        with torch.no_grad():
            log_q, log_p = q(time).log_prob(z), p(time).log_prob(z)
        values.append((log_q.exp() * (log_q - log_p)).sum() * cell)
    assert values[0] > 0.1
    tolerance = 1e-9 if isinstance(scheme, Euler) else 1e-6
    torch.testing.assert_close(torch.stack(values), values[0].expand(3), rtol=tolerance, atol=tolerance)


def test_divergence_decreases_under_a_shared_heat_flow():
    """Catches a heat flow that runs backwards or at another speed for each component."""
    z, cell = grid(1)
    q, p = (DiffusedPrior(mixture(1, seed), diffusivity=0.5).double() for seed in (0, 60))
    values = []
    for time in (0.0, 0.5, 1.0, 2.0, 4.0):
        log_q, log_p = (law(time).log_prob(z).detach() for law in (q, p))
        values.append(float((log_q.exp() * (log_q - log_p)).sum() * cell))
    assert all(later < 0.9 * earlier for earlier, later in pairwise(values))
    assert values[-1] > 0


def test_gradients_in_every_parameter():
    """Catches an inverse that cuts the graph to the potential."""
    weights = [0.1 * normal(i, *p.shape) for i, p in enumerate(bank(DIM).parameters())]
    prior = TransportedPrior(mixture(DIM), bank(DIM)).eval()
    z, k = normal(5, 3, 2, DIM), torch.tensor([0, 1])
    t = torch.tensor([[0.0], [1.0], [2.0]])
    prior(t, k).log_prob(z).sum().backward()
    slope = sum((p.grad * w).sum() for p, w in zip(prior.potential.parameters(), weights, strict=True))
    values = []
    for step in (1e-5, -1e-5):
        moved = TransportedPrior(mixture(DIM), bank(DIM)).eval()
        with torch.no_grad():
            for p, w in zip(moved.potential.parameters(), weights, strict=True):
                p.add_(step * w)
            values.append(moved(t, k).log_prob(z).sum())
    torch.testing.assert_close(slope, (values[0] - values[1]) / 2e-5, rtol=1e-6, atol=1e-6)
    assert all((p.grad != 0).any() for p in prior.prior.parameters())


@pytest.mark.parametrize("scheme", [Euler(), ODE()])
def test_straight_paths(scheme):
    """Catches dynamics that are ignored, and intervals of a trajectory that start from time 0 each."""
    convex = PotentialBank([QuadraticPotential(DIM, EYE + matrix, vector) for matrix, vector in MAPS])
    prior = TransportedPrior(GaussianPrior(DIM).double(), convex, scheme, dynamics=HopfLaxFlow).eval()
    t, k, z = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64), torch.tensor([0, 1]), normal(3, 3, 2, DIM)
    law = prior(t, k)
    torch.manual_seed(3)
    drawn, log_p = law.rsample_and_log_prob((4,))
    torch.manual_seed(3)
    z0 = Normal(torch.zeros(4, 3, 2, DIM, dtype=torch.float64), 1.0).rsample()
    for n in range(3):
        for i in range(2):
            matrix, vector = MAPS[i]
            scale = EYE + t[n] * (EYE + matrix)
            expected = MultivariateNormal(t[n] * vector, scale @ scale)
            torch.testing.assert_close(law.log_prob(z)[n, i], expected.log_prob(z[n, i]), **near)
            torch.testing.assert_close(drawn[:, n, i], z0[:, n, i] @ scale + t[n] * vector, **near)
            torch.testing.assert_close(log_p[:, n, i], expected.log_prob(drawn[:, n, i]), **near)


def test_batch_shapes():
    """Catches masks that fail for one point or none, and a batch shape that expands the wrong way."""
    prior = TransportedPrior(GaussianPrior(DIM).double(), quadratics()).eval()
    z = normal(0, DIM)
    one = prior(2.0, 1).log_prob(z)
    assert one.shape == ()
    torch.testing.assert_close(prior(torch.tensor([2.0]), 1).log_prob(z), one[None], **near)
    torch.testing.assert_close(prior(2, torch.tensor([0, 1])).expand((3, 2)).log_prob(z)[1, 1], one, **near)
    with torch.no_grad():
        none = prior(torch.zeros(0), torch.zeros(0, dtype=torch.int64)).transform
        none = none.flow.inverse(z.new_zeros(0, DIM), none.times, none.scheme)
    assert none.z.shape == (1, 0, DIM)
    assert none.log_det.shape == (1, 0)
    assert prior(2.0, 1).sample((3,)).dtype == torch.float64


def test_one_field_needs_no_index():
    """Catches an index that is asked for in vain, or passed on to a potential."""
    prior = TransportedPrior(GaussianPrior(DIM).double(), QuadraticPotential(DIM, *MAPS[0])).eval()
    single = TransportedPrior(GaussianPrior(DIM).double(), PotentialBank([QuadraticPotential(DIM, *MAPS[0])])).eval()
    z = normal(0, 4, DIM)
    torch.testing.assert_close(prior(1.0).log_prob(z), single(1.0).log_prob(z), **near)
    torch.testing.assert_close(prior(1.0, torch.tensor([5, 5, 0, 1])).log_prob(z), single(1.0).log_prob(z), **near)


def test_folds_are_refused_in_evaluation_only():
    """Catches a density of a map that folds, a mode that is not passed on, and one that reaches into the potential."""
    flip = QuadraticPotential(DIM, -3 * EYE)
    prior = TransportedPrior(GaussianPrior(DIM).double(), flip)
    with pytest.warns(FoldWarning):
        prior(1.0).rsample_and_log_prob((4,))
    with pytest.raises(FoldError):
        prior.eval()(1.0).rsample_and_log_prob((4,))
    with pytest.raises(InversionError):
        prior(1.0).log_prob(normal(0, 4, DIM))


@pytest.mark.parametrize("scheme", [Euler(FirstOrder(Hutchinson())), ODE(divergence=Hutchinson())])
def test_random_volumes_are_for_training_only(scheme):
    """Catches a reported density with the noise of probes."""
    potential = mild(DIM, 0)
    prior, z = TransportedPrior(GaussianPrior(DIM).double(), potential, scheme), normal(0, 4, DIM)
    assert torch.isfinite(prior(1.0).log_prob(z)).all()
    with pytest.raises(ValueError, match="in evaluation mode"):
        prior.eval()(1.0).log_prob(z)
    potential.train()
    prior.training = False
    with pytest.raises(ValueError, match="in evaluation mode"):
        prior(1.0).log_prob(z)
    assert potential.training


def test_the_cost_grows_with_the_distinct_times():
    """Catches points that are followed one by one, or along steps that others need only."""
    sizes = []

    def counted(z, t):
        sizes.append(len(z))
        return 0.1 * z.square().sum(-1)

    prior = TransportedPrior(GaussianPrior(DIM).double(), counted).eval()
    t = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    with torch.no_grad():
        prior(t).sample()
        prior(t.expand(4, 5)).sample()
    assert sizes == [3, 2, 1, 15, 10, 5]


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        (TypeError, "potential", lambda p: TransportedPrior(p, 1.0)),
        (TypeError, "scheme", lambda p: TransportedPrior(p, bank(DIM), "euler")),
        (
            ValueError,
            "scheme",
            lambda p: TransportedPrior(p, mild(DIM, 3), Euler(None))(1.0).log_prob(torch.zeros(DIM)),
        ),
        (ValueError, "scheme", lambda p: TransportedPrior(p, mild(DIM, 3), NO_DENSITY)(1.0).log_prob(torch.zeros(DIM))),
        (ValueError, "t", lambda p: TransportedPrior(p, bank(DIM))(0.5, 0)),
        (ValueError, "t", lambda p: TransportedPrior(p, bank(DIM))(-1.0, 0)),
        (ValueError, "t", lambda p: TransportedPrior(p, bank(DIM))(torch.ones(3), torch.tensor([0, 1]))),
        (ValueError, "k", lambda p: TransportedPrior(p, bank(DIM))(1.0)),
        (ValueError, "k", lambda p: TransportedPrior(p, bank(DIM))(1.0, 2)),
        (TypeError, "k", lambda p: TransportedPrior(p, bank(DIM))(1.0, torch.tensor([0.0]))),
        (ValueError, "base", lambda p: TransportedPrior(lambda t, k: Normal(0.0, 1.0), bank(DIM))(1.0, 0)),
    ],
)
def test_wrong_arguments(error, name, call):
    """Catches messages that do not name the argument."""
    with pytest.raises(error, match=f"^{name}: expected"):
        call(GaussianPrior(DIM))


def test_gaussian_reference_agrees_with_the_diffused_start():
    """Catches a start that is taken at the time asked for: the base stays at time 0."""
    start = DiffusedPrior(GaussianPrior(DIM), diffusivity=1.0).double()
    prior = TransportedPrior(start, QuadraticPotential(DIM, torch.zeros(DIM, DIM)).double()).eval()
    z = torch.randn(5, DIM, generator=generator(0), dtype=torch.float64)
    expected = Independent(Normal(torch.zeros(DIM, dtype=torch.float64), 1.0), 1)
    torch.testing.assert_close(prior(3.0).log_prob(z), expected.log_prob(z), **near)
