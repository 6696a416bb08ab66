"""What is broken now: workers that are gone, queues that nobody consumes, what is lost, stuck, failing, or waits for the database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from psycopg.rows import class_row, dict_row

from celery_journal import sql
from celery_journal.journal import Connection
from celery_journal.projections import Q, Worker

from .clock import now_of
from .errors import LIMIT as FAILURES
from .errors import ErrorGroup, error_groups
from .settlement import settled_in
from .unregistered import Unregistered, find_unregistered
from .words import counted, duration, listed

#: Tasks of each queue among which the oldest that is due is looked for: those before it have an eta.
LOOKED_AT = 20

#: For how long failures count.
HOUR = timedelta(hours=1)

#: The most that is looked at of what is lost and stuck.
LIMIT = 1000

#: How long a transaction may be open before those who read the log in order wait for it noticeably.
LONG = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """What waits in a queue, and who consumes it."""

    #: Its name; None of tasks whose queue nobody has told.
    queue: str | None
    #: Tasks that have not started, those with an eta included; and those that run.
    waiting: int
    running: int
    #: For how long the oldest should have been taken by now; None where nothing is due.
    age: timedelta | None
    #: Live workers that consume it.
    workers: int

    def as_dict(self) -> dict[str, Any]:
        """Return every field by name."""
        return {"queue": self.queue, "waiting": self.waiting, "running": self.running, "oldest": self.age, "workers": self.workers}


@dataclass(frozen=True, slots=True)
class StuckChord:
    """A chord all of whose members have ended, and whose body was neither sent nor failed."""

    group_id: str
    body_task_id: str | None
    #: For how long.
    age: timedelta


@dataclass(frozen=True, slots=True)
class Status:
    """What there is to say of a journal at one moment, by the clock of the database."""

    at: datetime
    workers: list[Worker]
    queues: list[QueueStatus]
    #: What waits under names that no live worker of its queue has registered.
    unregistered: list[Unregistered]
    #: The reason of each task that is marked as lost and not settled, by its id.
    lost: dict[str, str]
    stuck: list[StuckChord]
    #: Of the last hour: what ended, what failed, and what failed and is settled.
    ended: int
    failed: int
    settled: int
    errors: list[ErrorGroup]
    #: The transaction for which those wait who read the log in order: whose it is, and for how long it is open.
    horizon: tuple[str, timedelta] | None
    #: Facts on this machine that wait for the database, and those that it has refused.
    spooled: int = 0
    refused: int = 0
    #: In words, the worst first; empty where nothing is broken.
    problems: list[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "problems", list(self._problems()))

    @property
    def alive(self) -> list[Worker]:
        """The workers that are alive."""
        return [worker for worker in self.workers if worker.alive]

    @property
    def gone(self) -> list[Worker]:
        """The workers that stopped telling that they live, and never said that they go."""
        return [worker for worker in self.workers if is_gone(worker)]

    @property
    def late(self) -> list[Worker]:
        """The live workers that have missed a heartbeat."""
        return [worker for worker in self.workers if is_late(worker, self.at)]

    @property
    def unconsumed(self) -> list[QueueStatus]:
        """The queues in which something is due that no live worker consumes; none, as long as one does not tell what it consumes."""
        if any(worker.queues is None for worker in self.alive):
            return []
        return [one for one in self.queues if one.queue is not None and one.age is not None and not one.workers]

    def _problems(self) -> Iterator[str]:
        if self.spooled:
            yield f"{counted(self.spooled, 'fact')} of this machine {'waits' if self.spooled == 1 else 'wait'} for the database"
        if self.refused:
            yield f"{counted(self.refused, 'fact')} of this machine {'was' if self.refused == 1 else 'were'} refused by the database"
        if gone := [worker.worker for worker in self.gone]:
            yield f"{counted(len(gone), 'worker')} gone without a word: {listed(gone)}"
        if idle := self.unconsumed:
            waiting = sum(one.waiting for one in idle)
            named = listed([f"{one.queue} ({one.waiting:,}, the oldest for {duration(one.age or 0)})" for one in idle])
            waits = f"{counted(waiting, 'task')} {'waits' if waiting == 1 else 'wait'} where no live worker consumes"
            yield f"{waits}: {named}"
        if unknown := self.unregistered:
            waiting = sum(one.tasks for one in unknown)
            waits = f"{counted(waiting, 'task')} {'waits' if waiting == 1 else 'wait'} that no live worker of the queue has registered"
            yield f"{waits}: {listed([str(one) for one in unknown])}"
        if self.lost:
            yield f"{counted(len(self.lost), 'task')} lost"
        if self.stuck:
            yield f"{counted(len(self.stuck), 'chord')} stuck: {listed([chord.group_id for chord in self.stuck])}"
        if self.horizon:
            yield f"a transaction of {self.horizon[0]} is open for {duration(self.horizon[1])}: tail, export and subscriptions wait"
        if late := [worker.worker for worker in self.late]:
            yield f"{counted(len(late), 'worker')} late with a heartbeat: {listed(late)}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "at": self.at,
            "broken": self.problems,
            "workers": [worker.model_dump(exclude={"tasks"}) for worker in self.workers],
            "queues": [one.as_dict() for one in self.queues],
            "unregistered": [one.as_dict() for one in self.unregistered],
            "lost": self.lost,
            "stuck_chords": [{"group_id": one.group_id, "body_task_id": one.body_task_id, "age": one.age} for one in self.stuck],
            "last_hour": {
                "ended": self.ended,
                "failed": self.failed,
                "settled": self.settled,
                "errors": [group.as_dict() for group in self.errors],
            },
            "horizon": {"transaction_of": self.horizon[0], "age": self.horizon[1]} if self.horizon else None,
            "spool": {"waiting": self.spooled, "refused": self.refused},
        }


def is_gone(worker: Worker) -> bool:
    """Return whether it stopped telling that it lives, and never said that it goes."""
    return not worker.alive and not worker.offline


def is_late(worker: Worker, now: datetime) -> bool:
    """Return whether it is alive, and has missed a heartbeat."""
    return worker.alive and worker.last_seen is not None and now - worker.last_seen > timedelta(seconds=2 * (worker.freq or 10))


def queues_of(connection: Connection, schema: str = sql.DEFAULT_SCHEMA) -> list[QueueStatus]:
    """Return the queues in which something waits or runs, or that a live worker consumes: first those that nobody consumes."""
    with connection.cursor(row_factory=class_row(QueueStatus)) as cursor:
        return cursor.execute(sql.query("status.sql", "queues", schema), {"looked_at": LOOKED_AT}).fetchall()


def status_of(connection: Connection, schema: str = sql.DEFAULT_SCHEMA, *, spooled: int = 0, refused: int = 0) -> Status:
    """Return what there is to say now; of the spool, which is this machine's, as it is given."""

    def rows(name: str, file: str = "status.sql", **parameters: Any) -> list[dict[str, Any]]:
        with connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(sql.query(file, name, schema), parameters).fetchall()

    at = now_of(connection, schema)
    lost = {row["task_id"]: row["reason"] for row in rows("lost", limit=LIMIT)}
    since = at - HOUR
    failed = [row["task_id"] for row in rows("failed", since=since, limit=FAILURES)]
    settled = list(settled_in(connection, [*lost, *failed], schema))
    (ended,) = rows("ended", since=since, settled=settled)
    oldest = next(iter(rows("oldest transactions", "doctor.sql")), None)
    return Status(
        at,
        Worker.all(connection, schema),
        queues_of(connection, schema),
        find_unregistered(connection, schema),
        {task_id: reason for task_id, reason in lost.items() if task_id not in settled},
        [StuckChord(**row) for row in rows("stuck chords", limit=LIMIT)],
        ended["ended"],
        ended["failed"],
        ended["settled"],
        error_groups(connection, since, at, ~Q(task_id__in=settled), schema),
        (oldest["who"] or "somebody", oldest["age"]) if oldest and oldest["age"] and oldest["age"] >= LONG else None,
        spooled,
        refused,
    )
