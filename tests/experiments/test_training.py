"""The training loop: reproducible, resumable, honest about failure."""

import json
import math
import signal

import pytest
import torch
from safetensors.torch import load_file

from latentflow.experiments import training
from latentflow.experiments.configuration import Budget, ModelConfig, TrainConfig
from latentflow.experiments.data import open_sequences
from latentflow.experiments.errors import ExperimentError, UsageError
from latentflow.experiments.hardware import Hardware
from latentflow.experiments.run_folder import RunFolder
from latentflow.experiments.training import learning_rate, step_generator, train

SMALL = TrainConfig("digits", batch_size=6, warmup_steps=2, model=ModelConfig(dim=3, hidden=(5,), width=8))
CPU = Hardware(device="cpu")


def run(tmp_path, name, steps, *, resume=False, config=SMALL):
    folder = RunFolder(tmp_path / name)
    if not resume:
        folder.create(config)
    train(config, Budget(steps=steps), open_sequences("digits", "train"), folder, CPU.launch(), resume=resume)
    return load_file(folder.checkpoint)


def interrupt_at(monkeypatch, step):
    original = training.learning_rate

    def rate(config, at, progress):
        if at == step:
            signal.raise_signal(signal.SIGINT)
        return original(config, at, progress)

    monkeypatch.setattr(training, "learning_rate", rate)


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


@pytest.mark.parametrize(("bound", "precision"), [("marginal", "bf16-mixed"), ("joint", "32")])
def test_ctrl_c_and_resume_end_in_the_same_bits(tmp_path, monkeypatch, bound, precision):
    """Catches state that a checkpoint misses: optimiser moments, the schedule's position, the order of batches."""
    config = TrainConfig("digits", batch_size=6, model=ModelConfig(3, (5,), 8, bound=bound, pde="forced-hj"))
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
    config = TrainConfig("digits", batch_size=6, learning_rate=1e-2, warmup_steps=2, model=ModelConfig(4, (5,), 32))
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
    """Catches a budget that mixes steps and minutes, or counts minutes as seconds."""
    assert Budget(minutes=2).progress(10**6, 60) == 0.5
    assert Budget(steps=4).progress(1, 10**6) == 0.25
    with pytest.raises(UsageError, match="either steps or minutes, got neither"):
        Budget()
    with pytest.raises(UsageError, match="got steps and minutes"):
        Budget(3, 1.0)
    with pytest.raises(UsageError, match="steps: expected a positive integer, got 0"):
        Budget(0)
