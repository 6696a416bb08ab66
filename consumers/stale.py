"""Tasks that were sent long ago and have not ended."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from celery import states
from psycopg.rows import class_row

from celery_journal import sql
from celery_journal.journal import Connection

#: The states after which Celery expects nothing more.
ACCEPTABLE = frozenset({*states.READY_STATES, states.IGNORED})

#: The same, as far as the view has the date of an end.
_ENDED = frozenset({states.SUCCESS, states.FAILURE, states.REVOKED, states.IGNORED})

#: Rows that are read at a time. Those of the states that are rarely asked for have no index, and must all be sorted for each page.
PAGE = 1000
LARGE_PAGE = 20_000


@dataclass(frozen=True, slots=True)
class StaleTask:
    """A task that should have ended by now."""

    task_id: str
    name: str | None
    state: str
    worker: str | None
    #: Whether the worker is alive; None where it is not known.
    worker_alive: bool | None
    queue: str | None
    #: When it was sent, or else first heard of.
    date_created: datetime
    #: When it was last heard of, by the clock of the database.
    recorded_at: datetime
    eta: datetime | None
    #: How long it could have run by now.
    age: timedelta
    #: Why it will not go on by itself, if it was marked so.
    lost_reason: str | None

    @property
    def reason(self) -> str:
        """Why it has not ended, as far as one row tells; `celery-journal explain` tells more."""
        if self.lost_reason is not None:
            return f"lost: {self.lost_reason}"
        where = f" on {self.queue}" if self.queue else ""
        match self.state:
            case states.PENDING:
                return f"not received by any worker{where}"
            case states.RETRY:
                return f"waits for its next attempt{where}"
            case states.REJECTED:
                return f"given back{f' to {self.queue}' if self.queue else ''}"
        doing = "received by" if self.state == states.RECEIVED else "with"
        gone = ", which is gone" if self.worker_alive is False else ""
        return f"{doing} {self.worker or 'a worker'}{gone}"


def get_stale_tasks(
    connection: Connection,
    max_duration: timedelta,
    acceptable_states: Collection[str] | None = None,
    *,
    scheduled: bool = False,
    schema: str = sql.DEFAULT_SCHEMA,
) -> Iterator[StaleTask]:
    """Yield the tasks that were sent longer ago than `max_duration` and are in none of the acceptable states, the oldest first.

        with connect(dsn) as connection:
            for task in get_stale_tasks(connection, timedelta(hours=1)):
                print(task.date_created, task.task_id, task.name)

    Acceptable is, unless given, what Celery takes for an end, and IGNORED. A task with an eta counts from then on. With `scheduled`
    only tasks with an eta are meant, that has passed by more than `max_duration` without a start.

    Rows are read as they are asked for, so that a million of them need no memory; in short statements, so nothing is held open.
    """
    acceptable = ACCEPTABLE if acceptable_states is None else frozenset(acceptable_states)
    name = "not started" if scheduled else "not ended" if acceptable >= _ENDED else "not acceptable"
    query, page = sql.query("stale.sql", name, schema), LARGE_PAGE if name == "not acceptable" else PAGE
    created, task_id = datetime.min.replace(tzinfo=UTC), ""
    while True:
        with connection.cursor(row_factory=class_row(StaleTask)) as cursor:
            place = {"created": created, "task_id": task_id, "page": page}
            rows = cursor.execute(query, {"acceptable": list(acceptable), "duration": max_duration, **place}).fetchall()
        yield from rows
        if len(rows) < page:
            return
        created, task_id = rows[-1].date_created, rows[-1].task_id
