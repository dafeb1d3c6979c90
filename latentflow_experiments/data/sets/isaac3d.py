"""Isaac3D: a robot arm in a kitchen."""

from __future__ import annotations

from latentflow_experiments.data.dataset import FactorSet
from latentflow_experiments.data.factors import Factor, Family
from latentflow_experiments.data.render.robot_kitchen import RobotKitchen
from latentflow_experiments.data.render.scene import SceneRenderer, mujoco_version

ISAAC3D = Family(
    name="isaac3d",
    title="Isaac3D",
    factors=(
        Factor("object_shape", 3, transforms=False),
        Factor("robot_x-move", 8, shown=3),
        Factor("robot_y-move", 5, shown=2),
        Factor("camera_height", 4, shown=1),
        Factor("object_scale", 4, shown=2),
        Factor("lighting_intensity", 4, shown=2),
        Factor("lighting_y-dir", 6, shown=2),
        Factor("object_color", 4),
        Factor("wall_color", 4, shown=3),
    ),
    shape=(3, 128, 128),
    file="images",
    address="https://github.com/NVlabs/High-res-disentanglement-datasets (Isaac3D_128x128, 13 GB, on Google Drive)",
    licence="CC BY 4.0",
    render=SceneRenderer(RobotKitchen),
    renderer=mujoco_version,
    piece=48,
)

DATASET = FactorSet(ISAAC3D)
