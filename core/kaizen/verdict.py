"""The rule of validate: pass, quarantine the bad rows, or refuse the table. A pure function of what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from kaizen.ports import SuiteResult
from kaizen.records import Finding, Verdict

_NAMED = 3  # findings that a reason names; the report has them all


def decide_verdict(
    rows: int, result: SuiteResult, on_invalid: Literal["quarantine", "refuse"], max_quarantined: float
) -> tuple[Verdict, str]:
    """The verdict on a table, and the sentence for people ("" if it passed).

    Args:
        rows: rows of the table.
        result: what its suite found.
        on_invalid: what becomes of bad rows; a failure of the whole table is always refused.
        max_quarantined: largest share of bad rows (0 to 1, inclusive) that may be quarantined.
    """
    bad = len(result.bad_rows)
    if result.table_failed:
        return "refused", "the whole table fails: " + _named([f for f in result.findings if f.rows is None])
    if bad >= rows:
        return "refused", f"no valid row among {rows}"
    if bad == 0:
        return "passed", ""
    found = f"{bad} of {rows} rows are bad: " + _named(result.findings)
    if on_invalid == "refuse":
        return "refused", f"on_invalid is refuse; {found}"
    if bad / rows > max_quarantined:
        return "refused", f"{bad / rows:.2%} is more than max_quarantined, {max_quarantined:.2%}; {found}"
    return "quarantined", found


def _named(findings: Sequence[Finding]) -> str:
    names = [_name(finding) for finding in findings[:_NAMED]]
    more = len(findings) - len(names)
    return "; ".join(names) + (f"; and {more} more" if more else "")


def _name(finding: Finding) -> str:
    place = f"column {finding.column}: " if finding.column else ""
    rows = f" (not in {finding.rows} rows, first {', '.join(map(str, finding.first))})" if finding.first else ""
    return place + finding.expectation + rows + (" (the check broke)" if finding.broken else "")
