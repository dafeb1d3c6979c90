"""The distributions of pixels against quadrature and formulas."""

import math

import numpy as np
import pytest
import torch
from closed_forms import generator, normal
from torch.nn.functional import binary_cross_entropy_with_logits

from latentflow.vae import BernoulliLikelihood, ContinuousBernoulliLikelihood, GaussianLikelihood, LaplaceLikelihood

LIKELIHOODS = (BernoulliLikelihood(), ContinuousBernoulliLikelihood(), GaussianLikelihood(0.3), LaplaceLikelihood(0.2))
LOGITS = (-30.0, -12.0, -3.0, -0.3, -1e-3, -1e-9, 0.0, 1e-5, 3.9e-3, 4.1e-3, 0.5, 5.0, 20.0)


def quadrature(low, high, count=200):
    """The nodes and weights of Gauss and Legendre's rule on an interval."""
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(count))
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2


def one_pixel(likelihood, decoded, x):
    """The density of one pixel at all values ``x``."""
    decoded = torch.tensor(decoded, dtype=x.dtype).expand(len(x), 1, 1, 1)
    return likelihood(decoded).log_prob(x.reshape(-1, 1, 1, 1)).exp()


def picture(likelihood, decoded):
    return likelihood(torch.full((1, 1, 1), decoded, dtype=torch.float64)).mean.item()


@pytest.mark.parametrize("logit", LOGITS)
def test_the_continuous_bernoulli_density_has_mass_one_and_its_mean(logit):
    """Catches the cross-entropy without its constant, and lambda for the mean; tolerance 1e-7."""
    x, weights = quadrature(0.0, 1.0)
    density = one_pixel(ContinuousBernoulliLikelihood(), logit, x)
    assert (density * weights).sum().item() == pytest.approx(1.0, abs=1e-7)
    mean = picture(ContinuousBernoulliLikelihood(), logit)
    assert (density * x * weights).sum().item() == pytest.approx(mean, abs=1e-7)


@pytest.mark.parametrize("logit", [0.4, 3.0, -8.0])
def test_the_continuous_bernoulli_density_in_closed_form(logit):
    """Catches a constant that depends on the pixel, and x for 1 - x: the density is l exp(l x) / (exp(l) - 1)."""
    x = torch.linspace(0, 1, 9, dtype=torch.float64)
    expected = logit * (logit * x).exp() / math.expm1(logit)
    torch.testing.assert_close(one_pixel(ContinuousBernoulliLikelihood(), logit, x), expected, rtol=1e-10, atol=1e-12)
    mean = 1 / (1 - math.exp(-logit)) - 1 / logit
    assert picture(ContinuousBernoulliLikelihood(), logit) == pytest.approx(mean, rel=1e-10)


@pytest.mark.parametrize("logit", [-80.0, -25.0, -15.0, 12.0, 15.0, 15.7, 25.0, 80.0])
def test_certain_pixels_are_finite_and_hardly_too_probable(logit):
    """Catches infinities of certain decoders, and a mass in single precision above one by more than 1 - p rounds to."""
    x, weights = quadrature(0.0, 1.0)
    decoded = torch.full((len(x), 1, 1, 1), logit).requires_grad_()
    log_density = ContinuousBernoulliLikelihood()(decoded).log_prob(x.float().reshape(-1, 1, 1, 1))
    assert torch.isfinite(log_density).all()
    assert (log_density.double().exp() * weights).sum() < 1.03
    log_density.sum().backward()
    assert torch.isfinite(decoded.grad).all()


def test_bernoulli_pixels_cost_their_cross_entropy():
    """Catches probabilities for logits, a mean over pixels, and a density where training wants the cross-entropy."""
    decoded, x = 4 * normal(0, 5, 2, 3, 2), torch.rand(5, 2, 3, 2, generator=generator(1), dtype=torch.float64)
    distribution = BernoulliLikelihood()(decoded)
    expected = -binary_cross_entropy_with_logits(decoded, x, reduction="none").sum((1, 2, 3))
    torch.testing.assert_close(distribution.log_prob(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(distribution.mean, decoded.sigmoid(), rtol=1e-12, atol=1e-12)
    both = one_pixel(BernoulliLikelihood(), 1.7, torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert both.sum().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("scale", [0.05, 1.0, 3.0])
def test_gaussian_pixels_have_mass_one_mean_and_variance(scale):
    """Catches a variance for a standard deviation, and a missing constant."""
    x, weights = quadrature(0.4 - 10 * scale, 0.4 + 10 * scale)
    density = one_pixel(GaussianLikelihood(scale), 0.4, x)
    assert (density * weights).sum().item() == pytest.approx(1.0, abs=1e-10)
    assert picture(GaussianLikelihood(scale), 0.4) == pytest.approx(0.4, abs=1e-15)
    assert (density * weights * (x - 0.4).square()).sum().item() == pytest.approx(scale**2, rel=1e-10)


@pytest.mark.parametrize("scale", [0.02, 0.1, 1.5])
def test_laplace_pixels_have_mass_one_and_their_scale_is_the_mean_distance(scale):
    """Catches a rate for a scale, a missing constant, and logits for the picture."""
    centre = picture(LaplaceLikelihood(scale), -0.7)
    assert centre == pytest.approx(1 / (1 + math.exp(0.7)), rel=1e-12)
    halves = [quadrature(centre - 40 * scale, centre), quadrature(centre, centre + 40 * scale)]  # smooth on each
    x, weights = (torch.cat(parts) for parts in zip(*halves, strict=True))
    density = one_pixel(LaplaceLikelihood(scale), -0.7, x)
    assert (density * weights).sum().item() == pytest.approx(1.0, abs=1e-10)
    assert (density * weights * (x - centre).abs()).sum().item() == pytest.approx(scale, rel=1e-10)


def test_the_best_laplace_picture_is_the_median():
    """Catches a squared distance: of pixels 0, 0 and 1 the best picture is dark, not a third."""
    x = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
    logits = torch.linspace(-12, 12, 97, dtype=torch.float64)
    costs = [-LaplaceLikelihood(0.1)(logit.expand(3, 1, 1, 1)).log_prob(x).sum() for logit in logits]
    assert torch.stack(costs).argmin() == 0


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_pixels_are_independent_and_an_image_is_one_event(likelihood):
    """Catches rows or colors that are left in the batch, and a mean for a sum over pixels."""
    decoded, x = normal(2, 4, 3, 2, 3, 2), torch.rand(4, 3, 2, 3, 2, generator=generator(3), dtype=torch.float64)
    distribution = likelihood(decoded)
    assert distribution.batch_shape == (4, 3)
    assert distribution.event_shape == (2, 3, 2)
    assert distribution.mean.shape == decoded.shape
    alone = likelihood(decoded.reshape(-1, 1, 1, 1)).log_prob(x.reshape(-1, 1, 1, 1)).reshape(x.shape)
    torch.testing.assert_close(distribution.log_prob(x), alone.sum((2, 3, 4)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gradients_of_pixels(likelihood):
    """Catches a detached parameter, against finite differences."""
    decoded, x = normal(4, 2, 1, 2, 2).requires_grad_(), torch.rand(2, 1, 2, 2, generator=generator(5)).double()
    assert torch.autograd.gradcheck(lambda d: likelihood(d).log_prob(x), decoded)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(scale):
    """Catches a message that does not name the argument."""
    with pytest.raises(ValueError, match=r"^scale: expected a positive number"):
        GaussianLikelihood(scale)
    with pytest.raises(ValueError, match=r"^scale: expected a positive number"):
        LaplaceLikelihood(scale)
