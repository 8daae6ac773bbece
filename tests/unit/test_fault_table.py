"""The table of the fault campaign: what adds up, and that a failure cannot hide behind what passes."""

from __future__ import annotations

import pytest
from tests.fault_table import rows_of


def report(when, outcome, seen=None, mark=("F01", "killed", "I1")):
    properties = [("fault", (mark, seen or {}))]
    return pytest.TestReport(
        "test", ("file", 1, "test"), {}, outcome, None, when, user_properties=properties, duration=1
    )


def case(call, **seen):
    return [report("setup", "passed"), report("call", call, seen), report("teardown", "passed", seen)]


def test_cases_of_one_fault_add_up():
    (row,) = rows_of([*case("passed", made=1, **{"at once": 1}), *case("passed", made=2, **{"at once": 1})])
    assert (row.fault, row.cases, row.verdict, row.seconds) == ("F01", 2, "holds", 6)
    assert row.seen == {"made": 3, "at once": 1}


@pytest.mark.parametrize("phase", ["setup", "call", "teardown"])
def test_one_failure_breaks_the_row_whatever_passes_before_and_after(phase):
    (row,) = rows_of([*case("passed"), report(phase, "failed"), *case("passed")])
    assert row.verdict == "BROKEN"


def test_what_is_skipped_does_not_hold():
    (row,) = rows_of([report("setup", "skipped"), report("teardown", "passed")])
    assert row.verdict == "not run"


def test_rows_stand_in_the_order_of_their_numbers():
    reports = [report("call", "passed", mark=(number, "x", "I1")) for number in ("F49", "F05", "F18")]
    assert [row.fault for row in rows_of(reports)] == ["F05", "F18", "F49"]
