"""Many processes at one loop: promoters meet each other at the champion, ingesting disturbs nobody."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.loops import LOOP, MONTHS, Project, make_loop
from tests.services import postgres

from kaizen.errors import HeadMoved
from kaizen.ingest import ingest, ingest_file
from kaizen.ledger import open_ledger
from kaizen.loop import Loop, open_loop
from kaizen.promote import heal_aliases, promote, registry_name
from kaizen.records import (
    Comparison,
    DataVersion,
    Estimate,
    EvaluationReport,
    Promotion,
    TrainedModel,
    TrainingSet,
    Window,
)

PROMOTERS, INGESTERS = 16, 8
OTHERS = MONTHS[2 : 2 + INGESTERS]


# `make test` runs sixteen promoters on either database without the loop around them: tests/contract/test_ledger.py.
@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)])
def ledger_url(request, tmp_path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
    else:
        with postgres() as url:
            yield url


def test_promotions_are_linear_and_ingesting_is_not_disturbed(processes, tmp_path, ledger_url):
    env = {"KAIZEN_LEDGER_URL": ledger_url}
    project = make_loop(tmp_path / "project")
    for month in MONTHS[:2]:
        project.land_month(month)
    ended = processes.kaizen("turn", project.spec, env=env)
    assert ended.code == 0, ended.err
    for month in OTHERS:
        project.land_schedules(month)

    def start(function: str, argument: object):
        return processes.start(f"tests.e2e.test_concurrency:{function}", str(project.spec), argument, env=env)

    promoters = [start("promote_against_others", number) for number in range(1, PROMOTERS + 1)]
    ingesters = [start("ingest_month", month) for month in OTHERS]
    release(project, PROMOTERS + INGESTERS)
    ended = [running.wait() for running in (*promoters, *ingesters)]
    assert [e.err for e in ended if e.code] == []
    won = [json.loads(e.out) for e in ended[:PROMOTERS]]

    with open_ledger(ledger_url) as ledger:
        assert ledger.verify().ok
        history = [Promotion.from_json(e.payload) for e in ledger.events(LOOP, subject="champion")]
        months = ledger.heads(LOOP, prefix="data/schedules/")
    assert [p.champion for p in history] == list(range(1, PROMOTERS + 2))
    assert [p.replaces for p in history] == [None, *range(1, PROMOTERS + 1)]
    assert sorted((w["champion"], w["turn"]) for w in won) == [(p.champion, p.turn) for p in history[1:]]
    # All had seen champion 1 when they began: one replaced it, everybody else was told so at least once.
    assert sum(w["lost"] > 0 for w in won) == PROMOTERS - 1
    assert set(OTHERS) <= {subject.rpartition("/")[2] for subject in months}
    assert_alias_shows(processes, project, history[-1], env)


def test_one_delivery_taken_by_many_at_once_is_taken_once(processes, tmp_path, ledger_url):
    env = {"KAIZEN_LEDGER_URL": ledger_url}
    project = make_loop(tmp_path / "project")
    project.land_month(MONTHS[0])
    running = [
        processes.start("tests.e2e.test_concurrency:ingest_all", str(project.spec), number, env=env)
        for number in range(4)
    ]
    release(project, len(running))
    assert [e.err for e in (r.wait() for r in running) if e.code] == []
    with open_ledger(ledger_url) as ledger:
        kinds = [e.kind for e in ledger.events(LOOP)]
    assert sorted(kinds) == ["DataVersion"] * 3 + ["Delivery"] * 3


def release(project: Project, count: int) -> None:
    """Let ``count`` processes go on together once all of them wait."""
    while len(list(project.folder.glob("waiting-*"))) < count:
        time.sleep(0.02)
    (project.folder / "go").touch()


def assert_alias_shows(processes, project: Project, head: Promotion, env: dict[str, str]) -> None:
    """After healing the alias is at the version of the ledger's head, whoever wrote it last."""
    ended = processes.start("tests.e2e.test_concurrency:heal", str(project.spec), env=env).wait()
    assert ended.code == 0, ended.err
    facts = json.loads(ended.out)
    assert facts["alias"] == facts["version of the head"]
    assert facts["head"] == head.champion
    assert facts["mended again"] == []


# What the processes do.


def promote_against_others(spec: str, number: int) -> None:
    """Promote a candidate of one's own; whoever loses evaluates it against the new champion and tries again."""
    turn, lost = f"race-{number}", 0
    with open_loop(Path(spec)) as loop:
        seen, model = add_candidate(loop, number, turn)
        wait_for_the_others(loop, turn)
        while True:
            try:
                _, promotion = promote(loop, evaluated(model, seen), model, turn)
                break
            except HeadMoved as error:
                lost += 1
                seen = error.head.subject_seq if error.head else 0
    assert promotion
    print(json.dumps({"turn": turn, "champion": promotion.champion, "lost": lost}))


def add_candidate(loop: Loop, number: int, turn: str) -> tuple[int, TrainedModel]:
    """A model with bytes of its own, as train would have left it, and the champion's number."""
    promotion, champion = loop.champion() or pytest.fail("no champion")
    with loop.store.scratch() as scratch:
        folder = Path(shutil.copytree(loop.store.folder(champion.model), scratch / "model"))
        (folder / "manifest.json").unlink()
        (folder / "number.txt").write_text(str(number))
        address = loop.store.put_folder(f"{LOOP}/model", folder)
    model = replace(champion, model=address, seed=number)
    examples = loop.by_digest(TrainingSet, f"candidate/{promotion.turn}", model.training_set)
    for record in (examples, model):
        loop.append(f"candidate/{turn}", record, f"{turn}/{record.digest}", turn=turn)
    return promotion.champion, model


def evaluated(model: TrainedModel, champion: int) -> EvaluationReport:
    better = Comparison("roc_auc", Estimate(0.8), Estimate(0.7), Estimate(0.1, 0.05, 0.15), rows=84)
    return EvaluationReport(model.digest, champion, Window(None, None), (), 84, 7, 0.95, (better,))


def ingest_month(spec: str, month: str) -> None:
    with open_loop(Path(spec)) as loop:
        wait_for_the_others(loop, month)
        (version,) = ingest_file(loop, "schedules", loop.path.parent / f"landing/schedules/{month}.parquet")
        assert version == loop.head(DataVersion, f"data/schedules/{month}")


def ingest_all(spec: str, number: int) -> None:
    with open_loop(Path(spec)) as loop:
        wait_for_the_others(loop, str(number))
        ingest(loop)


def heal(spec: str) -> None:
    with open_loop(Path(spec)) as loop:
        heal_aliases(loop)
        promotion, model = loop.champion() or pytest.fail("no champion")
        name, digest = registry_name(loop), model.model.rpartition(":")[2]
        run_id = loop.registry.open_turn(loop.name, promotion.turn)
        version = loop.registry.register(name, loop.store.folder(model.model), digest, run_id=run_id, tags={})
        facts = {"head": promotion.champion, "alias": loop.registry.alias(name, "champion")}
        print(json.dumps({**facts, "version of the head": version, "mended again": heal_aliases(loop)}))


def wait_for_the_others(loop: Loop, name: str) -> None:
    (loop.project / f"waiting-{name}").touch()
    while not (loop.project / "go").exists():
        time.sleep(0.002)
