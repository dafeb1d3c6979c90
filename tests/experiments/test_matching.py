"""Which potential of a model without labels makes which transformation."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from closed_forms import generator, normal
from sklearn.metrics import mutual_info_score
from toy_sequences import identity

from latentflow import FlowVAE, GaussianPrior, LabelPosterior, PotentialBank, QuadraticPotential
from latentflow.vae import ExactSum, GaussianLikelihood, StraightThrough
from latentflow_experiments.methods.matching import Matching, infer_labels, match, measure_recovery
from latentflow_experiments.methods.method import FlowMotion
from latentflow_experiments.metrics.equivariance import measure_equivariance

SURE = 30.0  # the logit of a potential that is certain


@dataclass(frozen=True)
class Counted:
    """As many sequences of each transformation (row) go to each potential (column) as a table says."""

    table: tuple[tuple[int, ...], ...]
    split: str = "validation"
    steps: int = 2
    shape = (1, 1, 1)

    @property
    def names(self):
        return tuple(f"transformation {k}" for k in range(len(self.table)))

    def starts(self, k):
        return torch.arange(sum(self.table[k]))

    def sequence(self, indices, k):
        potentials = torch.repeat_interleave(torch.tensor(self.table[k]))
        return potentials[indices].double().reshape(-1, 1, 1, 1, 1).expand(-1, self.steps + 1, *self.shape)


def model(network, bank, estimator=StraightThrough(), dim=1):  # noqa: B008 - frozen
    plain = identity(dim)
    posterior = None if network is None else LabelPosterior(network, estimator)
    return FlowVAE(
        encoder=plain.encoder,
        decoder=plain.decoder,
        bank=PotentialBank(bank),
        prior=GaussianPrior(dim),
        residual=None,
        likelihood=GaussianLikelihood(),
        label_posterior=posterior,
    ).eval()


def reading(count, logit=SURE):
    """A model whose label posterior reads the potential off the frames."""

    def network(frames):
        read = frames[:, -1].flatten(1)[:, 0].long()
        return logit * torch.nn.functional.one_hot(read, count).to(frames)

    return model(network, [QuadraticPotential(1) for _ in range(count)])


@pytest.mark.parametrize(
    ("table", "order"),
    [
        (((5, 0, 0), (0, 4, 0), (0, 0, 3)), (0, 1, 2)),
        (((0, 5, 1), (1, 0, 6), (4, 1, 0)), (1, 2, 0)),
        (((6, 3, 1), (7, 2, 1), (0, 4, 6)), (1, 0, 2)),  # row by row, two transformations would want potential 0
    ],
)
def test_the_matching_of_a_known_table(table, order):
    """Catches the most frequent potential taken twice, a transposed table, and the least agreement instead of most."""
    matching = match(reading(3), Counted(table))
    assert matching == Matching(order, table)


@pytest.mark.parametrize("seed", range(4))
def test_no_other_matching_agrees_with_more_sequences(seed):
    """Catches a greedy matching: all permutations are tried."""
    table = tuple(map(tuple, np.random.default_rng(seed).integers(0, 9, (4, 4)).tolist()))
    order = match(reading(4), Counted(table)).order
    agreements = {p: sum(table[k][p[k]] for k in range(4)) for p in itertools.permutations(range(4))}
    assert agreements[order] == max(agreements.values())
    assert all(type(k) is int for k in order)  # plain numbers, for JSON


def test_recovery_by_hand():
    """Catches another matching on the test data, rates of rows for counts, and another logarithm."""
    table = ((6, 3, 1), (7, 2, 1), (0, 4, 6))
    recovery = measure_recovery(reading(3), Matching((0, 1, 2), ()), Counted(table))
    assert recovery.accuracy == pytest.approx((6 + 2 + 6) / 30)
    assert recovery.counts == table
    assert recovery.sequences == 30
    transformations = np.repeat([0, 1, 2], 10)
    potentials = np.concatenate([np.repeat([0, 1, 2], row) for row in table])
    assert recovery.mutual_information == pytest.approx(mutual_info_score(transformations, potentials))
    joint = np.array(table) / 30
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    by_hand = sum(p * math.log(p / q) for p, q in zip(joint.flat, product.flat, strict=True) if p > 0)
    assert recovery.mutual_information == pytest.approx(by_hand)
    other = measure_recovery(reading(3), Matching((1, 0, 2), ()), Counted(table))
    assert other.accuracy == pytest.approx((3 + 7 + 6) / 30)
    assert other.mutual_information == recovery.mutual_information


def test_the_ends_of_recovery():
    """Catches an information that is not log K where everything is known, and not 0 where nothing is."""
    perfect = measure_recovery(reading(3), Matching((1, 2, 0), ()), Counted(((0, 5, 0), (0, 0, 5), (5, 0, 0))))
    assert perfect.accuracy == 1
    assert perfect.mutual_information == pytest.approx(math.log(3))
    assert perfect.entropy == pytest.approx(0, abs=1e-9)
    collapsed = measure_recovery(reading(3), Matching((0, 1, 2), ()), Counted(((5, 0, 0),) * 3))
    assert collapsed.accuracy == pytest.approx(1 / 3)
    assert collapsed.mutual_information == pytest.approx(0, abs=1e-12)
    blind = measure_recovery(reading(3, logit=0.0), Matching((0, 1, 2), ()), Counted(((2, 2, 1),) * 3))
    assert blind.entropy == pytest.approx(math.log(3))


def test_the_entropy_is_a_mean_over_sequences():
    """Catches a mean over batches or transformations of unequal size, and the entropy of the average posterior."""
    known = model(
        lambda frames: frames[:, 0].flatten(1) * torch.tensor([[SURE, 0.0]]).to(frames),
        [QuadraticPotential(1), QuadraticPotential(1)],
    )  # a sequence of potential 0 has two logits of 0, one of potential 1 is certain
    recovery = measure_recovery(known, Matching((0, 1), ()), Counted(((150, 1), (0, 9))))
    assert recovery.entropy == pytest.approx(math.log(2) * 150 / 160)


def test_at_most_500_sequences_of_each_transformation_count():
    """Catches a matching that takes the whole of a large data set, or one batch of it."""
    counts = np.array(match(reading(2), Counted(((700, 0), (30, 270)))).counts)
    assert counts.tolist() == [[500, 0], [30, 270]]


@pytest.mark.parametrize("estimator", [StraightThrough(), ExactSum()])
def test_inferred_labels_are_without_noise(estimator):
    """Catches a label that is sampled, and an entropy of the relaxed sample."""
    logits = normal(0, 12, 3)
    known = model(lambda frames: logits[: len(frames)], [QuadraticPotential(1)] * 3, estimator)
    state = torch.get_rng_state()
    frames = torch.rand(12, 3, 1, 1, 1, generator=generator(1), dtype=torch.float64)
    potentials, entropy = infer_labels(known, frames)
    assert torch.equal(torch.get_rng_state(), state)
    assert potentials.dtype == torch.int64
    assert potentials.tolist() == [int(np.argmax(row)) for row in logits.numpy()]
    q = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    assert entropy.tolist() == pytest.approx((-(q * np.log(q)).sum(1)).tolist())


@pytest.mark.parametrize("learned", list(itertools.permutations(range(3))))
def test_a_permuted_bank_is_put_in_order(learned):
    """Catches an order and its inverse mixed up between the matching, the recovery and the flow."""
    shifts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    zero = torch.zeros(2, 2, dtype=torch.float64)

    @dataclass(frozen=True)
    class Shifts(Counted):
        """Frames are latents (1, 1, 2) that transformation k shifts."""

        def sequence(self, indices, k):
            times = torch.arange(self.steps + 1).reshape(-1, 1, 1, 1)
            return normal(k, 8, 1, 1, 1, 2)[indices] + times * shifts[k]

    def network(frames):  # the potential whose shift fits best
        step = (frames[:, 1] - frames[:, 0]).flatten(1)
        return -(step[:, None] - shifts[list(learned)]).square().sum(-1)

    known = model(network, [QuadraticPotential(2, zero, shifts[k]) for k in learned], dim=2)
    data = Shifts(((8,),) * 3)
    matching = match(known, data)
    assert matching.order == tuple(learned.index(k) for k in range(3))
    assert measure_recovery(known, matching, data).accuracy == 1
    for error in measure_equivariance(FlowMotion(known, matching.order), data).errors.values():
        assert error.output == pytest.approx(0, abs=1e-9)


def test_a_model_without_a_label_posterior_is_refused():
    """Catches a matching of a model that was trained with labels."""
    labelled = model(None, [QuadraticPotential(1)] * 2)
    with pytest.raises(ValueError, match=r"^model: expected one with a label posterior, got one without"):
        infer_labels(labelled, torch.rand(2, 3, 1, 1, 1))
    with pytest.raises(ValueError, match=r"^model: expected"):
        match(labelled, Counted(((1, 1), (1, 1))))
