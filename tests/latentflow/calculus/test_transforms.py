"""The operators under torch.func: mapped over points and over networks, differentiated further, without grad mode."""

import pytest
import torch
from strategies import (
    ALL_FIELDS,
    all_fields_close,
    close,
    full_reference_jet,
    full_request,
    network,
    opaque,
    rand,
    randn,
    request_of,
    symmetric,
    wave,
)
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap

from latentflow import Hutchinson, PotentialFlow, QuadraticPotential, SlogDet, laplacian
from latentflow.calculus import FixedProbes, HutchPlusPlus, evaluate_jet

NETWORKS = {
    "one layer, dim < width": network(3, (5,)),
    "one layer, dim > width": network(5, (3,)),
    "two layers, dim < width": network(2, (4, 3)),
    "two layers, dim > width": network(5, (2, 3)),
    "three layers, dim < width": network(2, (4, 3, 4)),
    "three layers, dim > width": network(7, (2, 3, 2)),
}
FIELDS = {
    **{name: (u, u.dim) for name, u in NETWORKS.items()},
    "opaque": (opaque(network(3)), 3),
    "callable": (wave, 3),
    "quadratic": (QuadraticPotential(3, symmetric(3)), 3),
    "sum": (2 * network(3) + wave, 3),
}
fields = pytest.mark.parametrize(("u", "dim"), FIELDS.values(), ids=FIELDS.keys())
networks = pytest.mark.parametrize("u", NETWORKS.values(), ids=NETWORKS.keys())


class Laplacian(nn.Module):
    """The Laplacian of a potential as a module with the potential's parameters."""

    def __init__(self, u, rule=True):
        super().__init__()
        self.u, self.rule = u, rule

    def forward(self, z, t):
        return laplacian(self.u if self.rule else opaque(self.u), z, t)


@fields
@pytest.mark.parametrize("in_dims", [(0, 0, 0), (1, 0, 1)])
def test_calls_for_single_points_are_mapped(u, dim, in_dims):
    """Catches a rule that needs a batch dimension, and a mapped dimension that meets the samples of a block."""
    z, t, v = randn(4, dim), rand(4), randn(4, 2, dim, seed=1)
    moved = [x.movedim(0, i) for x, i in zip((z, t, v), in_dims, strict=True)]

    def single(z, t, v):
        jet = evaluate_jet(u, z, t, full_request(v))
        return tuple(getattr(jet, name) for name in ALL_FIELDS)

    mapped = vmap(single, in_dims=in_dims)(*moved)
    for field, name in zip(mapped, ALL_FIELDS, strict=True):
        close(field, getattr(evaluate_jet(u, z, t, full_request(v)), name))
    close(vmap(lambda z, t: laplacian(u, z, t), in_dims=in_dims[:2])(*moved[:2]), laplacian(u, z, t))


@networks
def test_points_in_batches_are_mapped(u):
    """Catches a mapped dimension that the shared time or the weights are expanded along: rows of a batch."""
    z = randn(3, 4, u.dim)
    close(vmap(lambda z: laplacian(u, z, 0.3))(z), laplacian(u, z, 0.3))
    close(vmap(lambda z, t: laplacian(u, z, t))(z, rand(3)), laplacian(u, z, rand(3).unsqueeze(-1)))
    close(vmap(lambda t: laplacian(u, z[0], t))(rand(3)), laplacian(u, z[0].expand(3, 4, -1), rand(3).unsqueeze(-1)))


@networks
def test_higher_derivatives_of_the_laplacian(u):
    """Catches a backward pass that cannot be differentiated again, forward or reverse, or is wrong when it is."""

    def trace(z):
        return torch.func.hessian(lambda z: u(z, torch.tensor(0.4, dtype=torch.float64)))(z).trace()

    def own(z):
        return laplacian(u, z, 0.4)

    z = randn(u.dim)
    first, second = jacrev(trace)(z), jacrev(jacrev(trace))(z)
    for transform in (grad, jacrev, jacfwd):
        close(transform(own)(z), first)
    close(hessian(own)(z), second)
    close(jacrev(jacrev(own))(z), second)
    close(jacrev(jacfwd(own))(z), second)
    batch = randn(3, u.dim, seed=1)
    close(vmap(hessian(own))(batch), torch.stack([jacrev(jacrev(trace))(z) for z in batch]))


@networks
def test_forward_over_forward_mode(u):
    """Catches zeros in place of second derivatives: nested forward mode does not differentiate a custom jvp again."""

    def own(z):
        return laplacian(u, z, 0.4)

    z = randn(u.dim)
    close(jacfwd(jacfwd(own))(z), jacrev(jacrev(own))(z))
    mixed = jvp(lambda t: jacfwd(lambda z: laplacian(u, z, t))(z), (torch.tensor(0.4).to(z),), (torch.ones(()).to(z),))[
        1
    ]
    close(mixed, jacrev(lambda t: jacrev(lambda z: laplacian(u, z, t))(z))(torch.tensor(0.4).to(z)))


@networks
def test_networks_stacked_by_torch_func(u):
    """Catches state outside the parameters, and weights of all networks that meet the gains of one."""
    others = [network(u.dim, [b.shape[0] for b in u.layers().biases], seed=seed) for seed in (1, 2, 3)]
    modules = [Laplacian(other) for other in others]
    parameters, buffers = stack_module_state(modules)
    z, t = randn(4, u.dim), rand(4)

    def one(parameters, buffers, z, t):
        return functional_call(modules[0], (parameters, buffers), (z, t))

    expected = torch.stack([module(z, t) for module in modules])
    close(vmap(one, in_dims=(0, 0, None, None))(parameters, buffers, z, t), expected)
    own = randn(3, 4, u.dim, seed=5)
    close(
        vmap(one, in_dims=(0, 0, 0, None))(parameters, buffers, own, t),
        torch.stack([m(x, t) for m, x in zip(modules, own, strict=True)]),
    )
    slopes = vmap(grad(lambda *x: one(*x).square().sum()), in_dims=(0, 0, None, None))(parameters, buffers, z, t)
    for i, module in enumerate(modules):
        names, values = zip(*module.named_parameters(), strict=True)
        loop = torch.autograd.grad(module(z, t).square().sum(), values, materialize_grads=True)
        for name, gradient in zip(names, loop, strict=True):
            close(slopes[name][i], gradient)


@networks
@pytest.mark.parametrize("rule", [True, False])
def test_gradients_of_each_sample_in_the_parameters(u, rule):
    """Catches a gradient of one sample's Laplacian that another sample's point enters, as it would without vmap."""
    module, z, t = Laplacian(u, rule), randn(3, u.dim), rand(3)
    parameters = dict(module.named_parameters())

    def one(parameters, z, t):
        return functional_call(module, parameters, (z, t))

    each = vmap(grad(one), in_dims=(None, 0, 0))(parameters, z, t)
    reference = Laplacian(u, rule=False)
    for i in range(3):
        loop = torch.autograd.grad(
            reference(z[i], t[i]), list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        for name, gradient in zip(parameters, loop, strict=True):
            close(each[name][i], gradient)


@networks
def test_tangents_of_the_parameters(u):
    """Catches a forward mode of the hand-written sums that forgets the weights: jvp against the gradient."""
    module, z, t = Laplacian(u), randn(3, u.dim), rand(3)
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    tangents = {name: randn(*x.shape, seed=i) for i, (name, x) in enumerate(parameters.items())}

    def total(parameters):
        return functional_call(module, parameters, (z, t)).sin().sum()

    slope = grad(total)(parameters)
    close(jvp(total, (parameters,), (tangents,))[1], sum((slope[name] * tangents[name]).sum() for name in slope))


@networks
def test_exact_determinants_are_mapped(u):
    """Catches a factorisation that torch.func refuses: the log-determinant of a step and its gradient, per sample."""
    flow, z, t = PotentialFlow(u), randn(3, u.dim), rand(3)

    def log_det(z, t):
        return flow.step(z, t, 0.1, SlogDet()).determinant.log_det

    eye = torch.eye(u.dim).to(z)

    def directly(z, t):
        return torch.linalg.slogdet(eye + 0.1 * jacrev(jacrev(u))(z, t))[1]

    close(vmap(log_det)(z, t), torch.stack([directly(a, b) for a, b in zip(z, t, strict=True)]))
    close(vmap(grad(log_det))(z, t), torch.stack([jacrev(directly)(a, b) for a, b in zip(z, t, strict=True)]))


@fields
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_grad_mode(u, dim, mode):
    """Catches autograd.grad inside a pass, and a custom function that saves a tensor of inference mode."""
    z, t, v = randn(3, dim), rand(3), randn(3, 2, dim, seed=1)
    expected = full_reference_jet(u, z, t, v)
    noise = HutchPlusPlus(6).fixed(z)
    estimates = [FixedProbes(v), noise]
    numbers = [laplacian(u, z, t, estimate).detach() for estimate in estimates]
    with mode():
        z, t, v = randn(3, dim), rand(3), randn(3, 2, dim, seed=1)
        jet = evaluate_jet(u, z, t, full_request(v))
        trace = laplacian(u, z, t)
        again = [laplacian(u, z, t, estimate) for estimate in estimates]
        known = getattr(u, "inner_width", None) is not None
        factors = evaluate_jet(u, z, t, request_of(inner_hessian=True)).inner_hessian if known else None
    all_fields_close(jet, expected)
    close(trace, expected.laplacian)
    for one, same in zip(again, numbers, strict=True):
        close(one, same)
    if factors is not None:
        close(factors.factor.mT @ factors.core @ factors.factor, expected.hessian)
    tensors = [getattr(jet, name) for name in ALL_FIELDS]
    assert not any(x.requires_grad for x in (*tensors, trace, *again))


@networks
@pytest.mark.parametrize("estimator", [Hutchinson(2), HutchPlusPlus(3), HutchPlusPlus(6, "gaussian")])
def test_random_laplacians_are_mapped(u, estimator):
    """Catches noise shared by all mapped points where each should draw its own, and noise that vmap refuses."""
    z = randn(u.dim).expand(200, -1)
    torch.manual_seed(0)
    values = vmap(lambda z: laplacian(u, z, 0.3, estimator), randomness="different")(z)
    exact = laplacian(u, z[0], 0.3)
    error = (values.mean() - exact).abs()
    assert error <= 5 * values.std() / 200**0.5 + 1e-9
    noise = estimator.fixed(z)
    close(
        vmap(lambda z, i: laplacian(u, z, 0.3, _row(noise, i)), in_dims=(0, 0))(z, torch.arange(200)),
        laplacian(u, z, 0.3, noise),
    )


def _row(noise, i):
    return type(noise)(*(value[i] for value in vars(noise).values()))
