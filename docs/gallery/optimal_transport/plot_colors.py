r"""
The colors of a flower on a temple: transport in the space of colors
====================================================================

An image is also a cloud of colors, one point in :math:`[0, 1]^3` for each pixel. Optimal transport between the clouds
of two images recolors one with the palette of the other and changes each color as little as possible, so that light
stays lighter than dark and neighbors stay neighbors: the map is *monotone*,

.. math:: \langle T(a) - T(b),\, a - b \rangle \ge 0 \quad \text{for all colors } a, b .

:func:`~latentflow.transport.fit_transport` needs the two clouds, not paired in any way. Its map is :math:`T(x) = x +
\nabla u(x)`, so that half of the way, :math:`x + \tfrac12 \nabla u(x)`, is half of the change. By Brenier's theorem the
optimal map is the gradient of a convex function, and such a gradient is monotone; how nearly a fitted one is, pairs of
colors tell.

The images are the two that scikit-learn ships, a temple and a flower.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_sample_images

from latentflow import MLPPotential, wasserstein2
from latentflow.transport import DualPotential, fit_transport

torch.manual_seed(0)
generator = torch.Generator().manual_seed(0)
temple, flower = (
    torch.tensor(image).float()[::4, ::4] / 255 for image in load_sample_images().images
)
source, target = temple.reshape(-1, 3), flower.reshape(-1, 3)

# %%
# The fit sees 2,000 pixels of each image. It works in coordinates in which both clouds have the same mean and
# covariance, and starts from the best linear map.

potential = MLPPotential(3, (64, 64), activation=torch.nn.functional.silu, output_scale=0.1)
pixels = [
    cloud[torch.randperm(len(cloud), generator=generator)[:2000]]
    for cloud in (source, target)
]
method = DualPotential(batch_size=256)
fitted = fit_transport(
    *pixels,
    potential=potential,
    method=method,
    budget=80,
    certify=False,
    generator=generator,
)
recolored = [fitted.interpolate(source, t).detach() for t in (0.0, 0.5, 1.0)]

# %%
# The recolored cloud is much nearer to that of the flower, and of a thousand pairs of colors at most five have changed
# their order.

some = torch.randperm(len(source), generator=generator)[:200]
others = target[torch.randperm(len(target), generator=generator)[:200]]
distances = [
    float(wasserstein2(cloud[some], others, blur=0.01, scaling=0.9)) for cloud in recolored
]
print(
    "distance from the colors of the flower: "
    + ", ".join(f"{distance:.3f}" for distance in distances)
)
assert distances[2] < distances[0] / 2.5

a, b = source[some], recolored[2][some]
products = ((a.unsqueeze(0) - a.unsqueeze(1)) * (b.unsqueeze(0) - b.unsqueeze(1))).sum(-1)
assert (products < 0).double().mean() < 0.005

# %%
# Top: the temple, half of the way, and all of it. Bottom: the flower, and the clouds of colors, red against blue.

figure, axes = plt.subplots(2, 3, figsize=(7.4, 4.4))
for axis, image, name in zip(
    axes[0], recolored, ("temple", "half of the way", "all of the way"), strict=True
):
    axis.imshow(image.clamp(0, 1).reshape(temple.shape))
    axis.set_title(name)
axes[1, 0].imshow(flower)
axes[1, 0].set_title("flower")
for axis in (*axes[0], axes[1, 0]):
    axis.set_axis_off()
for axis, cloud, name in zip(
    axes[1, 1:], (source, recolored[2]), ("colors of the temple", "recolored"), strict=True
):
    axis.plot(*others[:, [0, 2]].T, ".", ms=2, color="0.75")
    axis.scatter(*cloud[some][:, [0, 2]].T, s=3, c=cloud[some].clamp(0, 1))
    axis.set(xlabel="red", ylabel="blue", xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    axis.set_title(name, fontsize=10)
plt.show()
