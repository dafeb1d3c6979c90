r"""
Five priors: what a latent is expected to be, and when
======================================================

A prior of the library is a callable ``prior(t, k)`` that returns a ``torch.distributions.Distribution``: what is
expected of a latent at the time ``t``, under the transformation ``k``. Three ideas come with it.

*Diffusion*: the uncertainty grows with time. :class:`~latentflow.priors.DiffusionPrior` solves the heat equation from
the standard normal, and :class:`~latentflow.priors.DiffusedPrior` from any mixture of normals, in closed form,

.. math::
    \partial_t p = D \Delta p , \qquad
    p_0 = \sum_i w_i N(\mu_i, \Sigma_i) \;\Rightarrow\; p_t = \sum_i w_i N(\mu_i, \Sigma_i + 2 D t\, I) .

*Mixtures*: :class:`~latentflow.priors.MixturePrior` learns its components, and :class:`~latentflow.priors.VampPrior`
takes them from an encoder, :math:`p(z) = \frac1N \sum_n q(z | v_n)` at learnable inputs :math:`v_n`. The encoder here
is as simple as one can be: the two principal components of the digits of scikit-learn, with a fixed variance.

*Flows*: :class:`~latentflow.priors.TransportedPrior` moves a prior along a potential, so that a posterior that flows
with it has the same divergence from it at every time.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from latentflow import (
    DiffusionPrior,
    GaussianPrior,
    MixturePrior,
    QuadraticPotential,
    TransportedPrior,
    VampPrior,
)
from latentflow.pde import LinearFokkerPlanckResidual, LogFokkerPlanckResidual
from latentflow.priors import DiffusedPrior

torch.manual_seed(0)
images = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16
pixels = images.flatten(1)
axes_of_images = torch.linalg.svd(pixels - pixels.mean(0), full_matrices=False).Vh[:2]


def encode(x: Tensor) -> Distribution:
    """Encode images by their two principal components."""
    return Independent(Normal((x.flatten(1) - pixels.mean(0)) @ axes_of_images.T, 0.25), 1)


mixture = MixturePrior(2, components=4, generator=torch.Generator().manual_seed(2))
with torch.no_grad():
    mixture.mean.mul_(3.0)
    mixture.log_scale.sub_(0.8)
saddle = QuadraticPotential(2, torch.diag(torch.tensor([0.35, -0.3])))
shown = {
    "DiffusionPrior, t = 0": (DiffusionPrior(2, diffusivity=0.1), 0.0),
    "DiffusionPrior, t = 8": (DiffusionPrior(2, diffusivity=0.1), 8.0),
    "MixturePrior": (mixture, 0.0),
    "DiffusedPrior, t = 2": (DiffusedPrior(mixture, diffusivity=0.1), 2.0),
    "TransportedPrior, t = 2": (TransportedPrior(GaussianPrior(2), saddle), 2.0),
    "VampPrior of 12 digits": (VampPrior(encode, images[:12]), 0.0),
}

# %%
# The heat equation is one of the residuals of the library, so the claim of the diffused priors is one line to check,
# for the density and for its logarithm.

diffused = (
    DiffusedPrior(mixture, diffusivity=0.1).double().requires_grad_(requires_grad=False)
)
z, t = 2 * torch.randn(200, 2).double(), 3 * torch.rand(200).double()
D = diffused.diffusivity.item()
heat = LinearFokkerPlanckResidual(D)(lambda z, t: diffused(t).log_prob(z).exp(), z, t)
log_heat = LogFokkerPlanckResidual(D)(lambda z, t: diffused(t).log_prob(z), z, t)
assert heat.abs().max() < 1e-10
assert log_heat.abs().max() < 1e-10

# %%
# A transported normal distribution is again one, with the variance of two steps of the saddle.

moved = TransportedPrior(GaussianPrior(2), saddle)(t=2.0)
expected = Independent(Normal(torch.zeros(2), torch.tensor([1.35**2, 0.7**2])), 1)
torch.testing.assert_close(moved.log_prob(z.float()), expected.log_prob(z.float()))

line = torch.linspace(-4, 4, 120)
grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
figure, axes = plt.subplots(2, 3, sharex=True, sharey=True, figsize=(7.4, 5.2))
for axis, (name, (prior, time)) in zip(axes.flat, shown.items(), strict=True):
    with torch.no_grad():
        axis.contourf(
            line, line, prior(t=time).log_prob(grid).exp(), levels=14, cmap="Blues"
        )
    axis.set_title(name, fontsize=10)
    axis.set_aspect("equal")
    axis.label_outer()
axes[1, 2].plot(*encode(images[::6]).mean.T, ".", color="#dc2626", ms=1.5)
figure.supxlabel("$z_1$")
figure.supylabel("$z_2$")
plt.show()
