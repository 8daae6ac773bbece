"""``kaizen data``: what people do with the versions of a loop's data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaizen.loop import Loop


@dataclass(frozen=True)
class Action:
    """One ``kaizen data NAME``: what it does with an open loop, its help, and its own arguments before the spec."""

    run: Callable[[Loop, argparse.Namespace], int]
    text: str
    arguments: tuple[tuple[str, dict[str, Any]], ...] = ()


def add_data(commands: Any, open_loop: Callable[[argparse.Namespace], AbstractContextManager[Loop]]) -> None:
    """Add the command; ``open_loop`` opens the loop that parsed arguments name."""
    data = commands.add_parser("data", help="versions of the data", description="Versions of the data.")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    for name, action in ACTIONS.items():
        made = actions.add_parser(name, help=action.text, description=action.text)
        for flag, options in action.arguments:
            made.add_argument(flag, **options)
        made.add_argument("--spec", type=Path, help="kaizen.yml (default: conf/base/kaizen.yml or kaizen.yml here)")
        made.add_argument("--env", help="overlay of this environment (default: KAIZEN_ENV or local)")
        made.add_argument("--json", action="store_true", help="print JSON")

        def run(arguments: argparse.Namespace, action: Action = action) -> int:
            with open_loop(arguments) as loop:
                return action.run(loop, arguments)

        made.set_defaults(run=run)


def _tell(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


def _verify(loop: Loop, arguments: argparse.Namespace) -> int:
    from kaizen.keeping import verify

    found = verify(loop, _tell, repair=arguments.repair)
    left = [wrong for wrong in found if not wrong.repaired]
    if arguments.json:
        print(json.dumps([vars(wrong) for wrong in found]))
    for wrong in () if arguments.json else found:
        state = "repaired" if wrong.repaired else "WRONG"
        print(f"{state} {wrong.path} of commit {wrong.commit[:12]} in the {wrong.place}: {wrong.found}")
    if not arguments.json and not found:
        print(f"{len(loop.data.versions())} versions, every copy as committed")
    return 6 if left else 0


def _checkout(loop: Loop, arguments: argparse.Namespace) -> int:
    commit = loop.data.checkout(arguments.version, arguments.folder, _tell)
    facts = {"commit": commit, "folder": str(arguments.folder.resolve())}
    print(json.dumps(facts) if arguments.json else f"{facts['folder']}: commit {commit}")
    return 0


def _backup(loop: Loop, arguments: argparse.Namespace) -> int:
    done = loop.data.backup(arguments.remote, _tell)
    print(json.dumps(vars(done)) if arguments.json else f"backed up to {arguments.remote}: {_sum(done)}")
    return 0


def _restore(loop: Loop, arguments: argparse.Namespace) -> int:
    done = loop.data.restore(arguments.remote, _tell)
    print(json.dumps(vars(done)) if arguments.json else f"restored from {arguments.remote}: {_sum(done)}")
    return 0


def _sum(done: Any) -> str:
    return (
        f"{done.versions} versions to commit {done.commit[:12]}, {done.objects} objects of {done.size:,} bytes,"
        f" {done.copied} of them copied now"
    )


_REMOTE = ("remote", {"metavar": "REMOTE", "help": "a folder or s3://BUCKET/PREFIX"})


def _show(loop: Loop, arguments: argparse.Namespace) -> int:
    from kaizen import data_text
    from kaizen.data_report import page_path
    from kaizen.explore import show

    table, _, partition = arguments.name.partition("/")
    facts = show(loop, table, partition)
    if table:
        page = next((p for p in (page_path(loop, table), page_path(loop)) if p.is_file()), None)
        facts["report"] = str(page) if page else ""
    render = data_text.version if partition else data_text.table if table else data_text.tables
    print(json.dumps(facts) if arguments.json else render(facts))
    return 0


def _log(loop: Loop, arguments: argparse.Namespace) -> int:
    from kaizen import data_text
    from kaizen.explore import log

    table, _, partition = arguments.name.partition("/")
    entries = log(loop, table, partition)
    print(json.dumps(entries) if arguments.json else data_text.log(entries))
    return 0


def _diff(loop: Loop, arguments: argparse.Namespace) -> int:
    from kaizen import data_text
    from kaizen.explore import find_pair
    from kaizen.profiling import diff

    facts = diff(loop, *find_pair(loop, arguments.first, arguments.second))
    print(json.dumps(facts) if arguments.json else data_text.diff(facts))
    return 0


def _report(loop: Loop, arguments: argparse.Namespace) -> int:
    from kaizen.data_report import data_report, page_path
    from kaizen.publish import publish_text

    table, _, partition = arguments.name.partition("/")
    page, warnings = data_report(loop, table, partition)
    path = publish_text(arguments.out or page_path(loop, table), page)
    if arguments.json:
        print(json.dumps({"report": str(path), "warnings": warnings}))
    else:
        print("\n".join([*(f"warning: {w}" for w in warnings), f"report: {path}"]))
    return 0


_NAME = ("name", {"nargs": "?", "default": "", "metavar": "TABLE[/PARTITION]", "help": "default: every table"})
_WHICH = "TABLE/PARTITION, or six digits or more of a digest or commit"

ACTIONS = {
    "show": Action(_show, "tables, partitions, columns: what there is", (_NAME,)),
    "log": Action(_log, "versions, newest first: when, by whom, why", (_NAME,)),
    "diff": Action(
        _diff,
        "rows, schema and distributions of two versions",
        (
            ("first", {"metavar": "A", "help": _WHICH}),
            ("second", {"nargs": "?", "metavar": "B", "help": f"{_WHICH} (default: A beside what was before it)"}),
        ),
    ),
    "report": Action(
        _report,
        "write a page: statistics, distributions, gaps, the target, changes",
        (_NAME, ("--out", {"type": Path, "metavar": "FILE", "help": "the page (default: below the loop's home)"})),
    ),
    "verify": Action(
        _verify,
        "re-hash every copy of every version; exit code 6 if one is wrong",
        (("--repair", {"action": "store_true", "help": "replace wrong copies from one that is whole"}),),
    ),
    "checkout": Action(
        _checkout,
        "make a folder the data set as of a revision or time, verified",
        (
            ("version", {"metavar": "REV|TIME", "help": "a commit of the data repository, or ISO 8601"}),
            ("folder", {"type": Path, "metavar": "FOLDER", "help": "empty, or not there yet"}),
        ),
    ),
    "backup": Action(_backup, "copy what is new of all versions to a second remote, verified", (_REMOTE,)),
    "restore": Action(_restore, "bring back all versions that a backup holds, verified", (_REMOTE,)),
}
"""Every action, by its word."""
