"""``kaizen.yml``: what is accepted means one thing, and every refusal says where, what, the limit and what to do."""

from __future__ import annotations

import copy
import json
import textwrap
from datetime import timedelta
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kaizen import codec
from kaizen.errors import SpecError
from kaizen.loop import read_suite_file
from kaizen.runners import Training, find_runner, run_callable
from kaizen.sources import find_files
from kaizen.spec import Label, Spec, load_spec, overlay_path, parse_label, parse_spec, train_partitions

SMALLEST: dict[str, Any] = {
    "version": 1,
    "loop": "nyc/flights",
    "problem": {
        "task": "classification",
        "target": "late",
        "label": "arr_delay > 15",
        "entity": ["time_hour", "carrier", "flight"],
        "timestamp": "time_hour",
    },
    "data": {
        "tables": {
            "flights": {"uri": "landing/flights/*.parquet", "partition": "month"},
            "outcomes": {"uri": "landing/outcomes/*.parquet", "partition": "month", "role": "labels"},
            "planes": {"uri": "landing/planes.parquet", "join": ["tailnum"]},
        },
        "outcomes": ["dep_delay"],
    },
    "train": {"runner": "kedro", "pipeline": "train"},
    "gates": [{"metric": "roc_auc", "at_least": 0.6}],
}
GONE = object()


def changed(path: str, value: Any) -> dict[str, Any]:
    """``SMALLEST`` with another value at a dotted path, or without it (``GONE``)."""
    spec = copy.deepcopy(SMALLEST)
    *parents, last = path.split(".")
    place: Any = spec
    for name in parents:
        place = place.setdefault(name, {}) if isinstance(place, dict) else place[int(name)]
    key = last if isinstance(place, dict) else int(last)
    if value is GONE:
        del place[key]
    else:
        place[key] = value
    return spec


def refusal(values: dict[str, Any]) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_spec(values, "kaizen.yml")
    return caught.value


# What is accepted


def test_the_smallest_spec_has_the_defaults_that_are_documented() -> None:
    spec = parse_spec(SMALLEST, "kaizen.yml")
    assert (spec.main, spec.labels, spec.joined, spec.metric) == ("flights", "outcomes", ("planes",), "roc_auc")
    assert (spec.clock.of, spec.clock.timezone, spec.place.mode, spec.train.window) == (
        "wall",
        "UTC",
        "in_process",
        "all",
    )
    assert (spec.retrain.cooldown, spec.retrain.budget.retrains, spec.retrain.budget.per) == (
        timedelta(days=7),
        4,
        timedelta(days=30),
    )
    assert spec.retrain.reasons == ("drift", "decay", "person")


def test_a_spec_compiled_to_json_reads_as_the_same_spec() -> None:
    values = changed("retrain", {"cooldown": "90s", "every": "2h", "reasons": ["data"]})
    spec = parse_spec(values, "kaizen.yml")
    compiled = json.loads(json.dumps(codec.encode(spec)))
    assert parse_spec(compiled, "compiled") == spec
    assert parse_spec(compiled, "compiled").digest == spec.digest


def test_without_a_labels_table_the_main_table_has_the_labels() -> None:
    assert parse_spec(changed("data.tables.outcomes", GONE), "kaizen.yml").labels is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("environment", {"home": "/elsewhere", "ledger": "postgresql://host/x", "tracking": "http://host"}),
        ("place", {"mode": "python", "interpreter": "bin/python", "timeout": "1h"}),
    ],
)
def test_where_things_lie_and_run_does_not_change_the_digest(path: str, value: Any) -> None:
    there = parse_spec(changed(path, value), "kaizen.yml")
    assert there.digest == parse_spec(SMALLEST, "elsewhere.yml").digest


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("loop", "nyc/trains"),
        ("train.seed", 1),
        ("gates.0.at_least", 0.61),
        ("data.outcomes", []),
        ("monitor.false_alarms_per_year", 1.0),
        ("clock.timezone", "America/New_York"),
        ("risk.impact", "high"),
    ],
)
def test_what_the_loop_decides_by_changes_the_digest(path: str, value: Any) -> None:
    assert parse_spec(changed(path, value), "").digest != parse_spec(SMALLEST, "").digest


def test_a_default_written_out_is_the_same_spec() -> None:
    assert parse_spec(changed("train.seed", 0), "").digest == parse_spec(SMALLEST, "").digest


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("", None),
        ("arr_delay > 15", Label("arr_delay", ">", 15.0)),
        (" arr_delay<=-1.5 ", Label("arr_delay", "<=", -1.5)),
        ("cancelled==1", Label("cancelled", "==", 1.0)),
    ],
)
def test_label_rules(text: str, label: Label | None) -> None:
    assert parse_label(text) == label


@pytest.mark.parametrize(("text", "count"), [("all", None), ("last 1", 1), ("last 12", 12)])
def test_training_windows(text: str, count: int | None) -> None:
    assert train_partitions(text) == count


# What is refused

GOLDEN = [
    (
        changed("gate", []),
        """\
        KZ303: unknown key
          where: kaizen.yml: gate
          value: gate
          limit: one of version, loop, problem, data, train, gates, clock, risk, place, evaluate, deploy, monitor, \
retrain, environment, tune
          next: did you mean 'gates'?""",
    ),
    (
        changed("retrain.budget.retrain", 4),
        """\
        KZ303: unknown key
          where: kaizen.yml: retrain.budget.retrain
          value: retrain
          limit: one of retrains, per
          next: did you mean 'retrains'?""",
    ),
    (
        changed("data.suite", {"flihgts": "flights.json"}),
        """\
        KZ303: unknown table
          where: kaizen.yml: data.suite.flihgts
          value: flihgts
          limit: one of flights, outcomes, planes
          next: did you mean 'flights'?""",
    ),
    (
        changed("version", 2),
        """\
        KZ304: unknown value
          where: kaizen.yml: version
          value: 2
          limit: one of 1
          next: correct the key; docs/reference/spec.md lists all""",
    ),
    (
        changed("problem.task", "clasification"),
        """\
        KZ304: unknown value
          where: kaizen.yml: problem.task
          value: clasification
          limit: one of classification, regression
          next: did you mean 'classification'?""",
    ),
    (
        changed("retrain.cooldown", "a week"),
        """\
        KZ304: not a duration
          where: kaizen.yml: retrain.cooldown
          value: 'a week' (str)
          limit: a number with a unit: "90s", "15m", "2h", "7d"
          next: correct the key; docs/reference/spec.md lists all""",
    ),
    (
        changed("gates.0.metric", "roc_aux"),
        """\
        KZ304: unknown metric
          where: kaizen.yml: gates[0].metric
          value: roc_aux
          limit: one of roc_auc, brier, log_loss
          next: did you mean 'roc_auc'?""",
    ),
    (
        changed("gates.0.metric", "mae"),
        """\
        KZ304: unknown metric
          where: kaizen.yml: gates[0].metric
          value: mae
          limit: one of roc_auc, brier, log_loss
          next: choose one of them""",
    ),
    (
        changed("gates.0.confidence", 0.5),
        """\
        KZ304: out of range
          where: kaizen.yml: gates[0].confidence
          value: 0.5
          limit: 0.5 to 1
          next: correct the value""",
    ),
    (
        changed("problem.timestamp", GONE),
        """\
        KZ305: missing key
          where: kaizen.yml: problem.timestamp
          limit: timestamp is required
          next: correct the key; docs/reference/spec.md lists all""",
    ),
    (
        changed("gates", []),
        """\
        KZ305: missing key
          where: kaizen.yml: gates
          limit: at least one gate
          next: no champion without a verdict: add one""",
    ),
    (
        changed("place.mode", "python"),
        """\
        KZ305: missing key
          where: kaizen.yml: place.interpreter
          limit: mode python needs an interpreter
          next: name the other environment's python""",
    ),
    (
        changed("train.pipeline", GONE),
        """\
        KZ305: missing key
          where: kaizen.yml: train.pipeline
          limit: runner kedro needs it
          next: name it""",
    ),
    (
        changed("train.runner", "callable"),
        """\
        KZ305: missing key
          where: kaizen.yml: train.function
          limit: runner callable needs it
          next: name it""",
    ),
    (
        changed("data.tables.flights.partition", GONE),
        """\
        KZ305: missing key
          where: kaizen.yml: data.tables.flights.partition
          limit: day, month or year
          next: say how the rows to predict are cut""",
    ),
    (
        changed("data.tables.flights.partition", "by carrier"),
        """\
        KZ365: rows to predict that are not cut by time
          where: kaizen.yml: data.tables.flights.partition
          value: by carrier
          limit: day, month or year: what is scored, labelled and watched is a stretch of time
          next: cut them by time; gates[].slices compares the values of a column""",
    ),
    (
        changed("data.tables.flights.partition", "mnth"),
        """\
        KZ304: unknown value
          where: kaizen.yml: data.tables.flights.partition
          value: mnth
          limit: day, month, year, file, or by COLUMN
          next: did you mean 'month'?""",
    ),
    (
        changed("problem.features", ["carrier", "dep_delay"]),
        """\
        KZ306: an outcome cannot be a feature
          where: kaizen.yml: problem.features
          value: dep_delay
          limit: only what is known before the prediction
          next: remove dep_delay from problem.features""",
    ),
    (
        changed("loop", "Flights"),
        """\
        KZ307: not a loop name
          where: kaizen.yml: loop
          value: Flights
          limit: project/loop in a-z 0-9 _ -
          next: rename the loop""",
    ),
    (
        changed("clock.timezone", "Europe"),
        """\
        KZ307: unknown time zone
          where: kaizen.yml: clock.timezone
          value: Europe
          limit: an IANA name such as Europe/Paris
          next: correct it""",
    ),
    (
        changed("problem.label", "late"),
        """\
        KZ307: not a label rule
          where: kaizen.yml: problem.label
          value: late
          limit: "COLUMN > NUMBER" with one of > >= < <= ==
          next: correct it""",
    ),
    (
        changed("train.window", "last 0"),
        """\
        KZ307: not a training window
          where: kaizen.yml: train.window
          value: last 0
          limit: "all" or "last N"
          next: correct it""",
    ),
    (
        changed("data.tables.Late", {"uri": "x.parquet", "join": ["y"]}),
        """\
        KZ307: not a table name
          where: kaizen.yml: data.tables.Late
          value: Late
          limit: a-z 0-9 _
          next: rename it""",
    ),
    (
        changed("data.tables.planes.join", GONE),
        """\
        KZ307: exactly one table has the rows to predict
          where: kaizen.yml: data.tables
          value: flights, planes
          limit: one table of role features without join
          next: give the others `join: [columns]`""",
    ),
    (
        changed("data.tables.planes.max_age", "30d"),
        """\
        KZ355: times that do not go together
          where: kaizen.yml: data.tables.planes.max_age
          value: 30d
          limit: a table with asof
          next: correct it; docs/how-to/labels.md says how rows and times meet""",
    ),
    (
        changed("data.tables.planes.clean", {"missing": {"tailnum": {"fill": "N0"}}}),
        """\
        KZ356: not a rule of cleaning
          where: kaizen.yml: data.tables.planes.clean.missing.tailnum
          value: fill: N0
          limit: a number, text, true or false, in a column that is no key, time or label
          next: correct it""",
    ),
    (
        changed("data.tables.planes.lag", "1h"),
        """\
        KZ359: a lag without a watermark
          where: kaizen.yml: data.tables.planes.lag
          value: 1h
          limit: a table of a database, with watermark
          next: name the watermark that the lag goes back from, or remove the line""",
    ),
    (
        changed("gates.0.against", "champion"),
        """\
        KZ307: a gate has exactly one condition
          where: kaizen.yml: gates[0]
          limit: at_least, at_most, against, or slices with max_drop
          next: split it into several gates""",
    ),
]


@pytest.mark.parametrize(
    ("values", "message"), GOLDEN, ids=lambda value: "" if isinstance(value, dict) else value[8:40]
)
def test_a_refusal_tells_what_where_the_limit_and_the_next_action(values: dict[str, Any], message: str) -> None:
    assert str(refusal(values)) == textwrap.dedent(message)


@pytest.mark.parametrize(
    ("table", "keys", "refused"),
    [
        ("flights", {"asof": "time_hour"}, "asof"),
        ("outcomes", {"asof": "landed"}, "asof"),
        ("planes", {"time": "bought"}, "time"),
        ("outcomes", {"known": "told"}, "known"),
        ("outcomes", {"horizon": "1h"}, "horizon"),
        ("outcomes", {"time": "landed", "horizon": "2d"}, "horizon"),
        ("outcomes", {"join": ["tailnum"]}, "join"),
    ],
)
def test_times_of_a_table_that_do_not_go_together_are_refused(table: str, keys: dict[str, Any], refused: str) -> None:
    values = changed("problem.label_delay", "1d")
    values["data"]["tables"][table].update(keys)
    error = refusal(values)
    assert (error.code, error.where) == ("KZ355", f"kaizen.yml: data.tables.{table}.{refused}")


@pytest.mark.parametrize("policy", ["drop", "hash", {"truncate": "day"}])
def test_a_time_that_says_since_when_something_is_known_stays_as_it_is(policy: Any) -> None:
    values = changed("data.tables.planes.asof", "bought")
    values["data"]["private"] = {"bought": policy}
    error = refusal(values)
    assert (error.code, error.where) == ("KZ341", "kaizen.yml: data.private.bought")
    assert "data.tables.planes.asof: no policy" in str(error.limit)


def test_outcomes_that_happen_later_need_a_label_delay() -> None:
    values = changed("problem.label_delay", "0s")
    values["data"]["tables"]["outcomes"]["time"] = "landed"
    assert refusal(values).code == "KZ355"


def test_of_several_sources_of_labels_the_first_says_when_labels_have_come() -> None:
    spec = parse_spec(changed("data.tables.asked", {"uri": "x.csv", "role": "labels"}), "kaizen.yml")
    assert (spec.labels, spec.label_tables) == ("outcomes", ("outcomes", "asked"))


@pytest.mark.parametrize(
    "rules",
    [
        {"outliers": {"year": {"policy": "clip"}}},
        {"outliers": {"year": {"policy": "clip", "low": 2, "high": 1}}},
        {"missing": {"year": {"fill": None}}},
        {"missing": {"year": {"fill": [1]}}},
    ],
)
def test_a_rule_that_cleans_nothing_is_refused(rules: dict[str, Any]) -> None:
    assert refusal(changed("data.tables.planes.clean", rules)).code == "KZ356"


@pytest.mark.parametrize("column", ["arr_delay", "late", "time_hour"])
def test_no_rule_invents_a_label_or_a_time(column: str) -> None:
    assert refusal(changed("data.tables.outcomes.clean", {"missing": {column: {"fill": 0}}})).code == "KZ356"


@pytest.mark.parametrize("zone", ["", "Europe/Nowhere", "../etc/passwd", "/etc/passwd", "Europe", "x" * 300])
def test_a_name_that_is_no_time_zone_is_refused(zone: str) -> None:
    assert refusal(changed("clock.timezone", zone)).where == "kaizen.yml: clock.timezone"


@pytest.mark.parametrize(
    "name", ["flights", "/flights", "nyc/", "nyc/a/b", "NYC/flights", "nyc/fli ghts", "../flights"]
)
def test_a_name_that_is_no_loop_is_refused(name: str) -> None:
    assert refusal(changed("loop", name)).code == "KZ307"


DOCKER = {"mode": "docker", "image": "train"}


def test_secrets_are_named_in_the_spec() -> None:
    assert parse_spec(changed("place", {**DOCKER, "secrets": ["password"]}), "").place.secrets == ("password",)
    assert refusal(changed("place", {"secrets": ["password"]})).what == "secrets without a container"


@pytest.mark.parametrize("secrets", [["S3cret!"], ["token_file"], [""], {"password": "S3cret!"}, "S3cret!", [7]])
def test_a_value_in_place_of_a_secrets_name_is_refused_and_not_shown(secrets: Any) -> None:
    error = refusal(changed("place", {**DOCKER, "secrets": secrets}))
    assert (error.code, error.value) == ("KZ304", None)
    assert "S3cret" not in str(error)


def test_private_columns_change_no_digest_of_a_spec_that_has_none() -> None:
    spec = parse_spec(SMALLEST, "")
    assert (spec.data.private, spec.data.private_key, spec.data.detect, spec.data.public) == ({}, "", "refuse", ())
    assert not {"private", "private_key", "detect", "public"} & set(codec.encode(spec)["data"])
    assert parse_spec(changed("data.private", {"note": "drop"}), "").digest != spec.digest


PRIVATE = {
    "tailnum": "hash",
    "carrier": "hash",
    "time_hour": {"truncate": "month"},
    "arr_delay": {"generalise": 5},
    "note": "drop",
    "zip": {"truncate": 3},
    "age": {"generalise": [0, 18, 65]},
}


def test_keys_may_be_hashed_times_truncated_and_labels_generalised() -> None:
    spec = parse_spec(changed("data", {**SMALLEST["data"], "private": PRIVATE, "private_key": "pii"}), "")
    assert spec.data.private == PRIVATE
    assert parse_spec(codec.encode(spec), "") == spec


@pytest.mark.parametrize(
    ("column", "policy", "rests"),
    [
        ("time_hour", "drop", "problem.timestamp: truncate to day or month"),
        ("time_hour", "hash", "problem.timestamp: truncate to day or month"),
        ("time_hour", {"truncate": "year"}, "problem.timestamp: truncate to day or month"),
        ("time_hour", {"truncate": 10}, "problem.timestamp: truncate to day or month"),
        ("arr_delay", "drop", "problem.label: generalise"),
        ("arr_delay", "hash", "problem.label: generalise"),
        ("carrier", "drop", "problem.entity: hash keeps rows apart"),
        ("flight", {"generalise": 100}, "problem.entity: hash keeps rows apart"),
        ("tailnum", "drop", "data.tables.planes.join: hash keeps rows apart"),
        ("tailnum", {"truncate": 2}, "data.tables.planes.join: hash keeps rows apart"),
        ("distance", "drop", "problem.features: any but drop"),
        ("seats", "drop", "problem.features: any but drop"),
        ("origin", "drop", "problem.features: any but drop"),
    ],
)
def test_what_the_spec_rests_on_cannot_be_taken_away(column: str, policy: Any, rests: str) -> None:
    values = changed("data.private", {column: policy})
    values["problem"]["features"] = ["distance", "planes_seats", "origin"]
    error = refusal(values)
    assert (error.code, error.where, error.limit) == ("KZ341", f"kaizen.yml: data.private.{column}", rests)


def test_a_target_without_a_rule_is_a_column_that_stays() -> None:
    values = changed("data.private", {"late": "hash"})
    del values["problem"]["label"]
    assert refusal(values).limit == "problem.target: generalise"


def test_a_slice_is_a_column_that_stays() -> None:
    values = changed("data.private", {"origin": "drop"})
    values["gates"].append({"metric": "roc_auc", "slices": ["origin"], "max_drop": 0.1})
    assert refusal(values).code == "KZ341"


@pytest.mark.parametrize("policy", ["keep", {"truncate": 0}, {"generalise": []}, None, 7, ["hash"]])
def test_what_is_no_policy_is_refused(policy: Any) -> None:
    error = refusal(changed("data.private", {"note": policy}))
    assert (error.code, error.where) == ("KZ340", "kaizen.yml: data.private.note")


def test_a_column_is_private_or_public() -> None:
    error = refusal(changed("data", {**SMALLEST["data"], "private": {"note": "drop"}, "public": ["x", "note"]}))
    assert (error.code, error.value) == ("KZ342", "note")


@pytest.mark.parametrize("name", ["S3cret!", "S3cret-key-0123456789abcdef", ["S3cret"], {"a": "S3cret"}, "s3cret_file"])
def test_a_key_in_place_of_its_name_is_refused_and_not_shown(name: Any) -> None:
    error = refusal(changed("data.private_key", name))
    assert (error.code, error.value) == ("KZ304", None)
    assert "3cret" not in str(error)


@pytest.mark.parametrize("feature", ["late", "arr_delay", "dep_delay"])
def test_target_label_column_and_outcomes_cannot_be_features(feature: str) -> None:
    assert refusal(changed("problem.features", [feature])).value == feature


@pytest.mark.parametrize(
    "gate",
    [
        {"metric": "roc_auc"},
        {"metric": "roc_auc", "at_least": 0.5, "at_most": 0.9},
        {"metric": "roc_auc", "slices": ["carrier"]},
        {"metric": "roc_auc", "max_drop": 0.1},
        {"metric": "roc_auc", "at_least": 0.5, "max_drop": 0.1},
    ],
    ids=str,
)
def test_a_gate_with_none_or_several_conditions_is_refused(gate: dict[str, Any]) -> None:
    assert refusal(changed("gates", [gate])).what == "a gate has exactly one condition"


def test_an_unknown_runner_is_refused_when_it_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = [EntryPoint(name, "builtins:dict", "kaizen.runners") for name in ("kedro", "callable")]
    monkeypatch.setattr("kaizen.runners.entry_points", lambda group: [e for e in installed if e.group == group])
    assert find_runner("kedro") is dict
    with pytest.raises(SpecError) as caught:
        find_runner("kedor")
    assert str(caught.value) == textwrap.dedent("""\
        KZ308: no such runner
          where: train.runner
          value: kedor
          limit: one of callable, kedro
          next: did you mean 'kedro'?""")


@pytest.mark.parametrize("function", ["nowhere.at_all:fit", "json:fit", "json", ""])
def test_a_training_function_that_is_not_there_is_refused(function: str) -> None:
    training: Any = SimpleNamespace(spec=SimpleNamespace(function=function, seed=0), examples=None, target="late")
    with pytest.raises(SpecError) as caught:
        run_callable(training)
    assert caught.value.code == "KZ309"
    assert caught.value.where == "train.function"
    assert caught.value.value.startswith(function)


def test_a_training_function_gets_rows_target_and_seed() -> None:
    spec = parse_spec(changed("train", {"runner": "callable", "function": "builtins:dict", "seed": 7}), "").train
    examples: Any = {"rows": 1}
    assert run_callable(Training(examples, "late", spec, Path(), "local")) == {"rows": 1, "target": "late", "seed": 7}


def _validating(examples: Any, *, target: str, seed: int, validation: Any) -> Any:
    return validation


def _may_validate(examples: Any, *, target: str, seed: int, validation: Any = "none") -> Any:
    return validation


@pytest.mark.parametrize(
    ("function", "rows", "found"),
    [
        (_validating, [1], [1]),
        (_validating, None, "the training asks for validation rows"),
        (_may_validate, [1], [1]),
        (_may_validate, None, "none"),
        (dict, [1], "the training does not take validation rows"),
    ],
)
def test_validation_rows_are_handed_over_or_refused(
    function: Any, rows: Any, found: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.fit", function, raising=False)
    spec = parse_spec(changed("train", {"runner": "callable", "function": "builtins:fit"}), "").train
    training = Training([], "late", spec, Path(), "local", validation=rows)  # type: ignore[arg-type]
    if not str(found).startswith("the training"):
        assert run_callable(training) == found
        return
    with pytest.raises(SpecError, match="KZ350") as caught:
        run_callable(training)
    assert (caught.value.what, caught.value.where) == (found, "train.function: builtins:fit")


def test_a_suite_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        read_suite_file(tmp_path / "flights.json", "flights")
    assert str(caught.value) == textwrap.dedent(f"""\
        KZ310: expectation suite is missing
          where: data.suite.flights
          value: {tmp_path}/flights.json
          limit: a suite file as Great Expectations writes it
          next: create the file, or remove the line""")


@pytest.mark.parametrize("package", ["no_such_package", "json.decoder"])
def test_a_package_without_data_is_refused(package: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        find_files(f"package:{package}/data/flights.csv.zip", tmp_path)
    assert str(caught.value) == textwrap.dedent(f"""\
        KZ311: package with data is not installed
          where: data.tables
          value: {package}
          limit: an installed package
          next: pip install {package}""")


# The file


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(name: str, values: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # JSON is YAML.
        data = values if isinstance(values, bytes | str) else json.dumps(values, indent=1)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    return write


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "kaizen.yml")
    assert str(caught.value) == textwrap.dedent(f"""\
        KZ301: spec cannot be read
          where: {tmp_path}/kaizen.yml
          value: No such file or directory
          limit: a readable file
          next: check the path""")


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("version: 1\nloop: a/b\nversion: 1\n", 3, "duplicate key 'version'"),
        ("data:\n  tables: {a: {uri: x, uri: y}}\n", 2, "duplicate key 'uri'"),
        ("a: &x 1\nb: *x\n", 2, "aliases are not accepted"),
        ("a: 1\nb: !!python/object:os.system {}\n", 2, "tags are not accepted"),
        ("a: !!str 1\n", 1, "tags are not accepted"),
        ("a: !secret x\n", 1, "tags are not accepted"),
        ("a: !!set {x}\n", 1, "tags are not accepted"),
        ("? [a, b]\n: 1\n", 1, "a key that is not a scalar"),
        ("a: 1\n<<: {b: 2}\n", 2, "could not determine a constructor for the tag 'tag:yaml.org,2002:merge'"),
        ("a: [1\nb: 2\n", 2, "expected ',' or ']', but got ':'"),
        ("a: 1\n\tb: 2\n", 2, "found character '\\t' that cannot start any token"),
        ("a: 1\n---\nb: 2\n", 2, "but found another document"),
        ("- a\n", 1, "a list, not a mapping"),
        ("", 1, "a NoneType, not a mapping"),
        ("a: \x07\n", 1, "character 0x7 is not printable"),
        (b"a: \xff\n", 1, "not UTF-8 at byte 3"),
    ],
)
def test_what_yaml_lets_pass_is_refused_with_its_line(write: Any, text: str | bytes, line: int, problem: str) -> None:
    path = write("kaizen.yml", text)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    error = caught.value
    assert (error.code, error.where, error.value) == ("KZ302", f"{path}, line {line}", problem)


def test_a_key_that_yaml_reads_as_a_boolean_is_refused_as_unknown(write: Any) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(write("kaizen.yml", "on: push\n"))
    assert (caught.value.code, caught.value.value) == ("KZ303", True)


def test_an_overlay_merges_mappings_and_replaces_the_rest(write: Any) -> None:
    base = write("conf/base/kaizen.yml", SMALLEST)
    write(
        "conf/prod/kaizen.yml",
        {
            "train": {"seed": 7},
            "gates": [{"metric": "brier", "at_most": 0.2}],
            "data": {"tables": {"flights": {"min_rows": 100}}},
            "environment": {"ledger": "postgresql://host/ledger"},
        },
    )
    plain, over = load_spec(base, "local"), load_spec(base, "prod")
    assert plain == load_spec(base) == parse_spec(SMALLEST, "")
    assert (over.train.seed, over.train.pipeline) == (7, "train")
    assert [gate.metric for gate in over.gates] == ["brier"]
    assert (over.data.tables["flights"].min_rows, over.data.tables["flights"].partition) == (100, "month")
    assert (over.environment.ledger, over.digest == plain.digest) == ("postgresql://host/ledger", False)


def test_null_in_an_overlay_removes_a_key(write: Any) -> None:
    tables = {"planes": None, "outcomes": None, "weather": {"uri": "weather.csv", "join": ["hour"], "min_rows": None}}
    base = write("conf/base/kaizen.yml", changed("retrain", {"cooldown": "3d", "budget": {"retrains": 2}}))
    write("conf/prod/kaizen.yml", {"data": {"tables": tables, "outcomes": None}, "retrain": None, "clock": None})
    over = load_spec(base, "prod")
    assert list(over.data.tables) == ["flights", "weather"]
    assert over.data.tables["weather"].min_rows == 1
    assert over.data.outcomes == ()
    assert over.retrain.cooldown == timedelta(days=7)
    write("conf/prod/kaizen.yml", {"loop": None})
    with pytest.raises(SpecError, match="loop is required"):
        load_spec(base, "prod")


def test_an_overlay_is_as_strict_as_the_spec(write: Any) -> None:
    base = write("kaizen.yml", SMALLEST)
    overlay = write("kaizen.prod.yml", "train: {seed: 1, seed: 2}\n")
    with pytest.raises(SpecError) as caught:
        load_spec(base, "prod")
    assert caught.value.where == f"{overlay}, line 1"


def test_where_an_overlay_lies() -> None:
    assert overlay_path(Path("conf/base/kaizen.yml"), "prod") == Path("conf/prod/kaizen.yml")
    assert overlay_path(Path("loops/bookings/kaizen.yml"), "prod") == Path("loops/bookings/kaizen.prod.yml")


def test_nothing_is_interpolated(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/elsewhere")
    values = changed("environment.home", "${HOME}/x")
    spec: Spec = load_spec(write("kaizen.yml", values))
    assert spec.environment.home == "${HOME}/x"


def test_an_environment_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kaizen.yml"
    path.write_text(json.dumps(SMALLEST), encoding="utf-8")
    with pytest.raises(SpecError) as refused:
        load_spec(path, "prdo")
    assert refused.value.code == "KZ312"
    assert load_spec(path, "local") == load_spec(path)


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("data.max_quarantined", 1.5, "data.max_quarantined"),
        ("train.min_partitions", 0, "train.min_partitions"),
        ("data.tables.flights.min_rows", 0, "data.tables.flights.min_rows"),
        ("data.acceptance", {"share": 0.0}, "data.acceptance.share"),
        ("data.acceptance", {"share": 1.0}, "data.acceptance.share"),
        ("data.acceptance", {"partitions": 0}, "data.acceptance.partitions"),
        ("train.validation", {"by": "time", "share": 1.0}, "train.validation.share"),
        ("train.validation", {"by": "time", "last": "0s"}, "train.validation.last"),
    ],
)
def test_numbers_outside_what_they_can_mean_are_refused(path: str, value: Any, where: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_spec(changed(path, value), "kaizen.yml")
    assert (refused.value.code, refused.value.where) == ("KZ304", f"kaizen.yml: {where}")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("evaluate", "window", "0s"),
        ("evaluate", "max_auc_of_one_feature", 0.4),
        ("evaluate", "max_correlation_of_one_feature", 1.1),
        ("monitor", "false_alarms_per_year", 0.0),
        ("monitor", "max_missing", 2.0),
        ("place", "timeout", "0s"),
    ],
)
def test_sections_that_may_be_absent_are_checked_too(section: str, key: str, value: Any) -> None:
    with pytest.raises(SpecError) as refused:
        parse_spec({**SMALLEST, section: {key: value}}, "kaizen.yml")
    assert (refused.value.code, refused.value.where) == ("KZ304", f"kaizen.yml: {section}.{key}")


@pytest.mark.parametrize(
    ("validation", "key"),
    [
        ({"by": "group"}, "columns"),
        ({"by": "time", "columns": ["carrier"]}, "columns"),
        ({"by": "hash", "last": "7d"}, "last"),
        ({"by": "group", "columns": ["carrier"], "last": "7d"}, "last"),
    ],
    ids=str,
)
def test_a_split_that_means_nothing_is_refused(validation: dict[str, Any], key: str) -> None:
    found = refusal(changed("train.validation", validation))
    assert (found.code, found.where) == ("KZ353", f"kaizen.yml: train.validation.{key}")


def test_splits_go_by_the_group_and_else_by_the_entity() -> None:
    def columns(by: str, **problem: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        values = copy.deepcopy(SMALLEST)
        values["train"]["validation"] = {"by": by}
        values["data"]["acceptance"] = {}
        values["problem"] |= problem
        spec = parse_spec(values, "kaizen.yml")
        return spec.validation_columns, spec.acceptance_columns

    entity = ("time_hour", "carrier", "flight")
    assert columns("hash") == (entity, entity)
    assert columns("time") == ((), entity)
    assert columns("time", group=["tailnum"]) == ((), ("tailnum",))
    assert columns("group", group=["tailnum"]) == columns("hash", group=["tailnum"]) == (("tailnum",), ("tailnum",))


@pytest.mark.parametrize("condition", [{"against": "champion"}, {"slices": ["carrier"], "max_drop": 0.1}], ids=str)
def test_an_acceptance_set_is_a_floor_only(condition: dict[str, Any]) -> None:
    values = changed("gates", [{"metric": "roc_auc", "rows": "acceptance", **condition}])
    values["data"]["acceptance"] = {}
    assert refusal(values).code == "KZ351"
    values["gates"] = [{"metric": "roc_auc", "rows": "acceptance", "at_least": 0.6}]
    assert parse_spec(values, "kaizen.yml").gates[0].rows == "acceptance"
    del values["data"]["acceptance"]
    assert refusal(values).code == "KZ352"


@pytest.mark.parametrize(
    ("lag", "read"),
    [("90m", timedelta(minutes=90)), (1000, 1000.0), (0, None), (-1, None), ("0s", None), ("soon", None)],
)
def test_a_lag_is_a_time_or_a_number_above_zero(lag: Any, read: Any) -> None:
    source = {"uri": "sqlite:///planes.db", "select": "planes", "watermark": "changed", "on_change": "replace"}
    values = changed("data.tables.planes", {**SMALLEST["data"]["tables"]["planes"], **source, "lag": lag})
    if read is None:
        error = refusal(values)
        assert (error.code, error.where) == ("KZ304", "kaizen.yml: data.tables.planes.lag")
        return
    spec = parse_spec(values, "kaizen.yml")
    assert spec.data.tables["planes"].lag == read
    assert parse_spec(codec.encode(spec), "compiled").digest == spec.digest


def test_gates_share_one_confidence() -> None:
    gates = [
        {"metric": "roc_auc", "against": "champion", "confidence": 0.9},
        {"metric": "brier", "against": "champion", "confidence": 0.95},
    ]
    with pytest.raises(SpecError) as refused:
        parse_spec({**SMALLEST, "gates": gates}, "kaizen.yml")
    assert refused.value.what == "more than one confidence"
    assert parse_spec({**SMALLEST, "gates": gates[:1]}, "kaizen.yml").confidence == 0.9


def test_a_misspelt_slice_column_names_the_nearest_feature() -> None:
    problem = {**SMALLEST["problem"], "features": ["carrier", "origin"]}
    gates = [{"metric": "roc_auc", "slices": ["carier"], "max_drop": 0.03}]
    with pytest.raises(SpecError) as refused:
        parse_spec({**SMALLEST, "problem": problem, "gates": gates}, "kaizen.yml")
    assert refused.value.action == "did you mean 'carrier'?"
