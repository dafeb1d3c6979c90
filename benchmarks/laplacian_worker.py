"""The Laplacian by others, in an interpreter of their own: ``python laplacian_worker.py NAME THREADS``.

Each line of the input is a case in JSON, or ``run``. A case is computed once, and its numbers are written to a file;
``run`` computes the last one again. The answer is a line each: the versions, or ``done``. Nothing else is imported, so
that the interpreter needs the library that is asked for and numpy only. ``before`` is an earlier state of this library,
that of the checkout which comes first in PYTHONPATH.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, TypeAlias

import numpy as np

Arrays: TypeAlias = list[Any]
Task: TypeAlias = Callable[[], Arrays]

GRADIENT = "forward and parameter gradient"


def by_jet_for_pytorch(weights: Arrays, z: Any, task: str) -> Task:  # noqa: ANN401 - an array
    """Prepare collapsed Taylor mode of jet-for-pytorch, mapped over the points."""
    torch: Any = importlib.import_module("torch")
    laplacian = importlib.import_module("jet").laplacian
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sizes = [weights[0].shape[1], *(weight.shape[0] for weight in weights[0::2])]
    layers = []
    for place, (one, two) in enumerate(itertools.pairwise(sizes)):
        linear = torch.nn.Linear(one, two)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weights[2 * place]))
            linear.bias.copy_(torch.from_numpy(weights[2 * place + 1]))
        layers += [linear, torch.nn.Tanh()]
    network = torch.nn.Sequential(*layers[:-1])
    points = torch.from_numpy(z)
    function = torch.vmap(laplacian(network, (points[0],)))

    def forward() -> Arrays:
        with torch.no_grad():
            return [function(points).squeeze(-1).numpy()]

    def gradient() -> Arrays:
        loss = function(points).square().mean()
        found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True)
        return [part.numpy() for part in found]

    return gradient if task == GRADIENT else forward


def by_folx(weights: Arrays, z: Any, task: str) -> Task:  # noqa: ANN401 - an array
    """Prepare the forward Laplacian of folx, mapped over the points and compiled."""
    jax: Any = importlib.import_module("jax")
    folx: Any = importlib.import_module("folx")
    jnp = jax.numpy
    points, parameters = jnp.asarray(z), [jnp.asarray(weight) for weight in weights]

    def network(parameters: Arrays, x: Any) -> Any:  # noqa: ANN401 - arrays of JAX
        for place in range(0, len(parameters) - 2, 2):
            x = jnp.tanh(parameters[place] @ x + parameters[place + 1])
        return (parameters[-2] @ x + parameters[-1])[0]

    def laplacians(parameters: Arrays) -> Any:  # noqa: ANN401 - an array of JAX
        return jax.vmap(lambda x: folx.forward_laplacian(lambda y: network(parameters, y))(x).laplacian)(points)

    forward = jax.jit(laplacians)
    gradient = jax.jit(jax.grad(lambda parameters: (laplacians(parameters) ** 2).mean()))

    def compute_forward() -> Arrays:
        return [np.asarray(jax.block_until_ready(forward(parameters)))]

    def compute_gradient() -> Arrays:
        return [np.asarray(part) for part in jax.block_until_ready(gradient(parameters))]

    return compute_gradient if task == GRADIENT else compute_forward


def by_latentflow(weights: Arrays, z: Any, task: str) -> Task:  # noqa: ANN401 - an array
    """Prepare the rule of a potential of this library."""
    torch: Any = importlib.import_module("torch")
    library = importlib.import_module("latentflow")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    u = library.MLPPotential(z.shape[1], [len(weight) for weight in weights[:-2:2]])
    own = [parameter for linear in (u.point, *u.hidden) for parameter in (linear.weight, linear.bias)]
    own.append(u.output.weight)
    with torch.no_grad():
        u.time.weight.zero_()
        for parameter, weight in zip(own, weights, strict=False):  # the output has no bias
            parameter.copy_(torch.from_numpy(weight))
    points = torch.from_numpy(z)

    def forward() -> Arrays:
        with torch.no_grad():
            return [library.laplacian(u, points, 0.0).numpy()]

    def gradient() -> Arrays:
        loss = library.laplacian(u, points, 0.0).square().mean()
        found = torch.autograd.grad(loss, [*own, u.time.weight], materialize_grads=True)
        return [*(part.numpy() for part in found[:-1]), np.zeros(1, dtype=z.dtype)]

    return gradient if task == GRADIENT else forward


def commit() -> str:
    """Return the commit of the checkout that comes first in PYTHONPATH."""
    folder = os.environ["PYTHONPATH"].split(os.pathsep)[0]
    command = ["git", "-C", folder, "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


LIBRARIES = {
    "before": (by_latentflow, ()),
    "jet-for-pytorch": (by_jet_for_pytorch, ("jet-for-pytorch", "torch")),
    "folx": (by_folx, ("folx", "jax")),
}


def main() -> None:
    """Answer the lines of the input."""
    prepare, names = LIBRARIES[sys.argv[1]]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-int(sys.argv[2]) :])
    versions = {name: version(name) for name in names}
    print(json.dumps(versions or {sys.argv[1]: commit()}), flush=True)
    compute: Task = list
    for line in sys.stdin:
        if line.strip() != "run":
            case = json.loads(line)
            with np.load(case["case"]) as arrays:
                weights = [arrays[f"weight{i}"] for i in range(len(arrays.files) - 1)]
                compute = prepare(weights, arrays["z"], case["task"])
            np.savez(case["result"], *compute())
        else:
            compute()
        print("done", flush=True)


if __name__ == "__main__":
    main()
