"""Sequences of scaled, rotated and coloured images."""

import math
from dataclasses import dataclass

import torch
from kornia.enhance import adjust_hue
from kornia.geometry.transform import get_rotation_matrix2d, warp_affine
from torch import Tensor

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

    def __call__(self, images: Tensor, k: Tensor | int) -> Tensor:
        """Make the sequence of each image.

        Args:
            images: Grey images, shape ``(b, h, w)``, uint8 from 0 to 255 or floating point from 0 to 1.
            k: Transformation of each image, shape ``(b,)``, int64, or one for all: 0 scaling, 1 rotation, 2 colouring.

        Returns:
            Frames in [0, 1], shape ``(b, T + 1, 3, h, w)``, float32, on the device of ``images``. Frame 0 is exactly
            the image in the red channel.

        Raises:
            ValueError: If ``images`` or ``k`` has another shape, dtype or range.
        """
        grey = _unit_interval(images)
        kinds = _per_image(k, images, len(self.names))
        still = [0.0] * self.steps
        frames = grey.new_zeros(len(grey), self.steps + 1, 3, *grey.shape[1:])
        frames[:, 0, 0] = grey
        for kind in range(len(self.names)):
            group = (kinds == kind).nonzero().squeeze(1)
            if len(group) == 0:
                continue
            if kind == 0:
                frames[group, 1:, 0] = _warp(grey[group], [*self.scales[1:]], still)
            elif kind == 1:
                frames[group, 1:, 0] = _warp(grey[group], [1.0] * self.steps, [*self.angles[1:]])
            else:
                frames[group, 1:] = grey[group, None, None] * _colours(grey, self.hues[1:])[..., None, None]
        return frames


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


def _per_image(k: Tensor | int, images: Tensor, count: int) -> Tensor:
    if isinstance(k, int):
        k = torch.full((len(images),), k)
    if k.shape != images.shape[:1]:
        raise ValueError(f"k: expected an int or shape ({len(images)},), got shape {tuple(k.shape)}")
    if k.dtype != torch.int64:
        raise ValueError(f"k: expected dtype torch.int64, got {k.dtype}")
    outside = k[(k < 0) | (k >= count)]
    if len(outside):
        raise ValueError(f"k: expected values from 0 to {count - 1}, got {int(outside[0])}")
    return k.to(images.device)


def _warp(grey: Tensor, scales: list[float], angles: list[float]) -> Tensor:
    """Scale and turn ``(n, h, w)`` images into ``(n, T, h, w)``; images are channels, so a state is sampled once."""
    height, width = grey.shape[1:]
    centre = grey.new_tensor([(width - 1) / 2, (height - 1) / 2])
    matrix = get_rotation_matrix2d(
        centre.expand(len(scales), 2), grey.new_tensor(angles), grey.new_tensor(scales)[:, None].expand(-1, 2)
    )
    warped = warp_affine(
        grey.expand(len(scales), *grey.shape),
        matrix,
        (height, width),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=True,
    )
    return warped.clamp(0, 1).transpose(0, 1)


def _colours(like: Tensor, hues: tuple[float, ...]) -> Tensor:
    """Turn pure red by each hue in degrees, shape ``(T, 3)``."""
    red = like.new_tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(len(hues), 3, 1, 1)
    turn = like.new_tensor([math.radians(hue % 360) for hue in hues])
    return adjust_hue(red, turn).clamp(0, 1).view(len(hues), 3)
