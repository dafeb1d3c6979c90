"""Training on a few frames of a sequence, drawn by lot: unbiased, in training only."""

from itertools import combinations

import pytest
import torch
from closed_forms import generator
from torch.distributions import Independent

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    HJResidual,
    JointBound,
    LabelPosterior,
    MarginalBound,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    MLPSequenceClassifier,
    PotentialBank,
)
from latentflow.pde import PaperPoints

SHAPE, DIM, STEPS, FIELDS = (1, 3, 2), 2, 3, 2
FRAMES = STEPS + 1
frames = torch.rand(4, FRAMES, *SHAPE, generator=generator(0), dtype=torch.float64)
labels = torch.tensor([1, 0, 1, 1])
MARGINAL = MarginalBound()
near = {"rtol": 1e-11, "atol": 1e-11}


class Fixed(Independent):
    """A normal distribution of which every draw lies half a standard deviation above the mean."""

    def rsample(self, sample_shape=()):
        return self.mean + self.stddev / 2


class FixedEncoder(MLPEncoder):
    def forward(self, x):
        return Fixed(super().forward(x).base_dist, 1)


class CountingDecoder(MLPDecoder):
    """A decoder that keeps how many latents it was last given."""

    def forward(self, z):
        self.count = len(z)
        return super().forward(z)


def build(decoded_frames=None, bound=MARGINAL, encoder=FixedEncoder):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FlowVAE(
            encoder=encoder(SHAPE, DIM, (8,)),
            decoder=CountingDecoder(DIM, SHAPE, (8,)),
            bank=PotentialBank([MLPPotential(DIM, (6, 5)) for _ in range(FIELDS)]),
            prior=DiffusionPrior(DIM, FIELDS, 0.2),
            residual=HJResidual(),
            bound=bound,
            collocation=PaperPoints(),
            label_posterior=LabelPosterior(MLPSequenceClassifier(SHAPE, FRAMES, FIELDS, (8,))),
            decoded_frames=decoded_frames,
        ).double()


def gradients(model, total):
    model.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("k", [labels, None], ids=["labels", "inferred"])
@pytest.mark.parametrize("bound", [MarginalBound(), JointBound()])
def test_the_mean_over_all_choices_is_the_full_objective(monkeypatch, count, k, bound):
    """Catches a scale that is missing or inverted, a frame that is never chosen, and latents of other frames' times."""
    full, some = build(bound=bound), build(count, bound)
    expected = full.objective(frames, k)
    slopes = gradients(full, expected.total)
    objectives, sums = [], {name: torch.zeros_like(slope) for name, slope in slopes.items()}
    choices = list(combinations(range(FRAMES), count))
    for choice in choices:
        rest = [t for t in range(FRAMES) if t not in choice]
        monkeypatch.setattr(torch, "randperm", lambda n, order=(*choice[::-1], *rest), **kwargs: torch.tensor(order))
        objective = some.objective(frames, k)
        for name, slope in gradients(some, objective.total).items():
            sums[name] += slope / len(choices)
        objectives.append(objective)
        scaled = expected.reconstruction_per_time * FRAMES / count
        scaled[rest] = 0
        torch.testing.assert_close(objective.reconstruction_per_time, scaled, **near)
        torch.testing.assert_close(objective.kl_per_time, expected.kl_per_time, **near)
        torch.testing.assert_close(objective.residual, expected.residual, **near)
    for name in ("total", "reconstruction", "bound"):
        mean = torch.stack([getattr(objective, name) for objective in objectives]).mean()
        torch.testing.assert_close(mean, getattr(expected, name), **near)
    assert sums.keys() == slopes.keys()
    for name, slope in slopes.items():
        torch.testing.assert_close(sums[name], slope, **near, msg=lambda m, n=name: f"{n}: {m}")


def test_only_the_chosen_frames_are_decoded():
    """Catches a saving that saves nothing."""
    model = build(2)
    model.objective(frames, labels)
    assert model.decoder.count == 2 * len(frames)
    model.objective(frames)
    assert model.decoder.count == 2 * FIELDS * len(frames)
    model.eval().objective(frames, labels)
    assert model.decoder.count == FRAMES * len(frames)


def test_evaluation_decodes_all_frames():
    """Catches a reported bound with the noise of a choice, in objectives and in bounds under every label."""
    some, full, state = build(1).eval(), build().eval(), torch.get_rng_state()
    for k in (labels, None):
        ours, theirs = some.objective(frames, k), full.objective(frames, k)
        for name, value in vars(theirs).items():
            assert torch.equal(getattr(ours, name), value), name
    assert torch.equal(some.bounds(frames), full.bounds(frames))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("count", [FRAMES, FRAMES + 1, 100])
def test_as_many_as_there_are_is_all(count):
    """Catches a scale below one, and a draw where nothing is to be chosen."""
    state = torch.get_rng_state()
    ours, theirs = build(count).objective(frames, labels), build().objective(frames, labels)
    assert torch.equal(ours.total, theirs.total)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("count", [1, 3])
def test_every_frame_is_as_likely_as_the_others(count):
    """Catches the first frame always or never decoded, and frames drawn with replacement; 5 s.e."""
    model, draws = build(count, JointBound(), MLPEncoder), 150
    chosen = torch.zeros(draws, FRAMES)
    with torch.no_grad():
        for seed in range(draws):
            chosen[seed] = (model.objective(frames, labels, generator(seed)).reconstruction_per_time > 0).float()
    assert (chosen.sum(-1) == count).all()
    share = count / FRAMES
    assert ((chosen.mean(0) - share).abs() < 5 * (share * (1 - share) / draws) ** 0.5).all()


def test_the_choice_comes_from_the_generator():
    """Catches a choice from the global source of randomness, and one that is made once for all steps."""
    model, state = build(1, JointBound(), MLPEncoder), torch.get_rng_state()
    for seed in range(5):
        first, second = (model.objective(frames, labels, generator(seed)) for _ in range(2))
        assert torch.equal(first.reconstruction_per_time, second.reconstruction_per_time)
    source = generator(0)
    patterns = {tuple((model.objective(frames, labels, source).reconstruction_per_time > 0).tolist()) for _ in range(9)}
    assert len(patterns) > 1
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("count", [0, -1, 1.5, "2"])
def test_a_number_of_frames_that_is_none_is_refused(count):
    """Catches an objective without any frame, and a division by zero in the first step."""
    with pytest.raises(ValueError, match=r"^decoded_frames: expected a positive integer"):
        build(count)
