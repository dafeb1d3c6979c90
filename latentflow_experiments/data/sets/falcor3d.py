"""Falcor3D: a living room under moving lights and a moving camera."""

from __future__ import annotations

from latentflow_experiments.data.dataset import FactorSet
from latentflow_experiments.data.factors import Factor, Family
from latentflow_experiments.data.render.living_room import LivingRoom
from latentflow_experiments.data.render.scene import SceneRenderer, mujoco_version

FALCOR3D = Family(
    name="falcor3d",
    title="Falcor3D",
    factors=(
        Factor("lighting_intensity", 5, shown=3),
        Factor("lighting_x-dir", 6, shown=2),
        Factor("lighting_y-dir", 6, shown=2),
        Factor("lighting_z-dir", 6, shown=2),
        Factor("camera_x-pos", 6, shown=2),
        Factor("camera_y-pos", 6, shown=2),
        Factor("camera_z-pos", 6, shown=2),
    ),
    shape=(3, 128, 128),
    file="images",
    address="https://github.com/NVlabs/High-res-disentanglement-datasets (Falcor3D_128x128, 3.7 GB, on Google Drive)",
    licence="CC BY 4.0",
    render=SceneRenderer(LivingRoom),
    renderer=mujoco_version,
    piece=48,
)

DATASET = FactorSet(FALCOR3D)
