"""A linear-Gaussian model whose latents flow, in which every evidence is known."""

import math
from dataclasses import dataclass

import torch
from closed_forms import normal
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from latentflow import DiffusionPrior, FlowVAE, PotentialBank, QuadraticPotential
from latentflow.vae import GaussianLikelihood
from latentflow_experiments.methods.proposals import FromFlow
from latentflow_experiments.metrics.likelihood import UnitGaussian, measure_log_likelihood

DIM, SHAPE, STEPS, FIELDS = 2, (1, 2, 2), 2, 2
PIXELS = math.prod(SHAPE)
WEIGHT = torch.linalg.qr(normal(0, PIXELS, DIM)).Q @ torch.tensor([1.5, 0.8], dtype=torch.float64).diag()
FLOWS = (torch.tensor([1.2, 0.9], dtype=torch.float64), torch.tensor([0.8, 1.3], dtype=torch.float64))
near = {"rtol": 1e-10, "atol": 1e-10}


@dataclass(frozen=True)
class Frames:
    """Sequences held in memory, of shape (fields, images, T+1, *SHAPE)."""

    frames: torch.Tensor

    @property
    def names(self):
        return tuple(f"move {k}" for k in range(len(self.frames)))

    @property
    def steps(self):
        return self.frames.shape[2] - 1

    @property
    def shape(self):
        return tuple(self.frames.shape[3:])

    def starts(self, k):
        return torch.arange(self.frames.shape[1])

    def sequence(self, indices, k):
        return self.frames[k, indices]


def sequences(images, seed=5):
    """Frames near the images of latents that follow the flows."""
    moved = normal(seed, FIELDS, images, 1, DIM)
    moved = moved * torch.stack([torch.stack([f**t for t in range(STEPS + 1)]) for f in FLOWS]).unsqueeze(1)
    pixels = moved @ WEIGHT.mT + 0.3 * normal(seed + 1, FIELDS, images, STEPS + 1, PIXELS)
    return Frames(pixels.reshape(*pixels.shape[:-1], *SHAPE))


class Linear(nn.Module):
    """Decodes a latent as W z."""

    def forward(self, z):
        return (z @ WEIGHT.mT).reshape(-1, *SHAPE)


def diagonal(mean, variance):
    return Independent(Normal(mean, variance.sqrt()), 1)


def posterior(x, variance):
    """The posterior of z ~ N(0, variance I) from x = W z + noise, exact and diagonal since W'W is."""
    precision = (WEIGHT.mT @ WEIGHT).diagonal() + 1 / torch.as_tensor(variance, dtype=torch.float64).unsqueeze(-1)
    mean = x.flatten(-3) @ WEIGHT / precision
    return diagonal(mean, (1 / precision).expand_as(mean))


def evidence(x, variance):
    covariance = variance * WEIGHT @ WEIGHT.mT + torch.eye(PIXELS, dtype=torch.float64)
    return MultivariateNormal(torch.zeros(PIXELS, dtype=torch.float64), covariance).log_prob(x.flatten(-3))


def widened(x):
    """A proposal that is not the posterior: off its mean, and wider."""
    exact = posterior(x, 1.0)
    return diagonal(exact.mean + 0.1, 1.6 * exact.variance)


def build(encoder=widened, potentials=None, **options):
    flows = [QuadraticPotential(DIM, f.diag() - torch.eye(DIM, dtype=torch.float64)) for f in FLOWS]
    return FlowVAE(
        encoder=encoder,
        decoder=options.pop("decoder", Linear()),
        bank=PotentialBank(potentials or flows),
        prior=options.pop("prior", None) or DiffusionPrior(DIM, FIELDS, diffusivity=0.2).double(),
        residual=None,
        likelihood=options.pop("likelihood", None) or GaussianLikelihood(),
        **options,
    ).eval()


def measure(model, data, kind, **options):
    options = {"observations": (UnitGaussian(),)} | options
    return measure_log_likelihood(model.decode, lambda k: kind(model, k), data, **options)


def variances(model, k):
    return [1 + 2 * model.prior.diffusivity[k].item() * t for t in range(STEPS + 1)]


def laws(model, data, kind, k, t):
    """The evidence of each frame, and the laws of the proposal and of the posterior, in closed form."""
    frames, variance = data.frames[k], variances(model, k)[t]
    proposal = widened(frames[:, t])
    if kind is FromFlow:
        start = widened(frames[:, 0])
        proposal = diagonal(start.mean * FLOWS[k] ** t, start.variance * FLOWS[k] ** (2 * t))
    return evidence(frames[:, t], variance), proposal, posterior(frames[:, t], variance)
