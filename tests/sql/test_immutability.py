"""The log is append-only, and it is the database that says so."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from celery_journal.journal import CheckpointRefused, Connection, Emitter, Journal, Subscription, migrate, role_name, roles_script
from celery_journal.journal.codec import encode
from celery_journal.journal.events import ChordPartReturned, ChordStarted, Event, GroupSaved, OperatorActed, TaskSent, TaskSucceeded
from celery_journal.journal.workers import WorkerOnline
from celery_journal.projections import VerifyRefused, verify
from tests.journal.waiting import wait_until
from tests.roles import with_roles

CHANGES = [
    pytest.param("update {} set name = 'mul'", id="update"),
    pytest.param("update {} set name = 'mul' where false", id="update of nothing"),
    pytest.param("delete from {}", id="delete"),
    pytest.param("truncate {}", id="truncate"),
    pytest.param(
        "insert into {0} (event_id, stream, kind, state, occurred_at) select event_id, stream, kind, state, occurred_at from {0} "
        "on conflict (event_id, stream) do update set name = 'mul'",
        id="upsert",
    ),
    pytest.param("merge into {} e using (values (1)) v on true when matched then update set name = 'mul'", id="merge"),
]
PLACES = [pytest.param("parent", id="parent"), pytest.param("partition", id="partition"), pytest.param("default", id="default partition")]


@pytest.fixture
def recorded(connection: Connection, journal: Journal, emitter: Emitter) -> list[Event]:
    """An event of this week and one of a clock that is years off."""
    events: list[Event] = [emitter.emit(TaskSent, "task-1", name="add")]
    events.append(emitter.emit(TaskSent, "task-2", name="add", occurred_at=events[0].occurred_at.replace(year=2199, day=1)))
    journal.append(connection, *events)
    return events


def table(connection: Connection, place: str) -> str:
    """Return the name of the table that stands for the log at that place, which has an event."""
    stream = {"parent": "task-1", "partition": "task-1", "default": "task-2"}[place]
    (name,) = connection.execute("select tableoid::regclass::text from celery_journal.event where stream = %s", (stream,)).fetchone() or (
        "",
    )
    assert (name == "celery_journal.event_default") == (place == "default")
    return "celery_journal.event" if place == "parent" else str(name)


def maintain(connection: Connection, statement: str, setting: str = "on") -> None:
    """Run the statement in a transaction that says it is maintenance."""
    with connection.transaction():
        connection.execute("select set_config('celery_journal.maintenance', %s, true)", (setting,))
        connection.execute(statement.encode())


def everything(connection: Connection) -> list[tuple[object, ...]]:
    """Return the log, but for what maintenance says of itself."""
    return connection.execute("select * from celery_journal.event where stream <> 'maintenance' order by stream").fetchall()


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_log_is_refused(change: str, place: str, connection: Connection) -> None:
    """Not even a superuser changes a fact, through whatever table it is reached."""
    statement, before = change.format(table(connection, place)), everything(connection)

    with pytest.raises(psycopg.errors.RestrictViolation):
        connection.execute(statement.encode())

    assert everything(connection) == before


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("value", ["off", "", "true", "ON"])
def test_only_the_right_setting_is_maintenance(value: str, connection: Connection) -> None:
    """The way to maintain the log is narrow."""
    with pytest.raises(psycopg.errors.RestrictViolation):
        maintain(connection, "delete from celery_journal.event", value)


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", [change for change in CHANGES if change.id != "truncate"])
def test_the_owner_may_maintain_the_log(change: str, place: str, connection: Connection) -> None:
    """With the setting, for one transaction, retention and erasure can do their work."""
    statement, before = change.format(table(connection, place)), everything(connection)

    maintain(connection, statement)

    after = everything(connection)
    assert (after == before) == ("where false" in change)
    with pytest.raises(psycopg.errors.RestrictViolation):
        connection.execute(b"delete from celery_journal.event")


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("statement", ["update {} set name = 'mul'", "delete from {}"])
@pytest.mark.parametrize("place", PLACES)
def test_maintenance_records_itself(place: str, statement: str, connection: Connection, journal: Journal) -> None:
    """What was changed, and by which login, stands in the log afterwards, with an id of its own time."""
    name = table(connection, place)

    maintain(connection, statement.format(name))

    (fact,) = journal.read_stream(connection, "maintenance")
    assert isinstance(fact.event, OperatorActed)
    assert fact.event.reason == f"{statement.partition(' ')[0]} of {name.partition('.')[2]} by postgres"
    assert connection.execute(
        "select tableoid <> 'celery_journal.event_default'::regclass from celery_journal.event where stream = 'maintenance'"
    ).fetchall() == [(True,)]


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("place", PLACES)
def test_nobody_truncates_the_log(place: str, connection: Connection) -> None:
    """Not even as maintenance, of which no record would be left."""
    with pytest.raises(psycopg.errors.RestrictViolation):
        maintain(connection, f"truncate {table(connection, place)}")


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", CHANGES)
def test_a_session_that_replicates_changes_nothing(change: str, place: str, connection: Connection) -> None:
    """The triggers are always enabled."""
    statement, before = change.format(table(connection, place)), everything(connection)
    connection.execute("set session_replication_role = replica")

    with pytest.raises(psycopg.errors.RestrictViolation):
        connection.execute(statement.encode())

    assert everything(connection) == before


# The roles


@pytest.fixture(scope="module")
def roles(spare_database: str) -> Iterator[str]:
    """The DSN of a journal with events, and with the roles, of which immutable_* are members that may log in."""
    emitter = Emitter()
    now = emitter.emit(TaskSent, "clock").occurred_at
    with psycopg.connect(spare_database, autocommit=True) as connection:
        migrate(connection)
        Journal().append(
            connection,
            emitter.emit(TaskSucceeded, "task-1", name="add", result=b"1"),
            emitter.emit(TaskSucceeded, "task-2", name="add", occurred_at=now.replace(year=2199, day=1)),
            emitter.emit(GroupSaved, "group-1", members=("task-1",)),
            emitter.emit(ChordStarted, "group-1", size=2),
            emitter.emit(ChordPartReturned, "group-1", task_id="task-1", state="SUCCESS"),
            emitter.emit(WorkerOnline, "celery@host"),
        )
    with with_roles(spare_database, **{f"immutable_{kind}": kind for kind in ("owner", "writer", "reader", "auditor")}):
        yield spare_database


@pytest.fixture
def superuser(roles: str) -> Iterator[Connection]:
    with psycopg.connect(roles, autocommit=True) as connection:
        yield connection


@pytest.fixture
def writer(roles: str) -> Iterator[Connection]:
    with psycopg.connect(make_conninfo(roles, user="immutable_writer"), autocommit=True) as connection:
        yield connection


@pytest.fixture
def reader(roles: str) -> Iterator[Connection]:
    with psycopg.connect(make_conninfo(roles, user="immutable_reader"), autocommit=True) as connection:
        yield connection


def relations(connection: Connection, kinds: str) -> list[str]:
    query = b"select oid::regclass::text from pg_class where relnamespace = 'celery_journal'::regnamespace and relkind = any(%s) order by 1"
    return [name for (name,) in connection.execute(query, (list(kinds),))]


def test_the_writer_appends_and_reads(writer: Connection, journal: Journal, emitter: Emitter) -> None:
    """All that a result backend does to the log and to the views, it may."""
    event = emitter.emit(TaskSucceeded, "task-3", result=b"3")

    journal.append(writer, event)
    journal.append(writer, event, emitter.emit(TaskSucceeded, "task-4"))

    assert [recorded.event for recorded in journal.read_stream(writer, "task-3")] == [event]
    assert writer.execute("select result from celery_journal.task_result where task_id = 'task-3'").fetchall() == [(b"3",)]


def test_the_writer_subscribes(writer: Connection, journal: Journal) -> None:
    """A checkpoint is the writer's to move."""
    wait_until(lambda: Subscription(journal, "audit").catch_up(writer, lambda *_: None, limit=2) == 2)

    assert writer.execute("select name, position > 0 from celery_journal.subscription").fetchall() == [("audit", True)]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("setting", [pytest.param("off", id="plainly"), pytest.param("on", id="as maintenance")])
def test_the_writer_changes_nothing(setting: str, place: str, change: str, writer: Connection, superuser: Connection) -> None:
    """Whatever setting it takes on itself: it has no right to."""
    statement, before = change.format(table(superuser, place)), everything(superuser)

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        maintain(writer, statement, setting)

    assert everything(superuser) == before


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("setting", [pytest.param("off", id="plainly"), pytest.param("on", id="as maintenance")])
def test_a_right_granted_by_mistake_changes_nothing(setting: str, change: str, writer: Connection, superuser: Connection) -> None:
    """Who may change tables and does not own the log is refused by the trigger, setting or not."""
    superuser.execute("grant update, delete, truncate on celery_journal.event to immutable_writer")
    before = everything(superuser)

    with pytest.raises(psycopg.errors.RestrictViolation):
        maintain(writer, change.format("celery_journal.event"), setting)

    superuser.execute("revoke update, delete, truncate on celery_journal.event from immutable_writer")
    assert everything(superuser) == before


def test_a_member_of_the_owner_may_maintain_the_log(roles: str) -> None:
    """Maintenance needs no superuser."""
    with psycopg.connect(make_conninfo(roles, user="immutable_owner"), autocommit=True) as owner:
        with pytest.raises(psycopg.errors.RestrictViolation):
            owner.execute(b"delete from celery_journal.event")
        with owner.transaction(force_rollback=True):
            maintain(owner, "delete from celery_journal.event")

            assert everything(owner) == []


def test_the_writer_cannot_go_around_the_log(writer: Connection, superuser: Connection) -> None:
    """An insert into a partition, past the fold, is refused; so is every write to a table of a view."""
    tables = [name for name in relations(superuser, "rp") if name not in {"celery_journal.event", "celery_journal.subscription"}]
    statements = [f"insert into {name} select * from {name}" for name in tables]
    statements += [f"{change} {name}" for name in tables for change in ("delete from", "truncate")]

    assert len(tables) > 10
    for statement in statements:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            writer.execute(statement.encode())


def test_the_writer_cannot_make_objects(writer: Connection) -> None:
    """The schema is not its own."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        writer.execute("create table celery_journal.mine (mine integer)")


def test_the_reader_reads_every_view(reader: Connection, superuser: Connection, journal: Journal) -> None:
    """People and dashboards see the log and all that is made of it."""
    seen = {name: reader.execute(f"select * from {name}".encode()).fetchall() for name in relations(superuser, "v")}

    assert set(seen) >= {
        f"celery_journal.{name}" for name in ("task_result", "task_attempt", "group_result", "chord_counter", "chord_part", "worker")
    }
    assert all(seen.values())
    assert len(journal.read_stream(reader, "group-1")) == 3


def test_the_reader_writes_nothing(reader: Connection, superuser: Connection, journal: Journal, emitter: Emitter) -> None:
    """Not an event, not a checkpoint, nothing else."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        journal.append(reader, emitter.emit(TaskSent, "task-9"))
    for name in relations(superuser, "rp"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute(f"insert into {name} select * from {name}".encode())


@pytest.fixture
def auditor(roles: str) -> Iterator[Connection]:
    with psycopg.connect(make_conninfo(roles, user="immutable_auditor"), autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize(
    ("column", "value"),
    [
        pytest.param("position", "9223372036854775807", id="position"),
        pytest.param("transaction", "'1'", id="transaction"),
        pytest.param("recorded_at", "'2999-01-01'", id="recorded_at"),
    ],
)
def test_the_writer_chooses_no_place_and_no_moment(column: str, value: str, writer: Connection) -> None:
    """They come from the database, also where many facts are appended at once."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        writer.execute(
            f"insert into celery_journal.event (event_id, occurred_at, stream, kind, {column}) "
            f"values (gen_random_uuid(), now(), 'hidden', 'task-forgotten', {value})".encode()
        )


def test_the_writer_records_no_past(writer: Connection, journal: Journal, emitter: Emitter) -> None:
    """That is the import's."""
    row = {**encode(emitter.emit(TaskSent, "past")), "recorded_at": datetime(2020, 1, 1, tzinfo=UTC)}

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        journal.restore(writer, [row])


def test_places_are_handed_out_in_the_order_given(writer: Connection, journal: Journal, emitter: Emitter) -> None:
    """Whatever the ids are by which the rows are inserted."""
    events = [emitter.emit(TaskSent, f"ordered-{number}") for number in range(50)][::-1]

    assert journal.append(writer, *events) == 50

    query = b"select stream from celery_journal.event where stream like 'ordered-%' order by position"
    assert [stream for (stream,) in writer.execute(query)] == [event.stream for event in events]


def test_an_old_grant_is_taken_back(superuser: Connection, writer: Connection) -> None:
    """Before version 5 the whole row was the writer's."""
    superuser.execute(SQL("grant insert on celery_journal.event to {}").format(Identifier(role_name(superuser, "writer"))))

    superuser.execute(roles_script().encode())

    assert writer.execute(b"select has_table_privilege('celery_journal.event', 'insert')").fetchone() == (False,)


def test_the_auditor_verifies_and_subscribes_and_writes_nothing(auditor: Connection, journal: Journal, emitter: Emitter) -> None:
    """It sees also what the views are made of."""
    assert verify(auditor).differences == []
    wait_until(lambda: Subscription(journal, "of the auditor").catch_up(auditor, lambda *_: None, limit=2) == 2)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        journal.append(auditor, emitter.emit(TaskSent, "task-9"))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        journal.append(auditor, emitter.emit(TaskSent, "task-9"), emitter.emit(TaskSent, "task-10"))


def test_a_reader_that_verifies_is_told_which_role_it_takes(reader: Connection) -> None:
    """In one sentence."""
    with pytest.raises(VerifyRefused, match="role of the auditor"):
        verify(reader)


def test_a_writer_moves_no_checkpoint_of_an_auditor(auditor: Connection, writer: Connection, journal: Journal) -> None:
    """It belongs to the login that began it; nobody else moves, hides or takes it."""
    wait_until(lambda: Subscription(journal, "owned").catch_up(auditor, lambda *_: None, limit=2) == 2)
    before = auditor.execute("select * from celery_journal.subscription where name = 'owned'").fetchall()

    assert writer.execute("update celery_journal.subscription set transaction = '9' where name = 'owned'").rowcount == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        writer.execute("delete from celery_journal.subscription")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        writer.execute("insert into celery_journal.subscription values ('another', '0', 0, now(), 'immutable_auditor')")
    with pytest.raises(CheckpointRefused):
        Subscription(journal, "owned").catch_up(writer, lambda *_: None)

    assert auditor.execute("select * from celery_journal.subscription where name = 'owned'").fetchall() == before


def test_a_checkpoint_without_an_owner_is_whose_who_moves_it_first(superuser: Connection, auditor: Connection, journal: Journal) -> None:
    """One of a version before had none."""
    wait_until(lambda: Subscription(journal, "old").catch_up(superuser, lambda *_: None, limit=2) == 2)
    superuser.execute("update celery_journal.subscription set owner = null where name = 'old'")

    assert Subscription(journal, "old").catch_up(auditor, lambda *_: None, limit=1) == 1

    query = "select owner from celery_journal.subscription where name = 'old'"
    assert superuser.execute(query).fetchall() == [("immutable_auditor",)]


@pytest.mark.parametrize("sweep", ["begin_sweep", "begin_lost_sweep"])
def test_nobody_holds_a_sweep_for_ever(sweep: str, writer: Connection, superuser: Connection) -> None:
    """Whatever is asked for, and whatever an earlier version gave, it is over after an hour; and the login is known."""
    begin = f"select celery_journal.{sweep}('evil', '1000 years')".encode()

    assert writer.execute(begin).fetchone() == (True,)

    held = superuser.execute(
        "select login, claimed_until < now() + interval '61 minutes' from celery_journal.chord_lease where claimed_by = 'evil'"
    ).fetchall()
    superuser.execute("update celery_journal.chord_lease set claimed_until = now() + interval '1000 years' where claimed_by = 'evil'")
    taken_over = writer.execute(begin).fetchone()
    superuser.execute("delete from celery_journal.chord_lease")
    assert (held, taken_over) == ([("immutable_writer", True)], (True,))


def test_strangers_see_nothing(roles: str, superuser: Connection) -> None:
    """A login without one of the roles does not even get into the schema."""
    superuser.execute("create role immutable_stranger login")
    try:
        with (
            psycopg.connect(make_conninfo(roles, user="immutable_stranger"), autocommit=True) as stranger,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            stranger.execute("select * from celery_journal.event")
    finally:
        superuser.execute("drop role immutable_stranger")


def test_the_roles_can_be_made_again(roles: str, superuser: Connection, writer: Connection, journal: Journal, emitter: Emitter) -> None:
    """Running the script a second time, as after a migration, changes no one's rights."""
    superuser.execute(roles_script().encode())

    assert journal.append(writer, emitter.emit(TaskSent, "task-9")) == 1
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        writer.execute("delete from celery_journal.event")
