"""The option ``--network``, and ``--compile``."""

import json

import pytest
import torch
from torch import nn

from latentflow import MLPDecoder, MLPEncoder
from latentflow.vae import ConvDecoder, ConvEncoder, ConvSequenceClassifier, GatedDecoder, MLPSequenceClassifier
from latentflow_experiments.configuration import ModelConfig, TrainConfig
from latentflow_experiments.data import open_sequences
from latentflow_experiments.errors import UsageError
from latentflow_experiments.methods import METHODS
from latentflow_experiments.song2023_networks import PaperClassifier, PaperDecoder, PaperEncoder
from latentflow_experiments.training.session import Hardware

SMALL = {"dim": 4, "hidden": (5,), "width": 8}
KINDS = {
    "mlp": (MLPEncoder, MLPDecoder, MLPSequenceClassifier),
    "gated": (MLPEncoder, GatedDecoder, MLPSequenceClassifier),
    "mixed": (ConvEncoder, GatedDecoder, MLPSequenceClassifier),
    "conv": (ConvEncoder, ConvDecoder, ConvSequenceClassifier),
    "song2023": (PaperEncoder, PaperDecoder, PaperClassifier),
}


class Sequences:
    """The shape of sequences, without images."""

    names, steps = ("one", "two"), 2

    def __init__(self, *shape):
        self.shape = shape


def parts(model):
    """List the kinds of encoder, decoder and classifier of a model."""
    found = {name.rpartition(".")[2]: type(module) for name, module in model.named_modules()}
    return found["encoder"], found["decoder"], found.get("network")


@pytest.mark.parametrize("network", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_the_networks(method, network):
    """Catches a method that builds its networks itself, and networks that a method cannot train."""
    supervision = "taught" if METHODS[method].infers_labels else "labels"
    model = ModelConfig(method=method, network=network, supervision=supervision, **SMALL).build(Sequences(2, 8, 12))
    encoder, decoder, classifier = parts(model)
    assert (encoder, decoder) == KINDS[network][:2]
    assert classifier in (None, KINDS[network][2])
    assert classifier is not None or supervision == "labels"
    terms = model(torch.rand(4, 3, 2, 8, 12), torch.tensor([0, 1, 1, 0]), torch.Generator().manual_seed(0))
    terms["total"].backward()
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ("encoder", "decoder"):
            assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((3, 8, 8), "gated"),
        ((1, 16, 64), "mixed"),
        ((3, 28, 28), "mixed"),
        ((3, 30, 30), "gated"),
        ((1, 64, 64), "conv"),
        ((3, 64, 60), "mixed"),
        ((3, 66, 66), "gated"),
        ((1, 68, 64), "conv"),
    ],
)
def test_the_kind_depends_on_the_size_of_the_images(shape, kind):
    """Catches perceptrons for large images, and convolutions for images that they cannot take."""
    assert parts(ModelConfig(**SMALL).build(Sequences(*shape)))[:2] == KINDS[kind][:2]


@pytest.mark.parametrize("network", ["mixed", "conv", "song2023"])
def test_convolutions_that_images_cannot_have_are_refused(network):
    """Catches an error that names an argument of the library instead of the option."""
    with pytest.raises(UsageError, match="^network: expected mlp or gated for 30 x 28 pixels, .*got '" + network):
        ModelConfig(network=network, **SMALL).build(Sequences(1, 30, 28))


OLD_RUN = """{
  "dataset": "digits", "seed": 0, "batch_size": 64, "learning_rate": 0.004, "warmup_steps": 200,
  "model": {
    "dim": 32, "hidden": [128], "width": 512, "bound": "joint", "pde": "hj", "residual_weight": 100.0,
    "prior": "diffusion"
  }
}"""
"""The configuration of a run of commit 1173704c5a54, as its record has it."""


def test_an_old_run_keeps_its_networks():
    """Catches a configuration from before there was a choice whose weights no longer fit."""
    run = json.loads(OLD_RUN)
    assert "network" not in run["model"]
    config = TrainConfig.from_values(run)
    assert config.model.network == "mlp"
    model = config.model.build(open_sequences("digits", "test"))
    assert parts(model)[:2] == (MLPEncoder, MLPDecoder)
    linear = [part for part in model.decoder.modules() if isinstance(part, nn.Linear)]
    width = run["model"]["width"]
    assert [layer.in_features for layer in linear] == [run["model"]["dim"], width, width]


def test_only_encoder_and_decoder_are_compiled():
    """Catches dynamics that are compiled, a network that is left out, and weights with other names."""
    model = ModelConfig(method="poflow", **SMALL).build(Sequences(1, 8, 8))
    names = list(model.state_dict())
    Hardware(device="cpu").compile_networks(model)
    assert not any(module._compiled_call_impl for module in model.modules())
    Hardware(device="cpu", compile=True).compile_networks(model)
    compiled = [name for name, module in model.named_modules() if module._compiled_call_impl]
    assert [name.rpartition(".")[2] for name in compiled] == ["encoder", "decoder"]
    assert list(model.state_dict()) == names


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of a tensor that the compiler looks at
def test_a_compiled_model_computes_the_same(monkeypatch):
    """Catches a network that cannot be traced, and results that change; the compiler of the graph takes a minute."""
    graphs = []

    def compile_nothing(graph, inputs):
        graphs.append(graph)
        return graph.forward

    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module: original(module, backend=compile_nothing))
    torch.manual_seed(0)
    model = ModelConfig(network="mlp", **SMALL).build(Sequences(1, 2, 2))
    x, k = torch.rand(3, 3, 1, 2, 2), torch.tensor([0, 1, 0])
    expected = model(x, k, torch.Generator().manual_seed(0))["total"]
    Hardware(device="cpu", compile=True).compile_networks(model)
    actual = model(x, k, torch.Generator().manual_seed(0))["total"]
    torch.testing.assert_close(actual, expected)
    assert len(graphs) >= 2


def test_without_a_compiler_compiling_is_refused(monkeypatch):
    """Catches an error of the compiler from deep inside torch in the middle of a training."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    Hardware(device="cpu")
    with pytest.raises(UsageError, match=r"^compile: expected a C\+\+ compiler, .*, got 'no-such-compiler'"):
        Hardware(device="cpu", compile=True)
