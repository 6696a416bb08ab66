"""A connection that dies between the commit and its answer, which the writer cannot tell from one that died before."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import ChordPartReturned, Event, TaskSucceeded

from .proxy import Proxy

Append = Callable[[Proxy, Connection, Journal, list[Event]], None]


def append_at_once(proxy: Proxy, connection: Connection, journal: Journal, events: list[Event]) -> None:
    """The append is a transaction of its own."""
    proxy.lose_the_next_answer()
    journal.append(connection, *events)


def append_and_commit(proxy: Proxy, connection: Connection, journal: Journal, events: list[Event]) -> None:
    """The append is part of a transaction, and only the answer to its COMMIT is lost."""
    with connection.transaction():
        journal.append(connection, *events)
        proxy.lose_the_next_answer()


def append_and_ask(proxy: Proxy, connection: Connection, journal: Journal, events: list[Event]) -> None:
    """The append shares its round trip with a question."""
    proxy.lose_the_next_answer()
    journal.append_and_ask(connection, events[0], b"select %(answer)s::integer", {"answer": 42})


@pytest.mark.parametrize(
    ("append", "number"),
    [
        pytest.param(append_at_once, 1, id="append of one"),
        pytest.param(append_at_once, 3, id="append of several"),
        pytest.param(append_and_commit, 1, id="commit of one"),
        pytest.param(append_and_commit, 3, id="commit of several"),
        pytest.param(append_and_ask, 1, id="append with a question"),
    ],
)
def test_an_append_whose_answer_got_lost_is_repeated_and_recorded_once(
    append: Append, number: int, connection: Connection, journal: Journal, emitter: Emitter
) -> None:
    """The writer sees a dead connection, tells the same facts again over a new one, and each is recorded once."""
    events: list[Event] = [emitter.emit(TaskSucceeded, f"task-{n}", result=b"42") for n in range(number)]

    with Proxy(connection.info.dsn) as proxy:
        first = psycopg.connect(proxy.dsn, autocommit=True)
        with pytest.raises(psycopg.OperationalError):
            append(proxy, first, journal, events)
        first.close()
        answer_was_lost = proxy.lost.wait(10)
        committed = [read.event for event in events for read in journal.read_stream(connection, event.stream)]
        with psycopg.connect(proxy.dsn, autocommit=True) as second:
            new = journal.append(second, *events)

    assert answer_was_lost
    assert committed == events
    assert new == 0
    assert [read.event for event in events for read in journal.read_stream(connection, event.stream)] == events


def test_a_part_whose_answer_got_lost_counts_once(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """A chord does not count a part twice because its worker had to tell it twice."""
    part = emitter.emit(ChordPartReturned, "group-1", task_id="task-1", group_index=0, state="SUCCESS")

    with Proxy(connection.info.dsn) as proxy:
        first = psycopg.connect(proxy.dsn, autocommit=True)
        with pytest.raises(psycopg.OperationalError):
            append_at_once(proxy, first, journal, [part])
        first.close()
        with psycopg.connect(proxy.dsn, autocommit=True) as second:
            journal.append(second, part)

    assert connection.execute("select group_id, task_id, status from celery_journal.chord_part").fetchall() == [
        ("group-1", "task-1", "SUCCESS")
    ]
