"""The ``kaizen`` command. Every refusal ends with one error on stderr and its family's exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kaizen import __version__
from kaizen.cli_data import add_data
from kaizen.errors import KaizenError, UsageError

STAGE_WORDS = (
    "ingest",
    "validate",
    "train",
    "evaluate",
    "promote",
    "deploy",
    "score",
    "monitor",
    "trigger",
    "reconcile",
)
DEFAULT_SPECS = ("conf/base/kaizen.yml", "kaizen.yml")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    arguments = _parser().parse_args(argv)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except KaizenError as error:
        if getattr(arguments, "json", False):
            print(json.dumps({"error": error.to_json()}))
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: nothing half written; run the command again to go on", file=sys.stderr)
        return 130


_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "KEDRO_DISABLE_TELEMETRY": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    # Arrow's own choice keeps what other threads have freed: a process would grow with every file that it reads.
    "ARROW_DEFAULT_MEMORY_POOL": "jemalloc",
}
"""Unless people say otherwise. No tool that a stage uses reports home."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kaizen", description="The machine-learning loop on the stack you already run."
    )
    parser.add_argument("--version", action="version", version=f"kaizen {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str, *, spec: bool = True
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        if spec:
            made.add_argument(
                "spec", nargs="?", type=Path, help="kaizen.yml (default: conf/base/kaizen.yml or kaizen.yml here)"
            )
            made.add_argument("--env", help="overlay of this environment (default: KAIZEN_ENV or local)")
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    made = command(
        "turn", _turn, "do all that is due: ingest, validate, score, monitor, trigger, and retrain if there is reason"
    )
    made.add_argument("--because", default="", metavar="WHY", help="a person's wish to retrain now")
    made.add_argument("--until", metavar="DATE", help="take only data that ends by then (YYYY-MM-DD)")
    made = command(
        "backtest", _backtest, "replay the history: what the loop would have done, and whether it was worth it"
    )
    made.add_argument("--out", type=Path, default=Path("build/backtest"), help="folder of summary.json and report.html")
    made.add_argument("--seed", type=int, default=0, help="of the shuffled replay")
    made = command("status", _status, "where a loop stands", spec=False)
    made.add_argument("loop", nargs="?", help="project/loop (default: the spec's, else every loop of the ledger)")
    made.add_argument("--spec", type=Path, help="kaizen.yml that names the ledger")
    made.add_argument("--env", help="overlay of this environment")
    made.add_argument("--as-of", metavar="TIME", help="ISO 8601: the state as it was then")
    command(
        "reconcile",
        _reconcile,
        "heal what only shows the ledger (aliases of the registry), remove what killed processes left",
    )
    command("containers", _containers, "containers of ours on the engine: whose, since when, and who holds them")
    made = command("stage", _stage, "one stage of a loop, for whoever schedules stages one by one", spec=False)
    made.add_argument("stage", choices=STAGE_WORDS, metavar="STAGE", help=", ".join(STAGE_WORDS))
    made.add_argument("spec", nargs="?", type=Path, help="kaizen.yml")
    made.add_argument("--env", help="overlay of this environment (default: KAIZEN_ENV or local)")
    made.add_argument("--because", default="", metavar="WHY", help="trigger: a person's wish to retrain now")
    made.add_argument("--since", metavar="TIME", help="ingest: take only partitions that begin then or later")
    made.add_argument("--until", metavar="TIME", help="ingest: take only partitions that end by then")
    made.add_argument("--partition", default="", metavar="KEY", help="ingest: take only this one, such as 2013-04")
    made.add_argument("--began-with", default="", metavar="DIGEST", help="refuse another spec than this one")
    made.add_argument("--result", type=Path, metavar="FOLDER", help="leave result.json there, and end with the caller")
    command("compile", _compile, "write the snapshot of a spec that DAG files are parsed from")
    command("doctor", _doctor, "what is installed, reachable and missing, and the fix for each")
    _add_image(commands)
    _add_label(commands)
    _add_ledger(commands)
    add_data(commands, _open)
    return parser


def _add_image(commands: Any) -> None:
    image = commands.add_parser("image", help="the project's image", description="The project's image.")
    actions = image.add_subparsers(required=True, metavar="ACTION")
    texts = {
        "build": "build it from the project's Dockerfile, if anything in it has changed",
        "push": "push it to its registry, and print it with its digest",
    }
    for name, text in texts.items():
        made = actions.add_parser(name, help=text, description=text)
        made.set_defaults(run={"build": _build_image, "push": _push_image}[name])
        made.add_argument("spec", nargs="?", type=Path, help="kaizen.yml")
        made.add_argument("--env", help="overlay of this environment (default: KAIZEN_ENV or local)")
        made.add_argument("--tag", default="", metavar="NAME", help="its name (default: place.image)")
        if name == "build":
            made.add_argument("--base", metavar="IMAGE", help="what it starts from: the build argument BASE")
            made.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="no secrets")
            made.add_argument("--wheel", action="append", default=[], type=Path, metavar="FILE", help="to be installed")
            made.add_argument("--network", default="", metavar="NETWORK", help="of the build's steps")
            made.add_argument("--no-cache", action="store_true", help="build it in any case, every layer")
        made.add_argument("--json", action="store_true", help="print JSON")


def _add_label(commands: Any) -> None:
    label = commands.add_parser("label", help="labels by people", description="Labels by people.")
    actions = label.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        made.add_argument("spec", nargs="?", type=Path, help="kaizen.yml")
        made.add_argument("--env", help="overlay of this environment (default: KAIZEN_ENV or local)")
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    made = action("queue", _label_queue, "write the scored rows that are most worth a label to a CSV file")
    made.add_argument("--rows", type=int, default=100, metavar="N", help="at most so many (default: 100)")
    made.add_argument("--out", type=Path, default=Path("labels.csv"), metavar="FILE", help="default: labels.csv")
    made.add_argument("--days", type=int, default=30, metavar="N", help="until they may go out again (default: 30)")
    made.add_argument("--again", type=int, metavar="N", help="write the sheet of the Nth request once more")
    made = action("import", _label_import, "land the labels of a filled sheet in a labels table")
    made.add_argument("--sheet", type=Path, required=True, metavar="FILE", help="the CSV file, filled in")
    made.add_argument("--table", default="", help="the labels table (default: the last one without time)")


def _add_ledger(commands: Any) -> None:
    ledger = commands.add_parser("ledger", help="the loop's memory", description="The loop's memory.")
    actions = ledger.add_subparsers(required=True, metavar="ACTION")
    texts = {
        "verify": "re-hash every chain",
        "show": "print events, newest last",
        "backup": "write all events to a file",
        "restore": "fill an empty ledger from a backup",
        "anchor": "print one digest over all chains, to be kept elsewhere",
    }
    for name, text in texts.items():
        made = actions.add_parser(name, help=text, description=text)
        made.set_defaults(run=_ledger, action=name)
        if name in ("backup", "restore"):
            made.add_argument("file", type=Path)
        if name == "show":
            made.add_argument("--loop")
            made.add_argument("--subject")
            made.add_argument("--kind")
            made.add_argument("--limit", type=int, default=50)
        made.add_argument("--ledger", help="URL or path (default: KAIZEN_LEDGER_URL, else the spec's)")
        made.add_argument("--spec", type=Path)
        made.add_argument("--env")
        made.add_argument("--json", action="store_true")


def find_spec(given: Path | None) -> Path:
    """The spec that was named, or the one of the folder. Raises ``UsageError`` KZ202."""
    if given is not None:
        return given
    found = next((Path(p) for p in DEFAULT_SPECS if Path(p).is_file()), None)
    if found is None:
        raise UsageError(
            "KZ202",
            "no spec here",
            where=str(Path.cwd()),
            value=None,
            limit=" or ".join(DEFAULT_SPECS),
            action="name the file: kaizen COMMAND PATH/kaizen.yml",
        )
    return found


def _env(arguments: argparse.Namespace) -> str:
    return arguments.env or os.environ.get("KAIZEN_ENV", "local")


def _open(arguments: argparse.Namespace) -> Any:
    """The loop that the arguments name, to be entered; without a tracking server, as nothing trains."""
    from kaizen.adapters.memory_registry import MemoryRegistry
    from kaizen.loop import open_loop

    return open_loop(find_spec(arguments.spec), env=_env(arguments), registry=MemoryRegistry())


def _turn(arguments: argparse.Namespace) -> int:
    from kaizen.loop import open_loop
    from kaizen.records import PromotionDecision, TrainedModel
    from kaizen.turn import advance

    with open_loop(find_spec(arguments.spec), env=_env(arguments)) as loop:
        until = _moment(arguments.until).replace(tzinfo=loop.spec.timezone) if arguments.until else None
        progress, tell = _stage_progress(arguments.json), (lambda _: None) if arguments.json else _say
        done = advance(loop, until=until, wish=arguments.because, progress=progress, tell=tell)
        if arguments.json:
            records = [*done.ingested, *done.validated, *done.scored, *done.health, done.decision, done.turn]
            print(json.dumps([r.to_json() for r in records if r is not None]))
            return 0
        print(f"ingested {len(done.ingested)} partitions, validated {len(done.validated)}, scored {len(done.scored)}")
        quarantined = sum(r.quarantined_rows for r in done.validated)
        if quarantined:
            print(f"quarantined {quarantined} rows")
        dropped = sum(r.dropped_rows for r in done.validated)
        if dropped:
            print(f"dropped {dropped} rows by rules of cleaning")
        for report in done.health:
            print(
                f"health {report.partition}: drift {report.drift}, performance {report.performance.status}"
                f" ({report.performance.reason})"
            )
        if done.decision:
            print(f"trigger: {'retrain' if done.decision.retrain else 'no retraining'}: {done.decision.reason}")
        if done.turn:
            print(f"turn {done.turn.turn}: {done.turn.outcome}")
            verdict = loop.by_digest(PromotionDecision, f"candidate/{done.turn.turn}", done.turn.promotion_decision)
            for gate in verdict.gates:
                print(f"  {'passed' if gate.passed else 'FAILED'}  {gate.gate}: {gate.reason}")
            for warning in loop.by_digest(TrainedModel, f"candidate/{done.turn.turn}", done.turn.candidate).warnings:
                print(f"  warning  {warning}")
    return 0


def _stage(arguments: argparse.Namespace) -> int:
    from kaizen.bridge import end_with_caller, leave_result
    from kaizen.stages import encode

    if arguments.result is None:
        result = _run_stage(arguments)
        if arguments.json:
            print(json.dumps(encode(result)))
        else:
            lines = [f"{r.kind} {r.subject} {r.digest[:12]}" for r in result.records]
            print("\n".join([*lines, *result.notes, *([result.idle] if result.idle else [])]) or "nothing was due")
        return 0
    end_with_caller()
    return leave_result(arguments.result, lambda: encode(_run_stage(arguments)))


def _run_stage(arguments: argparse.Namespace) -> Any:
    from kaizen.loop import open_loop
    from kaizen.stages import Order, run_stage

    with open_loop(find_spec(arguments.spec), env=_env(arguments)) as loop:
        since, until = (_moment(text) if text else None for text in (arguments.since, arguments.until))
        order = Order(arguments.because, until, arguments.began_with, since, arguments.partition)
        return run_stage(loop, arguments.stage, order)


def _compile(arguments: argparse.Namespace) -> int:
    from kaizen.snapshot import read_snapshot, write_snapshot

    path, env = find_spec(arguments.spec), _env(arguments)
    written = write_snapshot(path, env)
    facts = vars(read_snapshot(path, env))
    print(json.dumps(facts) if arguments.json else f"{facts['loop']}, digest {facts['digest'][:12]}: {written}")
    return 0


def _build_image(arguments: argparse.Namespace) -> int:
    from kaizen.images import parse_arguments, read_recipe
    from kaizen.loop import project_folder

    images, engine, name = _open_images(arguments)
    chosen = parse_arguments(arguments.build_arg) | ({"BASE": arguments.base} if arguments.base else {})
    recipe = read_recipe(project_folder(find_spec(arguments.spec).resolve()), chosen, arguments.wheel)
    made = images.build(engine(), recipe, name, tell=_say, network=arguments.network, anew=arguments.no_cache)
    if arguments.json:
        print(json.dumps(vars(made)))
        return 0
    revision = made.revision or "of no git repository"
    print(f"{made.image}: {'built' if made.built else 'unchanged, kept'}, {made.id}")
    print(f"content {made.content[:12]}, revision {revision}{' with changes' if made.dirty else ''}")
    return 0


def _push_image(arguments: argparse.Namespace) -> int:
    images, engine, name = _open_images(arguments)
    pushed = images.push(engine(), name, tell=_say)
    print(json.dumps(vars(pushed)) if arguments.json else pushed.reference)
    return 0


def _open_images(arguments: argparse.Namespace) -> tuple[Any, Callable[[], Any], str]:
    """The adapter, what connects to the place's engine, and the image's name. Raises ``UsageError`` KZ253."""
    from kaizen.errors import MissingDependency
    from kaizen.images import check_name
    from kaizen.spec import load_spec

    place = load_spec(find_spec(arguments.spec), _env(arguments)).place
    name = check_name(arguments.tag or place.image)
    try:
        from kaizen.adapters import docker_engine, docker_images
    except ImportError:
        raise MissingDependency("docker", "docker") from None
    return docker_images, lambda: docker_engine.Engine(place.engine), name


def _label_queue(arguments: argparse.Namespace) -> int:
    from kaizen.labelling import queue, write_sheet
    from kaizen.loop import open_loop

    with open_loop(find_spec(arguments.spec), env=_env(arguments)) as loop:
        number = arguments.again
        if number is None:
            made = queue(loop, arguments.rows, timedelta(days=arguments.days))
            number = made.generation if made else None
        request = None if number is None else write_sheet(loop, number, arguments.out)
    if arguments.json:
        print(json.dumps(request and request.to_json()))
    elif request is None:
        print("nothing to ask: every row that was scored has its label, or went out")
    else:
        rows = sum(len(asked.rows) for asked in request.asked)
        print(f"request {request.generation}: {rows} rows in {arguments.out}, waited for until {request.expires[:10]}")
    return 0


def _label_import(arguments: argparse.Namespace) -> int:
    from kaizen.labelling import take
    from kaizen.loop import open_loop

    with open_loop(find_spec(arguments.spec), env=_env(arguments)) as loop:
        taken = take(loop, arguments.sheet, arguments.table)
    if arguments.json:
        print(json.dumps({**vars(taken), "path": str(taken.path) if taken.path else None}))
        return 0
    landed = f", in {taken.path}: the next ingest takes them" if taken.path else ""
    print(f"{taken.labels} new labels for {taken.table}{landed}; {taken.known} known before, {taken.empty} left empty")
    return 0


def _say(line: str) -> None:
    print(f"  | {line}", file=sys.stderr, flush=True)


def _stage_progress(quiet: bool) -> Callable[[str], None]:
    return (lambda _: None) if quiet else (lambda stage: print(f"  {stage} ...", file=sys.stderr, flush=True))


def _backtest(arguments: argparse.Namespace) -> int:
    from kaizen import report
    from kaizen.backtest import backtest

    def progress(line: str) -> None:
        print(f"  {line}", file=sys.stderr, flush=True)

    summary = backtest(
        find_spec(arguments.spec), arguments.out, env=_env(arguments), seed=arguments.seed, progress=progress
    )
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(report.table(summary))
        print(f"\nreport: {arguments.out / 'report.html'}  facts: {arguments.out / 'summary.json'}")
    return 0 if all(check["passed"] for check in summary["checks"]) else 1


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            "KZ203",
            "not a time",
            where="command line",
            value=text,
            limit="ISO 8601, e.g. 2013-03-03",
            action="write it as YYYY-MM-DD or with a time",
        ) from None


def _ledger_url(arguments: argparse.Namespace) -> tuple[str, str | None]:
    """URL of the ledger, and the loop of the spec that named it."""
    from kaizen.loop import roots
    from kaizen.spec import load_spec

    given = getattr(arguments, "ledger", None) or os.environ.get("KAIZEN_LEDGER_URL")
    if given and arguments.spec is None:
        return given, None
    path = find_spec(arguments.spec).resolve()
    spec = load_spec(path, _env(arguments))
    return given or roots(spec, path)[1], spec.loop


def _status(arguments: argparse.Namespace) -> int:
    from kaizen.ledger import open_ledger
    from kaizen.status import render, status

    as_of = _moment(arguments.as_of) if arguments.as_of else None
    if as_of and as_of.tzinfo is None:
        as_of = as_of.replace(tzinfo=UTC)
    url, own = _ledger_url(arguments)
    with open_ledger(url) as ledger:
        known = ledger.loops()
        names = [arguments.loop] if arguments.loop else [own] if own in known else known
        if arguments.loop and arguments.loop not in known:
            raise UsageError(
                "KZ204",
                "no such loop in this ledger",
                where=url.rpartition("@")[2],
                value=arguments.loop,
                limit=", ".join(known) or "none yet",
                action="correct the name, or run a turn first",
            )
        states = [status(ledger, name, as_of) for name in names if name]
    print(json.dumps(states) if arguments.json else "\n\n".join(map(render, states)) or "no loop has run yet")
    return 0


def _reconcile(arguments: argparse.Namespace) -> int:
    from kaizen.loop import open_loop
    from kaizen.reconcile import reconcile

    with open_loop(find_spec(arguments.spec), env=_env(arguments)) as loop:
        mended = reconcile(loop)
    print(json.dumps(mended) if arguments.json else "\n".join(mended) or "nothing to mend")
    return 0


def _containers(arguments: argparse.Namespace) -> int:
    from kaizen.loop import open_loop
    from kaizen.reconcile import open_engine

    with open_loop(find_spec(arguments.spec), env=_env(arguments)) as loop:
        engine = open_engine(loop)
        if engine is None:
            raise UsageError(
                "KZ232",
                "the loop has no containers",
                where="place.mode",
                value=loop.spec.place.mode,
                limit="docker",
                action="nothing: its stages run elsewhere",
            )
        from kaizen.adapters.docker_orphans import find_containers

        found = list(find_containers(engine, loop.ledger, loop.caller.clock.now()))
    if arguments.json:
        print(json.dumps([c.to_json() for c in found]))
        return 0
    rows = [("NAME", "LOOP", "STAGE", "STATE", "GPUS", "AGE", "OWNER", "HELD BY")]
    rows += [
        (c.name, c.loop, c.stage, c.state, ",".join(c.gpus) or "-", _age(c.age), c.owner, c.held_by) for c in found
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print("\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows))
    return 0


def _age(age: timedelta) -> str:
    seconds = int(age.total_seconds())
    return f"{seconds // 3600}h{seconds % 3600 // 60:02}m" if seconds >= 3600 else f"{seconds // 60}m{seconds % 60:02}s"


def _doctor(arguments: argparse.Namespace) -> int:
    from kaizen.doctor import examine

    path = arguments.spec or next((Path(p) for p in DEFAULT_SPECS if Path(p).is_file()), None)
    findings = examine(path, _env(arguments))
    if arguments.json:
        print(json.dumps([vars(f) for f in findings]))
    else:
        width = max(len(f.name) for f in findings)
        for f in findings:
            print(f"{f.status:8}{f.name:{width}}  {f.found}" + (f"\n{'':8}{'':{width}}  fix: {f.fix}" if f.fix else ""))
    return 1 if any(f.status == "broken" for f in findings) else 0


def _ledger(arguments: argparse.Namespace) -> int:
    from kaizen.ledger import open_ledger

    with open_ledger(_ledger_url(arguments)[0]) as ledger:
        return _ACTIONS[arguments.action](ledger, arguments)


def _verify(ledger: Any, arguments: argparse.Namespace) -> int:
    report = ledger.verify()
    facts = {
        "events": report.events,
        "chains": report.chains,
        "anchor": report.anchor,
        "problems": [vars(p) for p in report.problems],
    }
    lines = [f"{report.events} events in {report.chains} chains, anchor {report.anchor}"]
    lines += [f"DAMAGED {p.loop} {p.subject} at {p.position}: {p.what}" for p in report.problems]
    print(json.dumps(facts) if arguments.json else "\n".join(lines))
    return 0 if report.ok else 5


def _show(ledger: Any, arguments: argparse.Namespace) -> int:
    newest = ledger.events(
        arguments.loop, subject=arguments.subject, kind=arguments.kind, newest_first=True, limit=arguments.limit
    )
    for e in reversed(list(newest)):
        if arguments.json:
            print(json.dumps({**vars(e), "at": e.at.isoformat()}))
        else:
            at = e.at.isoformat(timespec="seconds")
            print(f"{e.position:>8} {at} {e.loop} {e.subject}#{e.subject_seq} {e.kind} {e.turn}")
    return 0


def _backup(ledger: Any, arguments: argparse.Namespace) -> int:
    ledger.backup(arguments.file)
    print(f"backed up to {arguments.file}, anchor {ledger.anchor()}")
    return 0


def _restore(ledger: Any, arguments: argparse.Namespace) -> int:
    ledger.restore(arguments.file)
    print(f"restored from {arguments.file}, anchor {ledger.anchor()}")
    return 0


def _anchor(ledger: Any, arguments: argparse.Namespace) -> int:
    print(json.dumps({"anchor": ledger.anchor()}) if arguments.json else ledger.anchor())
    return 0


_ACTIONS = {"verify": _verify, "show": _show, "backup": _backup, "restore": _restore, "anchor": _anchor}


if __name__ == "__main__":
    sys.exit(main())
