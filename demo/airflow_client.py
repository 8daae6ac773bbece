"""What a demo or a test asks of a running Airflow: its REST API, and waiting for what takes a while."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

_PAGE = 100  # [api] maximum_page_limit: Airflow silently returns no more than this
_ACTIVE = ("queued", "running")
_LOOK_SECONDS = 0.5
_ANSWER_SECONDS = 120.0


class AirflowError(Exception):
    """Airflow did not do what was asked of it; the message says what, and what Airflow said."""


class ApiRefused(AirflowError):
    """The REST API answered with an error, or not at all.

    `status` is the HTTP status; 0 means that nothing answered. `is_busy`: somebody else was writing to its database.
    """

    def __init__(self, method: str, path: str, status: int, text: str) -> None:
        super().__init__(f"{method} {path}: {status or 'no answer'}: {text}")
        self.status = status
        self.is_busy = status in (500, 503) and ("is locked" in text or "Database error" in text)


class AirflowTimeout(AirflowError):
    """What was waited for did not happen in time; the message holds the states at the end."""


class AirflowClient:
    """Talks to one Airflow 3 on this machine.

    `url` has no trailing slash; `login` is (user, password). Durations are seconds. Every method that asks the API
    raises `ApiRefused`.
    """

    def __init__(self, url: str, login: tuple[str, str]) -> None:
        self.url = url
        self.login = login
        self._token = ""
        self._created = datetime.now(UTC)
        # A proxy of the environment must not see what is meant for this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def api(self, method: str, path: str, body: Json | None = None) -> Json:
        """Answer of `/api/v2<path>`; {} when it has no content. `path` holds the query and is already quoted."""
        end = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                return self._request(method, f"/api/v2{path}", body, self._token or self._log_in())
            except ApiRefused as refused:
                if refused.status == 401:
                    return self._request(method, f"/api/v2{path}", body, self._log_in())
                # SQLite has one writer at a time; what was refused for that has changed nothing.
                if not refused.is_busy or time.monotonic() > end:
                    raise
            time.sleep(_LOOK_SECONDS)

    def page(self, path: str) -> str:
        """Text of a page outside the API, as a person sees it who is logged in."""
        return self._ask("GET", path, None, self._token or self._log_in()).decode()

    def health(self) -> Json:
        """State and last heartbeat by component; {} as long as the API server does not answer."""
        try:
            return self._request("GET", "/api/v2/monitor/health", None, "")
        except ApiRefused:
            return {}

    def unpause(self, dag_id: str) -> None:
        """Let the DAG run."""
        self.api("PATCH", f"/dags/{_quote(dag_id)}", {"is_paused": False})

    def pause(self, dag_id: str) -> None:
        """Schedule nothing of the DAG any more; tasks that run go on."""
        self.api("PATCH", f"/dags/{_quote(dag_id)}", {"is_paused": True})

    def trigger(self, dag_id: str, conf: Json | None = None, partition_key: str | None = None) -> str:
        """Id of a new run of the DAG, which stays queued as long as the DAG is paused."""
        body = {"logical_date": None, "conf": conf or {}, "partition_key": partition_key}
        answer = self.api("POST", f"/dags/{_quote(dag_id)}/dagRuns", body)
        return str(answer["dag_run_id"])

    def dag_runs(self, dag_id: str = "~", states: Iterable[str] = ()) -> list[Json]:
        """Runs in the order in which they were created; of all DAGs and in all states unless told otherwise."""
        query = [("order_by", "id"), *(("state", state) for state in states)]
        return list(self._pages(f"/dags/{_quote(dag_id)}/dagRuns", "dag_runs", query))

    def count_runs(self, dag_id: str = "~", states: Iterable[str] = ()) -> int:
        """How many DAG runs there are. Costs little, however many it is: nothing but the number is read."""
        query = urllib.parse.urlencode([("limit", 1), *(("state", state) for state in states)])
        return int(self.api("GET", f"/dags/{_quote(dag_id)}/dagRuns?{query}")["total_entries"])

    def task_instances(self, dag_id: str, run_id: str) -> list[Json]:
        """Task instances of one run, each with its latest try."""
        return list(self._pages(f"/dags/{_quote(dag_id)}/dagRuns/{_quote(run_id)}/taskInstances", "task_instances"))

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """Log of one try as text, exceptions included; empty before the try began, `ApiRefused` 404 if it never was."""
        run = f"/dags/{_quote(dag_id)}/dagRuns/{_quote(run_id)}"
        answer = self.api("GET", f"{run}/taskInstances/{_quote(task_id)}/logs/{try_number}?full_content=true")
        return "\n".join(_log_line(entry) for entry in answer.get("content", []))

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """What a task left under `key`, as JSON values."""
        run = f"/dags/{_quote(dag_id)}/dagRuns/{_quote(run_id)}"
        value = self.api("GET", f"{run}/taskInstances/{_quote(task_id)}/xcomEntries/{_quote(key)}")["value"]
        return json.loads(value) if isinstance(value, str) else value

    def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        """Addresses behind the buttons on a task's page, by their names."""
        run = f"/dags/{_quote(dag_id)}/dagRuns/{_quote(run_id)}"
        return dict(self.api("GET", f"{run}/taskInstances/{_quote(task_id)}/links")["extra_links"])

    def import_errors(self) -> dict[str, str]:
        """Why DAG files cannot be imported, by file; only what was parsed since this client exists."""
        errors = self._pages("/importErrors", "import_errors")
        return {error["filename"]: error["stack_trace"] for error in errors if self._is_new(error["timestamp"])}

    def wait_for_dags(self, dag_ids: Iterable[str], timeout: float = 60.0) -> None:
        """Return when every DAG has been parsed since this client exists.

        Raises `AirflowError` with the text as soon as any file has an import error, `AirflowTimeout` with the ids
        that are missing.
        """
        wanted = set(dag_ids)
        deadline = time.monotonic() + timeout
        while True:
            if errors := self.import_errors():
                raise AirflowError("\n".join(f"{file} cannot be imported:\n{text}" for file, text in errors.items()))
            dags = self._pages("/dags", "dags", [("exclude_stale", "false")])
            missing = wanted - {dag["dag_id"] for dag in dags if self._is_new(dag["last_parsed_time"])}
            if not missing:
                return
            if time.monotonic() > deadline:
                raise AirflowTimeout(f"no DAG file defines {', '.join(sorted(missing))} after {timeout:g} s")
            time.sleep(_LOOK_SECONDS)

    def wait_idle(self, timeout: float) -> None:
        """Return when no run is queued or running, and no asset event waits to become one.

        Raises `AirflowTimeout` with the open runs and the states of their tasks. A run of a paused DAG stays queued:
        unpause it, or nothing ever is idle.
        """
        deadline = time.monotonic() + timeout
        while not self._is_idle():
            if time.monotonic() > deadline:
                raise AirflowTimeout(self._why_not_idle(timeout))
            time.sleep(_LOOK_SECONDS)

    def _is_idle(self) -> bool:
        # An event becomes a run between two looks, and a run may leave an event: neither may slip through.
        before = self.count_runs()
        if self.count_runs(states=_ACTIVE) or self._has_queued_events():
            return False
        return not self.count_runs(states=_ACTIVE) and self.count_runs() == before

    def _has_queued_events(self) -> bool:
        ids = [asset["id"] for asset in self._pages("/assets", "assets")]
        return any(self.api("GET", f"/assets/{each}/queuedEvents")["total_entries"] for each in ids)

    def _why_not_idle(self, timeout: float) -> str:
        runs = self.dag_runs(states=_ACTIVE)
        lines = [f"Airflow is not idle after {timeout:g} s; {len(runs)} DAG runs are queued or running"]
        for run in runs[:20]:
            tasks = self.task_instances(run["dag_id"], run["dag_run_id"])
            told = ", ".join(f"{task['task_id']}={task['state']}" for task in tasks)
            lines.append(f"  {run['dag_id']} {run['dag_run_id']} {run['state']}: {told}")
        return "\n".join(lines)

    def _is_new(self, stamp: str | None) -> bool:
        return stamp is not None and datetime.fromisoformat(stamp) >= self._created

    def _pages(self, path: str, key: str, query: Iterable[tuple[str, str]] = ()) -> Iterator[Json]:
        offset = 0
        while True:
            text = urllib.parse.urlencode([*query, ("limit", _PAGE), ("offset", offset)])
            page = self.api("GET", f"{path}?{text}")
            yield from page[key]
            offset += len(page[key])
            if not page[key] or offset >= page["total_entries"]:
                return

    def _log_in(self) -> str:
        user, password = self.login
        self._token = self._request("POST", "/auth/token", {"username": user, "password": password}, "")["access_token"]
        return self._token

    def _request(self, method: str, path: str, body: Json | None, token: str) -> Json:
        return dict(json.loads(self._ask(method, path, body, token) or "null") or {})

    def _ask(self, method: str, path: str, body: Json | None, token: str) -> bytes:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310 - our own http URL
        try:
            with self._opener.open(request, timeout=_ANSWER_SECONDS) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise ApiRefused(method, path, error.code, error.read().decode(errors="replace")) from error
        except OSError as error:
            raise ApiRefused(method, path, 0, str(error)) from error


def _quote(identifier: str) -> str:
    return urllib.parse.quote(identifier, safe="~")


def _log_line(entry: Json | str) -> str:
    if isinstance(entry, str):
        return entry
    line = " ".join(str(entry[key]) for key in ("timestamp", "level", "event") if entry.get(key))
    causes = (f"{cause.get('exc_type')}: {cause.get('exc_value')}" for cause in entry.get("error_detail") or ())
    return "\n".join([line, *causes])
