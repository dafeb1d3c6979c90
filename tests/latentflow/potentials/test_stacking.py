"""Networks evaluated side by side, and one group at a time."""

import pytest
import torch
from strategies import close, network, rand, randn, request_of
from torch.nn import functional as F

from latentflow import PotentialBank, ResNetPotential
from latentflow.calculus import JetRequest, evaluate_jet
from latentflow.potentials import FourierEmbedding, SinusoidalEmbedding
from latentflow.potentials import bank as grouping
from latentflow.potentials import bank as stacking
from latentflow.potentials.features import TimeEmbedding, side_by_side


class Powers(TimeEmbedding):
    """An embedding that has no rule to be put side by side."""

    def __init__(self):
        super().__init__(2)

    def forward(self, t):
        return torch.stack([t, t**3], -1)


REQUESTS = {
    "laplacian": {"laplacian": True},
    "hessian": {"hessian": True, "laplacian": True},
    "probes": {"probes": randn(2, 7, 2, 3, seed=5), "products": True},
    "times": {"second_time_derivative": True, "gradient_time_derivative": True},
}
EMBEDDINGS = {
    "waves": lambda k: FourierEmbedding(4, generator=torch.Generator().manual_seed(k)),
    "powers": lambda k: Powers(),
}


def jet_and_gradients(bank, k, request):
    z, t = randn(2, 7, 3, seed=1), 2 * rand(2, 7, seed=2)
    jet = evaluate_jet(bank.select(k), z, t, request)
    fields = {"value": jet.value, "gradient": jet.gradient, "time_derivative": jet.time_derivative, **jet.second}
    bank.zero_grad()
    sum(field.sin().sum() for field in fields.values()).backward()
    return fields, {name: weight.grad for name, weight in bank.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("hidden", [(4,), (2, 5), (9, 4), (2, 5, 3)])
@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_side_by_side_equals_group_by_group(hidden, request_name, embedding, monkeypatch):
    """Catches a weight or time feature of the wrong network, a filled place that counts, samples in the wrong order."""
    bank = PotentialBank([network(3, hidden, k, torch.tanh, EMBEDDINGS[embedding](k)) for k in range(4)])
    k = torch.tensor([[0, 2, 1, 0, 1, 1, 2], [1, 0, 2, 2, 0, 1, 0]])  # the last network has no samples
    request, calls = request_of(**REQUESTS[request_name]), []
    stacked = grouping.stacked_jet
    monkeypatch.setattr(grouping, "stacked_jet", lambda *a: calls.append(1) or stacked(*a))
    beside = jet_and_gradients(bank, k, request)
    assert calls == [1]
    monkeypatch.setattr(grouping, "MAX_PADDING", 0)
    alone = jet_and_gradients(bank, k, request)
    assert calls == [1]
    for one, other in zip(beside, alone, strict=True):
        assert one.keys() >= other.keys()
        for name, expected in other.items():
            close(one[name], expected)


def test_networks_that_differ_are_not_put_side_by_side():
    """Catches one network's activation, step or quadratic applied to all."""
    pairs = [
        [network(3, (4, 4), 0), network(3, (4, 5), 1)],
        [network(3, (4, 4), 0, torch.tanh), network(3, (4, 4), 1, F.softplus)],
        [network(3, (4, 4), 0), network(3, (4,), 1)],
        [network(3, (4,), 0, embedding=SinusoidalEmbedding(2)), network(3, (4,), 1)],
        [ResNetPotential(3, 4, 1, 2).double(), ResNetPotential(3, 4, 1, 2).double()],
        [network(3, (4, 4), 0), lambda z, t: z.sum(-1)],
    ]
    z, t = randn(2, 3, 3, seed=1), rand(2, 3, seed=2)
    for pair in pairs:
        assert stacking.stacked_jet(pair, z, t, JetRequest()) is None


def test_an_uneven_batch_is_not_filled(monkeypatch):
    """Catches a batch that grows by the number of networks where one of them has nearly all samples."""
    bank = PotentialBank([network(3, (4,), k) for k in range(3)])
    monkeypatch.setattr(grouping, "stacked_jet", lambda *a: pytest.fail("filled"))
    k = torch.zeros(20, dtype=torch.int64)
    k[3], k[7] = 1, 2
    evaluate_jet(bank.select(k), randn(20, 3), rand(20), JetRequest())


def test_embeddings_side_by_side():
    """Catches the frequencies of one embedding used for the times of another, in each derivative."""
    for own in ([SinusoidalEmbedding(4, 9.0), FourierEmbedding(4)], [Powers(), SinusoidalEmbedding(2)]):
        both, t = side_by_side(own).double(), rand(2, 5, seed=3)
        for method in ("forward", "second_derivative"):
            close(
                getattr(both, method)(t),
                torch.stack([getattr(e.double(), method)(x) for e, x in zip(own, t, strict=True)]),
            )
        for place in (0, 1):
            expected = torch.stack([e.with_derivative(x)[place] for e, x in zip(own, t, strict=True)])
            close(both.with_derivative(t)[place], expected)
