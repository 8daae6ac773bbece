"""The catalogue: what people should know of a table, from the spec alone, and of each of its versions.

An entry is plain JSON values. It is written beside the version (``meta:`` of its pointer in the data repository), shown
by ``kaizen data show`` and on the page of the loop's DAG, and is ``metadata:`` of the Kedro datasets that name the
table. What nobody has said is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kaizen import codec
from kaizen.spec import Spec

Entry = dict[str, Any]


def describe(spec: Spec, table: str) -> Entry:
    """What the spec says of a table.

    ``table, meaning, owner, source, licence, retention, role, partition, uri``, and ``columns`` by name with their
    ``meaning``, ``unit`` and, of private ones, the name of the policy that they are masked by.
    """
    declared, about = spec.data.tables[table], spec.data.tables[table].about
    facts = {
        "table": table,
        "meaning": about.meaning,
        "owner": about.owner,
        "source": about.source,
        "licence": about.licence,
        "retention": codec.format_duration(about.retention) if about.retention else "",
        "role": declared.role,
        "partition": declared.partition or "",
        "uri": plain_uri(declared.uri),
        "columns": _columns(spec, table),
    }
    return {key: value for key, value in facts.items() if value}


def entry(
    spec: Spec,
    table: str,
    partition: str,
    columns: Mapping[str, str],
    *,
    rows: int,
    size: int,
    sha256: str,
    delivered: str,
) -> Entry:
    """``describe`` with the facts of one version.

    Args:
        columns: name to type. rows, size (bytes), sha256: of its Parquet file.
        delivered: what it came from, as its ``Source`` names it.
    """
    about = describe(spec, table)
    known = about.pop("columns", {})
    facts = {"version": partition, "rows": rows, "size": size, "sha256": sha256}
    facts["delivered"] = plain_uri(delivered)
    # In the order of the spec: that of the file does not survive a ledger. Not all that is described need be there.
    order = [*(name for name in known if name in columns), *(name for name in columns if name not in known)]
    private = {name: {"private": policy} for name, policy in private_columns(spec, columns).items()}
    found = {
        name: {"type": columns[name].removeprefix("large_"), **known.get(name, {}), **private.get(name, {})}
        for name in order
    }
    return {**about, **facts, "columns": found}


def private_columns(spec: Spec, columns: Iterable[str]) -> dict[str, str]:
    """Those of ``columns`` that are masked at the door, each with its policy's name."""
    private = spec.data.private
    return {column: _policy_name(private[column]) for column in columns if column in private}


def plain_uri(uri: str) -> str:
    """A URI without login and parameters: what it is called must not tell who may read it."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}" if separator else uri


def _policy_name(policy: Any) -> str:
    """``hash``, or the one key of ``{truncate: day}``: how far something is masked is nobody's business."""
    return next(iter(policy)) if isinstance(policy, Mapping) else str(policy)


def _columns(spec: Spec, table: str) -> dict[str, dict[str, str]]:
    """What is said of columns; of a private one that the spec does not name here only its versions tell."""
    declared = spec.data.tables[table]
    about = declared.about.columns
    private = private_columns(spec, dict.fromkeys([*about, *declared.columns]))
    found = {}
    for name in dict.fromkeys([*about, *private]):
        words = codec.encode(about[name]) if name in about else {}
        found[name] = {key: value for key, value in {**words, "private": private.get(name, "")}.items() if value}
    return {name: facts for name, facts in found.items() if facts}
