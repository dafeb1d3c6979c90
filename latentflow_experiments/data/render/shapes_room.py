"""The room of 3D Shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latentflow_experiments.data.frames import Pixels
from latentflow_experiments.data.render.scene import Scene, hsv
from latentflow_experiments.data.stores.h5 import LABELS

__all__ = ["ShapesRoom"]

SHAPES = ("cube", "cylinder", "sphere", "capsule")
SIZES = {"cube": (0.37, 0.37, 0.37), "cylinder": (0.37, 0.39), "sphere": (0.4,), "capsule": (0.31, 0.33)}
DISTANCE, HEIGHT, AIM = 2.95, 0.95, 0.82  # of the camera from the object, of the camera, and where it looks
MODEL = """
<mujoco>
  <visual>
    <global offwidth="64" offheight="64" fovy="45"/>
    <quality shadowsize="1024" offsamples="4"/>
    <headlight ambient=".3 .3 .3" diffuse=".3 .3 .3" specular="0 0 0"/>
    <map znear="0.02" zfar="20" shadowclip="0.6"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="flat" rgb1=".6 .89 .98" rgb2=".6 .89 .98" width="8" height="8"/>
    <material name="floor" specular="0" emission=".25"/>
    <material name="wall" specular="0" emission=".2"/>
    <material name="object" specular=".35" shininess=".4" emission=".15"/>
  </asset>
  <worldbody>
    <light name="lamp" pos="-1.5 -1 5" dir=".3 .2 -1" directional="true" diffuse=".5 .5 .5" specular=".3 .3 .3"/>
    <geom type="plane" size="6 6 .1" material="floor"/>
    <geom type="box" size="3.2 .05 .91" pos="0 3.2 .91" material="wall"/>
    <geom type="box" size="3.2 .05 .91" pos="0 -3.2 .91" material="wall"/>
    <geom type="box" size=".05 3.2 .91" pos="3.2 0 .91" material="wall"/>
    <geom type="box" size=".05 3.2 .91" pos="-3.2 0 .91" material="wall"/>
    <geom name="cube" type="box" size="1 1 1" pos="0 0 1" material="object"/>
    <geom name="cylinder" type="cylinder" size="1 1" pos="0 0 1" material="object"/>
    <geom name="sphere" type="sphere" size="1" pos="0 0 1" material="object"/>
    <geom name="capsule" type="capsule" size="1 1" pos="0 0 1" material="object"/>
  </worldbody>
</mujoco>
"""


class ShapesRoom:
    """Draws an object in a square room with open sky, 64 x 64 pixels: floor, wall and object hue, scale, shape, turn.

    The camera goes round the object, which changes what is seen of the walls.

    References:
        C. Burgess and H. Kim, 3D Shapes, https://github.com/google-deepmind/3d-shapes, 2018.
    """

    def __init__(self) -> None:
        self._scene = Scene(MODEL, 64)

    def __call__(self, digits: Sequence[int]) -> Pixels:
        """Draw one image.

        Args:
            digits: Which value of each factor of 3D Shapes.

        Returns:
            The image, shape ``(64, 64, 3)``.
        """
        floor, wall, thing, scale, shape, degrees = (
            values[digit] for values, digit in zip(LABELS, digits, strict=True)
        )
        scene, name = self._scene, SHAPES[int(shape)]
        for material, hue in (("floor", floor), ("wall", wall), ("object", thing)):
            scene.paint(material, hsv(float(hue)))
        scene.show_only(name, SHAPES)
        geom = scene.model.geom(name).id
        size = np.zeros(3)
        size[: len(SIZES[name])] = np.multiply(SIZES[name], scale)
        scene.model.geom_size[geom] = size
        height = {"cube": size[2], "cylinder": size[1], "sphere": size[0], "capsule": size[0] + size[1]}[name]
        scene.model.geom_pos[geom] = (0, 0, height)
        angle = np.deg2rad(degrees)
        place = (DISTANCE * np.sin(angle), -DISTANCE * np.cos(angle), HEIGHT)
        scene.look(place, (0, 0, AIM))
        return scene.draw()
