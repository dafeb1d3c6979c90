"""How many files of the library one reads to follow a computation, counted while it runs."""

import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import Independent, Normal

import latentflow
from latentflow import (
    ODE,
    DiffusionPrior,
    Euler,
    FlowVAE,
    HJResidual,
    MLPDecoder,
    MLPEncoder,
    MLPPotential,
    PotentialBank,
    PotentialFlow,
)

PACKAGE = Path(latentflow.__file__).parent


def walk(function):
    """Call a function and return the files of the library that are entered, below the package."""
    files = set()

    def note(frame, event, argument):
        if event == "call":
            files.add(frame.f_code.co_filename)

    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(None)
    read = {str(Path(name).relative_to(PACKAGE)) for name in files if name.startswith(str(PACKAGE))}
    return sorted(read - {"calculus/checks.py"})  # the checks of arguments, by which a reader passes


def one_step():
    flow, z0 = PotentialFlow(MLPPotential(3, (8,))), torch.randn(4, 3)
    return lambda: flow.rollout(z0, steps=1)


def log_prob(scheme):
    base = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    law = PotentialFlow(MLPPotential(3, (8,), output_scale=0.1)).push_forward(base, [0.0, 0.5, 1.0], scheme)
    z = torch.randn(4, 3)
    return lambda: law.log_prob(z)


def objective():
    model = FlowVAE(
        encoder=MLPEncoder((1, 8, 8), dim=3),
        decoder=MLPDecoder(3, (1, 8, 8)),
        bank=PotentialBank([MLPPotential(3, (8,)) for _ in range(2)]),
        prior=DiffusionPrior(3, fields=2),
        residual=HJResidual(),
    )
    frames, k = torch.rand(4, 5, 1, 8, 8), torch.tensor([0, 1, 1, 0])
    return lambda: model.objective(frames, k)


@pytest.mark.parametrize(
    ("make", "most"),
    [
        pytest.param(one_step, 9, id="a step of a rollout"),
        pytest.param(lambda: log_prob(Euler()), 10, id="log_prob by Euler steps"),
        pytest.param(lambda: log_prob(ODE()), 10, id="log_prob by an ODE solver"),
        pytest.param(objective, 18, id="the objective of a FlowVAE"),
    ],
)
def test_a_computation_passes_through_few_files(make, most):
    """Catches a chain of reasoning that is spread over more and more files."""
    files = walk(make())
    assert 3 < len(files) <= most, files
