"""Settings of the test session."""

import os

import torch
from hypothesis import settings

settings.register_profile("latentflow", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("latentflow")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the cores
