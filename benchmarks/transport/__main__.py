"""Fit transport maps between pairs whose answer is known, and say how far they are from it.

``python -m benchmarks.transport mixture 16 --minutes 15 --seed 0`` measures one pair and adds it to the numbers;
``--render`` writes the page again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import ROOT, describe_run
from benchmarks.transport.others import measure_others
from benchmarks.transport.page import render
from benchmarks.transport.pairs import ClusterPair, GaussianPair, KnownPair, MixturePair
from benchmarks.transport.picture import draw
from latentflow.transport import (
    DualPotential,
    OptimalFlowMatching,
    Reflow,
    TransportMap,
    TransportMethod,
    fit_transport,
    pair_certificate,
)
from latentflow_experiments.records import write_text

NUMBERS = ROOT / "docs" / "results" / "transport.json"
POINTS = 2**14
"""The points that a map is compared on."""
FEW, MANY, USUAL = 2, 2**18, 2**15
"""The samples of the certificate: many where coordinates are few, since the noise of a mean is all its width there."""
TRUTH_POINTS = 2**18
"""The points of the source by which the true distance is computed."""

DRAWN: dict[str, Callable[..., KnownPair]] = {"gaussian": GaussianPair.draw, "clusters": ClusterPair.draw}
"""The pairs that no file has, by name."""


def load_pair(kind: str, dim: int) -> KnownPair:
    """Load a pair of mixtures from ``$LATENTFLOW_DATA/w2_benchmark``, or draw another one."""
    if kind in DRAWN:
        return DRAWN[kind](dim, seed=0)
    folder = os.environ.get("LATENTFLOW_DATA")
    if folder is None:
        raise SystemExit("LATENTFLOW_DATA: expected the folder that holds w2_benchmark, got none")
    return MixturePair.load(Path(folder, "w2_benchmark", f"{dim}.npz"))


def compare(found: Tensor, truth: Tensor, start: Tensor, variance: float) -> dict[str, float]:
    """Compare a map with the optimal one: the unexplained variance in percent, and the cosine of the displacements."""
    error = 100 * float((found - truth).square().sum(-1).mean()) / variance
    ours, theirs = found - start, truth - start
    cosine = float((ours * theirs).sum() / (ours.norm() * theirs.norm()))
    return {"uvp": error, "cosine": cosine}


def evaluate(transport: TransportMap, pair: KnownPair, seed: int) -> dict[str, Any]:
    """Compare a map and its inverse with the optimal ones on points that no training saw."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    x = pair.source(POINTS, generator)
    y = pair.map(x)
    with torch.no_grad():
        images = transport.map(x)
    many = pair.source(TRUTH_POINTS, generator)
    cost = (many - pair.map(many)).square().sum(-1)
    return {
        "forward": compare(images, y, x, pair.variance),
        "inverse": compare(transport.inverse(y), x, y, float(x.var(0).sum())),
        "truth": float(cost.mean()),
        "truth_error": float(cost.std() / TRUTH_POINTS**0.5),
    }


METHODS: dict[str, TransportMethod | list[TransportMethod]] = {
    "latentflow": DualPotential(),
    "latentflow, reflow": Reflow(rounds=2),
    "latentflow, optimal flow matching": OptimalFlowMatching(),
    "latentflow, reflow and dual": [Reflow(rounds=1, share=1.0), DualPotential(share=3.0)],
}
"""The methods that are compared, by the name of their row."""


def measure(
    kind: str, dim: int, minutes: float, seed: int, name: str, *, match_moments: bool, picture: Path | None = None
) -> dict[str, Any]:
    """Fit and evaluate one map, and draw it where a picture is wanted."""
    pair = load_pair(kind, dim)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    method = METHODS[name]
    begin = time.process_time()
    transport = fit_transport(
        pair.source,
        pair.target,
        method=method,
        budget=timedelta(minutes=minutes),
        match_moments=match_moments,
        certify=False,
        generator=generator,
    )
    samples = MANY if dim <= FEW else USUAL
    certificate = pair_certificate(transport.potential, pair.source, pair.target, samples=samples, generator=generator)
    seconds = time.process_time() - begin
    if picture is not None:
        draw(transport, pair, picture)
    return {
        "pair": kind,
        "dim": dim,
        "seed": seed,
        "name": name if match_moments else f"{name}, MLP alone",
        "method": repr(method),
        "match_moments": match_moments,
        "budget_seconds": 60 * minutes,
        "seconds": seconds,
        "steps": transport.history[-1].step,
        **evaluate(transport, pair, seed),
        "certificate": asdict(certificate),
        "history": [[own.step, round(own.seconds, 1), own.dual] for own in transport.history],
        "provenance": describe_run(),
    }


def add(path: Path, run: dict[str, Any]) -> None:
    """Add a run to a file, in the place of the one it repeats."""
    runs = json.loads(path.read_text()) if path.exists() else []
    key = ("pair", "dim", "name", "seed")
    kept = [own for own in runs if any(own[name] != run[name] for name in key)]
    ordered = sorted([*kept, run], key=lambda own: tuple(str(own[name]).rjust(8) for name in key))
    write_text(path, json.dumps(ordered, indent=1) + "\n")


def main() -> None:
    """Measure one pair, or render the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", nargs="?", choices=("mixture", *DRAWN), help="the kind of the pair")
    parser.add_argument("dim", nargs="?", type=int, help="the number of coordinates")
    parser.add_argument("--minutes", type=float, default=15.0, help="the budget, in minutes of the CPU")
    parser.add_argument("--seed", type=int, default=0, help="the seed of weights and samples")
    parser.add_argument("--free", action="store_true", help="no quadratic part: do not match moments first")
    parser.add_argument("--method", default="latentflow", choices=tuple(METHODS), help="the method, by its row")
    parser.add_argument("--others", action="store_true", help="fit the maps of POT and OTT in the place of ours")
    parser.add_argument("--threads", type=int, default=1, help="threads for torch")
    parser.add_argument("--out", type=Path, default=NUMBERS, help="the file of the numbers")
    parser.add_argument("--picture", type=Path, help="draw the map of a pair in the plane to this file")
    parser.add_argument("--render", action="store_true", help="write the page from the numbers")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.pair is not None:
        if options.dim is None:
            parser.error("dim: expected the number of coordinates")
        if options.others:
            for run in measure_others(
                options.pair, load_pair(options.pair, options.dim), options.minutes, options.seed
            ):
                add(options.out, run)
            return
        run = measure(
            options.pair,
            options.dim,
            options.minutes,
            options.seed,
            options.method,
            match_moments=not options.free,
            picture=options.picture,
        )
        add(options.out, run)
        print(json.dumps({name: run[name] for name in ("pair", "dim", "forward", "inverse", "truth", "certificate")}))
    if options.render:
        render(json.loads(NUMBERS.read_text()))


if __name__ == "__main__":
    main()
