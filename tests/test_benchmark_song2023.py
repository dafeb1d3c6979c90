"""The benchmark of a training step at the sizes of the paper."""

import pytest
import torch

from benchmarks import song2023
from benchmarks.song2023 import HALF, PUBLISHED, SINGLE, published_decoder, published_encoder, weighted
from benchmarks.timing import Plan


def test_the_operations_are_those_of_the_layers():
    """Catches a layer that is left out of the count, and one that is counted at another resolution."""
    counts = {}

    def count(layer, _, output):
        pixels = output.shape[-2:].numel() if output.ndim == 4 else 1
        if isinstance(layer, torch.nn.ConvTranspose2d):
            pixels //= layer.stride[0] ** 2  # each pixel of the input is used once
            pixels = 1 if max(output.shape[-2:]) == max(layer.kernel_size) else pixels
        counts[layer] = layer.weight.numel() * pixels

    shape, dim = song2023.SHAPE, song2023.DIM
    with torch.no_grad(), torch.device("meta"):
        for name, network, x in [
            ("encoder", published_encoder(shape, dim, 2 * dim), torch.empty(1, *shape)),
            ("decoder", published_decoder(shape, dim), torch.empty(1, dim)),
        ]:
            counts.clear()
            for layer in weighted(network):
                layer.register_forward_hook(count)
            network(x)
            head = 2 * dim * 2 * dim if name == "encoder" else 0
            images = song2023.BATCH * (1 if name == "encoder" else song2023.STEPS + 1)
            assert song2023.operations()[name] == 6 * images * (sum(counts.values()) + head)


def test_small_steps_are_measured_and_shown(monkeypatch):
    """Catches networks that compute something else than the published ones, and a table that misses a part."""
    monkeypatch.setattr(song2023, "BATCH", 2)
    monkeypatch.setattr(song2023, "DIM", 4)
    monkeypatch.setattr(song2023, "STEPS", 2)
    kept_before: list[bool] = []
    monkeypatch.setattr(song2023, "keep_memory", lambda: kept_before.append(True))
    comparisons = []
    for comparison in song2023.run(Plan(rounds=2, least=2, seconds=0.001)):
        comparisons.append(comparison)
        assert bool(kept_before) == (len(comparisons) > 1), "the first step is measured as torch is"
    step, kept, *parts, product = comparisons
    assert list(step.timings) == list(kept.timings) == [part.case for part in parts] == [PUBLISHED, SINGLE, HALF]
    assert list(product.timings) == ["float32", "bfloat16"]
    page = song2023.tables(comparisons)
    assert all(name in page for name in ("encoder", "optimizer", "dynamics", "7 x 7 to 14 x 14", "torch.mm"))
    (aim,) = song2023.aims(comparisons)
    assert aim.met == (kept.ratio(PUBLISHED, HALF) >= 3)
    monkeypatch.setattr(song2023, "copy_weights", lambda ours, theirs: None)
    with pytest.raises(AssertionError, match="result 0"):
        next(song2023.run(Plan(rounds=2, least=2, seconds=0.001)))


def test_the_potential_is_the_published_one():
    """Catches a missing layer or activation, a concatenated time, and other frequencies."""
    dim = 4
    ours = song2023.PublishedPotential(dim)
    assert sum(parameter.numel() for parameter in ours.parameters()) == 4 * (dim * dim + dim) + dim + 1
    z, t = torch.randn(5, dim), torch.rand(5)
    angles = t[:, None] * torch.tensor([1.0, 1e-4])
    embedded = torch.cat([angles.sin(), angles.cos()], -1)
    features = torch.tanh(ours.point(z)) + ours.time(embedded)
    expected = torch.tanh(ours.output(torch.tanh(ours.hidden(features))))[:, 0]
    torch.testing.assert_close(ours(z, t), expected)
