"""``validator: kedro_kaizen.GreatExpectations`` in real Kedro catalogs."""

import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import yaml
from kedro.io import DataCatalog
from kedro.pipeline import node, pipeline
from kedro.runner import SequentialRunner
from kedro.validation.exceptions import DataValidationError, ValidationConfigurationError

import kedro_kaizen
from kaizen.errors import UsageError
from kedro_kaizen.validator import GreatExpectations

RULES = {
    "name": "flights",
    "expectations": [
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": "delay", "max_value": 100}},
        {"type": "expect_compound_columns_to_be_unique", "kwargs": {"column_list": ["carrier", "flight"]}},
    ],
}


def flights(bad: int = 3, rows: int = 100) -> pd.DataFrame:
    delay = [999.0] * bad + [float(n % 60) for n in range(rows - bad)]
    return pd.DataFrame({"carrier": ["UA"] * rows, "flight": range(rows), "delay": delay})


class Project:
    """A Kedro project as small as it gets: one dataset with a validator, written as users write it."""

    def __init__(self, folder: Path) -> None:
        self.raw = folder / "flights.parquet"
        self.suite = folder / "expectations.json"
        self.quarantine = folder / "02_intermediate" / "quarantine.parquet"
        self.suite.write_text(json.dumps(RULES))

    def catalog(self, data: pd.DataFrame, *, cls="kedro_kaizen.GreatExpectations", severity="error", **options):
        data.to_parquet(self.raw)
        entry = f"""
flights:
  type: pandas.ParquetDataset
  filepath: {self.raw}
  validator:
    class: {cls}
    on: load
    severity: {severity}
    options: {json.dumps({"suite": str(self.suite), "quarantine": str(self.quarantine), **options})}
"""
        return DataCatalog.from_config(yaml.safe_load(entry))


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.mark.parametrize("cls", ["kedro_kaizen.GreatExpectations", "kedro_kaizen.validator.GreatExpectations"])
def test_bad_rows_are_quarantined_and_the_pipeline_gets_the_others(project, cls):
    data = flights(bad=3)
    catalog = project.catalog(data, cls=cls)
    outputs = SequentialRunner().run(pipeline([node(len, "flights", "rows", name="count")]), catalog)
    quarantined = pd.read_parquet(project.quarantine)
    assert outputs["rows"].load() + len(quarantined) == len(data)
    pd.testing.assert_frame_equal(quarantined, data.head(3))


def test_duplicates_are_quarantined_both(project):
    data = flights(bad=0)
    data.loc[7, "flight"] = 8
    loaded = project.catalog(data).load("flights")
    assert sorted(set(data.index) - set(loaded.index)) == [7, 8]
    assert pd.read_parquet(project.quarantine)["flight"].tolist() == [8, 8]


def test_good_data_passes_unchanged_and_empties_the_quarantine(project):
    project.catalog(flights(bad=3)).load("flights")
    pd.testing.assert_frame_equal(project.catalog(flights(bad=0)).load("flights"), flights(bad=0))
    left = pd.read_parquet(project.quarantine)
    assert (len(left), list(left.columns)) == (0, ["carrier", "flight", "delay"])


def test_the_quarantine_can_be_csv(project, tmp_path):
    target = tmp_path / "bad.csv"
    project.catalog(flights(bad=2), quarantine=str(target)).load("flights")
    assert target.read_text() == "carrier,flight,delay\nUA,0,999.0\nUA,1,999.0\n"


def test_too_many_bad_rows_are_refused_and_nothing_is_written(project):
    with pytest.raises(DataValidationError) as refusal:
        project.catalog(flights(bad=6)).load("flights")
    assert str(refusal.value.__cause__) == (
        "KZ451: validation refused the data\n"
        f"  where: suite {project.suite}\n"
        "  value: 6.00% is more than max_quarantined, 5.00%; 6 of 100 rows are bad: "
        "column delay: expect_column_values_to_be_between\n"
        f"  limit: quarantine: {project.quarantine}, max_quarantined: 0.05\n"
        "  next: mend the source, or correct the suite"
    )
    assert not project.quarantine.exists()


def test_a_larger_limit_lets_more_rows_be_quarantined(project):
    loaded = project.catalog(flights(bad=6), max_quarantined=0.06).load("flights")
    assert (len(loaded), len(pd.read_parquet(project.quarantine))) == (94, 6)


def test_without_a_quarantine_any_bad_row_is_refused(project):
    with pytest.raises(DataValidationError, match="on_invalid is refuse; 1 of 100 rows are bad"):
        project.catalog(flights(bad=1), quarantine=None).load("flights")
    assert len(project.catalog(flights(bad=0), quarantine=None).load("flights")) == 100


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (flights().head(0), "rows >= 1"),
        (flights().drop(columns="delay"), "column delay: exists"),
        (flights().assign(delay=float("nan")), "column delay: not all null"),
        (flights().assign(delay="late"), r"expect_column_values_to_be_between \(the check broke\)"),
    ],
)
def test_a_failed_table_is_refused_at_any_limit(project, data, reason):
    with pytest.raises(DataValidationError, match=f"KZ451[^$]*whole table fails: .*{reason}"):
        project.catalog(data, max_quarantined=1.0).load("flights")
    assert not project.quarantine.exists()


def test_with_severity_warn_kedro_logs_the_refusal_and_hands_on_all_rows(project, caplog):
    with caplog.at_level(logging.WARNING):
        loaded = project.catalog(flights(bad=50), severity="warn").load("flights")
    assert len(loaded) == 100
    assert "KZ451" in caplog.text


def test_a_quarantine_is_logged_with_counts_and_place_but_without_values(project, caplog):
    with caplog.at_level(logging.WARNING, logger="kedro_kaizen"):
        project.catalog(flights(bad=3)).load("flights")
    assert "3 of 100 rows are bad: column delay" in caplog.text
    assert str(project.quarantine) in caplog.text
    assert "999" not in caplog.text


def test_a_quarantine_that_cannot_be_written_stops_the_data(project, monkeypatch):
    monkeypatch.setenv("KAIZEN_FAULT", "publish.file.before_rename:raise")
    monkeypatch.setattr("kaizen.faults._seen", {})
    with pytest.raises(DataValidationError, match=r"publish\.file\.before_rename"):
        project.catalog(flights(bad=3)).load("flights")
    assert not project.quarantine.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"suite": "none.json"}, "KZ320: expectation suite cannot be read"),
        ({"quarantine": "bad.xlsx"}, "value: bad.xlsx\n  limit: a file name that ends in .parquet or .csv"),
        ({"max_quarantined": 5}, "value: 5\n  limit: a share of the rows, from 0 to 1"),
        ({"max_bad": 0.1}, "unexpected keyword argument 'max_bad'"),
    ],
)
def test_a_wrong_option_is_refused_before_any_check(project, options, message):
    with pytest.raises(ValidationConfigurationError) as refusal:
        project.catalog(flights(), **options).load("flights")
    assert message in str(refusal.value)


def test_data_that_is_no_pandas_frame_is_refused_by_type(project):
    with pytest.raises(UsageError) as refusal:
        GreatExpectations(str(project.suite)).validate([1, 2])
    assert (refusal.value.code, refusal.value.value) == ("KZ211", "builtins.list")


def test_rows_are_kept_by_position_when_index_labels_repeat(project):
    data = flights(bad=2, rows=50)
    data.index = [0] * 50
    kept = GreatExpectations(str(project.suite), str(project.quarantine)).validate(data)
    assert kept["flight"].tolist() == list(range(2, 50))
    assert set(kept.index) == {0}


def test_one_validator_serves_several_threads(project):
    validator = GreatExpectations(str(project.suite), str(project.quarantine), max_quarantined=0.5)
    with ThreadPoolExecutor(4) as pool:
        kept = list(pool.map(lambda bad: len(validator.validate(flights(bad=bad))), range(8)))
    assert kept == [100 - bad for bad in range(8)]


def test_importing_the_package_loads_no_library():
    code = """
import sys
import kedro_kaizen
print(sorted({"kedro", "pandas", "numpy", "great_expectations", "kaizen"} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="GreatExpectation'"):
        _ = kedro_kaizen.GreatExpectation
