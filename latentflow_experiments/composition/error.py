"""The error of composed flows: how far their frames are from images that are transformed so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from latentflow import FlowVAE, InversionError
from latentflow_experiments.composition.lists import (
    Composition,
    backwards,
    half_strengths,
    superpositions,
    switchings,
)
from latentflow_experiments.composition.measuring import LIMIT, batched_starts, check_order, encode_first, evaluating
from latentflow_experiments.data import SequenceDataset
from latentflow_experiments.equivariance import sum_per_image
from latentflow_experiments.markdown import lay_out

__all__ = ["CompositionError", "composition_table", "measure_compositions"]


@dataclass(frozen=True)
class CompositionError:
    r"""The errors of a composition, each the mean over images of a sum over its frames but the first.

    Attributes:
        output: :math:`E = \sum_t |x_t - \mathrm{Dec}(z_t)|_1` over pixels and channels in [0, 1].
        output_standard_error: The standard error of that mean over the images; None for a single image.
        output_per_pixel: ``output`` divided by the frames of the sum and the pixel values of an image.
        static: ``output`` for a latent that stays where the path starts.
        reconstruction: The reference :math:`|x_0 - \mathrm{Dec}(\mu(x_0))|_1` for the first image, once for each frame
            of the sum.
        images: The number of first images.
        frames: The number of frames of the sum: ``T``, or every second one where only those have a truth.
    """

    output: float
    output_standard_error: float | None
    output_per_pixel: float
    static: float
    reconstruction: float
    images: int
    frames: int


def measure_compositions(
    model: FlowVAE, order: tuple[int, ...], data: SequenceDataset, batch_size: int = 250, limit: int = LIMIT
) -> dict[str, CompositionError | None]:
    r"""Measure compositions of all kinds: switches, superpositions, half strengths and ways back.

    The latent starts at the mean of the posterior of the first image, :math:`z_0 = \mu(x_0)`.

    Args:
        model: The model; it is used in evaluation mode and left in the mode that it was in.
        order: The index in the bank of the potential of each transformation.
        data: The sequences, with at least 2 steps.
        batch_size: Sequences in a batch; it changes the result by roundoff only.
        limit: The number of first images of a composition, at most; of more, so many are drawn from a fixed seed.

    Returns:
        The errors by the name of the composition; None where a flow cannot be continued, as paths have met.

    Raises:
        ValueError: If ``order`` does not fit the data or the bank, there are less than 2 steps or no first images, or
            ``batch_size`` or ``limit`` is not a positive integer.

    Example:
        >>> from latentflow import DiffusionPrior, MLPDecoder, MLPEncoder, MLPPotential, PotentialBank
        >>> from latentflow_experiments.data import open_sequences
        >>> data = open_sequences("digits", "test")
        >>> bank = PotentialBank([MLPPotential(4, (8,)) for _ in data.names])
        >>> encoder, decoder = MLPEncoder(data.shape, 4), MLPDecoder(4, data.shape)
        >>> model = FlowVAE(encoder, decoder, bank, DiffusionPrior(4, fields=len(bank)), residual=None)
        >>> errors = measure_compositions(model, (0, 1, 2), data, limit=2)
        >>> error = errors["scaling + rotation"]
        >>> assert error is not None and error.images == 2 and error.frames == data.steps
    """
    check_order(model, order, data)
    names, steps = data.names, data.steps
    every = [
        *switchings(names, order, steps),
        *superpositions(names, order, steps),
        *half_strengths(names, order, steps, fractional=data.fractional),
        *backwards(names, order, steps),
    ]
    data = data.to(next(model.parameters()).device)
    with evaluating(model):
        return {
            c.name: _measure(model, data, c, batched_starts(data, c.kinds, limit, batch_size))
            for c in tqdm(every, unit="composition", desc="compositions")
        }


def composition_table(result: dict[str, CompositionError | None]) -> str:
    """Lay out the errors of compositions as a table in Markdown.

    Args:
        result: The errors by the name of the composition; None where paths have met.

    Returns:
        The table, a row for each composition.

    Example:
        >>> error = CompositionError(8.0, 0.5, 0.01, 20.0, 6.0, images=9, frames=4)
        >>> *_, last = composition_table({"hue + size": error}).splitlines()
        >>> assert [c.strip() for c in last.split("|")[1:4]] == ["hue + size", "8.00", "0.50"]
    """
    rows: list[tuple[str, ...]] = [("composition", "E", "s.e.", "static", "reconstruction", "E / (T P)", "T", "images")]
    for name, e in result.items():
        if e is None:
            rows.append((name, "paths meet", *[""] * 6))
            continue
        deviation = "" if e.output_standard_error is None else f"{e.output_standard_error:.2f}"
        sums = (f"{e.output:.2f}", deviation, f"{e.static:.2f}", f"{e.reconstruction:.2f}", f"{e.output_per_pixel:.5f}")
        rows.append((name, *sums, str(e.frames), str(e.images)))
    return lay_out(rows)


def _measure(
    model: FlowVAE, data: SequenceDataset, composition: Composition, batches: Sequence[Tensor]
) -> CompositionError | None:
    output, static, reconstruction, frames = [], [], [], composition.frames
    for indices in batches:
        first, z0 = encode_first(model, data, indices)
        truth = data.composed(indices, composition.states)[:, 1:]
        try:
            path = composition.drive.path(model, z0, data.steps)
        except InversionError:
            return None
        decoded = model.decode(path[list(composition.times)]).mean.transpose(0, 1)
        output.append(sum_per_image(decoded[:, 1:] - truth))
        static.append(sum_per_image(decoded[:, :1] - truth))
        reconstruction.append(frames * sum_per_image(model.decode(z0).mean - first[:, 0]))
    errors = torch.cat(output)
    count = len(errors)
    return CompositionError(
        output=float(errors.mean()),
        output_standard_error=float(errors.std() / count**0.5) if count > 1 else None,
        output_per_pixel=float(errors.mean() / (frames * first[0].numel())),
        static=float(torch.cat(static).mean()),
        reconstruction=float(torch.cat(reconstruction).mean()),
        images=count,
        frames=frames,
    )
