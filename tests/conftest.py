"""Settings of the test session."""

from hypothesis import settings

settings.register_profile("latentflow", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("latentflow")
