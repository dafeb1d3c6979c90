"""The forward Laplacian of modules that have no rule of their own."""

from functools import partial

import pytest
import torch
from modules import CENTERS, DIM, MODULES, Normalized, build
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from latentflow import Exact, FunctionPotential, Potential, jet, laplacian
from latentflow.calculus import Derivative, JetRequest, UnknownOperationError, autodiff_jet, evaluate_jet, forward_jet


def forward_derivatives(u, z, t):
    found = forward_jet(u, z, t)
    return found.value, found.gradient, found.time_derivative, found.laplacian


def points(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, DIM, generator=generator, dtype=torch.float64)
    return z, torch.rand(count, generator=generator, dtype=torch.float64)


class Plain(TorchFunctionMode):
    """Computes normalized layers by their formula: the third derivative of torch 2.13's own is wrong."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not torch.nn.functional.layer_norm:
            return func(*args, **(kwargs or {}))
        x, (weight, bias, eps) = args[0], args[2:] or [kwargs[name] for name in ("weight", "bias", "eps")]
        centered = x - x.mean(-1, keepdim=True)
        return centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def by_reverse_mode(u, z, t):
    """Value, gradient, time derivative and Laplacian by plain backward passes, one for each coordinate."""
    with Plain(), sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        return backward_passes(u, z, t)


def backward_passes(u, z, t):
    z, t = z.clone().requires_grad_(), t.clone().requires_grad_()
    value = u(z, t)
    gradient, rate = torch.autograd.grad(value.sum(), (z, t), create_graph=True, materialize_grads=True)
    total = torch.zeros_like(value)
    for i in range(z.shape[-1]):
        if gradient.requires_grad:
            own = torch.autograd.grad(gradient[:, i].sum(), z, create_graph=True, materialize_grads=True)[0]
            total = total + own[:, i]
    return value, gradient, rate, total


def weights_of(u):
    return list(u.parameters()) if isinstance(u, nn.Module) else []


@pytest.mark.parametrize("name", MODULES)
def test_it_is_the_laplacian_by_reverse_mode(name):
    """Catches a wrong rule of any operation: value, gradient, rate or second derivatives, and what is not lifted."""
    u, (z, t) = build(name), points()
    for ours, theirs in zip(forward_derivatives(u, z, t), by_reverse_mode(u, z, t), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in MODULES if weights_of(build(name))])
def test_its_parameter_gradient_is_that_by_reverse_mode(name):
    """Catches a derivative that is detached from the weights, and the wrong one of torch through ``layer_norm``."""
    u, (z, t) = build(name), points(seed=1)
    found = []
    for parts in (forward_derivatives(u, z, t), by_reverse_mode(u, z, t)):
        loss = sum((part * (place + 1)).sin().sum() for place, part in enumerate(parts))
        found.append(torch.autograd.grad(loss, weights_of(u), materialize_grads=True))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["Residual", "Mixture", "pairs"])
def test_it_is_differentiable_in_the_point(name):
    """Catches a Laplacian whose derivative in the point, the third of the field, is zero or in part."""
    u, (z, t) = build(name), points(2)
    assert torch.autograd.gradcheck(lambda z, t: laplacian(u, z, t), (z.requires_grad_(), t.requires_grad_()))


def test_the_gradient_through_a_normalized_layer_is_that_of_differences():
    """Catches the fault of torch 2.13, in which the forward mode of ``layer_norm`` loses a part of the gradient."""
    u, (z, t) = build("Normalized"), points()
    weight, step = u.first.weight, 1e-5
    found = torch.autograd.grad(laplacian(u, z, t).sum(), weight)[0][0, 0]
    ends = []
    for sign in (1, -1):
        moved = Normalized().double()
        moved.load_state_dict(u.state_dict())
        with torch.no_grad():
            moved.first.weight[0, 0] += sign * step
        ends.append(laplacian(moved, z, t).sum())
    torch.testing.assert_close(found, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["Normalized", "Transformer", "ManyHeads", "ManyHeads, fused"])
@pytest.mark.parametrize("derivative", [Derivative.LAPLACIAN, Derivative.HESSIAN])
def test_reverse_mode_computes_layers_by_their_formulas(name, derivative):
    """Catches the wrong third derivative of ``layer_norm``, and fused attention, where no rule carries forward."""
    u, (z, t) = build(name), points(2)
    found = []
    for jets in (forward_jet(u, z, t), autodiff_jet(u, z, t, JetRequest(derivative))):
        hessian = jets.second.get(Derivative.HESSIAN)
        trace = jets.laplacian if hessian is None else hessian.diagonal(dim1=-2, dim2=-1).sum(-1)
        found.append((trace, *torch.autograd.grad(trace.sum(), weights_of(u), materialize_grads=True)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "options", [{"is_causal": True}, {"attn_mask": "boolean"}, {"attn_mask": "added"}, {"scale": 0.3}]
)
def test_masked_attention_is_that_of_torch(options):
    """Catches a mask that is upside down or added where it selects, in value and in Laplacian."""
    mask = torch.tensor([[True, False, True], [True, True, False], [False, True, True]])
    masks = {
        "boolean": mask,
        "added": torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)),
    }
    given = {name: masks.get(value, value) for name, value in options.items()}

    def field(z, t):
        x = z.reshape(-1, 1, 3, 2)
        return F.scaled_dot_product_attention(x, x.sin(), x, **given).sum((1, 2, 3)) * t

    z, t = points()
    with sdpa_kernel(SDPBackend.MATH):
        expected = backward_passes(field, z, t)
    torch.testing.assert_close(forward_derivatives(field, z, t), expected)
    torch.testing.assert_close(autodiff_jet(field, z, t, JetRequest(Derivative.LAPLACIAN)).laplacian, expected[3])


def test_batches_of_any_shape():
    """Catches directions that are taken for a dimension of the batch."""
    u, (z, t) = build("Residual"), points(6)
    flat = forward_derivatives(u, z, t)
    for shape in ((), (2, 3), (1, 6), (0,)):
        count = torch.Size(shape).numel()
        found = forward_derivatives(u, z[:count].reshape(*shape, DIM), t[:count].reshape(shape))
        for ours, theirs in zip(found, flat, strict=True):
            torch.testing.assert_close(ours, theirs[:count].reshape((*shape, *theirs.shape[1:])))


def test_an_operation_without_a_rule_falls_back():
    """Catches a field that cannot be evaluated any more, and a wrong result of what has no rule."""

    def cubic(z, t):
        return z.cumprod(-1)[..., -1] * t

    z, t = points()
    with pytest.raises(UnknownOperationError, match="cumprod"):
        forward_derivatives(cubic, z, t)
    torch.testing.assert_close(laplacian(cubic, z, t), torch.zeros(4, dtype=torch.float64))
    others = torch.stack([z[:, torch.arange(DIM) != i].prod(-1) for i in range(DIM)], -1)
    torch.testing.assert_close(jet(cubic, z, t).gradient, others * t[:, None])


@pytest.mark.parametrize("derivative", [Derivative.LAPLACIAN, Derivative.HESSIAN], ids=["carried", "torch.func"])
def test_distances_to_centers_have_second_derivatives(derivative):
    """Catches the ``cdist`` of torch 2.13, which has no second derivative, and a distance from other points."""
    z, t = points()

    def bumps(z, t, distances=torch.cdist):
        return torch.exp(-distances(z, CENTERS.to(z)).square()).sum(-1) * t

    found = evaluate_jet(bumps, z, t, JetRequest(derivative))
    expected = by_reverse_mode(lambda z, t: bumps(z, t, lambda x, y: (x[:, None] - y).norm(dim=-1)), z, t)
    torch.testing.assert_close(found.gradient, expected[1])
    trace = found.laplacian if derivative is Derivative.LAPLACIAN else found.hessian.diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(trace, expected[3])


def scripted():
    """A network that TorchScript has compiled, and the network."""
    network = nn.Sequential(nn.Linear(DIM, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0)).double()
    return torch.jit.script(network), network


REFUSED = "u: expected operations of torch, got TorchScript"


def test_second_derivatives_through_torch_script_are_refused():
    """Catches a Laplacian of zero, which torch 2.13 gives from the second call of a compiled network on."""
    z, t = points()
    compiled, network = scripted()
    for _ in range(3):
        with torch.no_grad():
            found = jet(lambda z, t: compiled(z), z, t, laplacian=None)
        torch.testing.assert_close(found.gradient, by_reverse_mode(lambda z, t: network(z), z, t)[1])
        with pytest.raises(TypeError, match=REFUSED):
            laplacian(lambda z, t: compiled(z), z, t)
        with pytest.raises(TypeError, match=REFUSED):
            evaluate_jet(Timeless(compiled), z, t, JetRequest(Derivative.HESSIAN))


class Timeless(nn.Module):
    """A network as a field."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, z, t):
        return self.network(z)


class Holder:
    """A network as a field that is no module."""

    def __init__(self, network):
        self._networks = [network]

    def __call__(self, z, t):
        return self._networks[0](z)

    def field(self, z, t):
        return self(z, t)


def nested(network):
    def inner(z):
        return network(z)

    return lambda z, t: inner(z) * t


@pytest.mark.parametrize(
    "field",
    [
        Timeless,
        lambda network: Timeless(nn.Sequential(network)),
        lambda network: lambda z, t: network(z),
        lambda network: eval("lambda z, t: network(z)", {"network": network}),  # of its globals
        lambda network: lambda z, t, own=network: own(z),
        lambda network: lambda z, t, *, own=network: own(z),
        lambda network: partial(lambda own, z, t: own(z), network),
        lambda network: FunctionPotential(lambda z, t: network(z)),
        Holder,
        lambda network: Holder(network).field,
        nested,
    ],
    ids=[
        *("module", "part", "closure", "global", "default", "keyword", "partial", "potential", "object", "method"),
        "nested",
    ],
)
def test_torch_script_is_found_wherever_a_field_holds_it(field):
    """Catches a Hessian of zero, and a gradient that a loss cannot be differentiated through: torch 2.13 records no
    graph of a compiled network from its second call on, so that its weights would not learn."""
    z, t = points()
    compiled, network = scripted()
    with torch.no_grad(), pytest.raises(TypeError, match=REFUSED):
        evaluate_jet(field(compiled), z, t, JetRequest(Derivative.HESSIAN))
    with pytest.raises(TypeError, match=REFUSED):
        evaluate_jet(field(compiled), z, t, JetRequest())
    assert evaluate_jet(field(network), z, t, JetRequest(Derivative.HESSIAN)).hessian.abs().max() > 0


def stopped(z, t):
    with torch.no_grad():
        scale = z.square() + 1
    return (scale * z).sum(-1) * t


class Reversed(torch.autograd.Function):
    """A square whose derivative has the other sign."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return -2 * ctx.saved_tensors[0] * grad

    @staticmethod
    def jvp(ctx, tangent):
        return -2 * ctx.saved_tensors[0] * tangent


@pytest.mark.parametrize("recording", [True, False])
@pytest.mark.parametrize("field", [stopped, lambda z, t: Reversed.apply(z).sum(-1) * t], ids=["stopped", "reversed"])
def test_gradients_that_a_field_changes_stay_changed(field, recording):
    """Catches a Laplacian of operations below ``no_grad``, or inside of a function with a derivative of its own."""
    z, t = points()
    with torch.set_grad_enabled(recording):
        found = jet(field, z, t)
    torch.testing.assert_close(found.gradient, by_reverse_mode(field, z, t)[1])
    expected = autodiff_jet(field, z, t, JetRequest(Derivative.LAPLACIAN))
    torch.testing.assert_close(found.laplacian, expected.laplacian)
    with pytest.raises(UnknownOperationError), torch.set_grad_enabled(recording):
        forward_jet(field, z, t)


@pytest.mark.parametrize("shape", [(4099,), (3, 1400), (1400, 3)], ids=str)
def test_many_points_are_carried_in_pieces(shape):
    r"""Catches a piece with the points or times of another one, and a last piece that is dropped.

    The field has a weight for each sample, so that pieces of it fit no piece of the weights; of :math:`w |z|^2 t` the
    Laplacian is :math:`2 w t \dim`.
    """
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(*shape, DIM, generator=generator, dtype=torch.float64)
    t, w = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    calls = []

    def field(z, t, w=1.0):
        calls.append(len(z))
        return z.square().sum(-1) * t * w

    pieced = forward_jet(field, z, t)
    assert sum(calls) == shape[0]
    assert max(calls) < shape[0]
    torch.testing.assert_close(pieced.value, z.square().sum(-1) * t)
    torch.testing.assert_close(pieced.gradient, 2 * z * t[..., None])
    torch.testing.assert_close(pieced.time_derivative, z.square().sum(-1))
    torch.testing.assert_close(pieced.laplacian, 2 * t * DIM)
    whole = forward_jet(lambda z, t: field(z, t, w), z, t)
    torch.testing.assert_close(whole.laplacian, 2 * w * t * DIM)
    torch.testing.assert_close(whole.gradient, 2 * z * (w * t)[..., None])


def in_place(z, t):
    squares = z.square()
    return (squares.add_(z) * squares).sum(-1) * t


@pytest.mark.parametrize(
    "field",
    [
        lambda z, t: torch.nn.functional.pad(z, (0, 1), value=2.0).square().sum(-1) * t,
        lambda z, t: z.square().sum(-1) * t.to(torch.int64) + z.sum(-1).where(z[:, 0] > 0, t),
        lambda z, t: torch.nn.functional.elu(z * 2, 1.0, True).sum(-1) * t,
        lambda z, t: laplacian(lambda x, s: (x**3 * z).sum(-1), z, t),
        in_place,
        lambda z, t: torch.from_numpy(z.detach().numpy()).sum(-1) + z.sum(-1) * t,
        torch.vmap(lambda x, s: x.square().sum() * s),
        lambda z, t: t * 0 + 1,
        lambda z, t: torch.ones_like(t),
    ],
    ids=[
        "padded",
        "integers",
        "in place, by place",
        "nested",
        "in place",
        "numpy",
        "vmap",
        "time only",
        "constant",
    ],
)
def test_unusual_fields_are_those_of_reverse_mode(field):
    """Catches memory that is written in place, and results that do not depend on the point."""
    z, t = points()
    try:
        expected = by_reverse_mode(field, z, t)
    except RuntimeError:  # of a constant
        expected = (
            torch.ones(4).double(),
            torch.zeros(4, DIM).double(),
            torch.zeros(4).double(),
            torch.zeros(4).double(),
        )
    found = jet(field, z, t)
    for ours, theirs in zip(
        (found.value, found.gradient, found.time_derivative, found.laplacian), expected, strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_errors_of_the_field_are_its_own():
    """Catches a mistake of a user that is hidden by the fallback, or said in words of ours."""

    def broken(z, t):
        return z @ torch.zeros(DIM + 1, dtype=z.dtype)

    with pytest.raises(RuntimeError, match=r"size mismatch|inconsistent"):
        laplacian(broken, *points())
    with pytest.raises(ValueError, match=r"u: expected u\(z, t\) to return shape"):
        laplacian(lambda z, t: z, *points())


def test_a_potential_without_a_rule_carries_forward_too():
    """Catches a subclass of Potential that always goes by torch.func."""
    seen = []

    class Bowl(Potential):
        def forward(self, z, t):
            seen.append(type(z).__name__)
            return z.square().sum(-1) * t

    z, t = points()
    torch.testing.assert_close(laplacian(Bowl() * 0.5, z, t), DIM * t)
    assert seen == ["Carried"]


def test_it_is_what_exact_uses():
    """Catches a fallback that is always taken."""
    seen = []

    def field(z, t):
        seen.append(type(z).__name__)
        return z.square().sum(-1) * t

    z, t = points()
    evaluate_jet(field, z, t, Exact().request(field, z, t))
    assert seen == ["Carried"]
    evaluate_jet(field, z, t, JetRequest(Derivative.HESSIAN))
    assert "Carried" not in seen[1:]
