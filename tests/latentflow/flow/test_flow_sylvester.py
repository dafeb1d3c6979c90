"""The determinant at the width of the first layer against the one of the whole Hessian."""

import pytest
import torch
from strategies import close, network, randn

from latentflow import Derivative, FunctionPotential, PotentialBank, PotentialFlow, ResNetPotential, SlogDet

POTENTIALS = {
    "one layer": lambda: network(9, (4,), 1),
    "three layers": lambda: network(9, (3, 5, 4), 2),
    "residual": lambda: ResNetPotential(9, 4, 2, 2).double(),
    "scaled": lambda: -3.0 * network(9, (3, 5), 3),
    "selected": lambda: PotentialBank([network(9, (3, 5), k) for k in range(2)]).select(1),
}


@pytest.mark.parametrize("name", POTENTIALS)
@pytest.mark.parametrize("dt", [1.0, -0.5, 20.0])
def test_determinant_at_width(name, dt, monkeypatch):
    """Catches C G with the wrong factor, a fold that is missed or seen in the wrong sample, and a lost gradient."""
    torch.manual_seed(0)
    u = POTENTIALS[name]()
    hidden = FunctionPotential(lambda z, t: u(z, t))  # noqa: PLW0108 - hides the rule, so that the Hessian is dense
    z, results = 2 * randn(8, 9, seed=4), []
    weights = list(u.parameters())
    for field in (u, hidden):
        change = PotentialFlow(field).step(z, 0.4, dt, SlogDet()).determinant
        grads = torch.autograd.grad((change.log_det * torch.arange(1.0, 9.0)).sum(), weights, allow_unused=True)
        results.append((change, [torch.zeros_like(w) if g is None else g for g, w in zip(grads, weights, strict=True)]))
    (narrow, narrow_grads), (dense, dense_grads) = results
    close(narrow.log_det, dense.log_det)
    assert torch.equal(narrow.sign, dense.sign)
    assert torch.equal(narrow.folded, dense.folded)
    for one, other in zip(narrow_grads, dense_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_folds_are_seen_at_width():
    """Catches a check of the narrow matrix that is not that of I + h H: two eigenvalues below -1 give sign +1."""
    u = network(9, (4,), 1)
    with torch.no_grad():
        u.output.weight.mul_(100)
    z = randn(200, 9, seed=5)
    narrow = PotentialFlow(u).step(z, 0.0, 1.0, SlogDet()).determinant
    whole = PotentialFlow(u).step(z, 0.0, 1.0, SlogDet(eigenvalues=True)).determinant
    assert torch.equal(narrow.folded, whole.folded)
    assert narrow.folded.any()
    assert (narrow.folded & (narrow.sign > 0)).any()


def test_the_request_is_narrow_only_where_it_pays():
    """Catches factors wider than the points, or asked of a potential that has none."""
    z = randn(2, 9)
    for u, narrow in [(network(9, (9, 3), 0), False), (network(9, (8, 20), 0), True), (lambda z, t: z.sum(-1), False)]:
        request = SlogDet().request(u, z, 0.0)
        assert request.derivatives == (Derivative.INNER_HESSIAN if narrow else Derivative.HESSIAN)
    whole = SlogDet(eigenvalues=True).request(network(9, (8, 20), 0), z, 0.0)
    assert whole.derivatives == Derivative.HESSIAN
