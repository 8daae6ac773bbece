"""validate: pass, quarantine rows, or refuse a partition, by its expectation suite.

Only versions without a verdict are looked at. Without a suite the structural checks of ingest are all there is, and
the report says so. A refused partition is used nowhere; delivering it again is the way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from kaizen.canonical import digest
from kaizen.errors import DataRefused
from kaizen.faults import fault_point
from kaizen.loop import Loop
from kaizen.records import DataVersion, ValidationReport
from kaizen.verdict import decide_verdict
from kaizen.windows import set_aside


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
            limit=f"suite {loop.spec.data.suite[version.table]}, on_invalid: {loop.spec.data.on_invalid}",
            action="mend the source and deliver it again; `kaizen status` lists the findings",
        )
    return report


def _check(loop: Loop, version: DataVersion, suite: dict[str, Any] | None) -> ValidationReport:
    if suite is None:
        return ValidationReport(
            version.table, version.partition, version.digest, "", "passed", version.rows, version.rows, 0, 0, (),
            version.address, None, "no suite: structural checks only",
        )  # fmt: skip
    from kaizen.adapters.great_expectations_suite import check
    from kaizen.adapters.tables import read_parquet, write_parquet

    spec = loop.spec.data
    rows = read_parquet(loop.store.file(version.address))
    result = check(rows, suite)
    verdict, reason = decide_verdict(len(rows), result, spec.on_invalid, spec.max_quarantined)
    valid: str | None = version.address if verdict == "passed" else None
    quarantine = None
    bad = len(result.bad_rows) if verdict == "quarantined" else 0
    if verdict == "quarantined":
        name = f"{version.table}/{version.partition}"
        good = rows.drop(index=list(result.bad_rows)).reset_index(drop=True)
        valid = loop.store.put_file(name, partial(write_parquet, good))
        quarantine = loop.store.put_file(f"quarantine/{name}", partial(write_parquet, rows.iloc[list(result.bad_rows)]))
    return ValidationReport(
        table=version.table,
        partition=version.partition,
        data=version.digest,
        suite=digest(suite),
        verdict=verdict,
        rows=len(rows),
        valid_rows=0 if verdict == "refused" else len(rows) - bad,
        quarantined_rows=bad,
        expectations=result.expectations,
        findings=result.findings,
        valid=valid,
        quarantine=quarantine,
        reason=reason,
    )
