"""The section ``[kaizen]`` of Airflow's configuration, and what follows from it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from airflow.sdk import conf

SECTION = "kaizen"


def spec_path(spec: str) -> Path:
    """The file of ``spec``: a relative one lies below ``[kaizen] projects``, else below AIRFLOW_HOME."""
    return _projects() / spec


@cache
def _projects() -> Path:
    # Asked for every DAG of every loop whenever a file is parsed; a process does not change its configuration.
    home = conf.get(SECTION, "projects", fallback="") or os.environ.get("AIRFLOW_HOME", "~/airflow")
    return Path(home).expanduser()


def environment_name(env: str | None) -> str:
    """The overlay to lie on a spec: the one asked for, else KAIZEN_ENV, else ``local``."""
    return env or os.environ.get("KAIZEN_ENV", "local")


@cache
def landing_poll() -> float:
    """Seconds between two looks for files that landed."""
    return conf.getfloat(SECTION, "landing_poll", fallback=5.0)


def report_name(loop: str, page: str = "") -> str:
    """How a report is called where the API server shows it: ``project.loop``, its other pages ``project.loop.PAGE``."""
    # No part of a loop's name has a dot.
    return f"{loop.replace('/', '.')}{'.' if page else ''}{page}"


def report_file(name: str) -> Path:
    """Where the newest report called ``name`` lies, for the API server to show."""
    given = conf.get(SECTION, "reports", fallback="")
    folder = Path(given) if given else Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "kaizen-reports"
    return folder / f"{name}.html"
