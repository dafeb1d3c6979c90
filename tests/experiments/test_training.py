"""The training loop: reproducible, resumable, honest about failure."""

import json
import math
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from closed_forms import generator
from safetensors.torch import load_file
from torch import nn

from latentflow import FlowVAE
from latentflow.vae import ExactSum, StraightThrough
from latentflow_experiments.checkpoints import load_checkpoint
from latentflow_experiments.configuration import Budget, ModelConfig, TrainConfig
from latentflow_experiments.data import open_sequences
from latentflow_experiments.errors import ExperimentError, UsageError
from latentflow_experiments.methods.factor_vae import FactorVAEMethod
from latentflow_experiments.methods.flow import FlowMethod
from latentflow_experiments.runs import RunFolder
from latentflow_experiments.training import loop as training
from latentflow_experiments.training.loop import draw_kinds, draw_starts, learning_rate, step_generator, train
from latentflow_experiments.training.session import Hardware

SMALL = TrainConfig("digits", batch_size=6, warmup_steps=2, model=ModelConfig(dim=3, hidden=(5,), width=8))
CPU = Hardware(device="cpu")
METHODS = ("vae", "beta-vae", "factor-vae", "slow-vae", "tvae", "poflow")


def small(**options):
    return TrainConfig("digits", batch_size=6, model=ModelConfig(dim=3, hidden=(5,), width=8, **options))


KINDS = {
    "marginal": small(pde="forced-hj"),
    "joint": small(bound="joint", pde="forced-hj"),
    "smoothing": small(bound="smoothing"),
    "weak": small(supervision="weak"),
    "weak-exact": small(supervision="weak", label_estimator="exact"),
    **{method: small(method=method) for method in METHODS},
}


def run(tmp_path, name, steps, *, resume=False, config=SMALL):
    folder = RunFolder(tmp_path / name)
    if not resume:
        folder.create(config)
    train(config, Budget(steps=steps), open_sequences("digits", "train"), folder, CPU.launch(), resume=resume)
    return load_file(folder.checkpoint)


def interrupt_at(monkeypatch, step):
    original = training.draw_kinds

    def kinds(config, at, *others):
        if at == step:
            signal.raise_signal(signal.SIGINT)
        return original(config, at, *others)

    monkeypatch.setattr(training, "draw_kinds", kinds)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_a_run_is_a_function_of_its_seed(tmp_path):
    """Catches randomness from the global generator, or a seed that is not used."""
    first = run(tmp_path, "a", 4)
    torch.manual_seed(99)
    assert_same(first, run(tmp_path, "b", 4))
    other = run(tmp_path, "c", 4, config=TrainConfig("digits", seed=1, batch_size=6, warmup_steps=2, model=SMALL.model))
    name = "model.decoder.layers.0.weight"
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize(("kind", "precision"), [*((kind, "32") for kind in KINDS), ("marginal", "bf16-mixed")])
def test_ctrl_c_and_resume_end_in_the_same_bits(tmp_path, monkeypatch, kind, precision):
    """Catches state that a checkpoint misses: optimizer moments, schedules, the order of batches, a temperature."""
    config = KINDS[kind]
    monkeypatch.setattr(f"{__name__}.CPU", Hardware(device="cpu", precision=precision))
    straight = run(tmp_path, "straight", 9, config=config)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "stopped", 9, config=config)
    metadata = RunFolder(tmp_path / "stopped").checkpoint.read_bytes()[:2000]
    assert b'{\\"steps\\": 5,' in metadata
    assert_same(straight, run(tmp_path, "stopped", 9, resume=True, config=config))


def test_training_leaves_the_callers_randomness_and_handlers_alone(tmp_path):
    """Catches a trainer that reseeds torch or keeps Ctrl-C for itself."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    handler = signal.getsignal(signal.SIGINT)
    run(tmp_path, "a", 1)
    assert torch.equal(torch.rand(3), expected)
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    """Catches a NaN that is written over the last good weights."""
    wild = TrainConfig("digits", batch_size=6, learning_rate=1e30, warmup_steps=0, model=SMALL.model)
    folder = RunFolder(tmp_path / "wild")
    run(tmp_path, "wild", 1, config=wild)
    before = folder.checkpoint.read_bytes()
    with pytest.raises((ExperimentError, FloatingPointError), match="not finite"):
        run(tmp_path, "wild", 100, resume=True, config=wild)
    assert folder.checkpoint.read_bytes() == before


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path, monkeypatch):
    """Catches a step that stands twice in the metrics of a run that was killed."""
    monkeypatch.setattr(training, "LOG_STEPS", 1)
    folder = RunFolder(tmp_path / "run")
    run(tmp_path, "run", 3)
    with folder.metrics.open("a") as file:
        file.write('{"step": 4, "total": 1.0}\n{"step": 5, "tot')
    run(tmp_path, "run", 5, resume=True)
    steps = [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5]


def test_the_loss_falls(tmp_path, monkeypatch):
    """Catches a loop that computes everything and updates nothing."""
    monkeypatch.setattr(training, "LOG_STEPS", 1)
    config = TrainConfig(
        "digits", batch_size=6, learning_rate=1e-2, warmup_steps=2, model=ModelConfig(dim=4, hidden=(5,), width=32)
    )
    run(tmp_path, "run", 60, config=config)
    lines = RunFolder(tmp_path / "run").metrics.read_text().splitlines()
    totals = [json.loads(line)["total"] for line in lines]
    assert max(totals[-6:]) < 0.7 * min(totals[:6])


def test_the_schedule_warms_up_and_ends_at_zero():
    """Catches a warm-up that starts at zero or a cosine that does not reach its end."""
    config = TrainConfig("digits", learning_rate=0.5, warmup_steps=3)
    assert [learning_rate(config, n, 0.0) for n in range(5)] == [0.125, 0.25, 0.375, 0.5, 0.5]
    assert learning_rate(config, 10, 0.5) == pytest.approx(0.25)
    assert learning_rate(config, 10, 1.2) == pytest.approx(0, abs=1e-15)
    assert learning_rate(config, 10, 1 / 3) == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)) / 2)


def test_every_step_and_rank_has_its_own_noise():
    """Catches two devices, or two steps, that see the same noise."""
    draws = {
        (seed, rank, step): torch.rand((), generator=step_generator(seed, rank, step, torch.device("cpu"))).item()
        for seed in range(2)
        for rank in range(2)
        for step in range(3)
    }
    assert len(set(draws.values())) == len(draws)
    again = torch.rand((), generator=step_generator(1, 1, 2, torch.device("cpu")))
    assert again.item() == draws[1, 1, 2]


def test_budgets():
    """Catches a budget that mixes steps and minutes, counts minutes as seconds, or takes none of them."""
    assert Budget(minutes=2).progress(10**6, 60) == 0.5
    assert Budget(cpu_minutes=2).progress(10**6, 60) == 0.5
    assert Budget(steps=4).progress(1, 10**6) == 0.25
    with pytest.raises(UsageError, match="one of steps, minutes and cpu-minutes, got none"):
        Budget()
    with pytest.raises(UsageError, match="got steps and minutes"):
        Budget(3, 1.0)
    with pytest.raises(UsageError, match="got minutes and cpu_minutes"):
        Budget(minutes=1.0, cpu_minutes=1.0)
    with pytest.raises(UsageError, match="steps: expected a positive integer, got 0"):
        Budget(0)
    with pytest.raises(UsageError, match="cpu-minutes: expected a positive number, got 0"):
        Budget(cpu_minutes=0)


def test_minutes_of_the_processor_are_those_of_the_process(tmp_path, monkeypatch):
    """Catches a budget of the processor's time that the clock on the wall uses up, and time that resuming forgets."""
    ticks = iter(range(10**6))
    walls = SimpleNamespace(process_time=lambda: next(ticks), perf_counter=lambda: pytest.fail("the wall was read"))
    monkeypatch.setattr(training, "time", walls)
    folder = RunFolder(tmp_path / "run")
    folder.create(SMALL)
    data = open_sequences("digits", "train")
    train(SMALL, Budget(cpu_minutes=0.5), data, folder, CPU.launch())
    assert 30 <= load_checkpoint(folder.checkpoint, SMALL.model.build(data)).seconds < 40
    before = load_file(folder.checkpoint)
    train(SMALL, Budget(cpu_minutes=0.5), data, folder, CPU.launch(), resume=True)
    assert_same(before, load_file(folder.checkpoint))  # it was spent


def recorded(monkeypatch):
    """What every step of training is given."""
    original, calls = training._finite_terms, []

    def terms(terms_of, frames, k, *others):
        calls.append((frames, k))
        return original(terms_of, frames, k, *others)

    monkeypatch.setattr(training, "_finite_terms", terms)
    return calls


@pytest.mark.parametrize("kind", ["marginal", "poflow", "weak", "vae", "tvae"])
def test_only_methods_with_labels_are_given_them(tmp_path, monkeypatch, kind):
    """Catches labels that reach a method that is to do without, frames of other transformations than the labels say."""
    calls, config = recorded(monkeypatch), KINDS[kind]
    run(tmp_path, "run", 3, config=config)
    data = open_sequences("digits", "train")
    for step, (frames, k) in enumerate(calls):
        source = step_generator(config.seed, 0, step, torch.device("cpu"))
        kinds = draw_kinds(config, step, 3, source)
        indices = draw_starts([data.starts(n) for n in range(3)], kinds, source)
        assert torch.equal(frames, data.sequence(indices, kinds))
        assert k is None if kind in ("weak", "vae", "tvae") else torch.equal(k, torch.full((6,), step % 3))
    assert len(calls) == 3


@pytest.mark.parametrize("kind", ["weak", "weak-exact", *METHODS[:-1]])
def test_without_labels_a_batch_mixes_transformations(kind):
    """Catches batches of one transformation, which tell what is not to be told, and kinds that are drawn unequally."""
    config = TrainConfig("digits", batch_size=3000, model=KINDS[kind].model)
    drawn = draw_kinds(config, 1, 3, generator(0))
    assert drawn.dtype == torch.int64
    assert (torch.bincount(drawn, minlength=3) - 1000).abs().max() < 4 * (3000 * 2 / 9) ** 0.5
    assert torch.equal(drawn, draw_kinds(config, 2, 3, generator(0)))


def test_with_labels_transformations_take_turns():
    """Catches a transformation that is never trained, and a mixed batch where the log names one."""
    for kind in ("marginal", "poflow"):
        batches = [draw_kinds(KINDS[kind], step, 3, generator(0)) for step in range(6)]
        assert torch.equal(torch.stack(batches), torch.tensor([0, 1, 2, 0, 1, 2])[:, None].expand(6, 6))


def test_starts_are_drawn_evenly_from_those_of_the_transformation():
    """Catches places for indices, the starts of another transformation, and a first or last one left out."""
    starts = [torch.arange(100, 103), torch.arange(200, 205), torch.tensor([7])]
    k = torch.arange(3).repeat(5000)
    drawn = draw_starts(starts, k, generator(0))
    assert drawn.dtype == torch.int64
    for kind, first in enumerate(starts):
        counts = (drawn[k == kind] == first[:, None]).sum(1)
        assert counts.sum() == 5000
        assert (counts - 5000 / len(first)).abs().max() < 4 * (5000 / len(first)) ** 0.5


def test_a_group_of_parameters_has_its_own_learning_rate(tmp_path, monkeypatch):
    """Catches a scale that is ignored, that adds up from step to step, or that falls on all groups."""
    torch.manual_seed(0)
    start = SMALL.model.build(open_sequences("digits", "train")).state_dict()
    plain, slow = (
        run(tmp_path, "plain", 1),
        run(tmp_path, "slow", 3, config=replace(SMALL, learning_rate=SMALL.learning_rate / 2)),
    )
    monkeypatch.setattr(
        FlowMethod, "parameter_groups", lambda _, model: [{"params": [*model.parameters()], "scale": 0.5}]
    )
    halved = run(tmp_path, "halved", 3)
    parts = {True: 0.5, False: 1.0}  # of the decoder, of the others

    def groups(_, model):
        named = list(model.named_parameters())
        return [{"params": [p for n, p in named if ("decoder" in n) == d], "scale": parts[d]} for d in parts]

    monkeypatch.setattr(FlowMethod, "parameter_groups", groups)
    apart = run(tmp_path, "apart", 1)
    for name, weight in start.items():
        key = f"model.{name}"
        assert torch.equal(halved[key], slow[key])
        move = parts["decoder" in name] * (plain[key] - weight)
        torch.testing.assert_close(apart[key] - weight, move, rtol=1e-3, atol=1e-7)


def test_a_sure_label_posterior_is_not_thrown_by_one_gradient():
    """Catches Adam's short memory: after many steps without a gradient, one of the old size moves weights a long way.

    Both groups get the same gradients: 3,000 of random signs, 5,000 of zero, then a single one, and zero again. That
    one moves a weight by about its size times the rate where the moments are kept; Adam moves it by
    1 / sqrt(0.001 + exp(-5)), some eleven times as far.
    """
    model = KINDS["weak"].model.build(open_sequences("digits", "test"))
    groups = FlowMethod().parameter_groups(model)
    both = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(both) == sorted(id(parameter) for parameter in model.parameters())
    assert {id(parameter) for parameter in groups[1]["params"]} == {id(p) for p in model.label_posterior.parameters()}
    weights = [nn.Parameter(torch.zeros(())) for _ in groups]
    few = [{**group, "params": [weight]} for group, weight in zip(groups, weights, strict=True)]
    optimizer = torch.optim.Adam(few, lr=1.0, fused=True)
    signs = torch.randint(0, 2, (3000,), generator=generator(1)) * 2.0 - 1

    def descend(gradients):
        for gradient in gradients:
            for weight in weights:
                weight.grad = gradient.clone()
            optimizer.step()

    descend(torch.cat([signs, torch.zeros(5000)]))
    before = [weight.item() for weight in weights]
    descend(torch.cat([torch.ones(1), torch.zeros(100)]))
    others, labels = (start - weight.item() for start, weight in zip(before, weights, strict=True))
    assert 10 < others < 12.5
    assert 0.9 < labels < 1.3


def test_bfloat16_rounds_the_layers_and_not_the_images():
    """Catches images of eight binary digits, which are the targets of the likelihood too."""

    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(7, 2)

        def forward(self, x):
            self.seen, self.features = x, self.layer(x)
            return {"total": self.features.sum()}

    fabric, x = Hardware(device="cpu", precision="bf16-mixed").launch(), torch.rand(5, 7, generator=generator(2))
    model = Seen()
    fabric.setup_module(model)(x)
    assert model.seen is x
    assert model.features.dtype == torch.bfloat16


def test_the_discriminator_learns_as_its_paper_has_it():
    """Catches the groups of a factor VAE left out: its discriminator has other moments, and no parameter is in both."""
    model = KINDS["factor-vae"].model.build(open_sequences("digits", "test"))
    ours, theirs = FactorVAEMethod().parameter_groups(model)
    assert theirs["betas"] == (0.5, 0.9)
    assert theirs["scale"] == model.discriminator_scale
    both = [id(parameter) for parameter in (*ours["params"], *theirs["params"])]
    assert sorted(both) == sorted(id(parameter) for parameter in model.parameters())


def test_the_temperature_falls_with_the_budget(tmp_path, monkeypatch):
    """Catches a temperature that follows the steps of a short run, stays at 1, or freezes the exact sum."""
    temperatures, anneal = [], FlowMethod.anneal

    def watched(self, model, spent):
        anneal(self, model, spent)
        posterior = model.label_posterior
        if posterior is not None and isinstance(posterior.estimator, StraightThrough):
            temperatures.append(posterior.estimator.temperature)

    monkeypatch.setattr(FlowMethod, "anneal", watched)
    run(tmp_path, "run", 4, config=KINDS["weak"])
    assert temperatures == pytest.approx([math.exp(-3e-5 * 90_000 * n / 4) for n in range(4)])
    data = open_sequences("digits", "test")
    exact, free, labelled = (KINDS[kind].model.build(data) for kind in ("weak-exact", "weak", "marginal"))
    for model in (exact, free, labelled):
        FlowMethod().anneal(model, 1.0)
    assert exact.label_posterior.estimator == ExactSum()
    assert free.label_posterior.estimator == StraightThrough(math.exp(-2.7))
    assert labelled.label_posterior is None


@pytest.mark.parametrize(("kind", "sure"), [("weak", True), ("weak", False), ("joint", False)])
def test_a_label_posterior_that_has_collapsed_is_reported_once(tmp_path, monkeypatch, capsys, kind, sure):
    """Catches hours in which one flow learns and the others do nothing, without a word, and a line in every record."""
    monkeypatch.setattr(training, "LOG_STEPS", 1)
    config, data = replace(KINDS[kind], learning_rate=1e-6), open_sequences("digits", "train")
    model = training.initial_model(config, data)
    if sure:
        last = [layer for layer in model.label_posterior.network.modules() if isinstance(layer, nn.Linear)][-1]
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.0, 200.0, 0.0]))
    folder = RunFolder(tmp_path / "run")
    folder.create(config)
    train(config, Budget(steps=6), data, folder, CPU.launch(), model)
    said = capsys.readouterr().err
    numbers = 9 * 3 * 28 * 28
    assert said.count("from step 3 on all sequences are given to one flow") == sure
    assert said.count(f"a larger balance, such as {max(0.01 * numbers, 1000):,.0f} in place of 100") == sure


class Shown(Exception):
    """What a step was shown is known."""


@pytest.mark.parametrize("supervision", ["weak", "labels"])
def test_training_without_labels_never_hands_them_over(monkeypatch, tmp_path, supervision):
    """Catches a label that is read in training, and batches of one transformation, whose order would tell it."""
    config = TrainConfig("digits", batch_size=32, model=ModelConfig(supervision=supervision, dim=3, width=8))
    batches = [training.draw_kinds(config, step, 3, generator(step)) for step in range(4)]
    kinds = [set(batch.tolist()) for batch in batches]
    assert kinds == ([{0, 1, 2}] * 4 if supervision == "weak" else [{0}, {1}, {2}, {0}])
    seen = []

    def spy(self, x, k=None, generator=None):
        seen.append(k)
        raise Shown

    monkeypatch.setattr(FlowVAE, "forward", spy)
    folder = RunFolder(tmp_path / "run")
    folder.create(config)
    with pytest.raises(Shown):
        training.train(
            config, Budget(steps=1), open_sequences("digits", "train"), folder, Hardware(device="cpu").launch()
        )
    assert [k is None for k in seen] == [supervision == "weak"]
