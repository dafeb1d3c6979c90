"""Derivatives of jets: gradcheck, torch.func transforms, grad modes."""

import pytest
import torch
from hypothesis import given, settings
from strategies import (
    FIELDS,
    Well,
    close,
    dims,
    held,
    jets_close,
    network,
    opaque,
    rand,
    randn,
    request_of,
    seeds,
    wave,
)
from torch import nn
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap

from latentflow import Derivative, FunctionPotential, QuadraticPotential, gradient, hessian, jet, laplacian
from latentflow.calculus import evaluate_jet


class Derivatives(nn.Module):
    """A module whose output is one field of the jet, so that functional_call reaches the parameters."""

    def __init__(self, u, name, rule=True):
        super().__init__()
        self.u, self.name, self.rule = u, name, rule

    def forward(self, z, t):
        probes = torch.arange(1.0, 2 * z.shape[-1] + 1).cos().to(z).expand(*z.shape[:-1], -1).unflatten(-1, (2, -1))
        wanted = {self.name: True} if self.name in ("laplacian", "hessian") else {}
        request = request_of(probes if self.name == "quadratic" else None, **wanted)
        return getattr(evaluate_jet(self.u if self.rule else opaque(self.u), z, t, request), self.name)


@pytest.mark.parametrize("rule", [True, False])
@pytest.mark.parametrize("name", FIELDS)
def test_gradcheck_and_gradgradcheck(name, rule):
    """Row 53; catches a missing create_graph, a detached factor, an in-place update: in z, t and parameters."""
    module = Derivatives(network(2, hidden=(3, 2), seed=3), name, rule)
    names, parameters = zip(*module.named_parameters(), strict=True)

    def function(z, t, *values):
        return functional_call(module, dict(zip(names, values, strict=True)), (z, t))

    inputs = (randn(2, 2).requires_grad_(), rand(2).requires_grad_(), *parameters)
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("u", [network(3, seed=1), FunctionPotential(wave), QuadraticPotential(3).double(), Well()])
def test_transforms_of_the_operators(u):
    """Row 52; catches a data-dependent branch or an in-place write that torch.func refuses, and a wrong axis."""
    z, t = randn(4, 3), rand(4)
    result = jet(u, z, t, requires=Derivative.HESSIAN)
    close(vmap(lambda z, t: laplacian(u, z, t))(z, t), result.laplacian)
    close(vmap(lambda z, t: hessian(u, z, t))(z, t), result.hessian)
    close(vmap(jacrev(lambda z, t: gradient(u, z, t)))(z, t), result.hessian)
    close(grad(lambda z: jet(u, z, t).value.sum())(z), result.gradient)
    close(jvp(lambda t: jet(u, z, t).value, (t,), (torch.ones(4).to(t),))[1], result.time_derivative)
    x = z.clone().requires_grad_()
    expected = torch.autograd.grad(laplacian(u, x, t).square().sum(), x, allow_unused=True, materialize_grads=True)[0]
    close(grad(lambda z: laplacian(u, z, t).square().sum())(z), expected)


@settings(max_examples=10)
@given(dims, seeds)
def test_functional_call_with_other_parameters(dim, seed):
    """Row 52; catches a weight that was copied or squared when the module was built."""
    u, other = network(dim, seed=seed), network(dim, seed=seed + 100)
    z, t = randn(3, dim, seed=seed), rand(3, seed=seed)
    for name in ("value", "laplacian", "hessian"):
        swapped = functional_call(Derivatives(u, name), dict(Derivatives(other, name).named_parameters()), (z, t))
        close(swapped, Derivatives(other, name)(z, t))


def test_stacked_potentials_equal_the_loop():
    """Row 52; catches a potential that keeps state outside its parameters: nested vmap over three networks."""
    modules = [Derivatives(network(3, seed=seed), "laplacian") for seed in range(3)]
    parameters, buffers = stack_module_state(modules)
    z, t = randn(3, 4, 3), rand(4)

    def one(parameters, buffers, z, t):
        return functional_call(modules[0], (parameters, buffers), (z, t))

    nested = vmap(vmap(one, in_dims=(None, None, 0, 0)), in_dims=(0, 0, 0, None))(parameters, buffers, z, t)
    close(nested, torch.stack([module(z[i], t) for i, module in enumerate(modules)]))


@pytest.mark.parametrize("u", [network(3), opaque(network(3)), FunctionPotential(wave), QuadraticPotential(3).double()])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("inside", [True, False])
def test_jets_without_grad_mode(u, mode, inside):
    """Row 52; catches autograd.grad in a pass, which fails or returns zero there, and a graph that is kept alive."""
    z, t, v = randn(4, 3), rand(4), randn(4, 2, 3)
    expected = evaluate_jet(u, z, t, request_of(v, laplacian=True, hessian=True))
    with mode():
        if inside:
            z, t, v = randn(4, 3), rand(4), randn(4, 2, 3)
        result = evaluate_jet(u, z, t, request_of(v, laplacian=True, hessian=True))
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert not any(held(result, name).requires_grad for name in FIELDS)
    jets_close(result, expected, tolerance=1e-13)


@pytest.mark.parametrize("rule", [True, False])
def test_gradients_of_a_first_order_jet_reach_every_parameter(rule):
    """Catches a weight that the rule reads off a detached copy: |grad u|^2 trains every layer."""
    u = network(3, hidden=(4, 4, 4))
    jet(u if rule else opaque(u), randn(5, 3), rand(5), None).gradient.square().sum().backward()
    for name, parameter in u.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-6, name
