"""Reading the log from where one stopped, exactly once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from celery_journal.journal import Connection, Emitter, Journal, RecordedEvent, Subscription
from celery_journal.journal.events import TaskSent
from celery_journal.journal.subscription import Checkpoint

from .waiting import blocked_backends, other, wait_until


@pytest.fixture
def noted(connection: Connection) -> Iterator[None]:
    """A table for what a subscriber does."""
    connection.execute("create table noted (stream text not null)")
    yield
    connection.execute("drop table noted")


def note(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """Write down each event, in the transaction of the checkpoint."""
    with connection.cursor() as cursor:
        cursor.executemany("insert into noted values (%s)", [(recorded.event.stream,) for recorded in events])


def notes(connection: Connection) -> list[str]:
    return [stream for (stream,) in connection.execute("select stream from noted")]


def record(connection: Connection, journal: Journal, emitter: Emitter, number: int, first: int = 0) -> list[str]:
    """Append that many events and wait until they can be read; return their streams."""
    streams = [f"task-{n}" for n in range(first, first + number)]
    for stream in streams:
        journal.append(connection, emitter.emit(TaskSent, stream))
    wait_until(lambda: len(journal.read_all(connection)) == first + number)
    return streams


@pytest.mark.usefixtures("noted")
def test_a_subscription_goes_on_from_where_it_stopped(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Each event is handed over once, in the order of the log, and a later subscriber of that name gets the rest."""
    streams = record(connection, journal, emitter, 5)

    handled = [Subscription(journal, "audit").catch_up(connection, note, limit=3) for _ in range(3)]
    streams += record(connection, journal, emitter, 2, first=5)
    handled.append(Subscription(journal, "audit").catch_up(connection, note, limit=3))

    assert handled == [3, 2, 0, 2]
    assert notes(connection) == streams


def test_nothing_new_is_not_handed_over(connection: Connection, journal: Journal) -> None:
    """With no event there is nothing to handle."""
    calls: list[Sequence[RecordedEvent]] = []

    handled = Subscription(journal, "audit").catch_up(connection, lambda _, events: calls.append(events))

    assert handled == 0
    assert calls == []


@pytest.mark.usefixtures("noted")
def test_subscriptions_of_different_names_do_not_disturb_each_other(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Each name has its own place in the log."""
    streams = record(connection, journal, emitter, 2)
    Subscription(journal, "audit").catch_up(connection, note)

    handled = Subscription(journal, "dashboard").catch_up(connection, note)

    assert handled == 2
    assert notes(connection) == streams * 2


@pytest.mark.usefixtures("noted")
@pytest.mark.parametrize("begun", [pytest.param(False, id="first time"), pytest.param(True, id="later")])
def test_what_fails_is_undone_with_its_checkpoint(begun: bool, connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """When handling raises, what it wrote is gone and the same events are handed over again."""
    subscription, first = Subscription(journal, "audit"), 0
    if begun:
        record(connection, journal, emitter, first := 2)
        subscription.catch_up(connection, lambda *_: None)
    streams = record(connection, journal, emitter, 3, first)

    def note_and_fail(connection: Connection, events: Sequence[RecordedEvent]) -> None:
        note(connection, events)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        subscription.catch_up(connection, note_and_fail)
    after_failure = notes(connection)
    handled = subscription.catch_up(connection, note)

    assert after_failure == []
    assert handled == 3
    assert notes(connection) == streams


@pytest.mark.usefixtures("noted")
def test_nobody_sees_what_was_done_before_its_checkpoint(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Side effect and checkpoint appear together."""
    record(connection, journal, emitter, 3)
    seen: list[tuple[list[str], int]] = []

    def note_and_look(connection: Connection, events: Sequence[RecordedEvent]) -> None:
        note(connection, events)
        with other(connection) as stranger:
            (checkpoints,) = stranger.execute("select count(*) from celery_journal.subscription where position > 0").fetchone() or (None,)
            seen.append((notes(stranger), int(str(checkpoints))))

    Subscription(journal, "audit").catch_up(connection, note_and_look)

    with other(connection) as stranger:
        saved = stranger.execute("select name, position from celery_journal.subscription").fetchall()
    assert seen == [([], 0)]
    assert len(notes(connection)) == 3
    assert saved == [("audit", journal.read_all(connection)[-1].position)]


@pytest.mark.usefixtures("noted")
@pytest.mark.parametrize("begun", [pytest.param(False, id="first time"), pytest.param(True, id="later")])
def test_a_second_subscriber_waits_for_the_first(begun: bool, connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Two subscribers of one name at once: the second begins where the first ends."""
    subscription, first = Subscription(journal, "audit"), 0
    if begun:
        record(connection, journal, emitter, first := 2)
        subscription.catch_up(connection, lambda *_: None)
    streams = record(connection, journal, emitter, 3, first)
    dsn, handling, may_end = connection.info.dsn, threading.Event(), threading.Event()

    def note_slowly(connection: Connection, events: Sequence[RecordedEvent]) -> None:
        note(connection, events)
        handling.set()
        assert may_end.wait(60)

    def catch_up_slowly() -> int:
        with psycopg.connect(dsn, autocommit=True) as mine:
            return subscription.catch_up(mine, note_slowly, limit=2)

    def catch_up() -> int:
        with psycopg.connect(dsn, autocommit=True) as mine:
            return subscription.catch_up(mine, note, limit=2)

    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(catch_up_slowly)
        assert handling.wait(60)
        second = threads.submit(catch_up)
        wait_until(lambda: blocked_backends(connection) == 1)
        may_end.set()
        handled = slow.result(), second.result()

    # The second one's horizon may be the first one's transaction, so it may have to come again.
    wait_until(lambda: subscription.catch_up(connection, note) == 0 and len(notes(connection)) >= 3)
    assert handled[0] == 2
    assert notes(connection) == streams


@pytest.mark.usefixtures("noted")
def test_many_subscribers_of_one_name_handle_each_event_once(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Six subscribers that read in small steps, and writers beside them: no event is handled twice and none is left out."""
    dsn, number = connection.info.dsn, 120
    written = threading.Event()

    def subscribe() -> int:
        total = 0
        with psycopg.connect(dsn, autocommit=True) as mine:
            while not (written.is_set() and len(notes(mine)) >= number):
                total += Subscription(journal, "audit").catch_up(mine, note, limit=7)
        return total

    with ThreadPoolExecutor(6) as threads:
        subscribers = [threads.submit(subscribe) for _ in range(6)]
        try:
            for n in range(number):
                journal.append(connection, emitter.emit(TaskSent, f"task-{n}"))
        finally:
            written.set()
        handled = [subscriber.result(60) for subscriber in subscribers]

    assert sum(handled) == number
    assert notes(connection) == [f"task-{n}" for n in range(number)]


def test_a_subscription_belongs_to_the_transaction_of_its_caller(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Inside a transaction that is rolled back, the checkpoint does not move."""
    record(connection, journal, emitter, 2)
    subscription = Subscription(journal, "audit")

    with connection.transaction(force_rollback=True):
        handled = subscription.catch_up(connection, lambda *_: None)

    assert handled == 2
    assert subscription.catch_up(connection, lambda *_: None) == 2


# Subscribers that do something elsewhere, and hold no transaction meanwhile


def test_a_subscription_begins_where_it_is_told_to_and_only_once(connection: Connection, journal: Journal) -> None:
    """A later beginning is where it stands."""
    subscription = Subscription(journal, "watch")

    assert subscription.begin(connection, (3, 7)) == ((3, 7), None)
    assert subscription.begin(connection, (9, 9)) == ((3, 7), None)


def test_a_subscription_is_moved_with_what_it_remembers_from_where_it_stands(connection: Connection, journal: Journal) -> None:
    """And from nowhere else; the same may be said again, as by who has not heard the answer."""
    subscription = Subscription(journal, "watch")
    first = subscription.begin(connection, (3, 7))
    second, third = Checkpoint((3, 8), b"open"), Checkpoint((4, 1), None)

    moves = [subscription.move(connection, first, second) for _ in range(2)]
    from_elsewhere = [subscription.move(connection, first, third), subscription.move(connection, Checkpoint((3, 8), None), third)]

    assert (moves, from_elsewhere) == ([True, True], [False, False])
    assert subscription.begin(connection) == second
    assert subscription.move(connection, second, third)
    assert subscription.begin(connection) == third


def test_what_is_remembered_outlasts_reading_on(connection: Connection, journal: Journal, emitter: Emitter) -> None:
    """Both ways of reading share a place, and the one that remembers nothing leaves it alone."""
    subscription = Subscription(journal, "watch")
    subscription.move(connection, subscription.begin(connection), Checkpoint((0, 0), b"open"))
    record(connection, journal, emitter, 2)

    assert subscription.catch_up(connection, lambda *_: None) == 2
    place, state = subscription.begin(connection)
    assert (place, state) == (journal.read_all(connection)[-1].place, b"open")


def test_a_subscription_is_of_one_session_until_that_ends(connection: Connection, journal: Journal) -> None:
    """By its name: another is free."""
    with other(connection) as stranger:
        first = Subscription(journal, "watch").take(stranger)
        meanwhile = Subscription(journal, "watch").take(connection), Subscription(journal, "another").take(connection)

    assert (first, meanwhile) == (True, (False, True))
    wait_until(lambda: Subscription(journal, "watch").take(connection))
