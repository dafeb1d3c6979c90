r"""
One distance, four ways: closed form, assignment, Sinkhorn, the line
====================================================================

The Wasserstein distance :math:`W_2` is the root of the least mean squared way by which one distribution becomes
another, :math:`W_2^2(P, Q) = \min_\pi E_\pi |x - y|^2`. What to call depends on what is known:

* Gaussians: a closed form, :func:`~latentflow.transport.gaussian_wasserstein2`,

  .. math::
      W_2^2 = |m_1 - m_0|^2 + \operatorname{tr}\bigl(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\bigr) ;

* two clouds of points: :func:`~latentflow.transport.wasserstein2`, a debiased entropic estimate by Sinkhorn's
  iterations, with weights, gradients and batches; between as many points on both sides it is close to the best
  assignment;
* points on the line: :func:`~latentflow.transport.wasserstein2_1d`, exact, by sorting. The distance of a projection
  never exceeds that of the clouds.

Between *samples* the distance is larger than between their distributions, and the more so the more coordinates there
are. The picture shows how much: six pairs of samples of each size, against the closed form.
"""

import matplotlib.pyplot as plt
import torch
from scipy.optimize import linear_sum_assignment

from latentflow import gaussian_wasserstein2, wasserstein2
from latentflow.transport import wasserstein2_1d

generator = torch.Generator().manual_seed(0)
sizes, repeats = [16, 32, 64, 128], 6

# %%
# The second Gaussian is shifted by one and twice as wide in its first coordinate. In two and in eight coordinates:

found = {}
for dim in (2, 8):
    scales = torch.ones(dim).double()
    scales[0] = 2.0
    m0, m1 = torch.zeros(dim).double(), torch.zeros(dim).double()
    m1[0] = 1.0
    exact = gaussian_wasserstein2(m0, torch.eye(dim).double(), m1, torch.diag(scales**2))
    sinkhorn, assignment, line = [], [], []
    for n in sizes:
        x = torch.randn(repeats, n, dim, generator=generator).double()
        y = m1 + scales * torch.randn(repeats, n, dim, generator=generator).double()
        sinkhorn.append(wasserstein2(x, y, blur=0.01, scaling=0.9))
        costs = torch.cdist(x, y).square()
        best = [cost[linear_sum_assignment(cost)].mean().sqrt() for cost in costs]
        assignment.append(torch.stack(best))
        line.append(wasserstein2_1d(x[..., 0], y[..., 0]))
    found[dim] = (exact, torch.stack(sinkhorn), torch.stack(assignment), torch.stack(line))

# %%
# The facts: the shift and the stretch have :math:`W_2^2 = 1 + 1`; Sinkhorn's estimate is near the assignment; a
# projection is never farther; and samples are farther from each other than their distributions.

for dim, (exact, sinkhorn, assignment, line) in found.items():
    torch.testing.assert_close(exact, torch.tensor(2.0).double().sqrt())
    torch.testing.assert_close(sinkhorn, assignment, atol=0.02, rtol=0.01)
    assert (line <= assignment + 1e-9).all()
    assert assignment.mean(-1)[0] > exact
    print(
        f"dim {dim}: W2 = {exact:.3f}; between {sizes[-1]} samples {assignment.mean(-1)[-1]:.3f}"
    )

figure, axes = plt.subplots(1, 2, sharey=True)
for axis, (dim, (exact, sinkhorn, assignment, line)) in zip(
    axes, found.items(), strict=True
):
    for values, label, marker, color in (
        (assignment, "assignment", "s", "C3"),
        (sinkhorn, "Sinkhorn", "o", "C0"),
        (line, "first coordinate", "^", "C2"),
    ):
        axis.semilogx(
            sizes,
            values.mean(-1),
            marker + "-",
            color=color,
            label=label,
            base=2,
            ms=9 if marker == "s" else 5,
        )
        axis.fill_between(sizes, *values.aminmax(dim=-1), color=color, alpha=0.12, lw=0)
    axis.axhline(exact, color="0.4", ls="--", label="closed form")
    axis.set(title=f"{dim} coordinates", xlabel="samples on each side")
    axis.set_xticks(sizes, sizes)
axes[0].set_ylabel("$W_2$")
axes[0].legend(fontsize=9, loc="upper right")
plt.show()
