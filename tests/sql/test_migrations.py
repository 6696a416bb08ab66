"""Bringing a database to the version of this package."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from celery_journal.journal import (
    Connection,
    Emitter,
    Journal,
    SchemaMissing,
    SchemaOutdated,
    SchemaTooNew,
    WrongEncoding,
    check_version,
    migrate,
    pending_migrations,
    projections_to_rebuild,
    schema_version,
    script,
    wanted_version,
)
from celery_journal.journal.events import ChordStarted, GroupSaved, TaskSucceeded
from celery_journal.journal.migrations import migrations
from celery_journal.projections import rebuild, verify
from tests.conftest import migrate_to
from tests.journal.waiting import wait_until

from .catalog import Catalog, catalog


@pytest.fixture(scope="module")
def fresh(spare_database: str) -> Catalog:
    """What a schema consists of that was migrated once."""
    with psycopg.connect(spare_database, autocommit=True) as connection:
        migrate(connection)
        return catalog(connection)


def test_a_schema_consists_of_something(fresh: Catalog) -> None:
    """What the tests here compare is not empty, whatever the version of PostgreSQL."""
    names = {name for name, *_ in fresh["relations"]}

    assert {"event", "event_default", "task_result_row", "task_result", "subscription", "event_stream"} <= names
    assert all(fresh[kind] for kind in fresh)


def test_migrating_says_what_it_did(bare: Connection) -> None:
    """The first time every migration is applied, the second time none."""
    before = [migration.version for migration in pending_migrations(bare)]

    applied = [[migration.version for migration in migrate(bare)] for _ in range(2)]

    assert before == list(range(1, wanted_version() + 1))
    assert applied == [before, []]
    assert pending_migrations(bare) == []
    assert schema_version(bare) == wanted_version()


def test_a_schema_that_was_migrated_twice_is_the_same(bare: Connection, fresh: Catalog) -> None:
    """Migrating what is up to date changes nothing."""
    migrate(bare)
    migrate(bare)

    assert catalog(bare) == fresh


@pytest.mark.parametrize(
    "tampering",
    [
        pytest.param(
            "create or replace function celery_journal.json_or_null(encoded bytea) returns jsonb language sql as 'select null::jsonb'",
            id="another function body",
        ),
        pytest.param("drop function celery_journal.purge_forgotten()", id="a missing function"),
        pytest.param("drop view celery_journal.chord_counter", id="a missing view"),
        pytest.param("drop trigger fold on celery_journal.event", id="no fold"),
        pytest.param("alter table celery_journal.event disable trigger fold", id="a fold that is switched off"),
        pytest.param("drop trigger refuse_change on celery_journal.event", id="a log that can be changed"),
        pytest.param("drop trigger refuse_nonsense on celery_journal.event", id="a log that can hold anything"),
        pytest.param("alter table celery_journal.event_default disable trigger refuse_nonsense", id="a part of it that can"),
    ],
)
def test_migrating_restores_what_was_tampered_with(tampering: str, bare: Connection, fresh: Catalog) -> None:
    """Functions, triggers and views are those of this package afterwards, whatever they were before."""
    migrate(bare)
    bare.execute(tampering.encode())
    assert catalog(bare) != fresh

    migrate(bare)

    assert catalog(bare) == fresh


def test_the_script_makes_the_same_schema(bare: Connection, fresh: Catalog) -> None:
    """Whoever may not run our program gets the same from psql."""
    bare.execute(script().encode())

    assert catalog(bare) == fresh
    check_version(bare)


def test_migrating_after_the_script_changes_nothing(bare: Connection, fresh: Catalog) -> None:
    """The script leaves nothing to do."""
    bare.execute(script().encode())

    assert migrate(bare) == []
    assert catalog(bare) == fresh


def test_migrating_is_all_or_nothing(bare: Connection) -> None:
    """When a step fails, the database is as it was."""
    bare.execute("create schema celery_journal; create table celery_journal.task_result (mine integer)")

    with pytest.raises(psycopg.Error):
        migrate(bare)

    assert bare.execute("select relname from pg_class where relnamespace = 'celery_journal'::regnamespace").fetchall() == [("task_result",)]


def test_migrating_keeps_what_is_recorded(bare: Connection, emitter: Emitter) -> None:
    """Events and views come through."""
    migrate(bare)
    event = emitter.emit(TaskSucceeded, "task-1", result=b"42")
    Journal().append(bare, event)

    migrate(bare)

    assert [recorded.event for recorded in Journal().read_stream(bare, "task-1")] == [event]
    assert bare.execute("select result from celery_journal.task_result").fetchall() == [(b"42",)]


MIGRATE = """
import sys
import psycopg
from celery_journal.journal import migrate

with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    print(len(migrate(connection)))
"""


#: They ask for the lock again and again.
WAITING = b"""
    select count(*) from pg_stat_activity
     where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"""


def test_ten_processes_migrate_at_once(spare_database: str, bare: Connection, fresh: Catalog) -> None:
    """They wait for each other; one does the work, and the others find it done."""
    bare.execute("select pg_advisory_lock(hashtextextended('celery_journal.migrate', 0))")
    command = [sys.executable, "-c", MIGRATE, spare_database]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(10)]
    try:
        wait_until(lambda: bare.execute(WAITING).fetchone() == (10,))
    finally:
        bare.execute("select pg_advisory_unlock_all()")
    answers = [process.communicate(timeout=60)[0] for process in processes]

    assert [process.returncode for process in processes] == [0] * 10
    assert sorted(map(int, answers)) == [0] * 9 + [wanted_version()]
    assert catalog(bare) == fresh


# Versions


def test_the_version_of_this_package_is_right(bare: Connection) -> None:
    """A schema that was just migrated is used without a word."""
    migrate(bare)

    check_version(bare)


@pytest.mark.parametrize(
    "prepare", [pytest.param("select", id="no schema"), pytest.param("create schema celery_journal", id="empty schema")]
)
def test_a_missing_schema_says_which_command_makes_it(prepare: str, bare: Connection) -> None:
    """A database without a journal is told from one with an old one."""
    bare.execute(prepare.encode())

    with pytest.raises(SchemaMissing) as error:
        check_version(bare)

    assert schema_version(bare) is None
    assert "celery-journal migrate" in str(error.value)


def test_an_older_schema_says_which_command_updates_it(bare: Connection) -> None:
    """Both versions are named, and the way on."""
    migrate(bare)
    bare.execute("delete from celery_journal.migration where version > 1")

    with pytest.raises(SchemaOutdated) as error:
        check_version(bare)

    assert (error.value.found, error.value.wanted) == (1, wanted_version())
    assert "celery-journal migrate" in str(error.value)


def test_a_newer_schema_says_which_command_updates_the_package(bare: Connection) -> None:
    """Both versions are named, and the way on."""
    migrate(bare)
    bare.execute("insert into celery_journal.migration (version, name) values (9999, '9999_future')")

    with pytest.raises(SchemaTooNew) as error:
        check_version(bare)

    assert (error.value.found, error.value.wanted) == (9999, wanted_version())
    assert "pip install --upgrade" in str(error.value)


def test_an_old_package_does_not_migrate_a_newer_schema(bare: Connection) -> None:
    """Its functions are not those of the newer schema, so it changes nothing."""
    migrate(bare)
    bare.execute("insert into celery_journal.migration (version, name) values (9999, '9999_future')")
    bare.execute("create or replace function celery_journal.purge_forgotten() returns bigint language sql as 'select 9999::bigint'")
    before = catalog(bare)

    with pytest.raises(SchemaTooNew):
        migrate(bare)

    assert catalog(bare) == before


# Another name


def test_a_schema_of_another_name_works_and_is_all_there_is(bare: Connection, emitter: Emitter) -> None:
    """Append, read and view work there, and nothing of the default name is left in the database."""
    migrate(bare, "audit_trail")
    check_version(bare, "audit_trail")
    journal = Journal(schema="audit_trail")
    events = (
        emitter.emit(TaskSucceeded, "task-1", result=b"42"),
        emitter.emit(GroupSaved, "group-1", members=("task-1",)),
        emitter.emit(ChordStarted, "group-1", size=1),
    )

    journal.append(bare, *events)

    wait_until(lambda: len(journal.read_all(bare)) == 3)
    assert [recorded.event for recorded in journal.read_stream(bare, "task-1")] == [events[0]]
    assert bare.execute("select result from audit_trail.task_result").fetchall() == [(b"42",)]
    assert bare.execute("select members from audit_trail.group_result").fetchall() == [(["task-1"],)]
    assert bare.execute("select size, count from audit_trail.chord_counter").fetchall() == [(1, 1)]
    assert bare.execute("select to_regnamespace('celery_journal')").fetchone() == (None,)
    assert "celery_journal" not in repr(catalog(bare, "audit_trail"))


def test_a_schema_of_another_name_has_the_same_script(bare: Connection) -> None:
    """What `migrate` makes is what the script makes, under that name too."""
    bare.execute(script("audit_trail").encode())

    made = catalog(bare, "audit_trail")
    bare.execute("drop schema audit_trail cascade")
    migrate(bare, "audit_trail")
    assert catalog(bare, "audit_trail") == made


def test_two_schemas_in_one_database_do_not_disturb_each_other(bare: Connection, emitter: Emitter) -> None:
    """Each has its own log and its own views."""
    migrate(bare)
    migrate(bare, "audit_trail")

    Journal().append(bare, emitter.emit(TaskSucceeded, "task-1"))
    Journal(schema="audit_trail").append(bare, emitter.emit(TaskSucceeded, "task-2"))

    assert bare.execute("select task_id from celery_journal.task_result").fetchall() == [("task-1",)]
    assert bare.execute("select task_id from audit_trail.task_result").fetchall() == [("task-2",)]


def test_a_bad_schema_name_changes_nothing(bare: Connection) -> None:
    """It is refused before anything is sent."""
    with pytest.raises(ValueError, match="not usable"):
        migrate(bare, "Audit-Trail")

    assert bare.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert bare.execute("select count(*) from pg_namespace where nspname ilike 'audit%'").fetchone() == (0,)


# What earlier versions have recorded


BEFORE_RUNS = """
insert into celery_journal.event (event_id, occurred_at, stream, kind, state, name, worker, task_id, size, group_index, result) values
    ('01941f29-7c00-8000-8000-000000000001', '2025-01-01', 'task-1', 'task-sent', 'PENDING', 'add', null, null, null, null, null),
    ('01941f29-7c00-8000-8000-000000000002', '2025-01-02', 'task-1', 'task-started', 'STARTED', 'add', 'w', null, null, null, null),
    ('01941f29-7c00-8000-8000-000000000003', '2025-01-03', 'task-1', 'task-succeeded', 'SUCCESS', 'add', 'w', null, null, null, '42'),
    ('01941f29-7c00-8000-8000-000000000004', '2025-01-01', 'chord-1', 'chord-started', null, null, null, 'body-1', 2, null, '[]'),
    ('01941f29-7c00-8000-8000-000000000005', '2025-01-01', 'celery@w', 'worker-online', null, null, null, null, null, null, null);
insert into celery_journal.task_result_row (
       task_id, date_created, date_updated, asked_rank, asked_at, asked_position, task_name, run_rank, run_at, run_position, worker,
       started_attempt, date_started, outcome_rank, outcome_at, outcome_position, status, retries, date_done, result)
values ('task-1', '2025-01-01', '2025-01-03', 1099511627777, '2025-01-01', 1, 'add', 1099511627777, '2025-01-02', 2, 'w',
        0, '2025-01-02', 1125899906842624, '2025-01-03', 3, 'SUCCESS', 0, '2025-01-03', '42');
insert into celery_journal.chord_counter_row (
       group_id, date_created, started_rank, started_at, started_position, sub_tasks, size_rank, size_at, size_position, size)
values ('chord-1', '2025-01-01', 0, '2025-01-01', 4, '[]', 0, '2025-01-01', 4, 2);
"""


@pytest.fixture
def before_runs(bare: Connection) -> Connection:
    """A schema of version 2, as it was when the log knew no runs, with what it made of a few events."""
    bare.execute("create schema celery_journal")
    for migration in migrations()[:2]:
        bare.execute(migration.text.encode())
        bare.execute("insert into celery_journal.migration (version, name) values (%s, %s)", (migration.version, migration.name))
    bare.execute(BEFORE_RUNS.encode())
    return bare


def test_migrating_from_version_2_keeps_what_is_recorded(before_runs: Connection) -> None:
    """Every event and every row comes through, and can be read before anything is rebuilt."""
    applied = migrate(before_runs)

    assert applied[0].version == 3
    assert len(Journal().read_stream(before_runs, "task-1")) == 3
    shown = before_runs.execute("select status, result, date_sent, lost_reason from celery_journal.task_result").fetchall()
    assert shown == [("SUCCESS", b"42", None, None)]
    assert before_runs.execute("select state, size, body_task_id from celery_journal.chord_counter").fetchall() == [("open", 2, None)]


def test_a_rebuild_fills_what_version_3_has_brought(before_runs: Connection) -> None:
    """The migration names the projections of which only a rebuild fills the new columns and tables; it leaves nothing to fill."""
    names = projections_to_rebuild(before_runs, migrate(before_runs))

    rebuild(before_runs, names)

    assert names == ["task_result", "group_result", "chord_counter", "worker"]
    assert verify(before_runs).differences == []
    assert before_runs.execute("select date_sent = '2025-01-01' from celery_journal.task_result").fetchall() == [(True,)]
    assert before_runs.execute("select worker, date_started = '2025-01-02' from celery_journal.task_attempt").fetchall() == [("w", True)]
    assert before_runs.execute("select body_task_id from celery_journal.chord_counter").fetchall() == [("body-1",)]
    assert before_runs.execute("select worker from celery_journal.worker").fetchall() == [("celery@w",)]


def test_a_schema_of_version_2_becomes_the_same_as_a_new_one(before_runs: Connection, fresh: Catalog) -> None:
    """Whichever way it was reached, the schema is the same."""
    migrate(before_runs)

    assert catalog(before_runs) == fresh


def test_a_new_schema_needs_no_rebuild(bare: Connection) -> None:
    """Where nothing had been recorded there is nothing to fill."""
    assert projections_to_rebuild(bare, migrate(bare)) == []


def test_old_rows_are_not_written_anew_for_who_recorded_them(bare: Connection) -> None:
    """Of those it is not known; of the next it is, whatever the client says."""
    migrate_to(bare, 4)
    fact = b"""
        insert into celery_journal.event (event_id, occurred_at, stream, kind, state)
        values (gen_random_uuid(), now(), %s, 'task-sent', 'PENDING')"""
    bare.execute(fact, ("old",))
    before = bare.execute("select tableoid, ctid, xmin from celery_journal.event").fetchall()

    migrate(bare)

    assert bare.execute("select tableoid, ctid, xmin from celery_journal.event").fetchall() == before
    bare.execute(fact, ("new",))
    rows = bare.execute("select stream, recorded_by = session_user from celery_journal.event order by position").fetchall()
    assert rows == [("old", None), ("new", True)]


# Who may execute what

PUBLIC = b"""
    select p.oid::regprocedure::text from pg_proc p
     where p.pronamespace = 'celery_journal'::regnamespace and has_function_privilege('public', p.oid, 'execute')"""


@pytest.mark.parametrize("version", range(1, wanted_version()))
def test_no_function_is_everybodys_after_a_migration_from_any_version(version: int, bare: Connection) -> None:
    """Without roles too, whatever the version was, and though everybody could execute it before."""
    migrate_to(bare, version)
    bare.execute("create function celery_journal.added_by_a_migration() returns int language sql as 'select 1'")
    bare.execute("alter table celery_journal.subscription alter generation set default ''") if version < 6 else None
    bare.execute("insert into celery_journal.subscription (name, transaction, position) values ('old', '0', 0)")
    assert len(bare.execute(PUBLIC).fetchall()) == 1

    migrate(bare)

    assert bare.execute(PUBLIC).fetchall() == []
    assert bare.execute("select name, owner from celery_journal.subscription").fetchall() == [("old", None if version < 5 else "postgres")]


def test_what_a_superuser_migrates_is_the_owners(bare: Connection) -> None:
    """Also a function that is new: one that runs with the rights of its owner must not run with a superuser's."""
    bare.execute("create role settled_owner")
    try:
        migrate(bare)
        bare.execute("alter schema celery_journal owner to settled_owner")

        migrate(bare)

        owners = b"""
            select pg_get_userbyid(proowner) from pg_proc where pronamespace = 'celery_journal'::regnamespace
             union
            select pg_get_userbyid(relowner)
              from pg_class where relnamespace = 'celery_journal'::regnamespace and relkind in ('r', 'p', 'v')"""
        assert bare.execute(owners).fetchall() == [("settled_owner",)]
    finally:
        bare.execute("drop owned by settled_owner; drop role settled_owner")


def test_migrating_says_whom_it_waits_for(bare: Connection, spare_database: str) -> None:
    """One who has appended and does not end holds up neither the migration in silence nor the other writers."""
    migrate(bare)
    bare.execute("alter table celery_journal.event disable trigger fold")  # so that there is something to change
    said: list[str] = []
    with psycopg.connect(spare_database, application_name="the idle one") as idle:
        Journal().append(idle, Emitter().emit(TaskSucceeded, "t"))
        threading.Timer(2.5, idle.rollback).start()

        assert migrate(bare, say=said.append) == []

    assert len(said) == 1
    assert re.search(r"migrate waits for process \d+ of postgres \(the idle one\), idle in transaction", said[0])


def test_migrating_what_is_up_to_date_waits_for_no_writer(bare: Connection, spare_database: str) -> None:
    """Nor do writers wait for it: one of them has appended and not ended yet."""
    migrate(bare)
    said: list[str] = []
    with psycopg.connect(spare_database) as idle:
        Journal().append(idle, Emitter().emit(TaskSucceeded, "t"))

        assert migrate(bare, say=said.append) == []

        assert idle.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    assert said == []


def test_writers_wait_for_nothing_of_a_migration_but_its_end(bare: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stops them comes last."""
    migrate(bare)
    bare.execute("alter table celery_journal.event disable trigger fold")
    asked: list[object] = []
    execute = psycopg.Cursor.execute

    def noting(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(query)
        return execute(cursor, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.Cursor, "execute", noting)

    migrate(bare)

    (place,) = [number for number, query in enumerate(asked) if b"create or replace trigger fold" in query]  # type: ignore[operator]
    assert b"is_restored" in asked[place + 1]  # type: ignore[operator]
    assert len(asked) == place + 2


def test_a_database_that_cannot_hold_every_text_is_refused(server: str) -> None:
    """Before anything is created, and with the sentence that says how to make one."""
    name = f"journal_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name} encoding 'SQL_ASCII' template template0 locale 'C'".encode())
        try:
            with psycopg.connect(server, dbname=name, autocommit=True) as other:
                with pytest.raises(WrongEncoding, match=r"encoded in SQL_ASCII .* create database .* encoding 'UTF8'"):
                    migrate(other)
                assert schema_version(other) is None
        finally:
            connection.execute(f"drop database {name} with (force)".encode())
