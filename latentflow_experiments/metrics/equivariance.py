"""The equivariance error: the distance from the frames of a flow to the transformed images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from latentflow_experiments.data import SequenceDataset, subsample
from latentflow_experiments.methods.method import Motion
from latentflow_experiments.reports.tables import table

LIMIT = 10_000  # sequences of each transformation


@dataclass(frozen=True)
class EquivarianceError:
    r"""The errors of one transformation, each the mean over images of a sum over the steps :math:`t = 1, \dots, T`.

    Attributes:
        output: :math:`E_k = \sum_t |x_t - \mathrm{Dec}(z_t)|_1` over pixels and channels in [0, 1].
        output_standard_error: The standard error of that mean over the images; infinite for one image.
        output_interval: Its bootstrap interval at 95 %.
        output_per_pixel: ``output`` divided by the steps and the pixel values of an image.
        static: ``output`` for the static latent :math:`z_t = z_0`.
        latent: :math:`\sum_t |\mu(x_t) - z_t|_1` over the latent coordinates.
        latent_scaled: ``latent`` with every coordinate divided by the standard deviation of :math:`\mu(x_0)` over
            the images; a coordinate that does not vary is left out.
        latent_static: ``latent`` for the static latent.
        output_by_step: The terms of ``output``, one for each step; empty in records from before they were measured.
        static_by_step: Those of ``static``.
    """

    output: float
    output_standard_error: float
    output_interval: tuple[float, float]
    output_per_pixel: float
    static: float
    latent: float
    latent_scaled: float
    latent_static: float
    output_by_step: tuple[float, ...] = ()
    static_by_step: tuple[float, ...] = ()


@dataclass(frozen=True)
class Equivariance:
    r"""The errors of all transformations.

    Attributes:
        errors: The errors, by the name of the transformation.
        reconstruction: The reference :math:`T \cdot |x_0 - \mathrm{Dec}(\mu(x_0))|_1`, averaged over the first images:
            what an error would be if every frame were as hard as the first and as well reconstructed.
        images: The number of first images of each transformation.
        steps: The number of steps ``T``.
    """

    errors: dict[str, EquivarianceError]
    reconstruction: float
    images: int
    steps: int


def measure_equivariance(motion: Motion, data: SequenceDataset, batch_size: int = 250) -> Equivariance:
    r"""Measure the equivariance error over a data set.

    The latent starts at the mean of the posterior, :math:`z_0 = \mu(x_0)` for all methods but the topographic VAE. All
    sums are exact sample sums: a short last batch counts by its size, and every transformation starts anew. All
    transformations are measured on the same number of sequences: as many as the split has of each, at most 10,000,
    drawn from a fixed seed if it has more.

    Args:
        motion: The motion of a model in evaluation mode.
        data: The sequences.
        batch_size: Sequences in a batch; it changes the result by roundoff only.

    Returns:
        The errors.
    """
    starts = [data.starts(k) for k in range(len(data.names))]
    count = min(LIMIT, *map(len, starts))
    with torch.inference_mode(), tqdm(total=len(starts) * count, unit="image", desc="equivariance") as bar:
        measured = [_measure(motion, data, k, subsample(s, count), batch_size, bar) for k, s in enumerate(starts)]
    errors = {name: error for name, (error, _) in zip(data.names, measured, strict=True)}
    reconstruction = sum(reference for _, reference in measured) / len(measured)
    return Equivariance(errors, reconstruction, count, data.steps)


def _measure(
    motion: Motion, data: SequenceDataset, k: int, starts: Tensor, batch_size: int, bar: tqdm[Any]
) -> tuple[EquivarianceError, float]:
    """Measure one transformation; return its errors and the reconstruction reference."""
    steps = data.steps
    output, static, reconstruction, latent, latent_static, means = [], [], [], [], [], []
    for indices in torch.split(starts, batch_size):
        frames = data.sequence(indices, k)
        encoded = motion.infer(frames).transpose(0, 1)
        latents = motion.follow(motion.start(frames), k, steps)
        flowed, decoded = latents.transpose(0, 1), motion.decode(latents).mean.transpose(0, 1)
        output.append(sum_per_frame(decoded[:, 1:] - frames[:, 1:]))
        static.append(sum_per_frame(decoded[:, :1] - frames[:, 1:]))
        reconstruction.append(steps * sum_per_image(decoded[:, :1] - frames[:, :1]))
        latent.append(_per_coordinate(flowed[:, 1:] - encoded[:, 1:]))
        latent_static.append(_per_coordinate(flowed[:, :1] - encoded[:, 1:]))
        means.append(encoded[:, 0].double().cpu())
        bar.update(len(indices))
    by_step, static_by_step, count = torch.cat(output), torch.cat(static), len(starts)
    errors = by_step.sum(1)
    coordinates = torch.stack(latent).sum(0) / count
    scale = torch.cat(means).std(0, correction=0)
    return EquivarianceError(
        output=float(errors.mean()),
        output_standard_error=float(errors.std() / count**0.5) if count > 1 else math.inf,
        output_interval=bootstrap_interval(errors),
        output_per_pixel=float(errors.mean() / (steps * frames[0, 0].numel())),
        static=float(static_by_step.sum(1).mean()),
        latent=float(coordinates.sum()),
        latent_scaled=float((coordinates / scale)[scale > 0].sum()),
        latent_static=float(torch.stack(latent_static).sum() / count),
        output_by_step=tuple(by_step.mean(0).tolist()),
        static_by_step=tuple(static_by_step.mean(0).tolist()),
    ), float(torch.cat(reconstruction).mean())


def bootstrap_interval(values: Tensor, resamples: int = 1000) -> tuple[float, float]:
    """Compute the percentile interval at 95 % of the mean of values, from resamples drawn with a fixed seed.

    Args:
        values: Independent values, of shape ``(n,)``.
        resamples: The number of resamples.

    Returns:
        The 2.5 % and the 97.5 % quantile of the means of the resamples.

    Example:
        >>> low, high = bootstrap_interval(torch.linspace(-1, 1, 401))  # a standard error of 0.029
        >>> assert -0.07 < low < -0.04 < 0.04 < high < 0.07
    """
    generator = torch.Generator().manual_seed(0)
    double, count = values.double().cpu(), len(values)
    means = torch.stack([double[torch.randint(count, (count,), generator=generator)].mean() for _ in range(resamples)])
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def sum_per_image(difference: Tensor) -> Tensor:
    """Sum absolute differences over frames, channels and pixels, for each image."""
    return difference.abs().flatten(1).sum(1, dtype=torch.float64).cpu()


def sum_per_frame(difference: Tensor) -> Tensor:
    """Sum absolute differences over channels and pixels, for each image and frame."""
    return difference.abs().flatten(2).sum(2, dtype=torch.float64).cpu()


def _per_coordinate(difference: Tensor) -> Tensor:
    """Sum absolute differences over images and frames, for each latent coordinate."""
    return difference.abs().sum((0, 1), dtype=torch.float64).cpu()


def equivariance_table(result: Equivariance) -> str:
    """Lay out the errors as a table for the terminal, in Markdown."""
    header = ("transformation", "E_k", "95 %", "static", "E_k / (T P)", "latent", "latent / sd", "static latent")
    rows: list[tuple[str, ...]] = []
    for name, e in result.errors.items():
        low, high = e.output_interval
        numbers = (e.static, e.output_per_pixel, e.latent, e.latent_scaled, e.latent_static)
        formats = (".2f", ".5f", ".2f", ".2f", ".2f")
        cells = (format(number, form) for number, form in zip(numbers, formats, strict=True))
        rows.append((name, f"{e.output:.2f}", f"{low:.2f} to {high:.2f}", *cells))
    reference = f"T * mean |x_0 - Dec(mu(x_0))| = {result.reconstruction:.2f}"
    counts = f"{result.images} images, T = {result.steps}"
    return f"{table(header, rows, left=0)}\n\nreconstruction reference {reference}, {counts}"
