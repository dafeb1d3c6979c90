"""The convolutional networks and the gated decoder."""

import copy

import pytest
import torch
from torch import nn

from latentflow.vae import ConvDecoder, ConvEncoder, ConvSequenceClassifier, GatedDecoder, MLPDecoder
from latentflow.vae.convolutional import Convolution, Shuffle, grids

SHAPES = [(3, 28, 28), (1, 32, 32), (3, 64, 64), (1, 128, 128), (2, 20, 36)]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_gradients(shape):
    """Catches a side that is lost by halving, and a layer that is built and not used."""
    encoder = ConvEncoder(shape, 4, (8,), channels=16)
    decoder = ConvDecoder(4, shape, (8,), channels=16)
    classifier = ConvSequenceClassifier(shape, 3, 5, (8,), channels=16)
    z = encoder(torch.rand(2, *shape)).rsample()
    assert z.shape == (2, 4)
    decoded, logits = decoder(z), classifier(torch.rand(2, 3, *shape))
    assert decoded.shape == (2, *shape)
    assert logits.shape == (2, 5)
    (decoded.square().sum() + logits.square().sum()).backward()
    for network in (encoder, decoder, classifier):
        assert all(parameter.grad is not None for parameter in network.parameters())
        assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_a_convolution_is_that_of_torch():
    """Catches weights whose axes are in another order than the function assumes, and a stride that is not used."""
    for stride in (1, 2):
        layer, plain = Convolution(3, 5, stride).double(), nn.Conv2d(3, 5, 3, stride, 1).double()
        with torch.no_grad():
            plain.weight.copy_(layer.weight.permute(0, 3, 1, 2))
            plain.bias.copy_(layer.bias)
        x = torch.randn(2, 3, 8, 6).double()
        torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize("contiguous", [False, True])
def test_a_shuffle_is_that_of_torch(contiguous):
    """Catches rows and columns that change places; torch has the channels in another order."""
    x = torch.randn(2, 3 * 4, 5, 3)
    theirs = x.reshape(2, 4, 3, 5, 3).transpose(1, 2).reshape(2, 12, 5, 3)
    torch.testing.assert_close(Shuffle(2, contiguous=contiguous)(x), nn.functional.pixel_shuffle(theirs, 2))


def plain_decoder(decoder, z):
    """Compute a decoder by torch's transposed convolutions: each pixel of a coarse grid paints 3 x 3 squares."""
    height, width, channels = decoder.coarsest
    grid = decoder.dense(z).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
    for layer in decoder.layers:
        if isinstance(layer, Shuffle):
            continue
        if isinstance(layer, nn.GELU):
            grid = layer(grid)
            continue
        factor = 4 if layer is decoder.layers[-2] else 2
        outputs = len(layer.bias) // factor**2
        # channel (i f + j) C + c of the pixel at distance (a, b) is pixel (i, j) of its square
        weight = layer.weight.reshape(factor, factor, outputs, 3, 3, -1).flip(3, 4)
        kernel = weight.permute(5, 2, 3, 0, 4, 1).reshape(-1, outputs, 3 * factor, 3 * factor)
        bias = layer.bias.reshape(factor, factor, outputs).permute(2, 0, 1)
        sides = grid.shape[-2:]
        grid = nn.functional.conv_transpose2d(grid, kernel, stride=factor, padding=factor)
        grid = grid + bias.repeat(1, *sides)
    return grid


def test_the_decoder_is_a_chain_of_transposed_convolutions():
    """Catches an edge that is not covered, a pattern of a checkerboard, and squares that are shifted by a pixel."""
    decoder = ConvDecoder(3, (2, 64, 96), (8,), channels=16).double()
    assert grids(64, 96)[-1] == (8, 12)
    assert len(decoder.layers) == 5  # one doubling, then the last by four
    z = torch.randn(2, 3).double()
    torch.testing.assert_close(decoder(z), plain_decoder(decoder, z))


def test_every_pixel_depends_on_the_latent():
    """Catches edges beyond what the convolutions reach."""
    decoder = ConvDecoder(3, (1, 28, 20), (8,), channels=8).double()
    z = torch.randn(3).double()
    jacobian = torch.autograd.functional.jacobian(lambda z: decoder(z[None])[0, 0], z)
    assert (jacobian.abs().sum(-1) > 0).all()


def test_every_pixel_moves_the_posterior():
    """Catches pixels that a stride leaves out."""
    encoder = ConvEncoder((1, 28, 20), 3, (8,), channels=8).double()
    x = torch.rand(1, 1, 28, 20).double().requires_grad_()
    encoder(x).mean.sum().backward()
    assert (x.grad != 0).all()


def test_the_order_of_memory_changes_nothing():
    """Catches a network that reads the memory of an image instead of its axes."""
    encoder, x = ConvEncoder((3, 32, 32), 4).double(), torch.rand(2, 3, 32, 32).double()
    other = x.contiguous(memory_format=torch.channels_last)
    assert other.stride() != x.stride()
    torch.testing.assert_close(encoder(other).mean, encoder(x).mean)
    decoder = ConvDecoder(4, (3, 32, 32)).double()
    copied = copy.deepcopy(decoder)
    copied.load_state_dict(decoder.state_dict())
    assert [p.stride() for p in copied.parameters()] == [p.stride() for p in decoder.parameters()]
    z = torch.randn(2, 4).double()
    torch.testing.assert_close(copied(z), decoder(z))


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 64, 64)])
def test_bfloat16_is_close_to_float32(shape):
    """Catches a layer that loses the image in the lower precision, and a head that does not leave it."""
    torch.manual_seed(0)
    encoder, decoder = ConvEncoder(shape, 4), ConvDecoder(4, shape)
    x, z = torch.rand(4, *shape), torch.randn(4, 4)
    mean, decoded = encoder(x).mean, decoder(z)
    with torch.autocast("cpu", torch.bfloat16):
        low_mean, low_decoded = encoder(x).mean, decoder(z)
    assert low_mean.dtype == torch.float32
    torch.testing.assert_close(low_mean, mean, rtol=0.0, atol=0.05 * mean.abs().max().item())
    torch.testing.assert_close(low_decoded.float(), decoded, rtol=0.0, atol=0.05 * decoded.abs().max().item())


@pytest.mark.parametrize(
    "build",
    [
        lambda shape: ConvEncoder(shape, 3),
        lambda shape: ConvDecoder(3, shape),
        lambda shape: ConvSequenceClassifier(shape, 3, 2),
    ],
)
@pytest.mark.parametrize("shape", [(1, 30, 28), (1, 28, 27)])
def test_other_sides_are_refused(build, shape):
    """Catches an error from deep inside torch, or an image of another size."""
    with pytest.raises(ValueError, match=r"^shape: expected .* divisible by 4, got \(1, "):
        build(shape)


def test_the_last_hidden_layer_of_the_gated_decoder_is_a_normalized_product():
    """Catches an exchanged gate, a missing factor, and a norm over the batch or with a mean subtracted."""
    torch.manual_seed(0)
    decoder, z = GatedDecoder(3, (1, 2, 4), (5, 6)).double(), torch.randn(7, 3).double()
    first = decoder.layers[0]
    h = nn.functional.gelu(z @ first.weight.T + first.bias)
    left, right = decoder.gate.weight.split(6)
    a, b = decoder.gate.bias.split(6)
    product = nn.functional.gelu(h @ left.T + a) * (h @ right.T + b)
    normalized = product / (product.square().mean(-1, keepdim=True) + 2**-7).sqrt()
    expected = normalized @ decoder.output.weight.T + decoder.output.bias
    torch.testing.assert_close(decoder(z).flatten(1), expected, rtol=1e-9, atol=1e-9)


def test_the_gated_decoder_has_the_layers_of_the_perceptron_before():
    """Catches a hidden layer too many or too few, for one, two and three widths."""
    for hidden in [(6,), (5, 6), (4, 5, 6)]:
        gated, plain = GatedDecoder(3, (1, 2, 2), hidden), MLPDecoder(3, (1, 2, 2), hidden)
        both = [
            [part.in_features for part in network.modules() if isinstance(part, nn.Linear)]
            for network in (gated, plain)
        ]
        assert both[0] == both[1]
        gated(torch.randn(2, 3)).sum().backward()
        assert all(parameter.grad is not None for parameter in gated.parameters())
