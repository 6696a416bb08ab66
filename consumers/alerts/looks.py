"""How queues, workers and the spool of this machine stand: what may begin or end an episode."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from celery_journal import sql
from celery_journal.consumers.spool import Spool
from celery_journal.consumers.status import QueueStatus, is_gone, is_late, queues_of
from celery_journal.consumers.words import counted, duration, shown
from celery_journal.journal import Connection
from celery_journal.projections import Worker

from .episodes import Condition


@dataclass(frozen=True, slots=True)
class Queues:
    """The queues: one begins to be told of when its oldest task should have been taken so long ago, and no more at half of that."""

    most: timedelta
    schema: str = sql.DEFAULT_SCHEMA

    def look(self, connection: Connection) -> list[Condition]:
        """Return how each stands in which something is due."""
        return [self._condition(one, one.age) for one in queues_of(connection, self.schema) if one.age is not None]

    def _condition(self, one: QueueStatus, age: timedelta) -> Condition:
        waits = f"the oldest task of {'no known queue' if one.queue is None else f'queue {shown(one.queue)}'} waits for {duration(age)}"
        text = f"{waits}; {one.waiting:,} waiting, {one.running:,} running, {counted(one.workers, 'worker')}"
        details = {**one.as_dict(), "oldest": age.total_seconds()}
        return Condition("queue-age", one.queue or "", age > self.most, age > self.most / 2, text, details)


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers that have missed a heartbeat, be they late or gone; one that has said that it goes has missed none."""

    schema: str = sql.DEFAULT_SCHEMA

    def look(self, connection: Connection, now: datetime) -> list[Condition]:
        """Return those that have missed any."""
        found = Worker.all(connection, self.schema)
        return [_of_worker(worker, now) for worker in found if is_gone(worker) or is_late(worker, now)]


def _of_worker(worker: Worker, now: datetime) -> Condition:
    name = shown(worker.worker)
    state = "gone" if is_gone(worker) else "late"
    heard = "never heard of" if worker.last_seen is None else f"last heard of {duration(now - worker.last_seen) or 'a moment'} ago"
    text = f"worker {name} has missed {'its heartbeats' if state == 'gone' else 'a heartbeat'}: {heard}"
    seen = None if worker.last_seen is None else worker.last_seen.isoformat()
    details = {"worker": worker.worker, "state": state, "last_seen": seen, "running": worker.active}
    return Condition("heartbeat", worker.worker, begins=True, lasts=True, text=text, details=details)


@dataclass(frozen=True, slots=True)
class Spooled:
    """What waits on this machine for the database, or was refused by it."""

    spool: Spool

    def look(self) -> Iterator[Condition]:
        """Return that something does. Raises sqlite3.Error or OSError where the spool cannot be read."""
        found = self.spool.status()
        if not found.waiting and not found.refused:
            return
        parts = [f"{counted(found.waiting, 'fact')} of {platform.node()} wait for the database"] if found.waiting else []
        parts += [f"{counted(found.refused, 'fact')} of {platform.node()} refused by the database"] if found.refused else []
        details = {"machine": platform.node(), "file": str(found.file), "waiting": found.waiting, "refused": found.refused}
        yield Condition("spool", platform.node(), begins=True, lasts=True, text="; ".join(parts), details=details)
