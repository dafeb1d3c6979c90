"""The objective of sequences without a label, against the objectives with every label."""

from itertools import product

import pytest
import torch
from closed_forms import generator, normal
from fixed_posterior import FixedEncoder, StepStarts
from torch import nn

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    HJResidual,
    HopfLaxFlow,
    JointBound,
    LabelPosterior,
    MarginalBound,
    MLPDecoder,
    MLPPotential,
    PotentialBank,
    PotentialFlow,
)
from latentflow.vae import ExactSum, MLPSequenceClassifier, StochasticBound, StraightThrough
from latentflow.vae import bounds as stochastic
from latentflow.vae.bounds import Mixed

SHAPE, DIM, STEPS, FIELDS, BATCH = (1, 3, 2), 2, 3, 3, 4
frames = torch.rand(BATCH, STEPS + 1, *SHAPE, generator=generator(0), dtype=torch.float64)
near = {"rtol": 1e-10, "atol": 1e-10}
AVERAGED = ("reconstruction_per_time", "kl_per_time", "residual", "action", "folded")
BOUNDS = {
    "marginal": MarginalBound,
    "joint": JointBound,
    "stochastic": StochasticBound,
    "looking": lambda: StochasticBound(DIM),
}


class Permuted(nn.Module):
    """A network whose classes are renamed."""

    def __init__(self, network, order):
        super().__init__()
        self.network, self.order = network, order

    def forward(self, x):
        return self.network(x)[:, self.order]


class FreeLogits(nn.Module):
    """A posterior that is one free parameter."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x):
        return self.logits


class Responsible:
    """An estimator that mixes by responsibilities that are given."""

    def __init__(self, responsibilities):
        self.responsibilities = responsibilities

    def assign(self, posterior, generator=None):
        return Mixed(self.responsibilities)


def build(bound="marginal", estimator=ExactSum(), network=None, fields=FIELDS, dynamics=PotentialFlow, **options):  # noqa: B008 - frozen
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = FlowVAE(
            encoder=FixedEncoder(SHAPE, DIM, (8,)),
            decoder=MLPDecoder(DIM, SHAPE, (8,)),
            bank=PotentialBank([0.7 * MLPPotential(DIM, (6, 5)) for _ in range(fields)]),
            prior=DiffusionPrior(DIM, fields),
            residual=options.pop("residual", HJResidual()),
            bound=BOUNDS[bound](),
            residual_weight=2.0,
            dynamics=dynamics,
            collocation=StepStarts(),
        ).double()
        network = network or MLPSequenceClassifier(SHAPE, STEPS + 1, fields, (8,)).double()
    model.label_posterior = LabelPosterior(network, estimator, options.pop("balance", 3.0))
    with torch.no_grad():
        model.prior.raw.copy_(torch.linspace(-2, 0, fields))
    return model


@pytest.fixture(autouse=True)
def _same_noise(monkeypatch):
    """Take the randomness out of latents that diffuse."""
    monkeypatch.setattr(stochastic, "standard_normal_like", lambda x, _: torch.full_like(x, 0.7))


def gradients(model, total, names=None):
    parameters = {n: p for n, p in model.named_parameters() if names is None or n.startswith(names)}
    slopes = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {n: g for n, g in zip(parameters, slopes, strict=True) if g is not None}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, **near, msg=lambda m, n=name: f"{n}: {m}")


def supervised(model):
    """The objective of every sequence (row) alone, with every label (column)."""
    posterior, model.label_posterior = model.label_posterior, None  # which labels would teach
    result = [
        [model.objective(frames[i : i + 1], torch.tensor([k])) for k in range(len(model.bank))] for i in range(BATCH)
    ]
    model.label_posterior = posterior
    return result


def weighed(objectives, q, name):
    """The mean over the batch of the sum over k of q_k times a term."""
    values = torch.stack([torch.stack([getattr(one, name) for one in row]) for row in objectives])
    return torch.einsum("bk,bk...->...", q, values) / BATCH


@pytest.mark.parametrize("dynamics", [PotentialFlow, HopfLaxFlow])
@pytest.mark.parametrize("bound", BOUNDS)
def test_the_exact_sum_by_hand(bound, dynamics):
    """Catches q of another sample or label, a residual or prior outside of the sum, and a gradient not dL/dq."""
    model = build(bound, dynamics=dynamics)
    ours, one = model.objective(frames), supervised(model)
    logits = model.label_posterior.network(frames)
    q = logits.softmax(-1)
    label_kl = (q * (q * FIELDS).log()).sum(-1).mean()
    collapse = 3.0 * (q.mean(0) * (q.mean(0) * FIELDS).log()).sum()
    total = weighed(one, q, "total") + label_kl + collapse
    assert_same(
        {name: getattr(ours, name) for name in (*AVERAGED, "total", "label_kl", "collapse", "bound")},
        {name: weighed(one, q, name) for name in AVERAGED}
        | {"total": total, "label_kl": label_kl, "collapse": collapse, "bound": weighed(one, q, "bound") - label_kl},
    )
    assert_same(gradients(model, ours.total), gradients(model, total))
    each = torch.stack([torch.stack([objective.bound for objective in row]) for row in one])
    torch.testing.assert_close(model.bounds(frames), each.mT, **near)


def one_hot(labels, fields=FIELDS):
    return nn.functional.one_hot(torch.tensor(labels), fields).double()


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_certain_straight_through_posterior_is_supervision(bound):
    """Catches a mixture of densities, a prior of another field, and a gradient to potentials that were not drawn."""
    labels = [2, 0, 1, 2]
    model = build(bound, StraightThrough(0.5), FreeLogits(2000 * one_hot(labels)))
    ours, theirs = model.objective(frames), model.objective(frames, torch.tensor(labels))
    for name in AVERAGED:
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), **near)
    parts = ("encoder", "decoder", "bank", "prior", "bound")
    ours_by, theirs_by = (gradients(model, objective.total, parts) for objective in (ours, theirs))
    assert_same(ours_by, theirs_by)
    assert (theirs.label_kl, theirs.collapse) == (0, 0)
    torch.testing.assert_close(ours.label_kl, torch.tensor(FIELDS).double().log(), **near)


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_mean_over_straight_through_draws_is_the_exact_sum(monkeypatch, bound):
    """Catches a straight-through objective of another law, scale or label: every draw is enumerated."""
    logits = normal(5, BATCH, 2)
    exact = build(bound, ExactSum(), FreeLogits(logits), fields=2).objective(frames)
    model, means = build(bound, StraightThrough(1.0), FreeLogits(logits), fields=2), {}
    for draw in product(range(2), repeat=BATCH):
        noise = torch.where(one_hot(draw, 2) > 0, 1e-20, 1e20).double()  # the Gumbel variables are 46 and -46
        monkeypatch.setattr(torch.Tensor, "exponential_", lambda x, generator=None, n=noise: x.copy_(n))
        chance = (logits.softmax(-1) * one_hot(draw, 2)).sum(-1).prod()
        for name, value in vars(model.objective(frames)).items():
            means[name] = means.get(name, 0) + chance * value.detach()
    assert_same(means, {name: value.detach() for name, value in vars(exact).items()})


@pytest.mark.parametrize("dynamics", [PotentialFlow, HopfLaxFlow])
@pytest.mark.parametrize("bound", BOUNDS)
def test_every_sample_has_responsibilities_of_its_own(bound, dynamics):
    """Catches the mean responsibility of a batch, and the product of two means: any mixture is that of one alone."""
    weights = normal(6, BATCH, FIELDS).softmax(-1)
    together = build(bound, Responsible(weights), balance=0.0, dynamics=dynamics).objective(frames)
    alone = [
        build(bound, Responsible(weights[i : i + 1]), balance=0.0, dynamics=dynamics).objective(frames[i : i + 1])
        for i in range(BATCH)
    ]
    for name in (*AVERAGED, "total"):
        mean = torch.stack([getattr(one, name) for one in alone]).mean(0)
        torch.testing.assert_close(getattr(together, name), mean, **near, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("bound", BOUNDS)
def test_names_of_potentials_mean_nothing(monkeypatch, bound):
    """Catches potentials, coefficients and probabilities that are paired by different orders."""
    order, noise = [2, 0, 1], normal(7, BATCH, FIELDS).exp()
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda x, generator=None: x.copy_(noise))
    for estimator in (ExactSum(), StraightThrough(0.7)):
        model, renamed = build(bound, estimator), build(bound, estimator)
        first = model.objective(frames)
        renamed.bank = PotentialBank([renamed.bank[k] for k in order])
        renamed.prior.raw.data = renamed.prior.raw.data[order]
        renamed.label_posterior.network = Permuted(renamed.label_posterior.network, order)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "exponential_", lambda x, generator=None: x.copy_(noise[:, order]))
            second = renamed.objective(frames)
        assert_same(vars(second), vars(first))


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_best_posterior_is_the_softmax_of_the_bounds(bound):
    """Row 41; catches log q of the wrong sign or weight, log p missing, and bounds that are not those of the sum."""
    model = build(bound, network=FreeLogits(normal(8, BATCH, FIELDS)), residual=None, balance=0.0)
    bounds, start = model.bounds(frames).mT.detach(), model.objective(frames).total
    evidence = bounds.logsumexp(-1) - torch.tensor(FIELDS).double().log()
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=model.label_posterior.network.logits),
        torch.distributions.Categorical(logits=bounds),
    )
    torch.testing.assert_close(start, (divergence - evidence).mean(), **near)
    model.label_posterior.network.logits.data = bounds
    best = model.objective(frames)
    torch.testing.assert_close(best.total, -evidence.mean(), **near)
    torch.testing.assert_close(best.bound, evidence.mean(), **near)
    slope = gradients(model, best.total, "label_posterior")["label_posterior.network.logits"]
    torch.testing.assert_close(slope, torch.zeros_like(slope), **near)


def test_without_labels_and_without_a_posterior():
    """Catches labels that are guessed silently."""
    model = build()
    model.label_posterior = None
    with pytest.raises(ValueError, match=r"^k: expected the labels"):
        model.objective(frames)
