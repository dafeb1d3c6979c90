"""Maps of optimal transport fitted to samples, against closed forms."""

import itertools
import math
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from closed_forms import normal, spd
from torch.distributions import MultivariateNormal

from latentflow import MLPPotential, Potential, QuadraticPotential, gaussian_transport_potential, gaussian_wasserstein2
from latentflow.calculus import Derivative, JetRequest, autodiff_jet, evaluate_jet
from latentflow.flow import LBFGS, Newton
from latentflow.potentials.algebra import ScaledPotential
from latentflow.transport import (
    Coordinates,
    DualPotential,
    Independent,
    MatchedPotential,
    MinibatchAssignment,
    OptimalFlowMatching,
    Reflow,
    TransportMap,
    fit_transport,
)
from latentflow.transport.dual import conjugate
from latentflow.transport.optimal_flow_matching import matching_loss

near = {"rtol": 1e-9, "atol": 1e-9}


def gaussians(dim=3, seed=0):
    """Means and covariances of two Gaussians, and samplers."""
    m0, m1 = normal(seed, 2, dim)
    S0, S1 = spd(dim, seed), spd(dim, seed + 1)

    def sampler(mean, covariance):
        root = torch.linalg.cholesky(covariance)
        return lambda count, generator: mean + torch.randn(count, dim, generator=generator, dtype=mean.dtype) @ root.mT

    return (m0, S0, m1, S1), sampler(m0, S0), sampler(m1, S1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small(dim, seed=0):
    torch.manual_seed(seed)
    return MLPPotential(dim, (32, 32), activation=torch.nn.functional.silu, output_scale=0.1)


def test_a_matched_potential_is_differentiated_by_the_chain_rule():
    """Catches a Hessian that is not changed on both sides, a unit to the wrong power, and a trace in other axes."""
    x, y = normal(0, 100, 3), normal(1, 80, 3) @ normal(2, 3, 3) + 2
    u = MatchedPotential(small(3).double(), Coordinates.match(x, y))
    z, t = normal(3, 5, 3), torch.rand(5, dtype=torch.float64)
    wanted = Derivative.LAPLACIAN | Derivative.HESSIAN | Derivative.SECOND_TIME_DERIVATIVE
    wanted |= Derivative.GRADIENT_TIME_DERIVATIVE | Derivative.QUADRATIC | Derivative.PRODUCTS
    request = JetRequest(wanted, normal(4, 5, 2, 3))
    found, expected = evaluate_jet(u, z, t, request), autodiff_jet(u.__call__, z, t, request)
    for name in ("value", "gradient", "time_derivative"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), **near)
    assert found.derivatives == wanted
    for derivative in wanted:
        torch.testing.assert_close(found.second[derivative], expected.second[derivative], **near)


def test_coordinates_match_moments_and_come_back():
    """Catches the inverse matrix on the wrong side, and covariances that agree up to a rotation only."""
    x, y = normal(0, 500, 4) @ normal(1, 4, 4) + 3, normal(2, 400, 4) @ normal(3, 4, 4) - 1
    own = Coordinates.match(x, y)
    a, b = own.source(x), own.target(y)
    torch.testing.assert_close(a.mean(0), b.mean(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(a.T @ a / len(a), b.T @ b / len(b), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(float(a.square().mean()), 1.0, rtol=1e-6, atol=0)
    torch.testing.assert_close(own.from_source(a), x, **near)
    torch.testing.assert_close(own.from_target(b), y, **near)


def test_coordinates_of_a_flat_cloud_can_be_undone():
    """Catches a division by the variance of a direction in which a cloud is constant."""
    x = normal(0, 50, 3) * torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    own = Coordinates.match(x, normal(1, 50, 3))
    assert torch.isfinite(own.source(x)).all()
    torch.testing.assert_close(own.from_source(own.source(x)), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("search", [LBFGS(shrink=True), Newton()])
def test_the_conjugate_is_the_solution_of_hamilton_jacobi_at_time_one(search):
    """Catches a half or a sign in the transform: for Gaussians the solution is known at all times."""
    (m0, S0, m1, S1), _, _ = gaussians()
    u = gaussian_transport_potential(m0, S0, m1, S1)
    y = normal(5, 20, 3)
    found = conjugate(u, y, search)
    assert found.found.all()
    torch.testing.assert_close(found.value, u(y, torch.ones(20, dtype=torch.float64)), **near)
    torch.testing.assert_close(u.transport(found.x), y, **near)


def test_points_that_are_not_found_are_searched_again():
    """Catches a search that gives up after its first iterations, and rows put back in other places."""
    (m0, S0, m1, S1), _, _ = gaussians()
    u = gaussian_transport_potential(m0, S0, m1, S1)
    y = 5 * normal(5, 20, 3)
    brief = LBFGS(max_iterations=4)
    assert not brief.search(u, y, 0.0, 1.0).found.all()
    found = conjugate(u, y, brief)
    assert found.found.all()
    torch.testing.assert_close(u.transport(found.x), y, rtol=1e-6, atol=1e-6)


def test_a_step_of_the_dual_goes_up_its_slope():
    """Catches a flipped sign, and a minimum that moves with the weights: the slope is that of finite differences."""
    x, y = normal(0, 64, 2), 1.5 * normal(1, 64, 2) + 1
    u = small(2).double()

    def dual():
        return 2 * (conjugate(u, y, Newton()).value.mean() - u(x, torch.zeros(64, dtype=torch.float64)).mean())

    training = DualPotential(Newton(), batch_size=64).begin(u, lambda count: (x, y), None)
    weight = u.output.weight
    direction = normal(7, *weight.shape)
    with torch.no_grad():
        weight += 1e-5 * direction
        above = dual()
        weight -= 2e-5 * direction
        below = dual()
        weight += 1e-5 * direction
    slope = (above - below) / 2e-5
    training.step(0.0)  # leaves the gradient of the loss, half of the dual with the other sign
    found = -2 * (weight.grad * direction).sum()
    limited = u.output.weight.grad.norm() < 10
    assert limited
    torch.testing.assert_close(found, slope, rtol=1e-4, atol=1e-6)


class TwoWells(Potential):
    """Two wells on a line, at -5 and at 0, whose depths are trained."""

    def __init__(self):
        super().__init__()
        self.depths = torch.nn.Parameter(torch.tensor([13.0, 2.0], dtype=torch.float64))

    @property
    def dim(self):
        return 1

    def forward(self, z, t):
        return -(self.depths * (-(z - torch.tensor([-5.0, 0.0], dtype=torch.float64)).square() / 2).exp()).sum(-1)


def test_a_step_looks_for_lower_minima_elsewhere():
    """Catches a well that no step reaches from the learned start, and that nothing fills: it is the lower one."""
    u, far = TwoWells(), torch.full((8, 1), 100.0, dtype=torch.float64)
    training = DualPotential(batch_size=8).begin(u, lambda count: (far, torch.zeros_like(far)), seeded())
    with torch.no_grad():
        training.starts.change[-1].weight.zero_()
        training.starts.change[-1].bias.fill_(-4.617)
    training.step(0.0)
    torch.testing.assert_close(u.depths.grad, torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-4)


def test_a_quadratic_potential_finds_the_gaussian_map():
    """Catches a map onto something else than the target: closed form, without any matching of moments."""
    (m0, S0, m1, S1), source, target = gaussians()
    u = QuadraticPotential(3).double()
    method = DualPotential(LBFGS(max_iterations=20, tolerance=1e-4, shrink=True), batch_size=1024, learning_rate=0.05)
    fitted = fit_transport(
        source, target, potential=u, method=method, budget=150, match_moments=False, certify=False, generator=seeded()
    )
    x = source(2000, seeded(1))
    truth = gaussian_transport_potential(m0, S0, m1, S1).transport(x)
    error = (fitted.map(x) - truth).square().sum(-1).mean() / S1.trace()
    assert error < 8e-3  # 0.6 at the start


@pytest.mark.parametrize(
    ("method", "most"),
    [
        (OptimalFlowMatching(learning_rate=0.03, batch_size=512), 0.01),
        (OptimalFlowMatching(LBFGS(shrink=False), Independent(), learning_rate=0.03, batch_size=512), 0.02),
    ],
)
def test_optimal_flow_matching_finds_the_gaussian_map(method, most):
    """Catches a gradient with the wrong sign or factor, under both couplings."""
    (m0, S0, m1, S1), source, target = gaussians()
    u = QuadraticPotential(3).double()
    fitted = fit_transport(
        source, target, potential=u, method=method, budget=200, match_moments=False, certify=False, generator=seeded()
    )
    x = source(2000, seeded(1))
    truth = gaussian_transport_potential(m0, S0, m1, S1).transport(x)
    error = (fitted.map(x) - truth).square().sum(-1).mean() / S1.trace()
    assert error < most  # 0.6 at the start


def test_reflow_pairs_the_ends_of_its_flow():
    """Catches pairs that go on from the wrong end, or in one direction only: for optimal transport they are known."""
    (m0, S0, m1, S1), source, target = gaussians()
    optimal = gaussian_transport_potential(m0, S0, m1, S1)
    x, y = source(6, seeded(1)), target(6, seeded(2))
    training = Reflow(batch_size=6).begin(small(3).double(), lambda count: (x, y), seeded())
    start, end = training._pairs()
    assert torch.equal(start, x)
    assert torch.equal(end, MinibatchAssignment().pair(x, y))
    training.before = optimal
    start, end = training._pairs()
    torch.testing.assert_close(optimal.transport(start), end, rtol=1e-4, atol=1e-4)
    assert torch.equal(start[:3], x[:3])
    assert torch.equal(end[3:], y[3:])


def test_reflow_lowers_the_cost_of_its_pairs():
    """Catches a velocity that is fitted backwards in time, and rounds that never begin: towards the known distance."""
    (m0, S0, m1, S1), source, target = gaussians()
    method = Reflow(rounds=2, coupling=Independent(), learning_rate=0.02)
    torch.manual_seed(0)
    fitted = fit_transport(
        source, target, potential=MLPPotential(3, (32, 32)).double(), method=method, budget=300,
        match_moments=False, certify=False, generator=seeded(),
    )  # fmt: skip
    truth = float(gaussian_wasserstein2(m0, S0, m1, S1, squared=True))
    x, y = source(20_000, seeded(1)), target(20_000, seeded(2))
    independent = float((x - y).square().sum(-1).mean())
    costs = [own.measures["cost"] for own in fitted.history[1:] if own.measures["round"] == 1]
    last = sum(costs) / len(costs)
    assert truth < 1.05 * last
    assert last < truth + 0.25 * (independent - truth)


def test_the_gradient_of_optimal_flow_matching_is_that_of_its_loss():
    """Catches a transposed or missing inverse, against finite differences of the loss with starts found anew."""
    u = small(2).double()
    x, y, t = normal(0, 64, 2), 2 * normal(1, 64, 2) + 1, 0.1 + 0.8 * torch.rand(64, dtype=torch.float64)
    points = torch.lerp(x, y, t[:, None])

    def origins():
        return Newton().search(ScaledPotential(u, t), points, 0.0, 1.0).z

    def loss():
        return ((x - origins()).square().sum(-1) / t.square()).mean()

    weight, direction = u.output.weight, normal(7, *u.output.weight.shape)
    (slope,) = torch.autograd.grad(matching_loss(u, origins(), x, t), weight)
    with torch.no_grad():
        weight += 1e-5 * direction
        above = loss()
        weight -= 2e-5 * direction
        below = loss()
    torch.testing.assert_close((slope * direction).sum(), (above - below) / 2e-5, rtol=1e-4, atol=1e-6)


def test_a_batch_is_assigned_in_parts():
    """Catches partners from another part, and a sum that is not the least: by hand over all orders of four points."""
    x, y = normal(0, 8, 2), normal(1, 8, 2)
    paired = MinibatchAssignment(4).pair(x, y)
    for part in (slice(0, 4), slice(4, 8)):
        orders = [y[part][list(order)] for order in itertools.permutations(range(4))]
        least = min(orders, key=lambda order: float((x[part] - order).square().sum()))
        assert torch.equal(paired[part], least)


def test_a_chain_trains_each_method_for_its_share():
    """Catches shares that are counts, and a chain that starts each method from new weights."""
    _, source, target = gaussians(2)
    methods = [Reflow(share=1.0, batch_size=32), DualPotential(share=3.0, batch_size=32)]
    fitted = fit_small(source, target, seeded(), method=methods, budget=40)
    steps = [own.step for own in fitted.history if own.method == "Reflow"]
    assert steps[-1] == 10
    assert {own.method for own in fitted.history} == {"Reflow", "DualPotential"}
    assert fitted.history[-1].step == 40


@pytest.fixture(scope="module")
def bent():
    """A map of the line that is bent: the source is normal, the target is its image under x + tanh(3 x)."""

    def source(count, generator):
        return torch.randn(count, 1, generator=generator)

    def image(x):
        return x + (3 * x).tanh()

    fitted = fit_transport(source, lambda n, g: image(source(n, g)), potential=small(1), budget=600, generator=seeded())
    return fitted, source, image


def test_on_the_line_the_map_is_the_monotone_one(bent):
    """Catches a map that only matches moments: the best linear one is off by 2.4 % of the variance."""
    fitted, source, image = bent
    x = source(4000, seeded(5))
    y = image(x)
    assert (fitted.map(x) - y).square().mean() / y.var() < 3e-3
    assert (fitted.inverse(y) - x).square().mean() < 3e-3
    slope = fitted.map(x.sort(0).values).diff(dim=0)
    assert (slope >= 0).all()


def test_its_certificate_brackets_the_distance(bent):
    """Catches a bracket of the wrong unit or around another cost."""
    fitted, source, image = bent
    certificate = fitted.certificate
    x = source(200_000, seeded(9))
    truth = float((image(x) - x).square().mean())
    assert certificate.lower < truth < certificate.upper
    assert certificate.width < 0.08
    assert certificate.not_found == 0
    assert abs(certificate.primal - truth) < 0.15 * truth
    assert abs(certificate.end_distance) < 0.05 * truth


def test_its_density_is_that_of_the_target(bent):
    """Catches a log-determinant of the inverse, or a missing one: the change of variables by hand."""
    fitted, source, image = bent
    base = MultivariateNormal(torch.zeros(1), torch.eye(1))
    x = source(500, seeded(3))
    y = image(x)
    expected = base.log_prob(x) - (1 + 3 / (3 * x).cosh().square()).log().squeeze(-1)
    error = fitted.push_forward(base).log_prob(y) - expected
    assert error.abs().mean() < 0.2
    torch.testing.assert_close(fitted.interpolate(x, 0.0), x)
    torch.testing.assert_close(fitted.interpolate(x, 1.0), fitted.map(x))


def test_its_dual_values_rise(bent):
    """Catches a history that is not that of the validation, and a return of the last potential in place of the best."""
    fitted, _, _ = bent
    values = [own.dual for own in fitted.history]
    assert values[0] < values[-1]
    assert [own.step for own in fitted.history] == [30 * i for i in range(21)]


@pytest.mark.parametrize("unit", [1e-3, 1e4])
def test_the_map_does_not_depend_on_the_unit_of_length(unit):
    """Catches a tolerance, an initial step or a network in fixed units."""
    _, source, target = gaussians(2)
    fitted = [
        fit_transport(
            lambda n, g, s=s: s * source(n, g),
            lambda n, g, s=s: s * target(n, g).abs(),
            potential=small(2).double(),
            budget=20,
            certify=False,
            generator=seeded(),
        )
        for s in (1.0, unit)
    ]
    x = source(50, seeded(1))
    torch.testing.assert_close(fitted[1].map(unit * x) / unit, fitted[0].map(x), rtol=1e-5, atol=1e-5)


def test_a_translation_of_both_sides_translates_the_map():
    """Catches a map that depends on where the origin is."""
    _, source, target = gaussians(2)
    shift, other = torch.tensor([30.0, -5.0]).double(), torch.tensor([-7.0, 1.0]).double()
    fitted = [
        fit_transport(
            lambda n, g, a=a: source(n, g) + a,
            lambda n, g, b=b: target(n, g).abs() + b,
            potential=small(2).double(),
            budget=20,
            certify=False,
            generator=seeded(),
        )
        for a, b in ((0.0, 0.0), (shift, other))
    ]
    x = source(50, seeded(1))
    torch.testing.assert_close(fitted[1].map(x + shift), fitted[0].map(x) + other, rtol=1e-6, atol=1e-6)


def test_a_rotation_of_both_sides_rotates_the_coordinates():
    """Catches a root of a matrix that is no symmetric one, such as its Cholesky factor."""
    x, y = normal(0, 300, 3) @ normal(1, 3, 3), normal(2, 300, 3)
    Q = torch.linalg.qr(normal(3, 3, 3)).Q
    plain, turned = Coordinates.match(x, y), Coordinates.match(x @ Q.mT, y @ Q.mT)
    torch.testing.assert_close(turned.root, Q @ plain.root @ Q.mT, **near)


class Interrupted:
    """A source that is stopped by Ctrl-C at its n-th call."""

    def __init__(self, source, calls=math.inf):
        self.source, self.calls = source, calls

    def __call__(self, count, generator):
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return self.source(count, generator)


def fit_small(source, target, generator, **options):
    return fit_transport(source, target, potential=small(2).double(), certify=False, generator=generator, **options)


class Multiples:
    """A method that sets a quadratic potential to one multiple of a matrix after the other, for even shares."""

    share = 1.0

    def __init__(self, matrix, factors):
        self.matrix, self.factors = matrix, factors

    def begin(self, potential, draw, generator):
        def step(progress):
            with torch.no_grad():
                potential.matrix.copy_(self.matrix * self.factors[int(progress * len(self.factors))])
            return {}

        return SimpleNamespace(step=step, state=dict, load=lambda state: None)


def fit_multiples(factors):
    """Return what is found, the samples of the source, and the optimal map."""
    (_, S0, _, S1), _, _ = gaussians(2)
    zero = torch.zeros(2, dtype=torch.float64)
    optimal = gaussian_transport_potential(zero, S0, zero, S1)
    x, y = (normal(seed, 4000, 2) @ torch.linalg.cholesky(S).mT for seed, S in ((1, S0), (2, S1)))
    method = Multiples(optimal.matrix - torch.eye(2, dtype=torch.float64), factors)
    fitted = fit_transport(
        x,
        y,
        potential=QuadraticPotential(2).double(),
        method=method,
        budget=40,
        match_moments=False,
        certify=False,
        generator=seeded(),
    )
    return fitted, x, optimal


def test_of_potentials_that_differ_by_chance_the_last_is_returned():
    """Catches a choice among potentials by the noise of the validation, whose largest value has the wrong one."""
    fitted, x, optimal = fit_multiples((1.02, 0.98, 1.0))
    torch.testing.assert_close(fitted.map(x), optimal.transport(x))
    values = [own.dual for own in fitted.history]
    assert max(values[1:-1]) > values[-1] > 0.99 * max(values)


def test_the_best_potential_is_returned():
    """Catches the last potential in its place: a training may leave what it had found."""
    fitted, x, optimal = fit_multiples((1.0, 9.0))
    torch.testing.assert_close(fitted.map(x), optimal.transport(x))
    assert fitted.history[-1].dual < max(own.dual for own in fitted.history)


def test_ctrl_c_returns_the_best_so_far():
    """Catches a traceback in place of the work that was done."""
    _, source, target = gaussians(2)
    fitted = fit_small(Interrupted(source, 50), target, seeded(), budget=1000)
    assert fitted.history[-1].step < 50
    assert torch.isfinite(fitted.map(source(5, seeded()))).all()


@pytest.mark.parametrize("method", [DualPotential(), Reflow(batch_size=32), OptimalFlowMatching(batch_size=32)])
def test_a_training_that_was_stopped_goes_on_to_the_same_map(tmp_path, method):
    """Catches weights, optimizers, starts or random numbers that are not in the checkpoint."""
    _, source, target = gaussians(2)
    file = tmp_path / "fit.pt"
    options = {"method": method, "budget": 60}
    whole = fit_small(source, target, seeded(), **options)
    fit_small(Interrupted(source, 43), target, seeded(), **options, checkpoint=file)
    assert file.exists()
    resumed = fit_small(source, target, seeded(), **options, checkpoint=file)
    assert not file.exists()
    assert list(tmp_path.iterdir()) == []
    x = source(20, seeded(4))
    assert torch.equal(resumed.map(x), whole.map(x))
    assert [own.step for own in resumed.history] == [own.step for own in whole.history]


def test_the_checkpoint_of_another_call_is_refused(tmp_path):
    """Catches a training that goes on from weights of another method."""
    _, source, target = gaussians(2)
    file = tmp_path / "fit.pt"
    fit_small(Interrupted(source, 40), target, seeded(), budget=60, checkpoint=file)
    with pytest.raises(ValueError, match="checkpoint: expected that of"):
        fit_small(source, target, seeded(), budget=61, checkpoint=file)


def test_a_map_is_not_lost_where_its_certificate_is_stopped(tmp_path):
    """Catches a training of hours that is thrown away by Ctrl-C in the last seconds, when the checkpoint is gone."""
    _, source, target = gaussians(2)
    drawn = []

    def counted(count, generator):
        drawn.append(count)
        return source(count, generator)

    whole = fit_small(counted, target, seeded(), budget=20)
    certifying = Interrupted(source, len(drawn))  # its next call is that of the certificate
    file = tmp_path / "fit.pt"
    options = {"potential": small(2).double(), "budget": 20, "checkpoint": file, "generator": seeded()}
    try:
        stopped = fit_transport(certifying, target, **options)
    except KeyboardInterrupt:
        pytest.fail("the map is lost")
    assert certifying.calls == -1
    assert stopped.certificate is None
    x = source(20, seeded(4))
    assert torch.equal(stopped.map(x), whole.map(x))
    assert not file.exists()


def test_a_map_is_saved_and_loaded(tmp_path, bent):
    """Catches weights or coordinates that are left out of the file."""
    fitted, source, _ = bent
    fitted.save(tmp_path / "map.pt")
    loaded = TransportMap.load(tmp_path / "map.pt", small(1, seed=8))
    x = source(20, seeded(4))
    assert torch.equal(loaded.map(x), fitted.map(x))
    assert loaded.certificate == fitted.certificate
    assert loaded.history == fitted.history
    with pytest.raises(RuntimeError, match="size mismatch"):
        TransportMap.load(tmp_path / "map.pt")


def test_the_same_seed_gives_the_same_map():
    """Catches a draw from torch's own source of randomness beside the generator."""
    _, source, target = gaussians(2)
    x = source(20, seeded(4))
    maps = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        maps.append(fit_transport(source, target, budget=3, certify=False, generator=seeded()).map(x))
    assert torch.equal(*maps)


def test_samples_of_a_tensor_are_held_out():
    """Catches a certificate on samples that were trained on: a map that remembers its samples would look good."""
    x, y = normal(0, 100, 2), normal(1, 90, 2)
    seen = []

    class Spy(DualPotential):
        def begin(self, potential, draw, generator):
            def spied(count):
                points = draw(count)
                seen.append(torch.cat(points))
                return points

            return super().begin(potential, spied, generator)

    fit_transport(x, y, method=Spy(batch_size=64), budget=30, match_moments=False, generator=seeded())
    trained = {tuple(row) for row in torch.cat(seen).tolist()}
    assert len(trained) == 100 - 32 + 90 - 32  # at least 16 for each of two purposes


def test_a_budget_of_time_ends():
    """Catches a clock that never moves."""
    _, source, target = gaussians(2)
    fitted = fit_small(source, target, seeded(), budget=timedelta(seconds=0.5))
    assert 0.5 <= fitted.history[-1].seconds < 3


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"target": torch.zeros(100, 3, dtype=torch.float64)},
            ValueError,
            r"target: expected shape \(n, 2\), got \(100, 3\)",
        ),
        ({"source": torch.zeros(9, 2, dtype=torch.float64)}, ValueError, "source: expected at least 48 samples, got 9"),
        ({"source": torch.ones(99, 2, dtype=torch.float64)}, ValueError, "source: expected points that differ"),
        ({"target": lambda n, g: torch.ones(n, 2).double()}, ValueError, "target: expected points that differ"),
        ({"source": lambda n, g: torch.zeros(n + 1, 2)}, ValueError, "source: expected 2 points"),
        ({"source": 3.0}, TypeError, "source: expected a tensor or a callable"),
        ({"source": lambda n: torch.zeros(n, 2)}, TypeError, r"source: expected a callable \(count, generator\), got"),
        ({"method": "dual"}, TypeError, "method: expected DualPotential.*got 'dual'"),
        ({"budget": 0}, ValueError, "budget: expected a positive integer"),
        ({"budget": timedelta(0)}, ValueError, "budget: expected a positive time"),
        ({"budget": "long"}, TypeError, "budget: expected a number of steps or a timedelta"),
        ({"method": []}, ValueError, "method: expected at least one"),
        ({"holdout": 0.9}, ValueError, "holdout: expected a share below 0.6"),
    ],
)
def test_wrong_arguments_are_named(options, error, text):
    """Catches an error of torch from deep inside."""
    _, source, target = gaussians(2)
    arguments = {"source": source, "target": target, **options}
    with pytest.raises(error, match=text):
        fit_transport(arguments.pop("source"), arguments.pop("target"), **arguments)
