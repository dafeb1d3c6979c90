"""Models in files: what is written, what comes back, and what is refused."""

import importlib
import inspect
import json
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_models import CASES, DIM, SHAPE, build, mlp, outputs
from torch import nn

from docs import reference
from latentflow import FlowVAE, FunctionPotential, GaussianPrior, MLPPotential, PotentialBank
from latentflow.potentials import MixedPotential
from latentflow.vae import MLPEncoder, pretrained
from latentflow.vae.kinds import KINDS, NAMED
from latentflow.vae.pretrained import CONFIG, LARGEST, WEIGHTS

NOT_PARTS = {
    "Derivative": "a request",
    "FixedProbes": "probes of one batch",
    "InnerHessian": "a result",
    "Jet": "a result",
    "JetRequest": "a request",
    "LaplacianEstimate": "a result",
    "Layers": "a view of weights",
    "FlowTransform": "made by a prior in each call",
    "PushForward": "made by a prior in each call",
    "Root": "a result",
    "Step": "a result",
    "StepDeterminant": "a result",
    "Trajectory": "a result",
    "CausalWeighting": "an argument of the loss, not of a model",
    "Certificate": "a result",
    "Coordinates": "tensors, which a MatchedPotential holds",
    "DualPotential": "a method of training",
    "Independent": "a method of training",
    "MinibatchAssignment": "a method of training",
    "OptimalFlowMatching": "a method of training",
    "Reflow": "a method of training",
    "PairCertificate": "a result",
    "TransportBank": "saves itself",
    "TransportMap": "saves itself",
    "Validation": "a result",
    "Objective": "a result",
}
"""The public classes that are no part of a model, and what they are instead."""


@pytest.fixture
def saved(tmp_path):
    """The folder of a model."""
    build().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(folder, edit):
    """Edit the description of a model."""
    values = json.loads((folder / CONFIG).read_text())
    edit(values)
    (folder / CONFIG).write_text(json.dumps(values))


def test_every_public_class_can_be_named_or_is_no_part():
    """Catches a new class that cannot be shared because nobody described it."""
    for subpackage in reference.SUBPACKAGES:
        module = importlib.import_module(f"latentflow.{subpackage}")
        for name in module.__all__:
            made = getattr(module, name)
            concrete = inspect.isclass(made) and not inspect.isabstract(made) and not getattr(made, "_is_protocol", 0)
            if concrete and not issubclass(made, BaseException):
                known = [name in KINDS, name in NAMED, name in NOT_PARTS]
                assert sum(known) == 1, name
    assert set(CASES) == set(KINDS)


@pytest.mark.parametrize("name", CASES)
def test_a_model_comes_back_bit_for_bit(name, tmp_path):
    """Catches an argument that is not kept, a tensor that is initialized again, and a kind that means another class."""
    model = CASES[name]()
    model.save_pretrained(tmp_path)
    assert f'"kind": "{name}"' in (tmp_path / CONFIG).read_text()
    again = FlowVAE.from_pretrained(tmp_path)
    assert not any(module.training for module in again.modules())
    assert pretrained.describe_part(again) == pretrained.describe_part(model)
    ours, theirs = outputs(model), outputs(again)
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    for key, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_of_the_numbers_is_kept(dtype, tmp_path):
    """Catches a model in double precision that comes back in single, and a buffer that stays in it."""
    model = build(prior=GaussianPrior(DIM)).to(dtype)
    model.save_pretrained(tmp_path)
    again = FlowVAE.from_pretrained(tmp_path)
    assert {tensor.dtype for tensor in (*again.parameters(), *again.buffers())} == {dtype}
    if dtype is torch.float64:
        assert torch.equal(outputs(again)["generated"], outputs(model)["generated"])


def test_shared_modules_stay_shared_and_are_written_once(tmp_path):
    """Catches an encoder of a VampPrior that trains apart from that of the model after it was loaded."""
    CASES["VampPrior"]().save_pretrained(tmp_path)
    again = FlowVAE.from_pretrained(tmp_path)
    assert again.prior.encoder is again.encoder
    assert not any(name.startswith("prior.encoder") for name in load_file(tmp_path / WEIGHTS))


def test_saving_and_loading_change_nothing_else(tmp_path):
    """Catches a mode that saving changes, weights that cannot be trained, and random numbers that loading draws."""
    model = build().train()
    model.save_pretrained(tmp_path / "new" / "folder")
    assert model.training
    state = torch.get_rng_state()
    again = FlowVAE.from_pretrained(tmp_path / "new" / "folder")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in again.parameters())
    again.train()(torch.rand(2, 3, *SHAPE), torch.tensor([0, 1]))["total"].backward()
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {CONFIG, WEIGHTS}


class Own(MLPEncoder):
    """A part of the user's own that does not even differ."""


def tied():
    model = build(MLPPotential(DIM, (5, 4)))
    model.bank[1].output.weight = model.bank[0].output.weight
    return model


def relu():
    model = build()
    model.encoder.layers[2] = nn.ReLU()
    return model


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: build(encoder=Own(SHAPE, DIM, (5,))), "encoder: expected a part of latentflow, got Own of test_"),
        (lambda: build(FunctionPotential(lambda z, t: z.sum(-1))), "bank.potentials.1.function: .* got .*<lambda> of"),
        (lambda: build(mlp(activation=torch.special.expit)), "bank.potentials.1.activation: .* got .*expit"),
        (lambda: build(dynamics=lambda u: None), "dynamics: .* got .*<lambda>"),
        (lambda: build(PotentialBank([mlp()]).select(torch.tensor([0]))), "potentials.1.k: expected one index for all"),
        (lambda: build(mlp() * torch.ones(4)), "potentials.1.weight: expected one number for all samples"),
        (lambda: build(MixedPotential(PotentialBank([mlp()]), torch.ones(4, 1))), "1.weights: expected one weight"),
        (tied, "bank.potentials.1.output.weight: expected a Parameter of .*, got nothing of its own"),
        (relu, "encoder.layers.2: expected a GELU, .* got a ReLU"),
    ],
)
def test_a_part_of_ones_own_is_refused_with_its_name(make, named, tmp_path):
    """Catches a file that comes back as another model, and a refusal that does not say which part, or what to do."""
    with pytest.raises(TypeError, match=named) as caught:
        make().save_pretrained(tmp_path / "model")
    assert "state_dict" in str(caught.value) or "without it" in str(caught.value)
    assert not (tmp_path / "model").exists()


def set_in(*path, to):
    def edit(values):
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = to

    return edit


def nested(values):
    part = values["model"]["bank"]["potentials"][0]
    for _ in range(60):
        part = {"kind": "FunctionPotential", "function": part}
    values["model"]["bank"]["potentials"][0] = part


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_in("format", to=2), "expected a format from 1 to 1, .* got 2, written by latentflow"),
        (set_in("format", to=True), "expected a format from 1 to 1, .* got True"),
        (lambda values: values.pop("model"), "expected what save_pretrained writes"),
        (set_in("model", to={"kind": "GaussianPrior", "dim": 2}), "expected a FlowVAE, got GaussianPrior"),
        (
            set_in("model", "prior", "kind", to="os.system"),
            "prior: expected a kind that latentflow .* knows, got 'os.sy",
        ),
        (
            set_in("model", "prior", "seed", to=1),
            r"prior: expected arguments of DiffusionPrior \(dim, fields\), got 'seed",
        ),
        (set_in("model", "dynamics", "name", to="eval"), "dynamics: expected a part of latentflow, got"),
        (set_in("model", "encoder", to={"same": "decoder"}), "encoder: expected a part of latentflow"),
        (set_in("model", "encoder", "hidden", to=[-1]), "encoder: .* hidden: expected at least one positive integer"),
        (set_in("model", "encoder", "dim", to=None), "encoder: .* dim: expected a positive integer, got None"),
        (
            set_in("model", "encoder", "dim", to=10**12),
            r"expected encoder.head.linear.bias of shape \(2000000000000,\), got \(4,\)",
        ),
        (set_in("model", "encoder", "dim", to=10**30), "encoder: expected arguments that make a MLPEncoder"),
        (set_in("model", "encoder", "shape", to=[10**9] * 3), "encoder: expected arguments that make a MLPEncoder"),
        (set_in("model", "encoder", "hidden", to=[1] * 20_000), "expected at most 10,000 parts and arguments in all"),
        (set_in("model", "prior", "fields", to=3), r"expected prior.raw of shape \(3,\), got \(2,\)"),
        (set_in("model", "bank", to=[]), "expected arguments that make a FlowVAE, got bank: expected a PotentialBank"),
        (nested, "expected at most 32 parts in each other, got more"),
    ],
)
def test_a_description_that_is_wrong_or_hostile_is_refused(edit, message, saved):
    """Catches a name that is imported, memory that a number in a file asks for, and an error that names no part."""
    change(saved, edit)
    with pytest.raises(ValueError, match=message) as caught:
        FlowVAE.from_pretrained(saved)
    assert str(saved) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{" + " " * LARGEST + "}", f"expected a description of at most {LARGEST:,} bytes, got more"),
        ("[" * 50_000, "expected JSON, got"),
        ('{"format": 1, "format": 2}', "expected JSON, got the key 'format' twice"),
        ('{"format": NaN}', "expected JSON, got the number NaN"),
        ("[1]", "expected what save_pretrained writes"),
        ("\x00", "expected JSON"),
    ],
)
def test_what_is_no_json_of_ours_is_refused(text, message, saved):
    """Catches a parser that reads without end, recurses without end, or takes one of two values."""
    (saved / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=message):
        FlowVAE.from_pretrained(saved)


def fewer(tensors):
    del tensors["prior.raw"]


def more(tensors):
    tensors["prior.more"] = torch.zeros(1)


def integers(tensors):
    tensors["prior.raw"] = torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (fewer, r"expected prior.raw of shape \(2,\), got none"),
        (more, r"expected prior.more of shape none, got \(1,\)"),
        (integers, "expected prior.raw of a type such as torch.float32, got torch.int64"),
    ],
)
def test_tensors_of_another_model_are_refused(edit, message, saved):
    """Catches weights that are left as they were initialized, and integers for weights."""
    tensors = load_file(saved / WEIGHTS)
    edit(tensors)
    save_file(tensors, saved / WEIGHTS)
    with pytest.raises(ValueError, match=message):
        FlowVAE.from_pretrained(saved)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """The folder of a model, and its tensors as bytes."""
    folder = tmp_path_factory.mktemp("complete")
    build().save_pretrained(folder)
    return folder, (folder / WEIGHTS).read_bytes()


@given(share=st.floats(0, 0.999))
def test_a_file_that_ends_early_is_refused(share, complete):
    """Catches a truncated file whose missing numbers become zeros, or an error that is no ValueError."""
    folder, data = complete
    (folder / WEIGHTS).write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match="expected a complete file of tensors"):
        FlowVAE.from_pretrained(folder)


def test_a_header_that_asks_for_more_than_there_is_is_refused(saved):
    """Catches memory for a header of 2^60 bytes."""
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(struct.pack("<Q", 2**60) + data[8:])
    with pytest.raises(ValueError, match="expected a complete file of tensors"):
        FlowVAE.from_pretrained(saved)


def test_missing_files_and_strange_names_are_told_apart(saved, tmp_path):
    """Catches a folder that is taken for a name on the hub, and a name that is looked for in the file system."""
    (saved / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="expected the tensors of a model, got no such file"):
        FlowVAE.from_pretrained(saved)
    with pytest.raises(FileNotFoundError, match="expected the description of a model, got no such file"):
        FlowVAE.from_pretrained(tmp_path)
    for name in ("nowhere", "../a/b", "a/b/c", tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match="expected a folder, or OWNER/NAME on the hub"):
            FlowVAE.from_pretrained(name)
    with pytest.raises(TypeError, match="source: expected the path of a folder"):
        FlowVAE.from_pretrained(3)


@pytest.mark.parametrize("package", ["safetensors", "huggingface_hub"])
def test_a_missing_extra_is_named(package, saved, monkeypatch):
    """Catches a traceback about a module where the remedy is one command."""
    monkeypatch.setitem(__import__("sys").modules, package, None)
    monkeypatch.setitem(__import__("sys").modules, f"{package}.torch", None)
    with pytest.raises(ModuleNotFoundError, match=rf"expected {package}, .*pip install \"latentflow-torch\[hub\]\""):
        FlowVAE.from_pretrained("owner/name" if package == "huggingface_hub" else saved)


def test_what_was_there_stays_until_the_new_one_is_whole(saved, monkeypatch):
    """Catches a model that is lost because the disk is full when it is saved again."""
    before = outputs(FlowVAE.from_pretrained(saved))["generated"]
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        build(seed=1).save_pretrained(saved)
    assert torch.equal(outputs(FlowVAE.from_pretrained(saved))["generated"], before)
    assert {path.name for path in saved.iterdir()} == {CONFIG, WEIGHTS}
