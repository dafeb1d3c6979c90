"""State of potentials: checkpoints, dtypes, copies."""

import copy

import pytest
import torch
from strategies import Well, jets_close, network, rand, randn, symmetric
from torch import nn

from latentflow import (
    Derivative,
    FunctionPotential,
    MLPPotential,
    PotentialBank,
    QuadraticPotential,
    SwitchedPotential,
    jet,
)
from latentflow.potentials import FourierEmbedding


def bank(seed):
    return PotentialBank([network(3, seed=seed), QuadraticPotential(3, symmetric(3, seed), randn(3, seed=seed))])


MAKERS = {
    "network": lambda seed: network(3, seed=seed),
    "random features": lambda seed: network(
        3, seed=seed, embedding=FourierEmbedding(6, generator=torch.Generator().manual_seed(seed))
    ),
    "quadratic": lambda seed: QuadraticPotential(3, symmetric(3, seed), randn(3, seed=seed), constant=float(seed)),
    "function": lambda seed: FunctionPotential(Well(1.0 + seed)),
    "sum": lambda seed: network(3, seed=seed) + Well(1.0 + seed),
    "scaled": lambda seed: nn.Parameter(torch.tensor(1.0 + seed, dtype=torch.float64)) * network(3, seed=seed),
    "weighted": lambda seed: torch.tensor(1.5 + seed, dtype=torch.float64) * network(3, seed=seed),
    "selected": lambda seed: bank(seed).select(torch.tensor([0, 1, 1, 0])),
    "mixed": lambda seed: bank(seed).mix(nn.Parameter(rand(2, seed=seed))),
    "superposed": lambda seed: bank(seed).superpose(),
    "switched": lambda seed: SwitchedPotential([network(3, seed=seed), Well(1.0 + seed)], [0.4 + 0.1 * seed]),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@makers
def test_state_dict_round_trip(make, tmp_path):
    """Catches a number that the field depends on but a checkpoint does not hold, such as random frequencies."""
    u, v = make(0), make(1)
    z, t = randn(4, 3), rand(4)
    assert (jet(u, z, t).value - jet(v, z, t).value).abs().max() > 1e-3
    torch.save(u.state_dict(), tmp_path / "u.pt")
    v.load_state_dict(torch.load(tmp_path / "u.pt", weights_only=True))
    jets_close(jet(v, z, t, requires=Derivative.HESSIAN), jet(u, z, t, requires=Derivative.HESSIAN), tolerance=0)


@makers
def test_dtype_conversion(make):
    """Row 56; catches a constant left in another dtype by .float() and .double(), or cast at construction."""
    u = make(0)
    z, t = randn(4, 3), rand(4)
    exact = jet(u, z, t, requires=Derivative.HESSIAN)
    single = jet(u.float(), z.float(), t.float(), requires=Derivative.HESSIAN)
    assert {parameter.dtype for parameter in u.parameters()} == {torch.float32}
    assert single.hessian.dtype == single.laplacian.dtype == torch.float32
    torch.testing.assert_close(single.hessian.double(), exact.hessian, rtol=1e-4, atol=1e-4)
    again = jet(u.to(torch.float64), z, t, requires=Derivative.HESSIAN)
    assert again.hessian.dtype == torch.float64
    torch.testing.assert_close(again.hessian, exact.hessian, rtol=1e-5, atol=1e-5)


@makers
def test_deep_copies_are_independent(make):
    """Catches a copy that shares a parameter or a closure with the original."""
    u = make(0)
    v, z, t = copy.deepcopy(u), randn(4, 3), rand(4)
    before = jet(u, z, t)
    with torch.no_grad():
        for parameter in v.parameters():
            parameter.add_(0.5)
    jets_close(jet(u, z, t), before, tolerance=0)
    assert (jet(v, z, t).value - before.value).abs().max() > 1e-3


@pytest.mark.parametrize(
    "u", [MLPPotential(3), QuadraticPotential(3), MLPPotential(3, time_embedding=FourierEmbedding())]
)
def test_default_dtype_is_torchs(u):
    """Catches a double constant in a float32 module, which promotes or fails."""
    result = jet(u, torch.ones(4, 3), 0.5, requires=Derivative.HESSIAN)
    assert result.value.dtype == result.time_derivative.dtype == result.hessian.dtype == torch.float32


def test_the_samples_index_is_not_in_the_checkpoint():
    """Catches a batch of indices stored with the weights, which would not load for another batch."""
    assert bank(0).select(torch.tensor([0, 1])).state_dict().keys() == bank(0).select(0).state_dict().keys()
