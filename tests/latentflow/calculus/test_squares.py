"""Sums of squares in blocks, with their own backward pass, against a direct contraction and finite differences."""

import pytest
import torch
from strategies import close, randn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

from latentflow import MLPPotential, laplacian
from latentflow.potentials import squares
from latentflow.potentials.layered import rows_times
from latentflow.potentials.squares import squared_directions, squared_gram

STACKS = [(), (2,), (2, 3)]


SIZES = {
    "sample by sample": (1, 2**23),
    "some samples": (40, 2**23),
    "nothing kept": (40, 0),
    "one block": (10**9, 2**23),
}


@pytest.fixture(params=SIZES.values(), ids=SIZES)
def blocks(request, monkeypatch):
    """The sizes of blocks: one sample each, a last block that is shorter, everything at once; what is kept."""
    size, kept = request.param
    monkeypatch.setattr(squares, "CPU_BLOCK", size)
    monkeypatch.setattr(squares, "PAIR_BLOCK", size)
    monkeypatch.setattr(squares, "PAIR_SAMPLES", min(size, 3))
    monkeypatch.setattr(squares, "KEPT", kept)


def direction_inputs(stack, shared, samples=5, rows=2, n=3, m=4):
    return (
        randn(*stack, 1 if shared else samples, rows, n, seed=1),
        randn(*stack, samples, n, seed=2),
        randn(*stack, m, n, seed=3),
    )


def gram_inputs(stack, samples=5, n=3, m=4):
    return randn(*stack, samples, n, seed=1), randn(*stack, m, n, seed=2), randn(*stack, n, n, seed=3)


def directly(directions, gains, weight):
    full = directions.expand(*gains.shape[:-1], *directions.shape[-2:])
    return torch.einsum("...ki,...si,...sri->...skr", weight, gains, full).square().sum(-1)


def gram_directly(gains, weight, gram):
    return torch.einsum("...ki,...si,...ij,...sj,...kj->...sk", weight, gains, gram, gains, weight)


def symmetric_gram(gains, weight, gram):
    """The function of any square matrix: gram matrices are symmetric, and the backward pass relies on it."""
    return squared_gram(gains, weight, gram + gram.mT)


def gradients(function, inputs, seed=9):
    inputs = [x.clone().requires_grad_() for x in inputs]
    output = function(*inputs)
    return torch.autograd.grad((output * randn(*output.shape, seed=seed)).sum(), inputs)


def second_gradients(function, inputs):
    """The gradient of a nonlinear function of the gradient, as a loss on a Laplacian's gradient takes it."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    first = torch.autograd.grad(function(*inputs).sin().sum(), inputs, create_graph=True)
    return torch.autograd.grad(sum(g.pow(3).sum() for g in first), inputs)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("shared", [False, True])
def test_squared_directions(blocks, stack, shared):
    """Catches a block left out or counted twice, and a gradient of shared directions that is not summed."""
    inputs = direction_inputs(stack, shared)
    close(squared_directions(*inputs), directly(*inputs))
    for own, expected in zip(gradients(squared_directions, inputs), gradients(directly, inputs), strict=True):
        close(own, expected)
    pairs = zip(second_gradients(squared_directions, inputs), second_gradients(directly, inputs), strict=True)
    for own, expected in pairs:
        close(own, expected, tolerance=1e-9)


@pytest.mark.parametrize("stack", STACKS)
def test_squared_gram(blocks, stack):
    """Catches a gram matrix of another network in the stack, and a factor 2 in one of the three gradients."""
    inputs = gram_inputs(stack)

    def expected_of(gains, weight, gram):
        return gram_directly(gains, weight, gram + gram.mT)

    close(symmetric_gram(*inputs), expected_of(*inputs))
    for own, expected in zip(gradients(symmetric_gram, inputs), gradients(expected_of, inputs), strict=True):
        close(own, expected)
    pairs = zip(second_gradients(symmetric_gram, inputs), second_gradients(expected_of, inputs), strict=True)
    for own, expected in pairs:
        close(own, expected, tolerance=1e-9)


def test_the_gram_of_directions_gives_their_squares():
    """Catches two functions that disagree on what they compute: G = J'J."""
    directions, gains, weight = direction_inputs((2,), shared=True)
    J = directions.squeeze(-3)
    close(squared_gram(gains, weight, J.mT @ J), squared_directions(directions, gains, weight))


@pytest.mark.parametrize(("samples", "outputs"), [(1, 40), (40, 1), (700, 3)])
def test_blocks_of_pairs_stay_small(monkeypatch, samples, outputs):
    """Catches a block that is small in the samples and holds all pairs for all outputs, gigabytes of a wide layer."""
    monkeypatch.setattr(squares, "PAIR_BLOCK", 2000)
    gains, weight, gram = gram_inputs((2,), samples, n=12, m=outputs)
    pairs = list(squares._pairs(gains, weight, gram))
    sizes = [max(own.products().numel(), own.kernel(weight).numel()) for own in pairs]
    assert max(sizes) <= max(2000, 2 * 12 * max(min(samples, squares.PAIR_SAMPLES), outputs))
    assert len(pairs) > 1


def small(name, stack, samples=2):
    if name == "gram":
        return symmetric_gram, gram_inputs(stack, samples=samples, n=2, m=2)
    return squared_directions, direction_inputs(stack, name == "shared", samples, 2, 2, 2)


@pytest.mark.parametrize("name", ["shared", "own", "gram"])
@pytest.mark.parametrize("stack", [(), (2,)])
@pytest.mark.parametrize("samples", [0, 1, 2])
def test_finite_differences_of_every_order(monkeypatch, name, stack, samples):
    """Catches a backward pass of the backward pass that is missing a term, and a forward mode that disagrees."""
    monkeypatch.setattr(squares, "CPU_BLOCK", 1)
    monkeypatch.setattr(squares, "PAIR_BLOCK", 1)
    monkeypatch.setattr(squares, "PAIR_SAMPLES", 1)
    function, inputs = small(name, stack, samples)
    inputs = [x.requires_grad_() for x in inputs]
    assert gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True, check_rev_over_rev=True)


@pytest.mark.parametrize("name", ["shared", "own", "gram"])
@pytest.mark.parametrize("subset", [(0,), (1,), (2,), (0, 2)])
def test_a_gradient_of_some_arguments_only(name, subset):
    """Catches a backward or forward pass that needs a gradient or tangent of every argument."""
    function, inputs = small(name, ())

    def partial(*given):
        values = list(inputs)
        for i, x in zip(subset, given, strict=True):
            values[i] = x
        return function(*values)

    given = [inputs[i].clone().requires_grad_() for i in subset]
    assert gradcheck(partial, given, check_forward_ad=True)
    assert gradgradcheck(partial, given, check_fwd_over_rev=True)


@pytest.mark.parametrize("name", ["shared", "own", "gram"])
def test_transforms(blocks, name):
    """Catches a rule that torch.func cannot map, or maps along the wrong dimension."""
    function, inputs = small(name, (3,), samples=4)
    _, elsewhere = small(name, (), samples=4)
    close(vmap(function)(*inputs), function(*inputs))
    one = vmap(function, in_dims=(None, 0, None))(elsewhere[0], inputs[1], elsewhere[2])
    if name != "gram":
        close(one, torch.stack([function(elsewhere[0], x, elsewhere[2]) for x in inputs[1]]))
    moved = vmap(function, in_dims=(1, 1, 1), out_dims=1)(*(x.movedim(0, 1) for x in inputs))
    close(moved, function(*inputs).movedim(0, 1))

    def total(*arguments):
        return function(*arguments).sin().sum()

    for i in range(3):
        first = vmap(grad(total, argnums=i))(*inputs)
        close(first, torch.autograd.grad(total(*(x.requires_grad_() for x in inputs)), inputs[i])[0])
        inputs = [x.detach() for x in inputs]
        forward, reverse = (outer(grad(total, argnums=i), argnums=i)(*elsewhere) for outer in (jacfwd, jacrev))
        close(forward, reverse)
        close(hessian(total, argnums=i)(*elsewhere), reverse)
        close(jacrev(jacfwd(total, argnums=i), argnums=i)(*elsewhere), reverse)
    tangents = tuple(randn(*x.shape, seed=5 + i) for i, x in enumerate(inputs))
    each = [jvp(function, tuple(x[i] for x in inputs), tuple(v[i] for v in tangents))[1] for i in range(3)]
    close(jvp(function, tuple(inputs), tangents)[1], torch.stack(each))
    close(vmap(lambda x, v: jvp(function, x, v)[1])(tuple(inputs), tangents), torch.stack(each))


@pytest.mark.parametrize("name", ["shared", "own", "gram"])
@pytest.mark.parametrize("stack", [(), (2,)])
def test_no_samples(blocks, name, stack):
    """Catches a concatenation of no blocks, and gradients that are missing or not zero."""
    function, inputs = small(name, stack, samples=0)
    assert function(*inputs).shape == (*stack, 0, 2)
    for gradient, x in zip(gradients(function, inputs), inputs, strict=True):
        close(gradient, torch.zeros_like(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_stays(dtype):
    """Catches a result or a gradient of the default dtype."""
    for name in ("shared", "own", "gram"):
        function, inputs = small(name, ())
        inputs = [x.to(dtype).requires_grad_() for x in inputs]
        output = function(*inputs)
        assert output.dtype == dtype
        assert all(g.dtype == dtype for g in torch.autograd.grad(output.sum(), inputs))


def test_transforms_take_the_cheaper_sum():
    """Catches the gram matrix of each sample where there are more units than directions, and no pairs to save them."""
    u, z, width = MLPPotential(16, (24, 24)).double(), randn(8, 16), 24
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        by_transform = vmap(lambda x: laplacian(u, x, 0.3))(z)
    assert counter.get_total_flops() < 2 * len(z) * width**3  # of the gram matrices alone
    close(by_transform, laplacian(u, z, 0.3))


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("shape", [(4, 2), (0, 2), (4, 0), (1, 3)])
def test_rows_times(stack, shape):
    """Catches rows of one network that meet the matrix of another, and a reshape that fails without rows."""
    x, matrix = randn(*stack, *shape, 3), randn(*stack, 3, 5, seed=1)
    close(rows_times(x, matrix), torch.einsum("...sri,...io->...sro", x, matrix))
