"""validate: pass, quarantine rows, or refuse a partition, by its expectation suite.

Only versions without a verdict are looked at. The table's rules of cleaning come first: the suite judges, and later
stages read, what they leave. What was ingested stays as it was delivered. Without a suite the structural checks of
ingest, and that numbers are finite, are all there is. A refused partition is used nowhere; delivering it again is the
way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kaizen.canonical import digest
from kaizen.errors import DataRefused
from kaizen.faults import fault_point
from kaizen.loop import Loop
from kaizen.ports import SuiteResult
from kaizen.records import DataVersion, ValidationReport
from kaizen.spec import CleanSpec
from kaizen.verdict import decide_verdict
from kaizen.windows import set_aside

if TYPE_CHECKING:
    from kaizen.adapters.cleaning import Rows

_NO_SUITE = "no suite: structural checks only"


def validate(loop: Loop) -> list[ValidationReport]:
    """Give every new version its verdict; return the reports that were added.

    When the first outcomes have passed, the acceptance set is taken (``data.acceptance``).

    Raises:
        DataRefused: KZ450 after the report of the first refused partition is kept; the rest wait for the next call.
            KZ490 the acceptance set would be empty.
    """
    suites = read_suites(loop)
    reports = [validate_version(loop, version, suites.get(version.table)) for version in unvalidated(loop)]
    set_aside(loop)
    return reports


def unvalidated(loop: Loop) -> Iterator[DataVersion]:
    """Newest versions that have no verdict."""
    for table in loop.spec.data.tables:
        known = loop.heads(ValidationReport, f"validation/{table}/")
        for partition, version in loop.versions(table).items():
            previous = known.get(partition)
            if previous is None or previous.data != version.digest:
                yield version


def read_suites(loop: Loop) -> dict[str, dict[str, Any]]:
    """The suites that the spec names, by table. Raises ``SpecError`` (KZ32x) for the first that is not one."""
    if not loop.spec.data.suite:
        return {}
    from kaizen.adapters.great_expectations_suite import read_suite

    return {table: read_suite(loop.path.parent / path) for table, path in loop.spec.data.suite.items()}


def validate_version(loop: Loop, version: DataVersion, suite: dict[str, Any] | None) -> ValidationReport:
    """Check one version and keep its report. See ``validate``."""
    report = _check(loop, version, suite)
    fault_point("validate.before_append")
    name = f"{version.table}/{version.partition}"
    loop.append(f"validation/{name}", report, f"{name}/{version.digest}/{report.suite}")
    if report.verdict == "refused":
        raise DataRefused(
            "KZ450",
            "validation refused the partition",
            where=name,
            value=report.reason,
            limit=f"suite {loop.spec.data.suite.get(version.table, 'none')}, on_invalid: {loop.spec.data.on_invalid}",
            action="mend the source and deliver it again; `kaizen status` lists the findings",
        )
    return report


def _check(loop: Loop, version: DataVersion, suite: dict[str, Any] | None) -> ValidationReport:
    from kaizen.adapters import cleaning

    spec, path = loop.spec.data, loop.store.file(version.address)
    rules = spec.tables[version.table].clean
    if suite is None and rules is None and not cleaning.may_be_infinite(path):
        return ValidationReport(
            version.table, version.partition, version.digest, "", "passed", version.rows, version.rows, 0, 0, (),
            version.address, None, _NO_SUITE,
        )  # fmt: skip
    delivered = cleaning.read_rows(path)
    keys, where = loop.spec.keys_of(version.table), f"data.tables.{version.table}"
    rows, cleaned = cleaning.clean(delivered, rules or CleanSpec(), keys, where)
    result = _look(rows, suite)
    verdict, reason = decide_verdict(len(rows), result, spec.on_invalid, spec.max_quarantined)
    refused = ValidationReport(
        table=version.table,
        partition=version.partition,
        data=version.digest,
        suite=digest(suite) if suite is not None else "",
        verdict="refused",
        rows=len(delivered),
        valid_rows=0,
        quarantined_rows=0,
        expectations=result.expectations,
        findings=result.findings,
        valid=None,
        quarantine=None,
        reason=reason if len(rows) else f"cleaning left none of {len(delivered)} rows",
        cleaned=cleaned,
    )
    if verdict == "refused" or not len(rows):
        return refused
    good = rows.without(result.bad_rows)
    name = f"{version.table}/{version.partition}"
    quarantine = (
        loop.store.put_file(f"quarantine/{name}", rows.only(result.bad_rows).write)
        if verdict == "quarantined"
        else None
    )
    return replace(
        refused,
        verdict=verdict,
        valid_rows=len(good),
        quarantined_rows=len(rows) - len(good),
        dropped_rows=len(delivered) - len(rows),
        valid=version.address if good is delivered else loop.store.put_file(name, good.write),
        quarantine=quarantine,
        reason=reason or ("" if suite is not None else _NO_SUITE),
    )


def _look(rows: Rows, suite: dict[str, Any] | None) -> SuiteResult:
    """What the suite finds, and infinite numbers, which no row may hold: neither a model nor a profile takes them."""
    from kaizen.adapters.cleaning import find_infinite

    findings, bad = find_infinite(rows)
    if suite is None:
        return SuiteResult(0, findings, tuple(bad), False)
    from kaizen.adapters.great_expectations_suite import check

    found = check(rows.table.to_pandas(), suite)
    bad_rows = tuple(sorted({*bad, *found.bad_rows}))
    return SuiteResult(found.expectations, (*findings, *found.findings), bad_rows, found.table_failed)
