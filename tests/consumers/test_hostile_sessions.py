"""Sessions as others have left or set them, directly and through PgBouncer: what is planted is not called, no setting changes a result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from celery_journal.consumers.lost import find_lost, sweep_lost
from celery_journal.consumers.models import TaskResult
from celery_journal.consumers.results import install
from celery_journal.consumers.stale import get_stale_tasks
from celery_journal.journal import Connection, Emitter, Journal, Subscription, connect, migrate
from celery_journal.journal.events import TaskFailed, TaskSent
from celery_journal.journal.sessions import SESSION
from celery_journal.projections import verify
from tests.conftest import empty, new_database, require

from .commanding import Commands
from .hostile import WRITTEN_OTHERWISE, have, plant
from .lostscene import GRACE
from .scene import current, delivered, in_background, new_app, until, url_of
from .servers import PGBOUNCER, folder_of_servers, pgbouncer
from .test_cli import as_url
from .test_every_command import EVERY, arguments_of, is_told

#: Those that need a process or a terminal of their own, or no database; and those that a test here runs by itself.
NOT_HERE = {"demo", "capture", "export", "import", "periodic"}

#: What makes a session hostile, by name: all of it stands before a journal is made in the database.
HOSTILE: dict[str, Callable[[str], None]] = {
    "planted": plant,
    "database": lambda dsn: have(dsn, WRITTEN_OTHERWISE),
    "role": lambda dsn: have(dsn, WRITTEN_OTHERWISE, of="role"),
}


@pytest.fixture(scope="module")
def bouncer(embedded_server: str) -> Iterator[str]:
    """A PgBouncer with two sessions a database, for everybody."""
    require("PgBouncer", PGBOUNCER is not None)
    with folder_of_servers() as folder, pgbouncer(embedded_server, folder, default_pool_size="2") as dsn:
        yield dsn


@pytest.fixture(scope="module", params=HOSTILE)
def hostile(request: pytest.FixtureRequest, embedded_server: str) -> Iterator[str]:
    """The DSN of a database whose sessions are so, with a journal that our own commands have made."""
    for dsn in new_database(embedded_server):
        HOSTILE[request.param](dsn)
        with connect(dsn) as connection:
            migrate(connection)
        yield dsn


@pytest.fixture(scope="module", params=["directly", "through PgBouncer"])
def way(request: pytest.FixtureRequest, hostile: str) -> str:
    """The DSN by which it is reached."""
    if request.param == "directly":
        return hostile
    bouncer: str = request.getfixturevalue("bouncer")
    return make_conninfo(bouncer, dbname=conninfo_to_dict(hostile)["dbname"])


@pytest.fixture
def app(way: str, hostile: str) -> Iterator[Celery]:
    """An app on the journal, which is empty and has no other way."""
    with connect(hostile) as connection:
        empty(connection)
    app = install(new_app(url_of(way), result_expires=3600))
    yield app
    app.backend.database.close()
    app.close()


def test_a_caller_of_its_own_would_meet_it(hostile: str) -> None:
    """Else nothing that is tried here would show anything."""
    with psycopg.connect(hostile, autocommit=True) as careless:
        (path,) = careless.execute(b"show search_path").fetchone() or ("",)
        (_, isolation) = (careless.execute(b"show datestyle").fetchone(), careless.execute(b"show transaction_isolation").fetchone())

    assert path != SESSION["search_path"]
    assert path == "public, pg_catalog" or isolation == ("serializable",)


def test_each_transaction_knows_what_it_has_to(way: str) -> None:
    """Whether it is a statement alone, a block, a block in a block, or comes after one that failed; and nothing of it stays."""
    settings = b"select s.name, pg_catalog.current_setting(s.name) from pg_catalog.unnest(%s::pg_catalog.text[]) as s (name)"
    written = {**SESSION, "datestyle": "ISO, YMD", "transaction_isolation": "read committed"}

    def seen(connection: Connection) -> dict[str, str]:
        return dict(connection.execute(settings, [list(written)]).fetchall())

    with connect(way) as connection:
        for _ in range(3):
            found = seen(connection)
            with connection.transaction():
                inside = seen(connection)
                with connection.transaction():
                    deeper = seen(connection)
            with connection.cursor() as cursor:
                streamed = dict(cursor.stream(settings, [list(written)]))
            with pytest.raises(psycopg.errors.DivisionByZero):
                connection.execute(b"select 1 / 0")
            for one in (found, inside, deeper, streamed):
                assert {name: one[name] for name in written if name != "default_transaction_isolation"} == {
                    name: value for name, value in written.items() if name != "default_transaction_isolation"
                }


def test_the_backend_works(app: Celery, way: str) -> None:
    """Every call of it that reaches the database; and what it stored is what the log folds to."""
    backend, body = app.backend, app.signature("scene.collect", task_id="body")
    request = delivered(app, task_id="é", args=(1.1,), kwargs={"at": "漢"}, hostname="w@ü")
    value = {"é": "漢字\U0001f600", "b": "\\x00\\'", "n": None, "f": 0.1 + 0.2}

    backend.store_result("é", None, "STARTED", request=request)
    backend.store_result("é", value, "SUCCESS", request=request)
    backend.store_result("f", ValueError("NULL"), "FAILURE", traceback="tb \\' NULL")
    backend.store_result("r", ConnectionError("x"), "RETRY", request=delivered(app, task_id="r", retries=1))
    members = app.GroupResult("g", [app.AsyncResult("é"), app.AsyncResult("f")])
    backend.save_group("g", members)
    backend.apply_chord(("c", [app.AsyncResult("m")]), body)
    backend.set_chord_size("c", 1)
    member = delivered(app, task_id="m", group_id="c", group_index=0, chord=dict(body))
    backend.mark_as_done("m", 42, request=member)
    events = [Emitter().emit(TaskSent, name, name=None if number else "NULL") for number, name in enumerate(("NULL", "b", "c2"))]
    backend.append(*events)  # as arrays, of which some are null

    with current(app):
        assert app.AsyncResult("é").get(timeout=10) == value
        assert app.AsyncResult("f").traceback == "tb \\' NULL"
        assert app.AsyncResult("f").get(timeout=10, propagate=False).args == ("NULL",)
        assert len(app.AsyncResult("é").history()) == 2
        assert app.AsyncResult("é").attempts()
        assert app.AsyncResult("é").explain()
        assert abs(app.AsyncResult("é").date_done.replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(minutes=5)
        assert backend.restore_group("g").id == "g"
        assert TaskResult.objects.get(task_id="b").task_name is None
        assert TaskResult.objects.get(task_id="NULL").task_name == "NULL"

        async def awaited() -> list[Any]:
            found = [one.task_id async for one in TaskResult.aobjects.filter(status="SUCCESS").order_by("task_id")]
            return [await app.AsyncResult("é"), len(await app.AsyncResult("é").ahistory()), found]

        assert asyncio.run(awaited()) == [value, 2, ["m", "é"]]
        waiting = in_background(app.AsyncResult("later").get, timeout=60)
        backend.store_result("later", 1, "SUCCESS")
        assert waiting.result() == 1

    backend.sweep_is_ours()
    assert backend.sweep_chords() == []
    backend.delete_group("g")
    backend.forget("r")
    backend.cleanup()
    with connect(way) as connection:
        assert connection.execute(b"select state from celery_journal.chord_counter where group_id = 'c'").fetchall() == [("unlocked",)]
        assert verify(connection).differences == []


def test_what_asks_in_python_works(way: str) -> None:
    """Every lookup, the manager's calls, what is lost and stale, and a subscription."""
    with connect(way) as connection:
        emitter = Emitter()
        Journal().append(connection, emitter.emit(TaskSent, "asked", name="add", kwargs=b'{"a": 1}'), emitter.emit(TaskFailed, "asked2"))
        tasks = TaskResult.objects.using(connection)
        now = datetime.now(UTC)
        for lookup in (
            {"task_id": "asked"}, {"task_id__in": ["asked"]}, {"task_id__gt": "a"}, {"task_id__lte": "z"}, {"worker__isnull": True},
            {"task_name__contains": "d"}, {"task_name__icontains": "D"}, {"task_name__startswith": "a"}, {"task_name__istartswith": "A"},
            {"task_name__glob": "a*"}, {"date_created__within": timedelta(hours=1)}, {"date_created__older_than": timedelta(hours=-1)},
            {"date_created__lte": now + timedelta(hours=1)}, {"kwargs__path": {"a": 1}},
        ):  # fmt: skip
            assert "asked" in {task.task_id for task in tasks.filter(**lookup)}, lookup
        assert tasks.filter(task_id__startswith="asked").exclude(task_id="asked").order_by("-date_created", "task_id").count() == 1
        assert len(list(tasks.all()[:1000])) == len(list(tasks.all()))
        assert list(tasks.get_stale_tasks(timedelta(days=1))) == []
        assert list(get_stale_tasks(connection, timedelta(days=1))) == []
        find_lost(connection, GRACE)
        sweep_lost(connection, Journal(), emitter, GRACE)
        read: list[str] = []
        subscription = Subscription(Journal(), "hostile")
        until(
            lambda: subscription.catch_up(connection, lambda _, events: read.extend(one.event.stream for one in events)) or "asked" in read
        )

        assert "asked" in read


def test_every_command_works(commands: Commands, way: str, tmp_path: Path) -> None:
    """As a superuser, for whom what is planted would be the most."""
    with connect(way) as connection:
        Journal().append(connection, *(Emitter().emit(kind, "task-000100", name="add") for kind in (TaskSent, TaskFailed)))
    tried = [arguments_of(path, tmp_path) for path in EVERY if path[0] not in NOT_HERE]
    tried += [["export", "-o", f"{tmp_path}/log", "--yes"], ["import", f"{tmp_path}/log", "--yes"], ["export", "--format", "csv"]]
    tried += [["annotate", "task-000100", "--note", "é", "--yes"], ["list", "since:1h", "took:<1h", "kwargs.a:1"], ["doctor", "--payloads"]]
    tried += [["lost", "--mark"], ["tail", "-n", "3"], ["export", "state:FAILURE"], ["migrate", "--yes"]]

    for words in tried:
        ended = commands.run(*words, dsn=as_url(way))

        assert "planted" not in ended.said, words
        is_told(ended, 0, 1)
        if ended.code == 1:
            refused = words[:2] == ["projections", "rebuild"] and "past the pooler" in ended.err
            assert refused or words[0] in {"doctor", "status", "lost", "stale", "revoke", "list", "replay"}, (words, ended.said)
    assert commands.run("projections", "verify", dsn=as_url(way)).code == 0


def test_the_fold_is_the_same_in_whatever_session(hostile: str) -> None:
    """A writer inserts in a session of its own, whose settings are its own too: the views are still what the log folds to."""
    with psycopg.connect(hostile, autocommit=True) as writer:
        for number, kind in enumerate(("task-sent", "task-received", "task-started", "task-retried", "task-failed", "task-progress")):
            state = {"task-sent": "PENDING", "task-received": "RECEIVED", "task-started": "STARTED", "task-retried": "RETRY"}
            writer.execute(
                "insert into celery_journal.event (event_id, occurred_at, stream, kind, state, eta, expires, time_limit, members, meta)"
                " values (pg_catalog.gen_random_uuid(), pg_catalog.clock_timestamp(), 'own', %s, %s, '2026-10-25 00:30:00+00',"
                " '2026-10-25 01:30:00+00', 0.1, '{NULL,a}', '\\x7b7d')".replace("NULL,", "" if number % 2 else "n,").encode(),
                [kind, state.get(kind, "FAILURE" if kind == "task-failed" else "PROGRESS")],
            )
        for kind, more in (("group-saved", "{a}"), ("chord-started", "{b}"), ("worker-online", None), ("task-forgotten", None)):
            writer.execute(
                b"insert into celery_journal.event (event_id, occurred_at, stream, kind, members, size, meta)"
                b" values (pg_catalog.gen_random_uuid(), pg_catalog.clock_timestamp(), 'own', %s, %s, 1,"
                b" pg_catalog.convert_to('{\"freq\": 10}', 'UTF8'))",
                [kind, more],
            )

    with connect(hostile) as connection:
        assert verify(connection).differences == []
