"""Maps of optimal transport by POT, between samples of the same pairs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ot
import torch
from numpy.typing import NDArray

from benchmarks.record import describe_run
from benchmarks.transport.pairs import GaussianPair, MixturePair

Map = Callable[[NDArray[Any]], NDArray[Any]]
SAMPLES = 4096
"""The samples that a map is fitted to: their costs make a matrix."""


def linear(x: NDArray[Any], y: NDArray[Any]) -> Map:
    """Fit the optimal map between Gaussians with the moments of the samples."""
    fitted = ot.da.LinearTransport(reg=1e-8).fit(Xs=x, Xt=y)
    return lambda points: fitted.transform(Xs=points)


def assigned(x: NDArray[Any], y: NDArray[Any]) -> Map:
    """Fit the exact plan; a new point moves as its nearest sample does."""
    fitted = ot.da.EMDTransport(max_iter=2_000_000, out_of_sample_map="ferradans").fit(Xs=x, Xt=y)
    return lambda points: fitted.transform(Xs=points)


def entropic(x: NDArray[Any], y: NDArray[Any]) -> Map:
    """Fit the entropic plan at a twentieth of the mean cost; a new point goes to its barycenter."""
    cost = float(ot.dist(x, y).mean())
    fitted = ot.da.SinkhornTransport(
        reg_e=0.05 * cost, max_iter=500, method="sinkhorn_log", out_of_sample_map="continuous"
    ).fit(Xs=x, Xt=y)
    return lambda points: fitted.transform(Xs=points)


METHODS = {"POT, linear": linear, "POT, exact": assigned, "POT, entropic": entropic}


def measure_others(kind: str, pair: MixturePair | GaussianPair, seed: int) -> list[dict[str, Any]]:
    """Fit all of them to the same samples, and compare them with the optimal map on new points."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (draw(SAMPLES, generator).double().numpy() for draw in (pair.source, pair.target))
    new = pair.source(SAMPLES, torch.Generator().manual_seed(10_000 + seed))
    truth = pair.map(new).double().numpy()
    rows = []
    for name, fit in METHODS.items():
        begin = time.process_time()
        images = fit(x, y)(new.double().numpy())
        seconds = time.process_time() - begin
        error = 100 * float(np.square(images - truth).sum(-1).mean()) / pair.variance
        rows.append(
            {
                "pair": kind,
                "dim": pair.dim,
                "seed": seed,
                "name": name,
                "forward": {"uvp": error},
                "seconds": seconds,
                "samples": SAMPLES,
                "provenance": {**describe_run(), "POT": ot.__version__},
            }
        )
    return rows
