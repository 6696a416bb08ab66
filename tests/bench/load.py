"""What the benchmarks append: the lives of tasks, four events each, with the payloads of an ordinary application."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import psycopg

from celery_journal.journal import Connection, Emitter
from celery_journal.journal.events import Event, TaskRetried, TaskStarted, TaskSucceeded

PLAIN_SCHEMA = "plain"

TRACEBACK = "Traceback (most recent call last):\n" + '  File "/app/billing/tasks.py", line 40, in charge\n    client.post(url)\n' * 3


def life(emitter: Emitter) -> list[Event]:
    """Return the events of a task that is retried once."""
    task_id = str(uuid4())
    asked: dict[str, Any] = {
        "name": "billing.tasks.charge",
        "args": b'[{"customer": 4711, "amount": "12.50"}]',
        "kwargs": b'{"currency": "EUR"}',
        "queue": "celery",
        "root_id": task_id,
        "worker": "celery@worker-1",
        "pid": 4242,
        "request": {"origin": "gen1234@web-1", "correlation_id": task_id, "delivery_info": {"routing_key": "celery", "priority": 0}},
    }
    first: dict[str, Any] = {"run": str(uuid4())}
    second: dict[str, Any] = {"run": str(uuid4())}
    json: dict[str, Any] = {"content_type": "application/json", "content_encoding": "utf-8"}
    failure = b'{"exc_type": "ConnectionError", "exc_message": ["refused"], "exc_module": "builtins"}'
    return [
        emitter.emit(TaskStarted, task_id, **asked, **first, **json, result=b'{"pid": 4242, "hostname": "celery@worker-1"}'),
        emitter.emit(TaskRetried, task_id, **asked, **first, **json, result=failure, traceback=TRACEBACK),
        emitter.emit(TaskStarted, task_id, attempt=1, **asked, **second, **json, result=b'{"pid": 4242, "hostname": "celery@worker-1"}'),
        emitter.emit(TaskSucceeded, task_id, attempt=1, **asked, **second, **json, result=b'{"charged": true, "id": "ch_1234567890"}'),
    ]


def lives(emitter: Emitter, tasks: int) -> Iterator[Event]:
    """Yield the events of many tasks, of which about a hundred are under way at a time."""
    under_way: list[list[Event]] = []
    for _ in range(tasks):
        under_way.append(life(emitter))
        if len(under_way) == 100:
            for step in range(4):
                yield from (events[step] for events in under_way)
            under_way = []
    for events in under_way:
        yield from events


def create_plain_log(connection: Connection) -> None:
    """Create a copy of the log in the schema `plain`: the same columns, indexes and partitions, no views."""
    connection.execute(b"create schema plain")
    connection.execute(b"create table plain.event (like celery_journal.event including all) partition by range (event_id)")
    partitions = connection.execute(
        b"select c.relname, pg_get_expr(c.relpartbound, c.oid) from pg_class c "
        b"join pg_inherits i on i.inhrelid = c.oid where i.inhparent = 'celery_journal.event'::regclass"
    ).fetchall()
    for name, bounds in partitions:
        connection.execute(f"create table plain.{name} partition of plain.event {bounds}".encode())


def open_connection(dsn: str) -> Connection:
    """Return a connection in autocommit mode."""
    return psycopg.connect(dsn, autocommit=True)
