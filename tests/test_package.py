"""What importing the package does, and what its files promise."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import latentflow
import latentflow.testing

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "latentflow"

EXTRAS = {
    "PIL",
    "h5py",
    "kornia",
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

CORE = {"calculus", "potentials", "flow", "priors", "pde", "transport", "vae"}
ALLOWED = {
    "calculus": {"calculus"},
    "potentials": {"calculus", "potentials"},
    "flow": {"calculus", "potentials", "flow"},
    "priors": {"calculus", "potentials", "flow", "priors"},
    "pde": {"calculus", "potentials", "flow", "pde"},
    "transport": {"calculus", "potentials", "flow", "transport"},
    "testing": {"calculus", "potentials", "flow", "pde", "priors", "transport", "testing"},
    "vae": CORE,
    "experiments": CORE | {"experiments", "latentflow"},
    "__main__": CORE | {"experiments", "latentflow"},
    "__init__": CORE,
    "_version": set(),
}
EVERYONE = {"_version"}
SOURCES = sorted(PACKAGE.rglob("*.py"))

DEPENDENCIES = "import geomloss, numpy, torch, torchdiffeq"
EXTRAS_PROBE = f"""
import json, sys
{DEPENDENCIES}
before = set(sys.modules)
import latentflow
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
import latentflow
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


def test_public_names_resolve():
    """Catches a name listed in `__all__` and never imported, and a `__getattr__` that answers to anything."""
    assert sorted(set(latentflow.__all__)) == list(latentflow.__all__)
    assert all(getattr(latentflow, name) is not None for name in latentflow.__all__)
    with pytest.raises(AttributeError):
        _ = latentflow.no_such_name


def test_every_public_name_is_documented():
    """Catches a name that the reference leaves out, or still lists after its removal."""
    page, checks = (ROOT / "docs" / "api.md").read_text().split(".. currentmodule:: latentflow.testing")
    listed, listed_checks = (re.findall(r"^   (\w+)$", part, flags=re.MULTILINE) for part in (page, checks))
    assert sorted([*listed, "__version__"]) == list(latentflow.__all__)
    assert sorted(listed_checks) == sorted(name for name in vars(latentflow.testing) if name.startswith("check_"))


def test_documents_carry_the_version():
    """Catches a release whose citation or changelog was forgotten."""
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    newest = re.search(r"^## \[(\d\S*)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert cited.group(1) == newest.group(1) == latentflow.__version__


def room(name: str) -> str:
    """The room of a module or public name; of what lies in the package itself, `latentflow`."""
    return next((part for part in name.split(".")[1:2] if part in ALLOWED), "latentflow")


def imported_rooms(source: Path, package: Path) -> set[str]:
    """The rooms that a file of the package imports from, anywhere in it."""
    here = ["latentflow", *source.relative_to(package).parts[:-1]]
    names = []
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) + 1 - node.level] if node.level else []
            below = [node.module] if node.module else []
            names += [".".join([*above, *below, alias.name]) for alias in node.names]
    return {room(name) for name in names if name.split(".")[0] == "latentflow"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(PACKAGE)))
def test_rooms_import_one_way(source):
    """Catches an import against the order of the rooms, and a new room that has no place in it."""
    here = source.relative_to(PACKAGE).with_suffix("").parts[0]
    assert here in ALLOWED, f"expected one of {sorted(ALLOWED)}, got {here}"
    assert imported_rooms(source, PACKAGE) <= ALLOWED[here] | EVERYONE


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import latentflow.vae.bounds", {"vae"}),
        ("from latentflow.vae import FlowVAE", {"vae"}),
        ("from latentflow import vae, jet", {"vae", "latentflow"}),
        ("import latentflow", {"latentflow"}),
        ("from ..vae.bounds import Objective", {"vae"}),
        ("from .. import vae", {"vae"}),
        ("from . import arguments", {"calculus"}),
        ("from torch import Tensor", set()),
    ],
)
def test_imports_are_read_in_every_form(line, expected, tmp_path):
    """Catches a spelling of an import that the test above would not see."""
    source = tmp_path / "calculus" / "module.py"
    source.parent.mkdir()
    source.write_text(f"def later():\n    {line}\n")
    assert imported_rooms(source, tmp_path) == expected
