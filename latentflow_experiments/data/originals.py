"""The published files of the data sets: where they are to be had, and by what they are known."""

from __future__ import annotations

from dataclasses import dataclass

from latentflow_experiments.data.family import SHAPES3D, SPRITES

__all__ = ["ORIGINALS", "PublicFile"]

_MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_SPRITES_VERSIONS = (
    f"{SPRITES.address}/raw/fa310c66517cfc1939d77fe17c725154efc97127/",
    f"{SPRITES.address}/raw/master/",
)


@dataclass(frozen=True)
class PublicFile:
    """A published file.

    Attributes:
        name: Its name.
        addresses: Where it is to be had, the first choice first; all of them have the same bytes.
        sha256: Its SHA-256, in hexadecimal digits.
        size: Its size in bytes; None if it is not known.
    """

    name: str
    addresses: tuple[str, ...]
    sha256: str
    size: int | None = None


def _mnist(name: str, sha256: str, size: int) -> PublicFile:
    return PublicFile(name, tuple(mirror + name for mirror in _MNIST_MIRRORS), sha256, size)


ORIGINALS = {
    "mnist": (
        _mnist(
            "train-images-idx3-ubyte.gz",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            9_912_422,
        ),
        _mnist(
            "train-labels-idx1-ubyte.gz",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            28_881,
        ),
        _mnist(
            "t10k-images-idx3-ubyte.gz",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            1_648_877,
        ),
        _mnist(
            "t10k-labels-idx1-ubyte.gz",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            4_542,
        ),
    ),
    SPRITES.name: (
        PublicFile(
            SPRITES.file,
            tuple(version + SPRITES.file for version in _SPRITES_VERSIONS),
            "857dc001287e8efa226e0025fac6b29e5745c621b380b0d3363e4e33f4e28fa2",
        ),
    ),
    SHAPES3D.name: (
        PublicFile(
            SHAPES3D.file,
            ("https://storage.googleapis.com/3d-shapes/3dshapes.h5",),
            "0a0f6ed98baff276a50f3a081a7434d788da63cb135a98189b2a5b5769be1785",
            267_573_662,
        ),
    ),
}
