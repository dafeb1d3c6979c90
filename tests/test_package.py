"""What importing the packages does, and what their files promise."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import latentflow
from docs import architecture, reference

ROOT = Path(__file__).parent.parent
LIBRARY, EXPERIMENTS = ROOT / "latentflow", ROOT / "latentflow_experiments"

EXTRAS = {
    "docstring_parser",
    "PIL",
    "h5py",
    "huggingface_hub",
    "kornia",
    "latentflow_experiments",
    "lightning",
    "lightning_fabric",
    "matplotlib",
    "pooch",
    "safetensors",
    "sklearn",
    "tensorboard",
    "tqdm",
    "tyro",
}

BELOW_FLOW = {"calculus", "potentials", "flow"}
BELOW_VAE = BELOW_FLOW | {"pde", "priors", "transport"}
ALLOWED = {
    "calculus": {"calculus"},
    "potentials": {"calculus", "potentials"},
    "flow": BELOW_FLOW,
    "pde": BELOW_FLOW | {"pde"},
    "priors": BELOW_FLOW | {"priors"},
    "transport": BELOW_FLOW | {"transport"},
    "vae": BELOW_VAE | {"vae"},
    "testing": BELOW_VAE | {"testing"},
    "__init__": BELOW_VAE | {"vae"},
    "_version": set(),
}
"""The subpackages that each subpackage of the library may import, and the files beside them."""

EVERYONE = {"_version"}
PROTOCOLS = {
    "calculus": {"Field", "Estimator"},
    "flow": {"LogDet", "RunningCost", "Scheme", "StepSolver"},
    "pde": {"Collocation", "Weighting"},
    "priors": {"Prior"},
    "vae": {"Bound", "LabelEstimator", "Likelihood"},
}
PUBLIC = [
    (subpackage, name)
    for subpackage in reference.SUBPACKAGES
    for name in importlib.import_module(f"latentflow.{subpackage}").__all__
]

DEPENDENCIES = "import numpy, torch, torchdiffeq"
SUBPACKAGES = ", ".join(f"latentflow.{name}" for name in reference.SUBPACKAGES)
EXTRAS_PROBE = f"""
import json, sys
{DEPENDENCIES}
before = set(sys.modules)
import latentflow, {SUBPACKAGES}
print(json.dumps(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}})))
"""
STATE_PROBE = f"""
import json, logging, random, warnings
{DEPENDENCIES}

def state():
    return {{
        "default dtype": str(torch.get_default_dtype()),
        "default device": str(torch.get_default_device()),
        "gradients": torch.is_grad_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "argument checks": torch.distributions.Distribution._validate_args,
        "print options": str(vars(torch._tensor_str.PRINT_OPTS)),
        "torch generator": torch.get_rng_state().tolist(),
        "numpy generator": str(numpy.random.get_state()),
        "python generator": str(random.getstate()),
        "warning filters": str(warnings.filters),
        "logging": [str(logging.root.handlers), logging.root.level],
    }}

before = state()
import latentflow, {SUBPACKAGES}
after = state()
print(json.dumps([name for name in before if before[name] != after[name]]))
"""


def run(code: str) -> list[str]:
    """Run code in a fresh interpreter and return the list that it prints."""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def test_import_loads_no_extras():
    """Catches a plotting, data or training library that the core has come to need."""
    assert EXTRAS.isdisjoint(run(EXTRAS_PROBE))


def test_import_changes_no_global_state():
    """Catches an import that sets a default, seeds, silences warnings or attaches a log handler."""
    assert run(STATE_PROBE) == []


def isort_style(name):
    """The order of ruff's RUF022: constants, classes, then everything else."""
    return 0 if name.isupper() else 1 if name[0].isupper() else 2, name


@pytest.mark.parametrize("module", ["latentflow", *(f"latentflow.{name}" for name in reference.SUBPACKAGES)])
def test_public_names_resolve(module):
    """Catches a name listed in `__all__` and never imported, and a `__getattr__` that answers to anything."""
    package = importlib.import_module(module)
    assert sorted(set(package.__all__), key=isort_style) == list(package.__all__)
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError):
        _ = package.no_such_name


def test_every_subpackage_is_in_the_reference():
    """Catches a new subpackage that has no page, and one whose `__init__` exports less than it imports."""
    folders = {file.parent.name for file in LIBRARY.glob("*/__init__.py")}
    assert folders == set(reference.SUBPACKAGES) == set(ALLOWED) - {"__init__", "_version"}
    for name in reference.SUBPACKAGES:
        module = importlib.import_module(f"latentflow.{name}")
        tree = ast.parse((LIBRARY / name / "__init__.py").read_text(encoding="utf-8"))
        imported = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        assert imported == set(module.__all__), name


def test_top_level_has_the_everyday_names_and_no_others():
    """Catches a top level that grows with every feature, and a name that is another object than in its subpackage."""
    assert 35 <= len(latentflow.__all__) <= 45
    homes = {name: subpackage for subpackage, name in PUBLIC}
    assert len(homes) == len(PUBLIC)  # no name has two homes
    for name in set(latentflow.__all__) - {"__version__"}:
        assert getattr(latentflow, name) is getattr(importlib.import_module(f"latentflow.{homes[name]}"), name)


@pytest.mark.parametrize(("subpackage", "name"), PUBLIC)
def test_public_names_are_documented(subpackage, name):
    """Catches a class or function without a docstring, and a function whose docstring does not open with a verb."""
    public = getattr(importlib.import_module(f"latentflow.{subpackage}"), name)
    if not (inspect.isclass(public) or inspect.isfunction(public)):
        return  # an alias of a type
    first = (public.__doc__ or "").split("\n")[0]
    assert first.endswith((".", ":")), first
    assert not first.startswith(("This ", "How ", "What ", "Where ", "Whether ", "Which ", f"{name}(")), first
    if inspect.isfunction(public):
        verb = first.split()[0]
        assert not verb.endswith("s"), first
        assert verb not in {"A", "An", "The"}, first


@pytest.mark.parametrize(
    ("subpackage", "name"), [(home, name) for home, names in PROTOCOLS.items() for name in sorted(names)]
)
def test_protocols_that_a_user_implements_are_exported(subpackage, name):
    """Catches an extension point whose contract cannot be imported."""
    assert name in importlib.import_module(f"latentflow.{subpackage}").__all__


def test_the_reference_holds_every_public_name(tmp_path):
    """Catches a name that the reference leaves out, and a page that the table of contents does not list."""
    reference.write(tmp_path)
    written = {name: (tmp_path / f"{name}.md").read_text(encoding="utf-8") for name in reference.pages()}
    assert written == reference.pages()
    for name in reference.SUBPACKAGES:
        module = importlib.import_module(f"latentflow.{name}")
        assert re.findall(r"^   (\w+)$", written[name], flags=re.MULTILINE) == list(module.__all__)
        assert module.__doc__.strip() in written[name]
    everyday = re.findall(r"^   ~latentflow\.\w+\.(\w+)$", written["latentflow"], flags=re.MULTILINE)
    assert sorted([*everyday, "__version__"]) == sorted(latentflow.__all__)
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert re.findall(r"^api/(\w+)$", page, flags=re.MULTILINE) == list(written)


def test_a_page_that_has_not_changed_is_left_alone(tmp_path):
    """Catches pages that every build writes again, so that Sphinx reads all of them again."""
    reference.write(tmp_path)
    stamps = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    (tmp_path / "pde.md").write_text("an old page")
    reference.write(tmp_path)
    changed = {file.stem for file, stamp in stamps.items() if file.stat().st_mtime_ns != stamp}
    assert changed == {"pde"}
    assert (tmp_path / "pde.md").read_text() == reference.pages()["pde"]


def test_the_drawing_is_what_the_code_writes():
    """Catches a drawing edited by hand, and a change of the code that was not drawn."""
    assert architecture.FILE.read_text(encoding="utf-8") == architecture.draw()
    sizes = [int(size) for size in re.findall(r'font-size="(\d+)"', architecture.draw())]
    assert min(sizes) >= 13


def test_documents_carry_the_version():
    """Catches a release whose citation or changelog was forgotten."""
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    newest = re.search(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert cited.group(1) == newest.group(1) == latentflow.__version__


def part(name: str, root: str, parts: set[str]) -> str:
    """The subpackage of a module or public name; of what lies in the package itself, the name of the package."""
    return next((word for word in name.split(".")[1:2] if word in parts), root)


def imported_names(source: Path, package: Path) -> list[str]:
    """The dotted names that a file of a package imports, anywhere in it."""
    here = [package.name, *source.relative_to(package).parts[:-1]]
    names = []
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) + 1 - node.level] if node.level else []
            below = [node.module] if node.module else []
            names += [".".join([*above, *below, alias.name]) for alias in node.names]
    return names


def imported_parts(source: Path, package: Path, parts: set[str]) -> set[str]:
    """The subpackages of a package that a file of it imports from; other packages of ours by name."""
    names = imported_names(source, package)
    others = {"latentflow", "latentflow_experiments"} - {package.name}
    inside = {part(name, package.name, parts) for name in names if name.split(".")[0] == package.name}
    return inside | {name.split(".")[0] for name in names} & others


SOURCES = sorted(LIBRARY.rglob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(LIBRARY)))
def test_subpackages_import_one_way(source):
    """Catches an import against the order of the subpackages or of the experiments, and a subpackage without place."""
    here = source.relative_to(LIBRARY).with_suffix("").parts[0]
    assert here in ALLOWED, f"expected one of {sorted(ALLOWED)}, got {here}"
    assert imported_parts(source, LIBRARY, set(ALLOWED)) <= ALLOWED[here] | EVERYONE


ORDER = ("data", "methods", "metrics", "training", "reports", "cli")
TABLES = "latentflow_experiments.reports.tables"


@pytest.mark.parametrize(
    "source",
    sorted(
        file for file in EXPERIMENTS.rglob("*.py") if file.relative_to(EXPERIMENTS).with_suffix("").parts[0] in ORDER
    ),
    ids=lambda source: str(source.relative_to(EXPERIMENTS)),
)
def test_experiments_import_one_way(source):
    """Catches data that need a method, a method that needs its metrics, and a part that needs the command line."""
    here = source.relative_to(EXPERIMENTS).with_suffix("").parts[0]
    names = [name for name in imported_names(source, EXPERIMENTS) if not name.startswith(TABLES)]
    imported = {part(name, "", set(ORDER)) for name in names if name.startswith("latentflow_experiments.")}
    assert imported.isdisjoint(ORDER[ORDER.index(here) + 1 :])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import latentflow.vae.bounds", {"vae"}),
        ("from latentflow.vae import FlowVAE", {"vae"}),
        ("from latentflow import vae, jet", {"vae", "latentflow"}),
        ("import latentflow", {"latentflow"}),
        ("from ..vae.bounds import Objective", {"vae"}),
        ("from .. import vae", {"vae"}),
        ("from . import checks", {"calculus"}),
        ("import latentflow_experiments.cli", {"latentflow_experiments"}),
        ("from latentflow_experiments import cli", {"latentflow_experiments"}),
        ("from torch import Tensor", set()),
    ],
)
def test_imports_are_read_in_every_form(line, expected, tmp_path):
    """Catches a spelling of an import that the test above would not see."""
    package = tmp_path / "latentflow"
    source = package / "calculus" / "module.py"
    source.parent.mkdir(parents=True)
    source.write_text(f"def later():\n    {line}\n")
    assert imported_parts(source, package, set(ALLOWED)) == expected


def test_the_tests_of_the_library_do_without_the_experiments():
    """Catches a test that fails with the oldest dependencies, where the extras are not installed."""
    files = (ROOT / "tests" / "latentflow").rglob("*.py")
    assert [path.name for path in files if "latentflow_experiments" in path.read_text(encoding="utf-8")] == []
