"""A server that runs, and a user without files."""

import pooch
import pytest
from serving import serving


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as running:
        yield running


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of this user, and no environment variable."""
    monkeypatch.delenv("LATENTFLOW_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache" / "latentflow"
