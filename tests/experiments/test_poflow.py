"""PoFlow: every term of its loss by hand, and what follows the wave equation."""

import pytest
import torch
from closed_forms import autograd_gradient, generator, normal
from torch import nn
from torch.distributions import Independent, Normal
from torch.nn.functional import binary_cross_entropy_with_logits

from latentflow import FlowVAE, FunctionPotential, GaussianPrior, MLPDecoder, MLPEncoder, MLPPotential, PotentialBank
from latentflow.calculus import PositiveParameter
from latentflow.vae import BernoulliLikelihood
from latentflow_experiments.methods.poflow import PoFlow

SHAPE, DIM, STEPS = (1, 3, 2), 2, 3
frames = torch.rand(5, STEPS + 1, *SHAPE, generator=generator(0), dtype=torch.float64)
k = torch.tensor([1, 0, 1, 1, 0])
TERMS = ("reconstruction", "kl", "position", "displacement", "initial_condition", "residual")


def build(bank=None, speeds=(1.0, 1.0)):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = FlowVAE(
            encoder=MLPEncoder(SHAPE, DIM, (8,)),
            decoder=MLPDecoder(DIM, SHAPE, (8,)),
            bank=PotentialBank(bank or [MLPPotential(DIM, (6,)), MLPPotential(DIM, (6, 5))]),
            prior=GaussianPrior(DIM),
            residual=None,
            likelihood=BernoulliLikelihood(),
        )
        model = PoFlow(model)
        for residual, speed in zip(model.residuals, speeds, strict=True):
            residual.speed = PositiveParameter(speed)
        return model.double()


class Narrow(nn.Module):
    """An encoder whose samples are its means, up to rounding."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        mean = self.encoder(x).mean
        return Independent(Normal(mean, torch.full_like(mean, 1e-12)), 1)


def still(model):
    model.model.encoder = Narrow(model.model.encoder)
    return model


def drawn_time(seed):
    return int(torch.randint(STEPS, (), generator=generator(seed)))


def sample(posterior, source):
    return posterior.mean + posterior.stddev * torch.randn(posterior.mean.shape, generator=source, dtype=torch.float64)


def wave(u, speed, z, t):
    """u_tt - c^2 (u_11 + ... + u_dd) of one point, from the Hessian in (z, t) by torch.func alone."""
    point = torch.cat([z, t[None]])
    hessian = torch.func.hessian(lambda p: u(p[None, :-1], p[-1:])[0])(point)
    return hessian[-1, -1] - speed**2 * hessian[:-1, :-1].trace()


@pytest.mark.parametrize("seed", range(6))
def test_every_term_by_hand(seed):
    """Catches the wrong frames or times, means over coordinates, a step after the last, and speeds mixed up."""
    model = build(speeds=(0.5, 2.0))
    terms = model(frames, k, generator(seed))
    source, bank, encoder = generator(seed), model.model.bank, model.model.encoder
    t = int(torch.randint(STEPS, (), generator=source))
    posteriors = [encoder(frames[:, n]) for n in (0, t, t + 1)]
    z0, now, after = (sample(posterior, source) for posterior in posteriors)
    path = [z0]
    for n in range(STEPS):
        times = torch.full((1,), float(n), dtype=torch.float64)
        steps = [autograd_gradient(bank[int(kind)], z[None], times)[0] for kind, z in zip(k, path[-1], strict=True)]
        path.append(path[-1] + torch.stack(steps))
    entropies = [
        binary_cross_entropy_with_logits(model.model.decoder(z), frames[:, n], reduction="sum") / 5
        for z, n in ((z0, 0), (path[t + 1], t + 1))
    ]
    divergence = [(p.mean**2 + p.variance - 1 - p.variance.log()).sum() / 2 / 5 for p in posteriors]
    here = z0 if t == 0 else now
    squares = []
    for kind, speed in enumerate((0.5, 2.0)):  # the times of each transformation are drawn apart
        share = torch.rand(STEPS, 5, generator=source, dtype=torch.float64)
        for n in range(STEPS):
            for b in (k == kind).nonzero().flatten().tolist():
                z = path[n][b] + share[n, b] * (path[n + 1][b] - path[n][b])
                squares.append(wave(bank[kind], speed, z.detach(), n + share[n, b]) ** 2)
    start = torch.full((1,), -1.0, dtype=torch.float64)
    initial = [autograd_gradient(bank[int(kind)], z[None], start) for kind, z in zip(k, z0, strict=True)]
    expected = {
        "reconstruction": entropies[0] + entropies[1],
        "kl": divergence[0] + divergence[2],
        "position": (here - path[t]).square().sum() / 5,
        "displacement": (after - here - (path[t + 1] - path[t])).square().sum() / 5,
        "initial_condition": torch.cat(initial).square().sum() / 5,
        "residual": torch.stack(squares).sum() / (5 * STEPS),
    }
    assert set(terms) == {"total", *expected}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=lambda m, n=name: f"{n} at {t}: {m}")
    torch.testing.assert_close(terms["total"], sum(expected.values()))


def test_the_seeds_cover_the_times():
    """Catches a test by hand that never sees the first or the last time."""
    assert {drawn_time(seed) for seed in range(6)} == set(range(STEPS))


def travelling(speed):
    """Waves of any shape that travel with a speed in the direction (3, 4) / 5."""
    return FunctionPotential(lambda z, t: torch.tanh(z @ torch.tensor([0.6, 0.8], dtype=torch.float64) - speed * t))


def test_a_wave_has_no_residual_at_the_speed_of_its_transformation():
    """Catches c for c squared, one speed for all, speeds by the place in the batch, and times of another sample."""
    waves = [travelling(0.5), travelling(2.0)]
    assert build(waves, (0.5, 2.0))(frames, k, generator(0))["residual"] < 1e-12
    assert build(waves, (2.0, 0.5))(frames, k, generator(0))["residual"] > 1e-2
    ours, theirs = (build(waves, speeds) for speeds in ((0.5, 1.0), (1.0, 2.0)))
    for model, right in ((ours, 0), (theirs, 1)):
        assert model(frames, torch.full((5,), right), generator(0))["residual"] < 1e-12
        assert model(frames, torch.full((5,), 1 - right), generator(0))["residual"] > 1e-2


def test_a_residual_of_closed_form():
    """Catches a Laplacian that is a mean, and weights that lower the share of a transformation."""
    bank = [FunctionPotential(lambda z, t, a=a: a * t * t / 2 + 0.1 * z.square().sum(-1)) for a in (1.0, 3.0)]
    c = torch.tensor([0.5, 2.0])
    each = (torch.tensor([1.0, 3.0]) - c**2 * 0.2 * DIM).square()
    found = build(bank, tuple(c.tolist()))(frames, k, generator(0))["residual"]
    assert found.item() == pytest.approx((2 * each[0] + 3 * each[1]).item() / 5)


def test_the_initial_condition_stands_before_the_first_step():
    """Catches a condition at time 0, which would forbid the first step."""
    for start, expected in ((0.0, DIM), (1.0, 0.0), (-1.0, 4 * DIM)):
        bank = [FunctionPotential(lambda z, t, s=start: (t + s) * z.sum(-1))] * 2
        assert build(bank)(frames, k, generator(0))["initial_condition"].item() == pytest.approx(expected)


def test_a_sequence_that_flows_exactly_has_no_error_of_position_and_step():
    """Catches a step compared with that before or after it, at any time."""
    shift = torch.tensor([0.3, -0.2], dtype=torch.float64)
    model = build([FunctionPotential(lambda z, t: (1 + t) * (z @ shift))] * 2)
    times = torch.tensor([0.0, 1.0, 3.0, 6.0], dtype=torch.float64)
    latents = normal(3, 5, 1, DIM) + times[:, None] * shift

    class Reading(nn.Module):
        def forward(self, x):
            return Independent(Normal(x[..., 0, 0, :], torch.full_like(x[..., 0, 0, :], 1e-12)), 1)

    model.model.encoder = Reading()
    flowing = torch.rand(5, STEPS + 1, *SHAPE, generator=generator(0), dtype=torch.float64)
    flowing[..., 0, 0, :] = latents
    model.model.decoder = MLPDecoder(DIM, SHAPE, (4,)).double()
    for seed in range(6):
        terms = model(flowing, k, generator(seed))
        assert terms["position"] < 1e-20
        assert terms["displacement"] < 1e-20


@pytest.mark.parametrize("name", TERMS)
def test_a_mixed_batch_is_the_average_over_its_transformations(name):
    """Catches samples that follow the flow, or have the residual, of another sample's transformation."""
    bank = [FunctionPotential(lambda z, t, a=a: a * t * t / 2 + a * z.square().sum(-1) / 20) for a in (1.0, 3.0)]
    model = still(build(bank, (0.5, 2.0)))
    for seed in range(4):
        mixed = model(frames, k, generator(seed))[name]
        parts = [model(frames[k == kind], k[k == kind], generator(seed))[name] for kind in range(2)]
        torch.testing.assert_close(mixed, (2 * parts[0] + 3 * parts[1]) / 5)


def test_gradients_reach_everything():
    """Catches a speed or a potential that no term trains, and a detached path."""
    model = build()
    parameters = dict(model.named_parameters())
    reached = dict.fromkeys(parameters, False)
    for seed in range(3):
        model.zero_grad()
        model(frames, k, generator(seed))["total"].backward()
        for name, parameter in parameters.items():
            reached[name] |= bool((parameter.grad != 0).any())
    assert all(reached.values()), reached
    assert sum(name.startswith("residuals.") for name in parameters) == 2
    model.zero_grad()
    model(frames, torch.zeros_like(k), generator(0))["total"].backward()
    others = [p.grad for name, p in parameters.items() if "potentials.1." in name or name.startswith("residuals.1.")]
    assert len(others) > 1
    assert all(gradient is None or not gradient.any() for gradient in others)


def test_the_source_of_randomness():
    """Catches draws from the global source, and a time that is the same in every step."""
    model = build()
    state = torch.get_rng_state()
    first, again = model(frames, k, generator(0)), model(frames, k, generator(0))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)
    assert len({model(frames, k, generator(seed))["total"].item() for seed in range(4)}) == 4
