"""Images that are scaled, rotated and colored into sequences."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from kornia.enhance import adjust_hue
from kornia.geometry.transform import get_rotation_matrix2d, invert_affine_transform
from torch import Tensor

from latentflow_experiments.data.frames import FactorGrid
from latentflow_experiments.data.sequences import as_composed_kinds, as_kinds, as_states, interpolate, moving


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """One split of a data set of grey images with a class each.

    Args:
        images: Grey values 0 to 255, shape ``(n, 28, 28)``, uint8.
        labels: Class of each image, shape ``(n,)``, int64.
        name: Name of the data set.
        split: Name of the split.

    Raises:
        ValueError: If a tensor has another shape or dtype, or the numbers of images and labels differ.

    Example:
        >>> data = LabelledImages(torch.zeros(2, 28, 28, dtype=torch.uint8), torch.tensor([3, 7]), "blank", "train")
        >>> assert len(data) == 2
        >>> assert data.sha256().startswith("7fbcfcd8")
    """

    images: Tensor
    labels: Tensor
    name: str
    split: str

    def __post_init__(self) -> None:
        if self.images.ndim != 3 or self.images.shape[1:] != (28, 28):
            raise ValueError(f"images: expected shape (n, 28, 28), got {tuple(self.images.shape)}")
        if self.images.dtype != torch.uint8:
            raise ValueError(f"images: expected dtype torch.uint8, got {self.images.dtype}")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels: expected shape ({len(self.images)},), got {tuple(self.labels.shape)}")
        if self.labels.dtype != torch.int64:
            raise ValueError(f"labels: expected dtype torch.int64, got {self.labels.dtype}")

    def __len__(self) -> int:
        return len(self.images)

    def sha256(self) -> str:
        """Hash the pixels, to record which data a run used.

        Returns:
            SHA-256 of the pixel bytes in row-major order, 64 hexadecimal digits.
        """
        return hashlib.sha256(self.images.cpu().contiguous().numpy().tobytes()).hexdigest()

    def identity(self) -> dict[str, str]:
        """Name the data for the record of a run: name, split and SHA-256."""
        return {"name": self.name, "split": self.split, "sha256": self.sha256()}


@dataclass(frozen=True)
class TransformationSequences:
    r"""Turns grey images into sequences of one transformation each: scaling, rotation or coloring.

    With :math:`x_0` the image in the red channel and green and blue zero, frame :math:`t` is state :math:`t` of the
    transformation applied to :math:`x_0` itself, not to frame :math:`t - 1`. Scaling and rotation by
    :math:`(s_t, \theta_t)` read the red channel at

    .. math:: x_t(p) = x_0\bigl(c + s_t^{-1} R(\theta_t)^{-1} (p - c)\bigr)

    bilinearly, with zeros outside; a scale above 1 magnifies and a positive angle turns counter-clockwise. Coloring
    adds :math:`h_t` to the hue. Hue acts on the color of a pixel and not on its value, so that
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
        return ("scaling", "rotation", "coloring")

    @property
    def steps(self) -> int:
        """Number of steps ``T``, one less than the number of states."""
        return len(self.scales) - 1

    @staticmethod
    def of(states: int = 9, last_hue: float | None = None) -> TransformationSequences:
        """Return the paper's transformations with a number of states: 9, or 12 in its table 10.

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
            k: Transformation of each image, shape ``(b,)``, int64, or one for all: 0 scaling, 1 rotation, 2 coloring.
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
        """Make frames of images that are scaled, rotated and colored at once.

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
        known, which = torch.unique(states, return_inverse=True)  # (b, frames, 3) of a few distinct states
        scales, angles, hues = (
            [interpolate(values, state) for state in known.tolist()] for values in (self.scales, self.angles, self.hues)
        )
        scale, angle = grey.new_tensor(scales), grey.new_tensor(angles)
        red = grey[:, None].repeat(1, states.shape[1], 1, 1)
        moved = ((scale != 1)[which[..., 0]] | (angle != 0)[which[..., 1]]).nonzero(as_tuple=True)
        if len(moved[0]):
            pairs, grid = torch.unique(which[moved] @ which.new_tensor([len(known), 1, 0]), return_inverse=True)
            grids = _grids(scale[pairs // len(known)], angle[pairs % len(known)], grey.shape[1:])
            warped = F.grid_sample(grey[moved[0], None], grids[grid], padding_mode="zeros", align_corners=True)
            red[moved] = warped[:, 0].clamp(0, 1)
        return red[:, :, None] * _colors(grey, hues)[which[..., 2]][..., None, None]

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


def _grids(scale: Tensor, angle: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Compute where each pixel reads when an image is scaled and turned, ``(n, height, width, 2)`` in [-1, 1]."""
    height, width = shape
    centre = scale.new_tensor([(width - 1) / 2, (height - 1) / 2]).expand(len(scale), 2)
    matrix = get_rotation_matrix2d(centre, angle, scale[:, None].expand(-1, 2))
    inverse = invert_affine_transform(matrix)
    size = scale.new_tensor([width - 1, height - 1]).clamp(min=1)
    x = torch.arange(width, dtype=scale.dtype, device=scale.device)
    y = torch.arange(height, dtype=scale.dtype, device=scale.device)
    pixels = torch.stack([*torch.meshgrid(x, y, indexing="xy"), x.new_ones(height, width)], -1)
    return 2 * (pixels @ inverse.mT[:, None]) / size - 1


def _colors(like: Tensor, hues: Sequence[float]) -> Tensor:
    """Turn pure red by each hue in degrees, shape ``(n, 3)``; a hue of 0 is red to the last bit."""
    red = like.new_tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(len(hues), 3, 1, 1)
    turn = like.new_tensor([math.radians(hue % 360) for hue in hues])
    colors = adjust_hue(red, turn).clamp(0, 1)
    return torch.where(turn.view(-1, 1, 1, 1) == 0, red, colors).view(len(hues), 3)


SHOWN = (2, 3, 4, 5, 7)  # the digits of the examples


@dataclass(frozen=True, eq=False)
class TransformedImages:
    """Sequences made of a split of grey images by scaling, rotation and coloring.

    With a canonical start, an index is the number of an image, and the transformations that do not change stay in their
    first state: upright, unscaled and red. With a random start, an index also numbers the states of the
    transformations, the last one running fastest, so that a batch of random indices starts in random states.

    Args:
        images: The images.
        transformations: How they are transformed.
        names: The transformations in use, in the order of ``k``; all by default.
        start: In which state the transformations that do not change are.
        device: Where the frames are made.
        variants: Further images, shape ``(m, height, width)``, uint8, whose numbers follow those of ``images``; see
            :func:`draw_variants`. None for no further ones.

    Raises:
        ValueError: If a name is not that of a transformation, or comes twice.

    Example:
        >>> pixels = torch.full((2, 28, 28), 255, dtype=torch.uint8)
        >>> data = TransformedImages(LabelledImages(pixels, torch.tensor([0, 1]), "white", "train"), start="random")
        >>> assert len(data.starts(0)) == 2 * 9 * 9
        >>> frames = data.sequence(data.starts(0)[[6]], 0)  # coloring in its state 6: green
        >>> assert frames[0, 0, :, 14, 14].tolist() == [0.0, 1.0, 0.0]
    """

    images: LabelledImages
    transformations: TransformationSequences = field(default_factory=TransformationSequences)
    names: tuple[str, ...] = ()
    start: Literal["canonical", "random"] = "canonical"
    device: torch.device | str = "cpu"
    variants: Tensor | None = None

    def __post_init__(self) -> None:
        known = self.transformations.names
        if not self.names:
            object.__setattr__(self, "names", known)
        if len(set(self.names)) != len(self.names) or not set(self.names) <= set(known):
            raise ValueError(f"names: expected distinct ones of {', '.join(known)}, got {self.names}")

    @property
    def name(self) -> str:
        """The data set."""
        return self.images.name

    @property
    def split(self) -> str:
        """The split."""
        return self.images.split

    @property
    def steps(self) -> int:
        """The number of steps ``T``."""
        return self.transformations.steps

    @property
    def fractional(self) -> bool:
        """That :meth:`composed` takes states between two others."""
        return True

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a frame, ``(channels, height, width)``."""
        height, width = self.images.images.shape[1:]
        return 3, height, width

    @property
    def grid(self) -> FactorGrid:
        """The meaning of an index: the image and, with a random start, the states of the transformations in use."""
        count = len(self.images) + (0 if self.variants is None else len(self.variants))
        if self.start == "canonical":
            return FactorGrid(("image",), (count,))
        return FactorGrid(("image", *self.names), (count, *[self.steps + 1] * len(self.names)))

    def starts(self, k: int) -> Tensor:
        """List the sequences of one transformation: all images, in all states of the others if they are random."""
        grid = self.grid
        every = torch.arange(len(grid), device="cpu")
        if self.start == "canonical":
            return every
        return self._first_states(every, k)

    def composed_starts(self, kinds: Sequence[int]) -> Tensor:
        """List all images, with a random start in the first state of these transformations and all of the others."""
        first, *others = as_composed_kinds(kinds, len(self.names))
        indices = self.starts(first)
        if self.start == "random":
            for k in others:
                indices = self._first_states(indices, k)
        return indices

    def examples(self, k: int, count: int) -> Tensor:
        """Choose the first images of a few digits, of other images some at equal distances, in fixed random states."""
        labels = self.images.labels
        first = torch.cat([(labels == label).nonzero().flatten()[:1] for label in SHOWN])
        spread = torch.linspace(0, len(labels) - 1, min(count, len(labels))).long()
        chosen = first[:count] if len(first) == len(SHOWN) else spread
        if self.start == "canonical":
            return chosen
        states = torch.randint(
            self.steps + 1, (len(chosen), len(self.names)), generator=torch.Generator().manual_seed(0)
        )
        states[:, k] = 0
        return torch.from_numpy(self.grid.encode(torch.cat([chosen[:, None], states], 1).numpy()))

    def sequence(self, indices: Tensor, k: Tensor | int) -> Tensor:
        """Make sequences.

        Args:
            indices: Which images, and with a random start which states, shape ``(b,)``, int64.
            k: The transformation of each, shape ``(b,)``, int64, or one for all.

        Returns:
            Frames in [0, 1], shape ``(b, T + 1, 3, height, width)``, float32.

        Raises:
            ValueError: If ``indices`` or ``k`` has another shape or dtype, or is out of range.
        """
        kinds = as_kinds(k, len(indices), len(self.names)).to(self.device)
        grey, start = self._decode(indices)
        return self.transformations(grey, self._places[kinds], start)

    def composed(self, indices: Tensor, states: Tensor) -> Tensor:
        """Make sequences in which several transformations act at once, each on the image itself.

        Scale, angle and hue between two states are interpolated linearly. A transformation that is in state 0 in all
        frames stays in its first state, or with a random start in the state that the index says.

        Args:
            indices: Which images, and with a random start which states, shape ``(b,)``, int64.
            states: State of each transformation in use in each frame, shape ``(frames, K)``, int64 or floating point
                from 0 to ``T``.

        Returns:
            Frames in [0, 1], shape ``(b, frames, 3, height, width)``, float32.

        Raises:
            ValueError: If ``indices`` or ``states`` has another shape or dtype, or is out of range.

        Example:
            >>> pixels = torch.full((1, 28, 28), 255, dtype=torch.uint8)
            >>> data = TransformedImages(LabelledImages(pixels, torch.tensor([0]), "white", "test"))
            >>> frames = data.composed(torch.tensor([0]), torch.tensor([[0.0, 0.0, 0.0], [8.0, 2.5, 6.0]]))
            >>> assert frames[0, :, :, 14, 14].tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]  # red, then green
        """
        states = as_states(states, len(self.names), self.steps)
        grey, start = self._decode(indices)
        every = start[:, None].repeat(1, len(states), 1).to(states.dtype)
        for k in moving(states):
            every[..., self._places[k]] = states[:, k].to(every.device)
        return self.transformations.composed(grey, every)

    def to(self, device: torch.device | str) -> Self:
        """Return the same data set with its images and frames on a device."""
        images = replace(self.images, images=self.images.images.to(device))
        variants = None if self.variants is None else self.variants.to(device)
        return replace(self, images=images, device=device, variants=variants)

    def identity(self) -> dict[str, Any]:
        """Name the data for the record of a run: name, split and SHA-256 of the images, without variants."""
        return dict(self.images.identity())

    @property
    def _places(self) -> Tensor:
        """The place of each transformation in use among all."""
        return torch.tensor([self.transformations.names.index(name) for name in self.names], device=self.device)

    def _decode(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Read images, and the states ``(b, 3)`` of all transformations in them."""
        digits = torch.from_numpy(self.grid.decode(indices.cpu().numpy())).to(self.device)
        start = digits.new_zeros(len(digits), len(self.transformations.names))
        if self.start == "random":
            start[:, self._places] = digits[:, 1:]
        return self._read(digits[:, 0]), start

    def _read(self, numbers: Tensor) -> Tensor:
        """Read images, and variants by numbers from the number of images on."""
        images, count = self.images.images, len(self.images)
        if self.variants is None:
            return images[numbers]
        grey = images[numbers.clamp(max=count - 1)]
        further = numbers >= count
        grey[further] = self.variants[numbers[further] - count]
        return grey

    def _first_states(self, indices: Tensor, k: int) -> Tensor:
        """Keep the indices that are in the first state of a transformation, where they number states."""
        j = 1 + k
        return indices[indices // self.grid.bases[j] % self.grid.sizes[j] == 0]
