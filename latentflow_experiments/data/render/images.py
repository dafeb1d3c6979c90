"""Images of any family from the values of its factors."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import version

import numpy as np

from latentflow_experiments.data.family import FALCOR3D, ISAAC3D, SHAPES3D, SPRITES, Family
from latentflow_experiments.data.frames import Pixels
from latentflow_experiments.data.grid import Indices
from latentflow_experiments.data.render.living_room import LivingRoom
from latentflow_experiments.data.render.robot_kitchen import RobotKitchen
from latentflow_experiments.data.render.shapes_room import ShapesRoom
from latentflow_experiments.data.render.sprites import draw_sprites

__all__ = ["render_images", "renderer_name"]

SCENES: dict[str, Callable[[], ShapesRoom | LivingRoom | RobotKitchen]] = {
    SHAPES3D.name: ShapesRoom,
    FALCOR3D.name: LivingRoom,
    ISAAC3D.name: RobotKitchen,
}


def render_images(family: Family, digits: Indices) -> Pixels:
    """Render images of a family; they depend on nothing but the digits.

    Args:
        family: The family.
        digits: Which value of each factor, shape ``(n, factors)``.

    Returns:
        The images, shape ``(n, height, width, channels)``, from 0 to 255.

    Raises:
        ExperimentError: If MuJoCo or the libraries that it renders with are missing.
    """
    if family.name == SPRITES.name:
        return draw_sprites(digits)
    scene = _scene(family.name)
    return np.stack([scene(row) for row in digits.tolist()])


def renderer_name(family: Family) -> str:
    """Name what renders a family, with the version of what is not our own."""
    return "latentflow" if family.name == SPRITES.name else f"mujoco {version('mujoco-core')}"


@cache
def _scene(name: str) -> ShapesRoom | LivingRoom | RobotKitchen:
    """Make the scene of a family, once in a process."""
    return SCENES[name]()
