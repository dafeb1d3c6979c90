"""The contract check catches what is wrong besides the derivatives: coupling, dtypes, mutation, modes, batches."""

from dataclasses import replace

import pytest
import torch
from ripple import Ripple, altered
from torch import nn

from latentflow import FunctionPotential, Potential
from latentflow.testing import check_potential


@pytest.mark.parametrize("where", ["forward", "jet_rule"])
@pytest.mark.parametrize("source", ["the mean of z", "the mean of t"])
def test_samples_that_see_one_another(where, source):
    """Catches a batch norm: in the values, or in the rule alone."""

    class Coupled(Ripple):
        def push(self, z, t):
            return (z.mean() if source == "the mean of z" else t.mean()) / 10

        def forward(self, z, t):
            return super().forward(z, t) + (self.push(z, t) if where == "forward" else 0)

        def jet_rule(self, z, t, request):
            jet = super().jet_rule(z, t, request)
            return replace(jet, value=jet.value + self.push(z, t)) if where == "jet_rule" else jet

    name = "value of forward" if where == "forward" else "value"
    with pytest.raises(AssertionError, match=rf"^{name}, of the other samples, after the first one was moved"):
        check_potential(Coupled(), dim=3)


def test_noise_in_the_values():
    """Catches dropout, under which two derivative passes see two different fields."""

    class Noisy(Potential):
        def forward(self, z, t):
            return nn.functional.dropout(z.square(), 0.5).sum(-1)

    with pytest.raises(AssertionError, match=r"^value, in a second evaluation: expected the same"):
        check_potential(Noisy(), dim=3)


@pytest.mark.parametrize("shape", ["(4, 1)", "()"])
def test_values_of_another_shape(shape):
    """Catches a keepdim and a sum over the batch, both of which autograd takes without complaint."""

    class Shaped(Potential):
        def forward(self, z, t):
            return z.square().sum(-1, keepdim=True) if shape == "(4, 1)" else z.square().sum()

    with pytest.raises(AssertionError, match="value, forward: expected shape"):
        check_potential(Shaped(), dim=3)


def test_a_dtype_of_its_own():
    """Catches a constant in double precision, which promotes single precision, and one in single precision."""
    constant = torch.tensor([1.5, 0.5, 1.0], dtype=torch.float64)
    with pytest.raises(
        AssertionError, match=r"in torch.float32: .*expected dtype torch.float32, got torch.float64|Double"
    ):
        check_potential(FunctionPotential(lambda z, t: (z * constant).sin().sum(-1)), dim=3)
    with pytest.raises(AssertionError, match=r"expected dtype torch.float64, got torch.float32"):
        check_potential(FunctionPotential(lambda z, t: z.float().sin().sum(-1)), dim=3)
    with pytest.raises(AssertionError, match=r"^time_derivative, .*: expected dtype torch.float64, got torch.float32"):
        check_potential(altered(time_derivative=lambda jet: jet.time_derivative.float()), dim=3)


@pytest.mark.parametrize(
    ("name", "where"),
    [("z", "forward"), ("t", "forward"), ("z", "jet_rule"), ("t", "jet_rule"), ("probes", "jet_rule")],
)
def test_inputs_changed_in_place(name, where):
    """Catches an in-place operation on what belongs to the caller."""

    class Vandal(Ripple):
        def forward(self, z, t):
            if where == "forward":
                {"z": z, "t": t}[name].mul_(2)
            return super().forward(z, t)

        def jet_rule(self, z, t, request):
            jet = super().jet_rule(z, t, request)
            if where == "jet_rule":
                {"z": z, "t": t, "probes": request.probes}[name].mul_(2)
            return jet

    with pytest.raises(AssertionError, match=rf"^{name}, {where}: expected the input as it was"):
        check_potential(Vandal(), dim=3)


def test_a_rule_that_needs_gradients_to_be_on():
    """Catches torch.autograd.grad inside a rule, which fails under torch.no_grad, where flows are evaluated."""

    class Backward(Ripple):
        def jet_rule(self, z, t, request):
            jet = super().jet_rule(z, t, request)
            z = z if z.requires_grad else z.detach().requires_grad_()
            return replace(jet, gradient=torch.autograd.grad(self(z, t).sum(), z, create_graph=True)[0])

    with pytest.raises(AssertionError, match=r"^jet_rule, under torch.no_grad: expected no error, got RuntimeError"):
        check_potential(Backward(), dim=3)


def test_a_rule_that_is_coarser_without_gradients():
    """Catches a rule that answers otherwise in evaluation than in training."""

    class Lazy(Ripple):
        def jet_rule(self, z, t, request):
            jet = super().jet_rule(z, t, request)
            return jet if torch.is_grad_enabled() else replace(jet, gradient=jet.gradient + 0.1)

    with pytest.raises(AssertionError, match=r"^gradient, under torch.no_grad: expected what it is otherwise"):
        check_potential(Lazy(), dim=3)


def test_times_that_are_not_expanded():
    """Catches a forward that joins z and t, and so fails for one time of all samples; the remedy is named."""

    class Joined(Potential):
        def forward(self, z, t):
            return torch.cat([z, t.unsqueeze(-1)], dim=-1).sin().sum(-1)

    with pytest.raises(
        AssertionError, match=r"^value, forward for t of shape \(\) \(see latentflow.calculus.expand_time"
    ):
        check_potential(Joined(), dim=3)


def test_a_clock_that_counts_samples():
    """Catches a time read off the first sample: with one time for all, nobody notices."""

    class First(Ripple):
        def phase(self, z, t):
            return z @ self.wave + 1.5 * (t if t.ndim == 0 else t.reshape(-1)[0])

    with pytest.raises(AssertionError, match="of the other samples, after the first one was moved"):
        check_potential(First(), dim=3)


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        (lambda z: z.ndim == 1, r"for the batch shape \(\)"),
        (lambda z: z.shape[0] == 0, r"for the batch shape \(0,\)"),
        (lambda z: z.ndim == 3, "for a batch shape of two dimensions"),
    ],
)
def test_batch_shapes_that_are_not_served(guard, message):
    """Catches a reshape that needs one batch dimension, and a mean over no samples."""

    class Picky(Ripple):
        def jet_rule(self, z, t, request):
            if guard(z):
                raise RuntimeError("shapes do not match")
            return super().jet_rule(z, t, request)

    with pytest.raises(
        AssertionError, match=rf"^jet_rule, {message}: expected no error, got RuntimeError: shapes do not"
    ):
        check_potential(Picky(), dim=3)


def test_a_bound_that_is_violated():
    """Catches a certificate that proves what is false."""

    class Boastful(Ripple):
        def lipschitz_gradient(self):
            return super().lipschitz_gradient() / 100

    with pytest.raises(AssertionError, match=r"^lipschitz_gradient: expected at least .*, an eigenvalue, got 0.0174"):
        check_potential(Boastful(), dim=3)


def test_not_a_number():
    """Catches a comparison that nan passes."""
    with pytest.raises(AssertionError, match=r"^laplacian, jet_rule: expected finite numbers, got nan at index \(0,\)"):
        check_potential(altered(laplacian=lambda jet: jet.laplacian * float("nan")), dim=3)


def test_a_rule_that_returns_something_else():
    """Catches a tuple in place of a jet."""

    class Tuple(Ripple):
        def jet_rule(self, z, t, request):
            return self(z, t), z

    with pytest.raises(AssertionError, match=r"^jet_rule, .* to return a Jet, got tuple"):
        check_potential(Tuple(), dim=3)
