"""What single keys of a spec cannot tell: names, tables, features, gates and numbers that do not go together."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kaizen import codec
from kaizen.containers import parse_gpus, parse_size, user_ids
from kaizen.measures import MEASURES
from kaizen.privacy import LIMIT, UNITS, Policy, parse_policies, parse_policy
from kaizen.secrets import is_name
from kaizen.spec import (
    TIMED,
    DataSpec,
    FillSpec,
    LimitsSpec,
    ParameterSpec,
    PlaceSpec,
    Spec,
    TableSpec,
    TuneSpec,
    parse_label,
    train_partitions,
)

_LOOP_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*/[a-z0-9][a-z0-9_-]*")
_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Problem(NamedTuple):
    """One thing that is wrong: the parts of a ``SpecError``."""

    code: str
    what: str
    key: str
    value: Any
    limit: str
    action: str


def problems(spec: Spec) -> list[Problem]:
    """All that single keys cannot tell."""
    return [
        *_name_problems(spec),
        *_table_problems(spec),
        *_time_problems(spec),
        *_clean_problems(spec),
        *_about_problems(spec),
        *_feature_problems(spec),
        *_gate_problems(spec),
        *_split_problems(spec),
        *_range_problems(spec),
        *place_problems(spec.place),
        *(_tune_problems(spec.tune) if spec.tune else []),
        *_secret_problems(spec.place),
        *_privacy_problems(spec),
    ]


def _name_problems(spec: Spec) -> list[Problem]:
    found: list[Problem] = []
    if not _LOOP_NAME.fullmatch(spec.loop):
        found.append(
            Problem("KZ307", "not a loop name", "loop", spec.loop, "project/loop in a-z 0-9 _ -", "rename the loop")
        )
    try:
        ZoneInfo(spec.clock.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # OSError: the name of a folder of zones, such as Europe.
        zone = spec.clock.timezone
        found.append(
            Problem(
                "KZ307", "unknown time zone", "clock.timezone", zone, "an IANA name such as Europe/Paris", "correct it"
            )
        )
    try:
        parse_label(spec.problem.label)
    except ValueError:
        limit = '"COLUMN > NUMBER" with one of > >= < <= =='
        found.append(Problem("KZ307", "not a label rule", "problem.label", spec.problem.label, limit, "correct it"))
    try:
        train_partitions(spec.train.window)
    except ValueError:
        found.append(
            Problem(
                "KZ307", "not a training window", "train.window", spec.train.window, '"all" or "last N"', "correct it"
            )
        )
    for runner, key in (("kedro", "pipeline"), ("callable", "function")):
        if spec.train.runner == runner and not getattr(spec.train, key):
            found.append(Problem("KZ305", "missing key", f"train.{key}", None, f"runner {runner} needs it", "name it"))
    return found


def _table_problems(spec: Spec) -> list[Problem]:
    tables = spec.data.tables
    found: list[Problem] = []
    for name in tables:
        if not _TABLE_NAME.fullmatch(name):
            found.append(Problem("KZ307", "not a table name", f"data.tables.{name}", name, "a-z 0-9 _", "rename it"))
    mains = [n for n, t in tables.items() if t.role == "features" and not t.join]
    if len(mains) != 1:
        found.append(
            Problem(
                "KZ307",
                "exactly one table has the rows to predict",
                "data.tables",
                ", ".join(mains) or None,
                "one table of role features without join",
                "give the others `join: [columns]`",
            )
        )
    elif tables[mains[0]].partition == "file" or tables[mains[0]].key_column:
        found.append(
            Problem(
                "KZ365",
                "rows to predict that are not cut by time",
                f"data.tables.{mains[0]}.partition",
                tables[mains[0]].partition,
                "day, month or year: what is scored, labelled and watched is a stretch of time",
                "cut them by time; gates[].slices compares the values of a column",
            )
        )
    elif not tables[mains[0]].partition:
        found.append(
            Problem(
                "KZ305",
                "missing key",
                f"data.tables.{mains[0]}.partition",
                None,
                "day, month or year",
                "say how the rows to predict are cut",
            )
        )
    found += [problem for name, table in tables.items() for problem in _source_problems(f"data.tables.{name}", table)]
    for name in spec.data.suite:
        if name not in tables:
            found.append(
                Problem(
                    "KZ303",
                    "unknown table",
                    f"data.suite.{name}",
                    name,
                    "one of " + ", ".join(tables),
                    f"did you mean {codec.nearest(name, tables)!r}?",
                )
            )
    return found


def _time_problems(spec: Spec) -> list[Problem]:
    """Times of tables that do not go together."""
    zero, delay = timedelta(0), spec.problem.label_delay
    found: list[Problem] = []
    for name, t in spec.data.tables.items():
        labels = t.role == "labels"
        rules: list[tuple[str, Any, bool, str]] = [
            ("asof", t.asof, bool(t.join) and not labels, "a look-up: role features, with join"),
            ("max_age", t.max_age, bool(t.asof), "a table with asof"),
            ("time", t.time, labels and delay > zero, "a table of role labels, and problem.label_delay"),
            ("known", t.known, bool(t.time), "a table with time"),
            ("horizon", t.horizon, bool(t.time) and (t.horizon or zero) <= delay, "with time; at most label_delay"),
            ("join", ", ".join(t.join), not labels or bool(t.time), "for labels: only with time"),
        ]
        found += [
            Problem("KZ355", "times that do not go together", f"data.tables.{name}.{key}", codec.encode(value), limit,
                    "correct it; docs/how-to/labels.md says how rows and times meet")
            for key, value, fits, limit in rules
            if value and not fits
        ]  # fmt: skip
    return found


def _clean_problems(spec: Spec) -> list[Problem]:
    """Rules of cleaning that mend nothing, or that would invent who a row is about, or what came true."""
    try:
        truth = spec.truth
    except ValueError:
        truth = ""
    found: list[Problem] = []
    for name, table in spec.data.tables.items():
        if table.clean is None:
            continue
        never = {*spec.keys_of(name), spec.problem.timestamp, truth, spec.problem.target}
        for column, rule in table.clean.missing.items():
            if isinstance(rule, FillSpec) and (column in never or not isinstance(rule.fill, str | int | float)):
                limit = "a number, text, true or false, in a column that is no key, time or label"
                found.append(_no_rule(f"{name}.clean.missing.{column}", rule, limit))
        for column, limits in table.clean.outliers.items():
            low, high = limits.low, limits.high
            if (low is None and high is None) or (low is not None and high is not None and low > high):
                found.append(_no_rule(f"{name}.clean.outliers.{column}", limits, "low, high or both, low <= high"))
    return found


def _no_rule(key: str, rule: FillSpec | LimitsSpec, limit: str) -> Problem:
    shown = ", ".join(f"{name}: {value}" for name, value in codec.encode(rule).items())
    return Problem("KZ356", "not a rule of cleaning", f"data.tables.{key}", shown, limit, "correct it")


def _about_problems(spec: Spec) -> list[Problem]:
    """Columns that are described but not taken, and a retention of no time."""
    found: list[Problem] = []
    for name, table in spec.data.tables.items():
        key = f"data.tables.{name}.about"
        for column in table.about.columns if table.columns else ():
            if column not in table.columns:
                hint = codec.nearest(column, table.columns)
                action = f"did you mean {hint!r}?" if hint else "remove the line"
                limit = "one of " + ", ".join(table.columns)
                found.append(
                    Problem("KZ345", "a column that is not taken", f"{key}.columns.{column}", column, limit, action)
                )
        if table.about.retention is not None and table.about.retention <= timedelta(0):
            limit = "longer than 0s; without the key for ever"
            found.append(Problem("KZ346", "a retention of no time", f"{key}.retention", "0s", limit, "correct it"))
    return found


def _source_problems(key: str, table: TableSpec) -> list[Problem]:
    """How a table comes in and is cut."""
    found: list[Problem] = []
    if not (table.partition is None or table.timed or table.partition == "file" or table.key_column):
        limit = "day, month, year, file, or by COLUMN"
        hint = codec.nearest(table.partition, (*TIMED, "file"))
        action = f"did you mean {hint!r}?" if hint else "choose one of them"
        found.append(Problem("KZ304", "unknown value", f"{key}.partition", table.partition, limit, action))
    if table.role == "labels" and table.partition and not table.timed:
        limit = "day, month or year, as the rows that the labels belong to"
        found.append(
            Problem(
                "KZ335",
                "labels cut otherwise than rows",
                f"{key}.partition",
                table.partition,
                limit,
                "cut them by time",
            )
        )
    if not _reads(parse_size, table.max_expanded):
        found.append(
            Problem("KZ304", "not a size", f"{key}.max_expanded", table.max_expanded, "such as 2g", "correct it")
        )
    try:
        codecs.lookup(table.encoding)
    except LookupError:
        limit = "an encoding that Python knows, such as utf-8, latin-1, utf-16"
        found.append(Problem("KZ304", "unknown encoding", f"{key}.encoding", table.encoding, limit, "correct it"))
    if table.watermark and not table.select:
        found.append(
            Problem(
                "KZ305", "missing key", f"{key}.select", None, "a watermark is a column of a table or query", "name it"
            )
        )
    if table.lag is not None and not table.watermark:
        limit = "a table of a database, with watermark"
        action = "name the watermark that the lag goes back from, or remove the line"
        found.append(
            Problem("KZ359", "a lag without a watermark", f"{key}.lag", codec.encode(table.lag), limit, action)
        )
    if table.watermark and table.on_change == "refuse":
        action = "say on_change: append"
        found.append(
            Problem(
                "KZ336",
                "new rows could not be added",
                f"{key}.on_change",
                "refuse",
                "append or replace, with a watermark",
                action,
            )
        )
    if table.on_change == "append" and table.partition is None:
        action = "name a partition, or say replace"
        found.append(
            Problem("KZ337", "a table that is not cut is replaced", f"{key}.on_change", "append", "replace", action)
        )
    if table.secret and not is_name(table.secret):
        limit = "a name in a-z 0-9 _; never a value"
        found.append(Problem("KZ304", "not the name of a secret", f"{key}.secret", None, limit, "correct it"))
    return found


def _feature_problems(spec: Spec) -> list[Problem]:
    try:
        label = parse_label(spec.problem.label)
    except ValueError:
        # Named with the names; here it only adds no outcome.
        label = None
    outcomes = {*spec.data.outcomes, spec.problem.target, *([label.column] if label else [])}
    found: list[Problem] = []
    for name in spec.problem.features:
        if name in outcomes:
            found.append(
                Problem(
                    "KZ306",
                    "an outcome cannot be a feature",
                    "problem.features",
                    name,
                    "only what is known before the prediction",
                    f"remove {name} from problem.features",
                )
            )
    return found


def _gate_problems(spec: Spec) -> list[Problem]:
    found: list[Problem] = []
    if not spec.gates:
        found.append(
            Problem(
                "KZ305", "missing key", "gates", None, "at least one gate", "no champion without a verdict: add one"
            )
        )
    known = [n for n, m in MEASURES.items() if m.task == spec.problem.task]
    for i, gate in enumerate(spec.gates):
        if gate.metric not in known:
            hint = codec.nearest(gate.metric, known)
            found.append(
                Problem(
                    "KZ304",
                    "unknown metric",
                    f"gates[{i}].metric",
                    gate.metric,
                    "one of " + ", ".join(known),
                    f"did you mean {hint!r}?" if hint else "choose one of them",
                )
            )
        kinds = [gate.at_least is not None, gate.at_most is not None, gate.against is not None, bool(gate.slices)]
        if sum(kinds) != 1 or bool(gate.slices) != (gate.max_drop is not None):
            found.append(
                Problem(
                    "KZ307",
                    "a gate has exactly one condition",
                    f"gates[{i}]",
                    None,
                    "at_least, at_most, against, or slices with max_drop",
                    "split it into several gates",
                )
            )
        for column in gate.slices:
            if spec.problem.features and column not in spec.problem.features:
                limit = "one of problem.features"
                hint = f"did you mean {codec.nearest(column, spec.problem.features)!r}?"
                found.append(Problem("KZ304", "unknown slice column", f"gates[{i}].slices", column, limit, hint))
    levels = sorted({gate.confidence for gate in spec.gates if gate.against or gate.slices})
    if len(levels) > 1:
        shown = ", ".join(map(str, levels))
        found.append(Problem("KZ307", "more than one confidence", "gates", shown, "one for all gates", "choose one"))
    return found


def _split_problems(spec: Spec) -> list[Problem]:
    """Validation rows that cannot be chosen, and acceptance sets that are used for more than a floor."""
    found: list[Problem] = []
    if wanted := spec.train.validation:
        by_time, key = wanted.by == "time", "train.validation"
        rules = [
            ("columns", bool(spec.validation_columns) or by_time, "columns, or problem.group", "name the columns"),
            ("columns", not (wanted.columns and by_time), "none with by: time", "remove them"),
            ("last", wanted.last is None or by_time, "by: time only", "say a share"),
        ]
        for name, fits, limit, action in rules:
            if not fits:
                value = codec.encode(getattr(wanted, name)) or "none"
                found.append(Problem("KZ353", "rows cannot be split so", f"{key}.{name}", value, limit, action))
    for i, gate in enumerate(spec.gates):
        if gate.rows == "acceptance" and spec.data.acceptance is None:
            action = "add data.acceptance: {share: 0.05}"
            limit = "data.acceptance says which"
            found.append(Problem("KZ352", "no rows are set aside", f"gates[{i}].rows", gate.rows, limit, action))
        if gate.rows == "acceptance" and (gate.against or gate.slices):
            limit, action = "at_least or at_most", "remove rows: who is better is for the newest rows to say"
            found.append(
                Problem("KZ351", "an acceptance set is a floor only", f"gates[{i}].rows", gate.rows, limit, action)
            )
    return found


def _range_problems(spec: Spec) -> list[Problem]:
    """Numbers outside what they can mean."""
    zero = timedelta(0)
    performance, budget = spec.monitor.performance, spec.retrain.budget
    copies = spec.evaluate.max_correlation_of_one_feature
    rules: list[tuple[str, Any, bool, str]] = [
        ("data.max_quarantined", spec.data.max_quarantined, 0 <= spec.data.max_quarantined <= 1, "0 to 1"),
        ("train.min_partitions", spec.train.min_partitions, spec.train.min_partitions >= 1, "at least 1"),
        ("evaluate.window", spec.evaluate.window, spec.evaluate.window > zero, "longer than 0s"),
        (
            "evaluate.max_auc_of_one_feature",
            limit := spec.evaluate.max_auc_of_one_feature,
            0.5 < limit <= 1,
            "0.5 to 1",
        ),
        ("evaluate.max_correlation_of_one_feature", copies, 0.5 < copies <= 1, "0.5 to 1"),
        *_split_ranges(spec),
        ("monitor.drift.psi", spec.monitor.drift.psi, spec.monitor.drift.psi > 0, "above 0"),
        ("monitor.drift.min_rows", spec.monitor.drift.min_rows, spec.monitor.drift.min_rows >= 1, "at least 1"),
        ("monitor.performance.max_drop", performance.max_drop, performance.max_drop >= 0, "at least 0"),
        ("monitor.performance.min_labelled", share := performance.min_labelled, 0 <= share <= 1, "0 to 1"),
        ("monitor.false_alarms_per_year", alarms := spec.monitor.false_alarms_per_year, alarms > 0, "above 0"),
        ("monitor.max_missing", missing := spec.monitor.max_missing, 0 <= missing <= 1, "0 to 1"),
        ("retrain.budget.retrains", budget.retrains, budget.retrains >= 1, "at least 1"),
        ("retrain.budget.per", budget.per, budget.per > zero, "longer than 0s"),
        ("place.timeout", spec.place.timeout, spec.place.timeout > zero, "longer than 0s"),
        ("place.stop_timeout", spec.place.stop_timeout, spec.place.stop_timeout >= zero, "0s or longer"),
        ("place.cpus", spec.place.cpus, spec.place.cpus >= 0.01, "at least 0.01"),
        ("place.pids", spec.place.pids, spec.place.pids >= 1, "at least 1"),
        *(
            (f"data.tables.{n}.min_rows", t.min_rows, t.min_rows >= 1, "at least 1")
            for n, t in spec.data.tables.items()
        ),
        *((f"data.tables.{n}.lag", t.lag, _is_above_zero(t.lag), "above 0") for n, t in spec.data.tables.items()),
        *(
            (f"gates[{i}].confidence", g.confidence, 0.5 < g.confidence < 1, "0.5 to 1")
            for i, g in enumerate(spec.gates)
        ),
    ]
    return [
        Problem("KZ304", "out of range", key, codec.encode(value), limit, "correct the value")
        for key, value, fits, limit in rules
        if not fits
    ]


def _is_above_zero(lag: float | timedelta | None) -> bool:
    return lag is None or (lag > timedelta(0) if isinstance(lag, timedelta) else lag > 0)


def _split_ranges(spec: Spec) -> list[tuple[str, Any, bool, str]]:
    acceptance, validation = spec.data.acceptance, spec.train.validation
    found: list[tuple[str, Any, bool, str]] = []
    if acceptance:
        share, partitions = acceptance.share, acceptance.partitions
        found.append(("data.acceptance.share", share, 0 < share < 1, "between 0 and 1"))
        found.append(("data.acceptance.partitions", partitions, partitions >= 1, "at least 1"))
    if validation:
        share, last = validation.share, validation.last
        found.append(("train.validation.share", share, 0 < share < 1, "between 0 and 1"))
        found.append(("train.validation.last", last, last is None or last > timedelta(0), "longer than 0s"))
    return found


_NEEDS = {"python": ("interpreter", "name the other environment's python"), "docker": ("image", "name the image")}


def place_problems(place: PlaceSpec) -> list[Problem]:
    """What a place lacks, sizes that are none, and walls that are gone around instead of opened."""
    found: list[Problem] = []
    key, action = _NEEDS.get(place.mode, ("", ""))
    if key and not getattr(place, key):
        found.append(Problem("KZ305", "missing key", f"place.{key}", None, f"mode {place.mode} needs an {key}", action))
    for key in ("memory", "tmp", "shm"):
        if not _reads(parse_size, value := getattr(place, key)):
            found.append(Problem("KZ304", "not a size", f"place.{key}", value, "such as 512m or 8g", "correct it"))
    if not _reads(user_ids, place.user):
        limit = "UID:GID in numbers: a name means something inside an image only"
        found.append(Problem("KZ304", "not a user", "place.user", place.user, limit, "write the numbers"))
    elif user_ids(place.user)[0] == 0 and "user" not in place.opened:
        found.append(_closed("user", "user", place.user, "another user than root"))
    if place.network != "none" and "network" not in place.opened:
        found.append(_closed("network", "network", place.network, "none"))
    if not _reads(parse_gpus, place.gpus):
        limit = "a number, all, or a list of numbers or UUIDs, each once"
        found.append(Problem("KZ304", "not a choice of GPUs", "place.gpus", place.gpus, limit, "correct it"))
    if place.network == "host" or place.network.startswith("container:"):
        limit = "none, bridge, or a network of the engine"
        found.append(
            Problem("KZ316", "a network that is shared", "place.network", place.network, limit, "name a network")
        )
    return found


def _secret_problems(place: PlaceSpec) -> list[Problem]:
    found: list[Problem] = []
    if place.secrets and place.mode != "docker":
        action = "take them out (secrets: null in an overlay): code in this place reads the machine's own variables"
        found.append(Problem("KZ307", "secrets without a container", "place.mode", place.mode, "docker", action))
    for name in place.secrets:
        # What is no name may be a value that somebody put here; it is not shown.
        if not is_name(name):
            limit = "a name in a-z 0-9 _ that does not end in _file; never a value"
            found.append(Problem("KZ304", "not the name of a secret", "place.secrets", None, limit, "correct it"))
    return found


def _privacy_problems(spec: Spec) -> list[Problem]:
    """Policies that are none, and those that take away what the spec's other lines rest on."""
    data = spec.data
    found = [
        Problem("KZ340", "not a policy", f"data.private.{column}", str(policy)[:80], LIMIT, "write one of them")
        for column, policy in data.private.items()
        if not _reads(parse_policy, policy)
    ]
    found += [
        Problem("KZ342", "private and public", "data.public", column, "one of both", "remove one")
        for column in data.public
        if column in data.private
    ]
    if data.private_key and not is_name(data.private_key):
        # It may be the key itself; it is not shown.
        limit = "a name in a-z 0-9 _ that does not end in _file; never a value"
        found.append(Problem("KZ304", "not the name of a secret", "data.private_key", None, limit, "correct it"))
    if found:
        return found
    fits = _what_fits(spec)
    policies = parse_policies(data.private)
    return [
        Problem(
            "KZ341", "a policy takes away what the spec rests on", f"data.private.{column}", str(policy), limit,
            "choose another policy, or another column there",
        )
        for column, policy in policies.items()
        for key, limit, fit in fits.get(column, ())
        if not fit(policy)
    ]  # fmt: skip


def _what_fits(spec: Spec) -> dict[str, list[tuple[str, str, Callable[[Policy], bool]]]]:
    """By column: the key that rests on it, what that allows, and whether a policy is of that."""
    problem = spec.problem
    needs: dict[str, list[tuple[str, str, Callable[[Policy], bool]]]] = {}

    def need(columns: Iterable[str], key: str, limit: str, fit: Callable[[Policy], bool]) -> None:
        for column in columns:
            needs.setdefault(column, []).append((key, f"{key}: {limit}", fit))

    units = UNITS[: _longest_unit(spec.data) + 1]
    need([problem.timestamp], "problem.timestamp", f"truncate to {' or '.join(units)}", lambda p: p.by in units)
    rule = _label_column(spec)
    need([rule], "problem.label" if problem.label else "problem.target", "generalise", lambda p: p.how == "generalise")
    keys = {f"data.tables.{name}.join": table.join for name, table in spec.data.tables.items()}
    for key, columns in {"problem.entity": problem.entity, **keys}.items():
        apart = [column for column in columns if column != problem.timestamp]
        need(apart, key, "hash keeps rows apart", lambda p: p.how == "hash")
    for name, table in spec.data.tables.items():
        # The ledger keeps how far a watermark had come; partitions have the names of their values.
        need(filter(None, [table.watermark]), f"data.tables.{name}.watermark", "no policy", lambda p: False)
        need(filter(None, [table.key_column]), f"data.tables.{name}.partition", "any but drop", _keeps)
        for key in ("asof", "time", "known"):
            # Truncated, it would be known earlier than it was.
            need(filter(None, [getattr(table, key)]), f"data.tables.{name}.{key}", "no policy", lambda p: False)
    prefixes = tuple(f"{name}_" for name in spec.joined)
    names = [*problem.features, *(column for gate in spec.gates for column in gate.slices)]
    raw = [next((n.removeprefix(p) for p in prefixes if n.startswith(p)), n) for n in names]
    need(dict.fromkeys(raw), "problem.features", "any but drop", _keeps)
    return needs


def _keeps(policy: Policy) -> bool:
    return policy.how != "drop"


def _longest_unit(data: DataSpec) -> int:
    """A time that is truncated further than its partitions are cut would all lie in the first of them."""
    cut = [UNITS.index(t.partition) for t in data.tables.values() if t.partition in UNITS]
    return min(cut, default=len(UNITS) - 1)


def _label_column(spec: Spec) -> str:
    try:
        rule = parse_label(spec.problem.label)
    except ValueError:
        # Named with the names.
        rule = None
    return rule.column if rule else spec.problem.target


def _closed(wall: str, key: str, value: str, limit: str) -> Problem:
    action = f"leave it, or open the wall by its name: opened: [{wall}]"
    return Problem("KZ315", f"the wall {wall!r} stands in the way", f"place.{key}", value, limit, action)


def _reads(parse: Callable[[Any], object], text: Any) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True


_TAKEN = ("examples", "target", "seed", "checkpoints", "report", "validation")
"""Names under which training code gets other things."""


def _tune_problems(tune: TuneSpec) -> list[Problem]:
    """A search without parameters or budget, and parameters that cannot be searched."""
    budgets: list[tuple[str, Any, bool, str]] = [
        ("parameters", ", ".join(tune.parameters) or None, bool(tune.parameters), "at least one parameter"),
        ("trials", tune.trials, tune.trials >= 1, "at least 1: the default configuration"),
        ("time", tune.time and codec.encode(tune.time), tune.time is None or tune.time > timedelta(0), "more than 0s"),
        ("gpu_hours", tune.gpu_hours, tune.gpu_hours is None or tune.gpu_hours > 0, "above 0"),
    ]
    found = [
        Problem("KZ304", "out of range", f"tune.{key}", value, limit, "correct the value")
        for key, value, fits, limit in budgets
        if not fits
    ]
    for name, parameter in tune.parameters.items():
        if limit := _name_limit(name) or _range_limit(parameter):
            value = codec.encode(parameter)
            key = f"tune.parameters.{name}"
            found.append(Problem("KZ317", "a parameter that cannot be searched", key, value, limit, "correct it"))
    return found


def _name_limit(name: str) -> str:
    if name in _TAKEN:
        return f"another name than {', '.join(_TAKEN)}"
    return "" if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name) else "a name, or names joined by dots"


def _range_limit(parameter: ParameterSpec) -> str:
    """What the parameter should have been, "" if it is well."""
    low, high, default = parameter.low, parameter.high, parameter.default
    if parameter.choices:
        plain = all(isinstance(choice, str | int | float | bool) for choice in parameter.choices)
        if low is not None or high is not None or parameter.step is not None or parameter.log or not plain:
            return "choices of texts, numbers, true and false, and nothing besides"
        return "" if default in parameter.choices else "a default among the choices"
    if low is None or high is None or isinstance(default, bool) or not isinstance(default, int | float):
        return "low, high and a number as default; or choices"
    if not low <= default <= high or low == high:
        return "low <= default <= high, and low < high"
    return _step_limit(parameter, low, high)


def _step_limit(parameter: ParameterSpec, low: float, high: float) -> str:
    if parameter.log and (low <= 0 or parameter.step is not None):
        return "for log: low above 0, and no step"
    if parameter.step is not None:
        if not 0 < parameter.step <= high - low:
            return "a step above 0 and at most high - low"
        steps = (parameter.default - low) / parameter.step
        if abs(steps - round(steps)) > 1e-9:
            return "a default that is a number of steps above low"
    numbers = (low, high, parameter.step or 1)
    if isinstance(parameter.default, int) and any(number != int(number) for number in numbers):
        return "whole numbers for low, high and step, as the default is one"
    return ""
