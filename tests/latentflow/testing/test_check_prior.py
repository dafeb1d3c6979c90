"""The check of priors passes the library's own and catches planted bugs."""

import pytest
import torch
from closed_forms import net
from torch import nn
from torch.distributions import (
    Categorical,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)
from torch.distributions.transforms import AffineTransform

from latentflow import (
    ODE,
    DiffusionPrior,
    GaussianPrior,
    MixturePrior,
    MLPEncoder,
    PotentialBank,
    TransportedPrior,
    VampPrior,
)
from latentflow.priors import DiffusedPrior
from latentflow.testing import check_prior

SHAPE = (1, 2, 2)


def seeded(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def vamp(dim):
    return VampPrior(MLPEncoder(SHAPE, dim, (6,)), torch.rand(4, *SHAPE))


def bank(dim):
    return PotentialBank([0.1 * net(dim, 0), 0.1 * net(dim, 9)])


GOOD = {
    "gaussian": (lambda: GaussianPrior(2), 2, 1),
    "diffusion": (lambda: DiffusionPrior(2, 2), 2, 2),
    "diffusion in six dimensions": (lambda: DiffusionPrior(6, 2), 6, 2),
    "mixture": (lambda: MixturePrior(2, 3), 2, 1),
    "mixture in six dimensions": (lambda: MixturePrior(6, 3), 6, 1),
    "vamp": (lambda: vamp(2), 2, 1),
    "diffused mixture": (lambda: DiffusedPrior(MixturePrior(1, 3), 3), 1, 3),
    "diffused vamp": (lambda: DiffusedPrior(vamp(1), 2), 1, 2),
    "transported gaussian": (lambda: TransportedPrior(GaussianPrior(1), bank(1)), 1, 2),
    "transported mixture": (lambda: TransportedPrior(MixturePrior(1, 3), 0.1 * net(1, 0)), 1, 1),
    "along an equation": (
        lambda: TransportedPrior(
            DiffusedPrior(MixturePrior(1, 3)).prior, 0.1 * net(1, 0), ODE("rk4", options={"step_size": 0.5})
        ),
        1,
        1,
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_keeps_the_contract_passes(name):
    """Catches a false alarm."""
    build, dim, fields = GOOD[name]
    check_prior(seeded(build), dim, fields)


def test_other_ways_to_call_it_pass():
    """Catches a check that needs float64, or the caller's module."""
    prior = seeded(lambda: DiffusionPrior(1, 2))
    prior.train()
    check_prior(prior, 1, 2, times=(0.5, 3.0), dtype=torch.float32)
    assert prior.training
    assert prior.raw.dtype == torch.float32
    assert prior.raw.grad is None


class Spread(nn.Module):
    """N(0, s^2 (1 + t) I) with a learnable s of each field, and a place for a bug."""

    dim = 2

    def __init__(self, fields=1):
        super().__init__()
        self.raw = nn.Parameter(torch.linspace(0.1, 0.5, fields))

    def variance(self, t, k):
        time = torch.as_tensor(t).to(self.raw)
        index = 0 if k is None else k
        return self.raw[index].exp() * (1 + time)

    def forward(self, t=0.0, k=None):
        scale = self.variance(t, k).sqrt().unsqueeze(-1).expand(*self.variance(t, k).shape, self.dim)
        return self.law(torch.zeros_like(scale), scale)

    def law(self, mean, scale):
        return Independent(Normal(mean, scale), 1)


class Unnormalised(Independent):
    def log_prob(self, value):
        return super().log_prob(value) + 0.02


class MissingNormaliser(Spread):
    """Mass e^0.02."""

    def law(self, mean, scale):
        return Unnormalised(Normal(mean, scale), 1)


class MissingNormaliserInMany(MissingNormaliser):
    """Mass e^0.02 cannot be seen by sampling: a larger one is."""

    dim = 5

    def law(self, mean, scale):
        return Heavy(Normal(mean, scale), 1)


class Heavy(Independent):
    def log_prob(self, value):
        return super().log_prob(value) + 0.3


class WrongSamples(Independent):
    def sample(self, sample_shape=()):
        return 1.15 * super().sample(sample_shape)


class OtherSamples(Spread):
    """Samples of another scale."""

    def law(self, mean, scale):
        return WrongSamples(Normal(mean, scale), 1)


class OtherSamplesInMany(OtherSamples):
    dim = 5


class Sheared(Independent):
    def sample(self, sample_shape=()):
        z = super().sample(sample_shape)
        return torch.stack([z[..., 0], 0.9 * z[..., 0] + 0.19**0.5 * z[..., 1]], -1)


class Correlated(Spread):
    """Samples with the right variances and a correlation."""

    def law(self, mean, scale):
        return Sheared(Normal(mean, scale), 1)


class TooManyEvents(Spread):
    def law(self, mean, scale):
        return Normal(mean, scale)


class SharedTime(Spread):
    """The first time for all."""

    def variance(self, t, k):
        return super().variance(torch.as_tensor(t).flatten()[0], k)


class LastField(Spread):
    """An index that counts for one point only."""

    def variance(self, t, k):
        return super().variance(t, k.flatten()[0] if isinstance(k, torch.Tensor) else k)


class Dead(Spread):
    """A square that starts at zero."""

    def variance(self, t, k):
        return 1 + self.raw[0].sub(self.raw[0].detach()).square() + 0 * torch.as_tensor(t).to(self.raw)


class Detached(Spread):
    def variance(self, t, k):
        return super().variance(t, k).detach()


class Unused(Spread):
    def __init__(self):
        super().__init__()
        self.spare = nn.Parameter(torch.ones(3))


class CutSamples(Spread):
    def law(self, mean, scale):
        return Cut(Normal(mean, scale), 1)


class Cut(Independent):
    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape).detach()


class Infinite(Independent):
    def log_prob(self, value):
        return super().log_prob(value) / (value[..., 0].abs() > 0.01)


class NotFinite(Spread):
    def law(self, mean, scale):
        return Infinite(Normal(mean, scale), 1)


class DefaultDtype(Spread):
    """A float32 density in float64."""

    def law(self, mean, scale):
        return Independent(Normal(mean.float(), scale.float()), 1)


class Random(Spread):
    """Another density each time."""

    def variance(self, t, k):
        return super().variance(t, k) * (1 + 0.01 * torch.rand(()))


class NoTensors(Spread):
    """A time that may only be a number."""

    def variance(self, t, k):
        return self.raw[0].exp() * (1 + float(t)) + 0 * self.raw.sum()


class NoDistribution(Spread):
    def law(self, mean, scale):
        return mean


class GradientsOnly(Spread):
    """Needs gradients, and fails without."""

    def law(self, mean, scale):
        if not scale.requires_grad:
            raise RuntimeError("no graph")
        return super().law(mean, scale)


@pytest.mark.parametrize("fields", [1, 3])
def test_the_healthy_form_of_the_planted_bugs_passes(fields):
    """Catches bugs that are caught for another reason than their own."""
    check_prior(Spread(fields), 2, fields)


@pytest.mark.parametrize(
    ("prior", "fields", "message"),
    [
        (MissingNormaliser(), 1, r"^log_prob, t = 0: expected mass 1 within .* got 1\.02"),
        (MissingNormaliserInMany(), 1, r"^log_prob, t = 0: expected mass 1 within .* got 1\.3"),
        (
            OtherSamples(),
            1,
            r"^sample, t = 0: expected the moments .* for the square of the sum, got .* standard error",
        ),
        (OtherSamplesInMany(), 1, r"^sample, t = 0: expected the moments .* standard error"),
        (Correlated(), 1, r"^sample, t = 0: expected the moments .* for the square of the sum"),
        (TooManyEvents(), 1, r"^event_shape, t = 0: expected \(2,\), got \(\)"),
        (SharedTime(), 1, r"^log_prob, for t of shape \(times, 1\).* expected what each point gives alone"),
        (LastField(3), 3, r"^log_prob, for t of shape \(times, 1\).* expected what each point gives alone"),
        (Dead(), 1, "^raw: expected a gradient of log_prob, got zero"),
        (Detached(), 1, "^raw: expected a gradient of log_prob, got none"),
        (Unused(), 1, "^spare: expected a gradient of log_prob, got none"),
        (CutSamples(), 1, "^rsample, t = 0: expected samples that carry gradients"),
        (NotFinite(), 1, "^log_prob, t = 0: expected finite numbers, got"),
        (DefaultDtype(), 1, "^sample, t = 0: expected dtype torch.float64, got torch.float32"),
        (Random(), 1, "^log_prob, .*: expected what"),
        (NoTensors(), 1, "^prior, for t of shape .*: expected no error"),
        (NoDistribution(), 1, "^prior, t = 0: expected a Distribution, got Tensor"),
        (GradientsOnly(), 1, "expected no error, got RuntimeError: no graph"),
    ],
)
def test_planted_bugs_are_caught(prior, fields, message):
    """Catches a check that looks at nothing: each kind of bug has its own message."""
    with pytest.raises(AssertionError, match=message):
        check_prior(prior, prior.dim, fields)


class Lopsided(nn.Module):
    """Two far components whose samples come in other shares than the density says."""

    def forward(self, t=0.0, k=None):
        weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
        means = torch.tensor([[-8.0], [8.0]], dtype=torch.float64)
        law = MixtureSameFamily(Categorical(weights), Independent(Normal(means, 1.0), 1))
        law.sample = lambda shape: MixtureSameFamily(
            Categorical(weights.flip(0)), Independent(Normal(means, 1.0), 1)
        ).sample(shape)
        return law


def test_shares_of_far_components_are_compared():
    """Catches a comparison of scores alone, which does not see the weights."""
    with pytest.raises(AssertionError, match="for the mean of coordinate 0"):
        check_prior(Lopsided(), 1)


def laplace(t, k=None):
    time = torch.as_tensor(t, dtype=torch.float64)
    scale = (1 + time / 2).unsqueeze(-1)
    return Independent(Laplace(torch.zeros_like(scale), scale), 1)


def correlated(t, k=None):
    covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
    return MultivariateNormal(torch.zeros(2, dtype=torch.float64), covariance)


def shifted(t, k=None):
    start = Independent(Normal(torch.zeros(3, dtype=torch.float64), 1.0), 1)
    return TransformedDistribution(start, AffineTransform(3.0, 2.0, event_dim=1))


@pytest.mark.parametrize(("prior", "dim"), [(laplace, 1), (correlated, 2), (shifted, 3)])
def test_functions_and_other_distributions_pass(prior, dim):
    """Catches a check that needs a module, a normal distribution, uncorrelated coordinates or parameters."""
    check_prior(prior, dim)


def test_the_global_generator_is_restored():
    """Catches a check that seeds the caller's randomness."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_prior(GaussianPrior(1), 1)
    assert torch.equal(torch.rand(3), expected)


def test_one_time_is_refused():
    """Catches a comparison of times that compares nothing."""
    with pytest.raises(ValueError, match=r"^times: expected two or more, got 1"):
        check_prior(GaussianPrior(1), 1, times=[0.0])
