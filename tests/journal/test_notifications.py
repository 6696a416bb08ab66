"""Hints from who appends to who listens."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from celery_journal.journal import EVERYTHING, Connection, Emitter, Journal, Listener, token
from celery_journal.journal.events import ChordStarted, TaskStarted, TaskSucceeded

ANNOUNCING = Journal(announcing=True)


@pytest.fixture
def listener(dsn: str) -> Iterator[Listener]:
    """Somebody who waits for results."""
    listener = Listener(dsn)
    yield listener
    listener.close()


@pytest.mark.parametrize("stream", ["a", "\0", "\udc80", "täsk" * 1000])
def test_a_token_tells_nothing_of_its_stream(stream: str) -> None:
    """Ids may be data of users; it is short whatever they are."""
    assert len(token(stream)) == 12
    assert token(stream) == token(stream) != token(stream + "b")


def test_a_result_is_heard(listener: Listener, connection: Connection, emitter: Emitter) -> None:
    """By its token; what runs, or is about a group, is of no interest to who waits for results."""
    ANNOUNCING.append(connection, emitter.emit(TaskStarted, "a"))
    ANNOUNCING.append(connection, emitter.emit(ChordStarted, "g"))
    ANNOUNCING.append(connection, emitter.emit(TaskSucceeded, "a"))

    assert listener.wait(10) == {token("a")}
    assert listener.wait(0.2) == set()


def test_every_transition_is_heard_by_who_wants_them(dsn: str, connection: Connection, emitter: Emitter) -> None:
    """STARTED too."""
    listener = Listener(dsn, transitions=True)
    ANNOUNCING.append(connection, emitter.emit(TaskStarted, "a"))

    assert listener.wait(10) == {token("a")}
    listener.close()


def test_a_result_that_is_appended_twice_is_heard_twice(listener: Listener, connection: Connection, emitter: Emitter) -> None:
    """The first time, the connection may have broken between the commit and the hint."""
    event = emitter.emit(TaskSucceeded, "a")
    for _ in range(2):
        ANNOUNCING.append(connection, event)
        assert listener.wait(10) == {token("a")}


@pytest.mark.parametrize(("number", "heard"), [(2, {token("0"), token("1")}), (2000, {EVERYTHING})])
def test_a_batch_is_one_hint(listener: Listener, connection: Connection, emitter: Emitter, number: int, heard: set[str]) -> None:
    """Which fits into a notification, however many there are."""
    ANNOUNCING.append(connection, *(emitter.emit(TaskSucceeded, str(task)) for task in range(number)))

    assert listener.wait(10) == heard


def test_who_appends_in_a_transaction_of_their_own_hints_at_nothing(listener: Listener, connection: Connection, emitter: Emitter) -> None:
    """The lock that NOTIFY takes would be held across their commit; who waits looks again after a while."""
    with connection.transaction():
        ANNOUNCING.append(connection, emitter.emit(TaskSucceeded, "a"))

    assert listener.wait(0.2) == set()


def test_a_listener_can_be_woken(listener: Listener) -> None:
    """From another thread, and as often as anybody likes."""

    def wake() -> None:
        for _ in range(10_000):
            listener.wake()

    threading.Timer(0.1, wake).start()

    assert listener.wait(30) == set()


def test_who_begins_to_listen_waits_for_the_commits_under_way(dsn: str, connection: Connection, emitter: Emitter) -> None:
    """A writer that found nobody listening holds its lock until its result can be seen, so no result falls between the two."""
    connection.autocommit = False
    connection.execute(
        b"select pg_try_advisory_xact_lock(hashtextextended('celery_journal.results', place)) from generate_series(0, 63) as place"
    )
    begun: list[Listener] = []
    beginning = threading.Thread(target=lambda: begun.append(Listener(dsn)))
    beginning.start()
    beginning.join(0.3)
    assert not begun

    connection.commit()
    beginning.join(30)
    begun.pop().close()
