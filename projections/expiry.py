"""Taking out of the views what is old enough, by events: the log keeps it, and has a retention of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery_journal import sql
from celery_journal.journal import Emitter, Journal
from celery_journal.journal.events import GroupExpired, TaskExpired
from celery_journal.journal.workers import WorkerForgotten

from .projection import Connection

#: Rows a statement, so that no transaction is long.
BATCH = 1000


def take_out(
    connection: Connection,
    journal: Journal,
    emitter: Emitter,
    name: str,
    kind: type[TaskExpired | GroupExpired | WorkerForgotten],
    limits: Mapping[str, Any],
) -> int:
    """Record the event for each key that the statement `name` of sql/expiry.sql finds, until it finds none; return how many."""
    query = sql.query("expiry.sql", name, journal.schema)
    expired = 0
    while keys := [key for (key,) in connection.execute(query, {**limits, "limit": BATCH})]:
        journal.append(connection, *(emitter.emit(kind, key) for key in keys))
        expired += len(keys)
    return expired
