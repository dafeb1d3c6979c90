"""The distance of the flows of a model from optimal transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latentflow import FlowVAE, HopfLaxFlow, SlogDet, transport_certificate
from latentflow.transport import transport_defect
from latentflow_experiments.data import SequenceDataset, subsample
from latentflow_experiments.methods.method import FlowMotion
from latentflow_experiments.reports.tables import table

SAMPLES = 1024


BATCH = 128  # sequences at once in memory


UNBOUNDED = 1e6  # a ratio above it is infinite up to rounding: points move, their distribution does not


@dataclass(frozen=True)
class Optimality:
    r"""The transport of one transformation on a data set, in the units of the latent space, over :math:`T` unit steps.

    Attributes:
        cost: :math:`T \cdot E \int |\nabla u|^2 dt`, at least the displacement.
        displacement: :math:`E |z_T - z_0|^2`, at least :math:`W_2^2`.
        wasserstein: :math:`W_2` between the latents before and after.
        dual: The lower bound of :math:`W_2^2` by the potential itself; None after a shock, where there is none.
        ratio: The cost over :math:`W_2^2`, 1 for optimal transport; None where it is infinite.
        ratio_interval: Its bootstrap interval at 95 %; None where it is infinite.
        defect: The root mean square of the acceleration before each step, zero for optimal transport, in lengths per
            time squared.
        velocity: The root mean square of the velocity, in lengths per time.
        folded: The share of samples with a step that folds.
        samples: The number of samples.
    """

    cost: float
    displacement: float
    wasserstein: float
    dual: float | None
    ratio: float | None
    ratio_interval: tuple[float, float] | None
    defect: float
    velocity: float
    folded: float
    samples: int


def measure_optimality(flows: FlowMotion, data: SequenceDataset) -> dict[str, Optimality]:
    """Certify the flow of every transformation on the latents of the first images of its sequences.

    The latents start at the mean of the posterior. Of more than 1,024 images, that many are drawn from a fixed seed.

    Args:
        flows: The flows of a model in evaluation mode.
        data: The sequences.

    Returns:
        What was measured, by the name of the transformation.
    """
    with torch.no_grad():
        first = [_first_images(data, k) for k in range(len(data.names))]
        return {name: _measure(flows.model, first[k], flows.order[k], data.steps) for k, name in enumerate(data.names)}


def _first_images(data: SequenceDataset, k: int) -> Tensor:
    starts = subsample(data.starts(k), SAMPLES)
    return torch.cat([data.sequence(indices, k)[:, 0] for indices in torch.split(starts, BATCH)])


def _measure(model: FlowVAE, images: Tensor, k: int, steps: int) -> Optimality:
    flow = model.flow_of(k)
    z0 = model.encode(images).mean
    trajectory = flow.rollout(z0, steps, log_det=SlogDet(), on_fold="ignore")  # the share of folds is reported
    assert trajectory.folded is not None, "the rollout computes it"
    shocked = isinstance(flow, HopfLaxFlow) and bool(trajectory.folded.any())
    potential = None if shocked else flow.potential  # after a shock there is none
    certificate = transport_certificate(
        trajectory, potential, samples=SAMPLES, generator=torch.Generator().manual_seed(0)
    )
    times = trajectory.times[:-1].unsqueeze(-1)
    ratio, dual = float(certificate.ratio), certificate.dual
    low, high = certificate.ratio_interval.tolist()
    return Optimality(
        cost=float(certificate.cost),
        displacement=float(certificate.displacement),
        wasserstein=float(certificate.wasserstein),
        dual=None if dual is None else float(dual),
        ratio=ratio if ratio < UNBOUNDED else None,
        ratio_interval=(low, high) if ratio < UNBOUNDED else None,
        defect=0.0 if potential is None else float(transport_defect(potential, trajectory.z[:-1], times).mean().sqrt()),
        velocity=float((trajectory.action[-1].mean() / steps).sqrt()),
        folded=float(trajectory.folded.any(0).to(trajectory.z).mean()),
        samples=certificate.samples,
    )


def transport_table(result: dict[str, Optimality]) -> str:
    """Lay out the certificates as a table for the terminal, in Markdown."""
    header = ("transformation", "cost", "displacement", "W2^2", "dual", "cost / W2^2", "95 %", "acceleration", "folded")
    rows: list[tuple[str, ...]] = []
    for name, o in result.items():
        lengths = [f"{x:.3f}" for x in (o.cost, o.displacement, o.wasserstein**2)]
        dual = "" if o.dual is None else f"{o.dual:.3f}"
        ratio = "inf" if o.ratio is None else f"{o.ratio:.4f}"
        interval = "" if o.ratio_interval is None else "{:.4f} to {:.4f}".format(*o.ratio_interval)
        relative = o.defect / o.velocity if o.velocity > 0 else 0.0
        rows.append((name, *lengths, dual, ratio, interval, f"{relative:.4f}", f"{100 * o.folded:.1f} %"))
    return table(header, rows, left=0)


def certificate_in_words(entry: Mapping[str, Any]) -> str:
    """Say in words how far a flow is from optimal transport.

    Args:
        entry: An :class:`Optimality`, as the record of an evaluation holds it.

    Returns:
        A few sentences, of which the first begins with a small letter.

    Example:
        >>> entry = {"ratio": 1.0, "ratio_interval": [1.0, 1.0], "folded": 0.0, "samples": 360, "dual": 3.99}
        >>> print(certificate_in_words({**entry, "wasserstein": 2.0}))
        the cost is 1.0000 times W2^2, where 1 is optimal (1.0000 to 1.0000 at 95 %, from 360 samples). The map folds \
at none of the samples. The potential bounds W2^2 from below by 3.990; the estimate is 4.000.
    """
    if entry["ratio"] is None:
        words = ["the latents move and their distribution does not, so the flow is no optimal transport."]
    else:
        low, high = entry["ratio_interval"]
        words = [
            f"the cost is {entry['ratio']:.4f} times W2^2, where 1 is optimal ({low:.4f} to {high:.4f} at 95 %, from "
            f"{entry['samples']:,} samples)."
        ]
    if entry["folded"] > 0:
        words.append(
            f"At {100 * entry['folded']:.1f} % of the samples the map folds: there it may send two points to one, and "
            "is no optimal transport of a density."
        )
    else:
        words.append("The map folds at none of the samples.")
    if entry["dual"] is None:
        words.append("The potential gives no lower bound of W2^2.")
    else:
        words.append(
            f"The potential bounds W2^2 from below by {entry['dual']:.3f}; the estimate is "
            f"{entry['wasserstein'] ** 2:.3f}."
        )
    return " ".join(words)
