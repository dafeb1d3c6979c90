"""Parity with the paper: its collocation points, its initial condition, and its densities, which bound nothing."""

import math

import pytest
import torch
from closed_forms import autograd_gradient, generator, net, normal
from torch import nn
from torch.distributions import Independent, Normal

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    GaussianPrior,
    HJResidual,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
    gradient,
    laplacian,
)
from latentflow.pde import AlongPath, CausalWeighting, InBox, Together
from latentflow.vae import ExactSum, GaussianLikelihood, LabelPosterior, MLPSequenceClassifier
from latentflow_experiments.song2023 import PaperDensity, PaperPoints, WithInitialCondition, initial_condition

near = {"rtol": 1e-11, "atol": 1e-11}
u = net(2, 0)


def rollout(*batch, steps=3, mover=None, z0=None):
    z0 = normal(1, *batch, 2) if z0 is None else z0
    return PotentialFlow(u if mover is None else mover).rollout(z0, steps, start=1.0, dt=0.5, log_det=None)


def test_initial_condition():
    """Catches another time than 0, a mean over coordinates, and the factor 1/2."""
    z = normal(1, 2, 3, 2)
    expected = (autograd_gradient(u, z, torch.zeros(2, 3, dtype=torch.float64)) ** 2).sum(-1)
    torch.testing.assert_close(initial_condition(u, z), expected, **near)


@pytest.mark.parametrize("choice", [PaperPoints(), Together(AlongPath(), InBox(-2.0, 3.0, 4), PaperPoints())])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
def test_points_of_the_paper_follow_the_trajectory(choice, batch):
    """Catches points that lose the batch shape, the dtype, or the range of times, and a generator that is ignored."""
    trajectory = rollout(*batch)
    state = torch.get_rng_state()
    z, t = choice.points(trajectory, generator(3))
    again = choice.points(trajectory, generator(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(z, again[0])
    assert torch.equal(t, again[1])
    assert z.shape == (len(z), *batch, 2)
    assert t.shape == z.shape[:-1]
    assert z.dtype == t.dtype == torch.float64
    assert ((t >= 1) & (t <= 2.5)).all()
    loss = HJResidual().loss(u, trajectory, generator(3), choice)
    expected = HJResidual()(u, z, t).square()
    torch.testing.assert_close(loss, expected.sum() / max(expected.numel(), 1), **near)


def test_gradients_flow_to_the_points_of_the_paper():
    """Catches points of the paper that are cut off."""
    z0, mover = normal(1, 5, 2).requires_grad_(), QuadraticPotential(2, torch.eye(2, dtype=torch.float64) / 3)
    learner = net(2, 3)
    HJResidual().loss(learner, rollout(z0=z0, mover=mover), generator(0), PaperPoints()).backward()
    assert z0.grad is not None
    assert (z0.grad != 0).all()
    assert all((parameter.grad != 0).any() for parameter in learner.parameters())


def test_points_of_the_paper():
    """Catches the point after the step, or the time before it, and a mean of |grad u|^2 over coordinates."""
    trajectory = rollout(5)
    terms = []
    for n in (1, 2, 3):
        t = torch.full((5,), 1.0 + 0.5 * n, dtype=torch.float64)
        terms.append(HJResidual()(u, trajectory.z[n - 1], t).square())
    torch.testing.assert_close(
        HJResidual().loss(u, trajectory, collocation=PaperPoints()), torch.stack(terms).mean(), **near
    )


def test_points_of_the_paper_without_steps():
    """Catches nan from an empty mean."""
    trajectory = rollout(5, steps=0)
    assert HJResidual().loss(u, trajectory, collocation=PaperPoints()) == 0
    assert HJResidual().loss(u, trajectory, collocation=PaperPoints(), weights=CausalWeighting()) == 0


DIM, STEPS, STRETCH = 3, 4, 0.4
eye = torch.eye(DIM, dtype=torch.float64)


class Ignorant(nn.Module):
    """Decodes every latent as the same picture."""

    def forward(self, z):
        return z.new_zeros(len(z), 1, 2, 2)


def standard(x):
    return Independent(Normal(x.new_zeros(len(x), DIM), 1.0), 1)


def ignorant_model(matrix, prior):
    return FlowVAE(
        encoder=standard,
        decoder=Ignorant(),
        bank=PotentialBank([QuadraticPotential(DIM, matrix), QuadraticPotential(DIM).double()]),
        prior=prior,
        residual=None,
        likelihood=GaussianLikelihood(),
        bound=PaperDensity(),
    )


def test_the_density_at_every_time_by_hand():
    """Catches the exact determinant, a prior at z_t, a volume of the wrong sign or field, a time that is one off."""
    matrix = 0.1 * (normal(0, DIM, DIM) + normal(0, DIM, DIM).mT)
    prior = DiffusionPrior(DIM, fields=2, diffusivity=0.3).double()
    model = ignorant_model(matrix, prior)
    z0, k = normal(1, 5, DIM), torch.tensor([0, 1, 0, 0, 1])
    trajectory = PotentialFlow(model.bank.select(k)).rollout(z0, STEPS, log_det=PaperDensity().log_det)
    found = PaperDensity().divergence(Independent(Normal(0.5 * z0, 2.0), 1), trajectory, prior, k)
    expected = Normal(0.5 * z0, 2.0).log_prob(z0).sum(-1) - Normal(0.0, 1.0).log_prob(z0).sum(-1)
    for t in range(1, STEPS + 1):
        n = t - 1
        expected = expected - laplacian(model.bank.select(k), trajectory.z[n], float(n)).add(1).log()
        expected = expected + math.log(1 + DIM * 0.3 / (1 + 2 * 0.3 * n))
        torch.testing.assert_close(found[t], expected, rtol=1e-6, atol=1e-6)  # D is a float32 softplus


def test_the_density_exceeds_the_evidence():
    """Catches a volume that is punished: the counterexample shows that this is no bound."""
    model = ignorant_model(STRETCH * eye, DiffusionPrior(DIM, fields=2, diffusivity=1e-12).double())
    frames = torch.rand(7, 2, 1, 2, 2, generator=generator(0), dtype=torch.float64)
    objective = model.objective(frames, torch.zeros(7, dtype=torch.int64))
    evidence = Normal(0.0, 1.0).log_prob(frames[:, 1]).sum((1, 2, 3)).mean()
    found = -(objective.reconstruction_per_time[1] + objective.kl_per_time[1])
    torch.testing.assert_close(found, evidence + math.log(1 + DIM * STRETCH), rtol=1e-9, atol=1e-9)


def test_the_density_wants_a_prior_that_diffuses():
    """Catches a prior without a coefficient that fails with an attribute error."""
    model = ignorant_model(STRETCH * eye, GaussianPrior(DIM).double())
    with pytest.raises(TypeError, match=r"^prior: expected one that diffuses"):
        model.objective(torch.rand(2, 3, 1, 2, 2, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))


def model_with(residual, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FlowVAE(
            encoder=MLPEncoder((1, 4, 4), dim=DIM, hidden=(8,)),
            decoder=MLPDecoder(DIM, (1, 4, 4), (8,)),
            bank=PotentialBank([MLPPotential(DIM, (6,)) for _ in range(2)]),
            prior=DiffusionPrior(DIM, fields=2),
            residual=residual,
            residual_weight=2.0,
            **options,
        ).double()


def test_the_weight_of_the_initial_condition():
    """Catches a condition at other points than the first, of another field, or with another weight."""
    frames, k = torch.rand(4, 5, 1, 4, 4, generator=generator(1), dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    with_it, without = (model_with(r) for r in (WithInitialCondition(HJResidual(), 0.25), HJResidual()))
    one, other = (model.objective(frames, k, generator(3)) for model in (with_it, without))
    posterior = without.encode(frames[:, 0])
    noise = torch.randn(4, DIM, generator=generator(3), dtype=torch.float64)
    z0 = posterior.mean + posterior.stddev * noise
    expected = gradient(without.bank.select(k), z0, 0.0).square().sum(-1).mean()
    torch.testing.assert_close(one.residual - other.residual, 0.25 * expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(one.total - other.total, 0.5 * expected, rtol=1e-9, atol=1e-9)


def test_the_initial_condition_is_weighed_by_the_posterior_of_the_label():
    """Catches an average over labels that forgets their probabilities."""
    frames = torch.rand(3, 4, 1, 4, 4, generator=generator(1), dtype=torch.float64)
    posterior = LabelPosterior(MLPSequenceClassifier((1, 4, 4), 4, 2, (8,)), ExactSum())
    with_it, without = (
        model_with(r, label_posterior=posterior) for r in (WithInitialCondition(HJResidual(), 1.0), HJResidual())
    )
    one, other = (model.objective(frames, None, generator(3)) for model in (with_it, without))
    q = posterior(frames).probs
    encoded = without.encode(frames[:, 0])
    z0 = encoded.mean + encoded.stddev * torch.randn(3, DIM, generator=generator(3), dtype=torch.float64)
    each = torch.stack([gradient(u, z0, 0.0).square().sum(-1) for u in without.bank.potentials], -1)
    torch.testing.assert_close(one.residual - other.residual, (q * each).sum(-1).mean(), rtol=1e-9, atol=1e-12)


def test_a_negative_weight_of_the_initial_condition_is_refused():
    """Catches a condition that is rewarded for being violated."""
    with pytest.raises(ValueError, match=r"^weight: expected a number of at least 0, got -1"):
        WithInitialCondition(HJResidual(), -1.0)
