"""3D Shapes: an object in a room."""

from __future__ import annotations

from latentflow_experiments.data.dataset import FactorSet
from latentflow_experiments.data.factors import Factor, Family, PublicFile
from latentflow_experiments.data.render.scene import SceneRenderer, mujoco_version
from latentflow_experiments.data.render.shapes_room import ShapesRoom

SHAPES3D = Family(
    name="shapes3d",
    title="3D Shapes",
    factors=(
        Factor("floor_hue", 10, shown=1),
        Factor("wall_hue", 10, shown=5),
        Factor("object_hue", 10),
        Factor("scale", 8, shown=5),
        Factor("shape", 4, transforms=False),
        Factor("orientation", 15, transforms=False, shown=10),
    ),
    shape=(3, 64, 64),
    file="3dshapes.h5",
    address="https://github.com/google-deepmind/3d-shapes",
    licence="Apache-2.0",
    render=SceneRenderer(ShapesRoom),
    renderer=mujoco_version,
    piece=128,
)

DATASET = FactorSet(
    SHAPES3D,
    originals=(
        PublicFile(
            SHAPES3D.file,
            ("https://storage.googleapis.com/3d-shapes/3dshapes.h5",),
            "0a0f6ed98baff276a50f3a081a7434d788da63cb135a98189b2a5b5769be1785",
            267_573_662,
        ),
    ),
)
