"""Sequences of scaled, rotated and coloured images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from kornia.enhance import adjust_hue
from kornia.geometry.transform import get_rotation_matrix2d, warp_affine
from torch import Tensor

from latentflow_experiments.data.composed import as_states, interpolate
from latentflow_experiments.data.sequence_dataset import as_kinds

__all__ = ["TransformationSequences"]


@dataclass(frozen=True)
class TransformationSequences:
    r"""Turns grey images into sequences of one transformation each: scaling, rotation or colouring.

    With :math:`x_0` the image in the red channel and green and blue zero, frame :math:`t` is state :math:`t` of the
    transformation applied to :math:`x_0` itself, not to frame :math:`t - 1`. Scaling and rotation by
    :math:`(s_t, \theta_t)` read the red channel at

    .. math:: x_t(p) = x_0\bigl(c + s_t^{-1} R(\theta_t)^{-1} (p - c)\bigr)

    bilinearly, with zeros outside; a scale above 1 magnifies and a positive angle turns counter-clockwise. Colouring
    adds :math:`h_t` to the hue. Hue acts on the colour of a pixel and not on its value, so that
    :math:`x_t(p) = x_0(p) \, \mathrm{rgb}(h_t)`, where :math:`\mathrm{rgb}(h)` is pure red turned by :math:`h`:
    :math:`(1, h/60, 0)` up to 60 degrees, :math:`(2 - h/60, 1, 0)` up to 120, :math:`(0, 1, (h - 120)/60)` up to 180.

    The centre :math:`c` is that of the pixel grid, :math:`((w - 1)/2, (h - 1)/2)`, 13.5 for MNIST. The paper's code
    uses 14, which lets the image drift by up to 0.4 pixels along a sequence.

    Args:
        scales: Scale of each state, positive, starting at 1.
        angles: Angle of each state in degrees, starting at 0.
        hues: Hue shift of each state in degrees, starting at 0.

    Raises:
        ValueError: If the three do not have the same number of states, at least two, or are not as described.

    References:
        Y. Song, T. A. Keller, N. Sebe and M. Welling, Flow Factorized Representation Learning, 2023; states as in the
        authors' code.

    Example:
        >>> sequences = TransformationSequences(scales=(1.0, 2.0), angles=(0.0, 90.0), hues=(0.0, 120.0))
        >>> image = torch.tensor([[[0, 255], [0, 0]]], dtype=torch.uint8)
        >>> frames = sequences(image, 1)
        >>> assert frames.shape == (1, 2, 3, 2, 2)
        >>> assert torch.equal(frames[0, 0, 0], torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        >>> assert torch.allclose(frames[0, 1, 0], torch.tensor([[1.0, 0.0], [0.0, 0.0]]), atol=1e-6)
    """

    scales: tuple[float, ...] = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8)
    angles: tuple[float, ...] = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)
    hues: tuple[float, ...] = (0.0, 20.0, 40.0, 60.0, 80.0, 100.0, 120.0, 140.0, 160.0)

    def __post_init__(self) -> None:
        lengths = (len(self.scales), len(self.angles), len(self.hues))
        if len(set(lengths)) > 1 or lengths[0] < 2:
            raise ValueError(f"scales, angles, hues: expected one length of at least 2, got lengths {lengths}")
        for name, states, identity in (("scales", self.scales, 1), ("angles", self.angles, 0), ("hues", self.hues, 0)):
            if states[0] != identity:
                raise ValueError(f"{name}: expected the first state to be the identity {identity}, got {states[0]}")
            if not all(math.isfinite(state) for state in states):
                raise ValueError(f"{name}: expected finite states, got {states}")
        if min(self.scales) <= 0:
            raise ValueError(f"scales: expected positive states, got {self.scales}")

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each transformation, in the order of ``k``."""
        return ("scaling", "rotation", "colouring")

    @property
    def steps(self) -> int:
        """Number of steps ``T``, one less than the number of states."""
        return len(self.scales) - 1

    @staticmethod
    def of(states: int = 9, last_hue: float | None = None) -> TransformationSequences:
        """Give the paper's transformations with a number of states: 9, or 12 in its table 10.

        Args:
            states: The number of states, at least 2; scales rise by 0.1, angles by 10 degrees.
            last_hue: Hue shift of the last state in degrees, the others at equal distances below; None for 20 degrees
                a state. The paper's text goes to 340, its code to 160.

        Returns:
            The transformations.

        Raises:
            ValueError: If there are fewer than two states.

        Example:
            >>> assert TransformationSequences.of() == TransformationSequences()
            >>> assert TransformationSequences.of(12).scales[-1] == 2.1
            >>> assert TransformationSequences.of(last_hue=340.0).hues[:2] == (0.0, 42.5)
        """
        if states < 2:
            raise ValueError(f"states: expected at least 2, got {states}")
        hue = 20.0 if last_hue is None else last_hue / (states - 1)
        return TransformationSequences(
            scales=tuple((10 + t) / 10 for t in range(states)),
            angles=tuple(10.0 * t for t in range(states)),
            hues=tuple(hue * t for t in range(states)),
        )

    def __call__(self, images: Tensor, k: Tensor | int, start: Tensor | None = None) -> Tensor:
        """Make the sequence of each image.

        Args:
            images: Grey images, shape ``(b, h, w)``, uint8 from 0 to 255 or floating point from 0 to 1.
            k: Transformation of each image, shape ``(b,)``, int64, or one for all: 0 scaling, 1 rotation, 2 colouring.
            start: The state of each transformation that does not change, shape ``(b, 3)``, int64; the entry of the one
                that changes does not matter. None for the first state of all.

        Returns:
            Frames in [0, 1], shape ``(b, T + 1, 3, h, w)``, float32, on the device of ``images``. A frame in the first
            state of all transformations is exactly the image in the red channel.

        Raises:
            ValueError: If ``images``, ``k`` or ``start`` has another shape, dtype or range.
        """
        grey = _unit_interval(images)
        count, frames = len(grey), self.steps + 1
        kinds = as_kinds(k, count, len(self.names)).to(grey.device)
        state = self._checked(start, count).to(grey.device)[:, None].repeat(1, frames, 1)  # (b, T + 1, 3)
        state[torch.arange(count, device=grey.device), :, kinds] = torch.arange(frames, device=grey.device)
        return self._render(grey, state)

    def composed(self, images: Tensor, states: Tensor) -> Tensor:
        """Make frames of images that are scaled, rotated and coloured at once.

        Between two states, scale, angle and hue are interpolated linearly.

        Args:
            images: Grey images, shape ``(b, h, w)``, uint8 from 0 to 255 or floating point from 0 to 1.
            states: State of each transformation in each frame, shape ``(b, frames, 3)``, int64 or floating point.

        Returns:
            Frames in [0, 1], shape ``(b, frames, 3, h, w)``, float32, on the device of ``images``.

        Raises:
            ValueError: If ``images`` or ``states`` has another shape, dtype or range.

        Example:
            >>> sequences, image = TransformationSequences(), torch.rand(1, 5, 5)
            >>> frames = sequences.composed(image, torch.tensor([[[0.0, 0.0, 6.0], [0.5, 2.0, 0.0]]]))
            >>> assert torch.allclose(frames[0, 0, 1], image[0], atol=1e-6)  # a hue of 120 degrees is green
            >>> assert torch.equal(sequences.composed(image, torch.zeros(1, 1, 3))[0, 0, 0], image[0])
        """
        grey = _unit_interval(images)
        if states.ndim != 3 or states.shape[::2] != (len(grey), len(self.names)):
            raise ValueError(f"states: expected shape ({len(grey)}, frames, 3), got {tuple(states.shape)}")
        return self._render(grey, as_states(states.flatten(0, 1), 3, self.steps).view(states.shape).to(grey.device))

    def _render(self, grey: Tensor, states: Tensor) -> Tensor:
        """Make the frame of each state ``(b, frames, 3)``."""
        known, which = torch.unique(states, return_inverse=True)
        scale, angle, hue = (
            [interpolate(values, state) for state in known.tolist()] for values in (self.scales, self.angles, self.hues)
        )
        scales, angles = grey.new_tensor(scale)[which[..., 0]], grey.new_tensor(angle)[which[..., 1]]
        red = grey[:, None].repeat(1, states.shape[1], 1, 1)
        moved = ((scales != 1) | (angles != 0)).nonzero(as_tuple=True)
        if len(moved[0]):
            red[moved] = _warp(grey[moved[0]], scales[moved], angles[moved])
        return red[:, :, None] * _colours(grey, hue)[which[..., 2]][..., None, None]

    def _checked(self, start: Tensor | None, count: int) -> Tensor:
        if start is None:
            return torch.zeros(count, len(self.names), dtype=torch.int64)
        if start.shape != (count, len(self.names)):
            raise ValueError(f"start: expected shape ({count}, {len(self.names)}), got {tuple(start.shape)}")
        if start.dtype != torch.int64:
            raise ValueError(f"start: expected dtype torch.int64, got {start.dtype}")
        outside = start[(start < 0) | (start > self.steps)]
        if len(outside):
            raise ValueError(f"start: expected states from 0 to {self.steps}, got {int(outside[0])}")
        return start


def _unit_interval(images: Tensor) -> Tensor:
    if images.ndim != 3:
        raise ValueError(f"images: expected shape (b, h, w), got {tuple(images.shape)}")
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise ValueError(f"images: expected dtype torch.uint8 or floating point, got {images.dtype}")
    if images.numel() and not bool(((images >= 0) & (images <= 1)).all()):
        low, high = images.min().item(), images.max().item()
        raise ValueError(f"images: expected floating-point values from 0 to 1, got {low:g} to {high:g}")
    return images.float()


def _warp(grey: Tensor, scale: Tensor, angle: Tensor) -> Tensor:
    """Scale and turn ``(n, h, w)`` images, each by its own scale and angle in degrees."""
    height, width = grey.shape[1:]
    centre = grey.new_tensor([(width - 1) / 2, (height - 1) / 2]).expand(len(grey), 2)
    matrix = get_rotation_matrix2d(centre, angle, scale[:, None].expand(-1, 2))
    warped = warp_affine(
        grey[:, None], matrix, (height, width), mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return warped[:, 0].clamp(0, 1)


def _colours(like: Tensor, hues: Sequence[float]) -> Tensor:
    """Turn pure red by each hue in degrees, shape ``(n, 3)``; a hue of 0 is red to the last bit."""
    red = like.new_tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(len(hues), 3, 1, 1)
    turn = like.new_tensor([math.radians(hue % 360) for hue in hues])
    colours = adjust_hue(red, turn).clamp(0, 1)
    return torch.where(turn.view(-1, 1, 1, 1) == 0, red, colours).view(len(hues), 3)
