"""Recording facts, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from celery_journal.journal import Connection, Emitter, EventConflict, Journal, PayloadTooLarge
from celery_journal.journal.events import (
    ChordPartReturned,
    ChordSizeSet,
    Event,
    GroupSaved,
    TaskReceived,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)
from celery_journal.journal.journal import APPEND_CHUNK
from celery_journal.journal.workers import WorkerHeartbeat

from .proxy import Proxy

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)

#: A question: the number of the transaction that it is asked in.
WHO_ASKS = b"select pg_current_xact_id()::text::bigint + %(more)s"


def streams(connection: Connection) -> list[str]:
    """Return the stream of every recorded event, in the order of the log."""
    return [stream for (stream,) in connection.execute("select stream from celery_journal.event order by transaction, position")]


def test_an_event_is_recorded(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """An appended event stands in its stream, with a place and the database's time."""
    event = emitter.emit(TaskSent, "task-1", name="add")

    new = journal.append(connection, event)

    (read,) = journal.read_stream(connection, "task-1")
    assert new == 1
    assert read.event == event
    assert read.position > 0
    assert read.transaction > 0
    assert connection.execute("select clock_timestamp() >= %s", (read.recorded_at,)).fetchone() == (True,)


def test_nothing_to_record_is_nothing_recorded(connection: Connection, journal: Journal) -> None:
    """Appending no event does nothing, and says so."""
    assert journal.append(connection) == 0
    assert streams(connection) == []


def test_several_events_are_recorded_in_their_order(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """The events of one append stand in the log in the order they were given, whatever their clocks say."""
    events = [emitter.emit(TaskSent, f"task-{n}", occurred_at=NOON - timedelta(hours=n)) for n in range(10)]

    new = journal.append(connection, *events)

    assert new == 10
    assert streams(connection) == [event.stream for event in events]


def test_thousands_of_events_are_recorded_in_several_statements(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """No statement gets more events than a small server can take, and none is lost at the seams."""
    events = [emitter.emit(WorkerHeartbeat, f"worker-{n}") for n in range(2 * APPEND_CHUNK + 1)]

    new = journal.append(connection, *events)

    statements = connection.execute("select count(*) from celery_journal.event group by transaction order by transaction").fetchall()
    assert new == len(events)
    assert streams(connection) == [event.stream for event in events]
    assert statements == [(APPEND_CHUNK,), (APPEND_CHUNK,), (1,)]


def test_a_reader_sees_its_own_write(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Once an append returns, the view has it."""
    journal.append(connection, emitter.emit(TaskSucceeded, "task-1", result=b"42"))

    view = connection.execute("select status, result from celery_journal.task_result where task_id = 'task-1'").fetchall()

    assert view == [("SUCCESS", b"42")]


def test_an_append_belongs_to_the_transaction_of_its_caller(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """What is rolled back was never recorded."""
    with connection.transaction(force_rollback=True):
        new = journal.append(connection, emitter.emit(TaskSucceeded, "task-1"))

    assert new == 1
    assert streams(connection) == []
    assert connection.execute("select count(*) from celery_journal.task_result").fetchone() == (0,)


# Twice


def test_a_fact_told_twice_is_recorded_once(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """The second append of an event is new to nobody."""
    event = emitter.emit(TaskSucceeded, "task-1", result=b"42")
    journal.append(connection, event)
    first = journal.read_stream(connection, "task-1")

    new = journal.append(connection, event)

    assert new == 0
    assert journal.read_stream(connection, "task-1") == first


def test_a_fact_told_twice_in_one_breath_is_recorded_once(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """The same event twice in one append is one fact."""
    event, other = emitter.emit(TaskSucceeded, "task-1"), emitter.emit(TaskSucceeded, "task-2")

    new = journal.append(connection, event, other, event)

    assert new == 2
    assert streams(connection) == ["task-1", "task-2"]


def test_only_the_new_facts_of_an_append_are_recorded(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """An append that failed halfway may be repeated as a whole."""
    events = [emitter.emit(TaskSent, f"task-{n}") for n in range(4)]
    journal.append(connection, *events[:2])

    new = journal.append(connection, *events)

    assert new == 2
    assert streams(connection) == ["task-0", "task-1", "task-2", "task-3"]


def test_writers_who_tell_the_same_fact_at_once_record_it_once(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Two transactions append one event: who comes second waits for the first, and has nothing new."""
    event = emitter.emit(TaskSucceeded, "task-1")
    with psycopg.connect(connection.info.dsn) as other:
        journal.append(other, event)
        connection.execute("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            journal.append(connection, event)

    assert journal.append(connection, event) == 0
    assert streams(connection) == ["task-1"]


# Another fact under the same id


@pytest.mark.parametrize(
    ("kind", "recorded", "told"),
    [
        pytest.param(TaskSucceeded, {"result": b"1"}, {"result": b"2"}, id="result"),
        pytest.param(TaskSucceeded, {"result": b"1"}, {}, id="no result"),
        pytest.param(TaskSucceeded, {}, {"result": b"2"}, id="a result after all"),
        pytest.param(TaskSucceeded, {"name": "add"}, {"name": "mul"}, id="name"),
        pytest.param(TaskSucceeded, {"name": "add\0"}, {"name": "add\\x00"}, id="name that looks the same"),
        pytest.param(TaskSucceeded, {"attempt": 1}, {"attempt": 2}, id="attempt"),
        pytest.param(TaskSucceeded, {"schema_version": 1}, {"schema_version": 2}, id="version"),
        pytest.param(TaskSucceeded, {"occurred_at": NOON}, {"occurred_at": NOON + timedelta(microseconds=1)}, id="moment"),
        pytest.param(TaskSent, {"request": {"eta": None}}, {"request": {"eta": "noon"}}, id="body"),
        pytest.param(TaskSent, {"mood": "sunny"}, {"mood": "grey"}, id="unknown field"),
        pytest.param(ChordSizeSet, {"size": 3}, {"size": 4}, id="size"),
        pytest.param(ChordPartReturned, {"task_id": "a", "state": "SUCCESS"}, {"task_id": "a", "state": "FAILURE"}, id="state"),
        pytest.param(GroupSaved, {"members": ("a", "b")}, {"members": ("b", "a")}, id="members"),
    ],
)
def test_another_fact_under_the_same_id_is_a_conflict(
    kind: type[Event], recorded: dict[str, Any], told: dict[str, Any], connection: Connection, journal: Journal, emitter: Emitter
) -> None:
    """Whatever differs, it surfaces, and what is recorded stands."""
    event = emitter.emit(kind, "stream-1", occurred_at=NOON, **{name: value for name, value in recorded.items() if name != "occurred_at"})
    facts = {"event_id": event.event_id, "stream": "stream-1", "occurred_at": NOON}
    journal.append(connection, event)

    with pytest.raises(EventConflict) as conflict:
        journal.append(connection, kind(**{**facts, **told}))

    assert conflict.value.event_ids == (event.event_id,)
    assert str(event.event_id) in str(conflict.value)
    assert [read.event for read in journal.read_stream(connection, "stream-1")] == [event]


def test_the_others_of_a_conflicting_append_are_recorded(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """One wrong event does not take the right ones with it."""
    event = emitter.emit(TaskSucceeded, "task-1", result=b"1")
    journal.append(connection, event)
    before, wrong, after = emitter.emit(TaskSent, "task-2"), event.model_copy(update={"result": b"2"}), emitter.emit(TaskSent, "task-3")

    with pytest.raises(EventConflict) as conflict:
        journal.append(connection, before, wrong, after)

    assert conflict.value.event_ids == (event.event_id,)
    assert streams(connection) == ["task-1", "task-2", "task-3"]
    assert [read.event for read in journal.read_stream(connection, "task-1")] == [event]


def test_the_others_of_a_conflicting_append_of_thousands_are_recorded(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """A conflict in the first statement of a long append does not keep the rest out, and all conflicts are named."""
    recorded = emitter.emit(TaskSucceeded, "task-1", result=b"1"), emitter.emit(TaskSucceeded, "task-2", result=b"1")
    journal.append(connection, *recorded)
    wrong = [event.model_copy(update={"result": b"2"}) for event in recorded]
    many = [emitter.emit(WorkerHeartbeat, f"worker-{n}") for n in range(APPEND_CHUNK)]

    with pytest.raises(EventConflict) as conflict:
        journal.append(connection, wrong[0], *many, wrong[1])

    assert conflict.value.event_ids == (recorded[0].event_id, recorded[1].event_id)
    assert len(streams(connection)) == 2 + len(many)


def test_two_facts_under_one_id_in_one_append_are_a_conflict(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """The first of them is recorded, the second is named."""
    first = emitter.emit(TaskSucceeded, "task-1", result=b"1")
    second = first.model_copy(update={"result": b"2"})

    with pytest.raises(EventConflict):
        journal.append(connection, first, second)

    assert [read.event for read in journal.read_stream(connection, "task-1")] == [first]


def test_a_payload_above_the_limit_keeps_the_whole_append_out(connection: Connection, emitter: Emitter) -> None:
    """None of the events is recorded, so that the caller can decide."""
    small, large = emitter.emit(TaskSucceeded, "task-1", result=b"1"), emitter.emit(TaskSucceeded, "task-2", result=b"x" * 11)

    with pytest.raises(PayloadTooLarge):
        Journal(max_payload_bytes=10).append(connection, small, large)

    assert streams(connection) == []


# Waiting for the disk


@pytest.fixture
def durability(connection: Connection) -> Iterator[Callable[[], list[str]]]:
    """Return how each append so far waited for the disk: what `synchronous_commit` was inside its transaction."""
    connection.execute("""
        create table observed (number integer generated always as identity, setting text);
        create function observe() returns trigger language plpgsql as $$
        begin
            insert into public.observed (setting) values (current_setting('synchronous_commit'));
            return null;
        end $$;
        create constraint trigger observe after insert on celery_journal.event
        deferrable initially deferred for each row execute function observe();
        """)
    yield lambda: [setting for (setting,) in connection.execute("select setting from observed order by number")]
    connection.execute("drop trigger observe on celery_journal.event; drop function observe(); drop table observed")


RELAXED = (TaskReceived, TaskStarted, WorkerHeartbeat)


@pytest.mark.parametrize("kind", RELAXED)
def test_a_relaxed_fact_does_not_wait_for_the_disk(
    kind: type[Event], durability: Callable[[], list[str]], connection: Connection, journal: Journal, emitter: Emitter
) -> None:
    """That a task was received or runs is committed without waiting for the disk."""
    journal.append(connection, emitter.emit(kind, "stream-1"))

    assert durability() == ["off"]


def test_several_relaxed_facts_do_not_wait_for_the_disk(
    durability: Callable[[], list[str]], connection: Connection, journal: Journal, emitter: Emitter
) -> None:
    """Nor do several of them in one statement."""
    journal.append(connection, *(emitter.emit(kind, "stream-1") for kind in RELAXED))

    assert durability() == ["off"] * 3


@pytest.mark.parametrize("kind", [TaskSent, TaskSucceeded, GroupSaved])
def test_a_fact_that_ends_something_waits_for_the_disk(
    kind: type[Event], durability: Callable[[], list[str]], connection: Connection, journal: Journal, emitter: Emitter
) -> None:
    """Results, and what somebody asked for, are on the disk when the append returns."""
    journal.append(connection, emitter.emit(kind, "stream-1"))

    assert durability() == ["on"]


def test_one_fact_that_ends_something_makes_its_append_durable(
    durability: Callable[[], list[str]], connection: Connection, journal: Journal, emitter: Emitter
) -> None:
    """What is recorded with a result is as durable as the result."""
    journal.append(connection, emitter.emit(TaskStarted, "task-1"), emitter.emit(TaskSucceeded, "task-1"))

    assert durability() == ["on", "on"]


def test_a_relaxed_fact_relaxes_nothing_else(
    durability: Callable[[], list[str]], connection: Connection, journal: Journal, emitter: Emitter
) -> None:
    """On the same connection, what comes after it waits for the disk again."""
    journal.append(connection, emitter.emit(TaskStarted, "task-1"))
    journal.append(connection, emitter.emit(TaskSucceeded, "task-1"))

    assert durability() == ["off", "on"]


def test_a_relaxed_fact_does_not_relax_the_transaction_of_its_caller(
    durability: Callable[[], list[str]], connection: Connection, journal: Journal, emitter: Emitter
) -> None:
    """In one transaction with a fact that ends something, all wait for the disk."""
    with connection.transaction():
        journal.append(connection, emitter.emit(TaskStarted, "task-1"))
        journal.append(connection, emitter.emit(TaskSucceeded, "task-1"))

    assert durability() == ["on", "on"]


def test_a_relaxed_fact_does_not_relax_the_transaction_that_it_opens(
    durability: Callable[[], list[str]], connection: Connection, journal: Journal, emitter: Emitter
) -> None:
    """On a connection that is not in autocommit mode, its transaction goes on after it, and all wait for the disk."""
    with psycopg.connect(connection.info.dsn) as committing:
        journal.append(committing, emitter.emit(TaskStarted, "task-1"))
        journal.append(committing, emitter.emit(TaskSucceeded, "task-1"))

    assert durability() == ["on", "on"]


def test_everything_can_be_durable(durability: Callable[[], list[str]], connection: Connection, emitter: Emitter) -> None:
    """One option makes every fact wait for the disk."""
    journal = Journal(everything_durable=True)

    journal.append(connection, emitter.emit(TaskStarted, "task-1"))
    journal.append(connection, *(emitter.emit(kind, "stream-1") for kind in RELAXED))

    assert durability() == ["on"] * 4


# Round trips


@pytest.mark.parametrize(("number", "relaxed"), [(1, False), (1, True), (3, False), (3, True)])
def test_an_append_is_one_round_trip(number: int, relaxed: bool, connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """However many events, whether they wait for the disk or not: the database is asked once."""
    events = [emitter.emit(TaskStarted if relaxed else TaskSucceeded, f"task-{n}") for n in range(number)]
    with Proxy(connection.info.dsn) as proxy, psycopg.connect(proxy.dsn, autocommit=True) as slow:
        before = proxy.round_trips

        journal.append(slow, *events)

        assert proxy.round_trips - before == 1


def test_an_append_with_a_question_is_one_round_trip(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """The database is told and asked at once."""
    event = emitter.emit(TaskSucceeded, "task-1")
    with Proxy(connection.info.dsn) as proxy, psycopg.connect(proxy.dsn, autocommit=True) as slow:
        before = proxy.round_trips

        journal.append_and_ask(slow, event, WHO_ASKS, {"more": 0})

        assert proxy.round_trips - before == 1


# In the same round trip as a question


def test_an_event_is_recorded_before_the_question_is_answered(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """The question sees the event, and is another transaction."""
    event = emitter.emit(TaskSucceeded, "task-1", result=b"42")

    view = journal.append_and_ask(
        connection, event, b"select result from celery_journal.task_result where task_id = %(id)s", {"id": "task-1"}
    )
    asker = journal.append_and_ask(connection, event, WHO_ASKS, {"more": 0})

    (read,) = journal.read_stream(connection, "task-1")
    assert view == b"42"
    assert read.event == event
    assert read.transaction < asker


def test_a_conflict_surfaces_beside_a_question(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Another fact under the same id is as wrong here as in any append."""
    event = emitter.emit(TaskSucceeded, "task-1", result=b"1")
    journal.append(connection, event)

    with pytest.raises(EventConflict):
        journal.append_and_ask(connection, event.model_copy(update={"result": b"2"}), WHO_ASKS, {"more": 0})

    assert [read.event for read in journal.read_stream(connection, "task-1")] == [event]


def test_a_wrong_question_does_not_take_the_event_with_it(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """The event is recorded even when the question fails, and the connection is as usable as before."""
    event = emitter.emit(TaskSucceeded, "task-1")

    with pytest.raises(psycopg.errors.DivisionByZero):
        journal.append_and_ask(connection, event, b"select 1 / %(zero)s::integer", {"zero": 0})

    assert [read.event for read in journal.read_stream(connection, "task-1")] == [event]


def test_an_event_that_is_refused_leaves_the_connection_usable(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """When the database refuses an event beside a question, no transaction is left open."""
    connection.execute("set default_transaction_read_only = on")

    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        journal.append_and_ask(connection, emitter.emit(TaskSucceeded, "task-1"), WHO_ASKS, {"more": 0})

    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_question_beside_a_relaxed_event_is_not_relaxed(
    durability: Callable[[], list[str]], connection: Connection, journal: Journal, emitter: Emitter
) -> None:
    """Only the event's own transaction does not wait for the disk."""
    setting = journal.append_and_ask(
        connection, emitter.emit(TaskStarted, "task-1"), b"select current_setting(%(name)s)", {"name": "synchronous_commit"}
    )

    assert durability() == ["off"]
    assert setting == "on"
