"""The networks of the paper against torch's own convolutions."""

from functools import partial

import pytest
import torch
from torch import nn

from benchmarks.song2023 import copy_weights, published_decoder, published_encoder, weighted
from latentflow_experiments.convolutions import DoublingConvolution, HalvingConvolution, coarsen, refine
from latentflow_experiments.song2023_networks import PaperClassifier, PaperDecoder, PaperEncoder
from latentflow_experiments.winograd import Winograd


def grid(weight):
    """Return weights (coarse, 16 * fine) as torch's convolutions have them."""
    return weight.reshape(len(weight), 4, 4, -1).permute(0, 3, 1, 2)


SHAPES = [(3, 28, 28), (1, 8, 12), (3, 64, 64), (2, 128, 144)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_encoder_has_the_published_layers(shape):
    """Catches another order of pixels or channels, a missing ReLU, a wrong width, and a head on the wrong features."""
    s = 3
    ours = PaperEncoder(shape, s).double()
    theirs = published_encoder(shape, s, s if shape[1] >= 128 else 2 * s).double()
    copy_weights(weighted(ours)[:-1], weighted(theirs))
    x = torch.rand(2, *shape).double()
    features = theirs(x).flatten(1)
    mean, log_variance = ours.head.linear(features).chunk(2, -1)
    posterior = ours(x)
    torch.testing.assert_close(posterior.mean, mean)
    torch.testing.assert_close(posterior.variance, log_variance.exp())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_decoder_has_the_published_layers(shape):
    """Catches weights that are not flipped, pixels or channels in another order, and a bias of its own for a pixel."""
    s = 3
    ours, theirs = PaperDecoder(s, shape).double(), published_decoder(shape, s).double()
    copy_weights(weighted(ours), weighted(theirs))
    z = torch.randn(2, s).double()
    torch.testing.assert_close(ours(z), theirs(z))


def test_the_classifier_has_the_published_layers():
    """Catches frames that are stacked behind the channels instead of before them."""
    ours, theirs = PaperClassifier((2, 8, 8), 3, 4, 5).double(), published_encoder((6, 8, 8), 5, 5).double()
    copy_weights(weighted(ours)[:-1], weighted(theirs))
    x = torch.rand(2, 3, 2, 8, 8).double()
    torch.testing.assert_close(ours(x), ours.output(theirs(x.reshape(2, 6, 8, 8)).flatten(1)))


def test_the_networks_have_the_published_sizes():
    """Catches a width that differs from the paper's: the counts are added up by hand from its table."""

    def count(network):
        return sum(parameter.numel() for parameter in network.parameters())

    s, c = 324, 3
    convolutions = [(16 * c, s), (16 * s, 2 * s), (49 * 2 * s, 3 * s), (3 * s, 2 * s), (2 * s, 2 * s), (2 * s, 2 * s)]
    assert count(PaperEncoder((c, 28, 28), s)) == sum((n + 1) * m for n, m in convolutions) == 35_711_280
    biases = s + 2 * s + 3 * s + 2 * s + s + c
    weights = s * s + s * 2 * s + 2 * s * 3 * s + 3 * s * 2 * s * 49 + 2 * s * s * 16 + s * c * 16
    assert count(PaperDecoder(s, (c, 28, 28))) == weights + biases == 35_185_431
    pixels = 128 // 16
    layers = 4 * (16 * s * s + 9 * s * s + 2 * s) - 16 * s * s + 16 * c * s + pixels**2 * s * s + 2 * s * s + 3 * s
    assert count(PaperEncoder((c, 128, 128), s)) == layers + (s + 1) * 2 * s


@pytest.mark.parametrize("budget", [1, 10**9])
@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("sides", [(2, 5), (4, 7)])
def test_products_are_the_convolutions_and_their_gradients(sides, budget, rectify, monkeypatch):
    """Catches an edge, an overlap or a chunk that is lost, a border that is no zero, and a wrong derivative.

    Grids of 4 x 7 pixels are computed with fewer products, whose matrices of an axis a change of both would not tell.
    """
    height, width = sides
    monkeypatch.setattr("latentflow_experiments.convolutions.CHUNK_BYTES", budget)
    coarse, fine = torch.randn(3, height, width, 4).double(), torch.randn(3, 2 * height, 2 * width, 2).double()
    weight, bias, other = torch.randn(4, 32).double(), torch.randn(2).double(), torch.randn(4).double()
    inputs = [x.requires_grad_() for x in (coarse, weight, bias)]
    expected = nn.functional.conv_transpose2d(coarse.permute(0, 3, 1, 2), grid(weight), bias, stride=2, padding=1)
    expected = expected.relu() if rectify else expected
    torch.testing.assert_close(refine(*inputs, rectify=rectify), expected.permute(0, 2, 3, 1))
    assert torch.autograd.gradcheck(partial(refine, rectify=rectify), inputs)
    inputs = [x.requires_grad_() for x in (fine, weight, other)]
    expected = nn.functional.conv2d(fine.permute(0, 3, 1, 2), grid(weight), other, stride=2, padding=1)
    torch.testing.assert_close(coarsen(*inputs), expected.permute(0, 2, 3, 1))
    assert torch.autograd.gradcheck(coarsen, inputs)


@pytest.mark.parametrize(
    "layer", [HalvingConvolution(5, 7), DoublingConvolution(5, 7), DoublingConvolution(5, 7, rectify=True)]
)
@pytest.mark.parametrize("sides", [(16, 12), (14, 20)])
def test_bfloat16_is_close_to_float32(sides, layer):
    """Catches sums of many rows in bfloat16, and an automatic cast that skips the products of matrices."""
    x = torch.randn(40, *sides, 5)
    parameters = list(layer.parameters())
    expected = layer(x)
    gradients = torch.autograd.grad(expected.square().mean(), parameters)
    with torch.autocast("cpu", torch.bfloat16):
        actual = layer(x)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=0.0, atol=0.02 * expected.abs().max().item())
    for a, b in zip(torch.autograd.grad(actual.float().square().mean(), parameters), gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=0.02 * b.abs().max().item())


def test_fewer_products_lose_little_precision(monkeypatch):
    """Catches matrices with large entries, and sums of products in bfloat16.

    Measured are 1.4 times the error of the products as defined in the result, and 1.5 to 1.9 times in the gradients.
    """
    errors = {}
    coarse, weight, bias = torch.randn(8, 7, 7, 64).relu(), torch.randn(64, 16 * 32) / 32, torch.zeros(32)
    lowered = [x.bfloat16().requires_grad_() for x in (coarse, weight, bias)]
    exact = [x.detach().double().requires_grad_() for x in lowered]
    expected = refine(*exact)
    gradients = torch.autograd.grad(expected.square().mean(), exact)
    for fewer in (True, False):
        monkeypatch.setattr(Winograd, "LARGEST", 100 if fewer else 0)
        assert Winograd.fits((7, 7)) == fewer
        actual = refine(*lowered)
        pairs = zip(torch.autograd.grad(actual.double().square().mean(), lowered), gradients, strict=True)
        errors[fewer] = [((a - b).norm() / b.norm()).item() for a, b in [(actual, expected), *pairs]]
    assert all(error < 0.01 for error in errors[True])
    assert all(a < 2.5 * b for a, b in zip(errors[True], errors[False], strict=True))


def test_every_parameter_has_a_gradient():
    """Catches a layer that is built and not used."""
    z = PaperEncoder((1, 8, 8), 3)
    for network, x in [(z, torch.rand(2, 1, 8, 8)), (PaperDecoder(3, (1, 8, 8)), torch.randn(2, 3))]:
        output = network(x)
        output = output if isinstance(output, torch.Tensor) else output.rsample() + output.mean
        output.square().sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("build", [PaperEncoder, lambda shape, dim: PaperDecoder(dim, shape)])
@pytest.mark.parametrize("shape", [(1, 30, 28), (1, 132, 128)])
def test_sides_that_cannot_be_halved_are_refused(build, shape):
    """Catches an error from deep inside torch."""
    with pytest.raises(ValueError, match=r"shape: expected .*divisible"):
        build(shape, 3)
