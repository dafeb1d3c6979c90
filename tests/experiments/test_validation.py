"""Errors in the course of a training, clipped gradients, and pixels that sharpen."""

import json
import math

import pytest
import torch
from closed_forms import generator
from torch import nn

from latentflow.vae import BernoulliLikelihood, LaplaceLikelihood
from latentflow_experiments.configuration import Budget, ModelConfig, TrainConfig
from latentflow_experiments.data import open_sequences
from latentflow_experiments.errors import UsageError
from latentflow_experiments.methods import METHODS
from latentflow_experiments.methods.method import Choice
from latentflow_experiments.methods.pixels import EARLY, LAST, LateLaplaceLikelihood
from latentflow_experiments.runs import RunFolder, read_log
from latentflow_experiments.training import loop
from latentflow_experiments.training.processes import SharedModel
from latentflow_experiments.training.session import Clock, Hardware
from latentflow_experiments.training.validation import Validation

SMALL = {"dim": 3, "hidden": (5,), "width": 8}


def config(validations=4, **model):
    return TrainConfig(
        "digits", batch_size=6, warmup_steps=2, validations=validations, model=ModelConfig(**SMALL | model)
    )


def run(path, steps, validations=4, *, resume=False, total=None, **model):
    folder, chosen = RunFolder(path), config(validations, **model)
    if not resume:
        folder.create(chosen)
    parts = {split: open_sequences("digits", split) for split in ("train", "validation")}
    fabric = Hardware(device="cpu").launch()
    trained = loop.train(
        chosen, Budget(steps=steps), parts["train"], folder, fabric, resume=resume, validation=parts["validation"]
    )
    return folder, trained


def logged(folder):
    records = [json.loads(line) for _, line in read_log(folder.metrics)[0]]
    return {r["step"]: r for r in records if "validation/scaling" in r}


def test_errors_are_logged_at_equal_shares_and_are_those_of_the_model(tmp_path):
    """Catches a measurement in training mode, of other sequences or of step 0, and one that comes twice or never."""
    folder, model = run(tmp_path / "run", 8)
    found = logged(folder)
    assert sorted(found) == [2, 4, 6, 8]
    data = open_sequences("digits", "validation")
    motion = METHODS["flow"].motion(model.eval(), Choice())
    for k, name in enumerate(data.names):
        frames = data.sequence(data.starts(k), k)
        with torch.no_grad():
            decoded = motion.decode(motion.follow(motion.start(frames), k, data.steps)).mean.transpose(0, 1)
        expected = (decoded - frames)[:, 1:].abs().sum() / len(frames)
        assert found[8][f"validation/{name}"] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("supervision", ["labels", "weak"])
def test_measuring_changes_nothing(tmp_path, supervision):
    """Catches a measurement that draws from the sources of training, or leaves the model in evaluation mode."""
    with_errors = run(tmp_path / "a", 5, 5, supervision=supervision)[1].state_dict()
    without = run(tmp_path / "b", 5, 0, supervision=supervision)[1].state_dict()
    assert logged(RunFolder(tmp_path / "b")) == {}
    assert all(torch.equal(with_errors[name], without[name]) for name in without)


def test_the_search_of_traversals_is_left_out():
    """Catches a minute of search at each measurement of a method whose latents are coordinates."""
    data = open_sequences("digits", "validation")
    names = [name for name, method in METHODS.items() if Validation(method, data, 4, 0.0).due(0.5)]
    assert names == [name for name in METHODS if name not in ("beta-vae", "factor-vae", "slow-vae")]


def test_the_time_of_measurements_is_not_that_of_training():
    """Catches a budget of minutes that the measurements use up."""
    times = iter([0.0, 10.0, 14.0, 20.0, 21.0])
    clock = Clock(before=5.0, now=lambda: next(times))
    with clock.paused():  # from 10 to 14
        pass
    assert clock.seconds == 5 + 20 - 4


@pytest.mark.parametrize("clip_norm", [0.0, 2.0, 100.0])
def test_a_long_gradient_is_shortened_to_the_norm(clip_norm):
    """Catches clipping by value, of each parameter by itself, of a part of a batch, and of a gradient that is short."""
    model = nn.Linear(2, 1)
    shared = SharedModel(Hardware(device="cpu").launch(), METHODS["vae"], model, None)
    rates = {0: (6.0, 1.0), 1: (0.0, 7.0)}  # of the sum of the weights and of the bias, on average 3 and 4

    def terms_of(_, part):
        return {"total": rates[part][0] * model.weight.sum() + rates[part][1] * model.bias.sum()}

    shared.descend(range(2), terms_of, clip_norm)
    scale = min(1.0, clip_norm / math.sqrt(34)) if clip_norm else 1.0
    gradient = torch.cat([model.weight.grad.flatten(), model.bias.grad])
    torch.testing.assert_close(gradient, torch.tensor([3.0, 3.0, 4.0]) * scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "value"), [("clip_norm", -1.0), ("clip_norm", math.nan), ("validations", -1)])
def test_wrong_options_are_refused(name, value):
    """Catches a NaN that clips every gradient to nothing."""
    with pytest.raises(UsageError, match=rf"^{name.replace('_', '-')}: expected an? (number|integer) of at least 0"):
        TrainConfig("digits", **{name: value})


def test_pixels_are_bernoulli_first_and_sharpen_after_it():
    """Catches a density that jumps, a scale that rises, and measurements of another density than the last."""
    likelihood, decoded = LateLaplaceLikelihood(), torch.randn(3, 1, 4, 4, generator=generator(0))
    x = torch.rand(3, 1, 4, 4, generator=generator(1))
    last = LaplaceLikelihood(LAST)(decoded).log_prob(x)
    torch.testing.assert_close(likelihood(decoded).log_prob(x), last)
    scales = []
    for spent in torch.linspace(0, 1, 9).tolist():
        likelihood.anneal(spent)
        if spent < EARLY:
            torch.testing.assert_close(likelihood(decoded).log_prob(x), BernoulliLikelihood()(decoded).log_prob(x))
        else:
            scales.append(likelihood.scale)
    ratios = torch.tensor(scales[1:]) / torch.tensor(scales[:-1])
    assert (scales[0], scales[-1]) == pytest.approx((0.5, 0.05))
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))
    torch.testing.assert_close(likelihood(decoded).log_prob(x), last)


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_sharpens_its_pixels(name):
    """Catches a method that overrides the annealing without it, or hides the likelihood in a model of its own."""
    method = METHODS[name]
    model = ModelConfig(method=name, likelihood="laplace", **SMALL).build(open_sequences("digits", "test"))
    found = [part.likelihood for part in model.modules() if hasattr(part, "likelihood")]
    assert found
    for spent, scale in ((0.0, None), (1.0, pytest.approx(0.05))):
        method.anneal(model, spent)
        assert [likelihood.scale for likelihood in found] == [scale] * len(found)
