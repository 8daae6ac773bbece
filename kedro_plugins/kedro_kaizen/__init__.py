"""Kaizen in a Kedro project. Importing this package costs nothing: what needs a library is loaded when it is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kedro_kaizen.validator import GreatExpectations

__all__ = ["GreatExpectations"]


def __getattr__(name: str) -> Any:
    if name == "GreatExpectations":
        from kedro_kaizen.validator import GreatExpectations

        return GreatExpectations
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
