"""Settings of the test session."""

import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("latentflow", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("latentflow")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the core suite, tests/latentflow/test_devices.py, computes")


@pytest.fixture(scope="session")
def device(request):
    """The device to compute on."""
    return torch.device(request.config.getoption("--device"))
