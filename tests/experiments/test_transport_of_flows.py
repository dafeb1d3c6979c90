"""The transport of a model's flows, on models whose flows are known."""

from dataclasses import asdict

import pytest
import torch
from torch.distributions import Independent, Normal

from latentflow import (
    DiffusionPrior,
    FlowVAE,
    FunctionPotential,
    HopfLaxFlow,
    PotentialBank,
    PotentialFlow,
    QuadraticPotential,
)
from latentflow.vae import GaussianLikelihood
from latentflow_experiments.configuration import ModelConfig, TrainConfig
from latentflow_experiments.data import LabelledImages, TransformedImages
from latentflow_experiments.errors import ExperimentError
from latentflow_experiments.methods.method import FlowMotion
from latentflow_experiments.metrics import transport
from latentflow_experiments.metrics.transport import certificate_in_words, measure_optimality, transport_table
from latentflow_experiments.records import read_json, write_json
from latentflow_experiments.reports.comparison import compare
from latentflow_experiments.runs import RunFolder

TURN = torch.tensor([[0.0, 1.0], [1.0, 0.0]])


def sequences(count):
    pixels = torch.randint(0, 256, (count, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return TransformedImages(LabelledImages(pixels, torch.zeros(count, dtype=torch.int64), "noise", "test"))


def model(dynamics):
    """Latents are two pixels; they move by (3, 4) a step, spread, or are sheared back and forth."""
    return FlowVAE(
        encoder=lambda x: Independent(Normal(x[:, 0, 10, 10:12], 1.0), 1),
        decoder=lambda z: z,
        bank=PotentialBank(
            [
                QuadraticPotential(2, torch.zeros(2, 2), torch.tensor([3.0, 4.0])),
                QuadraticPotential(2, 0.1 * torch.eye(2)),
                FunctionPotential(lambda z, t: (t % 2 * 2 - 1) * 3 * z[..., 0]),
            ]
        ),
        prior=DiffusionPrior(2, fields=3),
        residual=None,
        likelihood=GaussianLikelihood(),
        dynamics=dynamics,
    )


def along(model, order=(0, 1, 2)):
    return FlowMotion(model.eval(), order)


def test_known_flows():
    """Catches a cost without the time, a defect of another flow, and a certificate of the first transformation only."""
    result = measure_optimality(along(model(PotentialFlow)), sequences(40))
    shift, spread, back = result.values()
    assert shift.cost == pytest.approx((8 * 5) ** 2, rel=1e-5)
    assert shift.wasserstein == pytest.approx(40, rel=1e-5)
    assert shift.dual == pytest.approx(1600, rel=1e-5)
    assert shift.ratio == pytest.approx(1, rel=1e-5)
    assert shift.defect == pytest.approx(0, abs=1e-5)
    assert shift.velocity == pytest.approx(5, rel=1e-6)
    assert spread.displacement < spread.cost  # faster and faster
    assert spread.defect == pytest.approx(0.1 * spread.velocity, rel=0.2)
    assert back.displacement == pytest.approx(0, abs=1e-9)
    assert back.ratio is None
    assert back.ratio_interval is None
    assert "inf" in transport_table(result).splitlines()[-1]
    assert [entry.folded for entry in result.values()] == [0, 0, 0]


def test_the_order_says_which_potential_a_transformation_has():
    """Catches a certificate of the potential of the same number, for a model that learned them in another order."""
    data = sequences(10)
    known = list(measure_optimality(along(model(PotentialFlow)), data).values())
    permuted = measure_optimality(along(model(PotentialFlow), (2, 0, 1)), data)
    assert list(permuted) == ["scaling", "rotation", "coloring"]
    assert list(permuted.values()) == [known[2], known[0], known[1]]


def test_flows_that_solve_the_equation_are_optimal():
    """Catches a certificate that reads the potential at time 0 instead of that of the flow."""
    result = measure_optimality(along(model(HopfLaxFlow)), sequences(40))
    for entry in result.values():
        assert entry.ratio == pytest.approx(1, abs=1e-4)
        assert entry.defect == pytest.approx(0, abs=1e-5)


def test_after_a_shock_there_is_no_bound_by_the_potential():
    """Catches an evaluation that looks for the potential where the paths have met, which takes minutes or fails."""
    met = model(HopfLaxFlow)
    met.bank = PotentialBank([QuadraticPotential(2, -0.5 * torch.eye(2)) for _ in range(3)])
    for entry in measure_optimality(along(met), sequences(20)).values():
        assert entry.folded == 1
        assert entry.dual is None
        assert entry.ratio >= 1


def test_folds_are_counted_and_do_not_raise():
    """Catches an evaluation that stops at the first fold, and a share of steps instead of samples."""
    folding = model(PotentialFlow)
    folding.bank = PotentialBank([QuadraticPotential(2, -2 * TURN) for _ in range(3)])
    result = measure_optimality(along(folding), sequences(5))
    assert [entry.folded for entry in result.values()] == [1, 1, 1]


def test_a_part_of_many_images_counts(monkeypatch):
    """Catches a table of all pairs of a large data set."""
    assert transport.SAMPLES == 1024  # as its page says
    monkeypatch.setattr(transport, "SAMPLES", 40)
    assert measure_optimality(along(model(PotentialFlow)), sequences(50))["scaling"].samples == 40


def evaluation(path, errors, ratio, **options):
    folder = RunFolder(path)
    config = TrainConfig("digits", model=ModelConfig(**options))
    folder.create(config)
    entry = {"ratio": ratio, "folded": 0.25}
    record = {
        "result": {"errors": {name: {"output": error} for name, error in errors.items()}},
        "transport": dict.fromkeys(errors, entry),
        "provenance": {"steps": 1500, "run": asdict(config)},
    }
    write_json(folder.evaluation, record)
    return folder


def test_runs_side_by_side(tmp_path):
    """Catches a row under the name of another run, and options that are not named."""
    first = evaluation(tmp_path / "a", {"scaling": 10.0, "rotation": 20.0}, 1.25)
    second = evaluation(tmp_path / "b", {"scaling": 30.0, "rotation": 40.0}, None, pde="heat", hidden=(4, 5))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in compare([first, second]).splitlines()]
    assert rows[0][2:6] == ["E scaling", "E rotation", "cost / W2^2 scaling", "cost / W2^2 rotation"]
    assert rows[2] == ["`digits --hidden 128 --pde exact-hj`", "1,500", "10.0", "20.0", "1.250", "1.250", "25.0 %"]
    assert rows[3] == ["`digits --hidden 4 5 --pde heat`", "1,500", "30.0", "40.0", "inf", "inf", "25.0 %"]


def test_runs_with_and_without_flows_side_by_side(tmp_path):
    """Catches a run without flows that cannot stand in the table, or stands there as if nothing of it folded."""
    plain = evaluation(tmp_path / "a", {"scaling": 10.0}, None, method="vae")
    record = read_json(plain.evaluation, "an evaluation")
    write_json(plain.evaluation, record | {"transport": {}, "recovery": None})
    flows = evaluation(tmp_path / "b", {"scaling": 20.0}, 1.25)
    weak = evaluation(tmp_path / "c", {"scaling": 30.0}, 1.5, supervision="weak")
    record = read_json(weak.evaluation, "an evaluation")
    write_json(weak.evaluation, record | {"recovery": {"accuracy": 0.875}})
    first, second = compare([plain, flows, weak]).split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first.splitlines()]
    assert rows[0] == ["run", "steps", "E scaling", "cost / W2^2 scaling", "folded"]
    assert rows[2] == ["`digits --method vae`", "1,500", "10.0", "", ""]
    assert rows[3] == ["`digits`", "1,500", "20.0", "1.250", "25.0 %"]
    assert rows[4] == ["`digits --supervision weak`", "1,500", "30.0", "1.500", "25.0 %"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in second.splitlines()]
    assert rows[::2] == [["run", "k recovered"], ["`digits --supervision weak`", "87.50 %"]]


def test_what_most_runs_share_is_said_once(tmp_path):
    """Catches rows that repeat a setting of most of them, and an exception that its row does not name."""
    runs = [
        evaluation(tmp_path / str(n), {"scaling": 10.0}, 1.0, width=64, dim=dim, pde=pde)
        for n, (dim, pde) in enumerate([(8, "hj"), (8, "heat"), (9, "wave")])
    ]
    table, shared = compare(runs).split("\n\n")
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert names == ["`digits --pde hj`", "`digits --pde heat`", "`digits --dim 9 --pde wave`"]
    assert shared == "Where a row says nothing else, with `--dim 8 --width 64`."


def test_runs_that_cannot_be_compared(tmp_path):
    """Catches a table with columns of different things, and a traceback for a run that is not evaluated."""
    first = evaluation(tmp_path / "a", {"scaling": 10.0}, 1.0)
    other = evaluation(tmp_path / "b", {"hue": 10.0}, 1.0)
    with pytest.raises(ExperimentError, match="expected the transformations scaling, got hue"):
        compare([first, other])
    with pytest.raises(ExperimentError, match="expected an evaluated run"):
        compare([RunFolder(tmp_path / "c")])
    other.evaluation.write_text("{")
    with pytest.raises(ExperimentError, match="metrics of a run in JSON"):
        compare([other])
    other.evaluation.write_text("{}")
    with pytest.raises(ExperimentError, match="evaluate it again"):
        compare([other])


def test_certificates_in_words():
    """Catches an infinite ratio that is a number, folds that are left out, and a distance for its square."""
    entry = {"samples": 1234, "ratio": 1.005, "ratio_interval": [1.0, 1.02], "folded": 0.5, "dual": 3.5}
    entry["wasserstein"] = 2.0
    text = certificate_in_words(entry)
    assert "the cost is 1.0050 times W2^2" in text
    assert "(1.0000 to 1.0200 at 95 %, from 1,234 samples)" in text
    assert "At 50.0 % of the samples the map folds" in text
    assert "bounds W2^2 from below by 3.500; the estimate is 4.000" in text
    text = certificate_in_words({**entry, "ratio": None, "ratio_interval": None, "folded": 0.0, "dual": None})
    assert text.startswith("the latents move and their distribution does not")
    assert "folds at none" in text
    assert "gives no lower bound" in text
