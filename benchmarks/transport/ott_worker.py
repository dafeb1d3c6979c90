"""Maps of optimal transport by OTT, in an interpreter of its own: ``python ott_worker.py METHOD FILE SECONDS SEED``.

The file has samples ``source`` and ``target``, and ``points`` to map. The answer are the images, in ``images.npy``
beside it, and a line of JSON with the seconds of the CPU and the versions. The interpreter needs OTT, flax and numpy.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any
WIDTHS, BATCH = (128, 128, 128), 512
"""The layers and the batch, as ours."""
RATE, MANY, RATE_OF_MANY = 5e-3, 32, 1e-3
"""The learning rate, and that from a number of coordinates on: 0.001 was worse at 8, 0.005 diverged at 32 and 64."""
ENTROPIC = 4096
"""The samples of the entropic map."""


def neural_dual(x: Array, y: Array, seconds: float, seed: int) -> Callable[[Array], Array]:
    """Fit the neural dual with its L-BFGS conjugate and a learned start, as Amos (2023), for seconds of the CPU."""
    jax: Any = importlib.import_module("jax")
    optax: Any = importlib.import_module("optax")
    dual: Any = importlib.import_module("ott.neural.methods.neuraldual")
    networks: Any = importlib.import_module("ott.neural.networks.potentials")
    jnp = jax.numpy
    begin = time.process_time()
    rate = RATE if x.shape[1] < MANY else RATE_OF_MANY

    class SpentError(Exception):
        """The budget is spent."""

    def stop(step: int, potentials: object) -> None:  # noqa: ARG001 - the signature is OTT's
        if time.process_time() - begin > seconds:
            raise SpentError

    def batches(points: Array, place: int) -> Iterator[Array]:
        generator = np.random.default_rng((seed, place))
        while True:
            yield jnp.asarray(points[generator.integers(len(points), size=BATCH)])

    solver = dual.W2NeuralDual(
        x.shape[1],
        networks.PotentialMLP(dim_hidden=list(WIDTHS), act_fn=jax.nn.silu),
        networks.PotentialMLP(dim_hidden=list(WIDTHS), act_fn=jax.nn.silu, is_potential=False),
        optax.adam(rate, b1=0.9, b2=0.99),
        optax.adam(rate, b1=0.9, b2=0.99),
        num_train_iters=10**9,
        valid_freq=10**9,
        log_freq=10**9,
        rng=jax.random.PRNGKey(seed),
    )
    with suppress(SpentError):
        solver(*(batches(points, place) for place, points in enumerate((x, y, x, y))), callback=stop)
    found = solver.to_dual_potentials()
    return lambda points: found.transport(jnp.asarray(points))


def entropic(x: Array, y: Array, seconds: float, seed: int) -> Callable[[Array], Array]:  # noqa: ARG001
    """Fit the entropic map at OTT's own strength of the blur, a twentieth of the mean cost."""
    jax: Any = importlib.import_module("jax")
    geometry: Any = importlib.import_module("ott.geometry.pointcloud")
    linear: Any = importlib.import_module("ott.solvers.linear")
    jnp = jax.numpy
    found = linear.solve(geometry.PointCloud(jnp.asarray(x[:ENTROPIC]), jnp.asarray(y[:ENTROPIC])))
    potentials = found.to_dual_potentials()
    return lambda points: potentials.transport(jnp.asarray(points))


METHODS = {"neural dual": neural_dual, "entropic": entropic}


def main() -> None:
    """Fit one map and apply it."""
    method, file, seconds, seed = sys.argv[1:]
    path = Path(file)
    with np.load(path) as arrays:
        x, y, points = (arrays[name] for name in ("source", "target", "points"))
    begin = time.process_time()
    images = METHODS[method](x, y, float(seconds), int(seed))(points)
    np.save(path.with_name("images.npy"), np.asarray(images))
    versions = {name: version(name) for name in ("ott-jax", "jax", "flax")}
    print(json.dumps({"seconds": time.process_time() - begin, "versions": versions}))


if __name__ == "__main__":
    main()
