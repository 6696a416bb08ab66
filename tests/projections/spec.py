"""Given, when, then: append events, and read back the log and what the views show of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Barrier
from typing import Any, Literal, TypeVar

import psycopg
from psycopg.rows import dict_row

from celery_journal.journal import Connection, Journal, RecordedEvent
from celery_journal.journal.codec import decode
from celery_journal.journal.emitter import identify
from celery_journal.journal.events import Event
from celery_journal.projections import verify

from .oracle import Row, Views, differences, fold

E = TypeVar("E", bound=Event)
T = TypeVar("T")

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

Delivery = Literal["once", "twice", "by two emitters"]

_sequence = count()


def at(second: float) -> datetime:
    """Return a moment of the emitters' clock."""
    return NOON + timedelta(seconds=second)


def fact(kind: type[E], stream: str, second: float = 0, *, attempt: int = 0, **fields: Any) -> E:
    """Return an event of that second; every call is another fact."""
    moment = at(second)
    event_id = identify(moment, stream, kind.__name__, attempt, "spec", next(_sequence))
    return kind(event_id=event_id, stream=stream, attempt=attempt, occurred_at=moment, **fields)


def again(event: E) -> E:
    """Return the same fact as another emitter tells it."""
    event_id = identify(event.occurred_at, event.stream, event.kind, event.attempt, "another", next(_sequence))
    return event.model_copy(update={"event_id": event_id})


@dataclass(frozen=True, slots=True)
class Spec:
    """A specification: `given` these facts, `when` one more comes, then the views, which `when` returns, are ..."""

    connection: Connection
    delivery: Delivery
    journal: Journal = field(default_factory=Journal)

    def given(self, *events: Event) -> None:
        """Append the facts, one after the other."""
        for event in events:
            self.journal.append(self.connection, event)

    def when(self, event: Event) -> Views:
        """Append one more fact, as often as this spec delivers it, and return the views."""
        self.journal.append(self.connection, event)
        if self.delivery == "twice":
            assert self.journal.append(self.connection, event) == 0
        if self.delivery == "by two emitters":
            self.journal.append(self.connection, again(event))
        return checked(self.connection)

    def task(self, event: Event) -> Row:
        """Append one more fact about a task, and return its row."""
        return self.when(event).task_result[event.stream]

    def chord(self, event: Event) -> Row:
        """Append one more fact about a chord, and return its row."""
        return self.when(event).chord_counter[event.stream]


def read_log(connection: Connection) -> list[RecordedEvent]:
    """Return every event, whoever wrote it."""
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            "select e.*, e.transaction::text::bigint as transaction from celery_journal.event e order by e.transaction, e.position"
        )
        return [decode(row) for row in cursor]


def read_views(connection: Connection) -> Views:
    """Return what the views show now."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return Views(
            {row["task_id"]: row for row in cursor.execute("select * from celery_journal.task_result")},
            {row["group_id"]: row for row in cursor.execute("select * from celery_journal.group_result")},
            {row["group_id"]: row for row in cursor.execute("select * from celery_journal.chord_counter")},
            {
                (row["group_id"], row["task_id"], row["group_index"]): row
                for row in cursor.execute("select * from celery_journal.chord_part")
            },
            {(row["task_id"], row["attempt"], row["run"]): row for row in cursor.execute("select * from celery_journal.task_attempt")},
            {
                row["worker"]: {column: value for column, value in row.items() if column != "alive"}
                for row in cursor.execute("select * from celery_journal.worker")
            },
        )


def checked(connection: Connection) -> Views:
    """Return the views, after a look at whether they are what the oracle, and a fold of the whole log, make of the log."""
    found = read_views(connection)
    assert differences(fold(read_log(connection)), found) == []
    assert [str(difference) for difference in verify(connection).differences] == []
    return found


def at_once(dsn: str, jobs: Sequence[Callable[[Connection], T]]) -> list[T]:
    """Run the jobs, each on a connection of its own, all from the same moment on; return what they return."""
    ready = Barrier(len(jobs))

    def run(job: Callable[[Connection], T]) -> T:
        with psycopg.connect(dsn, autocommit=True) as connection:
            ready.wait(30)
            return job(connection)

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, jobs))


def until_waiting(connection: Connection, sessions: int) -> None:
    """Return when that many sessions of this database wait for a lock."""
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    deadline = time.monotonic() + 60
    while connection.execute(waiting).fetchone() != (sessions,):
        assert time.monotonic() < deadline, f"{sessions} sessions never waited for a lock"
        time.sleep(0.01)
        connection.execute("select pg_stat_clear_snapshot()")
