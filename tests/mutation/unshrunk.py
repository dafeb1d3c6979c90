"""A plugin of pytest that leaves out the shrinking of failing examples, which takes long."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings


def pytest_configure(config: pytest.Config) -> None:
    """Select the phases of hypothesis up to the first failure."""
    settings.register_profile("unshrunk", parent=settings(), phases=(Phase.explicit, Phase.reuse, Phase.generate))
    settings.load_profile("unshrunk")
