"""Inputs and oracles that the tests share: everything is float64 and built from an integer seed."""

import torch
from hypothesis import strategies as st
from torch import nn

from latentflow import Derivative, Jet, MLPPotential
from latentflow.calculus import JetRequest

BATCHES = [(), (1,), (5,), (2, 3), (0,)]

dims = st.integers(1, 6)
seeds = st.integers(0, 2**31 - 1)
batches = st.sampled_from(BATCHES)


def randn(*shape, seed=0):
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rand(*shape, seed=0):
    """Uniform numbers in [0, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(dim, seed=0):
    """A symmetric matrix that is neither diagonal nor traceless."""
    matrix = randn(dim, dim, seed=seed)
    return (matrix + matrix.mT) / 2


def orthogonal(dim, seed=0):
    """An orthogonal matrix."""
    return torch.linalg.qr(randn(dim, dim, seed=seed)).Q


def network(dim, hidden=(7, 5), seed=0, activation=torch.tanh, embedding=None):
    """A network whose weights, the output's too, are of order one, so that every term of a derivative shows."""
    u = MLPPotential(dim, hidden, time_embedding=embedding, activation=activation).double()
    with torch.no_grad():
        for i, parameter in enumerate(u.parameters()):
            parameter.copy_(randn(*parameter.shape, seed=seed + i) / (parameter.shape or (1,))[-1] ** 0.5)
    return u


def close(actual, expected, tolerance=1e-11):
    """Agreement up to roundoff, of shapes and dtypes too."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def request_of(probes=None, **wanted):
    """A request for the second derivatives that are wanted by name; with probes, their forms as well."""
    derivatives = Derivative(0) if probes is None else Derivative.QUADRATIC
    for name, yes in wanted.items():
        derivatives |= Derivative[name.upper()] if yes else Derivative(0)
    return JetRequest(derivatives, probes)


def jet_of(value, gradient, time_derivative, **second):
    """A jet with second derivatives by name, without those that are None."""
    known = {Derivative[name.upper()]: field for name, field in second.items() if field is not None}
    return Jet(value, gradient, time_derivative, known)


def held(jet, name):
    """A field of a jet by name, or None if the jet does not hold it."""
    if name in ("value", "gradient", "time_derivative"):
        return getattr(jet, name)
    return jet.second.get(Derivative[name.upper()])


FIELDS = ["value", "gradient", "time_derivative", "laplacian", "hessian", "quadratic"]


def jets_close(actual, expected, tolerance=1e-11):
    """Agreement of two jets, field by field."""
    for name in FIELDS:
        a, b = held(actual, name), held(expected, name)
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(
                a, b, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
            )


def reference_jet(u, z, t, probes=None):
    """All derivatives by reverse over reverse mode, one sample at a time: no batch, no forward mode, no rule."""
    batch, dim = z.shape[:-1], z.shape[-1]
    points, times = z.reshape(-1, dim), torch.as_tensor(t, dtype=z.dtype).expand(batch).reshape(-1)

    def each(function, *shape):
        rows = [function(a, b) for a, b in zip(points, times, strict=True)]
        return torch.stack(rows).reshape((*batch, *shape)) if rows else z.new_zeros(*batch, *shape)

    jacrev = torch.func.jacrev
    hessian = each(jacrev(jacrev(u)), dim, dim)
    quadratic = None if probes is None else torch.einsum("...pi,...ij,...pj->...p", probes, hessian, probes)
    trace = hessian.diagonal(dim1=-2, dim2=-1).sum(-1)
    first = each(u), each(jacrev(u), dim), each(jacrev(u, argnums=1))
    return jet_of(*first, laplacian=trace, hessian=hessian, quadratic=quadratic)


def opaque(u):
    """The same field without its rule, so that it is differentiated automatically."""

    def field(z, t):
        return u(z, t)

    return field


class Well(nn.Module):
    """A plain module u(z, t), not a potential: it has no rule of its own."""

    def __init__(self, depth=1.5):
        super().__init__()
        self.depth = nn.Parameter(torch.tensor(depth, dtype=torch.float64))

    def forward(self, z, t):
        return -self.depth * (1 + t) * torch.exp(-z.square().sum(-1) / 2)


def wave(z, t):
    """A callable that couples every coordinate with every other one and with the time."""
    return torch.sin(z.sum(-1) + t) + z.pow(3).sum(-1) * t.square() / 3


ALL_FIELDS = [*FIELDS, "products", "second_time_derivative", "gradient_time_derivative"]


def full_request(probes):
    """Every tensor field of a jet."""
    return request_of(probes, **dict.fromkeys(ALL_FIELDS[3:], True))


def full_reference_jet(u, z, t, probes):
    """Every tensor field of a jet by reverse over reverse mode, one sample at a time."""
    batch, dim = z.shape[:-1], z.shape[-1]
    points, times = z.reshape(-1, dim), torch.as_tensor(t, dtype=z.dtype).expand(batch).reshape(-1)
    jacrev = torch.func.jacrev

    def each(function, *shape):
        rows = [function(a, b) for a, b in zip(points, times, strict=True)]
        return torch.stack(rows).reshape((*batch, *shape)) if rows else z.new_zeros(*batch, *shape)

    first = reference_jet(u, z, t, probes)
    first = first.including(Derivative.PRODUCTS, torch.einsum("...ij,...pj->...pi", first.hessian, probes))
    first = first.including(Derivative.SECOND_TIME_DERIVATIVE, each(jacrev(jacrev(u, argnums=1), argnums=1)))
    return first.including(Derivative.GRADIENT_TIME_DERIVATIVE, each(jacrev(jacrev(u), argnums=1), dim))


def all_fields_close(actual, expected, tolerance=1e-11):
    """Agreement of every tensor field of two jets that answer the full request."""
    for name in ALL_FIELDS:
        a, b = getattr(actual, name), getattr(expected, name)
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}")
