"""Maps of optimal transport by POT and OTT, between samples of the same pairs."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ot
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.record import describe_run
from benchmarks.transport.pairs import KnownPair

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
OTT_METHODS = ("entropic", "neural dual")
PYTHON = "OTT_PYTHON"
"""The environment variable with the interpreter that has OTT."""
POOL = 2**17
"""The samples of each side that the neural dual draws its batches from."""


def measure_others(kind: str, pair: KnownPair, minutes: float, seed: int) -> list[dict[str, Any]]:
    """Fit all of them to the same samples, and compare them with the optimal map on new points.

    Those of OTT need the environment variable ``OTT_PYTHON``, and are left out without it. Only its neural dual has a
    budget, in minutes of the CPU; the others end by themselves.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = (draw(POOL, generator) for draw in (pair.source, pair.target))
    new = pair.source(SAMPLES, torch.Generator().manual_seed(10_000 + seed))
    truth = pair.map(new).double().numpy()

    def row(name: str, images: NDArray[Any], seconds: float, versions: dict[str, str]) -> dict[str, Any]:
        return {
            "pair": kind,
            "dim": pair.dim,
            "seed": seed,
            "name": name,
            "forward": {"uvp": 100 * float(np.square(images - truth).sum(-1).mean()) / pair.variance},
            "seconds": seconds,
            "provenance": {**describe_run(), **versions},
        }

    rows = []
    few = [points[:SAMPLES].double().numpy() for points in (x, y)]
    for name, fit in METHODS.items():
        begin = time.process_time()
        images = fit(*few)(new.double().numpy())
        rows.append(row(name, images, time.process_time() - begin, {"POT": ot.__version__}))
    python = os.environ.get(PYTHON)
    for method in OTT_METHODS if python else ():
        images, said = map_by_ott(str(python), method, (x, y, new), 60 * minutes, seed)
        rows.append(row(f"OTT, {method}", images, said["seconds"], said["versions"]))
    return rows


def map_by_ott(
    python: str, method: str, arrays: tuple[Tensor, Tensor, Tensor], seconds: float, seed: int
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Fit one map of OTT to samples of both sides in its own interpreter, on one thread, and map the third array."""
    script = Path(__file__).with_name("ott_worker.py")
    one_thread = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "samples.npz")
        names = ("source", "target", "points")
        np.savez(file, **{name: points.numpy() for name, points in zip(names, arrays, strict=True)})
        command = [python, str(script), method, str(file), str(seconds), str(seed)]
        environment = {**os.environ, "XLA_FLAGS": one_thread}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        return np.load(Path(folder, "images.npy")), json.loads(done.stdout.splitlines()[-1])
