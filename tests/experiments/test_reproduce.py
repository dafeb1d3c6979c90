"""The plan, the numbers and the report of a reproduction."""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pooch
import pytest
from PIL import Image

from latentflow_experiments.cli import main
from latentflow_experiments.configuration import Budget, ModelConfig, TrainConfig
from latentflow_experiments.data import DATASETS
from latentflow_experiments.errors import DataError, UsageError
from latentflow_experiments.evaluation import MeasureConfig
from latentflow_experiments.methods.tvae import LEAST_FRAMES
from latentflow_experiments.records import write_json
from latentflow_experiments.reports.document import as_html, as_markdown
from latentflow_experiments.reproduce import command
from latentflow_experiments.reproduce.calibration import estimate
from latentflow_experiments.reproduce.command import Reproduce
from latentflow_experiments.reproduce.earlier import Earlier, EarlierPicture, RunResult, open_reports
from latentflow_experiments.reproduce.execution import commands, execute
from latentflow_experiments.reproduce.experiments import FIGURES, OURS, TABLES, WEAK, Figure, Picture, Row, Table
from latentflow_experiments.reproduce.paper import PAPER, SHARES
from latentflow_experiments.reproduce.plan import Run, plan, run_of
from latentflow_experiments.reproduce.presets import PRESETS, Preset
from latentflow_experiments.reproduce.report import (
    TITLE,
    Reproduction,
    as_csv,
    as_json,
    as_latex,
    contents,
    write_report,
)
from latentflow_experiments.reproduce.results import (
    Cell,
    FigureResult,
    PictureResult,
    TableResult,
    collect,
    collect_figure,
    compare_orders,
)

SMOKE = PRESETS["smoke"]


def test_runs_are_shared_between_tables_and_figures():
    """Catches a run that is trained twice, and one that lacks what another table measures of it."""
    alone = plan(["table1"], SMOKE, range(1))
    both = plan(["table1", "table5", "fig3", "fig5", "fig7"], SMOKE, range(1))
    shapes = [run for run in both if run.config.dataset == "shapes3d"]
    assert len({run.name for run in both}) == len(both)
    assert len(both) - len(shapes) == len(alone) == len(TABLES["table1"].rows)
    ours = run_of(next(row for row in TABLES["table1"].rows if row.name == OURS), SMOKE, 0)
    found = next(run for run in both if run.name == ours.name)
    assert found.parts == ("composition", "consistency", "likelihood", "vp")
    assert "disentanglement" in next(run for run in both if run.config.model.method == "slow-vae").parts
    assert found.transfers == ("dsprites",)
    # the default of the library is a row of four tables
    for table, row in (("table8", "Hamilton-Jacobi by construction"), ("table9", "3 transformations")):
        own = next(one for one in TABLES[table].rows if one.name == row)
        assert run_of(own, SMOKE, 0).name == ours.name


def test_seeds_and_budgets_have_runs_of_their_own():
    """Catches one folder for two seeds, a seed that is not that of the run, and figures of all seeds."""
    runs = plan(["table9"], SMOKE, range(3))
    assert sorted(run.config.seed for run in runs) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    names = {run.name for budget in PRESETS.values() for run in plan(["table9"], budget, range(1))}
    assert len(names) == 9
    assert {run.config.seed for run in plan(["fig3"], SMOKE, range(3))} == {0}


def test_the_budget_of_the_paper_has_its_sizes():
    """Catches a latent size that replaces the 10 coordinates of a row, and networks of the library."""
    runs = {run.config.model.dim for run in plan(["table1"], PRESETS["paper"], range(1))}
    assert runs == {324, 10}
    run = plan(["table2"], PRESETS["paper"], range(1))[0]
    assert (run.config.model.dim, run.config.model.network) == (226, "song2023")
    assert (run.config.learning_rate, run.config.batch_size, run.budget.steps) == (1e-4, 128, 90_000)


def test_methods_have_the_settings_that_were_chosen_for_them():
    """Catches settings of one method for all, and a rate that replaces that of the paper's budget."""
    laptop = PRESETS["laptop"]
    for row in TABLES["table1"].rows:
        chosen = laptop.tuned.get(row.config.model.method, {})
        run = run_of(row, laptop, 0).config
        assert run.learning_rate == chosen.get("learning_rate", TrainConfig("mnist").learning_rate)
        assert run.batch_size == chosen.get("batch_size", TrainConfig("mnist").batch_size)
        assert run_of(row, PRESETS["paper"], 0).config.learning_rate == 1e-4


def test_likelihoods_of_large_images_take_fewer_of_them():
    """Catches a likelihood that takes as long as the training."""
    laptop = PRESETS["laptop"]
    images = {run.config.dataset: run.measured.images for run in plan(["table1", "table2", "table3"], laptop, range(1))}
    assert images == {"mnist": laptop.measured.images, "shapes3d": 10, "falcor3d": 3}


@pytest.mark.parametrize("budget", ["smoke", "laptop"])
def test_stand_ins_are_large_enough_for_every_method(budget):
    """Catches a stand-in with two values of a factor, whose sequences are too short for the topographic VAE."""
    preset = PRESETS[budget]
    for name in ("shapes3d", "falcor3d", "isaac3d"):
        family = DATASETS[name].family
        kept = dict(zip((factor.name for factor in family.factors), family.subset(preset.images[name]), strict=True))
        chosen = preset.transformations.get(name, DATASETS[name].transformations)
        assert min(len(kept[factor]) for factor in chosen) >= LEAST_FRAMES
        runs = plan(["table2", "table3", "table4"], preset, range(1))
        assert all(
            run.config.sequences.transformations == preset.transformations.get(name, ())
            for run in runs
            if run.config.dataset == name
        )


def test_a_stand_in_of_a_smaller_budget_is_refused(monkeypatch, tmp_path):
    """Catches a reproduction that trains for hours on the few images of a trial."""
    monkeypatch.delenv("LATENTFLOW_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    run = Run(TrainConfig("digits"), Budget(steps=1), SMOKE.measured, transfers=("dsprites",))
    small = replace(SMOKE, images={"dsprites": 300})
    for _ in range(2):
        command.provide_data([run], small, 1)
    with pytest.raises(DataError, match=r"dsprites: expected a stand-in of 576 images, .* got 243 in .*; remove them"):
        command.provide_data([run], replace(SMOKE, images={"dsprites": 600}), 1)


@pytest.mark.parametrize("name", TABLES)
def test_every_number_of_the_paper_has_its_place(name):
    """Catches a row or a column that is spelled in two ways, so that nothing is compared."""
    table = TABLES[name]
    rows, columns = {row.name for row in table.rows}, {column.name for column in table.columns}
    assert set(PAPER[name]) <= rows
    assert {column for cells in PAPER[name].values() for column in cells} <= columns
    held = [claim.holds(PAPER[name]) for claim in table.claims]
    assert None not in held
    assert all(held)  # the paper's own numbers have the order that it claims


def test_claims_need_all_their_numbers():
    """Catches a claim that holds because a row is missing, and one that looks at a single column."""
    claims = {claim.text: claim.holds for claim in TABLES["table5"].claims}
    holds = claims["The flows have the highest score at both shares."]
    means = {row: dict(cells) for row, cells in PAPER["table5"].items()}
    assert holds(means) is True
    assert holds({row: cells for row, cells in means.items() if row != "PoFlow"}) is None
    means["PoFlow"] = {SHARES[0]: 10.0, SHARES[1]: 99.0}
    assert holds(means) is False
    near = {claim.text: claim.holds for claim in TABLES["table1"].claims}
    within = near["Without labels the errors are larger by no more than 15 %."]
    names = DATASETS["mnist"].transformations
    assert within({OURS: dict.fromkeys(names, 100.0), WEAK: dict.fromkeys(names, 114.0)}) is True
    assert within({OURS: dict.fromkeys(names, 100.0), WEAK: dict.fromkeys(names, 100.0) | {names[2]: 116.0}}) is False


def test_orders_are_compared():
    """Catches a tau of values in place of ranks, a sign, and pairs that agree: by hand, one of six pairs differs."""
    ours = {name: {"E": value} for name, value in zip("abcd", (1.0, 5.0, 2.0, 9.0), strict=True)}
    paper = {name: {"E": value} for name, value in zip("abcd", (10.0, 20.0, 30.0, 4000.0), strict=True)}
    order = compare_orders(ours | {"only here": {"E": 0.0}}, paper | {"only there": {"E": 0.0}}, "E")
    assert order.rows == ("a", "b", "c", "d")
    assert order.inverted == (("c", "b"),)
    assert order.tau == pytest.approx((5 - 1) / 6)
    assert compare_orders(ours, {"a": {"E": 1.0}}, "E").tau is None
    equal = {name: {"E": 1.0} for name in "abcd"}  # as scores that saturate: no order, and no number in a file
    assert compare_orders(equal, paper, "E").tau is None


def test_cells_are_means_and_deviations_over_seeds():
    """Catches a deviation with n, and one of a single seed."""
    values = (1.0, 2.0, 6.0)
    assert Cell(values).text(2) == f"3.00 ± {statistics.stdev(values):.2f}"
    assert Cell((4.0,)).text(1) == "4.0"


ORIGIN = {
    "seed": 0,
    "command": "latentflow train <b>",
    "steps": 20,
    "training_seconds": 3.0,
    "trained at": "abc",
    "commit": "abc",
    "data": "mnist",
    "sha256": "0123",
    "synthetic": False,
}


def found_for(numbers, figures=(), failed=None):
    """Return a report of table 9 with given numbers of the runs of each row."""
    rows = {row: [RunResult(ORIGIN, own) for own in runs] for row, runs in numbers.items()}
    result = TableResult(TABLES["table9"], rows | {"3 transformations": []})
    return Reproduction("smoke", SMOKE, 2, [result], figures, failed or {})


def test_the_page_needs_nothing_else(tmp_path):
    """Catches a picture or a style from elsewhere, text that becomes tags, and numbers of the paper among ours."""
    path = run_of(FIGURES["fig3"].pictures[0].row, SMOKE, 0).folder(tmp_path).path
    path.mkdir(parents=True)
    Image.new("RGB", (4, 4), "red").save(path / "strips.png")
    numbers = {"1 transformation": [{"scaling": 7.0}, {"scaling": 9.0}], "2 transformations": [{"scaling": 6.0}]}
    figure = collect_figure(FIGURES["fig3"], SMOKE, tmp_path)
    parts = contents(found_for(numbers, [figure], {"mnist-flow": "it & it"}))
    page = as_html(TITLE, parts)
    assert not re.search(r'(src|href)="(?!data:image/png;base64,)', page)
    assert page.count("data:image/png;base64,") == 1
    assert "Missing: mnist. Ours (no labels)" in page
    assert "latentflow train &lt;b&gt;" in page
    assert "it &amp; it" in page
    assert "8.0 ± 1.4" in page
    assert '<td class="best">6.0</td>' in page
    here, there = page.split("<caption>In the paper</caption>")
    assert "185.3" not in here
    assert "185.3" in there
    assert "Without a run that ended: 3 transformations" in page
    assert "A run trains for 20 steps (mnist)." in page
    markdown = as_markdown(parts)
    assert re.search(r"\| 1 transformation  \| +8\.0 ± 1\.4 \|\n\| 2 transformations \| +\*\*6\.0\*\* \|", markdown)
    assert "`latentflow train <b>`" in markdown
    assert "![mnist. Ours (labels): the data above the flow.](pictures/fig3-1.png)" in markdown


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ({"a": 1, "b": 3}, "Seeds in a row of a table: 1 to 3; the last table of each says which."),
        ({"a": 2, "b": 2}, "Seeds in a row of a table: 2."),
        ({}, "Seeds in a row of a table: 2."),
    ],
)
def test_the_page_says_how_many_seeds_its_rows_have(runs, said):
    """Catches the number that was asked for in place of that of the runs that have ended."""
    result = TableResult(TABLES["table9"], {row: [RunResult(ORIGIN, {})] * count for row, count in runs.items()})
    assert said in as_markdown(contents(replace(found_for({}), tables=[result])))


def test_the_page_names_rows_whose_runs_differ():
    """Catches a mean over the images of one machine and the stand-ins of another, or over a fast and a slow one."""
    other = {"data": "mnist (synthetic)", "sha256": "4567"}
    alike, images, steps = (
        [RunResult(ORIGIN | own, {"scaling": 1.0}) for own in facts]
        for facts in ([{}, {"steps": 29}], [{}, {}, other], [{"steps": 9000}, {"steps": 5000}])
    )
    rows = {"1 transformation": steps, "2 transformations": images, "3 transformations": alike}
    text = as_markdown(contents(replace(found_for({}), tables=[TableResult(TABLES["table9"], rows)])))
    assert "1 transformation: a mean over runs of 5,000 to 9,000 steps in the same time." in text
    assert "2 transformations: a mean over runs on different images, mnist 0123, mnist (synthetic) 4567." in text
    assert text.count("a mean over runs") == 2


def test_a_figure_of_compositions_has_their_errors_and_its_run(tmp_path):
    """Catches the columns of the flows and of the still picture exchanged, and a picture that says not what made it."""
    file = tmp_path / "composition.png"
    Image.new("RGB", (4, 4), "red").save(file)
    errors = {"scaling then rotation, restart": {"static": 1000.0, "output": 250.0}}
    picture, random = FIGURES["fig13"].pictures
    found = {"cross_term": 1.0, "cross_relative": 0.25, "commutator_continue": 0.5, "commutator_restart": 0.125}
    composition = {"errors": errors, "interactions": {"scaling, rotation": found, "scaling, coloring": None}}
    drawn = PictureResult(picture, file, composition, ORIGIN)
    found = FigureResult(FIGURES["fig13"], [drawn, PictureResult(random, None, None, None)])
    result = replace(found_for({}), tables=[], figures=[found])
    lines = [[cell.strip() for cell in line.split("|")] for line in as_markdown(contents(result)).splitlines()]
    header = ["", "composition", "still picture", "flows", "flows / still picture", ""]
    assert lines[lines.index(header) + 2] == ["", "scaling then rotation, restart", "1000", "250", "0.25", ""]
    assert any(line[1:4] == [f"mnist, {OURS}", "0", "`latentflow train <b>`"] for line in lines)
    assert ["", "scaling, rotation", "0.250", "0.500", "0.125", ""] in lines
    assert ["", "scaling, coloring", "paths meet", "", "", ""] in lines
    assert as_json(result)["figures"]["fig13"][0] == {
        "picture": "mnist. Flows switched and superposed",
        "file": "fig13-1.png",
        "composition": composition,
        "run": ORIGIN,
    }


def test_captions_name_the_data_that_are_shown(reproduced):
    """Catches stand-ins that pass for real images or say twice that they are none, and images of another kind with the
    name of those of training."""
    out, table, run, _, _ = reproduced
    picture = Picture(table.rows[0], "transfer.png", "Shapes", transfer="dsprites")
    figure = replace(FIGURES["fig7"], pictures=[picture, replace(picture, transfer=None)])
    folder = run.folder(out)
    before = collect_figure(figure, QUICK, out).pictures
    assert [own.caption for own in before] == ["digits. Shapes", "digits. Shapes"]
    assert before[0].run is None
    evaluation = folder.read_metric(folder.evaluation)
    evaluation["provenance"]["data"] = {"name": "dsprites (synthetic)", "synthetic": True}
    write_json(folder.transfer, evaluation)
    try:
        shown, own = collect_figure(figure, QUICK, out).pictures
    finally:
        folder.transfer.unlink()
    assert shown.caption == "digits on dsprites (synthetic). Shapes"
    assert own.caption == "digits. Shapes"
    assert shown.run["data"] == "dsprites (synthetic)"


def test_csv_and_latex_have_the_numbers():
    """Catches a missing deviation, a sign that LaTeX does not take, and a row without numbers."""
    result = found_for({"1 transformation": [{"scaling": 7.0, "folded, %": 1.0}, {"scaling": 9.0}]}).tables[0]
    lines = as_csv(result).splitlines()
    assert lines[0] == "row,column,mean,deviation,seeds,paper"
    assert lines[1] == f"1 transformation,scaling,8.0,{2**0.5!r},2,185.27"
    assert '1 transformation,"folded, %",1.0,,1,' in lines
    assert "3 transformations,rotation,,,0,153.54" in lines
    latex = as_latex(result)
    assert r"1 transformation & 8.0 $\pm$ 1.4 & 1.0 \\" in latex
    assert r"folded, \%" in latex
    assert "3 transformations" not in latex


QUICK = Preset(
    about="a test",
    training={"small": Budget(steps=12)},
    run={"batch_size": 4, "validations": 0, "warmup_steps": 2},
    model={"width": 16, "hidden": (8,)},
    latents={"digits": 8},
    measured=MeasureConfig(images=2, samples=(1, 2), pairs=12, epochs=1),
    images={},
)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """A table and a figure of digits with one row, and a run that cannot begin."""
    out = tmp_path_factory.mktemp("reproduction")
    row = Row(OURS, TrainConfig("digits"))
    table = replace(TABLES["table5"], rows=[row])
    planned = run_of(row, QUICK, 0)
    run = Run(planned.config, planned.budget, planned.measured, ("vp",))
    taken = run_of(row, QUICK, 1)
    taken.folder(out).path.parent.mkdir(parents=True)
    taken.folder(out).create(TrainConfig("digits"))
    (taken.folder(out).evaluation).write_text("{}")
    failed = execute([run, taken], out, 2)
    return out, table, run, taken, failed


def test_runs_are_trained_measured_and_read(reproduced):
    """Catches a part that is not measured, a number of another run, and a failure that stops the others."""
    out, table, run, taken, failed = reproduced
    assert list(failed) == [taken.name]
    assert "cannot resume a run of another configuration" in failed[taken.name]
    result = collect(table, QUICK, range(1), out)
    evaluation = run.folder(out).read_metric(run.folder(out).evaluation)
    scores = run.folder(out).read_metric(run.folder(out).metric("vp"))["result"]
    assert result.missing == ()
    assert result.means[OURS] == {
        SHARES[0]: 100 * scores["true, 0.1"]["last"],
        SHARES[1]: 100 * scores["true, 0.01"]["last"],
    }
    errors = collect(replace(TABLES["table1"], rows=table.rows), QUICK, range(1), out).means[OURS]
    assert errors["rotation"] == evaluation["result"]["errors"]["rotation"]["output"]
    parts = [evaluation["result"]["errors"][name] for name in ("scaling", "rotation", "coloring")]
    expected = [statistics.mean(e["output_by_step"][t] / e["static_by_step"][t] for e in parts) for t in range(8)]
    assert result.by_step[OURS] == pytest.approx(expected)
    (origin,) = result.runs[OURS]
    assert origin["steps"] == 12
    assert origin["command"].startswith("latentflow_experiments train digits") or "train digits" in origin["command"]
    assert str(Path.home()) not in json.dumps(origin)


def test_what_ended_is_not_repeated(reproduced):
    """Catches a run that is trained again, and numbers of other settings that are taken for those asked for."""
    out, _, run, _, _ = reproduced
    assert commands(run, out) == []
    more = replace(run, measured=replace(QUICK.measured, pairs=11))
    assert [job[0] for job in commands(more, out)] == ["measure"]
    longer = replace(run, budget=Budget(steps=30))
    assert [job[0] for job in commands(longer, out)] == ["train", "measure"]
    transferred = replace(run, transfers=("dsprites",))
    assert [job[:1] + job[2:] for job in commands(transferred, out)] == [["evaluate", "--transfer", "dsprites"]]


def test_all_files_are_written(reproduced):
    """Catches a figure that is looked for in another folder."""
    out, table, _, _, failed = reproduced
    result = collect(table, QUICK, range(1), out)
    page = write_report(Reproduction("smoke", QUICK, 1, [result], [], failed), out)
    assert page.read_text().startswith("<!doctype html>")
    written = json.loads((out / "results.json").read_text())
    assert written["tables"]["table5"]["cells"][OURS][SHARES[0]] == [result.means[OURS][SHARES[0]]]
    assert written["tables"]["table5"]["claims"]["PoFlow has the highest score of the baselines."] is None
    assert list(written["failed"]) == list(failed)
    assert (out / "table5.csv").exists()
    assert (out / "table5.tex").exists()
    assert (out / "report.md").read_text().count("\n## ") == 3  # claims, failed runs, the table


@pytest.fixture(scope="module")
def reports(reproduced, tmp_path_factory):
    """The folders of two reports: that of seed 0 with a picture, and that of seed 1 of another machine."""
    out, table, _, _, _ = reproduced
    folder = tmp_path_factory.mktemp("reports")
    figure = replace(FIGURES["fig3"], pictures=[Picture(table.rows[0], "strips.png", "Digits")])
    first = collect(table, QUICK, range(1), out)
    (own,) = first.results[OURS]
    facts = {**own.facts, "run": run_of(table.rows[0], QUICK, 1).name, "seed": 1}
    numbers = {name: value + 2 for name, value in own.numbers.items()}
    second = TableResult(table, {OURS: [RunResult(facts, numbers, [1.5] * 8)]})
    for name, result, figures in (("one", first, [collect_figure(figure, QUICK, out)]), ("other", second, [])):
        (folder / name).mkdir()
        write_report(Reproduction("smoke", QUICK, 1, [result], figures, {}), folder / name)
    return folder, own, figure


def test_reports_of_two_machines_are_joined(reproduced, reports, tmp_path):
    """Catches a seed that is lost, numbers of the wrong run, and a picture that the other machine has."""
    table, (folder, own, figure) = reproduced[1], reports
    earlier = open_reports([folder / "other", folder / "one"], "smoke")
    joined, shown = collect(table, QUICK, range(3), tmp_path, earlier), collect_figure(figure, QUICK, tmp_path, earlier)
    assert [facts["seed"] for facts in joined.runs[OURS]] == [0, 1]
    for name, value in own.numbers.items():
        assert joined.cells[OURS][name].values == (value, value + 2)
    assert joined.by_step[OURS] == pytest.approx([(step + 1.5) / 2 for step in own.by_step])
    assert shown.pictures[0].path == folder / "one" / "pictures" / "fig3-1.png"
    assert shown.pictures[0].run["run"] == own.facts["run"]
    page = write_report(Reproduction("smoke", QUICK, 3, [joined], [shown], {}, earlier.origins), tmp_path)
    assert page.read_text().count("that of 20") == 2
    again = open_reports([tmp_path], "smoke")  # the joined report is one itself
    assert collect(table, QUICK, range(3), tmp_path, again) == joined
    numbers = dict.fromkeys(own.numbers, 0.0)  # of a report that comes later
    (tmp_path / "later").mkdir()
    later = TableResult(table, {OURS: [replace(own, numbers=numbers)]})
    write_report(Reproduction("smoke", QUICK, 1, [later], [], {}), tmp_path / "later")
    both = open_reports([folder / "one", tmp_path / "later"], "smoke")
    assert collect(table, QUICK, range(1), tmp_path, both).results[OURS][0].numbers == own.numbers
    assert (tmp_path / "pictures" / "fig3-1.png").read_bytes() == shown.pictures[0].path.read_bytes()


def test_what_an_earlier_report_tells_is_not_trained_again():
    """Catches a run that is trained twice, one that a picture or another table needs and nobody trains."""
    table = TABLES["table9"]
    names = [(row.name, run_of(row, SMOKE, seed).name) for row in table.rows for seed in range(2)]
    earlier = Earlier(results={(table.name, row, run): RunResult({}, {}) for row, run in names})
    assert [run.config.seed for run in plan(["table9"], SMOKE, range(3), earlier)] == [2] * len(table.rows)
    assert len(plan(["table9", "table10"], SMOKE, range(1), earlier)) == len(plan(["table10"], SMOKE, range(1)))
    first, second = FIGURES["fig3"].pictures
    pictures = {("fig3-1.png", run_of(first.row, SMOKE, 0).name): EarlierPicture(Path("a.png"), None, {})}
    (left,) = plan(["fig3"], SMOKE, range(1), replace(earlier, pictures=pictures))
    assert left.name == run_of(second.row, SMOKE, 0).name


def test_reports_that_cannot_be_joined_are_refused(reports, tmp_path):
    """Catches runs of another budget in a table, and a report without its picture or of a form that no one reads."""
    one = reports[0] / "one"
    with pytest.raises(UsageError, match=r"earlier: expected reports of the budget laptop, got one of smoke in .*one"):
        open_reports([one], "laptop")
    with pytest.raises(UsageError, match=r"earlier: expected folders of reports, got .* without a results\.json"):
        open_reports([tmp_path], "smoke")
    shutil.copy(one / "results.json", tmp_path)
    with pytest.raises(DataError, match=r"expected a report with its pictures, got none at .*fig3-1\.png"):
        open_reports([tmp_path], "smoke")
    values = json.loads((one / "results.json").read_text())
    del values["sha256"], values["tables"]["table5"]["runs"][OURS][0]["numbers"]
    write_json(tmp_path / "results.json", values)
    with pytest.raises(DataError, match=r"results\.json: expected a report that tells runs apart, got 'numbers'"):
        open_reports([tmp_path], "smoke")


def test_runs_that_are_stopped_go_on(tmp_path):
    """Catches a process that is killed before it has written its state, or that outlives the command after TERM."""
    config = replace(QUICK.apply(TrainConfig("digits")), seed=3)
    run = Run(config, Budget(steps=100_000), QUICK.measured)
    folder, (job,) = run.folder(tmp_path), commands(run, tmp_path)

    def stop():
        for _ in range(600):
            if folder.metrics.exists():
                break
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        execute([run], tmp_path, 1)
    thread.join()
    assert "--resume" not in job
    assert folder.checkpoint.exists()
    with folder.owned("testing"):  # nobody else does
        assert commands(run, tmp_path) == [[*job, "--resume"]]
    assert "stopped; go on with: latentflow train digits" in (tmp_path / "logs" / f"{run.name}.log").read_text()


def test_a_reproduction_that_is_stopped_reports_what_ended(tmp_path, monkeypatch):
    """Catches hours of runs of which a user who stops sees nothing, and a stop that counts as success."""

    def stop(runs, out, cores):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "execute", stop)
    monkeypatch.setattr(command, "provide_data", lambda *arguments: None)
    with pytest.raises(KeyboardInterrupt):
        Reproduce(("table9",), budget="smoke", out=tmp_path, cores=1).run()
    assert "Without a run that ended: 1 transformation; 2 transformations" in (tmp_path / "report.html").read_text()


def test_a_report_alone_trains_nothing(tmp_path, monkeypatch):
    """Catches a look at what has ended that renders images or begins the other runs."""

    def begin(*arguments):
        raise AssertionError("nothing is to be trained")

    for name in ("execute", "provide_data"):
        monkeypatch.setattr(command, name, begin)
    Reproduce(("table2",), budget="smoke", out=tmp_path, report_only=True).run()
    assert "Without a run that ended: VAE; beta-VAE" in (tmp_path / "report.html").read_text()
    with pytest.raises(UsageError, match="report-only: expected no --dry-run beside it"):
        Reproduce(("table2",), dry_run=True, report_only=True)


def test_a_dry_run_says_what_it_costs(capsys, tmp_path, monkeypatch):
    """Catches a dry run that needs data or trains, and a sum that leaves runs out."""
    monkeypatch.chdir(tmp_path)
    words = "reproduce table9 --budget smoke --seeds 2 --first-seed 5 --dry-run --cores 2"
    assert main(words.split()) == 0
    said = capsys.readouterr().out
    assert said.count("mnist-flow-") == 6
    assert all(said.count(f"mnist-flow-{seed}-") == 3 for seed in (5, 6))
    assert re.search(r"6 runs: about [\d.]+ min of one core, [\d.]+ min on 2, \d+ MB", said)
    assert list(tmp_path.iterdir()) == []


def test_the_weight_against_collapse_grows_with_the_images():
    """Catches a weight of small images for large ones, under which all sequences are given to one flow."""
    found = {}
    for name in ("table1", "table2"):
        for run in plan([name], PRESETS["laptop"], range(1)):
            found.setdefault((name, run.config.model.supervision), set()).add(run.config.model.balance)
    assert found["table1", "weak"] == found["table1", "labels"] == found["table2", "labels"] == {100.0}
    assert found["table2", "weak"] == {1000.0}


def test_what_is_measured_costs_as_much_as_there_is_of_it():
    """Catches a dry run that leaves out what takes as long as the training, or counts a tenth of it."""
    run = run_of(next(row for row in TABLES["table1"].rows if row.name == OURS), SMOKE, 0)

    def seconds(*parts, **extent):
        return estimate(replace(run, parts=parts, measured=replace(run.measured, **extent)), 100).measuring

    assert seconds() == 0
    assert seconds("consistency") > 0
    few, many = (seconds("likelihood", images=images, samples=(1, 1000)) for images in (10, 1000))
    assert 30 < many / few < 300
    few, many = (seconds("vp", pairs=100, epochs=epochs) for epochs in (5, 500))
    assert many == pytest.approx(100 * few)


def test_wrong_arguments_are_named():
    """Catches a command that runs for hours before it fails."""
    with pytest.raises(UsageError, match="targets: expected names of tables and figures, or all, got none"):
        Reproduce(())
    with pytest.raises(UsageError, match="seeds: expected a positive integer, got 0"):
        Reproduce(("table1",), seeds=0)
    with pytest.raises(UsageError, match="first-seed: expected a non-negative integer, got -1"):
        Reproduce(("table1",), first_seed=-1)
    with pytest.raises(UsageError, match="cores: expected a positive integer, got -1"):
        Reproduce(("table1",), cores=-1)
    assert Reproduce(("fig3", "all")).chosen == (*TABLES, *FIGURES)
    assert Reproduce(("fig3", "table1", "fig3")).chosen == ("fig3", "table1")


def test_all_tables_and_figures_are_there():
    """Catches a table or figure of the paper that nobody can ask for."""
    assert list(TABLES) == [f"table{i}" for i in range(1, 11)]
    assert list(FIGURES) == [f"fig{i}" for i in (*range(3, 9), *range(10, 16))]
    assert all(isinstance(table, Table) for table in TABLES.values())
    pictures = [picture for figure in FIGURES.values() for picture in figure.pictures]
    assert all(isinstance(picture, Picture) for picture in pictures)
    assert all(isinstance(figure, Figure) for figure in FIGURES.values())
    assert ModelConfig().pde == "exact-hj"  # the row by construction is the default


def test_runs_end_with_a_reproduction_that_was_killed(tmp_path):
    """Catches runs that go on for hours after the process that would read them is gone."""
    child = (
        "import os, time; from latentflow_experiments.reproduce.parent import end_with_parent; "
        "end_with_parent(0.05); print('up', flush=True); time.sleep(60)"
    )
    parent = (
        "import os, subprocess, sys, time; from latentflow_experiments.reproduce.parent import PARENT; "
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], env={{**os.environ, PARENT: str(os.getpid())}}, "
        "start_new_session=True); print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        lines = {process.stdout.readline().strip(), process.stdout.readline().strip()}
        (pid,) = (int(line) for line in lines if line != "up")
        assert Path(f"/proc/{pid}").exists()
        process.kill()
        end = time.monotonic() + 20
        while time.monotonic() < end and is_running(pid):
            time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid):
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
