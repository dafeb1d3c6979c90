"""Settings of the test session."""

import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("latentflow", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("latentflow")


def pytest_configure():
    """Give one thread to each process, of torch and of the libraries of numpy: the workers share the cores.

    Threads that wait for each other on cores that are taken make the suite twice as long.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by the workers when they start
    torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the core suite, tests/latentflow/test_devices.py, computes")


@pytest.fixture(scope="session")
def device(request):
    """The device to compute on."""
    return torch.device(request.config.getoption("--device"))
