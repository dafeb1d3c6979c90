r"""
The Laplacian three ways: exact, by probes, and by Hutch++
==========================================================

The density along a flow needs the Laplacian of the potential, the trace of a Hessian :math:`H` of size
:math:`d \times d`. :class:`~latentflow.calculus.Exact` computes it without an error.
:class:`~latentflow.calculus.Hutchinson` draws random vectors :math:`v_i` with :math:`E\,v v^\top = I` and averages

.. math:: \Delta u \approx \frac1m \sum_{i=1}^m v_i^\top H v_i , \qquad
    \text{variance } \frac2m \Bigl(\|H\|_F^2 - \sum_i H_{ii}^2\Bigr)

for entries :math:`\pm 1`. Its price grows less with :math:`d` than that of the exact trace, and its error falls
only as :math:`1/\sqrt m`. :class:`~latentflow.calculus.HutchPlusPlus` spends two thirds of its products on the
directions in which :math:`H` is large, and is exact where the rank of :math:`H` is at most :math:`m/3`.

All three are unbiased. A random one is for training: the logarithm of an average is not the average of logarithms, so
that noise biases a reported likelihood, and a flow in evaluation mode refuses it.
"""

import time

import matplotlib.pyplot as plt
import torch

from latentflow import Exact, Hutchinson, MLPPotential, hessian, laplacian
from latentflow.calculus import HutchPlusPlus

torch.manual_seed(0)
u = MLPPotential(dim=64, hidden=(16,), output_scale=20.0).double()
z = torch.randn(1, 64).double()

# %%
# The network has one hidden layer of 16, so the rank of its Hessian is at most 16, and 48 products of Hutch++ suffice.
# Each estimate is repeated at 4,000 copies of one point, which draw probes of their own.

probes = [3, 6, 12, 24, 48, 96]
copies = z.expand(4000, 64)
with torch.no_grad():
    H = hessian(u, z, 0.5)[0]
    truth = laplacian(u, z, 0.5, Exact())
    errors = {
        estimator.__name__: [
            (laplacian(u, copies, 0.5, estimator(m)) - truth).square().mean().sqrt()
            for m in probes
        ]
        for estimator in (Hutchinson, HutchPlusPlus)
    }
theory = [(2 / m * (H.square().sum() - H.diagonal().square().sum())).sqrt() for m in probes]

# %%
# The exact value is the trace, the error of Hutchinson's estimate is what the formula says, and Hutch++ is exact from
# 48 products on.

torch.testing.assert_close(truth[0], H.trace())
for error, expected in zip(errors["Hutchinson"], theory, strict=True):
    assert abs(error / expected - 1) < 0.08
assert max(errors["HutchPlusPlus"][4:]) < 1e-10 * truth.abs()

# %%
# What it costs, for networks of width 64 at 256 points: the time of one evaluation on the machine that built this page.


def milliseconds(dim: int, estimator: Exact | Hutchinson | HutchPlusPlus) -> float:
    """Measure the shortest of five evaluations."""
    network, points, taken = MLPPotential(dim, (64, 64)), torch.randn(256, dim), []
    with torch.no_grad():
        for _ in range(5):
            start = time.perf_counter()
            laplacian(network, points, 0.5, estimator)
            taken.append(time.perf_counter() - start)
    return 1000 * min(taken)


dims = [4, 16, 64, 256, 1024]
names = {
    "exact": Exact(),
    "Hutchinson, 1 probe": Hutchinson(1),
    "Hutch++, 3 products": HutchPlusPlus(3),
}
costs = {
    name: [milliseconds(dim, estimator) for dim in dims]
    for name, estimator in names.items()
}

# %%
# The exact Laplacian of a network of this kind costs no more than its width asks for: from 64 coordinates on it is
# computed at the width, and only the first layer grows.

figure, (accuracy, price) = plt.subplots(1, 2)
accuracy.loglog(probes, theory, color="0.7", lw=5, label="formula")
accuracy.loglog(probes, errors["Hutchinson"], "o-", label="Hutchinson")
accuracy.loglog(probes[:4], errors["HutchPlusPlus"][:4], "s-", label="Hutch++")
accuracy.text(
    0.02,
    0.05,
    "Hutch++ is exact\nfrom 48 products on",
    transform=accuracy.transAxes,
    fontsize=9,
)
accuracy.set(xlabel="products with the Hessian $m$", ylabel="root mean square error")
accuracy.set_xticks(probes, probes)
accuracy.minorticks_off()
accuracy.legend()
for name, values in costs.items():
    price.loglog(dims, values, "o-", label=name)
price.set(xlabel="coordinates $d$", ylabel="milliseconds for 256 points")
price.set_xticks(dims, dims)
price.minorticks_off()
price.legend(fontsize=9)
plt.show()
