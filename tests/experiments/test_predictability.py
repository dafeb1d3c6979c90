"""The score of variation predictability on pairs that can and cannot be told apart."""

import math

import pytest
import torch
from closed_forms import generator
from torch import nn
from torch.distributions import Independent, Normal

from latentflow import DiffusionPrior, FlowVAE, MLPDecoder, MLPPotential, PotentialBank
from latentflow_experiments.methods.method import FlowMotion
from latentflow_experiments.metrics.predictability import (
    _accuracy,
    _build,
    _join,
    _split,
    make_pairs,
    shuffle_labels,
    vp_score,
)


def separable(classes, each=60, size=8, seed=0):
    """Make pairs whose last image has the pattern of its class added."""
    labels = torch.arange(classes).repeat(each)
    first = torch.rand(len(labels), 1, size, size, generator=generator(seed))
    pattern = torch.rand(classes, 1, size, size, generator=generator(seed + 1))
    return first, (first + pattern[labels]) / 2, labels


@pytest.mark.parametrize("classes", range(2, 9))
def test_separable_pairs_and_shuffled_labels(classes):
    """Catches accuracy among the first five guesses, testing on training pairs, and a network that does not learn."""
    first, last, labels = separable(classes)
    score = vp_score(first, last, labels, 0.5, generator(0), epochs=8, test_every=4)
    assert score.last > 0.93
    assert (score.classes, score.chance) == (classes, 1 / classes)
    shuffled = vp_score(first, last, shuffle_labels(labels, generator(1)), 0.5, generator(0), epochs=8, test_every=4)
    error = math.sqrt((1 - 1 / classes) / classes / shuffled.test_pairs)
    assert abs(shuffled.last - 1 / classes) < 3.5 * error


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_pairs_that_are_all_the_same_score_exactly_chance(classes):
    """Catches accuracy among the first five guesses, and a test part that is not balanced."""
    same = torch.full((10 * classes, 2, 5, 5), 0.5)
    score = vp_score(same, same, torch.arange(classes).repeat(10), 0.2, generator(0), epochs=1)
    assert score.last == score.best == pytest.approx(1 / classes, abs=1e-12)
    assert (score.train_pairs, score.test_pairs) == (2 * classes, 8 * classes)
    assert score.standard_error == pytest.approx(math.sqrt((1 - 1 / classes) / classes / (8 * classes)))


def test_the_network_sees_both_images():
    """Catches a network that sees only the first, only the last, or only the difference of the images."""
    first, last, labels = separable(3)
    noise = torch.rand(first.shape, generator=generator(5))
    for pair in ((noise, last), (last, noise), (last, last)):
        assert vp_score(*pair, labels, 0.5, generator(0), epochs=8, test_every=8).last > 0.9


def test_images_are_put_side_by_side_and_scaled():
    """Catches images in [0, 1], the pairs of other indices, and mixed-up channels."""
    first, last = torch.zeros(3, 2, 4, 4), torch.ones(3, 2, 4, 4)
    first[1] = 0.25
    joined = _join(first, last, torch.tensor([1]))
    assert joined.shape == (1, 4, 4, 4)
    assert (joined[0, :2] == -0.5).all()
    assert (joined[0, 2:] == 1).all()


def test_the_network_is_the_published_one():
    """Catches a convolution with bias, another width or kernel, a missing normalisation, stride or pooling."""
    network = _build(6, 5, generator(0))
    convolutions = 6 * 64 * 49 + 64 * 64 * 9 + 64 * 128 * 9 + 128 * 256 * 9
    normalisations = 2 * (64 + 64 + 128 + 256)
    assert sum(p.numel() for p in network.parameters()) == convolutions + normalisations + 256 * 5 + 5
    assert all(layer.bias is None for layer in network if isinstance(layer, nn.Conv2d))
    kinds = [type(layer).__name__ for layer in network]
    block = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert kinds == [*block, *block, "MaxPool2d", *block, *block, "AdaptiveAvgPool2d", "Flatten", "Linear"]
    x = torch.rand(2, 6, 28, 20, generator=generator(1))
    assert network[:6](x).shape == (2, 64, 14, 10)
    assert network[:-3](x).shape == (2, 256, 7, 5)


def test_the_split_is_balanced_disjoint_and_random():
    """Catches a pair in both parts, a lost pair, classes that are not equally frequent, and always the first pairs."""
    labels = shuffle_labels(torch.arange(3).repeat(50), generator(0))
    train, test = _split(labels, 3, 0.1, generator(1))
    assert torch.cat((train, test)).sort().values.tolist() == list(range(150))
    assert labels[train].bincount().tolist() == [5, 5, 5]
    assert set(train.tolist()) != set(_split(labels, 3, 0.1, generator(2))[0].tolist())


def test_one_percent_is_at_least_a_pair_of_each_class():
    """Catches an empty training part and a share rounded down."""
    first, last, labels = separable(2, each=150)
    assert vp_score(first, last, labels, 0.001, generator(0), epochs=1).train_pairs == 2
    assert vp_score(first, last, labels, 0.0199, generator(0), epochs=1).train_pairs == 6


@pytest.mark.parametrize(("each", "batch_size"), [(3, 4), (3, 8), (1, 2), (11, 32)])
def test_a_last_batch_of_one_pair(each, batch_size):
    """Catches batch normalisation of a single value: images this small end as one pixel."""
    first, last, labels = separable(3, each=2 * each, size=4)
    score = vp_score(first, last, labels, 0.5, generator(0), epochs=1, batch_size=batch_size)
    assert score.train_pairs == 3 * each
    assert 0 <= score.last <= 1


def test_tests_do_not_change_the_training():
    """Catches a test in training mode, one that draws random numbers, a last epoch left out, and best below last."""
    pairs = separable(6, each=20)
    often = vp_score(*pairs, 0.3, generator(0), epochs=5, test_every=1)
    seldom = vp_score(*pairs, 0.3, generator(0), epochs=5, test_every=3)
    once = vp_score(*pairs, 0.3, generator(0), epochs=5, test_every=100)
    assert often.last == seldom.last == once.last == once.best
    assert often.best >= seldom.best >= once.best


def test_a_test_leaves_the_network_as_it_is():
    """Catches a test that normalises by its own batches, or that leaves the training in evaluation mode."""
    first, last, labels = separable(2, each=10)
    network = _build(2, 2, generator(0))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    _accuracy(network, first, last, labels, torch.arange(20))
    assert network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_best_is_over_the_tested_epochs(monkeypatch):
    """Catches best taken as the last, as the first or over epochs that were not tested."""
    accuracies = iter([0.4, 0.75, 0.5])
    monkeypatch.setitem(vp_score.__globals__, "_accuracy", lambda *_: next(accuracies))
    score = vp_score(*separable(2, each=10), 0.5, generator(0), epochs=5, test_every=2)
    assert (score.last, score.best) == (0.5, 0.75)
    assert score.standard_error == pytest.approx(math.sqrt(0.25 / 10))
    assert next(accuracies, None) is None


def test_generator():
    """Catches draws from the global source of randomness, and weights or batches that no seed fixes."""
    pairs = separable(6, each=20)
    state = torch.get_rng_state()
    same, again, other = (vp_score(*pairs, 0.2, generator(seed), epochs=2) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert same == again != other
    first, second, third = (_build(2, 2, generator(seed))[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_shuffled_labels():
    """Catches labels drawn anew, which would not be balanced, and labels left in place."""
    labels = torch.arange(4).repeat_interleave(25)
    shuffled = shuffle_labels(labels, generator(0))
    assert shuffled.bincount().tolist() == [25] * 4
    assert (shuffled == labels).float().mean() < 0.5


class Counted:
    """Sequences of three transformations; the pixels of frame ``t`` of image ``i`` are ``i / 100``, at ``t = 0``."""

    names, steps, shape = ("a", "b", "c"), 4, (1, 2, 2)

    def starts(self, k):
        return torch.arange(10 * k, 10 * k + 5 + k)

    def sequence(self, indices, k):
        start = (indices / 100).reshape(-1, 1, 1, 1, 1)
        return start.expand(-1, 1, *self.shape) + torch.arange(5.0).reshape(1, 5, 1, 1, 1)


class Shift:
    """Moves every latent by ``(k + 1) / 10`` a step, and keeps what it decoded."""

    def __init__(self):
        self.decoded = []

    def start(self, frames):
        assert torch.is_inference_mode_enabled()
        assert frames.shape[1] == 5
        return frames[:, 0].flatten(1)

    def follow(self, z0, k, steps):
        return z0 + (k + 1) / 10 * torch.arange(steps + 1.0).reshape(-1, 1, 1)

    def decode(self, z):
        self.decoded.append(tuple(z.shape))
        return Independent(Normal(z.reshape(*z.shape[:-1], 1, 2, 2), 1.0), 3)


def test_pairs_are_the_decoded_ends_of_paths():
    """Catches another last step, k or pairing of images, frames of the data for decoded ones, and needless decoding."""
    method = Shift()
    pairs = make_pairs(method, Counted(), 5, generator(0), batch_size=2)
    assert method.decoded == [(2, 2, 4), (2, 2, 4), (2, 1, 4)] * 3
    assert pairs.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    shift = (4 * (pairs.labels + 1) / 10).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    torch.testing.assert_close(pairs.last - pairs.first, shift)
    indices = (100 * pairs.first[:, 0, 0, 0]).round().long().split(5)
    for k, drawn in enumerate(indices):
        assert len(drawn.unique()) == 5
        assert set(drawn.tolist()) <= set(Counted().starts(k).tolist())
    assert indices[2].tolist() != [20, 21, 22, 23, 24]


def test_pairs_do_not_depend_on_the_batch_but_on_the_seed():
    """Catches a short last batch that is lost, and draws from the global source of randomness."""
    state = torch.get_rng_state()
    one, two, other = (make_pairs(Shift(), Counted(), 4, generator(s), b) for s, b in ((0, 3), (0, 250), (1, 250)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.first, two.first)
    assert torch.equal(one.last, two.last)
    assert not torch.equal(one.first, other.first)


def test_few_start_images_are_repeated_evenly():
    """Catches a draw with replacement, and fewer pairs of the transformation that has fewer images."""
    pairs = make_pairs(Shift(), Counted(), 13, generator(0))
    assert pairs.labels.bincount().tolist() == [13] * 3
    for k, first in enumerate(pairs.first[:, 0, 0, 0].split(13)):
        counts = (100 * first).round().long().unique(return_counts=True)[1]
        assert len(counts) == 5 + k
        assert set(counts.tolist()) <= {13 // (5 + k), 13 // (5 + k) + 1}


def test_pairs_can_be_trained_on():
    """Catches inference tensors handed to autograd."""
    pairs = make_pairs(Shift(), Counted(), 4, generator(0))
    assert not pairs.first.is_inference()
    assert vp_score(pairs.first, pairs.last, pairs.labels, 0.5, generator(0), epochs=1).classes == 3


def test_pairs_of_a_flow():
    """Catches a gradient of the potential that inference mode forbids, and the potential of another transformation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bank = PotentialBank([MLPPotential(4, (6,), output_scale=float(scale)) for scale in (1, 2, 3)])
        model = FlowVAE(
            encoder=lambda x: Independent(Normal(x.flatten(1), 1.0), 1),
            decoder=MLPDecoder(4, (1, 2, 2), (8,)),
            bank=bank,
            prior=DiffusionPrior(4, fields=3),
            residual=None,
        ).eval()
    pairs = make_pairs(FlowMotion(model, (2, 0, 1)), Counted(), 5, generator(0))
    for k, order in enumerate((2, 0, 1)):
        z0 = torch.arange(10 * k, 10 * k + 5 + k)[:, None].expand(-1, 4) / 100
        z = model.flow_of(order).rollout(z0, 4, log_det=None).z
        for images, latents in ((pairs.first, z[0]), (pairs.last, z[-1])):
            distance = torch.cdist(images[5 * k : 5 * k + 5].flatten(1), model.decode(latents).mean.flatten(1))
            assert distance.min(1).values.max() < 1e-3


class Empty(Counted):
    def starts(self, k):
        return torch.arange(0)


FIRST, LAST, LABELS = separable(2, each=4)
POISONED = FIRST.clone()
POISONED[3, 0, 2, 1] = math.nan


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("pairs_first", lambda: vp_score(FIRST[0], LAST, LABELS, 0.5)),
        ("pairs_first", lambda: vp_score(POISONED, LAST, LABELS, 0.5)),
        ("pairs_first", lambda: vp_score(FIRST.byte(), LAST, LABELS, 0.5)),
        ("pairs_last", lambda: vp_score(FIRST, LAST[:, :, 1:], LABELS, 0.5)),
        ("pairs_last", lambda: vp_score(FIRST, POISONED, LABELS, 0.5)),
        ("labels", lambda: vp_score(FIRST, LAST, LABELS[1:], 0.5)),
        ("labels", lambda: vp_score(FIRST, LAST, LABELS.int(), 0.5)),
        ("labels", lambda: vp_score(FIRST, LAST, LABELS - 1, 0.5)),
        ("labels", lambda: vp_score(FIRST, LAST, LABELS + 1, 0.5)),
        ("labels", lambda: vp_score(FIRST, LAST, LABELS * 0, 0.5)),
        ("labels", lambda: vp_score(FIRST[1:], LAST[1:], LABELS[1:], 0.5)),
        ("share", lambda: vp_score(FIRST, LAST, LABELS, 0.0)),
        ("share", lambda: vp_score(FIRST, LAST, LABELS, 10)),
        ("share", lambda: vp_score(FIRST, LAST, LABELS, 0.95)),
        ("epochs", lambda: vp_score(FIRST, LAST, LABELS, 0.5, epochs=0)),
        ("batch_size", lambda: vp_score(FIRST, LAST, LABELS, 0.5, batch_size=1)),
        ("learning_rate", lambda: vp_score(FIRST, LAST, LABELS, 0.5, learning_rate=0.0)),
        ("test_every", lambda: vp_score(FIRST, LAST, LABELS, 0.5, test_every=0)),
        ("count", lambda: make_pairs(Shift(), Counted(), 0)),
        ("batch_size", lambda: make_pairs(Shift(), Counted(), 3, batch_size=0)),
        ("data", lambda: make_pairs(Shift(), Empty(), 3)),
    ],
)
def test_wrong_arguments(name, call):
    """Catches messages that do not name the argument, and labels or images that are trained on though they cannot."""
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        call()
