"""Divergences of push-forwards and priors by torch.distributions.kl_divergence."""

import math

import pytest
import torch
from closed_forms import net, normal, spd
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from latentflow import (
    ODE,
    DiffusionPrior,
    GaussianPrior,
    MLPPotential,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
)
from latentflow.flow import Euler, HopfLaxFlow
from latentflow.priors import DiffusedPrior, MixturePrior, TransportedPrior

p = MultivariateNormal(normal(0, 2), spd(2, 0))
q = MultivariateNormal(normal(1, 2), spd(2, 1))


def test_the_divergence_of_one_linear_map_is_that_of_its_images():
    """Catches a determinant that enters twice, and a map taken for another one."""
    matrix = spd(2, 2, -0.5, 0.5)
    flow = PotentialFlow(QuadraticPotential(2, matrix))
    step = torch.eye(2, dtype=torch.float64) + matrix
    images = [MultivariateNormal(step @ each.loc, step @ each.covariance_matrix @ step.mT) for each in (p, q)]
    found = kl_divergence(*(flow.push_forward(each, [0.0, 1.0], Euler()) for each in (p, q)))
    torch.testing.assert_close(found, kl_divergence(*images))


@pytest.mark.parametrize("scheme", [Euler(), ODE()])
def test_the_divergence_of_a_network_is_the_mean_of_the_log_ratio(scheme):
    """Catches a divergence in the wrong direction: it agrees with samples of the first."""
    flow = PotentialFlow(net(2, 0) * 0.3)
    laws = [flow.push_forward(each, [0.0, 0.5], scheme) for each in (p, q)]
    z = laws[0].sample((400,))
    ratio = (laws[0].log_prob(z) - laws[1].log_prob(z)).detach()
    found = kl_divergence(*laws).detach()
    assert float((ratio.mean() - found).abs()) < 4 * float(ratio.std()) / 20
    torch.testing.assert_close(found, kl_divergence(p, q))
    q.loc.requires_grad_()
    slope = torch.autograd.grad(kl_divergence(*laws), q.loc)[0]
    torch.testing.assert_close(slope, torch.autograd.grad(kl_divergence(p, q), q.loc)[0])
    q.loc.requires_grad_(False)


def test_other_maps_have_no_closed_form():
    """Catches a divergence of the bases where the maps differ."""
    flow, other = PotentialFlow(net(2, 0)), HopfLaxFlow(net(2, 0))
    one = flow.push_forward(p, [0.0, 1.0], Euler())
    for law in (
        flow.push_forward(q, [0.0, 2.0], Euler()),
        flow.push_forward(q, [0.0, 1.0], ODE()),
        PotentialFlow(net(2, 0)).push_forward(q, [0.0, 1.0], Euler()),
        other.push_forward(q, [0.0, 1.0], Euler()),
    ):
        with pytest.raises(NotImplementedError, match="expected push-forwards by the same flow"):
            kl_divergence(one, law)
    for pair in ((one, q), (p, one), (one, flow.push_forward(MixturePrior(2)(), [0.0, 1.0], Euler()))):
        with pytest.raises(NotImplementedError):
            kl_divergence(*pair)


def test_transported_priors_of_one_bank():
    """Catches priors that share their potentials and are taken for different maps, or the reverse."""
    bank = PotentialBank([MLPPotential(2, (4,)) for _ in range(2)])
    start, wide = GaussianPrior(2), DiffusedPrior(GaussianPrior(2), diffusivity=0.5)
    k, t = torch.tensor([0, 1, 1]), torch.tensor([2.0, 0.0, 1.0])
    one, other = TransportedPrior(start, bank), TransportedPrior(lambda t, k: wide(1.0), bank)
    expected = kl_divergence(start(), wide(1.0)).expand(3)
    torch.testing.assert_close(kl_divergence(one(t, k), other(t, k)), expected)
    with pytest.raises(NotImplementedError, match="expected push-forwards"):
        kl_divergence(one(t, k), other(t, 1 - k))
    with pytest.raises(NotImplementedError, match="expected push-forwards"):
        kl_divergence(one(t, k), other(t + 1, k))


def test_normal_priors():
    """Catches a prior whose distribution hides its closed form."""
    narrow, wide = GaussianPrior(3)(), DiffusionPrior(3, diffusivity=0.5)(3.0)  # N(0, I) and N(0, 4 I)
    torch.testing.assert_close(kl_divergence(narrow, wide), torch.tensor(1.5 * (0.25 - 1 + math.log(4))))
    full = DiffusedPrior(lambda t, k: MultivariateNormal(torch.zeros(3), torch.eye(3)), diffusivity=0.5)
    torch.testing.assert_close(kl_divergence(full(0.0), full(3.0)), kl_divergence(narrow, wide))
    with pytest.raises(NotImplementedError):
        kl_divergence(MixturePrior(3)(), narrow)
    assert kl_divergence(Independent(Normal(torch.zeros(4, 3), torch.ones(4, 3)), 1), wide).shape == (4,)
