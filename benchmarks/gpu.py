"""Check and time the library on an accelerator: ``python -m benchmarks.gpu``, on another device with ``--device cpu``.

Every number is first compared with float64 on the CPU; a table follows. ``--quick`` takes small sizes and few samples.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks import song2023
from benchmarks.record import describe_run
from benchmarks.text import duration
from benchmarks.timing import check_close
from latentflow import ODE, DiffusionPrior, FlowVAE, JointBound, MLPPotential, PotentialBank, PotentialFlow
from latentflow.calculus import Derivative, JetRequest, evaluate_jet
from latentflow.flow import HopfLaxFlow
from latentflow.vae import ConvEncoder, GatedDecoder, LaplaceLikelihood
from latentflow_experiments.reports.tables import table

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
MEBIBYTE = 2**20
SIZES = ((512, 43, 256), (128, 324, 324), (4096, 324, 324))
"""Points, coordinates and width of both hidden layers."""


@dataclass(frozen=True)
class Task:
    """A task to check and to time.

    Attributes:
        name: Its name.
        size: Its size, in words.
        dtype: The dtype of what is measured, or of the networks under autocast.
        build: Builds what computes the results on a device in a dtype, from the same seed each time.
        check: Whether to compare with float64 on the CPU.
    """

    name: str
    size: str
    dtype: torch.dtype
    build: Callable[[torch.device, torch.dtype], Callable[[], Sequence[Tensor]]]
    check: bool = True


def draw(size: tuple[int, int, int]) -> tuple[MLPPotential, Tensor, Tensor]:
    """Draw a potential with two hidden layers, points and times on the CPU in float64."""
    batch, dim, width = size
    torch.manual_seed(0)
    u = MLPPotential(dim, (width, width)).double()
    return u, torch.randn(batch, dim, dtype=torch.float64), torch.rand(batch, dtype=torch.float64)


def jets(
    size: tuple[int, int, int], *, train: bool
) -> Callable[[torch.device, torch.dtype], Callable[[], list[Tensor]]]:
    """Build the value, gradient, time derivative and Laplacian of a potential, and the gradient of a loss of them."""

    def build(device: torch.device, dtype: torch.dtype) -> Callable[[], list[Tensor]]:
        u, z, t = draw(size)
        u, z, t = u.to(device, dtype), z.to(device, dtype), t.to(device, dtype)
        request = JetRequest(Derivative.LAPLACIAN)

        def run() -> list[Tensor]:
            with torch.set_grad_enabled(train):
                found = evaluate_jet(u, z, t, request)
                values = [found.value, found.gradient, found.time_derivative, found.laplacian]
                if train:
                    loss = sum((value.square().mean() for value in values[1:]), values[0].mean())
                    values = [loss, *torch.autograd.grad(loss, list(u.parameters()))]
            return values

        return run

    return build


def density(batch: int) -> Callable[[torch.device, torch.dtype], Callable[[], list[Tensor]]]:
    """Build the exact log-density of a continuous flow, by fixed steps so that all devices take the same."""

    def build(device: torch.device, dtype: torch.dtype) -> Callable[[], list[Tensor]]:
        u, z, _ = draw((batch, 43, 64))
        u, z = u.to(device, dtype), z.to(device, dtype)

        def run() -> list[Tensor]:
            with torch.no_grad():
                found = PotentialFlow(0.1 * u).follow(z, (0.0, 0.5, 1.0), ODE("rk4"))
                assert found.log_det is not None
                return [found.z[-1], found.log_det[-1]]

        return run

    return build


class Certain(nn.Module):
    """An encoder without noise to speak of, so that numbers of two devices can be compared."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> torch.distributions.Distribution:
        """Return a narrow normal distribution about the mean."""
        mean: Tensor = self.encoder(x).mean
        return torch.distributions.Independent(torch.distributions.Normal(mean, 1e-6 * torch.ones_like(mean)), 1)


def training(batch: int, half: bool) -> Callable[[torch.device, torch.dtype], Callable[[], list[Tensor]]]:
    """Build the loss of the default recipe for MNIST, and its gradient."""
    shape, dim = (3, 28, 28), 32

    def build(device: torch.device, dtype: torch.dtype) -> Callable[[], list[Tensor]]:
        torch.manual_seed(0)
        model = FlowVAE(
            Certain(ConvEncoder(shape, dim, (512,))),
            GatedDecoder(dim, shape, (512, 1024)),
            PotentialBank([MLPPotential(dim, (128,)) for _ in range(3)]),
            DiffusionPrior(dim, 3),
            None,
            likelihood=LaplaceLikelihood(0.3),
            bound=JointBound(),
            dynamics=HopfLaxFlow,
        )
        model = model.to(device, dtype)
        frames = torch.rand(batch, 9, *shape, dtype=torch.float64).to(device, dtype)
        k = torch.zeros(batch, dtype=torch.int64, device=device)

        def run() -> list[Tensor]:
            with torch.autocast(device.type, torch.bfloat16, enabled=half and dtype == torch.float32):
                total = model(frames, k)["total"]
            return [total.detach(), *torch.autograd.grad(total, list(model.parameters()), allow_unused=True)[:2]]

        return run

    return build


def published(half: bool) -> Callable[[torch.device, torch.dtype], Callable[[], list[Tensor]]]:
    """Build a training step at the sizes of the paper, with the fused optimizer."""

    def build(device: torch.device, dtype: torch.dtype) -> Callable[[], list[Tensor]]:
        model = song2023.build().to(device, dtype)
        frames = torch.rand(song2023.BATCH, song2023.STEPS + 1, *song2023.SHAPE, device=device, dtype=dtype)
        k = torch.zeros(song2023.BATCH, dtype=torch.int64, device=device)
        optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

        def run() -> list[Tensor]:
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                total = model(frames, k)["total"]
            total.backward()
            optimizer.step()
            return [total.detach()]

        return run

    return build


def tasks(quick: bool) -> Iterator[Task]:
    """List what is checked and timed."""
    single, half = torch.float32, torch.bfloat16
    for size in ((32, 5, 16),) if quick else SIZES:
        text = "{} points x {}, width {}".format(*size)
        yield Task("jets, forward", text, single, jets(size, train=False))
        yield Task("jets, forward and parameter gradient", text, single, jets(size, train=True))
    for batch in (16,) if quick else (512, 8192):
        yield Task("log-density, Runge-Kutta, exact", f"{batch} points x 43", single, density(batch))
    for batch in (4,) if quick else (128, 1024):
        text = f"{batch} sequences of 9 x 3 x 28 x 28"
        yield Task("loss and gradient, default recipe", text, single, training(batch, half=False))
        yield Task("loss and gradient, default recipe", text, half, training(batch, half=True))
    if not quick:
        text = f"{song2023.BATCH} sequences, 324 coordinates"
        yield Task("training step of the paper", text, single, published(half=False), check=False)
        yield Task("training step of the paper", text, half, published(half=True), check=False)


def seconds_of(run: Callable[[], object], device: torch.device, samples: int) -> float:
    """Measure the median time of calls, by events on a GPU and by the clock elsewhere, after two to warm up."""
    for _ in range(2):
        run()
    times = []
    for _ in range(samples):
        if device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize(device)
            times.append(begin.elapsed_time(end) / 1e3)
        else:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_of(run: Callable[[], object], device: torch.device) -> float:
    """Measure the largest memory of a call on a GPU, in MiB; NaN elsewhere."""
    if device.type != "cuda":
        return math.nan
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) / MEBIBYTE


def measure(device: torch.device, quick: bool) -> list[list[str]]:
    """Check and time all tasks, and return the rows of the table."""
    rows = []
    for task in tasks(quick):
        run = task.build(device, torch.float32)
        error = ""
        if task.check:
            expected = task.build(torch.device("cpu"), torch.float64)()
            found = [tensor.detach().cpu().double() for tensor in run()]
            check_close(found, [tensor.detach() for tensor in expected], TOLERANCE[task.dtype], task.name)
            error = f"{largest_error(found, expected):.0e}"
        seconds = seconds_of(run, device, samples=3 if quick else 20)
        memory = peak_of(run, device)
        rows.append(
            [
                task.name,
                task.size,
                str(task.dtype).removeprefix("torch."),
                duration(seconds),
                "" if math.isnan(memory) else f"{memory:.0f}",
                error,
            ]
        )
        del run
    return rows


def largest_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest error of tensors, each relative to its largest entry."""
    return max(
        float((a - b.detach()).abs().max() / b.detach().abs().max()) for a, b in zip(found, expected, strict=True)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and where it was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", help="the device (default: cuda)")
    parser.add_argument("--quick", action="store_true", help="small sizes and few samples")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("device: expected a GPU for --device cuda, got none; --device cpu runs the same on the CPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    facts = describe_run()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else facts["processor"]
    header = ["task", "size", "dtype", "time", "MiB", "error against float64"]
    print(table(header, measure(device, options.quick), left=3))
    print(f"\n{name}, torch {torch.__version__}, {facts['date'][:10]}, commit `{facts['commit']}`.")


if __name__ == "__main__":
    main()
