r"""
Two flows to the same Gaussian, and the certificate that tells them apart
=========================================================================

Both flows below carry the same Gaussian to the same Gaussian. One of them is the optimal transport, and the other one
squeezes along one axis first and along another one then, which turns the points. A likelihood cannot tell them apart.
The cost can, by the theorem of Benamou and Brenier: every flow between two distributions pays at least

.. math:: (t_T - t_0) \int E\, |\nabla u|^2 \, dt \;\ge\; W_2^2 .

:func:`~latentflow.transport.transport_certificate` needs a trajectory and its potential, and nothing about the
distributions. It brackets the distance between the ends of the flow,

.. math:: \text{dual} \le \text{lower} \le W_2^2 \le \text{displacement} \le \text{cost} ,

where the displacement is the mean of :math:`|z_T - z_0|^2`, and the dual bound comes from Kantorovich's duality with
the flow's own potential. Where both ends meet, the flow is *proved* to be optimal on its samples.
"""

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from latentflow import (
    PotentialFlow,
    gaussian_transport_potential,
    gaussian_wasserstein2,
    transport_certificate,
)

generator = torch.Generator().manual_seed(0)
eye, zero = torch.eye(2).double(), torch.zeros(2).double()
squeeze = torch.diag(torch.tensor([2.6, 0.4]).double())
turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double() / 2**0.5
first, second = squeeze - eye, turn @ squeeze @ turn.mT - eye


def two_squeezes(z: Tensor, t: Tensor) -> Tensor:
    """Squeeze along one axis before the time 1/2, and along another one after it; each takes half of the time."""
    matrix = torch.where(t[..., None, None] < 0.5, first, second)
    return torch.einsum("...i,...ij,...j->...", z, matrix, z)


# %%
# The composed map is linear, so that its end is a Gaussian, to which the optimal potential is known.

z0 = torch.randn(300, 2, generator=generator).double()
composed = (second + eye) @ (first + eye)
target = composed @ composed.mT
optimal = gaussian_transport_potential(zero, eye, zero, target)
flows = {"two squeezes": two_squeezes, "optimal": optimal}
trajectories = {
    name: PotentialFlow(u).eval().rollout(z0, steps=2, dt=0.5) for name, u in flows.items()
}
certificates = {
    name: transport_certificate(trajectories[name], u, generator=generator)
    for name, u in flows.items()
}

# %%
# Both have the same density at their end. The chain of bounds holds for both, and closes for the optimal one only.

ends = [trajectory.log_det[-1] for trajectory in trajectories.values()]
torch.testing.assert_close(ends[0], ends[1])
for name, found in certificates.items():
    assert found.dual <= found.lower + 1e-9
    assert found.lower <= found.wasserstein**2 + 1e-9
    assert found.wasserstein**2 <= found.displacement + 1e-9
    assert found.displacement <= found.cost + 1e-9
    print(
        f"{name}: cost {found.cost:.3f}, W2^2 {found.wasserstein**2:.3f}, ratio {found.ratio:.3f}"
    )
assert abs(certificates["optimal"].ratio - 1) < 1e-9
assert certificates["two squeezes"].ratio > 1.2
exact = gaussian_wasserstein2(zero, eye, zero, target, squared=True)

# %%
# The three numbers of each certificate that matter, over the distance of the closed form. The samples are 300, so that
# the distance between them is not quite that of the Gaussians.

figure, axes = plt.subplot_mosaic(
    [["two squeezes", "optimal"], ["bounds", "bounds"]],
    height_ratios=[2.2, 1],
    figsize=(7.4, 5),
)
for name, trajectory in trajectories.items():
    for path in trajectory.z[:, :120].unbind(1):
        axes[name].plot(*path.T, color="0.75", lw=0.7)
    axes[name].plot(*trajectory.z[0, :120].T, ".", ms=4, label="start")
    axes[name].plot(*trajectory.z[-1, :120].T, ".", ms=4, label="end")
    axes[name].set(
        title=name,
        xlabel="$z_1$",
        ylabel="$z_2$",
        aspect="equal",
        xlim=(-7.5, 7.5),
        ylim=(-6, 6),
    )
axes["optimal"].legend(loc="lower right", fontsize=9)
bounds = axes["bounds"]
for row, found in enumerate(reversed(certificates.values())):
    bounds.plot(
        [max(found.dual, 0), found.cost],
        [row, row],
        color="0.85",
        lw=6,
        solid_capstyle="butt",
    )
    for label, value, marker, color in (
        ("dual", max(found.dual, 0), ">", "C0"),
        ("lower", found.lower, "|", "C5"),
        ("displacement", found.displacement, "o", "C3"),
        ("cost", found.cost, "<", "C1"),
    ):
        bounds.plot(
            value,
            row,
            marker,
            ms=9,
            mew=2 if marker == "|" else 0,
            color=color,
            label=label if row else None,
        )
bounds.axvline(exact, color="0.5", ls=":", label="closed form")
bounds.set(
    yticks=[0, 1],
    yticklabels=list(reversed(certificates)),
    ylim=(-0.5, 1.5),
    xlabel="$W_2^2$ and its bounds",
    xlim=(0, None),
)
bounds.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
plt.show()
