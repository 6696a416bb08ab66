"""What the journal says when all is quiet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import class_row

from celery_journal.consumers.timeline import Transition, timeline
from celery_journal.journal import Journal


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the view task_result."""

    task_id: str
    name: str | None
    status: str
    retries: int
    worker: str | None
    pid: int | None
    ended: bool


@dataclass(frozen=True, slots=True)
class Run:
    """A row of the view task_attempt."""

    task_id: str
    attempt: int
    run: str | None
    worker: str | None
    pid: int | None
    status: str
    started: float | None


@dataclass(frozen=True, slots=True)
class Told:
    """How often the log has a fact of a run."""

    stream: str
    kind: str
    attempt: int
    run: str | None
    worker: str | None
    times: int
    sources: str


@dataclass(frozen=True, slots=True)
class Casualty:
    """A task that a worker has failed because its child died."""

    task_id: str
    attempt: int
    worker: str
    at: float


@dataclass(frozen=True, slots=True)
class Chord:
    """A row of the view chord_counter."""

    group_id: str
    count: int | None
    size: int | None
    state: str
    body_task_id: str | None
    #: How many of its members have neither returned nor ended.
    ended: bool


@dataclass(slots=True)
class Record:
    """What is needed of the journal to compare it with the truth."""

    rows: dict[str, Row] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    #: Every fact of a task but those of which there may be many.
    told: list[Told] = field(default_factory=list)
    chords: list[Chord] = field(default_factory=list)
    casualties: list[Casualty] = field(default_factory=list)
    #: What `AsyncResult.history()` tells of each task.
    histories: dict[str, list[Transition]] = field(default_factory=dict)
    events: int = 0
    #: Facts by source.
    sources: dict[str, int] = field(default_factory=dict)


ROWS = b"""
select task_id, task_name as name, status, retries, worker, pid, date_done is not null as ended
  from celery_journal.task_result
"""

RUNS = b"""
select task_id, attempt, run, worker, pid, status, extract(epoch from date_started)::float8 as started
  from celery_journal.task_attempt
"""

TOLD = b"""
select stream, kind, attempt, run, worker, count(*) as times, string_agg(coalesce(source, '?'), '+' order by position) as sources
  from celery_journal.event
 where kind like 'task-%' and kind not in ('task-progress', 'task-witnessed', 'task-lost')
 group by stream, kind, attempt, run, worker
"""

CHORDS = b"""
select group_id, count, size, state, body_task_id, date_done is not null as ended
  from celery_journal.chord_counter
"""

CASUALTIES = b"""
select stream as task_id, attempt, worker, extract(epoch from occurred_at)::float8 as at
  from celery_journal.event
 where kind = 'task-failed' and worker is not null and position('"WorkerLostError"'::bytea in result) > 0
"""

TASKS = b"select task_id from celery_journal.task_result"

SOURCES = b"select coalesce(source, '?'), count(*) from celery_journal.event group by 1 order by 2 desc"


def read(dsn: str) -> Record:
    """Return the record of the journal there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        journal = Journal()
        sources: dict[str, int] = dict(connection.execute(SOURCES).fetchall())
        return Record(
            rows={row.task_id: row for row in _all(connection, Row, ROWS)},
            runs=_all(connection, Run, RUNS),
            told=_all(connection, Told, TOLD),
            chords=_all(connection, Chord, CHORDS),
            casualties=_all(connection, Casualty, CASUALTIES),
            histories={task_id: timeline(journal.read_stream(connection, task_id)) for (task_id,) in connection.execute(TASKS).fetchall()},
            events=sum(sources.values()),
            sources=sources,
        )


def _all(connection: psycopg.Connection[Any], model: type[Any], query: bytes) -> list[Any]:
    with connection.cursor(row_factory=class_row(model)) as cursor:
        return cursor.execute(query).fetchall()
