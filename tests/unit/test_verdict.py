"""The rule that turns findings into a verdict."""

import pytest

from kaizen.ports import SuiteResult
from kaizen.records import Finding
from kaizen.verdict import decide_verdict


def rows_found(*rows: int) -> SuiteResult:
    return SuiteResult(4, (Finding("in_set", "origin", len(rows)),), rows, table_failed=False)


NOTHING = SuiteResult(4, (), (), table_failed=False)


def test_nothing_found_passes_without_a_reason():
    assert decide_verdict(100, NOTHING, "quarantine", 0.0) == ("passed", "")


def test_bad_rows_up_to_the_limit_are_quarantined():
    verdict, reason = decide_verdict(100, rows_found(*range(5)), "quarantine", 0.05)
    assert (verdict, reason) == ("quarantined", "5 of 100 rows are bad: column origin: in_set")


@pytest.mark.parametrize("bad", [7, 14, 28, 29, 55, 56, 57, 58])
def test_a_share_equal_to_the_limit_is_within_it(bad):
    # These shares times 100 are not whole numbers in binary.
    assert decide_verdict(100, rows_found(*range(bad)), "quarantine", float(f"0.{bad:02d}"))[0] == "quarantined"


def test_one_row_above_the_limit_is_refused_with_both_numbers():
    verdict, reason = decide_verdict(100, rows_found(*range(6)), "quarantine", 0.05)
    assert verdict == "refused"
    assert reason == "6.00% is more than max_quarantined, 5.00%; 6 of 100 rows are bad: column origin: in_set"


def test_on_invalid_refuse_refuses_a_single_bad_row():
    verdict, reason = decide_verdict(100, rows_found(3), "refuse", 1.0)
    assert (verdict, reason) == (
        "refused",
        "on_invalid is refuse; 1 of 100 rows are bad: column origin: in_set",
    )


def test_a_table_without_a_valid_row_is_refused_at_any_limit():
    assert decide_verdict(2, rows_found(0, 1), "quarantine", 1.0) == ("refused", "no valid row among 2")


def test_no_rows_never_pass_even_if_nothing_was_found():
    assert decide_verdict(0, NOTHING, "quarantine", 1.0) == ("refused", "no valid row among 0")


def test_a_failed_table_is_refused_whatever_quarantine_allows():
    findings = (
        Finding("in_set", "origin", 1),
        Finding("mean", "delay", None),
        Finding("regex", "tail", None, broken=True),
    )
    verdict, reason = decide_verdict(100, SuiteResult(4, findings, (3,), table_failed=True), "quarantine", 1.0)
    assert verdict == "refused"
    assert reason == "the whole table fails: column delay: mean; column tail: regex (the check broke)"


def test_a_reason_names_three_findings_and_counts_the_rest():
    findings = tuple(Finding(f"rule {n}", "", None) for n in range(5))
    _, reason = decide_verdict(9, SuiteResult(5, findings, (), table_failed=True), "quarantine", 1.0)
    assert reason == "the whole table fails: rule 0; rule 1; rule 2; and 2 more"
