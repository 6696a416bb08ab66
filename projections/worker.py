"""A worker."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

from psycopg.rows import dict_row

from celery_journal import sql

from .projection import Connection, Row


class Worker(Row):
    """A worker, by its host name, as far as it, or Celery's broadcast, has told of it.

    The times are aware, in UTC, and by the clock of the database: a worker whose own clock is wrong is not taken for dead.
    """

    query: ClassVar[str] = "worker"
    key: ClassVar[str] = "worker"

    #: As Celery has it: celery@host.
    worker: str
    #: Whether it has missed fewer than four heartbeats, at the moment of the reading, and has not said that it goes offline.
    alive: bool = False
    #: Whether going offline is the last that was heard of it.
    offline: bool = False
    first_seen: datetime | None = None
    #: When it was last started; None where that was not recorded.
    online_since: datetime | None = None
    last_seen: datetime | None = None
    #: How far its clock is ahead of the database's (negative: behind), as its last fact says, the time of its way included. Where that
    #: was a broadcast, which may have waited anywhere, only a clock that is ahead is told.
    clock_offset: timedelta | None = None
    #: Its main process.
    pid: int | None = None
    software: str | None = None
    version: str | None = None
    system: str | None = None
    pool: str | None = None
    #: Processes, threads or greenlets that run tasks.
    concurrency: int | None = None
    #: The queues that it consumes, by name.
    queues: tuple[str, ...] | None = None
    #: Seconds between two heartbeats.
    freq: float | None = None
    #: Tasks that it runs now, and those that it has run since its start.
    active: int | None = None
    processed: int | None = None
    #: Who told the last of it: `broadcast`, or its own process.
    source: str | None = None
    #: The names of the tasks that it has registered; None where it has not told them.
    tasks: tuple[str, ...] | None = None

    @classmethod
    def all(cls, connection: Connection, schema: str = sql.DEFAULT_SCHEMA) -> list[Self]:
        """Return every worker that is not forgotten, by name."""
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(sql.query("views.sql", cls.query, schema), {"keys": None})
            return [cls.model_validate(row) for row in cursor]

    def as_dict(self) -> dict[str, Any]:
        """Return every field by name."""
        return self.model_dump()

    def __str__(self) -> str:
        return f"<Worker: {self.worker} ({'alive' if self.alive else 'offline' if self.offline else 'silent'})>"
