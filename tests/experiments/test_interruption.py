"""Ctrl-C once, twice and at the same time as SIGTERM, and the log that it must not block."""

import json
import signal
import sys
import threading

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from latentflow_experiments import __main__ as command
from latentflow_experiments.errors import INTERRUPTED
from latentflow_experiments.runs import RunFolder
from latentflow_experiments.training.session import Interrupt, MetricsLog


@pytest.fixture
def handlers():
    """Ctrl-C raises, SIGTERM is ignored, and both are as before afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_second_ctrl_c_raises():
    """Catches a step of minutes that cannot be stopped."""
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("handlers")
@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="sends two signals at once")
def test_two_signals_at_once_are_one_request(monkeypatch):
    """Catches a first signal that takes away the handler which a second one waits for; Python writes a traceback."""
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    both = {signal.SIGINT, signal.SIGTERM}
    with Interrupt() as interrupt:
        signal.pthread_sigmask(signal.SIG_BLOCK, both)
        for number in both:
            signal.raise_signal(number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
        assert interrupt.requested
    assert said == []


def _stop():
    raise KeyboardInterrupt


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("ending", "code", "after"),
    [
        (_stop, INTERRUPTED, signal.SIG_DFL),
        (lambda: INTERRUPTED, INTERRUPTED, signal.SIG_DFL),
        (lambda: 0, 0, signal.default_int_handler),
    ],
)
def test_after_ctrl_c_another_one_ends_the_process(monkeypatch, ending, code, after):
    """Catches a traceback of an interpreter on its way out, and a handler that is changed although nobody stopped."""
    monkeypatch.setattr(command, "_run", ending)
    assert command.main() == code
    assert signal.getsignal(signal.SIGINT) is after


def read_events(folder):
    """The steps and values of every name, as TensorBoard reads them."""
    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_the_log_and_the_events_hold_the_same_numbers(tmp_path):
    """Catches events that TensorBoard cannot read, and those of a session without a checkpoint that stay."""
    folder = RunFolder(tmp_path)
    with MetricsLog(folder, 0) as log:
        log.write(5, kl=1.5, reconstruction=30.0)
        log.write(10, kl=0.5, reconstruction=20.0)
        log.write(15, kl=0.25, reconstruction=10.0)
    with MetricsLog(folder, 10) as log:  # the checkpoint was that of step 10
        log.write(15, kl=0.75, reconstruction=float("nan"))
    records = [json.loads(line) for line in folder.metrics.read_text(encoding="utf-8").splitlines()]
    assert [(record["step"], record["kl"], record["reconstruction"]) for record in records] == [
        (5, 1.5, 30.0),
        (10, 0.5, 20.0),
        (15, 0.75, None),
    ]
    events = read_events(tmp_path)
    assert events["kl"] == [(record["step"], record["kl"]) for record in records]
    assert events["reconstruction"][:2] == [(5, 30.0), (10, 20.0)]
    assert len(events["reconstruction"]) == 3


def test_the_log_starts_no_thread(tmp_path):
    """Catches a writer whose thread misses its wake-up if Ctrl-C comes while it is given a record: closing hangs."""
    before = threading.enumerate()
    with MetricsLog(RunFolder(tmp_path), 0) as log:
        log.write(1, kl=1.0)
        assert threading.enumerate() == before
    assert read_events(tmp_path) == {"kl": [(1, 1.0)]}
