"""Methods as the metrics see them, and which one a trained model becomes."""

import json
from dataclasses import asdict

import pytest
import torch
from closed_forms import generator, normal
from torch import nn
from torch.distributions import Independent, Normal
from toy_sequences import Toy, identity

from latentflow import FlowVAE, GaussianLikelihood, GaussianPrior, MLPPotential, PotentialBank, QuadraticPotential
from latentflow_experiments.baselines import TVAE, PoFlow
from latentflow_experiments.configuration import ModelConfig
from latentflow_experiments.equivariance import measure_equivariance
from latentflow_experiments.methods import (
    AlongFlow,
    Choice,
    Matching,
    SingleDimension,
    Static,
    Traversal,
    choose,
    method_of,
)
from latentflow_experiments.model import build_model

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


METHODS = {
    "along": lambda: AlongFlow(shifting(), (0, 1, 2)),
    "static": lambda: Static(identity(DIM)),
    "single": lambda: SingleDimension(identity(DIM), TRAVERSALS),
    "tvae": rolling,
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_protocol(name):
    """Catches swapped batch and time, a path that does not begin at its start, samples for means, changed latents."""
    method, dim = METHODS[name](), STEPS + 1 if name == "tvae" else DIM
    frames = torch.rand(3, STEPS + 1, 1, 1, dim, generator=generator(1), dtype=torch.float64)
    state = torch.get_rng_state()
    latents, z0 = method.infer(frames), method.start(frames)
    assert latents.shape == (STEPS + 1, 3, dim)
    torch.testing.assert_close(z0, latents[0])
    kept = z0.clone()
    for k in range(3):
        path = method.path(z0, k, STEPS)
        assert path.shape == (STEPS + 1, 3, dim)
        assert torch.equal(path[0], kept)
        assert method.path(z0, k, 2).shape == (3, 3, dim)
        picture = method.decode(path).mean
        assert picture.shape == (STEPS + 1, 3, 1, 1, dim)
        torch.testing.assert_close(picture, path[:, :, None, None])
    assert torch.equal(z0, kept)
    assert torch.equal(torch.get_rng_state(), state)
    for n in range(3):
        torch.testing.assert_close(method.infer(frames[n : n + 1])[:, 0], latents[:, n])


@pytest.mark.parametrize("name", METHODS)
def test_only_a_topographic_start_sees_later_frames(name):
    """Catches a method that looks at the frames that it has to predict."""
    method, dim = METHODS[name](), STEPS + 1 if name == "tvae" else DIM
    frames = torch.rand(3, STEPS + 1, 1, 1, dim, generator=generator(1), dtype=torch.float64)
    others = torch.cat([frames[:, :1], 1 - frames[:, 1:]], 1)
    assert torch.equal(method.start(frames), method.start(others)) == (name != "tvae")


def test_latents_that_stay_and_latents_that_flow():
    """Catches a static path that moves, and a flow of the wrong potential."""
    z0 = normal(2, 5, DIM)
    assert torch.equal(METHODS["static"]().path(z0, 1, 3), torch.stack([z0] * 4))
    for k in range(3):
        torch.testing.assert_close(METHODS["along"]().path(z0, k, STEPS), shift(z0, k, STEPS))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_the_order_finds_the_potential_of_a_transformation(order):
    """Catches an order that is read the wrong way round: it lists potentials by transformation."""
    model = shifting(order)
    found = AlongFlow(model, tuple(order.index(k) for k in range(3)))
    for error in measure_equivariance(found, DATA).errors.values():
        assert error.output == pytest.approx(0, abs=1e-9)
    wrong = measure_equivariance(AlongFlow(model, tuple(order.index((k + 1) % 3) for k in range(3))), DATA)
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

        def path(self, z0, k, steps):
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
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model(ModelConfig(dim=2, hidden=(4,), width=6, **options), FLOAT).eval()


FLOAT = Toy(torch.rand(9, DIM, generator=generator(0)), lambda z0, k, steps: shift(z0, k, steps).float() / 100)


@pytest.mark.parametrize(
    ("options", "kind", "chosen"),
    [
        ({}, AlongFlow, ()),
        ({"supervision": "weak"}, AlongFlow, ("matching",)),
        ({"method": "poflow"}, AlongFlow, ()),
        ({"method": "tvae"}, TVAE, ()),
        ({"method": "vae"}, Static, ()),
        ({"method": "beta-vae"}, SingleDimension, ("traversals",)),
        ({"method": "factor-vae"}, SingleDimension, ("traversals",)),
        ({"method": "slow-vae"}, SingleDimension, ("traversals",)),
    ],
)
def test_what_is_chosen_for_each_model(options, kind, chosen):
    """Catches a search for a model that has a rule, a VAE that is measured with one, and a choice that is not used."""
    model = built(**options)
    choice = choose(model, FLOAT)
    method = method_of(model, choice)
    assert type(method) is kind
    assert {name for name, value in vars(choice).items() if value is not None} == set(chosen)
    if kind is AlongFlow:
        assert method.order == (choice.matching.order if chosen else (0, 1, 2))
        assert method.model is (model.model if isinstance(model, PoFlow) else model)
    if kind is SingleDimension:
        assert method.traversals == choice.traversals
        assert len(choice.traversals) == 3
    assert measure_equivariance(method, FLOAT).images == 9


def test_a_matching_is_the_order_of_the_method():
    """Catches a model without labels that is measured in the order of its potentials."""
    matching = Matching((2, 0, 1), ((0, 0, 1), (1, 0, 0), (0, 1, 0)))
    assert method_of(built(supervision="weak"), Choice(matching=matching)).order == (2, 0, 1)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), MLPPotential(2, (3,))])
def test_other_models_are_refused(model):
    """Catches a model that is measured as if it were a baseline."""
    with pytest.raises(TypeError, match=f"^model: expected .* got {type(model).__name__}"):
        method_of(model, Choice())
