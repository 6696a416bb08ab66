"""Reading the log in an order that no writer can disturb."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest

from celery_journal.journal import Connection, Emitter, Journal, RecordedEvent
from celery_journal.journal.events import TaskSent, TaskStarted, TaskSucceeded
from tests.conftest import empty

from .waiting import other, wait_until

WRITERS = 12


def read_all_of(journal: Journal, connection: Connection, number: int, after: tuple[int, int] = (0, 0)) -> list[RecordedEvent]:
    """Return what `read_all` reads once it is that many events: other databases of the server may hold the horizon up."""
    wait_until(lambda: len(journal.read_all(connection, after)) >= number)
    return journal.read_all(connection, after)


def test_a_stream_is_read_in_the_order_of_the_log(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Every event of the stream, and of no other."""
    mine = [emitter.emit(kind, "task-1") for kind in (TaskSent, TaskStarted, TaskSucceeded)]
    for event in mine:
        journal.append(connection, event)
        journal.append(connection, emitter.emit(TaskSent, "task-2"))

    read = journal.read_stream(connection, "task-1")

    assert [recorded.event for recorded in read] == mine
    assert [recorded.place for recorded in read] == sorted(recorded.place for recorded in read)


def test_an_unknown_stream_is_empty(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """A stream of which nothing is recorded has no events."""
    journal.append(connection, emitter.emit(TaskSent, "task-1"))

    assert journal.read_stream(connection, "task-2") == []


def test_a_stream_shows_what_its_reader_has_not_committed(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Inside a transaction, its own events are read, and nobody else reads them."""
    event = emitter.emit(TaskSent, "task-1")

    with connection.transaction(), other(connection) as stranger:
        journal.append(connection, event)
        mine, theirs = journal.read_stream(connection, "task-1"), journal.read_stream(stranger, "task-1")

    assert [recorded.event for recorded in mine] == [event]
    assert theirs == []


@pytest.mark.parametrize("stream", [pytest.param("task\0", id="NUL"), pytest.param("task\udcff", id="lone surrogate")])
def test_a_stream_of_any_name_is_read(stream: str, connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """A stream is read by the name it was recorded under, even one that PostgreSQL cannot hold."""
    event = emitter.emit(TaskSent, stream)
    journal.append(connection, event)

    assert [recorded.event for recorded in journal.read_stream(connection, stream)] == [event]


def test_the_log_is_read_in_the_order_of_transactions(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """An event of a transaction that began earlier stands earlier, though it took its position later."""
    early, late = emitter.emit(TaskSent, "early"), emitter.emit(TaskSent, "late")
    with psycopg.connect(connection.info.dsn) as first:
        first.execute("select pg_current_xact_id()")
        journal.append(connection, late)
        journal.append(first, early)

    read = read_all_of(journal, connection, 2)

    assert [recorded.event for recorded in read] == [early, late]
    assert read[0].position > read[1].position


def test_nothing_is_read_that_something_may_still_appear_before(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """What was committed after an open transaction began waits for its end."""
    early, late = emitter.emit(TaskSent, "early"), emitter.emit(TaskSent, "late")
    with psycopg.connect(connection.info.dsn) as first:
        journal.append(first, early)
        journal.append(connection, late)

        assert journal.read_all(connection) == []

    assert [recorded.event for recorded in read_all_of(journal, connection, 2)] == [early, late]


def test_a_transaction_that_is_rolled_back_holds_nothing_up(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Its events never were, and what waited for it is read."""
    late = emitter.emit(TaskSent, "late")
    with psycopg.connect(connection.info.dsn) as first:
        journal.append(first, emitter.emit(TaskSent, "early"))
        journal.append(connection, late)
        first.rollback()

    assert [recorded.event for recorded in read_all_of(journal, connection, 1)] == [late]


def test_the_log_is_read_page_by_page(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Continuing from the place of the last event reads each event once, also in the middle of a transaction."""
    events = [emitter.emit(TaskSent, f"task-{n}") for n in range(7)]
    journal.append(connection, *events[:4])
    journal.append(connection, *events[4:])
    read_all_of(journal, connection, 7)

    pages, place = [], (0, 0)
    while page := journal.read_all(connection, place, limit=3):
        pages.append([recorded.event for recorded in page])
        place = page[-1].place

    assert pages == [events[:3], events[3:6], events[6:]]


def write(dsn: str, journal: Journal, emitter: Emitter, seed: int, number: int = 15) -> list[UUID]:
    """Append events one by one, dawdling between each insert and its commit; return their ids."""
    chance, written = random.Random(seed), []
    with psycopg.connect(dsn) as connection:
        for n in range(number):
            event = emitter.emit(TaskSent, f"task-{seed}-{n}")
            journal.append(connection, event)
            time.sleep(chance.uniform(0, 0.01))
            connection.commit()
            written.append(event.event_id)
    return written


def read_naively(connection: Connection, last: int) -> list[tuple[int, UUID]]:
    """Return what a reader gets who believes that positions appear in their order."""
    query = "select position, event_id from celery_journal.event where position > %s order by position"
    return connection.execute(query, (last,)).fetchall()


def read_while_writing(dsn: str, journal: Journal, emitter: Emitter) -> tuple[list[UUID], list[UUID], list[UUID]]:
    """Return what twelve writers wrote, what a reader of `read_all` read meanwhile, and what a naive one did."""
    read: list[UUID] = []
    naively: list[UUID] = []
    place, last = (0, 0), 0
    with ThreadPoolExecutor(WRITERS) as threads, psycopg.connect(dsn, autocommit=True) as connection:
        futures: list[Future[list[UUID]]] = [threads.submit(write, dsn, journal, emitter, seed) for seed in range(WRITERS)]

        def poll() -> None:
            nonlocal place, last
            for recorded in journal.read_all(connection, place, limit=50):
                read.append(recorded.event.event_id)
                place = recorded.place
            for position, event_id in read_naively(connection, last):
                naively.append(event_id)
                last = position

        while not all(future.done() for future in futures):
            poll()
        written = [event_id for future in futures for event_id in future.result()]

        def has_read_enough() -> bool:
            poll()
            return len(read) >= len(written)

        wait_until(has_read_enough)
        poll()
    return written, read, naively


def test_a_reader_skips_no_event_and_repeats_none_whatever_writers_are_in_flight(dsn: str, journal: Journal, emitter: Emitter) -> None:
    """Twelve writers commit in another order than they took positions, which a naive reader gets wrong in the same rounds."""
    for _ in range(20):
        with psycopg.connect(dsn, autocommit=True) as connection:
            empty(connection)

        written, read, naively = read_while_writing(dsn, journal, emitter)

        assert sorted(read) == sorted(written)
        if set(naively) < set(written):
            return
    pytest.fail("the writers never put the naive reader in the wrong: this test would not have noticed a reader like it")


def test_transitions_are_read_once_and_none_is_missed(dsn: str, connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Also not one of a transaction that was open when the others were read, with a smaller place in the log."""
    kinds = ["task-started", "task-progress"]
    with psycopg.connect(dsn) as slow:
        journal.append(slow, emitter.emit(TaskStarted, "b", attempt=1))
        journal.append(connection, *(emitter.emit(TaskStarted, "a") for _ in range(3)), emitter.emit(TaskStarted, "c"))
        first, since = journal.read_transitions(connection, ["a", "b"], kinds)
        slow.commit()
    second, since = journal.read_transitions(connection, ["a", "b"], kinds, since)
    while journal.read_transitions(connection, ["a", "b"], kinds, since)[0]:  # as long as another test's transaction is open in the cluster
        time.sleep(0.05)
        _, since = journal.read_transitions(connection, ["a", "b"], kinds, since)

    assert [recorded.event.attempt for recorded in first] == [0, 0, 0]
    assert 1 in [recorded.event.attempt for recorded in second]
