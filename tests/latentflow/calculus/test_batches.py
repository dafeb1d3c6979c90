"""Batches, dtypes and empty batches, for every kind of field."""

import pytest
import torch
from strategies import (
    FIELDS,
    Well,
    close,
    jet_of,
    jets_close,
    network,
    opaque,
    rand,
    randn,
    request_of,
    symmetric,
    wave,
)

from latentflow import FunctionPotential, PotentialBank, QuadraticPotential, SwitchedPotential
from latentflow.calculus import evaluate_jet

MLP = network(3)
QUADRATIC = QuadraticPotential(3, symmetric(3), randn(3), constant=0.5)
BANK = PotentialBank([MLP, QUADRATIC, wave])
KINDS = {
    "callable": wave,
    "opaque network": opaque(MLP),
    "module": Well(),
    "function": FunctionPotential(wave, dim=3),
    "network": MLP,
    "quadratic": QUADRATIC,
    "sum": MLP - 2 * QUADRATIC + wave,
    "scaled": torch.tensor(0.3, dtype=torch.float64) * MLP,
    "selected": BANK.select(1),
    "mixed": BANK.mix(rand(3)),
    "superposed": BANK.superpose(),
    "continued": SwitchedPotential([MLP, wave, QUADRATIC], times=[0.3, 0.6]),
    "restarted": SwitchedPotential([MLP, wave, Well()], times=[0.3, 0.6], clock="restart"),
}
kinds = pytest.mark.parametrize("u", KINDS.values(), ids=KINDS.keys())


def everything(u, z, t):
    """The full jet, with probes that do not depend on the batch."""
    probes = torch.stack([randn(3, seed=1), randn(3, seed=2)]).to(z).expand(*z.shape[:-1], 2, 3)
    return evaluate_jet(u, z, t, request_of(laplacian=True, hessian=True, probes=probes))


def each_field(jet, function):
    return jet_of(**{name: function(getattr(jet, name)) for name in FIELDS})


@kinds
def test_duplicates_permutations_and_parts(u):
    """Row 18; catches samples that are put back in a wrong order, and statistics of the batch."""
    z, t = randn(6, 3), rand(6)
    whole = everything(u, z, t)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    jets_close(everything(u, z[order], t[order]), each_field(whole, lambda x: x[order]))
    jets_close(everything(u, torch.cat([z, z]), torch.cat([t, t])), each_field(whole, lambda x: torch.cat([x, x])))
    jets_close(everything(u, z.reshape(2, 3, 3), t.reshape(2, 3)), each_field(whole, lambda x: x.unflatten(0, (2, 3))))
    for i in range(6):
        jets_close(everything(u, z[i], t[i]), each_field(whole, lambda x, i=i: x[i]))


@kinds
@pytest.mark.parametrize("batch", [(4,), (2, 3)])
def test_a_shared_time_is_the_expanded_one(u, batch):
    """Row 18; catches a time derivative summed over the batch because all samples share one time."""
    z = randn(*batch, 3)
    expected = everything(u, z, torch.full(batch, 0.6, dtype=torch.float64))
    for t in (0.6, torch.tensor(0.6, dtype=torch.float64), torch.full(batch[-1:], 0.6, dtype=torch.float64)):
        jets_close(everything(u, z, t), expected)


@kinds
def test_samples_are_independent(u):
    """Row 18; catches a field of one sample that another sample's point or time moves."""
    z, t = randn(4, 3), rand(4)
    moved_z, moved_t = z.clone(), t.clone()
    moved_z[2] += 1
    moved_t[2] = 1 - moved_t[2]
    others = torch.tensor([0, 1, 3])
    before, after = everything(u, z, t), everything(u, moved_z, moved_t)
    jets_close(each_field(after, lambda x: x[others]), each_field(before, lambda x: x[others]))
    assert (before.value[2] - after.value[2]).abs() > 1e-3


@kinds
@pytest.mark.parametrize("batch", [(0,), (2, 0)])
def test_empty_batches(u, batch):
    """Row 56; catches a reshape with an unknown size, and an empty result without a graph."""
    z = torch.zeros(*batch, 3, dtype=torch.float64, requires_grad=True)
    result = everything(u, z, 0.5)
    for name, shape in zip(FIELDS, [(), (3,), (), (), (3, 3), (2,)], strict=True):
        assert getattr(result, name).shape == (*batch, *shape)
    (result.value.sum() + result.gradient.sum()).backward()
    assert z.grad.shape == z.shape


@kinds
def test_values_agree_with_the_call(u):
    """Catches a rule whose value is not the value of the field, for a shared and for each sample's own time."""
    z = randn(6, 3)
    for t in (rand(6), rand(1).expand(6), torch.full((6,), 0.3, dtype=torch.float64)):
        close(everything(u, z, t).value, u(z, t))


@kinds
def test_single_precision(u):
    """Row 56; catches a result of the default dtype, and a float32 Laplacian by cancellation."""
    z, t = randn(6, 3), rand(6)
    exact = everything(u, z, t)
    modules = u if isinstance(u, torch.nn.Module) else MLP
    try:
        modules.float()
        single = everything(u, z.float(), t.float())
    finally:
        modules.double()
    for name in FIELDS:
        assert getattr(single, name).dtype == torch.float32, name
    bound = 1e-5 * (1 + 3**0.5 * exact.hessian.norm(dim=(-1, -2)))
    assert ((single.laplacian - exact.laplacian).abs() <= bound).all()
