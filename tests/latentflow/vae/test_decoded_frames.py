"""Training on a few frames of each sequence, drawn by lot for each one alone: unbiased, in training only."""

from itertools import combinations, product
from math import comb

import pytest
import torch
from closed_forms import generator
from fixed_posterior import FixedEncoder, StepStarts

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
    PotentialBank,
    PotentialFlow,
)
from latentflow.vae import MLPSequenceClassifier

SHAPE, DIM, STEPS, FIELDS = (1, 3, 2), 2, 3, 2
FRAMES = STEPS + 1
frames = torch.rand(4, FRAMES, *SHAPE, generator=generator(0), dtype=torch.float64)
labels = torch.tensor([1, 0, 1, 1])
MARGINAL = MarginalBound()
near = {"rtol": 1e-11, "atol": 1e-11}


class BlindEncoder(MLPEncoder):
    """An encoder through which no gradient reaches the images, so that those with a gradient are the decoded ones."""

    def forward(self, x):
        return super().forward(x.detach())


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
            collocation=StepStarts(),
            label_posterior=LabelPosterior(MLPSequenceClassifier(SHAPE, FRAMES, FIELDS, (8,))),
            decoded_frames=decoded_frames,
        ).double()


def gradients(model, total):
    model.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def mask(subsets, lanes):
    """Which frames are drawn, of shape (T+1, *lanes), from a subset of the times for each lane."""
    chosen = torch.zeros(FRAMES, len(subsets), dtype=torch.bool)
    for lane, subset in enumerate(subsets):
        chosen[list(subset), lane] = True
    return chosen.reshape(FRAMES, *lanes)


def deal(monkeypatch, chosen):
    """Let the lots fall such that these frames are drawn, the last one first."""
    late_first = 1 - torch.arange(FRAMES) / FRAMES
    lots = (late_first.reshape(-1, *(1,) * (chosen.ndim - 1)) + (~chosen).float()) / 2

    def rand(shape, **options):
        assert tuple(shape) == tuple(chosen.shape)
        return lots

    monkeypatch.setattr(torch, "rand", rand)


def losses(model):
    """The negative log-likelihood of every frame under every label, of shape (T+1, K, batch), one after the other."""
    result = torch.zeros(FRAMES, FIELDS, len(frames), dtype=torch.float64)
    for b, sequence in enumerate(frames):
        posterior = model.encoder(sequence[:1])
        for field in range(FIELDS):
            z = PotentialFlow(model.bank[field]).rollout(posterior.mean + posterior.stddev / 2, STEPS).z
            for t in range(FRAMES):
                logits = model.decoder(z[t])[0]
                result[t, field, b] = torch.nn.functional.binary_cross_entropy_with_logits(
                    logits, sequence[t], reduction="sum"
                )
    return result


def decoded(model, sequences, seed, *, inferred):
    """Which frames are decoded in a step: (T+1, batch), or (T+1, K, batch) for bounds under every label."""
    x = sequences.clone().requires_grad_()
    if inferred:
        parts = [bounds.sum() for bounds in model.bounds(x, generator(seed))]
    else:
        parts = [model.objective(x, torch.arange(len(x)) % FIELDS, generator(seed)).reconstruction]
    slopes = [torch.autograd.grad(part, x, retain_graph=True)[0] for part in parts]
    found = torch.stack([(slope != 0).flatten(2).any(-1).mT for slope in slopes], 1)
    return found if inferred else found.squeeze(1)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(("k", "lanes"), [(labels[:2], (2,)), (None, (FIELDS, 1))], ids=["labels", "inferred"])
@pytest.mark.parametrize("bound", [MarginalBound(), JointBound()])
def test_the_mean_over_all_choices_is_the_full_objective(monkeypatch, count, k, lanes, bound):
    """Catches a scale that is missing or inverted, a frame that is never chosen, and latents of other frames' times."""
    sequences = frames[: lanes[-1]]
    full, some = build(bound=bound), build(count, bound)
    expected = full.objective(sequences, k)
    slopes = gradients(full, expected.total)
    objectives, sums = [], {name: torch.zeros_like(slope) for name, slope in slopes.items()}
    choices = list(product(combinations(range(FRAMES), count), repeat=2))
    for subsets in choices:
        deal(monkeypatch, mask(subsets, lanes))
        objective = some.objective(sequences, k)
        for name, slope in gradients(some, objective.total).items():
            sums[name] += slope / len(choices)
        objectives.append(objective)
        torch.testing.assert_close(objective.kl_per_time, expected.kl_per_time, **near)
        torch.testing.assert_close(objective.residual, expected.residual, **near)
    for name in ("total", "reconstruction", "bound", "reconstruction_per_time"):
        mean = torch.stack([getattr(objective, name) for objective in objectives]).mean(0)
        torch.testing.assert_close(mean, getattr(expected, name), **near)
    assert sums.keys() == slopes.keys()
    for name, slope in slopes.items():
        torch.testing.assert_close(sums[name], slope, **near, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_sequence_is_explained_by_its_own_frames(monkeypatch, count):
    """Catches latents decoded against frames of another time or sequence, and a loss put at another one's place."""
    model, source = build(count), generator(count)
    subsets = list(combinations(range(FRAMES), count))
    each = losses(model)
    for _ in range(5):
        drawn = [subsets[i] for i in torch.randint(len(subsets), (len(frames),), generator=source)]
        chosen = mask(drawn, (len(frames),))
        deal(monkeypatch, chosen)
        expected = (each[:, labels, torch.arange(len(frames))] * chosen).mean(-1) * FRAMES / count
        torch.testing.assert_close(model.objective(frames, labels).reconstruction_per_time, expected, **near)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_explanation_of_a_sequence_draws_its_own_frames(monkeypatch, count):
    """Catches frames that the explanations under all labels share or swap, and weights of another explanation."""
    model, full, source = build(count), build(), generator(count)
    subsets = list(combinations(range(FRAMES), count))
    each, weights = losses(model), model.label_posterior(frames).probs.mT
    rest = full.bounds(frames) + each.sum(0)
    for _ in range(5):
        drawn = [subsets[i] for i in torch.randint(len(subsets), (FIELDS * len(frames),), generator=source)]
        chosen = mask(drawn, (FIELDS, len(frames)))
        deal(monkeypatch, chosen)
        some = each * chosen * FRAMES / count
        torch.testing.assert_close(model.bounds(frames), rest - some.sum(0), **near)
        expected = (some * weights).sum(1).mean(-1)
        torch.testing.assert_close(model.objective(frames).reconstruction_per_time, expected, **near)


@pytest.mark.parametrize("inferred", [False, True], ids=["labels", "inferred"])
def test_no_other_frame_enters(monkeypatch, inferred):
    """Catches a frame of another sequence that is read in place of a chosen one."""
    model, lanes = build(2, JointBound(), BlindEncoder), (FIELDS, 3) if inferred else (3,)
    subsets = [(0, 1), (2, 3), (1, 3), (0, 2), (1, 2), (0, 3)][: 6 if inferred else 3]
    chosen = mask(subsets, lanes)
    deal(monkeypatch, chosen)
    assert torch.equal(decoded(model, frames[:3], 0, inferred=inferred), chosen)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("inferred", [False, True], ids=["labels", "inferred"])
def test_all_pairs_of_choices_are_equally_likely(count, inferred):
    """Catches one draw for the batch or for all labels, frames that are favoured or repeated; 5 s.e."""
    model, sequences = build(count, JointBound(), BlindEncoder), 2000
    many = torch.rand(sequences, FRAMES, *SHAPE, generator=generator(1), dtype=torch.float64)
    found = decoded(model, many, 2, inferred=inferred)
    assert (found.sum(0) == count).all()
    codes = (found * 2 ** torch.arange(FRAMES).reshape(-1, *(1,) * (found.ndim - 1))).sum(0)
    kinds, codes = torch.unique(codes, return_inverse=True)
    assert len(kinds) == comb(FRAMES, count)
    pairs = [codes.reshape(-1, 2).T] + ([codes] if inferred else [])  # neighbours in the batch; both labels
    share = 1 / len(kinds) ** 2
    for first, second in pairs:
        counts = torch.bincount(first * len(kinds) + second, minlength=len(kinds) ** 2)
        error = (share * (1 - share) / len(first)) ** 0.5
        assert ((counts / len(first) - share).abs() < 5 * error).all()


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


def test_the_choice_comes_from_the_generator():
    """Catches a choice from the global source of randomness, and one that is made once for all steps."""
    model, state = build(1, JointBound(), BlindEncoder), torch.get_rng_state()
    for inferred in (False, True):
        patterns = [decoded(model, frames, seed, inferred=inferred) for seed in range(5)]
        for seed, pattern in enumerate(patterns):
            assert torch.equal(decoded(model, frames, seed, inferred=inferred), pattern)
        assert len({tuple(pattern.flatten().tolist()) for pattern in patterns}) > 1
    source = generator(0)
    first, second = (model.objective(frames, labels, source).reconstruction_per_time > 0 for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("count", [0, -1, 1.5, "2"])
def test_a_number_of_frames_that_is_none_is_refused(count):
    """Catches an objective without any frame, and a division by zero in the first step."""
    with pytest.raises(ValueError, match=r"^decoded_frames: expected a positive integer"):
        build(count)
