"""What the page on support says about flows: which transforms, compilers and precisions they go through."""

import pytest
import torch
from strategies import close, jet_of, network, randn

from latentflow import ODE, MLPPotential, PotentialFlow, SlogDet

U = network(3, (4, 5), 1)
FLOW = PotentialFlow(U)
Z = randn(5, 3, seed=2)
PATHS = {
    "rollout": lambda z: FLOW.rollout(z, steps=2, dt=0.3),
    "fixed grid": lambda z: FLOW.integrate(z, [0.0, 1.0], ODE("rk4", options={"step_size": 0.5})),
    "adaptive": lambda z: FLOW.integrate(z, [0.0, 1.0], ODE(rtol=1e-9, atol=1e-9)),
}


def objective(name):
    def value(z):
        trajectory = PATHS[name](z)
        return (trajectory.z[-1].square().sum(-1) + trajectory.log_det[-1]).sum()

    return value


def by_autograd(name):
    z = Z.clone().requires_grad_()
    gradient = torch.autograd.grad(objective(name)(z), z, create_graph=True)[0]
    rows = [torch.autograd.grad(part, z, retain_graph=True)[0] for part in gradient.flatten()]
    return gradient.detach(), torch.stack(rows).reshape(5, 3, 5, 3)


@pytest.mark.parametrize("name", ["rollout", "fixed grid"])
def test_transforms_through_a_path(name):
    """Catches a value that is read off inside, a custom function without a rule, an order of modes that goes wrong."""
    gradient, hessian = by_autograd(name)
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.jacfwd):
        close(transform(objective(name))(Z), gradient)
    for one in (torch.func.jacrev, torch.func.jacfwd):
        for other in (torch.func.jacrev, torch.func.jacfwd):
            close(one(other(objective(name)))(Z), hessian)


def test_second_derivatives_through_an_adaptive_solver():
    """Catches a step size or a norm that carries a gradient: the Hessian is that of a fine fixed grid."""
    fine = ODE("rk4", options={"step_size": 0.02})
    z = Z.clone().requires_grad_()

    def value(z):
        trajectory = FLOW.integrate(z, [0.0, 1.0], fine)
        return (trajectory.z[-1].square().sum(-1) + trajectory.log_det[-1]).sum()

    close(by_autograd("adaptive")[1], torch.func.hessian(value)(z.detach()), 1e-6)


def test_steps_under_vmap():
    """Catches a step that looks at values: of each sample, on its own, under vmap."""

    def parts(z):
        step = FLOW.step(z, 0.3, 0.5, SlogDet())
        return step.z, step.action, step.determinant.log_det, step.determinant.sign

    for actual, expected in zip(torch.func.vmap(parts)(Z), parts(Z), strict=True):
        close(actual, expected)


def test_signs_under_vmap():
    """Catches the parity of the row exchanges: many of these matrices have a negative determinant."""

    def sign(h):
        return SlogDet().determinant(jet_of(h[..., 0, 0], h[..., 0], h[..., 0, 0], hessian=h + h.mT), 1.0).sign

    hessians = 3 * randn(40, 4, 4, seed=3)
    assert set(sign(hessians).tolist()) == {1.0, -1.0}
    close(torch.func.vmap(sign)(hessians), sign(hessians))


@pytest.mark.filterwarnings("ignore:.*torch._prims_common.check.*:FutureWarning")  # both are the compiler's own
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_compiled_rollout():
    """Catches a trajectory that cannot be traced around its checks."""
    close(torch.compile(objective("rollout"), backend="aot_eager")(Z), objective("rollout")(Z))


def test_bfloat16_without_a_determinant():
    """Catches a dtype lost on the way."""
    flow = PotentialFlow(MLPPotential(3, (8,)).bfloat16())
    z = Z.bfloat16()
    for trajectory in (flow.rollout(z, steps=2, log_det=None), flow.integrate(z, [0.0, 1.0])):
        assert trajectory.z.dtype == trajectory.action.dtype == torch.bfloat16
