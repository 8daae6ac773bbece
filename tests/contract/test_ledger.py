"""One suite for every database that a ledger is kept in."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa

from kaizen.canonical import canonical_json, digest
from kaizen.errors import HeadMoved, KeyConflict, LeaseHeld, LedgerError, MissingDependency
from kaizen.ledger import LEASES, NewEvent, open_ledger

LOOP = "nyc/flights"
START = datetime(2013, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def new(subject="champion", kind="Promotion", key="k1", payload=None, *, day=0, expect=None):
    value = {"champion": 1} if payload is None else payload
    return NewEvent(subject, kind, key, value, turn="t1", at=START + day * DAY, actor="ada", expect=expect)


def add(ledger, *args, loop=LOOP, **options):
    return ledger.append_all(loop, [new(*args, **options)])[0]


@pytest.fixture
def ledger(ledger_url):
    with open_ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
def shared(shared_url):
    with open_ledger(shared_url) as opened:
        yield opened


@contextmanager
def raw(url):
    """The database itself, past the ledger; committed at the end."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    engine = sa.create_engine(parsed, poolclass=sa.NullPool)
    with engine.begin() as connection:
        yield connection


def tamper(url, statement):
    with raw(url) as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("DROP TRIGGER event_no_update")
            connection.exec_driver_sql("DROP TRIGGER event_no_delete")
        else:
            connection.exec_driver_sql("ALTER TABLE event DISABLE TRIGGER event_append_only")
        connection.exec_driver_sql(statement)


# Appending


def test_an_event_is_read_back_as_it_was_appended(ledger):
    new_york = timezone(timedelta(hours=-5))
    at = datetime(2013, 3, 1, 7, 30, 0, 123456, tzinfo=new_york)
    payload = {"b": [1.5, None, True], "a": "Zürich 🌍", "n": 2**53 + 1, "e": 1e-9}
    event = ledger.append(LOOP, "data/flights", "DataVersion", "k1", payload, turn="t7", at=at, actor="ada")

    assert ledger.head(LOOP, "data/flights") == event
    assert ledger.find(LOOP, "DataVersion", "k1") == event
    assert (event.subject_seq, event.turn, event.actor, event.prev_hash) == (1, "t7", "ada", "")
    assert (event.payload, event.at, event.at.tzinfo) == (payload, at, UTC)


def test_the_hash_is_that_of_the_stored_fields(ledger):
    first = add(ledger)
    second = add(ledger, key="k2")
    stored = {
        "loop": LOOP,
        "subject": "champion",
        "subject_seq": 2,
        "kind": "Promotion",
        "key": "k2",
        "turn": "t1",
        "at": "2013-03-01T00:00:00.000000+00:00",
        "actor": "ada",
        "payload": '{"champion":1}',
        "prev_hash": first.hash,
    }
    assert second.hash == digest(stored)


def test_a_repeated_append_returns_the_first_event_even_with_an_old_head(ledger):
    first = add(ledger, expect=0)
    add(ledger, key="k2", expect=1)
    again = add(ledger, expect=0)
    assert again == first
    assert len(list(ledger.events(LOOP))) == 2


def test_another_payload_under_the_same_key_is_refused_with_both_digests(ledger):
    add(ledger)
    with pytest.raises(KeyConflict) as refusal:
        add(ledger, payload={"champion": 2})
    assert refusal.value.code == "KZ502"
    assert digest({"champion": 1}) in refusal.value.value
    assert digest({"champion": 2}) in refusal.value.limit
    assert len(list(ledger.events())) == 1


def test_the_same_key_on_another_subject_is_refused(ledger):
    add(ledger)
    with pytest.raises(KeyConflict, match="champion"):
        add(ledger, subject="candidate/1")


def test_the_same_key_of_another_kind_or_loop_is_another_event(ledger):
    events = [add(ledger), add(ledger, kind="Deployment"), add(ledger, loop="nyc/trains")]
    assert [e.subject_seq for e in events] == [1, 2, 1]


@pytest.mark.parametrize("expect", [0, 2])
def test_a_moved_head_is_refused_and_shown(ledger, expect):
    head = add(ledger, expect=0)
    with pytest.raises(HeadMoved) as refusal:
        add(ledger, key="k2", expect=expect)
    error = pickle.loads(pickle.dumps(refusal.value))
    assert (error.code, error.value, error.limit, error.head) == ("KZ501", 1, expect, head)
    assert "k1 by ada" in str(error)
    assert list(ledger.events()) == [head]


def test_a_head_that_is_not_there_is_refused(ledger):
    with pytest.raises(HeadMoved) as refusal:
        add(ledger, expect=3)
    assert (refusal.value.value, refusal.value.head) == (0, None)


def test_events_of_several_subjects_are_appended_together(ledger):
    events = ledger.append_all(
        LOOP, [new(expect=0), new("deployment", "Deployment"), new(key="k2", expect=1), new(key="k2")]
    )
    assert [(e.subject, e.subject_seq) for e in events] == [
        ("champion", 1),
        ("deployment", 1),
        ("champion", 2),
        ("champion", 2),
    ]
    assert list(ledger.events()) == events[:3]
    assert ledger.verify().ok


@pytest.mark.parametrize(
    "bad", [new(key="k2", expect=0), new("x", key="k1", payload={"champion": 9}), new("x", payload={"x": float("nan")})]
)
def test_one_refused_event_refuses_all(ledger, bad):
    add(ledger)
    before = ledger.anchor()
    with pytest.raises(LedgerError):
        ledger.append_all(LOOP, [new("data/flights", "DataVersion"), bad])
    assert ledger.anchor() == before
    assert ledger.head(LOOP, "data/flights") is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"payload": {"x": object()}}, "payload"),
        ({"payload": {"x": "\ud800"}}, "payload"),
        ({"subject": ""}, "subject"),
        ({"key": "a\x00b"}, "key"),
        ({"kind": "\ud800"}, "kind"),
        ({"actor": "a\nb"}, "actor"),
        ({"at": datetime(2013, 3, 1)}, "time"),  # noqa: DTZ001
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(ledger, change, told):
    with pytest.raises(LedgerError, match=told) as refusal:
        ledger.append_all(LOOP, [replace(new(), **change)])
    assert refusal.value.code == "KZ505"
    assert list(ledger.events()) == []


def test_many_threads_share_one_ledger(ledger):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: add(ledger, f"data/{n % 4}", key=f"k{n}"), range(80)))
    assert {e.subject_seq for e in ledger.heads(LOOP).values()} == {20}
    assert ledger.verify().ok


# Reading


@pytest.fixture
def history(ledger):
    """Ten days: data every day, a promotion on days 0 and 6."""
    for day in range(10):
        add(ledger, "data/flights", "DataVersion", f"d{day}", {"day": day}, day=day)
        if day % 6 == 0:
            add(ledger, "champion", "Promotion", f"p{day}", {"day": day}, day=day)
    add(ledger, loop="nyc/trains")
    return ledger


@pytest.mark.parametrize(
    ("where", "days"),
    [
        ({"kind": "Promotion"}, [0, 6]),
        ({"subject": "champion"}, [0, 6]),
        ({"subject": "champion", "until": START + 5 * DAY}, [0]),
        ({"subject": "data/flights", "since": START + 3 * DAY, "until": START + 5 * DAY}, [3, 4, 5]),
        ({"subject": "data/flights", "newest_first": True, "limit": 2}, [9, 8]),
        ({"newest_first": True, "limit": 3, "until": START + 6 * DAY}, [6, 6, 5]),
        ({"limit": 0}, []),
        ({"subject": "nothing"}, []),
    ],
)
def test_events_are_chosen_by(history, where, days):
    assert [e.payload["day"] for e in history.events(LOOP, **where)] == days


def test_events_come_in_global_order_over_all_loops(history):
    positions = [e.position for e in history.events()]
    assert len(positions) == 13
    assert positions == sorted(set(positions))


def test_a_position_is_a_bookmark(history):
    seen = list(history.events(LOOP, limit=5))
    rest = list(history.events(LOOP, after=seen[-1].position))
    assert seen + rest == list(history.events(LOOP))
    assert [e.payload["day"] for e in history.events(LOOP, subject="champion", after=seen[-1].position)] == [6]


def test_long_histories_are_read_in_pages_while_others_append(ledger):
    ledger.append_all(LOOP, [new("data/flights", key=f"k{n}", payload={"n": n}) for n in range(2500)])
    reading = ledger.events(LOOP)
    first = next(reading)
    add(ledger, "data/flights", key="late", payload={"n": 2500})
    assert [e.payload["n"] for e in (first, *reading)] == list(range(2501))
    backwards = ledger.events(LOOP, subject="data/flights", newest_first=True, limit=2100)
    assert [e.payload["n"] for e in backwards] == list(range(2500, 400, -1))


def test_heads_tell_the_state_now_and_then(history):
    assert {s: e.payload["day"] for s, e in history.heads(LOOP).items()} == {"champion": 6, "data/flights": 9}
    then = history.heads(LOOP, as_of=START + 5 * DAY)
    assert {s: e.payload["day"] for s, e in then.items()} == {"champion": 0, "data/flights": 5}
    assert history.heads(LOOP, as_of=START - DAY) == {}


def test_heads_are_narrowed_by_prefix_and_sorted_bytewise(ledger):
    for subject in ("data/b", "data/B", "data/é", "datum", "Data/x", "data/a_%"):
        add(ledger, subject, key=subject)
    assert list(ledger.heads(LOOP, prefix="data/")) == ["data/B", "data/a_%", "data/b", "data/é"]
    assert ledger.heads("no/loop") == {}


def test_loops_are_listed_without_the_leases_book(history):
    history.acquire("gpu/0", "ada", MINUTE, START)
    assert history.loops() == ["nyc/flights", "nyc/trains"]


def test_an_empty_ledger_answers(ledger):
    assert (ledger.head(LOOP, "champion"), ledger.find(LOOP, "Promotion", "k"), ledger.loops()) == (None, None, [])
    assert ledger.verify().ok


# Leases


def test_a_held_resource_is_refused_naming_holder_and_expiry(ledger):
    lease = ledger.acquire("gpu/0", "ada", MINUTE, START)
    with pytest.raises(LeaseHeld, match="ada holds gpu/0") as refusal:
        ledger.acquire("gpu/0", "bob", MINUTE, START + MINUTE / 2)
    assert (refusal.value.code, refusal.value.lease) == ("KZ503", lease)
    assert "2013-03-01T00:01" in refusal.value.limit


def test_the_holder_gets_its_lease_again_extended(ledger):
    first = ledger.acquire("gpu/0", "ada", MINUTE, START)
    again = ledger.acquire("gpu/0", "ada", MINUTE, START + MINUTE / 2)
    assert (again.epoch, again.expires_at) == (first.epoch, START + MINUTE * 1.5)
    assert ledger.lease("gpu/0") == again
    assert len(list(ledger.events(LEASES))) == 1


def test_an_expired_lease_is_taken_over_under_the_next_epoch(ledger):
    lost = ledger.acquire("gpu/0", "ada", MINUTE, START)
    taken = ledger.acquire("gpu/0", "bob", MINUTE, START + MINUTE)
    assert (taken.holder, taken.epoch) == ("bob", lost.epoch + 1)
    with pytest.raises(LeaseHeld) as refusal:
        ledger.renew(lost, MINUTE, START + MINUTE)
    assert (refusal.value.code, refusal.value.lease) == ("KZ504", taken)


def test_a_renewed_lease_is_not_taken_over(ledger):
    lease = ledger.acquire("gpu/0", "ada", MINUTE, START)
    renewed = ledger.renew(lease, MINUTE, START + MINUTE / 2)
    assert renewed.epoch == lease.epoch
    with pytest.raises(LeaseHeld):
        ledger.acquire("gpu/0", "bob", MINUTE, START + MINUTE)


def test_a_released_resource_is_free_and_its_epoch_goes_on(ledger):
    first = ledger.acquire("gpu/0", "ada", MINUTE, START)
    ledger.release(first, START)
    assert ledger.lease("gpu/0") is None
    with pytest.raises(LeaseHeld, match="released"):
        ledger.renew(first, MINUTE, START)
    second = ledger.acquire("gpu/0", "bob", MINUTE, START)
    assert second.epoch == first.epoch + 1
    ledger.release(first, START)
    assert ledger.lease("gpu/0") == second


def test_grants_losses_and_releases_are_events_heartbeats_are_not(ledger):
    lease = ledger.acquire("gpu/0", "ada", MINUTE, START)
    ledger.renew(lease, MINUTE, START)
    taken = ledger.acquire("gpu/0", "bob", MINUTE, START + DAY)
    ledger.release(taken, START + DAY)
    told = [(e.kind, e.actor, e.payload["epoch"], e.payload["taken_from"]) for e in ledger.events(LEASES)]
    assert told == [
        ("LeaseGranted", "ada", 1, None),
        ("LeaseTaken", "bob", 2, "ada"),
        ("LeaseReleased", "bob", 2, None),
    ]
    assert ledger.verify().ok


def test_a_refused_grant_leaves_nothing(ledger):
    with pytest.raises(LedgerError, match="subject"):
        ledger.acquire("gpu\n0", "ada", MINUTE, START)
    assert list(ledger.events(LEASES)) == []
    assert ledger.lease("gpu\n0") is None


# Integrity


def test_events_can_be_neither_changed_nor_deleted(shared, shared_url):
    event = add(shared)
    statements = ["UPDATE event SET actor = 'eve'", "DELETE FROM event"]
    if "postgresql" in shared_url:
        statements.append("TRUNCATE event")
    else:
        columns = "loop, subject, subject_seq, kind, key, turn, at, 'eve', payload, prev_hash, hash"
        statements.append(f"INSERT OR REPLACE INTO event SELECT position, {columns} FROM event")
        statements.append(f"INSERT OR REPLACE INTO event SELECT position + 1, {columns} FROM event")
    for statement in statements:
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), raw(shared_url) as connection:
            connection.exec_driver_sql(statement)
    assert list(shared.events()) == [event]


@pytest.mark.parametrize(
    ("statement", "subject_seq", "told"),
    [
        ("UPDATE event SET payload = replace(payload, '2', '3') WHERE key = 'k2'", 2, "hash is not"),
        ("UPDATE event SET at = replace(at, '2013', '2014') WHERE key = 'k2'", 2, "hash is not"),
        ("DELETE FROM event WHERE key = 'k2'", 3, "subject_seq is 3, 2 comes next"),
    ],
)
def test_verify_finds_a_changed_byte_and_a_gap(shared, shared_url, statement, subject_seq, told):
    add(shared, "data/flights", "DataVersion")
    events = [add(shared, key=f"k{n}", payload={"n": n}) for n in (1, 2, 3)]
    assert shared.verify().events == 4
    tamper(shared_url, statement)
    report = shared.verify()
    found = next(p for p in report.problems if told in p.what)
    assert not report.ok
    assert (found.position, found.loop, found.subject) == (events[subject_seq - 1].position, LOOP, "champion")
    assert {p.subject for p in report.problems} == {"champion"}


def test_the_anchor_moves_with_every_event_and_finds_a_cut_tail(shared, shared_url):
    add(shared)
    before = shared.anchor()
    add(shared, key="k2")
    after = shared.anchor()
    assert before != after
    assert shared.verify().anchor == after
    tamper(shared_url, "DELETE FROM event WHERE key = 'k2'")
    assert shared.verify().ok
    assert shared.anchor() == before


# Backup


def filled(ledger):
    ledger.append_all(LOOP, [new("data/flights", key=f"k{n}", payload={"n": n, "s": "é🌍"}) for n in range(1200)])
    with pytest.raises(HeadMoved):
        add(ledger, "data/flights", key="x", expect=1)
    add(ledger, key="p1", day=3)
    ledger.acquire("gpu/0", "ada", MINUTE, START)
    return ledger


@pytest.mark.parametrize(
    ("source", "target"),
    [("sqlite", "postgres"), ("postgres", "sqlite"), ("sqlite", "memory"), ("memory", "postgres")],
)
def test_a_backup_restores_into_the_other_database(request, tmp_path, source, target):
    urls = request.getfixturevalue(f"{source}_url"), request.getfixturevalue(f"{target}_url")
    with open_ledger(urls[0]) as old, open_ledger(urls[1]) as restored:
        report = filled(old).backup(tmp_path / "backup.jsonl")
        assert restored.restore(tmp_path / "backup.jsonl") == report == restored.verify()
        assert list(restored.events()) == list(old.events())
        assert restored.anchor() == old.anchor()

        new_event = add(restored, key="p2")
        assert new_event.position > max(e.position for e in old.events())
        assert restored.acquire("gpu/0", "bob", MINUTE, START).epoch == 2
        assert restored.verify().ok


def test_an_empty_ledger_is_backed_up_and_restored(ledger, tmp_path):
    ledger.backup(tmp_path / "backup.jsonl")
    assert ledger.restore(tmp_path / "backup.jsonl").events == 0
    assert add(ledger).subject_seq == 1


def test_a_backup_has_a_header_and_the_stored_bytes(ledger, tmp_path):
    event = add(ledger)
    ledger.backup(tmp_path / "backup.jsonl")
    header, line = map(json.loads, (tmp_path / "backup.jsonl").read_text().splitlines())
    assert header == {"format": "kaizen-ledger", "version": 1, "schema": 1, "count": 1, "anchor": ledger.anchor()}
    assert (line["payload"], line["hash"]) == ('{"champion":1}', event.hash)


def test_only_an_empty_ledger_is_restored_into(ledger, tmp_path):
    add(ledger)
    ledger.backup(tmp_path / "backup.jsonl")
    with pytest.raises(LedgerError) as refusal:
        ledger.restore(tmp_path / "backup.jsonl")
    assert refusal.value.code == "KZ508"


def changed_header(lines, **changes):
    return [canonical_json({**json.loads(lines[0]), **changes}), *lines[1:]]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda lines: [], "JSONDecodeError"),
        (lambda lines: lines[1:], "not an object"),
        (lambda lines: lines[:-1], "2 events"),
        (lambda lines: [*lines[:-1], lines[-1][:40]], "JSONDecodeError"),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], "subject_seq"),
        (lambda lines: [*lines[:2], lines[2].replace('\\"n\\":2', '\\"n\\":7'), lines[3]], "hash is not"),
        (lambda lines: [*lines[:3], lines[3].replace('"turn":"t1"', '"turn":null')], "not an object"),
        (lambda lines: [*lines, lines[-1]], "IntegrityError"),
        (lambda lines: changed_header(lines, version=2), "'version': 2"),
        (lambda lines: changed_header(lines, schema=99), "'schema': 99"),
        (lambda lines: changed_header(lines, format="other"), "other"),
        (lambda lines: changed_header(lines, count="3"), "not an object"),
    ],
)
def test_a_damaged_backup_changes_nothing(ledger, tmp_path, damage, told):
    backup = tmp_path / "backup.jsonl"
    with open_ledger(":memory:") as source:
        for n in (1, 2, 3):
            add(source, key=f"k{n}", payload={"n": n})
        source.backup(backup)
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text("\n".join(damage(backup.read_text().splitlines())))
    with pytest.raises(LedgerError, match=told) as refusal:
        ledger.restore(damaged)
    assert refusal.value.code == "KZ507"
    assert list(ledger.events()) == []
    assert ledger.restore(backup).events == 3


def test_a_missing_backup_is_named(ledger, tmp_path):
    with pytest.raises(LedgerError, match=r"nothing\.jsonl"):
        ledger.restore(tmp_path / "nothing.jsonl")


def test_a_damaged_ledger_is_not_backed_up(shared, shared_url, tmp_path):
    add(shared)
    tamper(shared_url, "UPDATE event SET actor = 'eve'")
    with pytest.raises(LedgerError, match="damaged event 1"):
        shared.backup(tmp_path / "backup.jsonl")
    assert not (tmp_path / "backup.jsonl").exists()


# Opening


def test_what_was_appended_is_there_when_opened_again(shared, shared_url):
    event = add(shared)
    shared.close()
    with open_ledger(shared_url) as again:
        assert list(again.events()) == [event]


def test_a_plain_path_is_a_sqlite_file(tmp_path):
    with open_ledger(str(tmp_path / "a b?.db")) as ledger:
        event = add(ledger)
    assert (tmp_path / "a b?.db").exists()
    with open_ledger(str(tmp_path / "a b?.db")) as again:
        assert again.head(LOOP, "champion") == event


def test_a_newer_schema_is_refused(shared, shared_url):
    with raw(shared_url) as connection:
        connection.exec_driver_sql("INSERT INTO kaizen_schema VALUES (99)")
    with pytest.raises(LedgerError, match="schema 99") as refusal:
        open_ledger(shared_url)
    assert refusal.value.code == "KZ509"


def test_a_role_that_may_only_read_reads(postgres_url):
    with open_ledger(postgres_url) as ledger:
        event = add(ledger)
    role = f"reader_{os.getpid()}"
    with raw(postgres_url) as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        connection.exec_driver_sql(f"GRANT SELECT ON event, lease, kaizen_schema TO {role}")
    try:
        url = sa.make_url(postgres_url).set(username=role, password="x").render_as_string(hide_password=False)
        with open_ledger(url) as reader:
            assert list(reader.heads(LOOP).values()) == [event]
            with pytest.raises(LedgerError, match="permission denied"):
                add(reader, key="k2")
    finally:
        with raw(postgres_url) as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    "url", ["postgresql://ada:hunter2@127.0.0.1:1/x", "postgresql://127.0.0.1:1/x?user=ada&password=hunter2"]
)
def test_an_unreachable_database_is_named_without_its_password(url):
    pytest.importorskip("psycopg")
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1:1/x") as refusal:
        open_ledger(url)
    assert refusal.value.code == "KZ506"
    assert "hunter2" not in str(refusal.value)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(LedgerError, match=r"nowhere/ledger\.db"):
        open_ledger(str(tmp_path / "nowhere" / "ledger.db"))


@pytest.mark.parametrize("url", ["mysql://ada:hunter2@host/x", "postgresql://ada:hunter2@host:port/x", "://hunter2"])
def test_other_urls_are_refused_without_telling_their_password(url):
    with pytest.raises(LedgerError) as refusal:
        open_ledger(url)
    assert refusal.value.code == "KZ510"
    assert "hunter2" not in str(refusal.value)


def test_a_missing_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDependency, match=r"kaizen-mlops\[postgres\]"):
        open_ledger("postgresql://127.0.0.1/x")


# Several processes


def promote_many(url, promoter, count):
    with open_ledger(url) as ledger:
        head = None
        for turn in range(count):
            head = promote_next(ledger, promoter, turn, head)


def promote_next(ledger, promoter, turn, head):
    """The promotion that replaces ``head``, or whatever head somebody else put there meanwhile."""
    while True:
        replaced = head.subject_seq if head else 0
        payload = {"champion": replaced + 1, "replaces": replaced, "promoter": promoter}
        try:
            return add(ledger, key=f"{promoter}/{turn}/{replaced}", payload=payload, expect=replaced)
        except HeadMoved as moved:
            head = moved.head


def ingest_many(url, table, count):
    with open_ledger(url) as ledger:
        for n in range(count):
            add(ledger, f"data/{table}", "DataVersion", f"{table}/{n}", {"n": n}, expect=n)


def test_sixteen_promoters_make_one_line_and_disturb_no_ingest(shared_url):
    # Nobody has opened the ledger yet: the processes also meet at its creation.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kaizen.adapters.sql_ledger"])
    work = [context.Process(target=promote_many, args=(shared_url, p, 20)) for p in range(16)]
    work += [context.Process(target=ingest_many, args=(shared_url, t, 40)) for t in range(8)]
    for process in work:
        process.start()
    for process in work:
        process.join()
    assert [process.exitcode for process in work] == [0] * 24

    with open_ledger(shared_url) as ledger:
        champions = list(ledger.events(LOOP, subject="champion"))
        assert [e.payload["champion"] for e in champions] == list(range(1, 321))
        assert [e.payload["replaces"] for e in champions] == list(range(320))
        assert [e.position for e in champions] == sorted(e.position for e in champions)
        assert all(sum(e.payload["promoter"] == p for e in champions) == 20 for p in range(16))
        assert {e.subject_seq for e in ledger.heads(LOOP, prefix="data/").values()} == {40}
        assert ledger.verify().ok


def test_a_forked_child_uses_connections_of_its_own(shared):
    add(shared)
    child = os.fork()
    if child == 0:
        try:
            add(shared, key="child")
        finally:
            os._exit(0 if shared.find(LOOP, "Promotion", "child") else 1)
    assert os.waitpid(child, 0)[1] == 0
    add(shared, key="parent")
    assert [e.key for e in shared.events()] == ["k1", "child", "parent"]
    assert shared.verify().ok


APPEND_ONCE = """
import sys
from datetime import UTC, datetime
from kaizen.ledger import open_ledger
with open_ledger(sys.argv[1]) as ledger:
    at = datetime(2013, 3, 1, tzinfo=UTC)
    ledger.append("nyc/flights", "champion", "Promotion", "k1", {"n": 1}, turn="t1", at=at, actor="ada", expect=0)
"""


@pytest.mark.parametrize(("point", "left"), [("before_commit", 0), ("after_commit", 1)])
def test_an_append_that_was_killed_is_repeated_to_the_same_end(shared_url, point, left):
    command = [sys.executable, "-c", APPEND_ONCE, shared_url]
    paths = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    killed = subprocess.run(command, env={**os.environ, **paths, "KAIZEN_FAULT": f"ledger.append.{point}:kill"})
    assert killed.returncode == -9
    with open_ledger(shared_url) as ledger:
        assert len(list(ledger.events())) == left

    subprocess.run(command, env={**os.environ, **paths}, check=True)
    with open_ledger(shared_url) as ledger, open_ledger(":memory:") as undisturbed:
        add(undisturbed, payload={"n": 1})
        assert ledger.anchor() == undisturbed.anchor()
        assert ledger.verify().ok


# A connection that breaks


class CommitCutter(threading.Thread):
    """A TCP proxy to PostgreSQL; ``armed``, it lets one COMMIT through and drops the connection and the reply."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port, self.target, self.armed, self.cuts = self.server.getsockname()[1], port, False, 0

    def run(self):
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            database = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self.serve, args=(client, database), daemon=True).start()

    def serve(self, client, database):
        replies = threading.Thread(target=self.pump, args=(database, client), daemon=True)
        replies.start()
        while chunk := client.recv(65536):
            if self.armed and b"COMMIT" in chunk:
                self.armed, self.cuts = False, self.cuts + 1
                client.shutdown(socket.SHUT_RDWR)
            database.sendall(chunk)
        database.shutdown(socket.SHUT_WR)

    @staticmethod
    def pump(source, target):
        try:
            while chunk := source.recv(65536):
                target.sendall(chunk)
        except OSError:
            pass


def test_a_commit_whose_reply_is_lost_is_resolved_by_its_key(postgres_url):
    parsed = sa.make_url(postgres_url)
    proxy = CommitCutter(parsed.port)
    proxy.start()
    url = parsed.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
    with open_ledger(url) as ledger:
        add(ledger, "data/flights", "DataVersion")
        proxy.armed = True
        event = add(ledger, expect=0)
        assert proxy.cuts == 1
        assert ledger.head(LOOP, "champion") == event
        assert len(list(ledger.events(LOOP))) == 2
        add(ledger, key="k2", expect=1)
    proxy.server.close()


def test_a_writer_past_the_lock_cannot_break_the_chain(postgres_url):
    """A row that appears between the look and the insert, as from a client that takes no lock."""
    with open_ledger(postgres_url) as ledger, open_ledger(":memory:") as other:
        intruder = add(other, key="intruder")
        add(ledger, "data/flights", "DataVersion")
        allocate = ledger._positions

        def slow_positions(connection, count):
            ledger._positions = allocate
            with raw(postgres_url) as past:
                row = {
                    **vars(intruder),
                    "position": allocate(past, 1)[0],
                    "at": START.isoformat(timespec="microseconds"),
                }
                row["payload"] = canonical_json(intruder.payload)
                names = ", ".join(row)
                past.execute(sa.text(f"INSERT INTO event ({names}) VALUES (:{', :'.join(row)})"), row)
            return allocate(connection, count)

        ledger._positions = slow_positions
        event = add(ledger)
        assert (event.subject_seq, event.prev_hash) == (2, intruder.hash)
        assert ledger.verify().ok


def test_leases_are_listed_by_what_their_resources_begin_with(ledger):
    names = ("gpu/a/1", "gpu/a/0", "gpu/ab/0", "gpu-ticket/a/0", "gpu/a%/0")
    leases = {name: ledger.acquire(name, "ada", MINUTE, START) for name in names}
    assert ledger.leases("gpu/a/") == [leases["gpu/a/0"], leases["gpu/a/1"]]
    assert ledger.leases("gpu/a%") == [leases["gpu/a%/0"]]
    assert ledger.leases("nothing") == []
    ledger.release(leases["gpu/a/0"], START)
    assert ledger.leases("gpu/a/") == [leases["gpu/a/1"]]


def test_many_keys_are_asked_for_at_once(ledger):
    """More than fit into one question of the database."""
    keys = [f"k{n}" for n in range(2_500)]
    for key in (keys[0], keys[1_200], keys[-1]):
        add(ledger, f"source/{key}", "Delivery", key=key)
    assert ledger.known_keys(LOOP, "Delivery", keys) == {keys[0], keys[1_200], keys[-1]}
    assert ledger.known_keys(LOOP, "DataVersion", keys) == set()
    assert ledger.known_keys("other/loop", "Delivery", keys) == set()
    assert ledger.known_keys(LOOP, "Delivery", []) == set()
