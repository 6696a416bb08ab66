"""The clock of the database, by which ages are reckoned."""

from __future__ import annotations

from datetime import datetime

from celery_journal import sql
from celery_journal.journal import Connection


def now_of(connection: Connection, schema: str = sql.DEFAULT_SCHEMA) -> datetime:
    """Return what time it is there."""
    ((now,),) = connection.execute(sql.query("explain.sql", "now", schema)).fetchall()
    at: datetime = now
    return at
