"""Flows whose potential is compiled in place."""

import copy

import pytest
import torch
from closed_forms import normal
from torch import nn

from latentflow import ODE, HopfLaxFlow, Hutchinson, MLPPotential, PotentialFlow, jet
from latentflow.flow import FirstOrder

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's tracer reads it, and hides the warning
DIM = 3


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MLPPotential(DIM, hidden=(5, 4)).double()


@pytest.fixture
def compiled(monkeypatch):
    """A function that compiles a flow by torch's tracer without code, and counts what it has traced."""
    torch.compiler.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def compile_flow(flow):
        flow.compile(backend=backend)
        return graphs

    yield compile_flow
    torch.compiler.reset()


def test_trajectories_and_their_gradients_stay(compiled):
    """Catches a compiled field with other numbers, or with weights of the time of compilation."""
    flow, twin, z = PotentialFlow(network()), PotentialFlow(network()), normal(1, 4, DIM)
    names = list(flow.state_dict())
    graphs = compiled(flow)
    assert list(flow.state_dict()) == names
    for _ in range(2):
        for follow in (
            lambda flow: flow.rollout(z, 3, 0.1).z,
            lambda flow: flow.rollout(z, 3, 0.1).log_det,
            lambda flow: flow.integrate(z, [0.0, 0.5], ODE("rk4")).log_det,
            lambda flow: flow.rollout(z, 3, 0.1, log_det=FirstOrder()).log_det,
        ):
            ours, theirs = follow(flow), follow(twin)
            torch.testing.assert_close(ours, theirs)
            gradients = (
                torch.autograd.grad(x.sin().sum(), f.parameters(), materialize_grads=True)
                for x, f in ((ours, flow), (theirs, twin))
            )
            torch.testing.assert_close(*gradients)
        with torch.no_grad():
            for weight in (*flow.parameters(), *twin.parameters()):
                weight.mul_(1.3)
    assert graphs


def test_copies_have_their_own_weights(compiled):
    """Catches a copy that evaluates the derivatives of the original."""
    flow, z = PotentialFlow(network()), normal(2, 4, DIM)
    compiled(flow)
    flow.velocity(z, 0.0)
    other = copy.deepcopy(flow)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    assert not other.velocity(z, 0.0).any()
    assert flow.velocity(z, 0.0).any()


def test_the_trace_and_transforms_are_not_compiled(compiled):
    """Catches the trace of plain operations, and a transform of a compiled function."""
    flow, z = PotentialFlow(network()), normal(3, 4, DIM)
    graphs = compiled(flow)
    jet(flow.potential, z, 0.0)
    torch.func.vmap(lambda z: flow.velocity(z, 0.0))(z)
    assert graphs == []
    jet(flow.potential, z, 0.0, Hutchinson())
    assert len(graphs) == 1


def test_a_hopf_lax_flow_compiles_what_it_starts_from(compiled):
    """Catches a compiled iteration to the roots."""
    flow, twin, z = HopfLaxFlow(network()), HopfLaxFlow(network()), 0.1 * normal(4, 4, DIM)
    graphs = compiled(flow)
    torch.testing.assert_close(flow.rollout(z, 2, 0.1).z, twin.rollout(z, 2, 0.1).z)
    assert graphs


def test_a_module_that_is_no_potential_is_refused():
    """Catches a module whose forward alone is compiled."""
    with pytest.raises(TypeError, match="potential: expected a Potential to compile, got"):
        PotentialFlow(nn.Identity()).compile()
