"""The dynamics of the model are one argument, and so are the equation and its points."""

from dataclasses import dataclass

import pytest
import torch
from closed_forms import generator

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    HJResidual,
    HopfLaxFlow,
    JointBound,
    MarginalBound,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
    gradient,
)
from latentflow.flow import FoldError, FoldWarning, HopfLaxPotential

SHAPE, DIM, STEPS = (1, 3, 2), 2, 3
frames = torch.rand(4, STEPS + 1, *SHAPE, generator=generator(0), dtype=torch.float64)
k = torch.tensor([1, 0, 1, 1])


def build(bank=None, residual=None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FlowVAE(
            encoder=MLPEncoder(SHAPE, DIM, (8,)),
            decoder=MLPDecoder(DIM, SHAPE, (8,)),
            bank=bank or PotentialBank([MLPPotential(DIM, (6, 5), output_scale=0.5) for _ in range(2)]),
            prior=DiffusionPrior(DIM, fields=2, diffusivity=0.2),
            residual=residual,
            **{"bound": MarginalBound(), **options},
        ).double()


def test_hopf_lax_dynamics_by_hand():
    """Catches steps that read the potential after time 0, a volume of another map, and a residual out of nowhere."""
    model = build(dynamics=HopfLaxFlow)
    objective = model.objective(frames, k, generator(3))
    posterior = model.encoder(frames[:, 0])
    z0 = posterior.mean + posterior.stddev * torch.randn(4, DIM, generator=generator(3), dtype=torch.float64)
    u0 = model.bank.select(k)
    kl = torch.zeros(STEPS, dtype=torch.float64)
    for t in range(1, STEPS + 1):
        z = z0 + t * gradient(u0, z0, 0.0)
        volumes = torch.stack(
            [torch.linalg.slogdet(one_map(model.bank[int(i)], z, t)).logabsdet for i, z in zip(k, z0, strict=True)]
        )
        log_p = model.prior(t=float(t), k=k).log_prob(z)
        kl[t - 1] = (posterior.log_prob(z0) - volumes - log_p).mean()
    torch.testing.assert_close(objective.kl_per_time[1:], kl)
    torch.testing.assert_close(objective.action, STEPS * gradient(u0, z0, 0.0).square().sum(-1).mean())
    assert objective.residual == 0
    torch.testing.assert_close(objective.total, -objective.bound)
    objective.total.backward()
    assert all(p.grad is not None for p in model.bank[0].parameters() if p.requires_grad and p.ndim > 1)


def one_map(u, z, t):
    return torch.func.jacrev(lambda z: z + t * gradient(u, z, 0.0))(z)


@pytest.mark.parametrize("choose", [lambda m: 1, lambda m: k, lambda m: m.bank[0] + 0.5 * m.bank[1]])
def test_every_kind_of_transformation(choose):
    """Catches a choice of potentials that the other dynamics do not take."""
    model = build(dynamics=HopfLaxFlow).eval()
    x, choice = frames[:, 0], choose(model)
    z0 = model.encode(x).mean
    z = torch.stack([z0 + t * gradient(model.flow_of(choice).potential, z0, 0.0) for t in range(STEPS + 1)], 1)
    torch.testing.assert_close(model.generate(x, choice, STEPS), model.decode(z).mean)


@dataclass(frozen=True)
class Recording:
    seen: list

    def points(self, trajectory, generator=None):
        self.seen.append((trajectory, generator))
        z = trajectory.z[:1]
        return z, z.new_full(z.shape[:-1], 0.5)


def test_residual_at_chosen_points_of_the_potential_of_the_flow():
    """Catches a residual of u0 in place of the solution, and a choice of points that is ignored."""
    points, source = Recording([]), generator(1)
    model = build(residual=HJResidual(), dynamics=HopfLaxFlow, collocation=points)
    objective = model.objective(frames, k, source)
    assert points.seen[0][1] is source
    assert objective.residual < 1e-25
    z0 = points.seen[0][0].z[0]
    plain = build(residual=HJResidual(), collocation=points)
    expected = HJResidual().loss(plain.bank.select(k), (z0, 0.5))
    torch.testing.assert_close(plain.objective(frames, k, generator(1)).residual, expected)


@pytest.mark.parametrize("dynamics", [PotentialFlow, HopfLaxFlow])
def test_folds_follow_the_mode_unless_the_model_says_otherwise(dynamics):
    """Catches a policy that is ignored, and a mode that is not passed on."""
    bank = PotentialBank([QuadraticPotential(DIM, -1.5 * torch.eye(DIM))] * 2)
    model = build(bank, dynamics=dynamics)
    with pytest.warns(FoldWarning):
        assert model.objective(frames, k).folded == 1
    with pytest.raises(FoldError):
        model.eval().objective(frames, k)
    build(bank, dynamics=dynamics, on_fold="ignore").eval().objective(frames, k)
    build(bank, dynamics=dynamics, bound=JointBound()).eval().objective(frames, k)  # no volume, no fold


def test_no_equation():
    """Catches a residual of None that still costs."""
    assert build().objective(frames, k).residual == 0


def test_steps_along_the_solution_are_the_same_model():
    """Catches two kinds of dynamics that differ where they must not."""
    one = build(dynamics=HopfLaxFlow)
    two = build(dynamics=lambda u0: PotentialFlow(HopfLaxPotential(u0)))
    for name, value in vars(one.objective(frames, k, generator(0))).items():
        torch.testing.assert_close(getattr(two.objective(frames, k, generator(0)), name), value)


def test_hopf_lax_dynamics_under_autocast():
    """Catches dynamics in bfloat16."""
    model = build(dynamics=HopfLaxFlow).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.flow_of(k).rollout(frames[:, 0, 0, 0].float(), steps=3)
    exact = model.flow_of(k).rollout(frames[:, 0, 0, 0].float(), steps=3)
    torch.testing.assert_close(mixed.z, exact.z, rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("choose", [lambda m: 1, lambda m: k, lambda m: m.bank[0] + 0.5 * m.bank[1]])
@pytest.mark.parametrize("dynamics", [PotentialFlow, HopfLaxFlow])
def test_a_flow_has_the_mode_of_the_model(dynamics, choose, training):
    """Catches a flow that warns in evaluation, and a model whose potentials change their mode with it."""
    model = build(dynamics=dynamics).train(training)
    modes = [module.training for module in model.modules()]
    assert model.flow_of(choose(model)).training is training
    assert [module.training for module in model.modules()] == modes
