"""The benchmark of frames drawn by lot: its variances are those of the objective that is trained."""

from itertools import combinations

import pytest
import torch
from closed_forms import generator, normal

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
from latentflow.experiments.data import open_sequences


def small(shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FlowVAE(
            encoder=MLPEncoder(shape, 2, (4,)),
            decoder=MLPDecoder(2, shape, (4,)),
            bank=PotentialBank([MLPPotential(2, (5,)) for _ in range(3)]),
            prior=DiffusionPrior(2, fields=3),
            residual=HJResidual(),
            bound=JointBound(),
        ).train()


def gradient(model, batch, seed):
    """The gradient of the objective, as a training step computes it."""
    model.zero_grad()
    model(*batch, generator(seed))["total"].backward()
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


@pytest.mark.parametrize("count", frames.COUNTS)
def test_the_variance_of_the_draw_is_that_over_all_draws(count, monkeypatch):
    """Catches a wrong factor of the draw, such as that with replacement, and gradients that miss a path."""
    model = small((1, 2, 2)).double()
    sequences = torch.rand(6, frames.ALL, 1, 2, 2, generator=generator(0), dtype=torch.float64)
    batch = sequences, torch.full((6,), 1)
    whole, *each = frames.frame_gradients(model, batch, generator(7))
    noise = frames.Noise(batches=2.5, frames=frames.variance(each))
    torch.testing.assert_close(whole, gradient(model, batch, 7))
    model.decoded_frames = count
    drawn = []
    for subset in combinations(range(frames.ALL), count):
        monkeypatch.setattr(torch, "randperm", lambda n, subset=subset, **_: torch.tensor(subset))
        drawn.append(gradient(model, batch, 7))
    expected = torch.stack(drawn).var(0, correction=0).sum().item() / 2.5
    assert noise.share(count) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert (expected > 0) == (count < frames.ALL)


def test_the_variance_of_vectors_far_from_the_origin():
    """Catches a biased variance, a first vector that is left out, and digits lost where the mean is large."""
    vectors = 1e6 + normal(0, 5, 7)
    assert frames.variance(iter(vectors)) == pytest.approx(vectors.var(0).sum().item(), rel=1e-9)
    assert frames.variance(iter(vectors.float())) == pytest.approx(
        vectors.float().double().var(0).sum().item(), rel=1e-9
    )


def test_noise_is_measured_over_batches():
    """Catches the variance of one batch again and again, noise that stays the same, and the whole among the frames."""
    data = open_sequences("digits", "train")
    model = small(data.shape)
    noise = frames.measure_noise(model, frames.Batches(data), 2, 3)
    batches, wholes, between = frames.Batches(data), [], []
    for _ in range(3):
        batch = batches(2)
        assert batch[0].shape == (frames.BATCH, frames.ALL, 3, 28, 28)
        assert (batch[1] == 2).all()
        whole, *each = frames.frame_gradients(model, batch, batches.generator)
        wholes.append(whole.double())
        between.append(torch.stack(each).double().var(0).sum().item())
    assert noise.batches == pytest.approx(torch.stack(wholes).var(0).sum().item(), rel=1e-6)
    assert noise.frames == pytest.approx(sum(between) / 3, rel=1e-6)


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
    """Catches ratios upside down, a mean of ratios for a ratio of means, and the time without the noise."""
    seconds = dict(zip(map(frames.label, frames.COUNTS), (0.5, 1.0, 2.0), strict=True))
    timings = {name: Timing(each, each, each, 3, 1) for name, each in seconds.items()}
    facts = {"variance over batches": {"a": 72.0, "b": 24.0}, "variance between frames": {"a": 1.0, "b": 3.0}}
    written = frames.tables([Comparison("digits", frames.TASK, timings, facts)])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in written.splitlines()[2:]]
    assert rows == [
        ["1 of 9 frames", "3.0", "1.0 to 9.0", "500 ms", "0.25 x", "1.0 x"],
        ["3 of 9 frames", "0.75", "0.25 to 2.2", "1.00 s", "0.50 x", "0.88 x"],
        ["9 of 9 frames", "0.0", "", "2.00 s", "1.0 x", "1.0 x"],
    ]
