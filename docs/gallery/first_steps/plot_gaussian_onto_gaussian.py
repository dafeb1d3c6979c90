r"""
A Gaussian moves onto another along straight lines
==================================================

A potential :math:`u(z, t)` moves points with the velocity :math:`\nabla u`. If it solves the Hamilton-Jacobi equation

.. math:: \partial_t u + \tfrac12 |\nabla u|^2 = 0 ,

every point keeps its velocity, so that paths are straight lines, and the flow is an optimal transport: no other flow
between the same two distributions pays a smaller action :math:`E \int |\nabla u|^2 \, dt`.

Between two Gaussians the potential is known in closed form, which makes them the best first test of anything that moves
distributions. :func:`~latentflow.transport.gaussian_transport_potential` builds it, and
:class:`~latentflow.flow.PotentialFlow` follows it. On the left are points and what the closed form says of them at five
times; on the right the action that the flow has paid by then, which ends at the squared Wasserstein distance.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch.distributions import MultivariateNormal

from latentflow import (
    HJResidual,
    PotentialFlow,
    gaussian_transport_potential,
    gaussian_wasserstein2,
)

m0, S0 = (
    torch.tensor([-2.5, 0.0]).double(),
    torch.tensor([[0.4, 0.25], [0.25, 0.6]]).double(),
)
m1, S1 = (
    torch.tensor([2.5, 0.5]).double(),
    torch.tensor([[0.9, -0.7], [-0.7, 1.1]]).double(),
)
u = gaussian_transport_potential(m0, S0, m1, S1)

# %%
# Points of the first Gaussian follow the flow for four steps. The points are shifted and scaled so that their mean and
# covariance are exactly :math:`m_0` and :math:`S_0`; then no error of sampling is left in what follows.

generator = torch.Generator().manual_seed(0)
noise = torch.randn(400, 2, generator=generator).double()
noise = noise - noise.mean(0)
noise = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.mT @ noise / len(noise))).mT
z0 = m0 + noise @ torch.linalg.cholesky(S0).mT

trajectory = PotentialFlow(u).eval().rollout(z0, steps=4, dt=0.25)

# %%
# Four facts, each to rounding: the equation holds; the density carried along is that of the second Gaussian, by
# :math:`\log q_1(z_1) = \log q_0(z_0) - \log|\det \partial z_1 / \partial z_0|`; the points have its covariance; and
# the action is :math:`W_2^2`.

source, target = MultivariateNormal(m0, S0), MultivariateNormal(m1, S1)
carried = source.log_prob(z0) - trajectory.log_det[-1]
distance = gaussian_wasserstein2(m0, S0, m1, S1, squared=True)

assert HJResidual()(u, trajectory.z[2], 0.5).abs().max() < 1e-12
torch.testing.assert_close(carried, target.log_prob(trajectory.z[-1]))
torch.testing.assert_close(trajectory.z[-1].T.cov(correction=0), S1)
torch.testing.assert_close(trajectory.action[-1].mean(), distance)
print(f"W2^2 = {distance:.6f}, action = {trajectory.action[-1].mean():.6f}")

# %%
# The ellipses are two standard deviations of the closed form, ``u.interpolate``; the points know nothing of it.

angle = torch.linspace(0, 2 * math.pi, 100).double()
circle = 2 * torch.stack([angle.cos(), angle.sin()], dim=-1)
colors = plt.get_cmap("viridis")([0.0, 0.22, 0.45, 0.68, 0.9])

figure, (plane, costs) = plt.subplots(1, 2, width_ratios=[2.4, 1])
for n in range(0, 400, 8):
    plane.plot(*trajectory.z[:, n].T, color="0.8", lw=0.6, zorder=0)
for t, z, color in zip(trajectory.times.tolist(), trajectory.z, colors, strict=True):
    normal = u.interpolate(source, t)
    ellipse = normal.loc + circle @ normal.scale_tril.mT
    plane.plot(*ellipse.T, color=color, label=f"t = {t:g}")
    plane.plot(*z.T, ".", color=color, ms=2, alpha=0.5)
plane.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
plane.legend(
    loc="upper center",
    bbox_to_anchor=(0.5, 1.14),
    ncols=5,
    handlelength=1,
    fontsize=9,
    columnspacing=1,
)
costs.plot([0, 1], [0, distance], color="0.6", label="$t \\, W_2^2$")
costs.plot(
    trajectory.times,
    trajectory.action.mean(-1),
    "o",
    color=colors[1],
    label="action so far",
)
costs.set(ylim=(0, 31), xlabel="time $t$", ylabel=r"$E\int |\nabla u|^2 dt$")
costs.legend()
plt.show()
