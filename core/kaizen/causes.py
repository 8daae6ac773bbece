"""Why a stage failed in its place, as far as that is known: what a retry policy acts on, and what people read first."""

from __future__ import annotations

from enum import Enum
from typing import Any

from kaizen.errors import StageFailed


class Cause(Enum):
    """Each with its code, what it means, and what to do about it unless the place knows better."""

    OUT_OF_MEMORY = ("KZ702", "out of memory", "give the place more memory, or train on less")
    NO_RESULT = ("KZ703", "the place ended without a result", "read the end of the log; then retry")
    OUT_OF_TIME = ("KZ704", "the stage ran out of time", "raise place.timeout, or train on less")
    ENDED_FROM_OUTSIDE = ("KZ707", "the container was ended from outside", "a retry starts a new one")
    BAD_IMAGE = ("KZ708", "the image cannot run a stage", "build the image with `kaizen image build`")
    OTHER_MACHINE = ("KZ709", "the image is for another machine", "build it for the engine's machine")
    NO_SPACE = ("KZ710", "no space left", "free space there (docker system df), or write less; then retry")
    OUT_OF_GPU_MEMORY = ("KZ711", "out of GPU memory", "use smaller batches, or a GPU with more memory")
    GPU_LOST = ("KZ712", "the GPU is lost", "look at it with nvidia-smi on the engine's machine; then retry")
    NOT_PULLED = ("KZ713", "the image cannot be pulled", "free space, log in, or correct the name, as the message says")
    NO_IMAGE = ("KZ714", "there is no such image", "build it with `kaizen image build`, or correct the name")
    NO_ENGINE = ("KZ715", "the Docker engine does not answer", "start the engine, or correct the URL; then retry")
    NO_GPU = ("KZ716", "the engine does not have these GPUs", "ask for others, or set place.gpus: 0")
    STRANGERS_NAME = (
        "KZ717",
        "the container's name belongs to a stranger",
        "rename or remove that container; Kaizen does not touch it",
    )
    DAMAGED_RESULT = ("KZ718", "the result of the place is damaged", "metrics must be finite, outputs regular files")
    ENGINE_REFUSED = ("KZ719", "the Docker engine refused a call", "read its message and its log; then retry")
    INTERRUPTED = ("KZ720", "interrupted while the container ran", "retry")
    NO_SECRETS = ("KZ725", "the secrets of the container did not come", "a retry gives them to a new one")
    SECRETS_NOT_TAKEN = ("KZ726", "the container did not take its secrets", "read what it says; then retry")
    ON_ANOTHER_ENGINE = ("KZ729", "the task's container is on another engine", "retry with that engine")

    def __init__(self, code: str, what: str, action: str) -> None:
        self.code, self.what, self.action = code, what, action

    def error(
        self, *, where: str, value: Any = None, limit: Any = None, what: str = "", action: str = ""
    ) -> StageFailed:
        """The failure; ``what`` and ``action`` where the place knows better."""
        return StageFailed(
            self.code, what or self.what, where=where, value=value, limit=limit, action=action or self.action
        )

    def of(self, error: BaseException) -> bool:
        """True if ``error`` is this failure."""
        return isinstance(error, StageFailed) and error.code == self.code
