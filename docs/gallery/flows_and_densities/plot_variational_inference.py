r"""
A flow as a torch distribution bends into a banana
==================================================

What :meth:`~latentflow.flow.Flow.push_forward` returns is a ``torch.distributions.Distribution``: it
samples, differentiates through its samples, has an exact density, and works where torch expects a distribution, also
in ``kl_divergence`` and in ``TransformedDistribution``.

Variational inference needs exactly this. A posterior is known up to a constant by its density :math:`p`, and a flow
:math:`q` is fitted to it by raising the lower bound

.. math:: E_{z \sim q} [\log p(z) - \log q(z)] = \log Z - KL(q \| p / Z) \le \log Z .

``rsample_and_log_prob`` draws samples and their log-density in one pass, without an inversion. The target here is a
banana, a normal distribution bent along a parabola, whose constant is known, :math:`\log Z = 0`: so the bound is at
most zero, and it says how far the fit is.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from latentflow import Euler, MLPPotential, PotentialFlow

torch.manual_seed(0)


def log_banana(z: Tensor) -> Tensor:
    """Compute the log-density of a normal distribution that is bent along a parabola."""
    x, y = z.unbind(-1)
    return Normal(0.0, 1.2).log_prob(x) + Normal(0.6 * x.square() - 1, 0.45).log_prob(y)


# %%
# The flow starts from a standard normal, makes four steps, and is trained for 150 steps of Adam on 256 samples each.

base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
u, times = MLPPotential(2, hidden=(32, 32)), torch.linspace(0, 1, 5)
flow = PotentialFlow(u)
q = flow.push_forward(base, times, Euler(), on_fold="ignore")
optimizer = torch.optim.Adam(u.parameters(), lr=2e-2)
bounds = []
for _ in range(150):
    z, log_q = q.rsample_and_log_prob((256,))
    bound = (log_banana(z) - log_q).mean()
    optimizer.zero_grad()
    (-bound).backward()
    optimizer.step()
    bounds.append(bound.item())

# %%
# The bound on fresh samples is below zero, up to the error of their mean. For two distributions that the same flow has
# moved, ``kl_divergence`` has a closed form: a map that is one to one does not change the divergence.

flow.eval()
with torch.no_grad():
    z, log_q = q.rsample_and_log_prob((4096,))
    terms = log_banana(z) - log_q
error = terms.std() / 4096**0.5
print(f"bound {terms.mean():.4f} with a standard error of {error:.4f}")
assert terms.mean() < 3 * error
assert terms.mean() > -0.1

other = Independent(Normal(torch.ones(2), torch.ones(2)), 1)
moved = flow.push_forward(other, times, Euler(), on_fold="ignore")
same = flow.push_forward(base, times, Euler(), on_fold="ignore")
torch.testing.assert_close(kl_divergence(same, moved), kl_divergence(base, other))

x, y = torch.meshgrid(
    torch.linspace(-3.6, 3.6, 140), torch.linspace(-2.8, 4.2, 140), indexing="xy"
)
figure, (plane, training) = plt.subplots(1, 2, width_ratios=[1.2, 1])
levels = [0.002, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3]
plane.contourf(x, y, log_banana(torch.stack([x, y], -1)).exp(), levels=levels, cmap="Blues")
plane.plot(*z[:500].T, ".", ms=2.5, color="#dc2626", label="samples of the flow")
plane.set(
    xlabel="$z_1$",
    ylabel="$z_2$",
    title="target density (blue)",
    xlim=(-3.6, 3.6),
    ylim=(-2.8, 4.2),
)
plane.legend(loc="upper center")
training.axhline(0, color="0.7")
training.plot(bounds)
training.set(xlabel="step of training", ylabel=r"bound on $\log Z = 0$", ylim=(-3, 0.3))
plt.show()
