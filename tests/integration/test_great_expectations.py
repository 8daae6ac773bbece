"""Suites as files, and what they find in frames, with Great Expectations itself."""

import json
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pytest

from kaizen.adapters.great_expectations_suite import check, read_suite
from kaizen.canonical import digest
from kaizen.errors import SpecError
from kaizen.records import Finding
from kaizen.verdict import decide_verdict

BETWEEN = "expect_column_values_to_be_between"
NOT_NULL = "expect_column_values_to_not_be_null"
IN_SET = "expect_column_values_to_be_in_set"
REGEX = "expect_column_values_to_match_regex"
UNIQUE = "expect_compound_columns_to_be_unique"


def expectation(kind, **kwargs):
    return {"type": kind, "kwargs": kwargs}


def suite(*expectations):
    return {"name": "flights", "expectations": list(expectations)}


@pytest.fixture
def flights():
    return pd.DataFrame(
        {
            "carrier": ["UA", "AA", None, "UA", "??", "DL"],
            "flight": [1, 2, 3, 1, 5, 6],
            "delay": [0.0, -3.0, np.nan, 12.0, 999.0, 4.0],
            "time": pd.date_range("2013-04-01", periods=6, freq="D", tz="UTC"),
        }
    )


# --- findings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "finding", "bad_rows"),
    [
        (expectation(BETWEEN, column="delay", max_value=100), Finding(BETWEEN, "delay", 1), (4,)),
        (expectation(NOT_NULL, column="carrier"), Finding(NOT_NULL, "carrier", 1), (2,)),
        (expectation(IN_SET, column="carrier", value_set=["UA", "AA"]), Finding(IN_SET, "carrier", 2), (4, 5)),
        (expectation(REGEX, column="carrier", regex="^[A-Z]{2}$"), Finding(REGEX, "carrier", 1), (4,)),
        (
            expectation(UNIQUE, column_list=["carrier", "flight"]),
            Finding(UNIQUE, "carrier, flight", 2),
            (0, 3),
        ),
        (
            expectation("expect_column_pair_values_a_to_be_greater_than_b", column_A="delay", column_B="flight"),
            Finding("expect_column_pair_values_a_to_be_greater_than_b", "delay, flight", 4),
            (0, 1, 2, 5),
        ),
        (expectation(BETWEEN, column="time", min_value="2013-04-02T00:00:00Z"), Finding(BETWEEN, "time", 1), (0,)),
    ],
)
def test_rows_that_break_an_expectation_are_named_by_position(flights, rule, finding, bad_rows):
    result = check(flights, suite(rule))
    assert (result.expectations, result.findings, result.bad_rows) == (1, (finding,), bad_rows)
    assert not result.table_failed


@pytest.mark.parametrize(
    ("rule", "finding"),
    [
        (
            expectation("expect_table_row_count_to_be_between", min_value=100),
            Finding("expect_table_row_count_to_be_between", "", None),
        ),
        (
            expectation("expect_column_mean_to_be_between", column="delay", max_value=10),
            Finding("expect_column_mean_to_be_between", "delay", None),
        ),
        (expectation("expect_column_to_exist", column="origin"), Finding("expect_column_to_exist", "origin", None)),
    ],
)
def test_an_expectation_about_the_whole_table_fails_the_table(flights, rule, finding):
    result = check(flights, suite(rule))
    assert (result.findings, result.bad_rows, result.table_failed) == ((finding,), (), True)


def test_findings_come_in_suite_order_and_rows_once(flights):
    rules = [
        expectation(IN_SET, column="carrier", value_set=["UA", "AA", "DL"]),
        expectation(BETWEEN, column="delay", max_value=100),
        expectation(NOT_NULL, column="carrier"),
        expectation(NOT_NULL, column="flight"),
        expectation(NOT_NULL, column="delay"),
    ]
    result = check(flights, suite(*rules))
    assert [(f.expectation, f.column) for f in result.findings] == [
        (IN_SET, "carrier"),
        (BETWEEN, "delay"),
        (NOT_NULL, "carrier"),
        (NOT_NULL, "delay"),
    ]
    assert (result.expectations, result.bad_rows) == (5, (2, 4))


def test_rows_within_mostly_are_not_bad(flights):
    tolerant = suite(expectation(NOT_NULL, column="delay", mostly=0.8))
    assert check(flights, tolerant).findings == ()
    strict = suite(expectation(NOT_NULL, column="delay", mostly=0.9))
    assert check(flights, strict).bad_rows == (2,)


def test_every_bad_row_is_named_however_many():
    frame = pd.DataFrame({"x": np.arange(28_000) % 4})
    result = check(frame, suite(expectation(BETWEEN, column="x", max_value=2)))
    assert result.bad_rows == tuple(range(3, 28_000, 4))
    verdict, _ = decide_verdict(len(frame), result, "quarantine", 0.25)
    valid = frame.drop(index=list(result.bad_rows))
    assert verdict == "quarantined"
    assert len(valid) + len(result.bad_rows) == len(frame)
    assert check(valid, suite(expectation(BETWEEN, column="x", max_value=2))).findings == ()


def test_positions_hold_for_any_index(flights):
    flights.index = [7, 7, 7, 0, 1, 1]
    assert check(flights, suite(expectation(BETWEEN, column="delay", max_value=100))).bad_rows == (4,)


def test_the_frame_and_the_suite_stay_as_they_are(flights):
    before = flights.copy()
    rules = suite(expectation(NOT_NULL, column="carrier") | {"meta": {"owner": "ops"}})
    written = json.dumps(rules)
    check(flights, rules)
    pd.testing.assert_frame_equal(flights, before)
    assert json.dumps(rules) == written


@pytest.mark.parametrize("dtype", ["str", "string", "object", "category"])
def test_text_of_every_pandas_dtype_is_checked(dtype):
    frame = pd.DataFrame({"x": pd.Series(["a", None, "zz"], dtype=dtype)})
    rules = suite(expectation(REGEX, column="x", regex="^.$"), expectation(NOT_NULL, column="x"))
    assert check(frame, rules).bad_rows == (1, 2)


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "float64", "int64[pyarrow]"])
def test_numbers_of_every_pandas_dtype_are_checked(dtype):
    frame = pd.DataFrame({"x": pd.Series([1, None, 99], dtype=dtype)})
    rules = suite(expectation(BETWEEN, column="x", max_value=10), expectation(NOT_NULL, column="x"))
    assert check(frame, rules).bad_rows == (1, 2)


def test_a_condition_as_data_limits_an_expectation_to_some_rows(flights):
    condition = {"type": "comparison", "column": {"name": "carrier"}, "operator": "==", "parameter": "AA"}
    rule = expectation(BETWEEN, column="delay", min_value=100, row_condition=condition)
    assert check(flights, suite(rule)).bad_rows == (1,)


def test_no_value_of_a_row_is_in_a_result(flights):
    flights["secret"] = "canary-7731"
    rules = suite(
        expectation(IN_SET, column="secret", value_set=["x"]),
        expectation(BETWEEN, column="secret", min_value=0),
    )
    result = check(flights, rules)
    assert len(result.findings) == 2
    assert "canary" not in repr(result)


def test_checks_in_parallel_do_not_mix_their_frames():
    frames = [pd.DataFrame({"x": np.where(np.arange(50) == n, -1, 1)}) for n in range(8)]
    rules = suite(expectation(BETWEEN, column="x", min_value=0))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda frame: check(frame, rules), frames))
    assert [result.bad_rows for result in results] == [(n,) for n in range(8)]


# --- floors, and checks that broke ----------------------------------------------------------------------------------


def test_zero_rows_never_pass(flights):
    result = check(flights.head(0), suite(expectation(NOT_NULL, column="carrier")))
    assert result.findings == (Finding("rows >= 1", "", None),)
    assert (result.expectations, result.table_failed) == (0, True)


@pytest.mark.parametrize(
    "rule",
    [
        expectation(BETWEEN, column="delay", min_value=0),
        expectation(UNIQUE, column_list=["carrier", "delay"]),
        expectation("expect_column_values_to_be_unique", column="delay"),
    ],
)
@pytest.mark.parametrize("nothing", [None, np.nan, pd.NaT, pd.NA])
def test_a_column_without_values_never_passes(flights, rule, nothing):
    flights["delay"] = nothing
    result = check(flights, suite(rule))
    assert result.findings[0] == Finding("not all null", "delay", None)
    assert result.table_failed


def test_columns_that_no_expectation_names_may_be_all_null(flights):
    flights["notes"] = None
    assert check(flights, suite(expectation(NOT_NULL, column="flight"))).findings == ()


def test_a_suite_can_say_that_a_column_may_be_all_null(flights):
    flights["delay"] = np.nan
    may_be = expectation("expect_column_values_to_be_null", column="delay", mostly=0.0)
    rules = suite(expectation(BETWEEN, column="delay", min_value=0), may_be)
    assert check(flights, rules).findings == ()
    flights.loc[1, "delay"] = -5.0
    assert check(flights, rules).bad_rows == (1,)


def test_an_empty_suite_never_passes(flights):
    result = check(flights, suite())
    assert (result.findings, result.table_failed) == ((Finding("expectations >= 1", "", None),), True)


def test_a_missing_column_is_bad_data_and_is_named_once(flights):
    rules = suite(
        expectation(BETWEEN, column="gate", min_value=0),
        expectation(NOT_NULL, column="gate"),
        expectation(UNIQUE, column_list=["carrier", "gate"]),
        expectation(NOT_NULL, column="carrier"),
    )
    result = check(flights, rules)
    assert result.findings == (Finding("exists", "gate", None), Finding(NOT_NULL, "carrier", 1))
    assert (result.expectations, result.bad_rows, result.table_failed) == (1, (2,), True)


@pytest.mark.parametrize(
    "rule",
    [
        expectation(BETWEEN, column="carrier", min_value=0),
        expectation(REGEX, column="carrier", regex="("),
        expectation(BETWEEN, column="delay", min_value=3, max_value=1),
        expectation("unexpected_rows_expectation", unexpected_rows_query="SELECT * FROM {batch}"),
        expectation(
            BETWEEN,
            column="delay",
            min_value=-10,
            row_condition='col("gate")==1',
            condition_parser="great_expectations",
        ),
    ],
)
def test_a_check_that_raises_is_broken_and_the_others_still_count(flights, rule):
    result = check(flights, suite(rule, expectation(NOT_NULL, column="carrier")))
    broken, other = result.findings
    assert (broken.expectation, broken.rows, broken.broken) == (rule["type"], None, True)
    assert other == Finding(NOT_NULL, "carrier", 1)
    assert (result.bad_rows, result.table_failed) == ((2,), True)


# --- files ----------------------------------------------------------------------------------------------------------


def written(folder: Path, value) -> Path:
    path = folder / "flights.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_a_file_that_great_expectations_wrote_is_read_whole(tmp_path):
    made = gx.ExpectationSuite(
        name="flights",
        expectations=[
            gxe.ExpectColumnValuesToBeBetween(column="delay", min_value=-60, max_value=2000, severity="warning"),
            gxe.ExpectTableRowCountToBeBetween(min_value=1, meta={"owner": "ops"}),
        ],
    ).to_json_dict()
    read = read_suite(written(tmp_path, made))
    assert read == made
    assert len(digest(read)) == 64


REFUSALS = {
    "not_json": (
        '{"name": "flights",\n "expectations": [}',
        """KZ321: expectation suite is not JSON
  where: SUITE
  value: Expecting value: line 2 column 19 (char 38)
  limit: JSON (UTF-8)
  next: correct the file at that place""",
    ),
    "nan": (
        json.dumps(suite(expectation(BETWEEN, column="x", min_value=math.nan))),
        """KZ321: expectation suite is not JSON
  where: SUITE
  value: NaN is not a JSON number
  limit: JSON (UTF-8)
  next: correct the file at that place""",
    ),
    "other_file": (
        {"version": 1, "loop": "nyc/flights"},
        """KZ322: not an expectation suite
  where: SUITE
  value: keys version, loop
  limit: {"name": ..., "expectations": [...]}
  next: write the file with Great Expectations: json.dumps(suite.to_json_dict())""",
    ),
    "no_kwargs": (
        suite({"type": NOT_NULL, "column": "delay"}),
        """KZ322: not an expectation
  where: SUITE: expectations[0]
  value: {'type': 'expect_column_values_to_not_be_null', 'column': 'delay'}
  limit: {"type": "expect_...", "kwargs": {...}}
  next: write both keys""",
    ),
    "empty": (
        suite(),
        """KZ323: 0 expectations cannot pass
  where: SUITE
  value: 0
  limit: at least 1 expectation
  next: write what the table promises, or remove the suite from the spec""",
    ),
    "unknown": (
        suite(expectation(NOT_NULL, column="x"), expectation("expect_column_values_not_null", column="x")),
        """KZ324: unknown expectation
  where: SUITE: expectations[1]
  value: expect_column_values_not_null
  limit: an expectation of Great Expectations
  next: correct the name (nearest: expect_column_values_to_not_be_null)""",
    ),
    "unlike_any": (
        suite(expectation("check", column="x")),
        """KZ324: unknown expectation
  where: SUITE: expectations[0]
  value: check
  limit: an expectation of Great Expectations
  next: correct the name""",
    ),
    "mostly": (
        suite(expectation(NOT_NULL, column="x", mostly=95)),
        """KZ325: argument does not fit the expectation
  where: SUITE: expectations[0] expect_column_values_to_not_be_null, mostly
  value: 95
  limit: a number from 0 to 1
  next: correct the argument""",
    ),
    "argument": (
        suite(expectation(NOT_NULL, colum="x")),
        """KZ325: argument does not fit the expectation
  where: SUITE: expectations[0] expect_column_values_to_not_be_null, column
  limit: field required
  next: correct the argument""",
    ),
    "arguments": (
        suite(expectation(BETWEEN, column="x")),
        """KZ325: argument does not fit the expectation
  where: SUITE: expectations[0] expect_column_values_to_be_between
  limit: min_value and max_value cannot both be None
  next: correct the argument""",
    ),
    "severity": (
        suite(expectation(NOT_NULL, column="x") | {"severity": "high"}),
        """KZ325: argument does not fit the expectation
  where: SUITE: expectations[0] expect_column_values_to_not_be_null
  limit: Invalid severity 'high'. Must be one of: critical, warning, info
  next: correct the argument""",
    ),
    "parameter": (
        suite(expectation(BETWEEN, column="x", min_value={"$PARAMETER": "low"})),
        """KZ325: argument does not fit the expectation
  where: SUITE: expectations[0] expect_column_values_to_be_between, min_value
  value: {'$PARAMETER': 'low'}
  limit: a value; no suite parameters are given
  next: correct the argument""",
    ),
    "row_condition": (
        suite(expectation(NOT_NULL, column="x", row_condition="x > @danger()", condition_parser="pandas")),
        """KZ326: row condition is code
  where: SUITE: expectations[0] expect_column_values_to_not_be_null, row_condition
  value: x > @danger()
  limit: a condition as data
  next: write {"type": "comparison", "column": {"name": "COLUMN"}, "operator": "==", "parameter": VALUE}""",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_bad_suite_is_refused_with_place_value_limit_and_next_action(tmp_path, name):
    content, message = REFUSALS[name]
    path = written(tmp_path, content)
    with pytest.raises(SpecError) as refusal:
        read_suite(path)
    assert str(refusal.value).replace(str(path), "SUITE") == message


def test_a_missing_suite_is_refused_with_its_path(tmp_path):
    with pytest.raises(SpecError) as refusal:
        read_suite(tmp_path / "none.json")
    assert (refusal.value.code, refusal.value.where) == ("KZ320", str(tmp_path / "none.json"))
    assert refusal.value.value == "No such file or directory"


def test_a_suite_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "suite.json"
    path.write_bytes('{"name": "é"}'.encode("latin-1"))
    with pytest.raises(SpecError, match="KZ321"):
        read_suite(path)


@pytest.mark.parametrize("parser", ["pandas", "spark", None])
@pytest.mark.parametrize("kind", ["text", "object", "nested"])
def test_code_in_a_row_condition_is_refused_in_every_spelling(tmp_path, parser, kind):
    code = {"type": "pass_through", "pass_through_filter": "x > 1"}
    condition = {"text": "x > 1", "object": code, "nested": {"type": "and", "conditions": [code, code]}}[kind]
    rule = expectation(NOT_NULL, column="x", row_condition=condition)
    if parser:
        rule["kwargs"]["condition_parser"] = parser
    with pytest.raises(SpecError, match=re.compile("KZ32[56]")):
        read_suite(written(tmp_path, suite(rule)))


def test_conditions_as_data_are_read(tmp_path):
    condition = {"type": "nullity", "column": {"name": "y"}, "is_null": False}
    rules = suite(expectation(NOT_NULL, column="x", row_condition=condition))
    assert read_suite(written(tmp_path, rules)) == rules


def test_a_bound_of_infinity_is_refused(tmp_path):
    with pytest.raises(SpecError, match="Infinity is not a JSON number"):
        read_suite(written(tmp_path, suite(expectation(BETWEEN, column="x", max_value=math.inf))))


# --- the library ----------------------------------------------------------------------------------------------------


def in_a_fresh_process(code: str) -> str:
    core = Path(sys.modules["kaizen"].__path__[0]).parent
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(core)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "HOME": "/nonexistent"},
    ).stdout


def test_without_the_library_the_extra_is_named():
    code = """
sys.modules["great_expectations"] = None
from kaizen.errors import MissingDependency
try:
    import kaizen.adapters.great_expectations_suite
except MissingDependency as error:
    print(error.action)
"""
    assert in_a_fresh_process(code) == "pip install 'kaizen-mlops[great-expectations]'\n"


def test_nothing_is_printed_and_nothing_is_sent():
    code = """
import os, socket
def refuse(*arguments): raise AssertionError("a connection")
socket.socket.connect = refuse
import pandas
from kaizen.adapters.great_expectations_suite import check
rules = [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "x"}}]
check(pandas.DataFrame({"x": [1, None]}), {"expectations": rules})
sys.stdout.write(os.environ["GX_ANALYTICS_ENABLED"])
"""
    assert in_a_fresh_process(code) == "false"
