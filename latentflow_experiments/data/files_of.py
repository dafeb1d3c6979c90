"""Where the files of a data set are looked for, and where they are put."""

from __future__ import annotations

import os
from pathlib import Path

import pooch

from latentflow_experiments.data.family import FAMILIES
from latentflow_experiments.data.originals import ORIGINALS
from latentflow_experiments.errors import DataError

__all__ = ["VARIABLE", "cache_root", "default_folder", "locate", "variable_root"]

VARIABLE = "LATENTFLOW_DATA"
_STAND_INS = "synthetic"


def variable_root() -> Path | None:
    """Give the folder that the environment variable ``LATENTFLOW_DATA`` names; None if it is unset or empty."""
    value = os.environ.get(VARIABLE)
    return Path(value).expanduser() if value else None


def cache_root() -> Path:
    """Give the folder of this project in the user's cache."""
    return Path(pooch.os_cache("latentflow"))


def default_folder(name: str, *, synthetic: bool) -> Path:
    """Give the folder into which the files of a data set go if nothing else is said.

    Args:
        name: The data set.
        synthetic: Whether they are a synthetic stand-in for it.

    Returns:
        The folder ``NAME``, or ``synthetic/NAME``, in ``$LATENTFLOW_DATA`` if that is set, else in the user's cache.

    Example:
        >>> assert default_folder("sprites", synthetic=True).parts[-2:] == ("synthetic", "sprites")
    """
    return _place(variable_root() or cache_root(), name, synthetic=synthetic)


def locate(name: str, file: str, folder: Path | None) -> Path:
    """Find the folder that holds the images of a data set; nothing is downloaded.

    Args:
        name: The data set.
        file: The file, or the folder of PNG files, that holds the images.
        folder: The only place to look, itself or its subfolder ``name``. By default the places are ``name`` and
            ``synthetic/name`` in ``$LATENTFLOW_DATA``, if that is set, and then in the user's cache.

    Returns:
        The first of these places that has ``file``.

    Raises:
        DataError: If none has it; the message says how it is to be had.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "isaac3d", "images").mkdir(parents=True)
        ...     assert locate("isaac3d", "images", Path(folder)) == Path(folder, "isaac3d")
    """
    places = _default_places(name) if folder is None else (folder, folder / name)
    for place in places:
        if (place / file).exists():
            return place
    raise DataError(
        f"{places[0] / file}: expected the images of {name}, got no such file or folder, and none in "
        f"{' or '.join(map(str, places[1:]))}; {_remedies(name, file)}"
    )


def _place(root: Path, name: str, *, synthetic: bool) -> Path:
    return root / _STAND_INS / name if synthetic else root / name


def _default_places(name: str) -> tuple[Path, ...]:
    roots = [root for root in (variable_root(), cache_root()) if root is not None]
    return tuple(_place(root, name, synthetic=synthetic) for root in roots for synthetic in (False, True))


def _remedies(name: str, file: str) -> str:
    if name in ORIGINALS:
        original = f"get the original with `latentflow data fetch {name}`"
    else:
        folder = default_folder(name, synthetic=False) / file
        original = f"get the original from {FAMILIES[name].address} and put its PNG files into {folder}"
    if name not in FAMILIES:
        return original
    return f"{original}, or make a synthetic stand-in with `latentflow data make {name}`"
