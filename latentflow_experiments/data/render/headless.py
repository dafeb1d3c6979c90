"""MuJoCo without a display."""

from __future__ import annotations

import ctypes.util
import os
import platform
from types import ModuleType

from latentflow_experiments.errors import ExperimentError

__all__ = ["import_mujoco"]

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
