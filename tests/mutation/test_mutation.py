"""The mutation tests: the faults fit the code, and the table agrees with the record of the trials."""

import doctest
import importlib

import pytest

from latentflow_experiments.reports.tables import write_block
from tests.mutation import record, trial
from tests.mutation.__main__ import main, try_faults
from tests.mutation.fault import Fault
from tests.mutation.faults import FAULTS
from tests.mutation.page import faults_block
from tests.mutation.record import NUMBERS, PAGE, Trial, load, save
from tests.mutation.trial import ROOT, Copy, Verdict


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_fits_the_code(fault):
    """Catches a list that rots: a text that has changed, or occurs twice, and tests that have moved."""
    source = (ROOT / fault.file).read_text(encoding="utf-8")
    assert fault.new in fault.applied(source)
    assert fault.tests
    assert all((ROOT / "tests" / test).exists() for test in fault.tests)


def test_names_are_names():
    """Catches two faults whose verdicts would overwrite each other."""
    assert len({fault.name for fault in FAULTS}) == len({fault.fingerprint for fault in FAULTS}) == len(FAULTS) >= 60


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("x", "z", "once in a.py, got 2 times"), ("q", "z", "got 0 times"), ("y = ", "y  =  ", "got the same")],
)
def test_a_fault_that_does_not_fit_is_refused(old, new, message):
    """Catches a fault in the wrong place, and one that breaks nothing and counts as not noticed."""
    with pytest.raises(ValueError, match=message):
        Fault("name", "a.py", old, new, ()).applied("y = x + x")


FAULT = Fault("no square", "calculus/a.py", "x * x", "x", ("calculus/test_a.py",))


class Unrun(Copy):
    """A copy of two lines, on which tests are not run but answered."""

    def __init__(self, folder, answers):
        self.folder, self.checked, self.asked = folder, False, []
        self.answers = iter(answers)
        self.path = folder / FAULT.file
        self.path.parent.mkdir(parents=True)
        self.path.write_text("y = x * x\n")

    def _run(self, tests):
        self.asked.append((tuple(tests), self.path.read_text()))
        return next(self.answers), 1.5


def test_a_fault_goes_in_and_comes_out(tmp_path):
    """Catches a fault that stays for the next trial, tests run without it, and a suite that was not sound before."""
    healthy, broken = "y = x * x\n", "y = x\n"
    copy = Unrun(tmp_path / "one", ["tests/calculus/test_a.py::test_it"])
    assert copy.try_fault(FAULT) == Verdict("tests/calculus/test_a.py::test_it", "first", 1.5)
    assert copy.asked == [(FAULT.tests, broken)]
    assert copy.path.read_text() == healthy
    copy = Unrun(tmp_path / "two", [None, None, "tests/flow/test_b.py::test_it", None, None])
    assert copy.try_fault(FAULT) == Verdict("tests/flow/test_b.py::test_it", "all", 3.0)
    assert copy.asked == [(FAULT.tests, broken), ((), healthy), ((), broken)]
    assert copy.try_fault(FAULT) == Verdict(None, "all", 3.0)  # the whole was found sound already
    assert copy.path.read_text() == healthy
    copy = Unrun(tmp_path / "three", [None, "tests/flow/test_b.py::test_it"])
    with pytest.raises(RuntimeError, match=r"expected them to pass .*test_b.py::test_it"):
        copy.try_fault(FAULT)
    copy = Unrun(tmp_path / "five", [None])
    assert copy.try_fault(FAULT, whole=False) == Verdict(None, "first", 1.5)
    copy = Unrun(tmp_path / "four", [])
    with pytest.raises(StopIteration):
        copy.try_fault(FAULT)
    assert copy.path.read_text() == healthy


def test_the_copy_is_what_is_imported(tmp_path, monkeypatch):
    """Catches trials of the working tree, in which no fault is ever put."""
    monkeypatch.setattr(trial, "SHOW", "print('/elsewhere/latentflow/__init__.py')")
    with pytest.raises(RuntimeError, match=r"latentflow: expected the copy in .*, got /elsewhere"):
        Copy(tmp_path / "project")
    assert (tmp_path / "project" / "latentflow" / "__init__.py").exists()
    assert not (tmp_path / "project" / ".git").exists()


def tried(fault, killer):
    facts = {"date": "2026-01-02T03:04", "commit": "abc", "python": "3", "packages": {"torch": "2", "none": None}}
    return Trial(fault.fingerprint, Verdict(killer, "first", 2.0), facts)


def test_trials_survive_the_file_and_are_of_one_text(tmp_path):
    """Catches a verdict that is lost, and one kept for a fault that has changed."""
    trials = {FAULT.name: tried(FAULT, None)}
    save(trials, tmp_path / "trials.json")
    assert load(tmp_path / "trials.json") == trials
    assert load(tmp_path / "none.json") == {}
    assert trials[FAULT.name].is_of(FAULT)
    assert not trials[FAULT.name].is_of(Fault(FAULT.name, FAULT.file, FAULT.old, "x * x * x", FAULT.tests))


def test_what_was_not_noticed_is_said_so():
    """Catches a table that counts an unnoticed or an untried fault as noticed."""
    other = Fault("no sign", "calculus/a.py", "-x", "x", ("calculus/test_a.py",))
    third = Fault("no sum", "calculus/a.py", "x + x", "x", ("calculus/test_a.py",))
    trials = {FAULT.name: tried(FAULT, "tests/calculus/test_a.py::test_it"), other.name: tried(other, None)}
    block = faults_block([FAULT, other, third], trials)
    assert "3 faults: 1 are noticed, 1 are not, 1 have not been tried." in block
    assert "Not noticed: no sign." in block
    assert [line for line in block.splitlines() if "`calculus/test_a.py::test_it`" in line and "no square" in line]
    assert "2 tried on 2026-01-02, commit `abc`, Python 3, torch 2." in block


def test_trials_are_written_one_by_one(tmp_path, monkeypatch):
    """Catches an hour that is lost to an interrupt, and verdicts of faults that are no more."""

    class Interrupted(Unrun):
        def __init__(self, folder, limit):
            super().__init__(folder, [None, "tests/calculus/test_a.py::test_it"])  # sound, then broken

        def try_fault(self, fault, whole):
            if fault is FAULT:
                return super().try_fault(fault, whole=whole)
            raise KeyboardInterrupt

    other = Fault("no sign", "calculus/a.py", "-x", "x", ("calculus/test_a.py",))
    for module in ("tests.mutation.__main__.NUMBERS", "tests.mutation.record.NUMBERS"):
        monkeypatch.setattr(module, tmp_path / "trials.json")
    page = tmp_path / "page.md"
    page.write_text("<!-- begin mutants -->\n<!-- end -->\n")
    monkeypatch.setattr("tests.mutation.__main__.PAGE", page)
    monkeypatch.setattr("tests.mutation.__main__.Copy", Interrupted)
    monkeypatch.setattr("tests.mutation.__main__.FAULTS", (FAULT, other))
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 130
    assert list(load(tmp_path / "trials.json")) == [FAULT.name]
    assert "2 faults: 1 are noticed, 0 are not, 1 have not been tried." in page.read_text()


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_written_down(whole, tmp_path, monkeypatch):
    """Catches an unnoticed fault that is not reported, one reported before all tests were run, and ones long gone."""

    class Blind(Unrun):
        def __init__(self, folder, limit):
            super().__init__(folder, 4 * [None])

    monkeypatch.setattr("tests.mutation.__main__.NUMBERS", tmp_path / "trials.json")
    monkeypatch.setattr("tests.mutation.__main__.Copy", Blind)
    monkeypatch.setattr("tests.mutation.__main__.FAULTS", (FAULT,))
    try_faults([FAULT], {"gone": tried(FAULT, None)}, 1.0, whole=whole)
    assert list(load(tmp_path / "trials.json")) == ([FAULT.name] if whole else [])


def test_an_unknown_name_is_an_error(capsys):
    """Catches a misspelt fault that is not tried and says so to nobody."""
    with pytest.raises(SystemExit):
        main(["--only", "no such fault"])
    assert "expected names that --list shows, got no such fault" in capsys.readouterr().err
    main(["--list"])
    assert capsys.readouterr().out.splitlines() == [fault.name for fault in FAULTS]


def test_the_page_shows_what_was_tried():
    """Catches a table edited by hand, and trials that did not reach the page."""
    text = PAGE.read_text(encoding="utf-8")
    assert write_block(text, "mutants", faults_block(FAULTS, load(NUMBERS))) == text
    with pytest.raises(ValueError, match="page: expected one block 'mutants', got 0"):
        write_block("nothing", "mutants", "")


@pytest.mark.parametrize("module", ["fault", "trial", "page"])
def test_examples_of_the_mutants_run(module):
    """Catches an example that no longer holds."""
    assert doctest.testmod(importlib.import_module(f"tests.mutation.{module}")).failed == 0


def test_the_record_lies_beside_the_page():
    """Catches numbers that are written elsewhere than the page is made from."""
    assert record.NUMBERS.parent == record.PAGE.parent == ROOT / "docs"
