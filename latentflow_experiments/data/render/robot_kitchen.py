"""The kitchen of Isaac3D, with a robot that holds something."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latentflow_experiments.data.frames import Pixels
from latentflow_experiments.data.render.scene import Scene, between

__all__ = ["RobotKitchen"]

SHAPES = ("cube", "cone", "ball")
SCALES = (0.13, 0.165, 0.2, 0.235)  # half of the object's width
LINK, SHOULDER = 0.62, 0.66  # length of both links of the arm, height of the shoulder
HAND = ((-0.62, 0.72), (0.36, 0.84))  # the hand to the right, and above the shoulder
CAMERA, DISTANCE, SEEN = (0.75, 2.0), 3.1, (0.0, 0.6, 1.12)
BRIGHTNESS, LAMP = (0.35, 0.95), (-1.8, 1.8)
OBJECT_COLOURS = ((0.1, 0.02, 0.7), (0.85, 0.85, 0.88))
WALL_COLOURS = ((0.25, 0.72, 0.12), (0.88, 0.62, 0.9))


def _cone(radius: float) -> str:
    """Return the corners of a cone that is as wide as it is high, for a mesh."""
    turns = 2 * np.pi * np.arange(24) / 24
    rim = [(radius * np.cos(turn), radius * np.sin(turn), -radius) for turn in turns]
    return " ".join(f"{number:.5f}" for corner in [*rim, (0.0, 0.0, radius)] for number in corner)


MODEL = f"""
<mujoco>
  <compiler angle="degree"/>
  <statistic extent="1" center="0 0 1"/>
  <visual>
    <global offwidth="128" offheight="128" fovy="48"/>
    <quality shadowsize="1024" offsamples="4"/>
    <headlight ambient=".3 .3 .3" diffuse=".12 .12 .12" specular="0 0 0"/>
    <map znear=".2" zfar="9" shadowclip="1" shadowscale=".9"/>
  </visual>
  <asset>
    {"".join(f'<mesh name="cone{i}" vertex="{_cone(radius)}"/>' for i, radius in enumerate(SCALES))}
    <texture name="wood" type="2d" builtin="checker" rgb1=".5 .33 .17" rgb2=".4 .26 .13" width="32" height="32"/>
    <material name="floor" rgba=".62 .6 .54 1" specular=".1"/>
    <material name="wall" specular="0"/>
    <material name="plain" rgba=".8 .8 .8 1" specular="0"/>
    <material name="cupboard" rgba=".93 .92 .9 1" specular=".1"/>
    <material name="gap" rgba=".55 .54 .52 1" specular="0"/>
    <material name="worktop" texture="wood" texrepeat="20 3" specular=".2"/>
    <material name="steel" rgba=".55 .57 .6 1" specular=".9" shininess=".7"/>
    <material name="dark" rgba=".2 .2 .22 1" specular=".4"/>
    <material name="robot" rgba=".62 .24 .1 1" specular=".5" shininess=".5"/>
    <material name="joint" rgba=".42 .16 .08 1" specular=".5" shininess=".5"/>
    <material name="object" specular=".2" shininess=".4"/>
  </asset>
  <default><geom contype="0" conaffinity="0"/></default>
  <worldbody>
    <light name="lamp" pos="0 -2 2.4" dir="0 1 -.3" directional="false" cutoff="72" exponent="0" attenuation="1 0 .02"
           diffuse="1 1 1" specular=".5 .5 .5"/>
    <geom type="box" size="4 4 .05" pos="0 0 -.05" material="floor"/>
    <geom type="box" size="4 .05 1.4" pos="0 2.05 1.4" material="wall"/>
    <geom type="box" size=".05 4 1.4" pos="-2.35 0 1.4" material="plain"/>
    <geom type="box" size=".05 4 1.4" pos="2.55 0 1.4" material="plain"/>
    <geom type="box" size="4 4 .05" pos="0 0 2.85" material="plain"/>

    <geom type="box" size=".42 .35 .85" pos="-1.6 1.62 .85" material="steel"/>
    <geom type="box" size=".008 .01 .8" pos="-1.58 1.265 .85" material="dark"/>
    <geom type="box" size=".1 .01 .13" pos="-1.8 1.265 1.05" material="dark"/>
    <geom type="box" size="1.85 .3 .42" pos=".7 1.7 .42" material="cupboard"/>
    <geom type="box" size="1.88 .33 .03" pos=".7 1.68 .87" material="worktop"/>
    <geom type="box" size=".008 .01 .4" pos="-.4 1.395 .42" material="gap"/>
    <geom type="box" size=".008 .01 .4" pos=".2 1.395 .42" material="gap"/>
    <geom type="box" size=".008 .01 .4" pos=".8 1.395 .42" material="gap"/>
    <geom type="box" size=".008 .01 .4" pos="1.4 1.395 .42" material="gap"/>
    <geom type="box" size=".25 .17 .012" pos=".45 1.65 .9" material="steel"/>
    <geom type="capsule" size=".018" fromto=".45 1.85 .9 .45 1.85 1.15" material="steel"/>
    <geom type="capsule" size=".018" fromto=".45 1.85 1.15 .45 1.68 1.12" material="steel"/>
    <geom type="box" size=".36 .17 .32" pos="-.55 1.84 1.75" material="cupboard"/>
    <geom type="box" size=".36 .008 .006" pos="-.55 1.665 1.75" material="gap"/>
    <geom type="box" size=".5 .17 .32" pos="1.45 1.84 1.75" material="cupboard"/>
    <geom type="box" size=".006 .008 .32" pos="1.28 1.665 1.75" material="gap"/>
    <geom type="box" size=".006 .008 .32" pos="1.62 1.665 1.75" material="gap"/>
    <geom type="cylinder" size=".13 .02" pos=".25 1.99 1.95" euler="90 0 0" material="dark"/>
    <geom type="cylinder" size=".11 .025" pos=".25 1.985 1.95" euler="90 0 0" material="cupboard"/>

    <geom type="box" size=".24 .2 .15" pos="0 0 .2" material="robot"/>
    <geom type="box" size=".18 .16 .1" pos="0 0 .45" material="robot"/>
    <geom type="cylinder" size=".17 .04" pos="-.29 0 .17" euler="0 90 0" material="joint"/>
    <geom type="cylinder" size=".17 .04" pos=".29 0 .17" euler="0 90 0" material="joint"/>
    <geom type="cylinder" size=".09 .07" pos="0 0 .6" material="joint"/>
    <body pos="0 0 {SHOULDER}">
      <joint name="shoulder" type="hinge" axis="0 1 0"/>
      <geom type="sphere" size=".1" material="joint"/>
      <geom type="capsule" size=".065" fromto="0 0 0 0 0 {LINK}" material="robot"/>
      <body pos="0 0 {LINK}">
        <joint name="elbow" type="hinge" axis="0 1 0"/>
        <geom type="sphere" size=".09" material="joint"/>
        <geom type="capsule" size=".052" fromto="0 0 0 0 0 {LINK}" material="robot"/>
        <body pos="0 0 {LINK}">
          <geom type="sphere" size=".075" material="joint"/>
          <body name="held" pos="0 0 .1">
            <geom name="cube" type="box" size=".1 .1 .1" pos="0 0 .1" material="object"/>
            <geom name="ball" type="sphere" size=".1" pos="0 0 .1" material="object"/>
            {
    "".join(
        f'<geom name="cone{i}" type="mesh" mesh="cone{i}" pos="0 0 {radius}" material="object"/>'
        for i, radius in enumerate(SCALES)
    )
}
          </body>
        </body>
      </body>
    </body>
  </worldbody>
</mujoco>
"""
NAMES = ("cube", "ball", *(f"cone{i}" for i in range(len(SCALES))))


class RobotKitchen:
    """Draws a kitchen in which a robot holds an object, 128 x 128 pixels.

    The factors are the shape of the object, the hand's place to the right and up, the height of the camera, the scale
    of the object, the brightness of the lamp and its place to the right, and the colors of the object and of the wall.

    References:
        W. Nie, T. Karras, A. Garg, S. Debnath, A. Patney, A. B. Patel and A. Anandkumar, Semi-supervised StyleGAN for
        disentanglement learning, 2020, for the factors.
    """

    def __init__(self) -> None:
        self._scene = Scene(MODEL, 128)

    def __call__(self, digits: Sequence[int]) -> Pixels:
        """Draw one image.

        Args:
            digits: Which value of each factor of Isaac3D.

        Returns:
            The image, shape ``(128, 128, 3)``.
        """
        shape, right, up, camera, scale, brightness, lamp, color, wall = digits
        scene = self._scene
        self._hold(SHAPES[shape], scale)
        self._reach(between(HAND[0], right / 7), between(HAND[1], up / 4))
        scene.paint("object", _mix(OBJECT_COLOURS, color / 3))
        scene.paint("wall", _mix(WALL_COLOURS, wall / 3))
        scene.light("lamp", (between(LAMP, lamp / 5), -2.0, 2.2), (0, 1.5, 1), between(BRIGHTNESS, brightness / 3))
        scene.look((0, -DISTANCE, between(CAMERA, camera / 3)), SEEN)
        return scene.draw()

    def _hold(self, shape: str, scale: int) -> None:
        name = f"cone{scale}" if shape == "cone" else shape
        self._scene.show_only(name, NAMES)
        if shape != "cone":  # a mesh cannot be scaled, so there is one of each size
            geom = self._scene.model.geom(name).id
            self._scene.model.geom_size[geom] = SCALES[scale]
            self._scene.model.geom_pos[geom] = (0, 0, SCALES[scale])

    def _reach(self, x: float, z: float) -> None:
        """Bend the arm, with the elbow to the right, so that the hand is so far to the right of and above the shoulder.

        Both links have the same length, so that the angle between each and the line to the hand is the same.
        """
        towards = np.arctan2(x, z)
        bend = np.arccos(np.hypot(x, z) / (2 * LINK))
        self._scene.turn("shoulder", float(np.rad2deg(towards + bend)))
        self._scene.turn("elbow", float(np.rad2deg(-2 * bend)))


def _mix(colors: tuple[Sequence[float], Sequence[float]], share: float) -> tuple[float, ...]:
    """Mix two colors."""
    return tuple(between(ends, share) for ends in zip(*colors, strict=True))
