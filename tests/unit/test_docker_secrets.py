"""Giving secrets to a container that ends at that very moment. With a real engine: tests/docker/test_secrets.py."""

from __future__ import annotations

from itertools import chain, repeat

import pytest

from kaizen.adapters import docker_secrets
from kaizen.adapters.docker_secrets import give
from kaizen.errors import StageFailed
from kaizen.secrets import Secrets
from kaizen.spec import PlaceSpec


class Engine:
    """One whose command is killed, and that calls the container running for so many looks."""

    def __init__(self, looks: int) -> None:
        self._running = chain(repeat(True, looks), repeat(False))

    def run_inside(self, *_: object, **__: object) -> tuple[int, str]:
        return 137, ""

    def runs(self, _: str) -> bool:
        return next(self._running)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_secrets, "_BETWEEN", 0.0)


@pytest.mark.parametrize("looks", [0, 1, 5])
def test_what_the_end_of_a_container_has_killed_is_no_refusal(looks: int) -> None:
    give(Engine(looks), "c" * 64, PlaceSpec(mode="docker", secrets=("password",)), Secrets({"password": "a-secret"}))


def test_a_container_that_goes_on_without_its_secrets_is_refused() -> None:
    place = PlaceSpec(mode="docker", secrets=("password",))
    with pytest.raises(StageFailed, match="KZ726") as thrown:
        give(Engine(1000), "c" * 64, place, Secrets({"password": "a-secret"}))
    assert "exit code 137" in str(thrown.value)
