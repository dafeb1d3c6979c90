"""A training step at the sizes of the paper: its own arithmetic as published, and the same model by latentflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.record import Aim, Comparison, Part
from benchmarks.text import duration, times
from benchmarks.timing import Plan, check_close, measure
from latentflow import DiffusionPrior, FlowVAE, HJResidual, JointBound, Potential, PotentialBank
from latentflow_experiments.convolutions import DoublingConvolution, HalvingConvolution
from latentflow_experiments.memory import keep_memory
from latentflow_experiments.reports.tables import table
from latentflow_experiments.song2023_networks import PaperDecoder, PaperEncoder, is_large

SHAPE, BATCH, DIM, STEPS, FIELDS = (3, 28, 28), 128, 324, 8, 3
RATE = 1e-4
PUBLISHED, SINGLE, HALF = "as published", "latentflow, float32", "latentflow, bfloat16"
STEP, KEPT = "training step", "training step with memory kept"
PARTS, PRODUCT = "forward and backward", "2048 x 2048 by 2048 x 2048"
GOAL = 3.0
TOLERANCE = 1e-4


def stack(layers: Sequence[nn.Module]) -> nn.Sequential:
    """Put a ReLU between each two layers."""
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])


def published_encoder(shape: Sequence[int], s: int, outputs: int) -> nn.Sequential:
    """Write out the convolutions of the paper's encoder, from images to ``(batch, outputs, 1, 1)``."""
    channels, height, width = shape
    layers: list[nn.Module] = []
    if is_large(shape):
        for n in (channels, s, s, s):
            layers += [nn.Conv2d(n, s, 4, 2, 1), nn.Conv2d(s, s, 3, 1, 1)]
        layers += [nn.Conv2d(s, s, (height // 16, width // 16)), nn.Conv2d(s, s, 1), nn.Conv2d(s, outputs, 1)]
    else:
        layers += [nn.Conv2d(channels, s, 4, 2, 1), nn.Conv2d(s, 2 * s, 4, 2, 1)]
        layers += [nn.Conv2d(2 * s, 3 * s, (height // 4, width // 4))]
        layers += [nn.Conv2d(3 * s, 2 * s, 1), nn.Conv2d(2 * s, outputs, 1)]
    return stack(layers)


def published_decoder(shape: Sequence[int], s: int) -> nn.Sequential:
    """Write out the paper's decoder, from latents ``(batch, s)`` to the logits of images."""
    channels, height, width = shape
    layers: list[nn.Module] = [nn.Sequential(nn.Linear(s, s), nn.Unflatten(1, (s, 1, 1)))]
    if is_large(shape):
        layers += [nn.ConvTranspose2d(s, s, kernel) for kernel in (1, 1, (height // 16, width // 16))]
        for m in (s, s, s, channels):
            layers += [nn.ConvTranspose2d(s, s, 4, 2, 1), nn.ConvTranspose2d(s, m, 3, 1, 1)]
    else:
        layers += [nn.ConvTranspose2d(s, 2 * s, 1), nn.ConvTranspose2d(2 * s, 3 * s, 1)]
        layers += [nn.ConvTranspose2d(3 * s, 2 * s, (height // 4, width // 4))]
        layers += [nn.ConvTranspose2d(2 * s, s, 4, 2, 1), nn.ConvTranspose2d(s, channels, 4, 2, 1)]
    return stack(layers)


def weighted(network: nn.Module) -> list[Any]:
    """List the layers that have weights of their own."""
    return [layer for layer in network.modules() if any(True for _ in layer.parameters(recurse=False))]


def copy_weights(ours: Sequence[Any], theirs: Sequence[Any]) -> None:
    """Copy the weights of layers of latentflow to the published layers, in the order that these have."""
    with torch.no_grad():
        for a, b in zip(ours, theirs, strict=True):
            b.weight.copy_(published_weight(a, b))
            b.bias.copy_(a.bias)


def published_weight(ours: Any, theirs: Any) -> Tensor:  # noqa: ANN401 - of any layer
    """Return the weights of a layer as the published layer has them."""
    weight: Tensor = ours.weight
    transposed = isinstance(theirs, nn.ConvTranspose2d)
    if isinstance(ours, HalvingConvolution | DoublingConvolution):
        return weight.reshape(len(weight), 4, 4, -1).permute(0, 3, 1, 2)  # coarse, fine, 4, 4
    if isinstance(theirs, nn.Linear):
        return weight
    if weight.ndim == 4:  # outputs, 3, 3, inputs
        images = weight.permute(0, 3, 1, 2)
        return images.flip(2, 3).transpose(0, 1) if transposed else images
    height, width = theirs.kernel_size
    if transposed:
        return weight.reshape(height, width, theirs.out_channels, -1).permute(3, 2, 0, 1)
    return weight.reshape(len(weight), height, width, -1).permute(0, 3, 1, 2)


class PublishedPotential(Potential):
    """The network of the paper's potentials and of its force, with values between -1 and 1.

    Args:
        dim: The number of latent coordinates, even.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.point, self.hidden, self.output = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 1)
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        half = dim // 2
        self.register_buffer("frequencies", 10_000.0 ** (-torch.arange(half) / (half - 1)))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate at points ``(*batch, dim)`` and times ``(*batch,)``."""
        angles = t.unsqueeze(-1) * self.frequencies
        features: Tensor = self.point(z).tanh() + self.time(torch.cat([angles.sin(), angles.cos()], -1))
        value: Tensor = self.output(self.hidden(features).tanh()).tanh()
        return value.squeeze(-1)


class Force(nn.Module):
    """The force of the paper, minus the square of a network.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        """Evaluate at points ``(*batch, dim)`` and times ``(*batch,)``."""
        return -self.network(z, t).square()


def build() -> FlowVAE:
    """Build the model, with weights from a fixed seed."""
    torch.manual_seed(0)
    return FlowVAE(
        encoder=PaperEncoder(SHAPE, DIM),
        decoder=PaperDecoder(DIM, SHAPE),
        bank=PotentialBank([PublishedPotential(DIM) for _ in range(FIELDS)]),
        prior=DiffusionPrior(DIM, FIELDS),
        residual=HJResidual(Force(PublishedPotential(DIM))),
        bound=JointBound(),
    )


class OurStep:
    """Makes training steps of latentflow: one call of the decoder for all frames, and the fused Adam.

    Args:
        model: The model.
        frames: The sequences.
        half: Whether encoder and decoder compute in bfloat16.
    """

    def __init__(self, model: FlowVAE, frames: Tensor, *, half: bool) -> None:
        self.model, self.frames, self.half = model, frames, half
        self.k = torch.zeros(len(frames), dtype=torch.int64)
        self.optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)

    def __call__(self) -> None:
        """Make a step."""
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            total = self.model(self.frames, self.k, None)["total"]
        total.backward()
        self.optimizer.step()


class PublishedStep:
    """Makes training steps with the arithmetic of the authors' loop, with encoder and decoder of the same weights.

    Images are in the order of torch and numbers in float32, each frame has a call of the decoder of its own, and each
    step a potential of its own, differentiated by autograd: in time, in space, and once more in space for the change of
    the density. Three Adam optimizers update networks, potentials and the diffusivities of the prior, one tensor after
    the other. What the authors' code averages over the batch is averaged here as latentflow does, at the same cost.

    Args:
        model: The model whose weights are copied.
        frames: The sequences.
    """

    def __init__(self, model: FlowVAE, frames: Tensor) -> None:
        self.frames = frames
        self.encoder, self.decoder = published_encoder(SHAPE, DIM, 2 * DIM), published_decoder(SHAPE, DIM)
        self.head = nn.Linear(2 * DIM, 2 * DIM)
        copy_weights(weighted(model.encoder), [*weighted(self.encoder), self.head])
        copy_weights(weighted(model.decoder), weighted(self.decoder))
        self.potentials = [PublishedPotential(DIM) for _ in range(FIELDS)]
        self.force = PublishedPotential(DIM)
        self.diffusivities = [nn.Parameter(torch.full((), 0.01)) for _ in range(FIELDS)]
        networks = nn.ModuleList([self.encoder, self.head, self.decoder])
        potentials = nn.ModuleList([*self.potentials, self.force])
        self.optimizers = [
            torch.optim.Adam(parameters, RATE, foreach=False)
            for parameters in (networks.parameters(), potentials.parameters(), self.diffusivities)
        ]

    def __call__(self) -> None:
        """Make a step for the first transformation."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        mean, log_variance = self.infer(self.frames[:, 0]).chunk(2, -1)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        divergence = ((mean.square() + log_variance.exp() - 1 - log_variance) / 2).sum(-1).mean()
        loss = divergence + self.reconstruction(z, 0)
        density = torch.zeros_like(z)
        prior, diffusivity = torch.zeros(()), self.diffusivities[0].square()
        for step in range(1, STEPS + 1):
            z = z if z.requires_grad else z.requires_grad_()
            t = torch.full((BATCH,), float(step), requires_grad=True)
            u = self.potentials[0](z, t)
            in_time, velocity = torch.autograd.grad(u.sum(), (t, z), create_graph=True)
            (rows,) = torch.autograd.grad(velocity.sum(), z, create_graph=True)
            residual = in_time + velocity.square().sum(-1) / 2 + self.force(z, t).square()
            density = density - (1 + rows).abs().log()
            prior = prior - DIM * (diffusivity / (1 + 2 * diffusivity * step)).log1p()
            z = z + velocity
            loss = loss + residual.square().mean() / STEPS + self.reconstruction(z, step)
            loss = loss + (density.sum(-1) - prior).mean()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()

    def infer(self, images: Tensor) -> Tensor:
        """Compute means and log-variances."""
        parameters: Tensor = self.head(self.encoder(images).flatten(1))
        return parameters

    def reconstruction(self, z: Tensor, time: int) -> Tensor:
        """Compute the cross-entropy of a frame."""
        logits = self.decoder(z)
        return nn.functional.binary_cross_entropy_with_logits(logits, self.frames[:, time], reduction="sum") / BATCH


def run_backward(network: Callable[[Tensor], Any], inputs: Tensor, *, half: bool, calls: int = 1) -> None:
    """Compute a network and its gradients: of all inputs at once, or in several calls."""
    for chunk in inputs.chunk(calls):
        x = chunk.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = network(x)
        output = output if isinstance(output, Tensor) else output.rsample()
        output.backward(torch.ones_like(output))


def operations() -> dict[str, float]:
    """Count the operations of encoder and decoder in a step, a multiplication and an addition as two.

    The backward pass has twice as many as the forward pass.
    """
    channels, height, width = SHAPE
    fine, coarse, s = height * width // 4, height * width // 16, DIM
    encode = 16 * channels * s * fine + 16 * s * 2 * s * coarse + 2 * s * 3 * s * coarse + (6 + 4 + 4) * s * s
    decode = (1 + 2 + 6) * s * s + 3 * s * 2 * s * coarse + 16 * 2 * s * s * coarse + 16 * s * channels * fine
    return {"encoder": 6.0 * BATCH * encode, "decoder": 6.0 * BATCH * (STEPS + 1) * decode}


def run(plan: Plan) -> Iterator[Comparison]:
    """Time the step as torch is, then with memory kept; so too its parts, and a product of large matrices."""
    frames = torch.rand(BATCH, STEPS + 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    model = build()
    published = PublishedStep(model, frames)
    with torch.no_grad():
        z = torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(0))
        mean = published.infer(frames[:, 0]).chunk(2, -1)[0]
        check_close([model.encoder(frames[:, 0]).mean, model.decoder(z)], [mean, published.decoder(z)], TOLERANCE)
    case = f"{' x '.join(map(str, SHAPE))}, batch {BATCH}, {DIM} coordinates, {STEPS} steps"
    steps = {PUBLISHED: published, **{name: OurStep(model, frames, half=name == HALF) for name in (SINGLE, HALF)}}
    counts = sum(parameter.numel() for parameter in model.parameters())
    facts: dict[str, Any] = {"parameters": counts, "operations": operations()}
    yield Comparison(case, STEP, measure(steps, plan), facts)
    keep_memory()
    timings = measure(steps, plan)
    facts = {"processor": {}}
    for name, step in steps.items():
        start = time.process_time()
        step()
        facts["processor"][name] = time.process_time() - start
    yield Comparison(case, KEPT, timings, facts)
    images, latents = frames[:, 0], torch.randn(BATCH * (STEPS + 1), DIM)
    contenders = {
        PUBLISHED: (published.encoder, published.decoder, published.optimizers, False, STEPS + 1),
        SINGLE: (model.encoder, model.decoder, [steps[SINGLE].optimizer], False, 1),
        HALF: (model.encoder, model.decoder, [steps[HALF].optimizer], True, 1),
    }
    for name, (encoder, decoder, optimizers, half, calls) in contenders.items():
        parts: dict[str, Callable[[], object]] = {
            "encoder": partial(run_backward, encoder, images, half=half),
            "decoder": partial(run_backward, decoder, latents, half=half, calls=calls),
            "optimizer": partial(make_steps, optimizers),
        }
        parts.update(decoder_layers(decoder, latents, half=half, calls=calls))
        yield Comparison(name, PARTS, measure(parts, plan))
    square = torch.randn(2048, 2048)
    products = {
        "float32": partial(torch.mm, square, square),
        "bfloat16": partial(torch.mm, square.bfloat16(), square.bfloat16()),
    }
    yield Comparison("torch.mm", PRODUCT, measure(products, plan))


def make_steps(optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """Make a step of each optimizer."""
    for optimizer in optimizers:
        optimizer.step()


def decoder_layers(decoder: nn.Module, z: Tensor, *, half: bool, calls: int) -> dict[str, Callable[[], object]]:
    """Return what runs each of the three large layers of a decoder, forward and backward."""
    large = weighted(decoder)[-3:]
    runs: dict[str, Callable[[], object]] = {}
    inputs: dict[int, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, x, i=i: inputs.__setitem__(i, x[0].detach().clone()))
        for i, layer in enumerate(large)
    ]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        decoder(z)
    for hook in hooks:
        hook.remove()
    for i, (layer, name) in enumerate(zip(large, LAYERS, strict=True)):
        runs[name] = partial(run_backward, layer, inputs[i], half=half, calls=calls)
    return runs


LAYERS = ("1 to 7 x 7 pixels", "7 x 7 to 14 x 14", "14 x 14 to 28 x 28")


def tables(comparisons: list[Comparison]) -> str:
    """Write the tables of the step, of its parts, and the distance to the rate of a product of matrices."""
    step, kept, *parts, product = comparisons
    work = {**step.facts["operations"]}
    total = sum(work.values())
    rows = [
        [
            name,
            duration(step.timings[name].median),
            times(step.ratio(PUBLISHED, name)),
            duration(timing.median),
            times(kept.ratio(PUBLISHED, name)),
            duration(kept.facts["processor"][name]),
            f"{total / timing.median / 1e9:.0f}",
        ]
        for name, timing in kept.timings.items()
    ]
    header = ["", "step", "as published / this", "memory kept", "as published / this", "processor time", "GFLOP/s"]
    text = [
        f"{step.case}, {step.facts['parameters'] / 1e6:.1f} million parameters; encoder and decoder make "
        f"{total / 1e12:.2f} TFLOP in a step.",
        table(header, rows, left=1),
    ]
    names = list(parts[0].timings)
    rows = [[name, *(duration(part.timings[name].median) for part in parts)] for name in names]
    rest = []
    for part in parts:
        seconds = kept.timings[part.case].median - sum(part.timings[name].median for name in names[:3])
        rest.append(duration(seconds) if seconds > 0 else "0")
    rows = [*rows[:3], ["dynamics, loss and the rest", *rest], *[[f"decoder, {row[0]}", *row[1:]] for row in rows[3:]]]
    text.append(table(["forward and backward", *(part.case for part in parts)], rows, left=1))
    rates = {name: 2 * 2048**3 / timing.median / 1e9 for name, timing in product.timings.items()}
    text.append(
        f"A product of two matrices of 2048 x 2048 numbers by `torch.mm` has {rates['float32']:.0f} GFLOP/s in float32 "
        f"and {rates['bfloat16']:.0f} in bfloat16; the decoder in bfloat16 has "
        f"{work['decoder'] / parts[-1].timings['decoder'].median / 1e9:.0f}, "
        f"as published {work['decoder'] / parts[0].timings['decoder'].median / 1e9:.0f}."
    )
    return "\n\n".join(text)


def aims(comparisons: list[Comparison]) -> list[Aim]:
    """Compare with the aim."""
    step, kept, *_ = comparisons
    ratio = kept.ratio(PUBLISHED, HALF)
    text = f"a training step at the sizes of the paper at least {GOAL:.0f} x faster than as published"
    command = times(step.timings[PUBLISHED].median / kept.timings[HALF].median)
    reached = f"{times(ratio)} in bfloat16, the memory of both kept ({command} where only ours is)"
    return [Aim(text, reached, ratio >= GOAL, "nearly all of its time are products of matrices in bfloat16")]


PART = Part("song2023", run, tables, aims)
