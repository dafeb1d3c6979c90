"""Faults of the reproduction of the paper."""

from __future__ import annotations

from tests.mutation.fault import Fault

REPRODUCE = ("experiments/test_reproduce.py",)
PLAN, RESULTS = (f"latentflow_experiments/reproduce/{name}.py" for name in ("plan", "results"))

FAULTS = (
    Fault(
        "reproduction: one folder for all seeds",
        PLAN,
        "{self.config.model.method}-{self.config.seed}-{digest}",
        "{self.config.model.method}-{key[:0]}",
        REPRODUCE,
    ),
    Fault(
        "reproduction: the parts of the last table only",
        PLAN,
        "parts = {*before.parts, *([part] if part else [])}",
        "parts = {*([part] if part else [])}",
        REPRODUCE,
    ),
    Fault(
        "reproduction: a deviation with n",
        RESULTS,
        "statistics.stdev(self.values)",
        "statistics.pstdev(self.values)",
        REPRODUCE,
    ),
    Fault(
        "reproduction: pairs that agree called inverted",
        RESULTS,
        "if here * there < 0:",
        "if here * there > 0:",
        REPRODUCE,
    ),
    Fault(
        "reproduction: a run that ended counted as begun",
        "latentflow_experiments/reproduce/execution.py",
        'return int(facts["steps"]) >= run.budget.steps',
        'return int(facts["steps"]) > run.budget.steps',
        REPRODUCE,
    ),
    Fault(
        "reproduction: a claim that holds where a row is missing",
        "latentflow_experiments/reproduce/experiments.py",
        "        return all(rows[0][column] < row[column] for row in rows[1:] for column in columns)",
        "        return True",
        REPRODUCE,
    ),
    Fault(
        "reproduction: earlier reports told and not asked",
        RESULTS,
        "earlier.results.get((table.name, row.name, run.name)) or read_result",
        "read_result",
        REPRODUCE,
    ),
    Fault(
        "reproduction: a run that an earlier report tells of trained again",
        PLAN,
        "run_of(row, preset, seed).name) not in earlier.results:",
        "run_of(row, preset, 0).name) not in earlier.results:",
        REPRODUCE,
    ),
    Fault(
        "reproduction: the numbers of all rows in a joined report from one run",
        "latentflow_experiments/reproduce/earlier.py",
        'results |= {(table, row, str(run["run"])): RunResult.from_json(run) for run in runs}',
        'results |= {(table, row, str(run["run"])): RunResult.from_json(runs[0]) for run in runs}',
        REPRODUCE,
    ),
    Fault(
        "reproduction: a joined report of another budget",
        "latentflow_experiments/reproduce/earlier.py",
        'if values.get("budget") != budget:',
        'if values.get("budget") is None:',
        REPRODUCE,
    ),
    Fault(
        "reproduction: all machines with the same seeds",
        "latentflow_experiments/reproduce/command.py",
        "seeds = range(self.first_seed, self.first_seed + self.seeds)",
        "seeds = range(self.seeds)",
        REPRODUCE,
    ),
    Fault(
        "reproduction: a mean over a fast and a slow machine that nobody names",
        "latentflow_experiments/reproduce/report.py",
        "if most > UNEQUAL * least:",
        "if most < UNEQUAL * least:",
        REPRODUCE,
    ),
    Fault(
        "reproduction: the columns of flows and still picture exchanged",
        "latentflow_experiments/reproduce/report.py",
        'for key in ("static", "output")',
        'for key in ("output", "static")',
        ("experiments/test_reproduce.py",),
    ),
    Fault(
        "reproduction: the largest error in bold",
        "latentflow_experiments/reproduce/report.py",
        "first = min(means.values()) if column.best",
        "first = max(means.values()) if column.best",
        ("experiments/test_reproduce.py",),
    ),
    Fault(
        "records: a module noted by its file",
        "latentflow_experiments/records.py",
        "if module is not None and module.origin == script:",
        "if False:",
        ("experiments/test_results.py",),
    ),
    Fault(
        "reproduction: images of another kind with the name of those of training",
        "latentflow_experiments/reproduce/results.py",
        'records.get("transfer" if picture.transfer else "evaluation")',
        'records.get("evaluation")',
        REPRODUCE,
    ),
    Fault(
        "reproduction: stand-ins that pass for real images in a caption",
        "latentflow_experiments/reproduce/results.py",
        'shown = self.run["data"]  # its name',
        'shown = self.run["data"].partition(" (")[0]  # its name',
        REPRODUCE,
    ),
)
