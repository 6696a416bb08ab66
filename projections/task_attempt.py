"""The runs of a task."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Self

import psycopg
from psycopg.rows import dict_row
from pydantic import BaseModel, ConfigDict

from celery_journal import sql
from celery_journal.journal.codec import escape

from .projection import Connection


class TaskAttempt(BaseModel):
    """One run of a task: a retry is another attempt, and a redelivered message another run of the same attempt.

    The times are aware, in UTC, and by the clocks of sender and worker, but for `recorded_at` and `sent_recorded_at`, which are by
    that of the database.
    """

    model_config = ConfigDict(frozen=True)

    task_id: str
    #: Celery's `request.retries`: 0, and one more with each retry.
    attempt: int
    #: The delivery of the message; None where nobody told it, as where only the result backend is recorded.
    run: str | None = None
    #: The host name of the worker that ran it, and its process.
    worker: str | None = None
    pid: int | None = None
    #: PENDING, RECEIVED or STARTED, and at the end RETRY, REJECTED, REVOKED, IGNORED, FAILURE, SUCCESS, or REPLACED where the run has put
    #: another task in its place.
    status: str = "PENDING"
    #: The newest sending before it, where an id was sent more than once.
    date_sent: datetime | None = None
    date_received: datetime | None = None
    date_started: datetime | None = None
    #: The end of this run, be it the end of the task or not; None before.
    date_done: datetime | None = None
    queue: str | None = None
    #: Not to run before this moment, and not after that.
    eta: datetime | None = None
    expires: datetime | None = None
    #: Seconds that it may run (Celery's hard time limit).
    time_limit: float | None = None
    #: From the sending, or the eta where that is later, to the start; never negative. By the clocks of sender and worker unless
    #: something contradicts them, and then by that of the database. None where either end is not known.
    queue_wait: timedelta | None = None
    #: From start to end; never negative.
    run_time: timedelta | None = None
    #: Of this run, whatever became of the next.
    traceback: str | None = None
    #: When the last fact about the run was recorded, and when the sending was.
    recorded_at: datetime | None = None
    sent_recorded_at: datetime | None = None

    @classmethod
    def of(cls, connection: Connection, task_id: str, schema: str = sql.DEFAULT_SCHEMA) -> list[Self]:
        """Return every run of the task, the first attempt first."""
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(sql.query("views.sql", "task_attempts", schema), {"task_id": escape(task_id)})
            return [cls.model_validate(row) for row in cursor]

    @classmethod
    async def aof(cls, connection: psycopg.AsyncConnection[Any], task_id: str, schema: str = sql.DEFAULT_SCHEMA) -> list[Self]:
        """Return the same for an event loop."""
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(sql.query("views.sql", "task_attempts", schema), {"task_id": escape(task_id)})
            return [cls.model_validate(row) async for row in cursor]

    def __str__(self) -> str:
        return f"<Attempt: {self.task_id} {self.attempt} ({self.status})>"
