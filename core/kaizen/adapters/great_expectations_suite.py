"""Expectation suites: the JSON files of Great Expectations, read strictly and checked against a pandas frame.

A suite file is configuration, but never code: conditions that pandas would evaluate as an expression are refused,
because validation runs in the process that holds the ledger's and the registry's credentials. Severities and metadata
are kept and change nothing: an expectation that does not hold is a finding.

Great Expectations takes three things for success, or drops them with a printed line, that are refused here: a table
without rows, a column without values, an expectation that it cannot build.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from kaizen.codec import nearest
from kaizen.errors import MissingDependency, SpecError
from kaizen.ports import SuiteResult
from kaizen.records import Finding

# Read once, when the library is imported.
os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
try:
    import great_expectations as gx
except ModuleNotFoundError as error:
    raise MissingDependency("Great Expectations", "great-expectations") from error
from great_expectations.compatibility import pydantic
from great_expectations.exceptions.exceptions import GreatExpectationsError
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from great_expectations.expectations.registry import list_registered_expectation_implementations

_log = logging.getLogger(__name__)

# A context is global to the process, and older releases look up data sources in the latest one made.
_one_at_a_time = threading.Lock()


def read_suite(path: Path) -> dict[str, Any]:
    """The suite in a JSON file, as Great Expectations writes it.

    Shape: ``{"name": ..., "expectations": [{"type": ..., "kwargs": {...}}, ...]}``; also ``severity`` and ``meta``.

    Raises:
        SpecError: KZ320 cannot be read, KZ321 not JSON, KZ322 not a suite, KZ323 empty, KZ324 unknown expectation,
            KZ325 an argument that the expectation does not take, KZ326 a row condition that is code.
    """
    try:
        return _parse(path, path.read_bytes())
    except OSError as error:
        raise _refuse(
            "KZ320", "expectation suite cannot be read", path, error.strerror, "a readable file",
            "create the file, or correct its path",
        ) from error  # fmt: skip


@lru_cache(maxsize=64)
def _parse(path: Path, text: bytes) -> dict[str, Any]:
    """The suite in ``text``; building every expectation takes long enough to do it once per content."""
    try:
        suite = json.loads(text.decode(), parse_constant=_refuse_constant)
    except ValueError as error:
        # Also UnicodeDecodeError. The text of a JSONDecodeError ends with line and column.
        raise _refuse(
            "KZ321", "expectation suite is not JSON", path, str(error), "JSON (UTF-8)", "correct the file at that place"
        ) from error
    _check_shape(suite, path)
    for position, item in enumerate(suite["expectations"]):
        _check_item(item, f"{path}: expectations[{position}]")
    return dict(suite)


def check(frame: pd.DataFrame, suite: dict[str, Any]) -> SuiteResult:
    """What ``suite`` finds in ``frame``; neither is changed, and no value of a row leaves this function.

    Rows count only if their expectation failed as a whole: within ``mostly`` nothing is bad. Floors that no suite can
    switch off come first among the findings: ``expectations >= 1``, ``rows >= 1``, and for each column that an
    expectation looks into, ``exists`` and ``not all null``. A column that may be all null says so with an
    ``expect_column_values_to_be_null`` (``mostly`` 0: it may, but need not). Without rows nothing is evaluated, and of
    a column that does not exist nothing is.
    """
    findings = _floors(frame, suite["expectations"])
    missing = {finding.column for finding in findings if finding.expectation == "exists"}
    items = [item for item in suite["expectations"] if len(frame) and not missing.intersection(_looks_into(item))]
    bad_rows: set[int] = set()
    for item, result in zip(items, _evaluate(frame, items), strict=True):
        # Usually {"raised_exception": False, ...}; after an exception often a mapping of metric to exception.
        broken = result.exception_info.get("raised_exception") is not False
        if result.success and not broken:
            continue
        if broken:
            # Not what it says: an exception may quote a row.
            _log.debug("%s broke", item["type"])
        rows = [] if broken else [int(row) for row in result.result.get("unexpected_index_list") or ()]
        findings.append(Finding(item["type"], ", ".join(_columns(item)), len(rows) or None, broken))
        bad_rows.update(rows)
    failed = any(finding.rows is None for finding in findings)
    return SuiteResult(len(items), tuple(findings), tuple(sorted(bad_rows)), failed)


def _evaluate(frame: pd.DataFrame, items: list[dict[str, Any]]) -> list[Any]:
    """Results of Great Expectations in the order of ``items``; index lists hold row positions."""
    if not items:
        return []
    # Results come grouped by column: the position travels as metadata.
    expectations = [_build({**item, "meta": {"position": position}}) for position, item in enumerate(items)]
    with _one_at_a_time:
        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False, "metric_calculations": False}  # type: ignore[assignment]
        asset = context.data_sources.add_pandas("frames").add_dataframe_asset("frame")
        batch = asset.add_batch_definition_whole_dataframe("whole").get_batch(
            {"dataframe": frame.reset_index(drop=True)}
        )
        results = batch.validate(
            gx.ExpectationSuite(name="suite", expectations=expectations), result_format={"result_format": "COMPLETE"}
        ).results
    return sorted(results, key=lambda result: int(result.expectation_config.meta["position"]))


def _floors(frame: pd.DataFrame, items: list[dict[str, Any]]) -> list[Finding]:
    floors = [] if items else [Finding("expectations >= 1", "", None)]
    if not len(frame):
        floors.append(Finding("rows >= 1", "", None))
    nulls = [item for item in items if item["type"] == "expect_column_values_to_be_null"]
    nullable = {column for item in nulls for column in _columns(item)}
    for column in dict.fromkeys(column for item in items for column in _looks_into(item)):
        if column not in frame.columns:
            floors.append(Finding("exists", column, None))
        elif len(frame) and column not in nullable and frame[column].isna().all():
            floors.append(Finding("not all null", column, None))
    return floors


def _columns(item: dict[str, Any]) -> list[str]:
    kwargs = item["kwargs"]
    single = [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs]
    return [*single, *kwargs.get("column_list", ())]


def _looks_into(item: dict[str, Any]) -> list[str]:
    """Columns whose values the expectation needs; one of them alone asks only whether there is such a column."""
    return [] if item["type"] == "expect_column_to_exist" else _columns(item)


def _check_shape(suite: Any, path: Path) -> None:
    items = suite.get("expectations") if isinstance(suite, dict) else None
    if not isinstance(items, list):
        found = f"keys {', '.join(suite)}" if isinstance(suite, dict) else f"a {type(suite).__name__}"
        raise _refuse(
            "KZ322", "not an expectation suite", path, found, '{"name": ..., "expectations": [...]}',
            "write the file with Great Expectations: json.dumps(suite.to_json_dict())",
        )  # fmt: skip
    if not items:
        raise _refuse(
            "KZ323", "0 expectations cannot pass", path, 0, "at least 1 expectation",
            "write what the table promises, or remove the suite from the spec",
        )  # fmt: skip


def _check_item(item: Any, where: str) -> None:
    if not isinstance(item, dict) or not isinstance(item.get("type"), str) or not isinstance(item.get("kwargs"), dict):
        raise _refuse(
            "KZ322", "not an expectation", where, f"{item!r:.80}", '{"type": "expect_...", "kwargs": {...}}',
            "write both keys",
        )  # fmt: skip
    known = list_registered_expectation_implementations()
    if item["type"] not in known:
        near = nearest(item["type"], known)
        raise _refuse(
            "KZ324", "unknown expectation", where, item["type"], "an expectation of Great Expectations",
            f"correct the name (nearest: {near})" if near else "correct the name",
        )  # fmt: skip
    _check_arguments(item, f"{where} {item['type']}")


def _check_arguments(item: dict[str, Any], where: str) -> None:
    try:
        expectation = _build(item)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        limit = "a number from 0 to 1" if name == "mostly" else first["msg"]
        raise _refuse_argument(where, name, item["kwargs"].get(name), limit) from error
    except (TypeError, GreatExpectationsError) as error:
        raise _refuse_argument(where, "", None, str(error).splitlines()[0]) from error
    for name, value in expectation.configuration.kwargs.items():
        if isinstance(value, dict) and "$PARAMETER" in value:
            raise _refuse_argument(where, name, value, "a value; no suite parameters are given")
    # Looked up in what was built: that is what would run, whatever the file's spelling.
    condition = expectation.configuration.kwargs.get("row_condition")
    if "pass_through" in str(condition):
        raise _refuse(
            "KZ326", "row condition is code", f"{where}, row_condition", item["kwargs"]["row_condition"],
            "a condition as data",
            'write {"type": "comparison", "column": {"name": "COLUMN"}, "operator": "==", "parameter": VALUE}',
        )  # fmt: skip


def _build(item: dict[str, Any]) -> Expectation:
    # Not through ExpectationSuite: it leaves out what it cannot build and goes on.
    return ExpectationConfiguration(**item).to_domain_obj()


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_argument(where: str, name: str, value: Any, limit: str) -> SpecError:
    place = f"{where}, {name}" if name and name != "__root__" else where
    return _refuse("KZ325", "argument does not fit the expectation", place, value, limit, "correct the argument")


def _refuse(code: str, what: str, where: object, value: Any, limit: str, action: str) -> SpecError:
    return SpecError(code, what, where=str(where), value=value, limit=limit, action=action)
