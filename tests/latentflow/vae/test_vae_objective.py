"""The terms of the objective, and what it refuses."""

import pytest
import torch
from closed_forms import generator
from torch.distributions import Independent, Normal, kl_divergence

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    HJResidual,
    Hutchinson,
    JointBound,
    MarginalBound,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
)
from latentflow.flow import FirstOrder, FoldError, FoldWarning
from latentflow.pde import NonPositiveForce

SHAPE, DIM, STEPS = (1, 3, 2), 2, 3
frames = torch.rand(4, STEPS + 1, *SHAPE, generator=generator(0))
k = torch.tensor([1, 0, 1, 1])
TERMS = ("total", "reconstruction", "kl", "residual", "action", "reconstruction_per_time")


def build(seed=0, bank=None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return FlowVAE(
            encoder=MLPEncoder(SHAPE, DIM, (8,)),
            decoder=MLPDecoder(DIM, SHAPE, (8,)),
            bank=bank or PotentialBank([MLPPotential(DIM, (6, 5)), MLPPotential(DIM, (6, 5))]),
            prior=DiffusionPrior(DIM, fields=2, diffusivity=0.2),
            residual=options.pop("residual", None) or HJResidual(NonPositiveForce(DIM, (6,)), force_penalty=0.3),
            **options,
        )


def test_the_default_bound_is_that_of_the_sequence():
    """Catches a default that the command, the guide and the docstring do not share."""
    model = build()
    assert model.bound == JointBound()
    assert model.objective(frames, k, generator(1)).kl_per_time[1:].eq(0).all()


class Still(Independent):
    """A normal distribution that always "draws" its mean."""

    def rsample(self, sample_shape=()):
        return self.mean


def still(model):
    """Take the randomness out of the posterior."""
    encoder = model.encoder
    del model.encoder
    model.encoder = lambda x: Still(encoder(x).base_dist, 1)
    return model


@pytest.mark.parametrize("bound", [MarginalBound(), JointBound()])
def test_every_term_by_hand(bound):
    """Catches weights on the wrong terms, sums for means, swapped frames, and a prior of the wrong time or field."""
    model = build(bound=bound, residual_weight=2.0)
    objective = model.objective(frames, k, generator(3))

    source = generator(3)
    posterior = model.encoder(frames[:, 0])
    z0 = posterior.mean + posterior.stddev * torch.randn(4, DIM, generator=source)
    trajectory = PotentialFlow(model.bank.select(k)).rollout(z0, STEPS)
    residual = model.residual.loss(model.bank.select(k), trajectory, source)
    reconstruction, kl = torch.zeros(STEPS + 1), torch.zeros(STEPS + 1)
    for t in range(STEPS + 1):
        logits = model.decoder(trajectory.z[t])
        entropies = torch.nn.functional.binary_cross_entropy_with_logits(logits, frames[:, t], reduction="none")
        reconstruction[t] = entropies.flatten(1).sum(1).mean()
        if t == 0 or isinstance(bound, MarginalBound):
            prior = Normal(0.0, (1 + 2 * model.prior.diffusivity[k] * t).sqrt().unsqueeze(-1))
            log_q = posterior.log_prob(z0) - trajectory.log_det[t]
            sampled = log_q - prior.log_prob(trajectory.z[t]).sum(-1)
            kl[t] = (kl_divergence(posterior.base_dist, prior).sum(-1) if t == 0 else sampled).mean()
    expected = {
        "reconstruction_per_time": reconstruction,
        "kl_per_time": kl,
        "reconstruction": reconstruction.sum(),
        "kl": kl.sum(),
        "bound": -(reconstruction.sum() + kl.sum()),
        "residual": residual,
        "total": reconstruction.sum() + kl.sum() + 2 * residual,
        "action": (trajectory.z[1:] - trajectory.z[:-1]).square().sum(-1).sum(0).mean(),
        "folded": torch.zeros(()),
    }
    for name, value in expected.items():
        torch.testing.assert_close(
            getattr(objective, name), value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_forward_is_the_objective():
    """Catches a wrapped model that trains something else, and a term that Lightning cannot log."""
    model = build()
    terms, objective = model(frames, k, generator(0)), model.objective(frames, k, generator(0))
    assert terms.keys() == vars(objective).keys() - {"reconstruction_per_time", "kl_per_time"}
    for name, term in terms.items():
        assert term.ndim == 0
        assert torch.equal(term, getattr(objective, name))


@pytest.mark.parametrize("bound", [MarginalBound(), JointBound()])
def test_order_of_the_batch_and_of_the_frames(bound):
    """Catches samples paired with other samples' frames, fields or times."""
    model = still(build(bound=bound, residual=HJResidual(), residual_weight=0.0))
    order = torch.tensor([2, 0, 3, 1])
    whole, permuted = model.objective(frames, k), model.objective(frames[order], k[order])
    for name in ("total", "kl_per_time", "reconstruction_per_time", "action"):
        torch.testing.assert_close(getattr(permuted, name), getattr(whole, name))
    rest = still(build(bound=bound, bank=PotentialBank([QuadraticPotential(DIM), QuadraticPotential(DIM)])))
    order = torch.tensor([0, 3, 1, 2])
    by_time, permuted = rest.objective(frames, k), rest.objective(frames[:, order], k)
    torch.testing.assert_close(permuted.reconstruction_per_time, by_time.reconstruction_per_time[order])
    torch.testing.assert_close(permuted.kl_per_time, by_time.kl_per_time)


def test_one_frame_is_a_plain_vae():
    """Catches NaN where there is no step."""
    objective = build().objective(frames[:, :1], k, generator(0))
    torch.testing.assert_close(objective.total, -objective.bound)


def test_stochastic_volume_is_for_training_only():
    """Catches a reported bound that random probes bias upwards."""
    model = build(bound=MarginalBound(FirstOrder(Hutchinson())))
    assert torch.isfinite(model.objective(frames, k).total)
    with pytest.raises(ValueError, match=r"^bound: expected an exact log-determinant"):
        model.eval().objective(frames, k)
    build(bound=MarginalBound(FirstOrder())).eval().objective(frames, k)


def test_folds():
    """Catches a reported bound of a map that folds, and a share of folded steps in place of samples."""
    flip, rest = QuadraticPotential(DIM, -2 * torch.eye(DIM)), QuadraticPotential(DIM)
    model = build(bank=PotentialBank([rest, flip]), bound=MarginalBound())
    with pytest.warns(FoldWarning):
        objective = model.objective(frames, k)
    assert objective.folded == 0.75
    with pytest.raises(FoldError):
        model.eval().objective(frames, k)
    model.bound = JointBound()
    assert model.objective(frames, k).folded == 0


@pytest.mark.parametrize("bound", [MarginalBound(), MarginalBound(FirstOrder()), JointBound()])
def test_gradients_reach_every_parameter(bound):
    """Catches a term that is detached or does not enter the total."""
    model = build(bound=bound)
    model.objective(frames, k, generator(0)).total.backward()
    lazy = {name for name, p in model.named_parameters() if p.grad is None or not (p.grad != 0).any()}
    assert lazy == ({"prior.raw"} if isinstance(bound, JointBound) else set())
    if not lazy:
        assert (model.prior.raw.grad != 0).all()


def test_generator():
    """Catches a draw from the global source of randomness."""
    model = build()
    state = torch.get_rng_state()
    first, second, other = (model.objective(frames, k, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for name in TERMS:
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert first.total != other.total
    assert first.residual != other.residual


class Spy(MarginalBound):
    """A bound that keeps the trajectory it is shown."""

    def divergence(self, posterior, trajectory, prior, k):
        object.__setattr__(self, "trajectory", trajectory)
        return super().divergence(posterior, trajectory, prior, k)


def test_dynamics_stay_in_float32_under_autocast():
    """Catches a flow or a density in bfloat16."""
    model = build(bound=Spy())
    exact = model.objective(frames, k, generator(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model.objective(frames, k, generator(0))
    trajectory = model.bound.trajectory
    again = PotentialFlow(model.bank.select(k)).rollout(trajectory.z[0], STEPS)
    for name in ("z", "log_det", "action"):
        assert getattr(trajectory, name).dtype == torch.float32
        torch.testing.assert_close(getattr(trajectory, name), getattr(again, name), rtol=0, atol=0)
    for name in TERMS:
        assert getattr(mixed, name).dtype == torch.float32
        torch.testing.assert_close(getattr(mixed, name), getattr(exact, name), rtol=0.03, atol=0.03)
    mixed.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("error", "name", "call"),
    [
        (ValueError, "frames", lambda: build().objective(frames[0], k)),
        (ValueError, "k", lambda: build().objective(frames, k[:3])),
        (ValueError, "k", lambda: build().objective(frames, k + 1)),
        (TypeError, "k", lambda: build().objective(frames, k.int())),
        (ValueError, "residual_weight", lambda: build(residual_weight=-1.0)),
        (TypeError, "log_det", lambda: MarginalBound(log_det=None)),
    ],
)
def test_wrong_arguments(error, name, call):
    """Catches messages that do not name the argument, and shapes that broadcast silently."""
    with pytest.raises(error, match=f"^{name}: expected"):
        call()
