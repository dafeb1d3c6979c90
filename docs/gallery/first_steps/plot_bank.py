r"""
One bank of potentials: select, mix, superpose and switch
=========================================================

A model with several transformations has one potential :math:`u_k` for each, in a
:class:`~latentflow.potentials.PotentialBank`. Potentials add and scale, since velocities do, so the transformations
combine without any further training:

* ``bank.select(k)`` gives every sample its own transformation;
* ``bank.mix(w)`` is :math:`\sum_k w_k u_k`, with weights for all or for each sample;
* ``bank.superpose()`` is :math:`\sum_k u_k`, all transformations at once;
* :class:`~latentflow.potentials.SwitchedPotential` lets them follow one another in time.

Each result is a potential like any other: residuals, flows and densities take it. In one step the displacements of a
sum add up exactly; over several steps they do so where the flows commute, as for example two stretchings along the same
axes, and otherwise the order matters.
"""

import matplotlib.pyplot as plt
import torch

from latentflow import (
    FunctionPotential,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
    SwitchedPotential,
    gradient,
)

torch.manual_seed(0)
stretch = QuadraticPotential(2, matrix=torch.diag(torch.tensor([0.9, -0.9])))
shift = QuadraticPotential(2, vector=torch.tensor([0.4, 1.4]))
spread = FunctionPotential(lambda z, _: -z.cos().sum(-1), dim=2)
bank = PotentialBank([stretch, shift, spread])

z0 = torch.rand(24, 2) * 2 - 1
k = torch.arange(24) % 3
composed = {
    "select(k)": bank.select(k),
    "mix([0.5, 0.5, 0])": bank.mix(torch.tensor([0.5, 0.5, 0.0])),
    "superpose()": bank.superpose(),
    "switch after 0.5": SwitchedPotential([stretch, shift], times=[0.5]),
}
trajectories = {
    name: PotentialFlow(u).rollout(z0, steps=40, dt=0.025, on_fold="ignore")
    for name, u in composed.items()
}

# %%
# What is certain about them: velocities add; each sample of ``select`` moves by its own potential; and the switched
# flow is the first one followed by the second.

torch.testing.assert_close(
    gradient(bank.superpose(), z0, 0.3),
    sum(gradient(u, z0, 0.3) for u in (stretch, shift, spread)),
)
own = PotentialFlow(shift).rollout(z0[k == 1], steps=40, dt=0.025)
torch.testing.assert_close(trajectories["select(k)"].z[:, k == 1], own.z)
first = PotentialFlow(stretch).rollout(z0, steps=20, dt=0.025)
second = PotentialFlow(shift).rollout(first.z[-1], steps=20, start=0.5, dt=0.025)
torch.testing.assert_close(trajectories["switch after 0.5"].z[-1], second.z[-1])

# %%
# Colors are the index ``k`` in the first picture; in the others all points move by the same potential.

colors = ["#2563eb", "#dc2626", "#059669"]
figure, axes = plt.subplots(2, 2, sharex=True, sharey=True, figsize=(7.4, 5.2))
for axis, (name, trajectory) in zip(axes.flat, trajectories.items(), strict=True):
    for index, path in zip(k.tolist(), trajectory.z.unbind(1), strict=True):
        color = colors[index] if name == "select(k)" else "#475569"
        axis.plot(*path.detach().T, color=color, lw=1)
        axis.plot(*path[-1].detach(), "o", color=color, ms=4)
    axis.set(title=name, aspect="equal")
    axis.label_outer()
figure.supxlabel("$z_1$")
figure.supylabel("$z_2$")
plt.show()
