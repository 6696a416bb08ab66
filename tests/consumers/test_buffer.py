"""Facts that nobody waits for: recorded soon, in order, each once, whatever happens to the process and its database."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from celery_journal.consumers.backend import JournalBackend
from celery_journal.consumers.capture import Buffer
from celery_journal.journal import Emitter
from celery_journal.journal.events import Event, TaskSent

from .scene import ask, in_background, recorded, until

NewApp = Callable[..., Celery]


class Paper:
    """A sink that keeps what it is given, and can be held up."""

    def __init__(self) -> None:
        self.batches = list[list[str]]()
        self.last = list[str]()
        self.open = threading.Event()
        self.open.set()

    def record(self, events: list[Event]) -> None:
        self.open.wait()
        self.batches.append([event.stream for event in events])

    def record_last(self, events: list[Event]) -> None:
        self.last += [event.stream for event in events]

    @property
    def streams(self) -> list[str]:
        return [stream for batch in self.batches for stream in batch] + self.last


emitter = Emitter()


def fact(stream: object) -> Callable[[], Event]:
    return lambda: emitter.emit(TaskSent, str(stream))


def test_facts_are_recorded_in_order_many_at_once() -> None:
    """One statement for what comes within a few milliseconds."""
    paper = Paper()
    buffer = Buffer(paper, 1000)
    for number in range(300):
        buffer.put(fact(number), may_wait=True)
    until(lambda: len(paper.streams) == 300)

    assert paper.streams == [str(number) for number in range(300)]
    assert len(paper.batches) < 30
    buffer.close()


def test_flush_records_what_waits_before_it_returns() -> None:
    """Also while the thread is at it."""
    paper = Paper()
    buffer = Buffer(paper, 1000)
    for number in range(50):
        buffer.put(fact(number), may_wait=True)
        if number % 7 == 0:
            buffer.flush()
            assert paper.streams == [str(told) for told in range(number + 1)]
    buffer.close()
    assert len(paper.streams) == 50


def test_who_tells_faster_than_the_database_takes_it_is_slowed_down() -> None:
    """Memory is bounded, and nothing that matters is lost."""
    paper = Paper()
    paper.open.clear()
    buffer = Buffer(paper, 20)

    def tell() -> None:
        for number in range(200):
            buffer.put(fact(number), may_wait=True)

    telling = in_background(tell)
    time.sleep(0.3)
    assert not telling.done()
    assert len(buffer._processes[os.getpid()].waiting) <= 20

    paper.open.set()
    telling.result(20)
    buffer.close()
    assert sorted(map(int, paper.streams)) == list(range(200))


def test_who_may_not_wait_is_not_held_up_and_what_is_dropped_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """A worker's event loop serves all its tasks."""
    paper = Paper()
    paper.open.clear()
    buffer = Buffer(paper, 20)
    with caplog.at_level(logging.ERROR):
        for number in range(100):
            buffer.put(fact(number), may_wait=False)
    paper.open.set()
    buffer.close()

    assert 20 <= len(paper.streams) < 100
    assert "facts were dropped" in caplog.text


def test_a_fact_that_cannot_be_made_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """Requests hold whatever users put into them."""
    paper = Paper()
    buffer = Buffer(paper, 20)

    def impossible() -> Event:
        raise RuntimeError("no such thing")

    buffer.put(fact("before"), may_wait=True)
    buffer.put(impossible, may_wait=True)
    buffer.put(fact("after"), may_wait=True)
    buffer.close()

    assert paper.streams == ["before", "after"]
    assert "could not be made" in caplog.text


def test_the_next_fact_after_the_end_begins_anew() -> None:
    """As with an app whose connections are closed and that goes on."""
    paper = Paper()
    buffer = Buffer(paper, 20)
    buffer.put(fact("a"), may_wait=True)
    buffer.close()
    buffer.put(fact("b"), may_wait=True)
    until(lambda: sorted(paper.streams) == ["a", "b"], 10)
    buffer.close()


def test_threads_tell_at_once_and_each_fact_is_recorded_once() -> None:
    """And in the order of each of them."""
    paper = Paper()
    buffer = Buffer(paper, 50)

    def tell(who: int) -> None:
        for number in range(200):
            buffer.put(fact(f"{who}-{number}"), may_wait=True)

    threads = [threading.Thread(target=tell, args=[who]) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    buffer.close()

    assert len(paper.streams) == 1600
    for who in range(8):
        mine = [stream for stream in paper.streams if stream.startswith(f"{who}-")]
        assert sorted(mine) == sorted(f"{who}-{number}" for number in range(200))


def test_a_forked_child_has_nothing_of_its_parents(dsn: str, make_app: NewApp) -> None:
    """Neither its facts nor its thread; both record their own, once."""
    backend: JournalBackend = make_app().backend
    for number in range(20):
        backend.buffer.put(lambda number=number: backend.emitter.emit(TaskSent, f"parent-{number}"), may_wait=True)  # type: ignore[misc]
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            backend.buffer.put(lambda: backend.emitter.emit(TaskSent, "child"), may_wait=True)
            backend.buffer.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    backend.buffer.close()

    streams: list[Any] = ask(dsn, b"select stream, count(*) from celery_journal.event group by stream")
    assert dict(streams) == {**{f"parent-{number}": 1 for number in range(20)}, "child": 1}


def test_one_fact_that_the_database_refuses_harms_no_other(dsn: str, make_app: NewApp) -> None:
    """It is recorded without what is too much of it."""
    backend: JournalBackend = make_app(result_backend_transport_options={"max_payload_bytes": 5000}).backend
    for name, size in (("a", 10), ("large", 10_000), ("b", 10)):
        backend.buffer.put(lambda name=name, size=size: backend.emitter.emit(TaskSent, name, args=b"x" * size), may_wait=True)  # type: ignore[misc]
    backend.buffer.flush()

    assert [len(recorded(dsn, name)) for name in ("a", "large", "b")] == [1, 1, 1]
    (large,) = recorded(dsn, "large")
    assert getattr(large.event, "args", None) is None


def test_a_thread_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on processes may be there for a moment only."""
    paper = Paper()
    buffer = Buffer(paper, 100)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    buffer.put(fact("a"), may_wait=True)
    buffer.put(fact("b"), may_wait=True)
    until(lambda: paper.streams == ["a", "b"], 10)
    buffer.close()


def test_one_that_is_too_large_keeps_no_other_at_the_end(dsn: str, make_app: NewApp) -> None:
    """The last ones of a process are recorded over a connection of its own."""
    backend: JournalBackend = make_app(result_backend_transport_options={"max_payload_bytes": 5000}).backend
    for name, size in (("a", 10), ("large", 10_000), ("b", 10)):
        backend.buffer.put(lambda name=name, size=size: backend.emitter.emit(TaskSent, name, args=b"x" * size), may_wait=True)  # type: ignore[misc]
    backend.buffer.close()

    assert [len(recorded(dsn, name)) for name in ("a", "large", "b")] == [1, 1, 1]
