"""A plugin of pytest: an example that fails is enough, it need not be made simpler, which takes long."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings


def pytest_configure(config: pytest.Config) -> None:
    """Leave out the phases that come after a failure."""
    settings.register_profile("unshrunk", parent=settings(), phases=(Phase.explicit, Phase.reuse, Phase.generate))
    settings.load_profile("unshrunk")
