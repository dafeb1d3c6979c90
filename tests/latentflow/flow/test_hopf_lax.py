"""The flow that solves the Hamilton-Jacobi equation by construction, against closed forms."""

import hypothesis.strategies as st
import ot
import pytest
import torch
from closed_forms import bures_map, hopf_lax, normal, ohj_quadratic, root, sigma_points, spd
from hypothesis import given, settings
from strategies import close, dims, network, randn, seeds
from torch.distributions import Independent, MultivariateNormal, Normal

from latentflow import (
    ODE,
    Derivative,
    Euler,
    HJResidual,
    HopfLaxFlow,
    Hutchinson,
    ICNNPotential,
    MLPPotential,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
    SlogDet,
    gradient,
    hessian,
)
from latentflow.flow import (
    FirstOrder,
    FixedPoint,
    FoldError,
    FoldWarning,
    HopfLaxPotential,
    InversionError,
    LogDetSeries,
)


def mild(dim, seed, size=0.3):
    """A network whose Hessian has a norm of at most ``size``."""
    u = network(dim, (5, 4), seed)
    return (size / float(u.lipschitz_gradient().detach())) * u


def well(dim, depth):
    """The potential -depth * sum log cosh, whose paths meet first at time 1 / depth, above the origin."""
    return lambda z, t: -depth * z.cosh().log().sum(-1)


@given(dims, seeds, st.sampled_from([1, 3, 10]))
def test_gaussian_transport_is_followed_exactly(dim, seed, steps):
    """Catches a wrong sign, time or volume: the flow of the Bures potential moves one Gaussian onto the other."""
    one, two, m0, m1 = spd(dim, seed), spd(dim, seed + 1), normal(seed + 2, dim), normal(seed + 3, dim)
    move = bures_map(one, two)
    matrix, vector = move - torch.eye(dim, dtype=torch.float64), m1 - move @ m0
    flow, z = HopfLaxFlow(QuadraticPotential(dim, matrix, vector)), sigma_points(m0, one)
    trajectory = flow.rollout(z, steps, dt=1 / steps)
    close(trajectory.z[-1], (z - m0) @ move + m1)
    before, after = MultivariateNormal(m0, one), MultivariateNormal(m1, two)
    close(before.log_prob(z) - trajectory.log_det[-1], after.log_prob(trajectory.z[-1]), 1e-9)
    squared = (m1 - m0).square().sum() + (one + two - 2 * root(root(one) @ two @ root(one))).trace()
    close(trajectory.action[-1].mean(), squared, 1e-9)
    close(flow.velocity(trajectory.z[-1], 1.0), trajectory.z[-1] - z, 1e-9)
    assert not trajectory.folded.any()


@given(st.integers(1, 3), seeds)
@settings(max_examples=10)
def test_euler_steps_along_the_potential_change_nothing(dim, seed):
    """Catches a rule of the potential that is not that of the flow: on a solution Euler's scheme is exact."""
    flow, z = HopfLaxFlow(mild(dim, seed)), randn(5, dim, seed=seed)
    at_once = flow.rollout(z, 4, start=0.25, dt=0.5)
    steps = PotentialFlow(HopfLaxPotential(flow.u0)).rollout(z, 4, start=0.25, dt=0.5)
    for name in ("times", "z", "log_det", "action", "sign", "folded"):
        close(getattr(at_once, name), getattr(steps, name), 1e-10)
    one = flow.step(z, 0.25, 0.5, SlogDet())
    close(one.z, at_once.z[1], 1e-10)
    close(one.determinant.log_det, at_once.log_det[1], 1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_of_the_tests(seed):
    """Catches a volume, a point or a value that is another one than that of the tests' own Hopf-Lax formula."""
    weight, y = normal(seed, 4, 3) / 2, normal(seed + 9, 6, 3)
    solution, slope, curvature = hopf_lax(weight, 0.1)
    flow = HopfLaxFlow(lambda z, t: 0.1 * (z @ weight.mT).cosh().log().sum(-1))
    trajectory, t = flow.rollout(y, 3, dt=0.4), torch.full((6,), 1.2, dtype=torch.float64)
    close(trajectory.z[-1], y + 1.2 * slope(y))
    close(trajectory.log_det[-1], torch.linalg.slogdet(torch.eye(3) + 1.2 * curvature(y)).logabsdet)
    close(flow.potential(trajectory.z[-1], t), solution(trajectory.z[-1], t), 1e-10)
    close(flow.potential.start(trajectory.z[-1], t), y, 1e-10)


@pytest.mark.parametrize("times", [[0.0, 0.5, 1.5], [1.0, 0.25], [-0.5, 0.0, 1.0], [0.7]])
def test_the_volume_is_that_of_the_whole_map(times):
    """Catches log_det counted from time 0 in place of the first time, and an action that is not a signed integral."""
    u0, z = mild(3, 5), randn(3, seed=6)
    flow = HopfLaxFlow(u0)
    trajectory = flow.integrate(z, times)
    for n, time in enumerate(times):
        jacobian = torch.func.jacrev(lambda x, n=n: flow.integrate(x, times, ODE(divergence=None)).z[n])(z)
        close(trajectory.log_det[n], torch.linalg.slogdet(jacobian).logabsdet, 1e-10)
        close(trajectory.action[n], (time - times[0]) * flow.velocity(z, times[0]).square().sum(-1), 1e-10)
    bare = flow.integrate(z, times, ODE(divergence=None))
    assert bare.log_det is bare.folded is bare.smallest_eigenvalue is None
    close(flow.integrate(z, times, ODE(divergence=Hutchinson())).log_det, trajectory.log_det)


@pytest.mark.parametrize("volume", [SlogDet(), SlogDet(eigenvalues=True), FirstOrder(), LogDetSeries(terms=40)])
@pytest.mark.parametrize("dim", [1, 5])
def test_volumes_of_every_kind(volume, dim):
    """Catches a volume that is not asked for what it needs, at the width of a narrow first layer too."""
    for u0 in (mild(dim, 3), 0.2 * MLPPotential(dim, (2,)).double()):
        z = randn(4, dim, seed=1)
        trajectory = HopfLaxFlow(u0).rollout(z, 3, start=0.5, dt=0.5, log_det=volume, on_fold="ignore")
        h = hessian(u0, HopfLaxPotential(u0).start(z, 0.5), 0.0).detach()
        trace = h.diagonal(dim1=-2, dim2=-1).sum(-1)
        for n, t in enumerate(trajectory.times.tolist()):
            whole = [torch.linalg.slogdet(torch.eye(dim) + s * h).logabsdet for s in (0.5, t)]
            if isinstance(volume, FirstOrder):
                whole = [(s * trace).log1p() for s in (0.5, t)]
            if not isinstance(volume, LogDetSeries) or dim == 1:  # where one probe is exact
                close(trajectory.log_det[n].detach(), whole[1] - whole[0], 1e-10)
        smallest = 1 + torch.stack([t * torch.linalg.eigvalsh(h)[..., 0] for t in trajectory.times])
        if trajectory.smallest_eigenvalue is not None:
            close(trajectory.smallest_eigenvalue.detach(), torch.minimum(smallest[:-1], smallest[1:]), 1e-10)
        assert (trajectory.smallest_eigenvalue is None) == isinstance(volume, (FirstOrder, LogDetSeries)) or dim == 5


def test_paths_that_meet():
    """Catches a shock that is missed, forgotten after its step, or seen where paths have not met."""
    depth, z = 0.5, torch.linspace(-3, 3, 61, dtype=torch.float64).unsqueeze(-1)
    flow = HopfLaxFlow(well(1, depth))
    trajectory = flow.rollout(z, 4, dt=1.5, on_fold="ignore")
    slope = 1 - depth * trajectory.times[1:, None] / z.squeeze(-1).cosh().square()
    assert torch.equal(trajectory.folded, slope <= 0)
    assert not trajectory.folded[0].any()
    assert trajectory.folded[1].any()
    assert (trajectory.folded[1:] >= trajectory.folded[:-1]).all()
    close(trajectory.smallest_eigenvalue, slope.clamp(max=1.0), 1e-10)
    assert torch.equal(trajectory.sign.prod(0), slope[-1].sign())
    close(trajectory.log_det[1:], slope.abs().log(), 1e-9)
    back = flow.rollout(
        z, 4, dt=-1.5, on_fold="ignore"
    )  # away from the shock: the first end of a step is the worse one
    close(back.smallest_eigenvalue, 1 - depth * back.times[:-1, None] / z.squeeze(-1).cosh().square(), 1e-10)


@pytest.mark.parametrize("method", ["rollout", "follow", "integrate", "inverse", "push_forward"])
def test_policies(method):
    """Catches a shock that passes in evaluation, one that stops training, and advice that does not help."""
    z, times = torch.zeros(3, 1, dtype=torch.float64), [0.0, 1.0, 3.0]
    base = Independent(Normal(torch.zeros(1).double(), torch.full((1,), 1e-3).double()), 1)
    run = {
        "rollout": lambda flow, **policy: flow.rollout(z, 3, **policy),
        "follow": lambda flow, **policy: flow.follow(z, times, Euler(), **policy),
        "integrate": lambda flow, **policy: flow.integrate(z, times, **policy),
        "inverse": lambda flow, **policy: flow.inverse(z, times, Euler(solver=FixedPoint(max_iterations=2)), **policy),
        "push_forward": lambda flow, **policy: flow.push_forward(base, times, Euler(), **policy).rsample_and_log_prob(),
    }[method]
    with pytest.raises(FoldError, match=r"step 1 \(t = 1\).*I \+ t \* Hessian of u0.*convex u0"):
        run(HopfLaxFlow(well(1, 0.6)).eval())
    with pytest.warns(FoldWarning, match="step 1") as caught:
        run(HopfLaxFlow(well(1, 0.6)))
    assert caught[0].filename == __file__ or method == "push_forward"
    run(HopfLaxFlow(well(1, 0.6)).eval(), on_fold="ignore")


@pytest.mark.parametrize("scheme", [ODE(), Euler(), Euler(solver=FixedPoint()), Euler(log_det=None)])
def test_there_and_back(scheme):
    """Catches an inverse of another map, and a volume of the wrong sign."""
    flow, z, times = HopfLaxFlow(mild(3, 2)).eval(), randn(2, 4, 3, seed=3), [0.5, 1.0, 2.0]
    trajectory = flow.integrate(z, times)
    back = flow.inverse(trajectory.z[-1], torch.tensor(times), scheme)
    close(back.z, trajectory.z.flip(0), 1e-10)
    close(back.action, trajectory.action.flip(0) - trajectory.action[-1], 1e-10)
    if scheme != Euler(log_det=None):
        close(back.log_det, trajectory.log_det.flip(0) - trajectory.log_det[-1], 1e-10)
    else:
        assert back.log_det is None


@pytest.mark.parametrize("choice", [ODE(), Euler(), ODE(divergence=Hutchinson())])
def test_density(choice):
    """Catches a mass other than one, a density of another time, and probes where an exact volume is at hand."""
    flow = HopfLaxFlow(mild(1, 4, 0.5)).eval()
    base = Independent(Normal(torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)), 1)
    law = flow.push_forward(base, [0.0, 0.5, 1.5], choice)
    x = torch.linspace(-14, 14, 1401, dtype=torch.float64).unsqueeze(-1)
    close(torch.trapezoid(law.log_prob(x).exp(), x.squeeze(-1)), torch.ones((), dtype=torch.float64), 1e-8)
    start = randn(50, 1, seed=3)
    end = start + 1.5 * gradient(flow.u0, start, 0.0)
    slope = 1 + 1.5 * hessian(flow.u0, start, 0.0).squeeze(-1).squeeze(-1)
    close(law.log_prob(end), base.log_prob(start) - slope.log(), 1e-9)
    sample, log_prob = law.rsample_and_log_prob((7,))
    close(law.log_prob(sample), log_prob, 1e-9)


def test_refusals_of_densities():
    """Catches a density without a volume, and a random one in evaluation mode."""
    base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    flow = HopfLaxFlow(MLPPotential(2)).eval()
    for law, message in [
        (flow.push_forward(base, [0.0, 1.0], ODE(divergence=None)), "^scheme: expected one with a log-determinant"),
        (flow.push_forward(base, [0.0, 1.0], Euler(log_det=None)), "^scheme: expected one with a log-determinant"),
        (flow.push_forward(base, [0.0, 1.0], Euler(LogDetSeries())), "^scheme: .*in evaluation mode"),
    ]:
        with pytest.raises(ValueError, match=message):
            law.log_prob(torch.zeros(2))


@pytest.mark.parametrize("kind", ["convex", "mild"])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_the_flow_is_optimal_transport(kind):
    """Catches a map that is not the gradient of a convex function: the identity pairing has to be optimal."""
    u0 = ICNNPotential(3, (6, 5)).double() if kind == "convex" else mild(3, 8, 0.4)
    z, time = randn(60, 3, seed=1), 2.0
    trajectory = HopfLaxFlow(u0).eval().rollout(z, 2, dt=time / 2)
    end = trajectory.z[-1].detach()
    weights = torch.full((60,), 1 / 60, dtype=torch.float64).numpy()
    cost = (z.unsqueeze(1) - end).square().sum(-1)
    assert ot.emd2(weights, weights, cost.numpy()) == pytest.approx(float(cost.diagonal().mean()), abs=1e-10)
    close(time * trajectory.action[-1].detach(), cost.diagonal(), 1e-10)


def test_running_cost():
    """Catches a residual of another potential, a quadrature of the wrong weight, and costs of the wrong interval."""
    flow, z = HopfLaxFlow(mild(2, 3)), randn(5, 2, seed=4)

    class Clock:
        requires = Derivative.LAPLACIAN | Derivative.SECOND_TIME_DERIVATIVE

        def running_cost(self, jet, z, t):
            return jet.laplacian + t.pow(3) + z.square().sum(-1) + 0 * jet.second_time_derivative

    trajectory = flow.integrate(z, [0.5, 1.0, 2.0], running_cost=Clock())
    times = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).unsqueeze(-1)
    velocity, elapsed = flow.velocity(z, 0.5), times - 0.5
    squares = z.square().sum(-1) * elapsed + (z * velocity).sum(-1) * elapsed**2
    squares = squares + velocity.square().sum(-1) * elapsed**3 / 3
    # the integral of the Laplacian is log det
    close(trajectory.cost, trajectory.log_det + (times**4 - 0.5**4) / 4 + squares, 1e-10)
    assert flow.integrate(z, [2.0, 0.5], running_cost=HJResidual()).cost.abs().max() < 1e-25
    with pytest.raises(ValueError, match=r"^running_cost: expected a rate of shape \(5,\)"):
        flow.integrate(z, [0.0, 1.0], running_cost=type("Bad", (Clock,), {"running_cost": lambda *_: z})())


def test_one_flow_follows_another():
    """Catches a flow that starts anywhere but at the points that it is given."""
    bank = PotentialBank([mild(2, 1), mild(2, 2)])
    z = randn(4, 2, seed=5)
    first = HopfLaxFlow(bank[0]).rollout(z, 2, dt=0.5)
    second = HopfLaxFlow(bank[1]).rollout(first.z[-1], 1)
    middle = z + gradient(bank[0], z, 0.0)
    close(second.z[-1], middle + gradient(bank[1], middle, 0.0))
    both = HopfLaxFlow(bank[0] + bank[1]).rollout(z, 1)
    close(both.z[-1], z + gradient(bank[0], z, 0.0) + gradient(bank[1], z, 0.0))
    k = torch.tensor([1, 0, 0, 1])
    chosen = HopfLaxFlow(bank.select(k)).rollout(z, 2, start=1.0)
    for i in range(4):
        close(chosen.z[:, i], HopfLaxFlow(bank[int(k[i])]).rollout(z[i], 2, start=1.0).z, 1e-10)


@pytest.mark.parametrize(
    ("u0", "start"), [("mild", 0.0), ("mild", 0.5), ("degenerate", 0.0)], ids=["from 0", "later", "equal eigenvalues"]
)
def test_gradients(u0, start):
    """Catches a graph that is cut, the second derivatives too, and eigenvectors that are differentiated."""
    flow = HopfLaxFlow(
        0.3 * network(2, (3,), 1) if u0 == "mild" else QuadraticPotential(2, 0.3 * torch.eye(2, dtype=torch.float64))
    )
    names, values = zip(*flow.named_parameters(), strict=True)

    def outcome(z, *parameters):
        replaced = dict(zip(names, parameters, strict=True))
        trajectory = torch.func.functional_call(
            _Rollout(flow), {f"flow.{n}": p for n, p in replaced.items()}, (z, start)
        )
        return trajectory.z[-1], trajectory.log_det[-1], trajectory.action[-1]

    inputs = (randn(2, 2, seed=7).requires_grad_(), *(v.detach().clone().requires_grad_() for v in values))
    assert torch.autograd.gradcheck(outcome, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(outcome, inputs, fast_mode=True)


class _Rollout(torch.nn.Module):
    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, z, start):
        return self.flow.rollout(z, 2, start, 0.5)


def test_gradients_of_the_inverse_and_of_times():
    """Catches a solve that keeps no graph, and times that are read as numbers."""
    flow = HopfLaxFlow(mild(2, 1))
    narrow = HopfLaxFlow(MLPPotential(2, (1,), output_scale=0.5).double())  # its volumes are taken at width 1

    def start(z, times):
        trajectory = flow.inverse(z, times, ODE())
        return trajectory.z[-1], trajectory.log_det[-1]

    def end(z, times):
        trajectory = flow.integrate(z, times)
        return trajectory.z[-1], trajectory.log_det[-1], trajectory.action[-1]

    z = randn(2, 2, seed=7).requires_grad_()
    for first in (0.0, 0.25):
        times = torch.tensor([first, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(start, (z, times))
        assert torch.autograd.gradcheck(end, (z, times))
        assert torch.autograd.gradcheck(lambda times: narrow.integrate(z, times).log_det, (times,))


def test_transforms_and_precisions():
    """Catches a value read off inside of a transform, another result there, and a dtype that is lost."""
    flow, z = HopfLaxFlow(mild(2, 1)), randn(3, 2, seed=2)

    def total(z):
        trajectory = flow.rollout(z, 2)
        return (trajectory.z[-1].square().sum(-1) + trajectory.log_det[-1]).sum()

    plain = z.clone().requires_grad_()
    slope = torch.autograd.grad(total(plain), plain)[0]
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        close(transform(total)(z), slope)
    single = HopfLaxFlow(MLPPotential(2, (8,)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trajectory = single.rollout(torch.randn(3, 2), 2)
    assert trajectory.z.dtype == trajectory.log_det.dtype == trajectory.action.dtype == torch.float32


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "^u0: expected a callable", lambda flow: HopfLaxFlow(3)),
        (ValueError, "^steps: expected an integer", lambda flow: flow.rollout(torch.zeros(2), -1)),
        (ValueError, "^times: expected finite times", lambda flow: flow.integrate(torch.zeros(2), [1.0, 1.0])),
        (
            TypeError,
            "^scheme: expected Euler",
            lambda flow: flow.inverse(torch.zeros(2), [0.0], "rk4"),
        ),
        (
            TypeError,
            "^z0: expected a floating-point tensor",
            lambda flow: flow.rollout(torch.zeros(2, dtype=torch.int64)),
        ),
        (FloatingPointError, "^z0: expected finite points", lambda flow: flow.rollout(torch.full((2,), torch.inf))),
        (
            FloatingPointError,
            "^log_det: expected numbers",
            lambda flow: HopfLaxFlow(lambda z, t: z.abs().pow(1.5).sum(-1)).rollout(torch.zeros(2)),
        ),
        (
            InversionError,
            "^the start of a characteristic: ",
            lambda flow: HopfLaxFlow(well(1, -1.0), solver=FixedPoint(max_iterations=3)).rollout(torch.ones(2), 1, 9.0),
        ),
    ],
)
def test_refusals(error, message, call):
    """Catches a message that does not name the argument, or a wrong input that passes."""
    with pytest.raises(error, match=message):
        call(HopfLaxFlow(MLPPotential(2)))


def test_a_solution_from_its_own_start():
    """Catches a solution that differs from the quadratic one, before time 0 too."""
    matrix, vector = spd(3, 4, -0.4, 0.6), normal(5, 3)
    solution, z = ohj_quadratic(matrix, vector), randn(6, 3, seed=1)
    u = HopfLaxPotential(QuadraticPotential(3, matrix, vector))
    for time in (-0.7, 0.0, 0.9):
        t = torch.full((6,), time, dtype=torch.float64)
        close(u(z, t), solution(z, t), 1e-10)
