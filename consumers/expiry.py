"""Expiring what `result_expires` says, by events: the log keeps its own, separate retention."""

from __future__ import annotations

from datetime import datetime

from celery_journal import sql
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import GroupExpired, TaskExpired

#: Rows a statement, so that no transaction is long.
BATCH = 1000


def expire(connection: Connection, journal: Journal, emitter: Emitter, before: datetime) -> int:
    """Take results, saved groups and finished chords that ended before the moment out of the views; return how many.

    An open chord never expires, nor do its parts.
    """
    expired = 0
    for name, kind in (("expired tasks", TaskExpired), ("expired groups", GroupExpired)):
        query = sql.query("expiry.sql", name, journal.schema)
        while ids := [key for (key,) in connection.execute(query, {"before": before, "limit": BATCH})]:
            journal.append(connection, *(emitter.emit(kind, key) for key in ids))
            expired += len(ids)
    for _step in ("mark", "remove"):
        connection.execute(sql.query("expiry.sql", "purge", journal.schema))
    connection.execute(sql.query("schema.sql", "create partitions", journal.schema))
    return expired
