"""The living room of Falcor3D."""

from __future__ import annotations

from collections.abc import Sequence

from latentflow_experiments.data.frames import Pixels
from latentflow_experiments.data.render.scene import Scene, between

__all__ = ["LivingRoom"]

# of the seven factors: brightness; light to the right, up, to the front; camera to the right, up, to the front
BRIGHTNESS = (0.3, 1.05)
LIGHT = ((-1.9, 1.9), (1.2, 2.7), (0.4, 2.6))
CAMERA = ((-0.9, 0.7), (0.75, 1.95), (2.6, 3.5))
LIT, SEEN = (0.1, 0.55, -1.3), (0.1, -1.2, 0.75)  # what the light and the camera point at: right, to the back, up
MODEL = """
<mujoco>
  <statistic extent="1" center="0 0 1"/>
  <visual>
    <global offwidth="128" offheight="128" fovy="48"/>
    <quality shadowsize="1024" offsamples="4"/>
    <headlight ambient=".22 .22 .23" diffuse=".1 .1 .1" specular="0 0 0"/>
    <map znear=".2" zfar="9" shadowclip="1" shadowscale=".95"/>
  </visual>
  <asset>
    <texture name="wood" type="2d" builtin="checker" rgb1=".66 .44 .22" rgb2=".55 .35 .17" width="64" height="64"/>
    <material name="floor" texture="wood" texrepeat="3 14" texuniform="false" specular=".15" shininess=".3"/>
    <material name="wall" rgba=".74 .74 .75 1" specular="0"/>
    <material name="white" rgba=".93 .93 .93 1" specular=".1"/>
    <material name="sofa" rgba=".85 .85 .86 1" specular=".05"/>
    <material name="rug" rgba=".72 .1 .12 1" specular="0"/>
    <material name="cushion" rgba=".9 .55 .6 1" specular="0"/>
    <material name="black" rgba=".1 .08 .08 1" specular=".3"/>
    <material name="frame" rgba=".2 .2 .21 1" specular=".1"/>
    <material name="red" rgba=".65 .05 .07 1" specular=".5" shininess=".6"/>
    <material name="leaf" rgba=".2 .22 .15 1" specular="0"/>
  </asset>
  <worldbody>
    <light name="lamp" pos="0 -1 2" dir="0 0 -1" directional="false" cutoff="89" exponent="0" attenuation="1 0 .03"
           diffuse="1 1 1" specular=".25 .25 .25"/>
    <geom type="box" size="3 3 .05" pos="0 0 -.05" material="floor"/>
    <geom type="box" size="3 .05 1.5" pos="0 2.05 1.5" material="wall"/>
    <geom type="box" size=".05 3 1.5" pos="-2.35 0 1.5" material="wall"/>
    <geom type="box" size=".05 3 1.5" pos="2.75 0 1.5" material="wall"/>
    <geom type="box" size="3 3 .05" pos="0 0 2.95" material="wall"/>
    <geom type="box" size="1.35 .85 .012" pos="0 -.1 .012" material="rug"/>

    <geom type="box" size="1.15 .42 .13" pos="0 1.4 .33" material="sofa"/>
    <geom type="box" size="1.15 .13 .3" pos="0 1.75 .62" material="sofa"/>
    <geom type="box" size=".13 .45 .25" pos="-1.27 1.4 .42" material="sofa"/>
    <geom type="box" size=".13 .45 .25" pos="1.27 1.4 .42" material="sofa"/>
    <geom type="ellipsoid" size=".57 .4 .1" pos="-.57 1.34 .47" material="sofa"/>
    <geom type="ellipsoid" size=".57 .4 .1" pos=".57 1.34 .47" material="sofa"/>
    <geom type="cylinder" size=".03 .1" pos="-1.2 1.05 .1" material="black"/>
    <geom type="cylinder" size=".03 .1" pos="1.2 1.05 .1" material="black"/>
    <geom type="ellipsoid" size=".2 .09 .19" pos="-.95 1.5 .68" euler="-12 8 0" material="cushion"/>
    <geom type="ellipsoid" size=".19 .09 .18" pos="-.62 1.48 .66" euler="-14 -10 0" material="cushion"/>
    <geom type="ellipsoid" size=".1 .19 .2" pos="1.02 1.45 .68" euler="0 -14 0" material="cushion"/>

    <geom type="box" size=".55 .33 .035" pos="-.45 .1 .42" material="white"/>
    <geom type="box" size=".55 .33 .06" pos="-.45 .1 .325" material="white"/>
    <geom type="box" size=".03 .03 .14" pos="-.95 -.18 .14" material="black"/>
    <geom type="box" size=".03 .03 .14" pos=".05 -.18 .14" material="black"/>
    <geom type="box" size=".03 .03 .14" pos="-.95 .38 .14" material="black"/>
    <geom type="box" size=".03 .03 .14" pos=".05 .38 .14" material="black"/>
    <geom type="ellipsoid" size=".1 .1 .15" pos="-.55 .2 .6" material="red"/>
    <geom type="cylinder" size=".045 .05" pos="-.55 .2 .76" material="red"/>
    <geom type="cylinder" size=".05 .035" pos="-.25 -.02 .49" material="black"/>

    <geom type="box" size=".26 .26 .03" pos="1.8 1.5 .52" material="white"/>
    <geom type="box" size=".26 .03 .25" pos="1.8 1.73 .25" material="white"/>
    <geom type="box" size=".03 .26 .25" pos="1.57 1.5 .25" material="white"/>
    <geom type="box" size=".03 .26 .25" pos="2.03 1.5 .25" material="white"/>
    <geom type="cylinder" size=".09 .14" pos="1.8 1.58 .69" material="black"/>
    <geom type="ellipsoid" size=".1 .1 .05" pos="1.72 1.36 .6" material="red"/>
    <geom type="capsule" size=".013" fromto="1.8 1.58 .8 1.65 1.6 1.5" material="leaf"/>
    <geom type="capsule" size=".013" fromto="1.8 1.58 .8 1.95 1.62 1.55" material="leaf"/>
    <geom type="capsule" size=".013" fromto="1.8 1.58 .8 2.2 1.6 1.3" material="leaf"/>
    <geom type="capsule" size=".013" fromto="1.8 1.58 .8 1.45 1.6 1.25" material="leaf"/>

    <geom type="box" size=".26 .09 .02" pos="-.6 1.92 1.66" material="frame"/>
    <geom type="box" size=".02 .09 .16" pos="-.84 1.92 1.52" material="frame"/>
    <geom type="box" size=".28 .09 .02" pos="-.1 1.92 1.42" material="frame"/>
    <geom type="box" size=".02 .09 .16" pos="-.36 1.92 1.54" material="frame"/>
    <geom type="box" size=".3 .09 .02" pos=".1 1.92 1.78" material="frame"/>
    <geom type="box" size=".02 .09 .17" pos=".38 1.92 1.62" material="frame"/>
    <geom type="box" size=".16 .09 .02" pos=".52 1.92 1.46" material="frame"/>
    <geom type="box" size=".02 .09 .24" pos=".68 1.92 1.68" material="frame"/>
    <geom type="ellipsoid" size=".035 .035 .07" pos="-.55 1.9 1.75" material="red"/>
    <geom type="ellipsoid" size=".035 .035 .07" pos="-.1 1.9 1.51" material="red"/>
    <geom type="ellipsoid" size=".035 .035 .07" pos=".2 1.9 1.87" material="red"/>
    <geom type="ellipsoid" size=".04 .04 .08" pos=".55 1.9 1.56" material="red"/>
  </worldbody>
</mujoco>
"""


class LivingRoom:
    """Draws a living room, 128 x 128 pixels, by a lamp and from a camera that move.

    The factors are the brightness of the lamp, its place to the right, up and to the front, and the place of the camera
    in the same directions. Lamp and camera point at the same spots wherever they are.

    References:
        W. Nie, T. Karras, A. Garg, S. Debnath, A. Patney, A. B. Patel and A. Anandkumar, Semi-supervised StyleGAN for
        disentanglement learning, 2020, for the factors.
    """

    def __init__(self) -> None:
        self._scene = Scene(MODEL, 128)

    def __call__(self, digits: Sequence[int]) -> Pixels:
        """Draw one image.

        Args:
            digits: Which value of each factor of Falcor3D.

        Returns:
            The image, shape ``(128, 128, 3)``.
        """
        brightness = between(BRIGHTNESS, digits[0] / 4)
        lamp = [between(ends, digit / 5) for ends, digit in zip(LIGHT, digits[1:4], strict=True)]
        eye = [between(ends, digit / 5) for ends, digit in zip(CAMERA, digits[4:7], strict=True)]
        self._scene.light("lamp", _place(lamp), _place(LIT), brightness)
        self._scene.look(_place(eye), (SEEN[0], -SEEN[1], SEEN[2]))
        return self._scene.draw()


def _place(right_up_front: Sequence[float]) -> tuple[float, float, float]:
    """Return a place in the room's coordinates: right, to the back, up."""
    right, up, front = right_up_front
    return right, -front, up
