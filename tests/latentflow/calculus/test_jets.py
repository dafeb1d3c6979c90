"""The linear algebra of jets."""

import torch
from hypothesis import given
from strategies import FIELDS, batches, close, jet_of, jets_close, rand, randn, seeds

from latentflow import Derivative, Jet


def some_jet(batch, seed, second_order=True):
    shapes = [(), (3,), (), (), (3, 3), (2,)] if second_order else [(), (3,), ()]
    names = FIELDS[: len(shapes)]
    return jet_of(
        **{
            name: randn(*batch, *shape, seed=seed + i)
            for i, (name, shape) in enumerate(zip(names, shapes, strict=True))
        }
    )


@given(batches, seeds)
def test_total_adds_every_field(batch, seed):
    """Catches a field that is left out of the sum, or a mean in place of the sum."""
    jets = [some_jet(batch, seed + 10 * i) for i in range(3)]
    total = Jet.total(jets)
    for name in FIELDS:
        close(getattr(total, name), sum(getattr(jet, name) for jet in jets))


@given(batches, seeds)
def test_scale_by_a_weight_of_each_sample(batch, seed):
    """Catches a weight aligned with the coordinates in place of the batch, seen where both have size three."""
    jet, weight = some_jet(batch, seed), rand(*batch, seed=seed)
    scaled = jet.scale(weight)
    for name in FIELDS:
        field = getattr(jet, name)
        rows = field.reshape(weight.numel(), field[(*(0,) * len(batch),)].numel() if weight.numel() else 0)
        close(getattr(scaled, name), (weight.reshape(-1).diag() @ rows).reshape(field.shape))


def test_scale_by_a_weight_of_each_column():
    """Catches a weight of a trailing batch dimension applied to the leading one, on a square batch."""
    jet, weight = some_jet((3, 3), 0), rand(3)
    for column in range(3):
        expected = jet_of(**{name: getattr(jet, name)[:, column] * weight[column] for name in FIELDS})
        actual = jet.scale(weight)
        jets_close(jet_of(**{name: getattr(actual, name)[:, column] for name in FIELDS}), expected)


@given(batches, seeds)
def test_scale_by_a_number(batch, seed):
    """Catches a scale that differs between a float, an int and a tensor of shape ()."""
    jet = some_jet(batch, seed)
    for weight in (3, 3.0, torch.tensor(3.0), torch.tensor(3, dtype=torch.int64)):
        jets_close(jet.scale(weight), Jet.total([jet, jet, jet]))


def test_missing_fields_stay_missing():
    """Catches a combination that invents or requires second derivatives."""
    jet = some_jet((4,), 0, second_order=False)
    for result in (jet.scale(2.0), Jet.total([jet, jet]), Jet.combine(torch.add, jet, jet)):
        assert result.derivatives == Derivative(0)
        close(result.gradient, 2 * jet.gradient)
