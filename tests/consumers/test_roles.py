"""The roles of sql/roles.sql: the writer runs the whole backend, and cannot change history."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from celery import Celery
from celery.app.task import Context
from click.testing import CliRunner
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from celery_journal.consumers.backend import JournalBackend
from celery_journal.consumers.cli import main
from celery_journal.consumers.cli.app import journal
from celery_journal.consumers.cli.target import AppTarget
from celery_journal.consumers.explain import explain
from celery_journal.consumers.lost import find_lost, sweep_lost
from celery_journal.consumers.stale import get_stale_tasks
from celery_journal.consumers.sweeping import LostSweep
from celery_journal.journal import Connection, RightsMissing, migrate, role_name, roles_script
from celery_journal.journal.events import ChordPartReturned, ChordStarted
from celery_journal.projections import TaskResult, rebuild, verify
from tests.conftest import new_database
from tests.roles import KINDS, with_roles

from .conftest import NewApp
from .lostscene import GRACE, Log, ago, pause
from .scene import Mailbox, ask, new_app, until, url_of
from .test_cli import as_url, command


@pytest.fixture
def roles(dsn: str) -> Iterator[str]:
    """The DSN of a journal that has the roles, with the logins app_writer and app_reader as members."""
    with with_roles(dsn, app_writer="writer", app_reader="reader"):
        yield dsn


@pytest.fixture
def writer(roles: str) -> Iterator[Connection]:
    """A connection of the writer."""
    with psycopg.connect(make_conninfo(roles, user="app_writer"), autocommit=True) as connection:
        yield connection


def backend_of(dsn: str) -> JournalBackend:
    """Return a backend that logs in as the writer."""
    app = Celery("roles", set_as_current=False, broker="memory://")
    app.conf.result_expires = 3600
    return JournalBackend(app, url="journal+" + make_conninfo(dsn, user="app_writer"))


def test_the_writer_runs_the_whole_backend(roles: str) -> None:
    """Every call of the backend works for a login that is only a member of the writer role."""
    backend = backend_of(roles)
    app = backend.app
    body = app.signature("body", options={"task_id": "body"})
    request = Context(id="member", group="chord", group_index=0, chord=dict(body), task="add")
    group = app.GroupResult("group", [app.AsyncResult("member")])

    backend.store_result("member", {"pid": 1}, "STARTED", request=request)
    backend.apply_chord(("chord", [app.AsyncResult("member")]), body)
    backend.set_chord_size("chord", 1)
    backend.mark_as_done("member", 42, request=request)
    backend.save_group("group", group)

    assert backend.get_result("member") == 42
    assert backend.restore_group("group").id == "group"
    assert backend.sweep_is_ours()
    assert backend.sweep_chords() == []
    backend.delete_group("group")
    backend.forget("member")
    backend.cleanup()
    assert backend.get_state("member") == "PENDING"
    with psycopg.connect(roles, autocommit=True) as connection:
        assert connection.execute(b"select state, body_task_id from celery_journal.chord_counter").fetchall() == [("unlocked", "body")]
        assert verify(connection).differences == []


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(b"update celery_journal.event set name = 'x'", id="update the log"),
        pytest.param(b"delete from celery_journal.event", id="delete from the log"),
        pytest.param(b"truncate celery_journal.event", id="truncate the log"),
        pytest.param(b"set celery_journal.maintenance = 'on'; delete from celery_journal.event", id="delete under the maintenance setting"),
        pytest.param(b"delete from celery_journal.event_default", id="delete from a partition"),
        pytest.param(b"drop table celery_journal.event_default", id="drop a partition"),
        pytest.param(b"alter table celery_journal.event disable trigger all", id="disable the triggers"),
        pytest.param(b"update celery_journal.task_result_row set status = 'SUCCESS'", id="update a view's table"),
        pytest.param(b"delete from celery_journal.chord_part_row", id="delete a chord's parts"),
        pytest.param(b"update celery_journal.task_result set status = 'SUCCESS'", id="update through a view"),
    ],
)
def test_the_writer_cannot_change_history(roles: str, writer: Connection, statement: bytes) -> None:
    """Neither the log nor the views: the database refuses for want of the privilege."""
    backend_of(roles).store_result("task", 1, "SUCCESS")

    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState)):
        writer.execute(statement)

    assert writer.execute(b"select count(*), min(status) from celery_journal.task_result").fetchone() == (1, "SUCCESS")


def test_the_reader_reads_and_does_nothing_else(roles: str) -> None:
    """The reader sees the log and the views, and cannot append."""
    backend_of(roles).store_result("task", 1, "SUCCESS")

    with psycopg.connect(make_conninfo(roles, user="app_reader"), autocommit=True) as reader:
        assert reader.execute(b"select status, result_json from celery_journal.task_result").fetchall() == [("SUCCESS", 1)]
        assert reader.execute(b"select count(*) from celery_journal.event").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute(
                b"insert into celery_journal.event (event_id, stream, kind, occurred_at) values (gen_random_uuid(), 's', 'k', now())"
            )


def test_the_writer_marks_what_is_lost_and_the_reader_finds_and_explains_it(roles: str) -> None:
    """F02: the sweep of a worker, and the commands of somebody who only looks."""
    with psycopg.connect(roles, autocommit=True) as connection:
        log = Log(connection)
        log.online()
        for task_id in ("t", "u"):
            log.started(task_id, occurred_at=ago(7200))
        log.offline()
        log.tell(ChordStarted, "g", result=b"[]", size=1, task_id="body")
        log.tell(ChordPartReturned, "g", task_id="m", group_index=0, state="SUCCESS")
    pause()
    backend = backend_of(roles)

    marked = backend.database.run(lambda connection: sweep_lost(connection, backend.journal, backend.emitter, GRACE))
    LostSweep(backend.database.run, backend.journal, backend.emitter).try_turn()

    assert {lost.task_id for lost in marked} == {"t", "u", "body"}
    with psycopg.connect(make_conninfo(roles, user="app_reader"), autocommit=True) as reader:
        assert {lost.task_id for lost in find_lost(reader, GRACE)} == {"t", "u", "body"}
        assert [task.task_id for task in get_stale_tasks(reader, timedelta(hours=1))] == ["t", "u"]
        assert "It is lost" in str(explain(reader, "t"))
        assert "chord g" in str(explain(reader, "body"))
        assert ask(roles, b"select claimed_by from celery_journal.chord_lease") == [(backend.emitter.name,)]


def test_who_may_not_record_a_revoke_has_the_workers_told_nothing(roles: str) -> None:
    """Or else they would discard tasks, and the log would not say why."""
    app = new_app("disabled://")
    asked: list[Any] = []
    with app.connection_for_read() as connection:
        node = app.control.mailbox.Node("w@h", channel=connection.default_channel)
        node.listen(callback=lambda body, _message: asked.append(body["arguments"].get("task_id") or body["arguments"]["ids"]))
        codes = []
        for user in ("app_reader", "app_writer"):
            revoked = [f"t of {user}", "--unknown", "--broker", "memory://", "--yes"]
            codes.append(CliRunner().invoke(main, ["--dsn", as_url(make_conninfo(roles, user=user)), "revoke", *revoked]).exit_code)
        until(lambda: connection.drain_events(timeout=1) or len(asked) == 2)

    assert (codes, asked) == ([4, 1], [["t of app_writer"]] * 2)  # who has it, and the revoke; nobody answers


def test_who_may_not_record_a_periodic_task_sends_none(roles: str, make_app: NewApp, mailbox: Mailbox) -> None:
    """A task that nobody is known to have sent."""
    schedule = {"nightly": {"task": "scene.add", "schedule": 3600.0, "args": (1, 2)}}
    ended = {}
    for user in ("app_reader", "app_writer"):
        app = make_app(url_of(make_conninfo(roles, user=user)), beat_schedule=schedule, **mailbox.conf)
        ended[user] = CliRunner().invoke(journal.commands["periodic"], ["run", "nightly", "--yes"], obj=AppTarget(app))

    assert isinstance(ended["app_reader"].exception, RightsMissing)
    assert ended["app_writer"].exit_code == 0
    assert [message.task for message in mailbox.sent()] == ["scene.add"]


def test_a_capture_that_may_not_record_takes_nothing_from_the_broker(roles: str) -> None:
    """It says so before."""
    told = command("capture", "--broker", "memory://", "--once", dsn=as_url(make_conninfo(roles, user="app_reader")))

    assert told.returncode == 4
    assert "Error: the login app_reader may not insert into event, " in told.stderr


def test_a_rebuild_by_a_superuser_leaves_the_tables_to_their_owner(roles: str) -> None:
    """After a rebuild the writer still runs the backend, because owners and grants are as before."""
    backend = backend_of(roles)
    backend.store_result("task", 1, "SUCCESS")
    with psycopg.connect(roles, autocommit=True) as connection:
        rebuild(connection)
        owners = connection.execute(
            b"select distinct pg_get_userbyid(relowner) from pg_class "
            b"where relnamespace = 'celery_journal'::regnamespace and relkind in ('r', 'p', 'v')"
        ).fetchall()
        owner = role_name(connection, "owner")

    backend.store_result("task", 2, "STARTED")

    assert owners == [(owner,)]
    assert backend.get_result("task") == 1


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(words, id=words[0])
        for words in (
            ["list"],
            ["show", "t"],
            ["history", "t"],
            ["explain", "t"],
            ["graph", "body"],
            ["stats"],
            ["top", "--once"],
            ["tail"],
            ["stale"],
            ["lost"],
            ["export"],
            ["export", "--format", "csv"],
        )
    ],
)
def test_the_reader_can_ask_everything(roles: str, words: list[str]) -> None:
    """Nothing that only tells needs more than the reader may see; and no task is lost, nor stale."""
    with psycopg.connect(roles, autocommit=True) as connection:
        log = Log(connection)
        log.sent("t")
        log.tell(ChordStarted, "g", size=2, task_id="body", result=b'[[["t", null], null]]')

    result = command(*words, dsn=as_url(make_conninfo(roles, user="app_reader")))

    assert (result.returncode, result.stderr) == (0, ""), words


def test_the_reader_asks_in_python(roles: str) -> None:
    """F11: also for what has an eta."""
    with psycopg.connect(make_conninfo(roles, user="app_reader"), autocommit=True) as connection:
        assert list(TaskResult.objects.using(connection).get_stale_tasks(timedelta(hours=1))) == []


def test_what_the_reader_may_not_see_is_no_end_of_doctor(roles: str) -> None:
    """That check says so, and the others are made."""
    result = command("doctor", dsn=as_url(make_conninfo(roles, user="app_reader")))

    partitions = [line for line in result.stdout.splitlines() if "\tpartitions\t" in line]
    assert partitions == [
        "warn\tpartitions\tnot looked at: permission denied for table event_default for app_reader\trun this as the owner of the schema"
    ]
    assert "\thorizon\t" in result.stdout
    assert "\tspool\t" in result.stdout


def test_setting_up_with_roles_gives_the_workers_theirs(empty_database: str) -> None:
    """The names are those of this database and schema alone; a login of theirs may append, and owns nothing."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute("create role some_shop login")
        try:
            refused = command("migrate", "--roles", "--writer", "some_nobody", dsn=as_url(empty_database))
            result = command("migrate", "--roles", "--writer", "some_shop", dsn=as_url(empty_database))
            database = connection.info.dbname

            assert (refused.returncode, refused.stderr) == (
                1,
                'Error: role "some_nobody" does not exist; make the login first: create role NAME login\n',
            )
            assert result.returncode == 0, result.stderr
            assert f"celery_journal_writer_{database}" in result.stdout
            backend_of_shop = make_conninfo(empty_database, user="some_shop")
            with psycopg.connect(backend_of_shop, autocommit=True) as shop:
                query = b"select pg_has_role(current_user, relowner, 'member') from pg_class where oid = 'celery_journal.event'::regclass"
                assert shop.execute(query).fetchone() == (False,)
            assert command("tail", dsn=as_url(backend_of_shop)).returncode == 0
            again = command("migrate", "--roles", dsn=as_url(empty_database))
            assert again.returncode == 0, again.stderr
        finally:
            names = [f"celery_journal_{kind}_{connection.info.dbname}" for kind in KINDS]
            for role in ("some_shop", *names):
                if connection.execute("select from pg_roles where rolname = %s", (role,)).fetchone() is not None:
                    leave = SQL("reassign owned by {0} to current_user; drop owned by {0}; drop role {0}")
                    connection.execute(leave.format(Identifier(role)))


def test_a_writer_of_one_database_is_none_of_another(roles: str, empty_database: str) -> None:
    """Roles belong to the whole server, and these to one journal."""
    with psycopg.connect(empty_database, autocommit=True) as connection:
        migrate(connection)
        connection.execute(roles_script().encode())
        try:
            with (
                psycopg.connect(make_conninfo(empty_database, user="app_writer"), autocommit=True) as elsewhere,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                elsewhere.execute("select * from celery_journal.event")
        finally:
            for kind in KINDS:
                leave = SQL("reassign owned by {0} to current_user; drop owned by {0}; drop role {0}")
                connection.execute(leave.format(Identifier(role_name(connection, kind))))


def test_a_task_that_is_forgotten_by_the_writer_can_be_seen_again(roles: str, writer: Connection) -> None:
    """The forgetting has a place that the database gave, and what comes later stands after it."""
    backend = backend_of(roles)
    writer.execute(
        "insert into celery_journal.event (event_id, occurred_at, stream, kind) values (gen_random_uuid(), now(), 't', 'task-forgotten')"
    )

    backend.store_result("t", {"fraud": 1}, "SUCCESS")

    assert backend.get_state("t") == "SUCCESS"


@pytest.fixture
def of_our_own_server(embedded_server: str) -> Iterator[str]:
    """An empty database, and roles that nobody else has: they are those of a whole server."""
    yield from new_database(embedded_server)


def test_members_of_the_roles_of_earlier_versions_have_those_of_this_journal(of_our_own_server: str) -> None:
    """Those had fixed names, one set a server: their rights on this journal end, and what they gave goes on."""
    old = [f"celery_journal_{kind}" for kind in ("owner", "writer", "reader")]
    with psycopg.connect(of_our_own_server, autocommit=True) as connection:
        migrate(connection)
        for role in old:
            connection.execute(f"create role {role}".encode())
        connection.execute("create role some_old login in role celery_journal_writer")
        connection.execute("alter schema celery_journal owner to celery_journal_owner")
        migrate(connection)
        connection.execute("grant usage on schema celery_journal to celery_journal_writer")
        connection.execute("grant insert on celery_journal.event to celery_journal_writer")
        try:
            connection.execute(roles_script().encode())

            rights = b"select has_schema_privilege('celery_journal_writer', 'celery_journal', 'usage')"
            assert connection.execute(rights).fetchone() == (False,)
            with psycopg.connect(make_conninfo(of_our_own_server, user="some_old"), autocommit=True) as writer:
                query = b"select has_column_privilege('celery_journal.event', c, 'insert') from unnest(array['stream', 'position']) c"
                assert writer.execute(query).fetchall() == [(True,), (False,)]
        finally:
            for role in ("some_old", *old, *(role_name(connection, kind) for kind in KINDS)):
                leave = SQL("reassign owned by {0} to current_user; drop owned by {0}; drop role {0}")
                connection.execute(leave.format(Identifier(role)))
