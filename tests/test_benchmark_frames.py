"""The benchmark of frames drawn by lot: its variances are those of the objective that is trained."""

from itertools import combinations, product

import pytest
import torch
from closed_forms import generator, normal
from torch.distributions import Independent

from benchmarks import frames
from benchmarks.record import Comparison
from benchmarks.timing import Timing
from latentflow import (
    DiffusionPrior,
    FlowVAE,
    HJResidual,
    JointBound,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
)
from latentflow_experiments.data import open_sequences


class Fixed(Independent):
    """A normal distribution of which every draw lies half a standard deviation above the mean."""

    def rsample(self, sample_shape=()):
        return self.mean + self.stddev / 2


class FixedEncoder(MLPEncoder):
    """An encoder without noise where no generator is given: a sequence has the same latent alone and in a batch."""

    def forward(self, x):
        return Fixed(super().forward(x).base_dist, 1)


def small(shape, encoder=MLPEncoder):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FlowVAE(
            encoder=encoder(shape, 2, (4,)),
            decoder=MLPDecoder(2, shape, (4,)),
            bank=PotentialBank([MLPPotential(2, (5,)) for _ in range(3)]),
            prior=DiffusionPrior(2, fields=3),
            residual=HJResidual(),
            bound=JointBound(),
        ).train()


def slope(model, value):
    """The gradient of a value, as a training step computes it."""
    model.zero_grad()
    value.backward()
    parts = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    return torch.cat(parts).double()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_variance_of_the_draws_is_that_over_all_of_them(count, monkeypatch):
    """Catches a wrong factor, such as that with replacement or of one draw for all, and gradients that miss a path."""
    model = small((1, 2, 2), FixedEncoder).double()
    model.residual = None  # its points are random
    sequences = torch.rand(2, 4, 1, 2, 2, generator=generator(0), dtype=torch.float64)
    batch = sequences, torch.tensor([1, 2])
    variances = list(frames.frame_variances(model, batch, None))
    assert len(variances) == 2
    assert variances[0] != pytest.approx(variances[1], rel=0.01)
    model.decoded_frames = count
    drawn = []
    for subsets in product(combinations(range(4), count), repeat=2):
        lots = torch.ones(4, 2)
        for i, subset in enumerate(subsets):
            lots[list(subset), i] = 0
        monkeypatch.setattr(torch, "rand", lambda shape, lots=lots, **options: lots.reshape(shape))
        drawn.append(slope(model, model(*batch)["total"]))
    expected = torch.stack(drawn).var(0, correction=0).sum().item()
    assert frames.draw_factor(count, 4, 2) * sum(variances) / 2 == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert (expected > 1e-9) == (count < 4)


def test_the_variance_of_vectors_far_from_the_origin():
    """Catches a biased variance, a first vector that is left out, and digits lost where the mean is large."""
    vectors = 1e6 + normal(0, 5, 7)
    assert frames.variance(iter(vectors)) == pytest.approx(vectors.var(0).sum().item(), rel=1e-9)
    assert frames.variance(iter(vectors.float())) == pytest.approx(
        vectors.float().double().var(0).sum().item(), rel=1e-9
    )


def test_noise_is_measured_over_batches_and_sequences():
    """Catches one batch again and again, noise that stays the same, frames of the whole batch, and wrong errors."""
    data = open_sequences("digits", "train")
    model = small(data.shape)
    noise = frames.measure_noise(model, frames.Batches(data), 2, 3)
    batches, over, between = frames.Batches(data), [], []
    for _ in range(3):
        pair = []
        for _ in range(2):
            batch = batches(2)
            assert batch[0].shape == (frames.BATCH, frames.ALL, 3, 28, 28)
            assert (batch[1] == 2).all()
            pair.append(slope(model, model(*batch, batches.generator)["total"]))
        over.append((pair[0] - pair[1]).square().sum() / 2)
        batch = batches(2)
        for i in range(frames.SEQUENCES):
            state, each = batches.generator.get_state(), []
            for t in range(frames.ALL):
                batches.generator.set_state(state)
                objective = model.objective(batch[0][[i]], batch[1][[i]], batches.generator)
                each.append(slope(model, objective.reconstruction_per_time[t]))
            between.append(torch.stack(each).var(0).sum())
    for found, samples in ((noise.batches, torch.stack(over)), (noise.frames, torch.stack(between))):
        assert found.mean == pytest.approx(samples.mean().item(), rel=1e-5)
        assert found.error == pytest.approx((samples.var() / len(samples)).sqrt().item(), rel=1e-4)


def test_the_error_of_a_share_is_its_scatter():
    """Catches errors that are not divided by the mean, added without squares, or missing for one of the two; 5 %."""
    numerators, denominators = 8 + 0.2 * normal(0, 20_000), 4 + 0.15 * normal(1, 20_000)
    shares = frames.draw_factor(3, frames.ALL, frames.BATCH) * numerators / denominators
    share = frames.Noise(frames.Estimate(4.0, 0.15), frames.Estimate(8.0, 0.2)).share(3)
    assert share.mean == pytest.approx(shares.mean().item(), rel=0.01)
    assert share.error == pytest.approx(shares.std().item(), rel=0.05)


def test_steps_train_a_copy():
    """Catches a model that the timing of one count has changed for the next, and one potential that is trained only."""
    data = open_sequences("digits", "train")
    model = small(data.shape)
    before = [parameter.clone() for parameter in model.parameters()]
    trained = frames.train(model, frames.Batches(data), 3)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    moved = [not torch.equal(p.point.weight, q.point.weight) for p, q in zip(trained.bank, model.bank, strict=True)]
    assert moved == [True] * 3
    assert (frames.Step(model, 3, frames.Batches(data)(0)).model.decoded_frames, model.decoded_frames) == (3, None)


def test_the_model_is_the_one_of_the_experiments():
    """Catches another bound, evaluation mode, which decodes all frames, and counts that do not end with all frames."""
    data = open_sequences("digits", "train")
    model = frames.build(data)
    assert model.training
    assert isinstance(model.bound, JointBound)
    assert data.steps + 1 == frames.ALL == max(frames.COUNTS)


def test_the_table_says_what_a_draw_costs_and_saves():
    """Catches ratios upside down, a mean of ratios for a ratio of means, and time without the noise."""
    seconds = dict(zip(map(frames.label, frames.COUNTS), (0.5, 1.0, 2.0), strict=True))
    timings = {name: Timing(each, each, each, 3, 1) for name, each in seconds.items()}
    facts = {
        "batches": 42,
        "sequences": 84,
        frames.OVER: {"a": {"mean": 72.0, "error": 48.0}, "b": {"mean": 24.0, "error": 64.0}},
        frames.BETWEEN: {"a": {"mean": 64.0, "error": 96.0}, "b": {"mean": 192.0, "error": 128.0}},
    }
    written, note = frames.tables([Comparison("digits", frames.TASK, timings, facts)]).split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in written.splitlines()[2:]]
    assert rows == [
        ["1 of 9 frames", "3.0 ± 3", "1.0 to 9.0", "500 ms", "0.25 x", "1.0 x"],
        ["3 of 9 frames", "0.75 ± 0.8", "0.25 to 2.2", "1.00 s", "0.50 x", "0.88 x"],
        ["9 of 9 frames", "0.0", "", "2.00 s", "1.0 x", "1.0 x"],
    ]
    assert "42 batches and the frames of 84 sequences" in note
