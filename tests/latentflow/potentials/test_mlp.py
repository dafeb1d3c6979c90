"""The network's own derivative rule against automatic differentiation of the same network."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    BATCHES,
    batches,
    close,
    dims,
    jet_of,
    jets_close,
    network,
    rand,
    randn,
    reference_jet,
    request_of,
    seeds,
)
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from latentflow import Derivative, FunctionPotential, MLPPotential, jet, laplacian
from latentflow.calculus import evaluate_jet
from latentflow.potentials import FourierEmbedding, SinusoidalEmbedding

ACTIVATIONS = [torch.tanh, F.softplus, F.silu, torch.sin, F.gelu]
EMBEDDINGS = [SinusoidalEmbedding(6), FourierEmbedding(4, generator=torch.Generator().manual_seed(1))]
PROBES = st.sampled_from([None, 1, 3])


class Frequency(nn.Module):
    """An activation with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.frequency = nn.Parameter(torch.tensor(1.5))

    def forward(self, a):
        return torch.sin(self.frequency * a)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("depth", [1, 2, 3])
@settings(max_examples=12)
@given(data=st.data(), dim=dims, batch=batches, seed=seeds, laplacian=st.booleans(), hessian=st.booleans())
def test_rule_agrees_with_autodiff(activation, depth, data, dim, batch, seed, laplacian, hessian):
    """Row 2; catches a missing sigma'', a layer left out of the sum, a slope of the wrong layer, time in the trace."""
    hidden = data.draw(st.lists(st.integers(1, 9), min_size=depth, max_size=depth))
    probes, embedding = data.draw(PROBES), data.draw(st.sampled_from(EMBEDDINGS))
    u = network(dim, hidden, seed, activation, embedding)
    z, t = randn(*batch, dim, seed=seed), 3 * rand(*batch, seed=seed)
    request = request_of(
        laplacian=laplacian, hessian=hessian, probes=probes and randn(*batch, probes, dim, seed=seed + 1)
    )
    auto = evaluate_jet(FunctionPotential(lambda z, t: u(z, t)), z, t, request)  # noqa: PLW0108 - hides the rule
    jets_close(evaluate_jet(u, z, t, request), auto)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("hidden", [(6,), (4, 5), (3, 5, 4)])
def test_every_request_agrees_with_reverse_over_reverse(batch, hidden):
    """Row 2; catches a Laplacian that changes when the Hessian or probes are asked for as well."""
    u = network(3, hidden, seed=7)
    z, t, v = randn(*batch, 3), rand(*batch), randn(*batch, 2, 3, seed=1)
    expected = reference_jet(u, z, t, v)
    for trace in (False, True):
        for matrix in (False, True):
            for probes in (None, v):
                result = evaluate_jet(u, z, t, request_of(probes, laplacian=trace, hessian=matrix))
                wanted = {"laplacian": trace, "hessian": matrix, "quadratic": probes is not None}
                second = {name: getattr(expected, name) for name, yes in wanted.items() if yes}
                jets_close(result, jet_of(expected.value, expected.gradient, expected.time_derivative, **second))


@given(dims, seeds)
def test_one_hidden_layer_in_closed_form(dim, seed):
    """Row 2; catches any error that rule and autodiff might share: sum_j w_j tanh''(a_j) |W_j|^2."""
    u = network(dim, (6,), seed)
    z = randn(5, dim, seed=seed)
    W, w = u.point.weight, u.output.weight[0]
    a = z @ W.mT + u.point.bias + u.time(u.embedding(torch.tensor(0.4, dtype=torch.float64)))
    curvature = -2 * a.tanh() / a.cosh().square()
    close(laplacian(u, z, 0.4), (w * curvature * W.square().sum(-1)).sum(-1))
    close(jet(u, z, 0.4).gradient, (w / a.cosh().square()) @ W)


@pytest.mark.parametrize("a", [0.7, 2.0])
def test_an_off_diagonal_hessian_has_no_trace(a):
    """Row 1; catches the row sum: a network with Hessian [[0, a], [a, 0]] at the origin, whose rows sum to a."""
    u = network(2, (2,), activation=torch.sin)
    with torch.no_grad():  # u = -a/2 cos(z1 + z2) + a/2 cos(z1 - z2)
        u.point.weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        u.point.bias.fill_(torch.pi / 2)
        u.time.weight.zero_()
        u.output.weight.copy_(torch.tensor([[-a / 2, a / 2]], dtype=torch.float64))
    result = jet(u, torch.zeros(2, dtype=torch.float64), 0.0, requires=Derivative.HESSIAN)
    close(result.hessian, torch.tensor([[0.0, a], [a, 0.0]], dtype=torch.float64))
    close(result.laplacian, torch.zeros((), dtype=torch.float64))


@given(dims, seeds)
def test_rule_stays_symmetric_and_close_at_large_arguments(dim, seed):
    """Catches an overflow in a sweep: saturated layers have no curvature, and no nan."""
    u = network(dim, (5, 5), seed, F.softplus)
    result = jet(u, 1e5 * randn(4, dim, seed=seed), 0.0, requires=Derivative.HESSIAN)
    assert all(field.isfinite().all() for field in (result.value, result.gradient, result.laplacian, result.hessian))
    close(result.hessian, result.hessian.mT)


def test_output_scale_multiplies_the_whole_jet():
    """Catches a scale applied to the value but not to its derivatives, or twice."""
    torch.manual_seed(0)
    full = MLPPotential(3).double()
    torch.manual_seed(0)
    small = MLPPotential(3, output_scale=0.01).double()
    z = randn(4, 3)
    jets_close(
        jet(small, z, 0.2, requires=Derivative.HESSIAN),
        jet(full, z, 0.2, requires=Derivative.HESSIAN).scale(0.01),
        tolerance=1e-7,
    )


@pytest.mark.parametrize("activation", [F.gelu, Frequency(), nn.Tanh()])
def test_copies_are_independent(activation):
    """Catches a rule that keeps the activation of the original: the copy's jet must follow the copy's parameters."""
    u = network(3, activation=activation)
    v = copy.deepcopy(u)
    with torch.no_grad():
        for parameter in v.parameters():
            parameter.mul_(1.5)
    z, t = randn(4, 3), rand(4)
    jets_close(jet(v, z, t, requires=Derivative.HESSIAN), reference_jet(v, z, t))


@pytest.mark.parametrize("activation", [torch.tanh, F.gelu, Frequency()])
def test_pickled_networks_come_back(activation):
    """Catches a local function among the attributes, which breaks worker processes and torch.save of modules."""
    u, z, t = network(3, activation=activation), randn(4, 3), rand(4)
    jets_close(jet(pickle.loads(pickle.dumps(u)), z, t), jet(u, z, t), tolerance=0)


def test_parametrised_weights():
    """Catches a rule that insists on nn.Parameter: weight norm makes the weight a computed tensor."""
    u = network(3, (4, 5, 3))
    for layer in (u.point, *u.hidden, u.output):
        parametrizations.weight_norm(layer)
    z, t = randn(4, 3), rand(4)
    jets_close(jet(u, z, t, requires=Derivative.HESSIAN), reference_jet(u, z, t))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim: expected a positive integer, got 0"),
        ({"dim": 2, "hidden": ()}, r"hidden: expected at least one positive integer, and no others, got \(\)"),
        ({"dim": 2, "hidden": (4, 0)}, r"hidden: expected at least one positive integer, and no others, got \(4, 0\)"),
    ],
)
def test_sizes_are_checked(arguments, message):
    """Catches an empty layer, which gives a constant potential."""
    with pytest.raises(ValueError, match=message):
        MLPPotential(**arguments)


@pytest.mark.parametrize("call", [jet, lambda u, z, t: u(z, torch.tensor(t))])
def test_points_of_another_dimension_are_refused(call):
    """Catches a shape error out of a matrix product, which names neither the argument nor the size expected."""
    with pytest.raises(ValueError, match=r"z: expected shape \(\*batch, 3\), got \(4, 2\)"):
        call(MLPPotential(3).double(), randn(4, 2), 0.0)


def test_a_repeated_time_has_a_derivative_at_every_sample():
    """Catches one time that serves all samples where each needs a derivative of its own."""
    u, z = network(3, (4, 5), 1), randn(4, 3, seed=2)
    repeated = torch.tensor(0.5, dtype=torch.float64).expand(4)
    results = []
    for t in (repeated.detach().requires_grad_(), repeated.clone().requires_grad_()):
        value = sum(field.sum() for field in (jet(u, z, t).laplacian, jet(u, z, t).time_derivative))
        results.append(torch.autograd.grad(value, t)[0])
    close(*results)
    jets_close(
        jet(u, z, repeated, requires=Derivative.HESSIAN), jet(u, z, repeated.clone(), requires=Derivative.HESSIAN)
    )
