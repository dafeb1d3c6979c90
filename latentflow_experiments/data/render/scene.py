"""A MuJoCo scene that is drawn again and again with small changes, without a display."""

from __future__ import annotations

import atexit
import colorsys
import ctypes.util
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from latentflow_experiments.data.frames import Indices, Pixels
from latentflow_experiments.errors import ExperimentError

LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}


def import_mujoco() -> ModuleType:
    """Import MuJoCo so that it renders without a display.

    On Linux the environment variable ``MUJOCO_GL`` is set to ``egl``, or to ``osmesa`` where only that library is
    there, unless it is set already. Both render in software where there is no graphics processor.

    Returns:
        The module ``mujoco``.

    Raises:
        ExperimentError: If MuJoCo is not installed, or neither library is.
    """
    if platform.system() == "Linux" and "MUJOCO_GL" not in os.environ:
        found = [name for name, library in LIBRARIES.items() if ctypes.util.find_library(library)]
        if not found:
            raise ExperimentError(
                "rendering: expected the library EGL or OSMesa, got neither; on Debian: "
                "apt-get install --no-install-recommends libegl1 libegl-mesa0 libgl1-mesa-dri"
            )
        os.environ["MUJOCO_GL"] = found[0]
    try:
        import mujoco  # noqa: PLC0415 - only after the variable is set
    except (ImportError, AttributeError, RuntimeError) as error:  # the latter two of a MUJOCO_GL that does not work
        raise ExperimentError(
            f'rendering: expected MuJoCo, got {error}; pip install "latentflow-torch[render]"'
        ) from error
    module: ModuleType = mujoco
    return module


HIDDEN = 5  # a group of shapes that is not drawn


class Scene:
    """Draws a model, with its colors, sizes, places, lights and camera changed between two pictures.

    Args:
        xml: The model, in MuJoCo's format.
        size: Height and width of a picture in pixels.

    Raises:
        ExperimentError: If MuJoCo or the libraries that it renders with are missing.

    References:
        E. Todorov, T. Erez and Y. Tassa, MuJoCo: a physics engine for model-based control, 2012.
    """

    def __init__(self, xml: str, size: int) -> None:
        mujoco = import_mujoco()
        self._mujoco: Any = mujoco
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        try:
            self._renderer = mujoco.Renderer(self.model, size, size)
        except (ImportError, AttributeError, RuntimeError) as error:  # PyOpenGL, its library or a context is missing
            reason = " ".join(str(error).split())
            raise ExperimentError(
                f"rendering: expected an OpenGL context with MUJOCO_GL={os.environ.get('MUJOCO_GL')}, got {reason}; "
                'pip install "latentflow-torch[render]"; on Debian: '
                "apt-get install --no-install-recommends libegl1 libegl-mesa0 libgl1-mesa-dri"
            ) from error
        atexit.register(self._renderer.close)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE

    def paint(self, material: str, color: Sequence[float]) -> None:
        """Return a material a color in red, green and blue."""
        self.model.mat_rgba[self.model.material(material).id, :3] = color

    def show_only(self, name: str, names: Sequence[str]) -> None:
        """Show one of several shapes."""
        for other in names:
            self.model.geom_group[self.model.geom(other).id] = 0 if other == name else HIDDEN

    def turn(self, joint: str, degrees: float) -> None:
        """Set the angle of a joint."""
        self.data.qpos[self.model.joint(joint).qposadr[0]] = np.deg2rad(degrees)

    def light(self, name: str, place: Sequence[float], towards: Sequence[float], brightness: float) -> None:
        """Put a light somewhere and point it at something."""
        light = self.model.light(name).id
        direction = np.subtract(towards, place)
        self.model.light_pos[light] = place
        self.model.light_dir[light] = direction / np.linalg.norm(direction)
        self.model.light_diffuse[light] = brightness

    def look(self, place: Sequence[float], towards: Sequence[float]) -> None:
        """Put the camera somewhere and point it at something."""
        x, y, z = np.subtract(towards, place)
        self._camera.lookat[:] = towards
        self._camera.distance = float(np.sqrt(x * x + y * y + z * z))
        self._camera.azimuth = float(np.rad2deg(np.arctan2(y, x)))
        self._camera.elevation = float(np.rad2deg(np.arctan2(z, np.hypot(x, y))))

    def draw(self) -> Pixels:
        """Draw the scene as it is now, shape ``(size, size, 3)``."""
        self._mujoco.mj_kinematics(self.model, self.data)
        self._mujoco.mj_camlight(self.model, self.data)
        self._renderer.update_scene(self.data, camera=self._camera)
        picture: Pixels = self._renderer.render()
        return picture


def between(ends: tuple[float, float], share: float) -> float:
    """Return a place between two ends.

    Example:
        >>> assert between((-1.0, 3.0), 0.25) == 0.0
    """
    low, high = ends
    return low + (high - low) * share


def hsv(hue: float, saturation: float = 1.0, value: float = 1.0) -> tuple[float, float, float]:
    """Return the red, green and blue of a color.

    Example:
        >>> assert hsv(1 / 3) == (0.0, 1.0, 0.0)
    """
    return colorsys.hsv_to_rgb(hue, saturation, value)


class DrawnScene(Protocol):
    """A scene that is drawn for values of its factors."""

    def __call__(self, digits: Sequence[int]) -> Pixels:
        """Draw the scene, of shape ``(height, width, channels)``, from 0 to 255."""


@dataclass(frozen=True)
class SceneRenderer:
    """Renders images by a scene, which every process makes once.

    Attributes:
        scene: The class of the scene.
    """

    scene: Callable[[], DrawnScene]

    def __call__(self, digits: Indices) -> Pixels:
        """Render images for digits of shape ``(n, factors)``."""
        scene = _make_scene(self.scene)
        return np.stack([scene(row) for row in digits.tolist()])


@cache
def _make_scene(scene: Callable[[], DrawnScene]) -> DrawnScene:
    return scene()


def mujoco_version() -> str:
    """Name the renderer, with its version; raises what :func:`import_mujoco` raises."""
    return f"mujoco {import_mujoco().__version__}"
