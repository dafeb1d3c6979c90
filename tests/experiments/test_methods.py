"""Methods as the metrics see them, and which one a trained model becomes."""

import json
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from closed_forms import generator, normal
from torch.distributions import Independent, Normal
from toy_sequences import Toy, identity

from latentflow import FlowVAE, GaussianPrior, PotentialBank, QuadraticPotential
from latentflow.vae import GaussianLikelihood
from latentflow_experiments import methods
from latentflow_experiments.configuration import ModelConfig
from latentflow_experiments.errors import UsageError
from latentflow_experiments.methods import METHODS, find_methods
from latentflow_experiments.methods.autoencoder import SingleDimension, Static, Traversal
from latentflow_experiments.methods.flow import default_balance
from latentflow_experiments.methods.matching import Matching
from latentflow_experiments.methods.method import Choice, FlowMotion
from latentflow_experiments.methods.poflow import PoFlow
from latentflow_experiments.methods.tvae import TVAE
from latentflow_experiments.metrics.equivariance import measure_equivariance

DIM, STEPS = 4, 4
SHIFTS = torch.tensor([[1.0, 0, 0, 0], [0, -2.0, 0, 0], [0, 0, 0.5, 0.5]], dtype=torch.float64)
TRAVERSALS = tuple(Traversal(dimension, bound, 1.5) for dimension, bound in ((1, 2.0), (0, -0.3), (3, 5.0)))


def shift(z0, k, steps):
    """What the potentials shift . z do."""
    return torch.stack([z0 + t * SHIFTS[k] for t in range(steps + 1)])


DATA = Toy(normal(0, 6, DIM), shift, STEPS)


def shifting(order=(0, 1, 2)):
    """A model of these potentials in another order."""
    zero = torch.zeros(DIM, DIM, dtype=torch.float64)
    plain = identity(DIM)
    return FlowVAE(
        encoder=plain.encoder,
        decoder=plain.decoder,
        bank=PotentialBank([QuadraticPotential(DIM, zero, SHIFTS[k]) for k in order]),
        prior=GaussianPrior(DIM),
        residual=None,
        likelihood=GaussianLikelihood(),
    ).eval()


def rolling():
    """A topographic VAE of one capsule."""
    encoder, decoder = (lambda x: Independent(Normal(x.flatten(1), 1.0), 1)), (lambda z: z.reshape(-1, 1, 1, STEPS + 1))
    return TVAE(encoder, encoder, decoder, GaussianLikelihood(), STEPS + 1, STEPS + 1).double().eval()


MOTIONS = {
    "along": lambda: FlowMotion(shifting(), (0, 1, 2)),
    "static": lambda: Static(identity(DIM)),
    "single": lambda: SingleDimension(identity(DIM), TRAVERSALS),
    "tvae": rolling,
}


@pytest.mark.parametrize("name", MOTIONS)
def test_every_method_keeps_the_protocol(name):
    """Catches swapped batch and time, a path that does not begin at its start, samples for means, changed latents."""
    method, dim = MOTIONS[name](), STEPS + 1 if name == "tvae" else DIM
    frames = torch.rand(3, STEPS + 1, 1, 1, dim, generator=generator(1), dtype=torch.float64)
    state = torch.get_rng_state()
    latents, z0 = method.infer(frames), method.start(frames)
    assert latents.shape == (STEPS + 1, 3, dim)
    torch.testing.assert_close(z0, latents[0])
    kept = z0.clone()
    for k in range(3):
        path = method.follow(z0, k, STEPS)
        assert path.shape == (STEPS + 1, 3, dim)
        assert torch.equal(path[0], kept)
        assert method.follow(z0, k, 2).shape == (3, 3, dim)
        picture = method.decode(path).mean
        assert picture.shape == (STEPS + 1, 3, 1, 1, dim)
        torch.testing.assert_close(picture, path[:, :, None, None])
    assert torch.equal(z0, kept)
    assert torch.equal(torch.get_rng_state(), state)
    for n in range(3):
        torch.testing.assert_close(method.infer(frames[n : n + 1])[:, 0], latents[:, n])


@pytest.mark.parametrize("name", MOTIONS)
def test_only_a_topographic_start_sees_later_frames(name):
    """Catches a method that looks at the frames that it has to predict."""
    method, dim = MOTIONS[name](), STEPS + 1 if name == "tvae" else DIM
    frames = torch.rand(3, STEPS + 1, 1, 1, dim, generator=generator(1), dtype=torch.float64)
    others = torch.cat([frames[:, :1], 1 - frames[:, 1:]], 1)
    assert torch.equal(method.start(frames), method.start(others)) == (name != "tvae")


def test_latents_that_stay_and_latents_that_flow():
    """Catches a static path that moves, and a flow of the wrong potential."""
    z0 = normal(2, 5, DIM)
    assert torch.equal(MOTIONS["static"]().follow(z0, 1, 3), torch.stack([z0] * 4))
    for k in range(3):
        torch.testing.assert_close(MOTIONS["along"]().follow(z0, k, STEPS), shift(z0, k, STEPS))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_the_order_finds_the_potential_of_a_transformation(order):
    """Catches an order that is read the wrong way round: it lists potentials by transformation."""
    model = shifting(order)
    found = FlowMotion(model, tuple(order.index(k) for k in range(3)))
    for error in measure_equivariance(found, DATA).errors.values():
        assert error.output == pytest.approx(0, abs=1e-9)
    wrong = measure_equivariance(FlowMotion(model, tuple(order.index((k + 1) % 3) for k in range(3))), DATA)
    times = STEPS * (STEPS + 1) / 2
    for k, error in enumerate(wrong.errors.values()):
        assert error.output == pytest.approx(times * (SHIFTS[k] - SHIFTS[(k + 1) % 3]).abs().sum().item())


def test_the_error_of_a_static_method_is_the_change_of_the_images():
    """Catches time 0 counted, a path that goes on from the transformation before, and a mean over pixels."""
    errors = measure_equivariance(Static(identity(DIM)), DATA, batch_size=4).errors
    for k, error in enumerate(errors.values()):
        expected = STEPS * (STEPS + 1) / 2 * SHIFTS[k].abs().sum().item()
        assert error.output == pytest.approx(expected)
        assert error.latent == pytest.approx(expected)


def test_a_method_of_ones_own_that_knows_the_truth_has_no_error():
    """Catches a metric that asks for more than the protocol, and an error where there is none."""

    class Oracle:
        def infer(self, frames):
            return frames.flatten(2).transpose(0, 1)

        def start(self, frames):
            return frames[:, 0].flatten(1)

        def follow(self, z0, k, steps):
            return shift(z0, k, steps)

        def decode(self, z):
            return Independent(Normal(z[..., None, None, :], 1.0), 3)

    result = measure_equivariance(Oracle(), DATA)
    assert result.reconstruction == 0
    assert list(result.errors) == list(DATA.names)
    assert all(error.output == error.latent == 0 for error in result.errors.values())
    assert all(error.output_interval == (0, 0) for error in result.errors.values())


@pytest.mark.parametrize(
    "choice",
    [
        Choice(),
        Choice(matching=Matching((1, 0, 2), ((3, 4, 0), (5, 2, 0), (0, 1, 6)))),
        Choice(traversals=TRAVERSALS),
    ],
)
def test_a_choice_survives_json(choice):
    """Catches tuples that come back as lists, and a choice that is lost between evaluations."""
    assert Choice.from_values(json.loads(json.dumps(asdict(choice)))) == choice


def built(**options):
    """A small model and the description of its method."""
    config = ModelConfig(dim=2, hidden=(4,), width=6, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return config.build(FLOAT).eval(), config.described


FLOAT = Toy(torch.rand(9, DIM, generator=generator(0)), lambda z0, k, steps: shift(z0, k, steps).float() / 100)


@pytest.mark.parametrize(
    ("options", "kind", "chosen"),
    [
        ({}, FlowMotion, ()),
        ({"supervision": "weak"}, FlowMotion, ("matching",)),
        ({"method": "poflow"}, FlowMotion, ()),
        ({"method": "tvae"}, TVAE, ()),
        ({"method": "vae"}, Static, ()),
        ({"method": "beta-vae"}, SingleDimension, ("traversals",)),
        ({"method": "factor-vae"}, SingleDimension, ("traversals",)),
        ({"method": "slow-vae"}, SingleDimension, ("traversals",)),
    ],
)
def test_what_is_chosen_for_each_model(options, kind, chosen):
    """Catches a search for a model that has a rule, a VAE that is measured with one, and a choice that is not used."""
    model, described = built(**options)
    choice = described.choose(model, FLOAT)
    method = described.motion(model, choice)
    assert type(method) is kind
    assert {name for name, value in vars(choice).items() if value is not None} == set(chosen)
    if kind is FlowMotion:
        assert method.order == (choice.matching.order if chosen else (0, 1, 2))
        assert method.model is (model.model if isinstance(model, PoFlow) else model)
    if kind is SingleDimension:
        assert method.traversals == choice.traversals
        assert len(choice.traversals) == 3
    assert measure_equivariance(method, FLOAT).images == 9


@pytest.mark.parametrize(
    ("steps", "shape", "expected"),
    [(8, (3, 28, 28), 100.0), (7, (3, 64, 64), 983.04), (8, (3, 128, 128), 4423.68), (1, (1, 64, 64), 100.0)],
)
def test_the_weight_against_collapse_grows_with_the_sequences(steps, shape, expected):
    """Catches the weight of small images on large ones, whose sequences all went to one flow, and a frame too few."""
    assert default_balance(SimpleNamespace(steps=steps, shape=shape)) == pytest.approx(expected)


@pytest.mark.parametrize(("balance", "expected"), [(None, 100.0), (0.0, 0.0), (3.5, 3.5)])
def test_a_weight_against_collapse_that_is_given_is_taken(balance, expected):
    """Catches a weight of zero that is read as none."""
    model, _ = built(supervision="weak", balance=balance)
    assert model.label_posterior.balance == expected


def test_a_matching_is_the_order_of_the_method():
    """Catches a model without labels that is measured in the order of its potentials."""
    matching = Matching((2, 0, 1), ((0, 0, 1), (1, 0, 0), (0, 1, 0)))
    model, described = built(supervision="weak")
    assert described.motion(model, Choice(matching=matching)).order == (2, 0, 1)


def test_a_method_of_a_new_file_is_found(tmp_path, monkeypatch):
    """Catches a list of methods or options in another place than the module of a method."""
    (tmp_path / "frozen_vae.py").write_text(FROZEN)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "latentflow_experiments.methods.frozen_vae", raising=False)
    found = find_methods()
    assert next(iter(found)) == "flow"
    assert set(found) - set(METHODS) == {"frozen-vae"}
    settings = ModelConfig(dim=2, width=6)
    object.__setattr__(settings, "baseline", methods.build_options(found)(frozen_scale=3.0))
    model = found["frozen-vae"].build(settings, FLOAT)
    assert model.beta == 3.0
    with pytest.raises(UsageError, match=r"^frozen-scale: expected a positive number, got -1"):
        methods.build_options(found)(frozen_scale=-1.0)
    (tmp_path / "frozen_again.py").write_text(FROZEN)
    with pytest.raises(ValueError, match=r"^methods: expected one method of each name, got two of 'frozen-vae'"):
        find_methods()


FROZEN = '''
from dataclasses import dataclass

from latentflow_experiments.methods.method import build_decoder, build_encoder, require
from latentflow_experiments.methods.pixels import LIKELIHOODS
from latentflow_experiments.methods.autoencoder import AutoencoderMethod
from latentflow_experiments.methods.vae import BetaVAE


@dataclass(frozen=True)
class Options:
    """Options.

    Attributes:
        frozen_scale: A weight, for frozen-vae.
    """

    frozen_scale: float = 2.0

    def __post_init__(self):
        require(self.frozen_scale > 0, "frozen-scale", "a positive number", self.frozen_scale)


class Frozen(AutoencoderMethod):
    name = "frozen-vae"
    options = Options

    def build(self, settings, data):
        encoder, decoder = build_encoder(settings, data, settings.dim), build_decoder(settings, data, settings.dim)
        return BetaVAE(encoder, decoder, LIKELIHOODS[settings.likelihood](), settings.options(Options).frozen_scale)


METHODS = (Frozen(),)
'''
