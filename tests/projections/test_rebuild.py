"""A projection is rebuilt beside the live one: nobody who reads or writes notices, and nothing is left over."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from threading import Event as Signal
from threading import Thread
from typing import Any

import psycopg
import pytest

from celery_journal.journal import Connection, Journal, migrate
from celery_journal.journal.events import (
    ChordPartReturned,
    ChordSizeSet,
    ChordStarted,
    ChordUnlocked,
    Event,
    GroupSaved,
    TaskForgotten,
    TaskRetried,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)
from celery_journal.journal.workers import WorkerForgotten, WorkerHeartbeat, WorkerOffline, WorkerOnline
from celery_journal.projections import PROJECTIONS, RebuildBlocked, rebuild, verify

from .oracle import differences
from .spec import at_once, checked, fact, read_views, until_waiting

KNOWN = 60

#: Everything of the schema that an operator may have set or an application relies on.
CATALOG = """
select 'relation', c.relname, c.relkind::text, pg_get_userbyid(c.relowner), c.reloptions::text,
       coalesce(c.relacl, acldefault('r', c.relowner))::text, obj_description(c.oid), null
  from pg_class c where c.relnamespace = 'celery_journal'::regnamespace and c.relname !~ '^event'
union all
select 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text,
       pg_get_expr(d.adbin, d.adrelid), a.attacl::text, col_description(c.oid, a.attnum)
  from pg_class c
       join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
       left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
 where c.relnamespace = 'celery_journal'::regnamespace and c.relkind in ('r', 'v')
union all
select 'index', tablename, indexname, indexdef, null, null, null, null from pg_indexes where schemaname = 'celery_journal'
union all
select 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), null, null, null, null
  from pg_constraint where connamespace = 'celery_journal'::regnamespace
union all
select 'view', viewname, definition, null, null, null, null, null from pg_views where schemaname = 'celery_journal'
union all
select 'trigger', tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), null, null, null, null from pg_trigger
union all
select 'function', oid::regprocedure::text, pg_get_functiondef(oid), pg_get_userbyid(proowner), proacl::text, null, null, null
  from pg_proc where pronamespace = 'celery_journal'::regnamespace
 order by 1, 2, 3
"""


def catalog(connection: Connection) -> list[tuple[object, ...]]:
    return connection.execute(CATALOG.encode()).fetchall()


def tell_the_known(connection: Connection) -> None:
    """Tasks, groups, chords and workers that nobody ever forgets."""
    for number in range(KNOWN):
        name = f"known-{number}"
        Journal().append(
            connection,
            fact(TaskSent, name, 0, name="add", args=b"[1]"),
            fact(TaskSucceeded, name, 2, result=b"1", worker="w", run="r"),
            fact(GroupSaved, name, 3, members=(name,), result=b"[]"),
            fact(ChordStarted, name, 0, size=1),
            fact(ChordPartReturned, name, 2, task_id=name, state="SUCCESS"),
            fact(WorkerOnline, name, pid=1),
        )


def write(connection: Connection, chance: random.Random) -> None:
    """Append something, of every kind of append that there is."""
    known, other = f"known-{chance.randrange(KNOWN)}", f"other-{chance.randrange(20)}"
    second = chance.randrange(100)
    events: list[list[Event]] = [
        [fact(TaskStarted, known, second, worker="w", run=f"r{chance.randrange(3)}")],
        [fact(chance.choice([WorkerHeartbeat, WorkerOffline]), known, pid=1)],
        [fact(WorkerHeartbeat, known, pid=1), fact(WorkerForgotten, other), fact(WorkerOnline, other)],
        [fact(TaskForgotten, other)],
        [fact(TaskSent, other, second, name="add"), fact(TaskSucceeded, other, second, result=b"1")],
        [fact(TaskForgotten, other), fact(TaskRetried, other, second)],
        [fact(ChordPartReturned, known, second, task_id=other, state="SUCCESS")],
        [fact(ChordSizeSet, known, second, size=chance.randrange(20)), fact(ChordUnlocked, known, second, task_id="body")],
        [fact(GroupSaved, known, second, members=(known, other), result=b"[1]")],
    ]
    Journal().append(connection, *chance.choice(events))


def test_a_rebuild_under_load_is_seen_by_nobody(dsn: str, connection: Connection) -> None:
    """Four writers never fail, two readers never miss a row, and the views are right when all are done."""
    tell_the_known(connection)
    over = Signal()

    def writer(number: int) -> Callable[[Connection], int]:
        chance = random.Random(number)

        def job(own: Connection) -> int:
            written = 0
            while not over.is_set():
                write(own, chance)
                written += 1
            return written

        return job

    def reader(own: Connection) -> int:
        read = 0
        while not over.is_set():
            for view, key, complete in (
                ("task_result", "task_id", "status = 'SUCCESS' and args is not null"),
                ("group_result", "group_id", "result is not null"),
                ("chord_counter", "group_id", "done >= 1 and size is not null"),
                ("chord_part", "group_id", "task_id = group_id and status = 'SUCCESS'"),
                ("task_attempt", "task_id", "run = 'r' and status = 'SUCCESS' and date_sent is not null"),
                ("worker", "worker", "pid = 1 and online_since is not null"),
            ):
                query = f"select count(*) from celery_journal.{view} where {key} like 'known-%%' and {complete}"
                assert own.execute(query.encode()).fetchone() == (KNOWN,), view
                read += 1
        return read

    def rebuilder(own: Connection) -> int:
        try:
            for chunk in (20, 100, 50_000):
                rebuild(own, chunk=chunk)
        finally:
            over.set()
        return 0

    *done, _ = at_once(dsn, [writer(1), writer(2), writer(3), writer(4), reader, reader, rebuilder])

    assert min(done) > 10
    checked(connection)


PROGRAM = """
import sys, time, psycopg
from celery_journal.projections import rebuild

def progress(name, folded, estimate):
    if name == sys.argv[2] and folded >= 40:
        print("half-way", flush=True)
        time.sleep(60)

with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    rebuild(connection, chunk=10, progress=progress)
"""


@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_rebuild_killed_half_way_leaves_the_views_right(dsn: str, connection: Connection, name: str) -> None:
    """After kill -9 everything reads and writes as before, and the next rebuild removes what was left."""
    tell_the_known(connection)
    before, expected = read_views(connection), catalog(connection)
    with subprocess.Popen([sys.executable, "-c", PROGRAM, dsn, name], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "half-way\n"
        killed.send_signal(signal.SIGKILL)

    assert differences(before, checked(connection)) == []
    chance = random.Random(0)
    for _ in range(40):
        write(connection, chance)
    after = checked(connection)
    rebuild(connection)

    assert differences(after, checked(connection)) == []
    assert catalog(connection) == expected


def test_a_rebuild_that_fails_half_way_leaves_nothing(connection: Connection) -> None:
    """An error, of the database or of the caller, removes what was begun."""
    tell_the_known(connection)
    before, expected = read_views(connection), catalog(connection)

    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(connection, chunk=10, progress=fails)

    assert catalog(connection) == expected
    assert differences(before, checked(connection)) == []
    rebuild(connection)
    assert differences(before, checked(connection)) == []


def test_a_rebuilt_table_is_the_table_it_was(empty_database: str) -> None:
    """Indexes, constraints, storage parameters, owner, grants and comments are the same after a rebuild as before."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        migrate(connection)
        for statement in (
            "alter table celery_journal.task_result_row owner to pg_database_owner",
            "alter table celery_journal.chord_part_row set (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.01)",
            "grant select on celery_journal.task_result_row, celery_journal.chord_part_row to pg_monitor",
            "grant select (task_id, status) on celery_journal.task_result_row to pg_read_all_settings",
            "grant select on celery_journal.task_result, celery_journal.chord_part to pg_monitor",
            "create index on celery_journal.task_result_row using gin (celery_journal.json_or_null(result))",
            "create index by_worker on celery_journal.task_result_row (worker) where worker is not null",
            "comment on table celery_journal.task_result_row is 'ours'",
        ):
            connection.execute(statement.encode())
        tell_the_known(connection)
        expected = catalog(connection)

        rebuild(connection)
        once = catalog(connection)
        rebuild(connection)

        assert set(once) ^ set(expected) == set()
        assert catalog(connection) == expected
        checked(connection)


def test_two_rebuilds_at_once_are_safe(dsn: str, connection: Connection) -> None:
    """The second waits for the first, and does the same again."""
    tell_the_known(connection)
    before, expected = read_views(connection), catalog(connection)
    events = 6 * KNOWN

    folded = at_once(dsn, [lambda own: rebuild(own, chunk=50), lambda own: rebuild(own, chunk=70)])

    assert folded == [dict.fromkeys(PROJECTIONS, events)] * 2
    assert catalog(connection) == expected
    assert differences(before, checked(connection)) == []


def test_a_rebuild_waits_for_a_long_writer_without_stopping_the_others(dsn: str, connection: Connection) -> None:
    """A transaction that stays open holds up the rebuild, and no append of anybody else for longer than a moment."""
    tell_the_known(connection)
    with psycopg.connect(dsn, autocommit=True) as long, psycopg.connect(dsn, autocommit=True) as own:
        with long.transaction():
            Journal().append(long, fact(TaskStarted, "long"))
            rebuilding = Thread(target=rebuild, args=(own,))
            rebuilding.start()
            until_waiting(connection, 1)
            slowest = 0.0
            for number in range(40):
                started = time.monotonic()
                Journal().append(connection, fact(TaskStarted, f"short-{number}"))
                slowest = max(slowest, time.monotonic() - started)
                time.sleep(0.05)
            assert rebuilding.is_alive()
        rebuilding.join(30)

    assert not rebuilding.is_alive()
    assert slowest < 1.0
    checked(connection)


def test_a_reader_with_an_older_snapshot_sees_every_row(dsn: str, connection: Connection) -> None:
    """A report in a repeatable-read transaction that began before the rebuild reads the same rows, whatever the rebuild does."""
    tell_the_known(connection)
    with psycopg.connect(dsn, autocommit=True) as report, psycopg.connect(dsn, autocommit=True) as own:
        report.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with report.transaction():
            report.execute("select count(*) from celery_journal.migration")
            rebuilding = Thread(target=rebuild, args=(own,))
            rebuilding.start()
            rebuilding.join(3)

            shown = report.execute("select count(*) from celery_journal.task_result").fetchone()
        rebuilding.join(30)

    assert shown == (KNOWN,)
    assert not rebuilding.is_alive()
    checked(connection)


def test_verifying_during_a_rebuild_finds_no_difference(dsn: str, connection: Connection) -> None:
    """The swap of the tables does not look like missing rows."""
    tell_the_known(connection)
    over = Signal()

    def rebuilder(own: Connection) -> list[str]:
        try:
            for _ in range(3):
                rebuild(own, chunk=100)
        finally:
            over.set()
        return []

    def verifier(own: Connection) -> list[str]:
        found: Sequence[object] = []
        while not over.is_set() and not found:
            found = verify(own).differences
        return [str(difference) for difference in found[:3]]

    assert at_once(dsn, [rebuilder, verifier]) == [[], []]


def test_only_the_named_projections_are_rebuilt(connection: Connection) -> None:
    """A caller may name what to rebuild; the log's events are counted for each."""
    tell_the_known(connection)

    assert rebuild(connection, ["group_result"]) == {"group_result": 6 * KNOWN}
    checked(connection)


def test_a_rebuild_of_an_empty_journal_is_empty(connection: Connection) -> None:
    """There is nothing to fold."""
    assert rebuild(connection) == dict.fromkeys(PROJECTIONS, 0)
    checked(connection)


def test_a_rebuild_tells_how_far_it_is(connection: Connection) -> None:
    """Progress is told after each chunk: the projection, the events folded and an estimate of all."""
    tell_the_known(connection)
    told: list[tuple[str, int, int]] = []

    rebuild(connection, chunk=100, progress=lambda name, folded, estimate: told.append((name, folded, estimate)))

    assert [(name, folded) for name, folded, _ in told] == [(name, folded) for name in PROJECTIONS for folded in (100, 200, 300, 360)]
    assert all(folded <= estimate for _, folded, estimate in told)


def test_a_rebuild_leaves_leases_and_checkpoints_alone(connection: Connection) -> None:
    """Who is about to send a chord's body is no view, and is not rebuilt."""
    tell_the_known(connection)
    connection.execute("select celery_journal.claim_chord('known-1', 1, 'me', '1 minute')")
    before = connection.execute("select * from celery_journal.chord_lease").fetchall()

    rebuild(connection)

    assert connection.execute("select * from celery_journal.chord_lease").fetchall() == before
    assert connection.execute("select celery_journal.claim_chord('known-1', 0, 'you', '1 minute')").fetchone() == ("taken",)


# Who stands in the way


def test_a_rebuild_says_whom_it_waits_for_and_holds_nobody_up(dsn: str, connection: Connection) -> None:
    """Beside one idle transaction that has appended, other writers wait for moments only."""
    tell_the_known(connection)
    said: list[str] = []
    slowest = 0.0
    over = Signal()

    def rebuilder() -> None:
        with psycopg.connect(dsn, autocommit=True) as own:
            rebuild(own, ["group_result"], say=said.append)
        over.set()

    with psycopg.connect(dsn, application_name="the idle one") as idle, psycopg.connect(dsn, autocommit=True) as writer:
        write(idle, random.Random(0))
        thread = Thread(target=rebuilder)
        thread.start()
        began = time.monotonic()
        while time.monotonic() - began < 3:
            before = time.monotonic()
            Journal().append(writer, fact(TaskSent, f"beside-{before}", 0))
            slowest = max(slowest, time.monotonic() - before)
            time.sleep(0.005)
        idle.rollback()
        thread.join(60)

    assert over.is_set()
    assert said
    assert f"process {idle.info.backend_pid if not idle.closed else ''}".strip() in said[0]
    assert "the idle one" in said[0]
    assert "insert into" not in said[0].lower()
    assert slowest < 0.25, "25 ms for the lock, and what a busy machine adds"
    assert differences(read_views(connection), checked(connection)) == []


def test_no_function_of_a_rebuild_is_everybodys(connection: Connection) -> None:
    """Not even while it runs: whoever may execute a function for triggers may attach it to a table of their own."""
    tell_the_known(connection)
    found: list[object] = []

    def look(*_: object) -> None:
        with psycopg.connect(connection.info.dsn, autocommit=True) as other:
            found.extend(
                other.execute(
                    b"select p.proname from pg_proc p where p.pronamespace = 'celery_journal'::regnamespace "
                    b"and has_function_privilege('public', p.oid, 'execute')"
                ).fetchall()
            )
            functions = other.execute(b"select count(*) from pg_proc where proname like 'rebuild_%'").fetchone()
            assert functions == (1,)

    rebuild(connection, chunk=10, progress=look)

    assert found == []


def test_the_fold_works_on_the_log_alone(connection: Connection) -> None:
    """Also for whoever may execute its function."""
    tell_the_known(connection)
    before = read_views(connection)
    connection.execute(b"create temp table fake (like celery_journal.event)")
    connection.execute(
        b"create trigger t after insert on fake referencing new table as new_event "
        b"for each statement execute function celery_journal.fold()"
    )

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(b"insert into fake select * from celery_journal.event")

    assert differences(before, read_views(connection)) == []
    connection.execute(b"drop table fake")


def test_a_stranger_cannot_block_a_rebuild(dsn: str, connection: Connection) -> None:
    """A table with a column of our row type, by one who may not read that: ours is replaced, and the old one emptied and kept aside."""
    tell_the_known(connection)
    connection.execute(b"create role some_stranger; grant usage on schema celery_journal to some_stranger")
    connection.execute(b"create schema stranger authorization some_stranger")
    try:
        connection.execute(b"set role some_stranger; create view stranger.v as select * from celery_journal.group_result_row")
        connection.execute(b"create table stranger.t (c celery_journal.group_result_row); reset role")
        said: list[str] = []

        rebuild(connection, say=said.append)
        rebuild(connection, say=said.append)

        assert len(said) == 1
        assert "view stranger.v of some_stranger" in said[0]
        assert connection.execute(b"select count(*) from celery_journal.group_result").fetchone() == (KNOWN,)
    finally:
        connection.execute(b"reset role; drop schema stranger cascade; drop owned by some_stranger; drop role some_stranger")
    rebuild(connection)
    assert connection.execute(b"select relname from pg_class where relname like '%aside%'").fetchall() == []
    checked(connection)


def test_a_view_of_somebody_who_reads_a_table_itself_is_named_before_anything_begins(connection: Connection) -> None:
    """It would go on with the table that was replaced."""
    connection.execute(b"create view public.mine as select * from celery_journal.task_result_row")

    with pytest.raises(RebuildBlocked, match=r"^view public.mine of postgres depends on .*task_result_row.* read the view"):
        rebuild(connection)

    connection.execute(b"drop view public.mine")
    rebuild(connection)


def test_writers_are_stopped_for_one_round_trip(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit included: however slow the client and the network are, nobody waits for them."""
    write(connection, random.Random(0))
    after = []
    execute = psycopg.Cursor.execute

    def noting(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        answer = execute(cursor, query, *args, **kwargs)
        if b"in share row exclusive mode" in query:
            after.append(cursor.connection.info.transaction_status)
        return answer

    monkeypatch.setattr(psycopg.Cursor, "execute", noting)

    rebuild(connection, ["task_result"])

    assert after == [psycopg.pq.TransactionStatus.IDLE] * 3  # the trigger comes, the tables change places, the trigger goes
