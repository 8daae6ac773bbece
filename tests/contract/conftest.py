from __future__ import annotations

import os

import pytest
from tests.data_bench import Bench
from tests.services import fresh_database, postgres


@pytest.fixture(scope="session")
def postgres_server():
    with postgres() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server):
    with fresh_database(postgres_server) as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def memory_url():
    return ":memory:"


@pytest.fixture(params=["sqlite", "memory", "postgres"])
def ledger_url(request):
    """An empty ledger in each database that the port is kept in."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(params=["sqlite", "postgres"])
def shared_url(request):
    """The same, where several processes or connections can open it."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A data repository of one's own."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    return Bench(tmp_path)
