"""The connection type ``kaizen``: where a loop's ledger, tracking server and store are; and stages run against it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseHook, conf
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from kaizen.containers import Call
from kaizen.errors import UsageError
from kaizen.loop import open_loop, roots
from kaizen.secrets import VARIABLE
from kaizen.snapshot import read_snapshot
from kaizen.spec import EnvironmentSpec, load_spec
from kaizen.stages import Order, StageResult, run_stage, run_stage_elsewhere
from kaizen_airflow.settings import spec_path

if TYPE_CHECKING:
    from airflow.sdk import Connection

_ROOTS = {"home": "KAIZEN_HOME", "ledger": "KAIZEN_LEDGER_URL", "tracking": "MLFLOW_TRACKING_URI"}


class KaizenHook(BaseHook):
    """Where an environment's loops keep what they keep.

    Extra fields ``ledger`` (URL without a password), ``tracking`` (URI) and ``home`` (folder) outrank the variables of
    the worker and the spec; the connection's password is the ledger's. Without a connection ``kaizen_default`` those
    decide alone. The extra field ``secrets`` has values for ``place.secrets`` and ``data.private_key``, by name.
    """

    conn_name_attr = "kaizen_conn_id"
    default_conn_name = "kaizen_default"
    conn_type = "kaizen"
    hook_name = "Kaizen"

    def __init__(self, kaizen_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kaizen_conn_id = kaizen_conn_id

    def get_conn(self) -> EnvironmentSpec:
        """The roots that the connection names; "" for those that it leaves open."""
        connection = self._connection()
        if connection is None:
            return EnvironmentSpec()
        extra = connection.extra_dejson
        given = {name: str(extra.get(name) or "") for name in _ROOTS}
        given["ledger"] = _with_password(given["ledger"], connection.password)
        return EnvironmentSpec(**given)

    def ledger_url(self) -> str:
        """Where tasks without a spec keep leases: the connection's, KAIZEN_LEDGER_URL's, or a file in AIRFLOW_HOME."""
        given = self.get_conn().ledger or os.environ.get("KAIZEN_LEDGER_URL")
        if given:
            return given
        folder = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "kaizen"
        folder.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{folder / 'ledger.db'}"

    def get_secrets(self) -> dict[str, str]:
        """Values of the spec's secrets that the connection has; masked in every log from here on.

        Raises ``UsageError`` KZ244 if they are no mapping of texts.
        """
        connection = self._connection()
        given = (connection.extra_dejson.get("secrets") or {}) if connection else {}
        if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
            raise UsageError(
                "KZ244",
                "the connection's secrets cannot be read",
                where=f"connection {self.kaizen_conn_id}: extra field secrets",
                value=type(given).__name__,
                limit="a mapping of names to texts",
                action='correct the field: {"secrets": {"NAME": "VALUE"}}',
            )
        for value in given.values():
            mask_secret(value)
        return given

    def _connection(self) -> Connection | None:
        """None if the default one does not exist."""
        try:
            return self.get_connection(self.kaizen_conn_id)
        except AirflowNotFoundException:
            if self.kaizen_conn_id != self.default_conn_name:
                raise
            return None

    def test_connection(self) -> tuple[bool, str]:
        """Open the ledger; what was found, in words."""
        from kaizen.errors import KaizenError
        from kaizen.ledger import open_ledger

        ledger = self.get_conn().ledger
        if not ledger:
            return True, "The connection names no ledger: each spec's own is used."
        try:
            with open_ledger(ledger) as opened:
                return True, f"The ledger answers; loops: {', '.join(opened.loops()) or 'none yet'}."
        except KaizenError as error:
            return False, str(error)

    def run_stage(
        self, stage: str, spec: str, env: str, order: Order, *, actor: str, call: Call | None = None
    ) -> StageResult:
        """Do what is due of one stage: in this process, or by the Python of the loop's place, which has the libraries.

        ``call`` says whose containers are, if the place makes some.

        Raises ``KaizenError``: what the stage refuses; KZ241 a ledger that other hosts cannot reach; KZ244.
        """
        path, environment = spec_path(spec), self.get_conn()
        place = read_snapshot(path, env).place
        _refuse_local_ledger(path, env, environment)
        # Only ingest masks: no other stage needs the key.
        key = load_spec(path, env).data.private_key if stage == "ingest" else ""
        secrets = self.get_secrets() if key or place["mode"] == "docker" else {}
        if call:
            call = replace(call, secrets=secrets)
        if place["mode"] != "python":
            with open_loop(path, env=env, environment=environment, actor=actor, call=call) as loop:
                return run_stage(loop, stage, order)
        variables = {**_handed_on(), **_as_variables(environment), "KAIZEN_ACTOR": actor}
        if key in secrets:
            variables[f"{VARIABLE}{key.upper()}"] = secrets[key]
        with tempfile.TemporaryDirectory(prefix="kaizen-stage-") as folder:
            return run_stage_elsewhere(place["interpreter"], path, env, stage, order, Path(folder), variables)


def _with_password(url: str, password: str | None) -> str:
    """``url`` with the password that goes with its user; masked in every log from here on."""
    parts = urlsplit(url)
    for secret in (password, parts.password):
        if secret:
            mask_secret(secret)
    if not password or not parts.username or parts.password:
        return url
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username}:{quote(password, safe='')}@{host}").geturl()


def _as_variables(environment: EnvironmentSpec) -> dict[str, str]:
    return {variable: value for name, variable in _ROOTS.items() if (value := getattr(environment, name))}


def _handed_on() -> dict[str, str]:
    """This process's variables without Airflow's own: a stage needs no right on Airflow."""
    return {name: value for name, value in os.environ.items() if not name.lstrip("_").startswith("AIRFLOW")}


def _refuse_local_ledger(path: Path, env: str, environment: EnvironmentSpec) -> None:
    """One ledger per environment: a file on a worker's own disk is not one for workers on many hosts."""
    executor = conf.get("core", "executor", fallback="LocalExecutor")
    if "LocalExecutor" in executor:
        return
    ledger = roots(load_spec(path, env), path, environment=environment)[1]
    if ledger.startswith("postgresql"):
        return
    raise UsageError(
        "KZ241",
        "a ledger in a file cannot serve workers on several hosts",
        where="connection of type kaizen, KAIZEN_LEDGER_URL, or environment.ledger of the spec",
        value=f"{ledger.partition(':')[0]} with {executor}",
        limit="postgresql://... with any executor but the LocalExecutor",
        action="put the ledger into PostgreSQL and name it in the connection",
    )
