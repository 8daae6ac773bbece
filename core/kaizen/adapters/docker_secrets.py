"""Secrets for a training in a container: who gets them, and how they go in."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace

from docker.errors import APIError

from kaizen.adapters.docker_engine import Engine
from kaizen.bridge import Request
from kaizen.causes import Cause
from kaizen.containers import SECRETS, Caller, clean_line
from kaizen.secret_files import CUT_OFF, packed
from kaizen.secrets import Secrets, find_secrets
from kaizen.spec import PlaceSpec

_COMMAND = ("python", "-m", "kaizen.secret_files", SECRETS)

_TRAIN = ("train", "trial")
"""What runs the training's own code."""

_LOOKS, _BETWEEN = 20, 0.1
"""Looks at a container whose end may be under way, and the seconds between them."""

log = logging.getLogger(__name__)


def secrets_of(request: Request, place: PlaceSpec, caller: Caller) -> tuple[Secrets, PlaceSpec, Caller]:
    """The secrets that must be there for a stage; the place as it is for it; a caller whose log is told without them.

    Only train and its trials get secrets: what opens a stored model needs none. trigger refuses if they are missing:
    before anybody decides to train.

    Raises ``UsageError`` KZ260, KZ261.
    """
    names = place.secrets if request.stage in ("trigger", *_TRAIN) else ()
    secrets = find_secrets(names, caller.call.secrets, os.environ)
    masked = replace(caller.call.log, clean=lambda text: clean_line(secrets.mask(text)))
    place = place if request.stage in _TRAIN else replace(place, secrets=())
    return secrets, place, replace(caller, call=replace(caller.call, log=masked))


def give(engine: Engine, container: str, place: PlaceSpec, secrets: Secrets) -> None:
    """Put secrets into a running container that waits for some; again is the same. To one that ended it is nothing.

    Raises ``StageFailed`` KZ726 if it cannot take them.
    """
    if not place.secrets:
        return
    try:
        code, said = engine.run_inside(container, _COMMAND, packed(secrets), cut_off=CUT_OFF)
    except APIError:
        if engine.runs(container):
            raise
        return
    if code and _outlives(engine, container):
        raise Cause.SECRETS_NOT_TAKEN.error(
            where=f"container {container[:12]}: {SECRETS}",
            value=f"exit code {code}: {clean_line(secrets.mask(said))[-300:]}",
            limit=f"a folder in memory, as this release of Kaizen asks for, and `{' '.join(_COMMAND)}`",
        )
    log.info("secrets given: %s", ", ".join(secrets.values))


def _outlives(engine: Engine, container: str) -> bool:
    """Whether a container goes on although a command in it failed: what its end has killed, the engine tells first."""
    for _ in range(_LOOKS):
        if not engine.runs(container):
            return False
        time.sleep(_BETWEEN)
    return True
