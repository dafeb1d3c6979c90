r"""
The optimal map between two clouds, and a bracket around their distance
=======================================================================

Two clouds of points are given, and nothing says which point belongs to which.
:func:`~latentflow.transport.fit_transport` finds the map :math:`T(x) = x + \nabla u(x)` that carries the first
distribution to the second at the least cost :math:`W_2^2 = \min E\,|x - T(x)|^2`. It maximizes Kantorovich's dual,

.. math::
    \tfrac12 W_2^2 \;\ge\; E_{y}\, u(y, 1) - E_{x}\, u(x), \qquad
    u(y, 1) = \min_x \bigl( u(x) + \tfrac12 |x - y|^2 \bigr) .

The result is the map, its inverse, the flow between and the density that it makes; and a *certificate*, computed on
samples that nothing was trained on, which brackets the true distance: ``certificate.lower`` is a lower bound whatever
the potential is, ``certificate.upper`` an estimate of the other side.

The target here is the image of a normal distribution under a map that is known to be optimal, the gradient of a convex
function. So the truth is there to compare with, :math:`T(x) = x + 2 \tanh(2 x)`.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from latentflow import MLPPotential
from latentflow.transport import DualPotential, fit_transport

generator = torch.Generator().manual_seed(0)


def true_map(x: Tensor) -> Tensor:
    """Map points to four clouds, at the least cost."""
    return x + 2 * (2 * x).tanh()


x = torch.randn(3000, 2, generator=generator)
y = true_map(torch.randn(3000, 2, generator=generator))  # not paired with any point of x

# %%
# A small network and 150 steps on batches of 256; the defaults are larger, and make the bracket narrower. A fifth of
# the samples is held out.

torch.manual_seed(0)
potential = MLPPotential(2, (64, 64), activation=torch.nn.functional.silu, output_scale=0.1)
method = DualPotential(batch_size=256)
fitted = fit_transport(
    x, y, potential=potential, method=method, budget=150, generator=generator
)
certificate = fitted.certificate

# %%
# The truth lies within the bracket; the map is close to the true one, and its inverse undoes it.

x = torch.randn(20_000, 2, generator=generator)
true_cost = (true_map(x) - x).square().sum(-1).mean().item()
error = (fitted.map(x) - true_map(x)).square().sum(-1).mean().item()
print(
    f"W2^2 = {true_cost:.3f}, between {certificate.lower:.3f} and {certificate.upper:.3f}; error {error:.3f}"
)
assert certificate.lower < true_cost < certificate.upper
assert error < 0.05 * true_cost
few = x[:200]
torch.testing.assert_close(fitted.inverse(fitted.map(few)), few, atol=1e-2, rtol=1e-2)

# %%
# Points move along straight lines to one of the four clouds. Right: the bracket, and the dual value in the course of
# the training, on samples that are not trained on.

start, end = few.detach(), fitted.map(few).detach()
figure, (plane, values) = plt.subplots(1, 2, width_ratios=[1.15, 1])
for a, b in zip(start, end, strict=True):
    plane.plot(*torch.stack([a, b]).T, color="0.8", lw=0.7, zorder=0)
plane.plot(*start.T, ".", ms=4, label="source")
plane.plot(*end.T, ".", ms=4, label="$T(x)$")
plane.set(xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
plane.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2)
steps = [own.step for own in fitted.history]
values.axhspan(certificate.lower, certificate.upper, color="#bfdbfe", lw=0, label="bracket")
values.axhline(true_cost, color="0.3", ls="--", lw=1.2, label="true $W_2^2$")
values.plot(
    steps, [own.dual for own in fitted.history], "o-", ms=3, color="C1", label="dual value"
)
values.set(xlabel="step of training", ylabel="squared distance", ylim=(4, 6.2))
values.legend(loc="upper left", fontsize=9)
plt.show()
