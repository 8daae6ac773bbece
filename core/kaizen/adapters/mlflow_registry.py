"""The ``Registry`` port on MLflow, through a client that is bound to its own tracking URI.

A loop is an experiment, a turn a parent run in it, a stage a child run; all are found again by their tags. Whatever
is written, its mark of completeness (the status of a run or a model, the version) is written last, so that an attempt
after a kill finishes what it finds and adds nothing twice. Models are registered by their bytes: neither scikit-learn
nor skops is imported here, and no model is opened.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from kaizen.adapters.mlflow_model import require_folder
from kaizen.errors import KaizenError, MissingDependency, RegistryError
from kaizen.faults import fault_point
from kaizen.publish import publish_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, LoggedModel
    from mlflow.entities import Run as MlflowRun

    from kaizen.ports import Run

TURN, STAGE, MODEL = "kaizen.turn", "kaizen.stage", "kaizen.model"
_PARENT = "mlflow.parentRunId"
_TIMEOUT, _RETRIES = 5, 2
_CREDENTIALS = re.compile(r"://[^\s/:@]*(:\S*)?@|(?<=password=)[^\s&]+")
_MAX_DATASET_DIGEST = 36
_MAX_METRICS = 1000
"""In one request."""
_LOST_RACE = re.compile("UNIQUE constraint|UniqueViolation|Duplicate entry|The run .* must be in the 'active' state")
"""In a refusal: the key is taken (as SQLite, PostgreSQL, MySQL say), or the run was deleted for an older one."""
_MAX_LOST_RACES = 8
"""In one question, before the refusal is believed; a stage writes fewer kinds of rows."""

_Answer = TypeVar("_Answer")

# What a server's refusal means for the reader, by a part of its text.
_ACTIONS = (
    ("Invalid Host header", "start the server with `--allowed-hosts` and the host name of this URI"),
    ("error code 401", "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"),
    ("error code 403", "ask for the right to write in this experiment and model; the login itself is accepted"),
    ("CERTIFICATE_VERIFY_FAILED", "set MLFLOW_TRACKING_SERVER_CERT_PATH to the certificate authority of the server"),
)


class MlflowRegistry:
    """Runs, versions and aliases on a tracking server (``http://``) or in a database (``sqlite:///``, ``postgresql://``).

    Every call first makes sure, within seconds, that there is somebody to talk to (MLflow itself would wait for
    minutes); after that MLflow's own timeouts and retries hold, as its environment variables set them. All failures
    leave as ``RegistryError``, without the credentials of the URI: KZ801 cannot be reached, KZ802 refused the
    request, KZ803 a database without ``artifact_root``, KZ804 not a model folder.

    Args:
        tracking_uri: with or without credentials; MLflow's environment variables for them are heeded.
        artifact_root: where artifacts lie if the URI names a database; a server has a place of its own.
    """

    def __init__(self, tracking_uri: str, artifact_root: Path | None = None) -> None:
        self._uri = tracking_uri
        self._where = _redacted(tracking_uri)
        self._is_server = tracking_uri.startswith(("http://", "https://"))
        self._artifact_root = artifact_root
        self._client: MlflowClient | None = None
        self._lock = Lock()
        if not self._is_server and artifact_root is None:
            raise RegistryError(
                "KZ803",
                "a tracking database needs a place for artifacts",
                where=self._where,
                value="no artifact_root",
                limit="artifact_root, a folder; only a tracking server has a place of its own",
                action="name the folder, or the URI of a tracking server",
            )

    def open_turn(self, loop: str, turn: str) -> str:
        return self._ask(f"open turn {turn}", lambda client: _id(self._turn(client, loop, turn)))

    def page(self, loop: str, turn: str) -> str:
        if not self._is_server:
            return ""
        run = self._ask(f"find turn {turn}", lambda client: self._turn(client, loop, turn))
        return f"{self._where.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{_id(run)}"

    def log_stage(self, loop: str, turn: str, run: Run) -> str:
        def log(client: MlflowClient) -> str:
            parent = self._turn(client, loop, turn)
            if run.parent:
                parent = _child(client, parent, turn, run.parent)
            child = _child(client, parent, turn, run.stage)
            if child.info.status != "FINISHED":
                _write(client, child, run)
                fault_point("registry.log_stage.before_finish")
                client.set_terminated(_id(child))
            return _id(child)

        return self._ask(f"log {run.stage} of turn {turn}", log)

    def close_turn(self, loop: str, turn: str, *, failed: bool = False) -> None:
        status = "FAILED" if failed else "FINISHED"
        self._ask(
            f"close turn {turn}", lambda client: client.set_terminated(_id(self._turn(client, loop, turn)), status)
        )

    def register(self, name: str, model: Path, digest: str, *, run_id: str, tags: Mapping[str, str]) -> int:
        require_folder(model)

        def register(client: MlflowClient) -> int:
            if not _versions(client, name, digest):
                logged = _log_model(client, name, model, digest, run_id)
                with _tolerating("RESOURCE_ALREADY_EXISTS"):
                    client.create_registered_model(name)
                fault_point("registry.register.before_version")
                # Its location instead of models:/ID as the source: MLflow looks up IDs at its global tracking URI.
                client.create_model_version(
                    name,
                    logged.artifact_location,
                    run_id,
                    {**tags, MODEL: digest},
                    await_creation_for=0,
                    model_id=logged.model_id,
                )
                fault_point("registry.register.after_version")
            # The lowest: a request that MLflow repeated after a lost reply may have made another one.
            return min(_versions(client, name, digest))

        return self._ask(f"register {name}", register)

    def set_alias(self, name: str, alias: str, version: int | None) -> None:
        def set_alias(client: MlflowClient) -> None:
            fault_point("registry.alias.before_set")
            if version is not None:
                client.set_registered_model_alias(name, alias, str(version))
                return
            with _tolerating("RESOURCE_DOES_NOT_EXIST"):
                client.delete_registered_model_alias(name, alias)

        self._ask(f"set alias {alias} of {name}", set_alias)

    def alias(self, name: str, alias: str) -> int | None:
        def read(client: MlflowClient) -> int | None:
            with _tolerating("RESOURCE_DOES_NOT_EXIST"):
                # MLflow gives the version as int from a database, as str from a server.
                version = client.get_registered_model(name).aliases.get(alias)
                return None if version is None else int(version)
            return None

        return self._ask(f"read alias {alias} of {name}", read)

    def _turn(self, client: MlflowClient, loop: str, turn: str) -> MlflowRun:
        # The parent has a stage too, so that one search tells it from its children.
        key = {TURN: turn, STAGE: "turn"}
        return _find_or_create_run(client, self._experiment(client, loop), turn, key, tags={})

    def _experiment(self, client: MlflowClient, loop: str) -> str:
        if experiment := client.get_experiment_by_name(loop):
            return str(experiment.experiment_id)
        root = None if self._is_server or not self._artifact_root else self._artifact_root.absolute().as_uri()
        with _tolerating("RESOURCE_ALREADY_EXISTS"):
            client.create_experiment(loop, artifact_location=root)
        return self._experiment(client, loop)

    def _ask(self, what: str, question: Callable[[MlflowClient], _Answer]) -> _Answer:
        """The store's answer, once there is somebody to talk to; whatever goes wrong becomes a ``RegistryError``.

        Every question of this class may be asked again.
        """
        handled = sys.exception()
        try:
            _require_mlflow()
            try:
                self._preflight()
            except Exception as error:  # noqa: BLE001 -- of requests, SQLAlchemy and drivers
                raise self._unreachable(_root_cause(error, handled)) from None
            with self._lock:
                self._client = self._client or _new_client(self._uri)
            return _answer(self._client, question)
        except KaizenError:
            raise
        except Exception as error:  # noqa: BLE001 -- MLflow lets those of requests, SQLAlchemy and drivers through
            raise self._refused(what, error) from None

    def _preflight(self) -> None:
        if self._is_server:
            from mlflow.utils.credentials import get_default_host_creds
            from mlflow.utils.rest_utils import http_request

            creds = get_default_host_creds(self._uri)  # type: ignore[no-untyped-call]
            limits = {"max_retries": _RETRIES, "backoff_factor": 0.5, "timeout": _TIMEOUT}
            http_request(creds, "/health", "GET", **limits)  # type: ignore[no-untyped-call]
        elif self._client is None:
            _open_database(self._uri)

    def _unreachable(self, cause: BaseException) -> RegistryError:
        text = _redacted(str(cause))
        return RegistryError(
            "KZ801",
            "the tracking server or database cannot be reached",
            where=self._where,
            value=text,
            limit=f"an answer within {_TIMEOUT} s; {_RETRIES + 1} attempts at a server",
            action=_action(text, "start it, or correct the tracking URI of this environment; then retry"),
        )

    def _refused(self, what: str, error: Exception) -> RegistryError:
        text = _redacted(str(error))
        action = _action(text, "correct what the value names, then retry; nothing is written twice")
        return RegistryError("KZ802", f"the registry refused to {what}", where=self._where, value=text, action=action)


def _answer(client: MlflowClient, question: Callable[[MlflowClient], _Answer]) -> _Answer:
    """Asked again when a race is lost: MLflow looks for a row, then adds it, and refuses who comes second."""
    from mlflow.exceptions import MlflowException

    for _ in range(_MAX_LOST_RACES):
        try:
            return question(client)
        except MlflowException as error:
            if not _LOST_RACE.search(str(error)):
                raise
    return question(client)


def _child(client: MlflowClient, parent: MlflowRun, turn: str, stage: str) -> MlflowRun:
    experiment, below = parent.info.experiment_id, {_PARENT: _id(parent)}
    child = _find_or_create_run(client, experiment, stage, {TURN: turn, STAGE: stage}, below)
    if child.data.tags.get(_PARENT) != _id(parent):
        # Made below a parent that an older one has replaced since.
        client.set_tag(_id(child), _PARENT, _id(parent))
    return child


def _find_or_create_run(
    client: MlflowClient, experiment: str, name: str, key: Mapping[str, str], tags: Mapping[str, str]
) -> MlflowRun:
    """The run whose tags are ``key``; a new one has ``tags`` as well."""
    query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in key.items())

    def found() -> list[MlflowRun]:
        return list(client.search_runs([experiment], query, order_by=["attributes.start_time ASC"]))

    if not found():
        client.create_run(experiment, tags={**key, **tags}, run_name=name)
    # Of those that were made in the same moment the oldest is everybody's; it may have come last.
    oldest, *younger = found()
    for run in younger:
        client.delete_run(_id(run))
    return oldest


def _write(client: MlflowClient, child: MlflowRun, run: Run) -> None:
    from mlflow.entities import Metric, Param, RunTag

    # One fixed time, so that a metric that is written again is the same point.
    at = child.info.start_time
    client.log_batch(
        _id(child),
        metrics=[Metric(key, float(value), at, 0) for key, value in run.metrics.items()],
        params=[Param(key, str(value)) for key, value in run.params.items()],
        tags=[RunTag(key, str(value)) for key, value in run.tags.items()],
    )
    for key, values in run.history.items():
        points = [Metric(key, value, at, step) for step, value in values]
        for first in range(0, len(points), _MAX_METRICS):
            client.log_batch(_id(child), metrics=points[first : first + _MAX_METRICS])
    client.log_inputs(_id(child), [_dataset(facts) for facts in run.datasets])
    for path in run.artifacts:
        client.log_artifact(_id(child), str(path))


def _dataset(facts: Mapping[str, str]) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": facts["source"]})
    # MLflow's field is shorter than a sha256; the tag has all of it.
    dataset = Dataset(facts["name"], facts["digest"][:_MAX_DATASET_DIGEST], "kaizen", source)
    tags = {"mlflow.data.context": facts["context"], "kaizen.digest": facts["digest"]}
    return DatasetInput(dataset, [InputTag(key, value) for key, value in tags.items()])


def _log_model(client: MlflowClient, name: str, model: Path, digest: str, run_id: str) -> LoggedModel:
    """The logged model with these bytes, READY: an earlier attempt's if there is one, finished if need be."""
    from mlflow.entities import LoggedModelOutput

    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], filter_string=f"tags.`{MODEL}` = '{digest}'")
    # Names of logged models allow less than those of registered models.
    plain_name = re.sub(r"[^\w-]", "-", name)
    logged = found[0] if found else client.create_logged_model(experiment, plain_name, run_id, {MODEL: digest})
    if logged.status == "READY":
        return logged
    client.log_model_artifacts(logged.model_id, str(model))
    # So that the run shows its model; for a link that there is already MLflow reports its broken unique key.
    with _tolerating("BAD_REQUEST"):
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    return client.finalize_logged_model(logged.model_id, "READY")


def _versions(client: MlflowClient, name: str, digest: str) -> list[int]:
    found = client.search_model_versions(f"name = '{name}' and tags.`{MODEL}` = '{digest}'")
    return [int(version.version) for version in found]


def _require_mlflow() -> None:
    # Read when MLflow is imported, or when a run ends: then it prints its URI, with any password in it.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        import mlflow  # noqa: F401
    except ImportError as error:
        raise MissingDependency("mlflow", "mlflow") from error
    # Two lines about the tables of a new database, on stderr.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)


def _new_client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def _open_database(uri: str) -> None:
    """Connect once, so that MLflow does not find out by retrying for an hour."""
    from sqlalchemy import NullPool, create_engine, make_url

    url = make_url(uri)
    if url.get_backend_name() == "sqlite" and not (file := Path(url.database or "")).exists():
        _create_database(file)
    limits = {"connect_timeout": _TIMEOUT} if url.get_backend_name() == "postgresql" else {}
    with create_engine(url, poolclass=NullPool, connect_args=limits).connect():
        pass


def _create_database(file: Path) -> None:
    """A new SQLite store, whole or not at all: MLflow's migrations survive neither a kill nor a second process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        if not file.exists():
            publish_file(file, lambda draft: _new_client(f"sqlite:///{draft}"), mode=0o644)
    finally:
        os.close(folder)


@contextmanager
def _tolerating(error_code: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != error_code:
            raise


def _root_cause(error: BaseException, handled: BaseException | None) -> BaseException:
    """The innermost cause, short of ``handled``: what the caller was dealing with already."""
    while (inner := error.__cause__ or error.__context__) not in (None, handled):
        error = inner
    return error


def _action(text: str, otherwise: str) -> str:
    return next((action for part, action in _ACTIONS if part in text), otherwise)


def _redacted(text: str) -> str:
    return _CREDENTIALS.sub(lambda match: "://***@" if match[0].startswith("://") else "***", text)


def _id(run: MlflowRun) -> str:
    return str(run.info.run_id)
