"""What an explorer shows of one start image: a sheet of pictures, and the numbers along every path."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latentflow import FlowVAE, HopfLaxFlow, SlogDet
from latentflow.flow import InversionError
from latentflow_experiments.explorer.grid import Grid
from latentflow_experiments.metrics.composition import Backwards, CompositeFlow

__all__ = [
    "MAP_SIZE",
    "Path",
    "Plane",
    "Rendered",
    "as_bytes",
    "contours",
    "encoded_size",
    "follow_path",
    "map_times",
    "render",
]

DIGITS = 4  # of the numbers in the page
POINTS = 25  # of a contour map, along each side
MARGIN = 1.15  # the half side of a map over the largest coordinate of a path
MAP_SIZE = math.ceil(2 * POINTS**2 / 3) * 4
"""The bytes of one map in the page: 16 bits a point, in base 64."""

BATCH = 256  # latents decoded at once
MET = "paths have met, so the flow cannot be continued"
LARGEST_SIDE = 16_383  # of a WebP picture, in pixels


@dataclass(frozen=True)
class Path:
    r"""A path of one latent, with the numbers along it.

    Attributes:
        z: The latents at all times, of shape ``(T+1, dim)``.
        speed: :math:`|\nabla u|` in the step from each time but the last, of shape ``(T,)``.
        log_density: :math:`\log q_t(z_t)` of the posterior of the start image that is carried along, of shape
            ``(T+1,)``; NaN from the first step that folds on, after which there is no density.
        margin: :math:`\lambda_{\min}(I + h \nabla^2 u)` of each step, of shape ``(T,)``; for a flow by construction
            that of the map from time 0, see :class:`HopfLaxFlow`.
    """

    z: Tensor
    speed: Tensor
    log_density: Tensor
    margin: Tensor


def follow_path(model: FlowVAE, flow: CompositeFlow, z0: Tensor, log_q0: float, steps: int) -> Path:
    """Follow a flow from one latent, with the numbers along the path.

    Args:
        model: The model, in evaluation mode.
        flow: The rule by which the latent moves.
        z0: The latent, of shape ``(dim,)``.
        log_q0: The log-density of the start there.
        steps: The number of steps ``T``.

    Returns:
        The path.

    Raises:
        InversionError: If a flow by construction cannot be continued, as its paths have met.
        FloatingPointError: If the path leaves the finite numbers.

    Example:
        >>> from latentflow import GaussianPrior, PotentialBank, QuadraticPotential
        >>> from latentflow_experiments.metrics.composition import Superposed
        >>> bank = PotentialBank([QuadraticPotential(2, matrix=torch.eye(2))])
        >>> model = FlowVAE(torch.nn.Identity(), torch.nn.Identity(), bank, GaussianPrior(2), residual=None)
        >>> path = follow_path(model, Superposed(((0, 0.5),)), torch.tensor([3.0, 4.0]), log_q0=0.0, steps=2)
        >>> torch.testing.assert_close(path.speed, torch.tensor([2.5, 3.75]))
        >>> torch.testing.assert_close(path.margin, torch.tensor([1.5, 1.5]))
        >>> torch.testing.assert_close(path.log_density, -2 * torch.arange(3.0) * torch.tensor(1.5).log())
    """
    legs: list[Path] = []
    density = torch.tensor(log_q0).to(z0)
    for trajectory in flow.trajectories(model, z0.unsqueeze(0), steps, SlogDet(eigenvalues=True)):
        log_det, folded, margin = trajectory.log_det, trajectory.folded, trajectory.smallest_eigenvalue
        assert log_det is not None, "it was asked for"
        assert folded is not None, "there is a step"
        assert margin is not None, "it was asked for"
        lost = torch.where(folded[:, 0], math.nan, 0.0).cumsum(0)  # NaN from the first fold on
        log_density = density - log_det[:, 0] + torch.cat([lost.new_zeros(1), lost]).to(z0)
        speed = (trajectory.action[:, 0].diff() / trajectory.times.diff().to(z0)).clamp(min=0).sqrt()
        legs.append(Path(trajectory.z[:, 0], speed, log_density, margin[:, 0]))
        density = log_density[-1]
    shown = legs[-1:] if isinstance(flow, Backwards) else legs
    return Path(
        torch.cat([shown[0].z, *(leg.z[1:] for leg in shown[1:])]),
        torch.cat([leg.speed for leg in shown]),
        torch.cat([shown[0].log_density, *(leg.log_density[1:] for leg in shown[1:])]),
        torch.cat([leg.margin for leg in shown]),
    )


@dataclass(frozen=True)
class Plane:
    """The plane through a start in which its paths are drawn.

    Attributes:
        origin: The latent of the start image, of shape ``(dim,)``.
        axes: Two orthonormal directions, of shape ``(2, dim)``; the second is zero where there is one coordinate.
        half: Half the side of the square that is drawn.
        share: The share of the squared distances from the start that lies in the plane.
    """

    origin: Tensor
    axes: Tensor
    half: float
    share: float

    @staticmethod
    def through(origin: Tensor, points: Tensor) -> Plane:
        """Find the plane through a point that holds as much of the distances of others as possible.

        Args:
            origin: The point, of shape ``(dim,)``.
            points: The others, of shape ``(n, dim)``.

        Returns:
            The plane, with a square that holds all projections.

        Example:
            >>> plane = Plane.through(torch.zeros(3), torch.tensor([[2.0, 0, 0], [0, 1, 0]]))
            >>> assert plane.axes.tolist() == [[1, 0, 0], [0, 1, 0]] and plane.share == 1
        """
        away = (points - origin).double()
        _, sizes, axes = torch.linalg.svd(away, full_matrices=True)
        pair = torch.zeros(2, len(origin), dtype=away.dtype, device=away.device)
        pair[: min(2, len(axes))] = axes[:2]
        largest = pair.gather(1, pair.abs().argmax(1, keepdim=True))
        pair = pair * torch.where(largest < 0, -1.0, 1.0)  # a sign that does not depend on the machine
        squares = sizes.square()
        share = float(squares[:2].sum() / squares.sum()) if squares.sum() > 0 else 1.0
        half = MARGIN * float((away @ pair.T).abs().max())
        return Plane(origin, pair.to(origin), half if half > 0 else 1.0, share)

    def project(self, z: Tensor) -> Tensor:
        """Return the coordinates ``(*batch, 2)`` of latents ``(*batch, dim)``."""
        return (z - self.origin) @ self.axes.T

    def lattice(self) -> Tensor:
        """Return the latents of the map, of shape ``(POINTS, POINTS, dim)``, a row for each second coordinate."""
        line = torch.linspace(-self.half, self.half, POINTS, dtype=self.origin.dtype, device=self.origin.device)
        y, x = torch.meshgrid(line, line, indexing="ij")
        return self.origin + torch.stack([x, y], -1) @ self.axes


def contours(model: FlowVAE, potential: int, plane: Plane, steps: int) -> Tensor:
    """Evaluate a potential of the bank on the map of a plane.

    Args:
        model: The model, in evaluation mode.
        potential: The index in the bank.
        plane: The plane.
        steps: The number of steps ``T``.

    Returns:
        The values at the times 0 to ``T``, of shape ``(T+1, POINTS, POINTS)``; of a flow by construction, whose
        potential is not known where paths have met, at time 0 only.
    """
    flow, points = model.flow_of(potential), plane.lattice()
    field = flow.u0 if isinstance(flow, HopfLaxFlow) else flow.potential
    with torch.autocast(points.device.type, enabled=False):
        return torch.stack([evaluate(field, points, float(t)) for t in range(map_times(model, steps))])


def map_times(model: FlowVAE, steps: int) -> int:
    """Return the number of times at which the potentials of a model are drawn: one for flows by construction."""
    return 1 if isinstance(model.flow_of(0), HopfLaxFlow) else steps + 1


def evaluate(potential: Callable[[Tensor, Tensor], Tensor], points: Tensor, t: float) -> Tensor:
    """Evaluate a potential at points ``(*batch, dim)`` and one time."""
    return potential(points, points.new_full(points.shape[:-1], t))


def as_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Round pictures ``(n, channels, height, width)`` to 8 bits, as ``(n, height, width, channels)``."""
    pixels: NDArray[np.uint8] = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


class Sheet:
    """Pictures of one size side by side, each different one once."""

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self._cells: list[NDArray[np.uint8]] = []

    def add(self, cells: NDArray[np.uint8]) -> list[int]:
        """Add pictures, of shape ``(n, height, width, channels)``, and return the place of each."""
        found = []
        for cell in cells:
            place = self._places.setdefault(cell.tobytes(), len(self._cells))
            if place == len(self._cells):
                self._cells.append(cell)
            found.append(place)
        return found

    def encode(self) -> tuple[str, int]:
        """Encode the sheet without loss.

        Returns:
            The WebP file in base 64, and the number of pictures in a row.

        Raises:
            ValueError: If the pictures are too many for one sheet.
        """
        height, width, _ = self._cells[0].shape
        columns = max(1, min(round(math.sqrt(len(self._cells) * height / width)), LARGEST_SIDE // width))
        rows = math.ceil(len(self._cells) / columns)
        if rows * height > LARGEST_SIDE:
            raise ValueError(f"sheet: expected at most {LARGEST_SIDE} pixels in height, got {rows * height}")
        sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
        for place, cell in enumerate(self._cells):
            y, x = place // columns * height, place % columns * width
            sheet[y : y + height, x : x + width] = cell  # grey pictures in all three channels
        file = io.BytesIO()
        Image.fromarray(sheet).save(file, "WEBP", lossless=True)
        return base64.b64encode(file.getvalue()).decode(), columns


def encoded_size(cells: NDArray[np.uint8]) -> int:
    """Return the bytes of a sheet of pictures ``(n, height, width, channels)`` in the page."""
    sheet = Sheet()
    sheet.add(cells)
    return len(sheet.encode()[0])


@dataclass(frozen=True)
class Rendered:
    """One start image, as the page holds it.

    Attributes:
        sheet: The pictures, a WebP file in base 64.
        values: Everything else, as JSON can hold it: where the pictures are, and the numbers.
    """

    sheet: str
    values: dict[str, Any]


def render(model: FlowVAE, image: Tensor, grid: Grid, advance: Callable[[], object] = lambda: None) -> Rendered:
    """Render all paths of a grid from one image.

    Args:
        model: The model, in evaluation mode.
        image: The image, of shape ``(channels, height, width)``, in [0, 1].
        grid: The paths.
        advance: What to call after each path, such as the update of a progress bar.

    Returns:
        The pictures and the numbers.
    """
    posterior = model.encode(image.unsqueeze(0))
    z0, log_q0 = posterior.mean[0], float(posterior.log_prob(posterior.mean)[0])
    paths: dict[str, Path] = {}
    faults: dict[str, str] = {}
    for name, flow in grid.paths().items():
        try:
            paths[name] = follow_path(model, flow, z0, log_q0, grid.steps)
        except (InversionError, FloatingPointError) as error:
            met = isinstance(error, InversionError)
            faults[name] = MET if met else "the path leaves the finite numbers"
        advance()
    sheet = Sheet()
    (start,) = sheet.add(as_bytes(image.unsqueeze(0)))
    every = torch.cat([path.z for path in paths.values()])
    places = [place for part in torch.split(every, BATCH) for place in sheet.add(as_bytes(model.decode(part).mean))]
    plane = Plane.through(z0, every)
    maps = [contours(model, k, plane, grid.steps) for k in grid.order]
    encoded, columns = sheet.encode()
    values: dict[str, Any] = {
        "start": start,
        "columns": columns,
        "half": short(plane.half),
        "share": round(plane.share, 3),
        "maps": [_pack(own) for own in maps],
        "faults": faults,
        "paths": {
            name: _numbers(path, plane, places[n * (grid.steps + 1) : (n + 1) * (grid.steps + 1)])
            for n, (name, path) in enumerate(paths.items())
        },
    }
    return Rendered(encoded, values)


def short(number: float) -> float | None:
    """Shorten a number to the digits of the page; what is not finite becomes None.

    Example:
        >>> short(0.123456), short(-12345.6), short(float("nan"))
        (0.1235, -12350.0, None)
    """
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else None


def _numbers(path: Path, plane: Plane, places: list[int]) -> Mapping[str, Any]:
    columns = {"xy": plane.project(path.z).flatten(), "speed": path.speed, "log": path.log_density, "fold": path.margin}
    return {"cells": places} | {name: [short(x) for x in values.tolist()] for name, values in columns.items()}


def _pack(values: Tensor) -> Mapping[str, Any]:
    """Pack maps as 16-bit numbers between their least and largest value, in base 64."""
    low, high = float(values.min()), float(values.max())
    scaled = ((values.double() - low) / max(high - low, 1e-30) * 65535).round().cpu().numpy().astype("<u2")
    return {"low": low, "high": high, "data": base64.b64encode(scaled.tobytes()).decode()}
