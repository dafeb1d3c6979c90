"""The benchmarks: the page shows what was measured, and what is compared computes the same."""

import doctest
import gc
import importlib
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import close, network, rand, randn, reference_jet
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    automatic,
    bank,
    competitors,
    compiled,
    densities,
    evaluations,
    hopf_lax,
    imports,
    jets,
    laplacian_worker,
    laplacians,
    sequences,
)
from benchmarks.__main__ import NUMBERS, PAGE, PARTS, main
from benchmarks.record import Comparison, Record, load, save
from benchmarks.report import UNMEASURED, render
from benchmarks.timing import Plan, Timing, check_close, measure
from latentflow import ODE, QuadraticPotential
from latentflow_experiments.data import open_sequences

FOLDER = Path(__file__).parent.parent / "benchmarks"


def test_the_page_shows_what_was_measured():
    """Catches a table edited by hand, and numbers measured anew without a new page."""
    page = PAGE.read_text(encoding="utf-8")
    assert render(page, PARTS, load(NUMBERS)) == page


def test_the_numbers_are_complete_and_say_where_they_come_from():
    """Catches a part left out, one of a short trial, and other versions than the ones that the requirements install."""
    records = load(NUMBERS)
    assert set(records) == {part.name for part in PARTS}
    required = dict(line.split("==") for line in (FOLDER / "requirements.txt").read_text().split("\n") if "==" in line)
    for name, record in records.items():
        facts = record.provenance
        if name != "song2023":  # which compares with no other library
            assert {name: facts["libraries"][name] for name in required} == required
        assert all(facts[name] for name in ("date", "commit", "processor", "cores", "threads", "python"))
        for comparison in record.comparisons:
            assert all(timing.samples >= Plan().least for timing in comparison.timings.values())
            assert all(timing.lower <= timing.median <= timing.upper for timing in comparison.timings.values())


def test_a_table_edited_by_hand_is_written_over_and_a_lost_one_is_missed():
    """Catches a block that keeps its old text, prose that is lost, and a page without one of its tables."""
    names = ["machine", "aims", *(part.name for part in PARTS)]
    page = "".join(f"Prose about {name}.\n\n<!-- begin {name} -->\n\n| 9 |\n\n<!-- end -->\n\n" for name in names)
    written = render(page, PARTS, {})
    assert "9" not in written
    assert written.count(UNMEASURED) == len(names)
    assert re.findall(r"Prose about (\w+)\.", written) == names
    with pytest.raises(ValueError, match="page: expected the blocks"):
        render(page.replace("<!-- begin jets -->", ""), PARTS, {})


class Clock:
    """A clock that only moves when a function says so."""

    def __init__(self):
        self.now = 0.0
        self.order = []

    def __call__(self):
        return self.now

    def function(self, name, cost):
        def run():
            self.order.append((name, gc.isenabled()))
            self.now += cost
            return name

        return run


def test_functions_are_timed_in_turn_and_slow_ones_less_often():
    """Catches one function timed after the other, slow samples bunched at the start, and warm-ups that count."""
    clock, checked = Clock(), []
    functions = {"fast": clock.function("fast", 1.0), "slow": clock.function("slow", 10.0)}
    plan = Plan(rounds=6, least=3, seconds=8.0, sample=0.5)
    timings = measure(functions, plan, lambda name, result: checked.append((name, result)), clock)
    assert checked == [("fast", "fast"), ("slow", "slow")]
    assert [name for name, _ in clock.order[:3]] == ["fast", "fast", "slow"]  # the slow one warms up once
    assert [name[0] for name, _ in clock.order[3:]] == list("ffsffsffs")
    assert not any(collecting for _, collecting in clock.order[3:])
    assert gc.isenabled()
    assert timings == {"fast": Timing(1.0, 1.0, 1.0, 6, 1), "slow": Timing(10.0, 10.0, 10.0, 3, 1)}


def test_quick_functions_are_called_several_times_in_a_sample():
    """Catches a sample whose time is not divided by its calls."""
    clock = Clock()
    timing = measure({"quick": clock.function("quick", 0.25)}, Plan(rounds=4, sample=1.0, seconds=8), clock=clock)[
        "quick"
    ]
    assert (timing.median, timing.samples, timing.calls) == (0.25, 4, 4)
    assert len(clock.order) == 2 + 4 * 4


def test_quartiles_interpolate():
    """Catches exclusive quartiles, which lie outside the samples where these are few."""
    seconds = [5.0, 1.0, 2.0, 8.0]
    timing = Timing.of(seconds)
    assert np.allclose([timing.lower, timing.median, timing.upper], np.quantile(seconds, [0.25, 0.5, 0.75]))


def test_records_survive_the_file(tmp_path):
    """Catches a field that is lost on its way through JSON."""
    comparison = Comparison("case", "task", {"a": Timing(2.0, 1.0, 3.0, 5, 1)}, {"count": {"a": 3}, "failed": {}})
    records = {"jets": Record({"date": "2026-01-01", "libraries": {"torch": None}}, [comparison])}
    save(records, tmp_path / "numbers.json")
    assert load(tmp_path / "numbers.json") == records
    assert load(tmp_path / "none.json") == {}


def test_results_that_differ_stop_the_run():
    """Catches a check that compares with a tolerance of the wrong scale, or too few results."""
    close_to_it = [torch.tensor([1e3, 0.0]), torch.tensor([1.0])]
    check_close([torch.tensor([1e3, 0.09]), torch.tensor([1.0])], close_to_it, 1e-4)
    with pytest.raises(AssertionError, match="somebody, result 0"):
        check_close([torch.tensor([1e3, 0.11]), torch.tensor([1.0])], close_to_it, 1e-4, "somebody")
    with pytest.raises(ValueError, match="zip"):
        check_close(close_to_it[:1], close_to_it, 1e-4)
    noise = randn(400)
    densities.check_unbiased(noise - noise.mean(), torch.zeros(400), "somebody")
    with pytest.raises(AssertionError, match="somebody"):
        densities.check_unbiased(noise - noise.mean() + 0.5, torch.zeros(400), "somebody")
    with pytest.raises(AssertionError, match="somebody"):
        densities.check_aligned([-noise], [noise], "somebody")


def jet_functions():
    by_hand = [automatic.trace_of_products, automatic.trace_of_hessian, automatic.trace_of_jacobian]
    return [automatic.latentflow_jet, *by_hand, *([automatic.pina_jet()] if importlib.util.find_spec("pina") else [])]


@pytest.mark.parametrize("function", jet_functions(), ids=lambda function: function.__name__)
def test_everyone_computes_the_same_jet(function):
    """Catches a competitor that is given less to compute, or something else."""
    u, z, t = network(3), randn(4, 3), rand(4, seed=1)
    expected = reference_jet(u, z, t)
    for actual, name in zip(function(u, z, t), ("value", "gradient", "time_derivative", "laplacian"), strict=True):
        close(actual, getattr(expected, name))


@pytest.mark.parametrize("velocity", [competitors.by_rule, competitors.by_autograd, competitors.by_func])
def test_velocities_by_hand_are_gradients(velocity):
    """Catches a field by hand that forgets the graph, so that the gradient of its parameters would be zero."""
    u, z, t = network(3), randn(4, 3), torch.tensor(0.3, dtype=torch.float64)
    actual = velocity(u)(z, t)
    close(actual, reference_jet(u, z, t).gradient)
    (slope,) = torch.autograd.grad(actual.square().sum(), u.output.weight)
    assert slope.abs().min() > 0


def ways(u, calls):
    parameters = list(u.parameters())
    yield "latentflow", lambda: competitors.by_latentflow(u, ODE(rtol=1e-8, atol=1e-8), True, calls)
    yield "zuko", lambda: competitors.by_zuko(competitors.by_autograd(u), parameters, True, calls)
    yield "flow_matching", lambda: competitors.by_flow_matching(competitors.by_autograd(u), True, calls)
    yield "torchdyn", lambda: competitors.by_torchcfm(competitors.by_func(u), True, calls)


@pytest.mark.parametrize("library", ["latentflow", "zuko", "flow_matching", "torchdyn"])
def test_everyone_computes_the_log_density_at_time_one(library):
    """Catches a log-determinant of the wrong sign, a flow in the wrong direction, a normaliser without its dim."""
    pytest.importorskip(library)
    exponents = torch.tensor([0.7, -0.4], dtype=torch.float64)
    u, calls = QuadraticPotential(2, torch.diag(exponents)), competitors.Calls()
    z = randn(5, 2)
    with torch.no_grad():
        actual = dict(ways(u, calls))[library]()(z)
    expected = torch.distributions.Normal(0.0, exponents.exp()).log_prob(z).sum(-1)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    assert calls.count >= 7


@pytest.mark.parametrize("exact", [True, False])
def test_the_arithmetic_of_an_evaluation_is_all_of_it(exact):
    """Catches a floor that is none: products of other sizes than those that the velocity and its divergence make."""
    u, z = densities.draw(1.0)
    probe = None if exact else torch.ones_like(z)
    floor = evaluations.arithmetic(u, z, probe)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        floor()
    points, (one, two) = densities.BATCH, densities.HIDDEN
    layers = 2 * points * (densities.DIM * one + one * two)
    divergence = points * one * (one + 1) * two if exact else layers
    assert counter.get_total_flops() == 2 * layers + divergence


def test_the_compiled_objectives_are_one_objective():
    """Catches a factor or a sign in which the objective by hand differs."""
    u, z, t = network(3), randn(4, 3), rand(4, seed=1)
    expected = compiled.by_latentflow(u)(z, t)
    for function in compiled.OTHERS.values():
        close(compiled.by_func(u, function)(z, t), expected)


def test_the_bank_that_is_timed_holds_different_potentials():
    """Catches a bank of one network three times, whose groups could not be told apart."""
    drawn = [jets.Size(2, 3, 4).inputs(seed)[0].point.weight for seed in (0, 1, 0)]
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert bank.COUNT > 1


def timed(**medians):
    return {name.replace("_", " "): Timing(median, median, median, 3, 1) for name, median in medians.items()}


def test_aims_compare_the_right_way_round():
    """Catches a ratio upside down, and a best case that is shown for the worst."""
    measured = [Comparison("fresh interpreter", "import", {})]
    for seconds, met in ((1.09, True), (1.11, False)):
        measured[0].timings.update({imports.BELOW: Timing(1, 1, 1, 3, 1), imports.WITH: Timing(seconds, 1, 1, 3, 1)})
        assert [aim.met for aim in imports.aims(measured)] == [met]
    sizes = [Comparison(case, bank.TASKS[0], timed(mixed=cost, one=1.0)) for case, cost in (("a", 1.2), ("b", 1.4))]
    sizes += [Comparison(case, bank.TASKS[1], timed(mixed=1.0, one=cost)) for case, cost in (("a", 1.2), ("b", 1.0))]
    first, second = bank.aims(sizes)
    assert (first.met, first.measured) == (False, "1.4 x at b")
    assert (second.met, second.measured) == (True, "1.0 x at b")


def test_the_aim_of_hopf_lax():
    """Catches a ratio upside down."""
    for seconds, met in ((1.1, True), (0.9, False)):
        one = dict.fromkeys((hopf_lax.OURS, hopf_lax.STEPS), Timing(1, 1, 1, 3, 1))
        timings = {**one, hopf_lax.TRAINED: Timing(seconds, 1, 1, 3, 1)}
        assert [aim.met for aim in hopf_lax.aims([Comparison(hopf_lax.CASE, hopf_lax.TASK, timings)])] == [met]


def test_the_closest_competitor_decides_on_jets():
    """Catches an aim that is met against the slower of two competitors, or at the easiest size."""
    comparisons = []
    for task in jets.TASKS:
        for size in jets.SIZES:
            medians = {jets.OURS: 2.0, jets.PRODUCTS: 12.0, jets.HESSIAN: 30.0, jets.PINA: 1.0, jets.GEMM: 1.0}
            if size.dim == 43:
                medians[jets.HESSIAN] = 6.0
            timings = {name: Timing(median, median, median, 3, 1) for name, median in medians.items()}
            comparisons.append(Comparison(str(size), task, timings))
        dimensions = {str(size): Timing(1.0, 1.0, 1.0, 3, 1) for size in (jets.NARROW, jets.WIDE)}
        comparisons.append(Comparison(jets.ACROSS, task, dimensions))
    found = {aim.text: aim for aim in jets.aims(comparisons)}
    missed = found["at least 5 x faster than `torch.func` at 43 or more coordinates, forward"]
    assert (missed.met, missed.measured) == (False, "3.0 x against torch.func.hessian at 512 x 43, width 256")
    assert [aim.met for aim in found.values()] == [False, True, False, True, False, True, True, True]


@pytest.mark.parametrize("task", laplacians.TASKS)
def test_an_earlier_state_of_the_library_computes_the_same(task):
    """Catches weights that are handed over in another order, and a gradient with a parameter too few."""
    u, z = laplacians.Size(batch=5, dim=3, width=4, depth=3).inputs()
    expected = laplacians.run_task(laplacians.by_hessian, laplacians.Plain(u), z, task)
    weights = [weight.numpy() for weight in laplacians.plain_weights(u)]
    threads = torch.get_num_threads()
    try:
        found = laplacian_worker.by_latentflow(weights, z.numpy(), task)()
    finally:
        torch.set_num_threads(threads)
    for actual, wanted in zip(found, expected, strict=True):
        close(torch.from_numpy(actual), wanted, tolerance=1e-4)


@pytest.mark.parametrize("module", ["densities", "frames", "record", "report", "text", "timing"])
def test_examples_of_the_benchmarks_run(module):
    """Catches an example that no longer holds."""
    assert doctest.testmod(importlib.import_module(f"benchmarks.{module}")).failed == 0


def test_an_unknown_part_is_an_error(capsys):
    """Catches a misspelt part that measures nothing and says so to nobody."""
    with pytest.raises(SystemExit):
        main(["jet"])
    parts = "jets, laplacians, densities, evaluations, bank, hopf_lax, sequences, frames, rendering, imports, compiled"
    assert f"expected one of {parts}, song2023, got jet" in capsys.readouterr().err


def test_the_sequences_that_are_timed_are_those_of_a_training_step():
    """Catches a batch that is read once and handed out again, one of another size, and a share upside down."""
    data = open_sequences("digits", "train")
    batches = sequences.Batches(data)
    drawn = [batches() for _ in range(4)]
    assert all(batch.shape == (128, 9, 3, 28, 28) for batch in drawn)
    assert not torch.equal(drawn[0], drawn[3])  # both of scaling
    step = sequences.Step(data)
    before = [parameter.clone() for parameter in step.model.parameters()]
    step()
    assert any(not torch.equal(*pair) for pair in zip(before, step.model.parameters(), strict=True))
    seconds = {"from the files": 0.5, "training step": 2.0}
    timing = {name: Timing(each, each, each, 3, 1) for name, each in seconds.items()}
    comparison = Comparison("digits", "128 sequences", timing)
    assert "25.0%" in sequences.tables([comparison])
    (aim,) = sequences.aims([comparison])
    assert (aim.measured, aim.met) == ("25.0% at digits", False)
