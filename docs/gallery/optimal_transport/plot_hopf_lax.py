r"""
Straight lines solve an equation, until they meet
=================================================

A network that is trained under the Hamilton-Jacobi equation solves it approximately.
:class:`~latentflow.flow.HopfLaxFlow` solves it by construction. Given any potential :math:`u_0` at time 0, its points
move straight ahead, and the formula of Hopf and Lax gives the solution,

.. math::
    z_t = z_0 + t\, \nabla u_0(z_0), \qquad
    u(z, t) = \min_y \Bigl( u_0(y) + \frac{|z - y|^2}{2 t} \Bigr), \qquad
    \partial_t u + \tfrac12 |\nabla u|^2 = 0 .

No residual needs to be trained; one gradient and one Hessian of :math:`u_0` serve all times. The equation holds until
lines meet, which is when :math:`I + t \nabla^2 u_0` loses its positive definiteness: at the time
:math:`t^* = -1/\min \lambda_{\min}(\nabla^2 u_0)`. A convex :math:`u_0` has no such time.

On the line, with :math:`u_0(x) = -\tfrac12 \cos x`, that is :math:`u_0'' \ge -\tfrac12`, and :math:`t^* = 2`.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from latentflow import HJResidual, HopfLaxFlow

torch.manual_seed(0)


def u0(z: Tensor, t: Tensor) -> Tensor:
    """Evaluate the potential at time 0."""
    return -z[..., 0].cos() / 2


flow = HopfLaxFlow(u0).eval()
u = flow.potential

# %%
# The solution is a potential like any other. Its residual is zero, and its values are those of the minimum over a grid,
# computed without any of the library's means.

points, times = (
    (2 * torch.rand(200, 1).double() - 1) * 6,
    0.1 + 1.5 * torch.rand(200).double(),
)
assert HJResidual()(u, points, times).abs().max() < 1e-8

candidates = torch.linspace(-9, 9, 20_001).double()
costs = -candidates.cos() / 2 + (points - candidates).square() / (2 * times.unsqueeze(-1))
torch.testing.assert_close(u(points, times), costs.amin(-1), atol=1e-6, rtol=0)

# %%
# Lines do not meet before the time 2, and some have met soon after it.

starts = torch.linspace(-7, 7, 561).double().unsqueeze(-1)
before = flow.rollout(starts, steps=1, dt=1.99)
after = flow.rollout(starts, steps=1, dt=2.1, on_fold="ignore")
assert not before.folded.any()
assert after.folded.any()
print(f"{int(after.folded.sum())} of {len(starts)} lines have met others at t = 2.1")

# %%
# Left: the straight lines in space and time, and where they first meet. Right: the solution at six times.

figure, (lines, values) = plt.subplots(1, 2, sharex=True)
drawn = flow.rollout(starts[::8], steps=1, dt=3.0, on_fold="ignore")
for path in drawn.z.squeeze(-1).unbind(1):
    lines.plot(path, [0, 3], color="#2563eb", lw=0.8)
lines.axhline(2, color="#dc2626", ls="--", lw=1.2)
lines.text(-6.1, 2.06, "$t^* = 2$", color="#dc2626", backgroundcolor="white")
lines.set(xlabel="$x$", ylabel="time $t$", xlim=(-6.3, 6.3), ylim=(0, 3))
x = torch.linspace(-6.3, 6.3, 300).double().unsqueeze(-1)
for n, t in enumerate((0.0, 0.4, 0.8, 1.2, 1.6, 1.95)):
    values.plot(
        x,
        u(x, torch.full((300,), t).double()),
        color=plt.get_cmap("viridis")(n / 6),
        label=f"t = {t:g}",
    )
values.set(xlabel="$x$", ylabel="$u(x, t)$", ylim=(-0.55, 0.9))
values.legend(ncols=3, fontsize=8, loc="upper center", columnspacing=1)
plt.show()
