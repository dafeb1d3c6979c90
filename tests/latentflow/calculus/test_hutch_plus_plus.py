"""Hutch++ and noise that is drawn once, by enumeration of all probes, and the error that an estimate reports."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import close, dims, network, opaque, orthogonal, rand, randn, reference_jet, seeds, symmetric

from latentflow import Exact, Hutchinson, Jet, QuadraticPotential, laplacian
from latentflow.calculus import FixedProbes, HutchPlusPlus, JetRequest, estimate_laplacian
from latentflow.calculus.estimators import FixedHutchPlusPlus


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def all_signs(dim, batch):
    """Every Rademacher probe, for every point."""
    return torch.tensor(list(product([-1.0, 1.0], repeat=dim)), dtype=torch.float64).expand(*batch, -1, -1)


@given(dims, st.integers(1, 3), seeds, st.booleans())
def test_hutch_plus_plus_is_unbiased_for_any_sketch(dim, k, seed, rule):
    """Catches a projection on one side only, the average over the wrong number of probes, a subspace counted twice."""
    u, z, t = network(dim, (5, 4), seed), randn(2, dim, seed=seed), rand(2, seed=seed)
    estimate = FixedHutchPlusPlus(randn(2, k, dim, seed=seed + 1), all_signs(dim, (2,)))
    close(laplacian(u if rule else opaque(u), z, t, estimate), reference_jet(u, z, t).laplacian)


@given(dims, st.integers(1, 2), seeds)
def test_gradients_of_hutch_plus_plus_are_unbiased(dim, k, seed):
    """Catches a gradient through the subspace, or none through its part of the trace: mean over all probes."""
    u, z, t = network(dim, (4, 3), seed), randn(2, dim, seed=seed), rand(2, seed=seed)
    estimate = FixedHutchPlusPlus(randn(2, k, dim, seed=seed + 1), all_signs(dim, (2,)))
    inputs = [z.requires_grad_(), *(p for p in u.parameters())]
    weight = randn(2, seed=seed)
    mean = torch.autograd.grad((weight * laplacian(u, z, t, estimate)).sum(), inputs)
    exact = torch.autograd.grad((weight * laplacian(opaque(u), z, t)).sum(), inputs)
    for own, expected in zip(mean, exact, strict=True):
        close(own, expected)


@given(st.integers(3, 6), st.integers(1, 3), seeds, st.sampled_from(["rademacher", "gaussian"]))
def test_hutch_plus_plus_is_exact_at_low_rank(dim, rank, seed, noise):
    """Catches a sketch that is not multiplied by the Hessian: a network of few first units has so low a rank."""
    u, z, t = network(dim, (rank, 4), seed), randn(3, dim, seed=seed), rand(3, seed=seed)
    value = laplacian(u, z, t, HutchPlusPlus(3 * rank, noise, generator(seed)))
    close(value, laplacian(u, z, t), tolerance=1e-9)
    estimate = estimate_laplacian(u, z, t, HutchPlusPlus(3 * rank + 3, noise, generator(seed)))
    assert estimate.standard_error.max() < 1e-9


@given(dims, seeds)
def test_more_products_than_dimensions(dim, seed):
    """Catches a subspace larger than the space, and a division of the quadratic forms at the wrong place."""
    u, z = network(dim, (4, 4), seed), randn(3, dim, seed=seed)
    close(laplacian(u, z, 0.2, HutchPlusPlus(3 * (dim + 2), generator=generator(seed))), laplacian(u, z, 0.2))


@pytest.mark.parametrize("batch", [(), (0,), (2, 3)])
def test_a_flat_potential_has_no_trace(batch):
    """Catches nan from the orthogonal basis of zero columns."""
    for u in (QuadraticPotential(4).double(), lambda z, t: z.sum(-1)):
        estimate = estimate_laplacian(u, randn(*batch, 4), 0.0, HutchPlusPlus(6)) if batch != (0,) else None
        value = laplacian(u, randn(*batch, 4), 0.0, HutchPlusPlus(6))
        assert torch.equal(value, torch.zeros(batch, dtype=torch.float64))
        assert estimate is None or torch.equal(estimate.standard_error, torch.zeros(batch, dtype=torch.float64))


@given(st.integers(2, 6), st.integers(2, 3), seeds)
def test_hutch_plus_plus_by_hand(dim, k, seed):
    """Catches probes that are not projected in the error: the whole estimate from the Hessian and a projector."""
    u, z, t = network(dim, (5, 4), seed), randn(3, dim, seed=seed), rand(3, seed=seed)
    S, G = randn(3, k, dim, seed=seed + 1), randn(3, k, dim, seed=seed + 2)
    estimator = FixedHutchPlusPlus(S, G)
    estimate = estimate_laplacian(u, z, t, estimator)
    H = reference_jet(u, z, t).hessian
    for i in range(3):
        left = torch.linalg.svd(H[i] @ S[i].mT, full_matrices=False).U
        projector = left @ left.mT
        rest = torch.eye(dim).to(z) - projector
        forms = torch.stack([g @ rest @ H[i] @ rest @ g for g in G[i]])
        close(estimate.value[i], (projector @ H[i]).trace() + forms.sum() / k, tolerance=1e-8)
        spread = (forms - forms.mean()).square().sum() / (k - 1)
        close(estimate.standard_error[i], (spread / k).sqrt(), tolerance=1e-8)


@pytest.mark.parametrize(("noise", "diagonal"), [("rademacher", 0.0), ("gaussian", 1.0)])
@pytest.mark.parametrize("probes", [2, 5])
def test_the_average_error_is_the_known_one(noise, diagonal, probes):
    """Catches a variance of the population in place of the sample, and a missing division by the number of probes."""
    A = symmetric(4, 2)
    z = torch.zeros(20_000, 4, dtype=torch.float64)
    estimate = estimate_laplacian(QuadraticPotential(4, A), z, 0.0, Hutchinson(probes, noise, generator()))
    off = A.square().sum() - A.diagonal().square().sum()
    variance = 2 * (off + diagonal * A.diagonal().square().sum()) / probes
    squares = estimate.standard_error.square()
    assert (squares.mean() - variance).abs() < 5 * squares.std() / 20_000**0.5
    spread = (estimate.value - A.trace()).square()
    assert (spread.mean() - variance).abs() < 5 * spread.std() / 20_000**0.5


ESTIMATORS = [Hutchinson(3), Hutchinson(2, "gaussian"), HutchPlusPlus(6), HutchPlusPlus(3, "gaussian")]


def with_generator(estimator, source):
    return type(estimator)(estimator.probes, estimator.noise, source)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("u", [network(3), opaque(network(3)), QuadraticPotential(3, symmetric(3)) + network(3)])
def test_noise_is_fixed_once(estimator, u):
    """Catches noise drawn anew at every evaluation of a solver's right-hand side, or a second draw that is unused."""
    z, t, source = randn(4, 3), rand(4), generator(5)
    fixed = with_generator(estimator, source).fixed(z)
    state = source.get_state()
    first = laplacian(u, z, t, fixed)
    close(laplacian(u, z, t, fixed), first, tolerance=0)
    elsewhere = laplacian(u, z + 1e-9, t, fixed)
    assert (elsewhere - first).abs().max() < 1e-5  # a smooth function of the point
    assert torch.equal(source.get_state(), state)
    assert fixed.fixed(z) is fixed
    assert fixed.stochastic
    once = generator(5)
    close(laplacian(u, z, t, with_generator(estimator, once)), first, tolerance=0)
    assert torch.equal(once.get_state(), state)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_without_a_generator_the_global_one_is_read(estimator):
    """Catches a seed of its own, which makes every epoch see the same noise."""
    z = randn(8, 5)
    u = network(5)
    torch.manual_seed(3)
    first, second = laplacian(u, z, 0.0, estimator), laplacian(u, z, 0.0, estimator)
    torch.manual_seed(3)
    close(laplacian(u, z, 0.0, estimator), first, tolerance=0)
    assert not torch.equal(first, second)


def test_the_exact_laplacian_has_no_noise_to_fix():
    """Catches an exact estimator that turns into another one for a solver."""
    assert Exact().fixed(randn(2, 3)) == Exact()
    assert all(estimator.stochastic for estimator in ESTIMATORS)


@given(dims, seeds, st.booleans())
def test_orthogonal_fixed_probes_are_exact(dim, seed, rule):
    """Row 6; catches fixed probes that are normalised again: d orthogonal ones of norm sqrt(d) give the trace."""
    u, z, t = network(dim, (5, 3), seed), randn(2, dim, seed=seed), rand(2, seed=seed)
    probes = (dim**0.5 * orthogonal(dim, seed)).expand(2, dim, dim)
    close(laplacian(u if rule else opaque(u), z, t, FixedProbes(probes)), reference_jet(u, z, t).laplacian)


@settings(max_examples=10)
@given(st.integers(2, 5), seeds)
def test_hutch_plus_plus_beats_hutchinson_where_it_promises_to(dim, seed):
    """Catches a wrong weight of the two parts: on a Hessian of low rank plus little, Hutch++ has the smaller error."""
    Q = orthogonal(dim, seed)
    A = Q @ torch.diag(torch.cat([torch.tensor([10.0]), torch.full((dim - 1,), 0.01)]).double()) @ Q.mT
    u, z = QuadraticPotential(dim, A), torch.zeros(500, dim, dtype=torch.float64)
    plain = laplacian(u, z, 0.0, Hutchinson(3, "gaussian", generator(seed))) - A.trace()
    better = laplacian(u, z, 0.0, HutchPlusPlus(3, "gaussian", generator(seed))) - A.trace()
    assert better.square().mean() < plain.square().mean() / 10


@pytest.mark.parametrize("probes", [0, -3, 1, 4, 3.0, None])
def test_a_wrong_number_of_products_is_refused(probes):
    """Catches a third that is rounded, so that the products are fewer or more than was asked for."""
    with pytest.raises(ValueError, match=f"probes: expected a positive multiple of 3, got {probes}"):
        HutchPlusPlus(probes)


def test_wrong_noise_and_a_rule_without_products_are_named():
    """Catches a silent fall-back, and None handed to a factorisation."""
    with pytest.raises(ValueError, match="noise: expected 'rademacher' or 'gaussian', got 'normal'"):
        HutchPlusPlus(noise="normal")

    class Lazy:
        def __call__(self, z, t):
            return z.sum(-1)

        def jet_rule(self, z, t, request):
            return Jet(z.sum(-1), torch.ones_like(z), torch.zeros_like(t))

    with pytest.raises(ValueError, match="u: expected its jet_rule to return the products"):
        laplacian(Lazy(), randn(2, 3), 0.0, HutchPlusPlus())
    plain = Jet(torch.zeros(2), torch.zeros(2, 3), torch.zeros(2))
    for read in (HutchPlusPlus(6).laplacian, HutchPlusPlus(6).standard_error, Hutchinson(2).standard_error):
        with pytest.raises(ValueError, match="quadratic was not requested"):
            read(plain)


def test_the_request_of_hutch_plus_plus_carries_no_gradient():
    """Catches a graph through the factorisation, whose derivative is infinite where two columns are parallel."""
    u, z = network(4), randn(3, 4).requires_grad_()
    request = HutchPlusPlus(6).request(u, z, 0.0)
    assert not request.probes.requires_grad
    assert isinstance(request, JetRequest)
    assert request.probes.shape == (3, 4, 4)
    basis, outside = request.probes.split(2, dim=-2)
    close(basis @ basis.mT, torch.eye(2).to(z).expand(3, 2, 2).detach())
    close(outside @ basis.mT, torch.zeros(3, 2, 2, dtype=torch.float64))
