from __future__ import annotations

import os

import pytest
from tests.data_bench import Bench


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A data repository of one's own."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    return Bench(tmp_path)
