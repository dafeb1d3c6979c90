"""Banks of potentials: selection, mixture and superposition against a loop over the samples."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    FIELDS,
    batches,
    close,
    jets_close,
    network,
    rand,
    randn,
    request_of,
    seeds,
    symmetric,
    wave,
)
from torch.nn import functional as F

from latentflow import Derivative, Jet, PotentialBank, QuadraticPotential, gradient, jet
from latentflow.calculus import evaluate_jet

K = 4


def make_bank(dim=3):
    return PotentialBank(
        [network(dim, seed=1), QuadraticPotential(dim, symmetric(dim)), wave, network(dim, (4,), seed=2)]
    )


def probes_at(z):
    return torch.stack([z.cos(), z.sin()], dim=-2)


def full_jet(u, z, t):
    return evaluate_jet(u, z, t, request_of(laplacian=True, hessian=True, probes=probes_at(z)))


def loop(bank, index, z, t):
    """Each sample alone, by the potential of its own index."""
    flat = zip(index.reshape(-1).tolist(), z.reshape(-1, z.shape[-1]), t.reshape(-1), strict=True)
    jets = [full_jet(bank[k], point.unsqueeze(0), time.unsqueeze(0)) for k, point, time in flat]
    joined = Jet.combine(lambda *parts: torch.cat(parts), *jets)
    return Jet.combine(lambda x: x.reshape((*index.shape, *x.shape[1:])), joined)


@given(st.sampled_from([(), (1,), (7,), (3, 4)]), seeds, st.integers(1, K))
def test_selection_equals_the_loop(batch, seed, used):
    """Catches an inverse permutation that is not inverse, groups that swap, probes that stay unsorted."""
    bank, z, t = make_bank(), randn(*batch, 3, seed=seed), rand(*batch, seed=seed)
    index = torch.randint(0, used, batch, generator=torch.Generator().manual_seed(seed))
    u = bank.select(index)
    expected = loop(bank, index, z, t)
    jets_close(full_jet(u, z, t), expected)
    close(u(z, t), expected.value)
    first_order = jet(u, z, t, None)
    close(first_order.gradient, expected.gradient)
    assert first_order.derivatives == Derivative(0)


def test_indices_of_a_batch_hold_for_every_time():
    """Catches an index that follows the leading dimension of (T, B) points in place of the trailing one."""
    bank, z, t = make_bank(), randn(3, 3, 3), torch.tensor([[0.1], [0.2], [0.3]], dtype=torch.float64).expand(3, 3)
    index = torch.tensor([2, 0, 3])
    expected = loop(bank, index.expand(3, 3), z, t)
    jets_close(full_jet(bank.select(index), z, t), expected)
    close(bank.select(index)(z, t), expected.value)
    by_row = loop(bank, index.unsqueeze(-1).expand(3, 3), z, t)
    jets_close(full_jet(bank.select(index.unsqueeze(-1)), z, t), by_row)


@pytest.mark.parametrize("k", range(K))
def test_a_number_selects_for_all(k):
    """Catches an offset of one, and a number that the batch shape does not reach."""
    bank = make_bank()
    for batch in [(5,), (2, 3), (), (0,)]:
        z, t = randn(*batch, 3), rand(*batch)
        expected = full_jet(bank[k], z, t)
        jets_close(full_jet(bank.select(k), z, t), expected)
        jets_close(full_jet(bank.select(torch.full(batch, k)), z, t), expected)


def test_selection_trains_the_selected_potentials_only():
    """Catches a mask times all potentials: those not selected must have no gradient, not a zero one."""
    bank, z, t = make_bank(), randn(6, 3), rand(6)
    result = full_jet(bank.select(torch.tensor([3, 1, 3, 3, 1, 3])), z, t)
    sum((getattr(result, name) ** 2).sum() for name in FIELDS).backward()
    assert all(parameter.grad is None for parameter in bank[0].parameters())
    assert all(parameter.grad.abs().sum() > 0 for k in (1, 3) for parameter in bank[k].parameters())


def test_selection_evaluates_each_sample_once():
    """Catches an evaluation of every potential at every sample, K times the cost."""
    seen = []

    def counted(name):
        def field(z, t):
            seen.append((name, len(z)))
            return z.sum(-1)

        return field

    bank = PotentialBank([counted("a"), counted("b"), counted("c")])
    bank.select(torch.tensor([2, 0, 2, 2]))(randn(4, 3), torch.zeros(4))
    assert seen == [("a", 1), ("c", 3)]


def test_selection_can_be_differentiated_from_outside():
    """Catches a gather that cuts the graph: the jet by autodiff of the selection equals the potentials' own rules."""
    bank, z, t = make_bank(), randn(6, 3), rand(6)
    u = bank.select(torch.tensor([3, 1, 0, 2, 1, 3]))
    jets_close(full_jet(lambda z, t: u(z, t), z, t), full_jet(u, z, t))  # noqa: PLW0108 - hides the rule


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.bool])
def test_indices_are_int64(dtype):
    """Catches a float index that is truncated, and a mask that is taken for indices."""
    with pytest.raises(TypeError, match=f"k: expected an int64 index, got {dtype}"):
        make_bank().select(torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize("k", [-1, K, [0, K], [-1, 2]])
def test_indices_are_in_range(k):
    """Catches a negative index that counts from the end, and an index that belongs to no group."""
    with pytest.raises(ValueError, match=r"k: expected indices in 0\.\.3, got -?\d\.\.\d|k: .* got -1\.\.-1"):
        make_bank().select(torch.tensor(k))


def test_points_must_fit_the_indices():
    """Catches an index of five samples used for four, or for one point."""
    u = make_bank().select(torch.tensor([0, 1, 2, 3, 0]))
    for batch in [(4,), (5, 2), ()]:
        for call in (lambda z: jet(u, z, 0.0), lambda z: u(z, 0.0)):
            with pytest.raises(ValueError, match=r"z: expected a batch shape to which k of shape \(5,\) broadcasts"):
                call(randn(*batch, 3))


@given(batches, seeds, st.booleans())
def test_mixtures_weigh_every_field(batch, seed, shared):
    """Catches weights along a wrong axis, and a mixture that is normalised or left out of a field."""
    bank, z, t = make_bank(), randn(*batch, 3, seed=seed), rand(*batch, seed=seed)
    weights = randn(K, seed=seed) if shared else randn(*batch, K, seed=seed)
    jets = [full_jet(bank[k], z, t) for k in range(K)]
    result = full_jet(bank.mix(weights), z, t)
    for name in FIELDS:
        stacked = torch.stack([getattr(each, name) for each in jets], dim=len(batch))
        spread = weights.expand(*batch, K).reshape((*batch, K, *(1,) * (stacked.ndim - len(batch) - 1)))
        close(getattr(result, name), (spread * stacked).sum(len(batch)))
    close(bank.mix(weights)(z, t), result.value)


def test_one_hot_mixtures_select_and_mixtures_pass_gradients_on():
    """Catches an order of weights that differs from the order of potentials, and detached weights."""
    bank, z, t, index = make_bank(), randn(5, 3), rand(5), torch.tensor([3, 0, 2, 2, 1])
    weights = F.one_hot(index, K).double().requires_grad_()
    jets_close(full_jet(bank.mix(weights), z, t), full_jet(bank.select(index), z, t))
    gradient(bank.mix(weights), z, t).sum().backward()
    close(weights.grad, torch.stack([gradient(bank[k], z, t).sum(-1) for k in range(K)], dim=-1).detach())


def test_superposition_is_the_sum():
    """Row 42; catches a mean over the bank."""
    bank, z, t = make_bank(), randn(5, 3), rand(5)
    jets_close(full_jet(bank.superpose(), z, t), full_jet(bank.mix(torch.ones(K).double()), z, t))


def test_banks_check_their_sizes():
    """Catches an empty bank, and weights of another number of potentials that broadcast."""
    assert len(make_bank()) == K
    with pytest.raises(ValueError, match="potentials: expected at least one potential, got none"):
        PotentialBank([])
    for shape in [(), (1,), (K, 1), (K + 1,)]:
        with pytest.raises(ValueError, match=r"weights: expected shape \(\*batch, 4\), got \("):
            make_bank().mix(torch.ones(shape))


def test_composites_own_the_bank():
    """Catches a bank held outside the module tree, whose parameters an optimizer would miss."""
    bank = make_bank()
    own = [id(parameter) for parameter in bank.parameters()]
    for composite in (bank.select(0), bank.mix(torch.ones(K)), bank.superpose()):
        assert [id(parameter) for parameter in composite.parameters()] == own
    moved = bank.mix(torch.ones(K)).to(torch.float64)
    assert moved.weights.dtype == torch.float64
