"""At two years of weekly partitions, what many do at once locks few of them: a server has 64 locks for each of a hundred connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from click.testing import CliRunner

from celery_journal import sql
from celery_journal.consumers.backend.revokes import revokes_of
from celery_journal.consumers.capture.control import REVOKES
from celery_journal.consumers.cli import main
from celery_journal.consumers.lost import find_lost, sweep_lost
from celery_journal.journal import Connection, Emitter, Journal, migrate
from celery_journal.journal.codec import encode
from celery_journal.journal.events import (
    ChordPartReturned,
    ChordStarted,
    ChordUnlocked,
    GroupDeleted,
    GroupSaved,
    OperatorActed,
    TaskForgotten,
    TaskReceived,
    TaskRejected,
    TaskSent,
    TaskSucceeded,
)
from tests.conftest import new_database

from .lockcount import Counted, counting, reading
from .lostscene import Log
from .scene import new_app, url_of
from .servers import folder_of_servers, postgresql
from .test_cli import as_url

WEEK = timedelta(days=7)

SESSIONS = 80

#: Locks of one of eighty sessions, where the server has them for a hundred.
MOST = 64 * 100 // SESSIONS

#: Commands that are run, none of which many run at once; what they share with others is counted all the same.
COMMANDS = (
    ["list", "state:SUCCESS"],
    ["list", "resolved:no"],
    ["list", "settled:no"],
    ["show", "t0"],
    ["history", "t100"],
    ["explain", "open"],
    ["explain", "c0"],
    ["graph", "t0"],
    ["graph", "c0"],
    ["graph", "nothing"],
    ["tail"],
    ["top", "--once"],
    ["stats"],
    ["stale", "--seconds", "0"],
    ["doctor"],
    ["export", "--output", "{folder}/all"],
    ["export", "state:SUCCESS", "--output", "{folder}/some"],
    ["import", "{folder}/all", "--yes"],
    ["annotate", "t0", "--note", "seen", "--yes"],
    ["replay", "t0", "--broker", "memory://", "--yes"],
    ["revoke", "t1", "--broker", "memory://", "--yes"],
    ["watch", "--exec", "true", "--once", "--from-start"],
)

ONE_AT_A_TIME = "one process of all does so at a time, and waits for no other"
IN_ORDER = "reads the whole log in its order, in which any partition may come next"
BY_A_PERSON = "is a command of a person, of which eighty do not run at once"
OWNER = "of the owner of the log, who changes or builds anew what belongs to all of it"
SWEEP = "is asked by one worker of all at a time, from its oldest unfinished task or chord on; a test of its own bounds it"
DEMO = "of the demo, whose log is of today"

#: Statements that may lock more, and why.
EXCEPTIONS = {
    "alerts.sql: page": IN_ORDER,
    "chord.sql: stragglers": SWEEP,
    "demo.sql: change": DEMO,
    "demo.sql: delete": DEMO,
    "demo.sql: fingerprints": DEMO,
    "demo.sql: kinds": DEMO,
    "demo.sql: size of the log": DEMO,
    "doctor.sql: future events": BY_A_PERSON,
    "doctor.sql: move week": OWNER,
    "doctor.sql: places": BY_A_PERSON,
    "doctor.sql: subscriptions": BY_A_PERSON,
    "doctor.sql: triggers": BY_A_PERSON,
    "explain.sql: first names": "looks up what tasks were called, of whatever age: " + BY_A_PERSON,
    "journal.sql: read all": IN_ORDER,
    "journal.sql: restore many": ONE_AT_A_TIME,
    "lost.sql: complete chords": SWEEP,
    "lost.sql: found": SWEEP,
    "lost.sql: oldest": SWEEP,
    "lost.sql: last news": BY_A_PERSON,
    "lost.sql: settled": BY_A_PERSON,
    "lost.sql: waiting chords": SWEEP,
    "query.sql: rows": "looks up, where it is asked, what people have said of tasks, of whatever age: " + BY_A_PERSON,
    "query.sql: keys of hidden": "a part of the statements before",
    "query.sql: keys of resolved": "a part of the statements before",
    "query.sql: keys of settled": "a part of the statements before",
    "query.sql: keys of replayed": "a part of the statements before",
    "query.sql: keys of replay_failed": "a part of the statements before",
    "query.sql: column replaced_name": "a part of the statements before",
    "query.sql: any replaced_name": "a part of the statements before",
    "rebuild.sql: extent": OWNER,
    "rebuild.sql: next chunk": OWNER,
    "rebuild.sql: stop writers": OWNER,
    "replay.sql: last batch": ONE_AT_A_TIME,
    "replay.sql: last batches": BY_A_PERSON,
    "replay.sql: unfinished": BY_A_PERSON,
    "schema.sql: begin epoch": OWNER,
    "schema.sql: create partitions": OWNER,
    "schema.sql: create past partitions": ONE_AT_A_TIME,
    "schema.sql: has events": OWNER,
    "schema.sql: settle": OWNER,
    "stats.sql: by key": "asks which tasks are settled: " + BY_A_PERSON,
    "stats.sql: never sent": "a part of the counts of stats and top: " + BY_A_PERSON,
    "stats.sql: replaced": "a part of the counts of stats and top: " + BY_A_PERSON,
    "unsent.sql: chained": SWEEP,
    "unsent.sql: revoked": SWEEP,
    "unsent.sql: sent with": "of an id of which nothing else is known, and only a few more",
    "tail.sql: last": IN_ORDER,
    "transfer.sql: left out": IN_ORDER,
    "transfer.sql: places": IN_ORDER,
    "transfer.sql: rows": "an export's page, whose facts are of the weeks in which they were recorded, and of any where clocks were off",
}


@pytest.fixture(scope="module")
def two_years(server: str) -> Iterator[str]:
    """A log that has been kept for two years, in which something is recent and something old; nothing old is unfinished."""
    for dsn in new_database(server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            make_two_years(connection)
        yield dsn


def make_two_years(connection: Connection) -> None:
    """Make the partitions, and tell of tasks, chords, a group and a worker."""
    migrate(connection)
    for weeks_ago in range(2, 105):
        monday = "date_trunc('week', clock_timestamp(), 'UTC') - %s * interval '168 hours'"
        connection.execute(f"select celery_journal.create_partition({monday})".encode(), (weeks_ago,))
    log, now = Log(connection), datetime.now(UTC)
    for weeks_ago in (0, 1, 50, 100):
        moment = now - weeks_ago * WEEK
        log.sent(f"t{weeks_ago}", occurred_at=moment)
        log.received(f"t{weeks_ago}", occurred_at=moment)
        log.started(f"t{weeks_ago}", occurred_at=moment)
        log.tell(TaskSucceeded, f"t{weeks_ago}", occurred_at=moment, run="r1", source="backend")
        header = {"size": 2, "task_id": f"b{weeks_ago}", "result": b'[[["m1", null], null]]'}
        log.tell(ChordStarted, f"c{weeks_ago}", occurred_at=moment, **header)
        if weeks_ago:
            log.tell(ChordUnlocked, f"c{weeks_ago}", occurred_at=moment, task_id=f"b{weeks_ago}")
    log.sent("open")
    log.started("open")
    log.tell(GroupSaved, "g", members=("t0",))
    log.online()
    log.offline()


def work(dsn: str) -> None:
    """Do what clients and workers do, until every statement that is prepared at all has been prepared."""
    app = new_app(url_of(dsn), result_cache_max=-1)
    backend = app.backend
    for turn in range(8):
        backend.store_result(f"x{turn}", 1, "SUCCESS")
        backend.get_task_meta(f"x{turn}")
        backend.transitions_of(["t0", "t100"])
        backend.store_result(f"y{turn}", None, "REVOKED")
        backend.forget(f"x{turn}")
        backend.forget("t50")
        backend.store_result(f"x{turn}", 1, "SUCCESS")
    backend.database.close()


def read(dsn: str) -> None:
    """Call what the package offers of the log."""
    journal, emitter, now = Journal(), Emitter(), datetime.now(UTC)
    window = {"since": now - timedelta(days=1), "until": now + timedelta(days=1)}
    with psycopg.connect(dsn, autocommit=True) as connection:
        for turn in range(8):
            journal.append(connection, event := emitter.emit(TaskSent, "s"))
            journal.append(connection, event)  # told again
            journal.append(connection, emitter.emit(TaskSent, f"s{turn}"), emitter.emit(TaskSent, f"r{turn}"))
            journal.append(connection, *(emitter.emit(TaskForgotten, stream) for stream in (f"s{turn}", f"r{turn}")))
            journal.append(connection, emitter.emit(TaskReceived, f"s{turn}"))
            journal.append(connection, emitter.emit(TaskReceived, f"s{turn}"), emitter.emit(TaskRejected, f"r{turn}"))
            journal.append(connection, emitter.emit(GroupDeleted, f"g{turn}"))
            journal.append(connection, emitter.emit(ChordPartReturned, "c0", task_id="m", group_index=0, state="SUCCESS"))
            journal.read_stream(connection, "t0")
            journal.known(connection, ["t0"])
            journal.read_all(connection, limit=2)
            connection.execute(sql.query("broadcast.sql", "told"), {"streams": ["t0"], **window}, prepare=False)
            connection.execute(sql.query("broadcast.sql", "signs of life"), {"workers": ["w1"], **window}, prepare=False)
            list(journal.look(connection, sql.query("broadcast.sql", "ever told"), {"streams": ["t0"]}))
            list(journal.look(connection, sql.query("replay.sql", "seen"), {"task_ids": ["t0"], "since": now}))
            given_back = {"task_ids": ["t0"], "late": "late", "cancelled": "cancelled"}
            list(journal.look(connection, sql.query("lost.sql", "given back"), given_back))
            journal.append(connection, emitter.emit(OperatorActed, REVOKES, members=("t0", "unknown")))
            journal.append(connection, emitter.emit(OperatorActed, REVOKES, stamps={"customer": ["c7"]}))
            revokes_of(connection, journal, "w1", seconds=0, at_most=10)
        journal.restore(connection, [encode(emitter.emit(TaskSent, "restored", occurred_at=now))])


def sweep(dsn: str) -> None:
    """Do what one worker of all does."""
    app = new_app(url_of(dsn))
    app.backend.sweep_chords()
    app.backend.database.close()
    with psycopg.connect(dsn, autocommit=True) as connection:
        find_lost(connection, 0.01, unmarked=True)
        assert sweep_lost(connection, Journal(), Emitter(), 0.01)


@pytest.fixture(scope="module")
def counted(two_years: str, tmp_path_factory: pytest.TempPathFactory) -> Counted:
    """The locks of each statement, with those that its transaction had before."""
    with pytest.MonkeyPatch.context() as monkeypatch, counting(monkeypatch) as counted:
        work(two_years)
        read(two_years)
        folder = tmp_path_factory.mktemp("files")
        for command in COMMANDS:
            CliRunner().invoke(main, ["--dsn", as_url(two_years), *(word.format(folder=folder) for word in command)])
    return counted


def test_every_statement_that_reads_the_log_is_counted(counted: Counted) -> None:
    """A new one has to be run here, or to be an exception that says why."""
    assert reading() - counted.most.keys() - EXCEPTIONS.keys() == set()


def test_no_statement_locks_the_partitions_of_two_years(counted: Counted) -> None:
    """Eighty sessions at once stay within the locks that a server has by default."""
    assert {name: locks for name, locks in counted.most.items() if locks > MOST and name not in EXCEPTIONS} == {}


def test_a_sweep_locks_the_partitions_from_its_oldest_unfinished_task_on(two_years: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those of the weeks to come, in which there may be what a clock that is ahead has told."""
    with counting(monkeypatch) as swept:
        sweep(two_years)

    assert {"chord.sql: stragglers", "lost.sql: found", "lost.sql: complete chords", "lost.sql: waiting chords"} <= swept.most.keys()
    assert {name: locks for name, locks in swept.most.items() if locks > 2 * MOST} == {}


def test_eighty_sessions_read_at_once() -> None:
    """Each holds what it locks, while the sweeps go on and others append and forget; the server has the locks that it has by default."""
    with folder_of_servers() as folder, postgresql(folder, max_connections="100") as server, ExitStack() as sessions:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            make_two_years(connection)
            query, *stretches = sql.query("journal.sql", "read stream"), *Journal().stretches(connection)
        for session in range(SESSIONS):
            held = sessions.enter_context(psycopg.connect(server.dsn))
            held.execute(query, {"stream": "t0", **stretches[session % len(stretches)]}, prepare=False)

        sweep(server.dsn)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            Journal().append(connection, Emitter().emit(TaskForgotten, "t0"))
            told = [recorded.event.kind for recorded in Journal().read_stream(connection, "t0")]

    assert told[-1] == "task-forgotten"
