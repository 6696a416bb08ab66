"""Histories of tasks and workers as the log has them, for the tests of what is lost, stale or explained."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import Event, TaskReceived, TaskSent, TaskStarted
from celery_journal.journal.workers import WorkerHeartbeat, WorkerOffline, WorkerOnline

#: Seconds between the heartbeats of a worker that will be taken for gone at once.
SOON = 0.01

#: Seconds without news after which a task can be lost, in most tests.
GRACE = 0.05


def ago(seconds: float) -> datetime:
    """Return the moment so many seconds ago."""
    return datetime.now(UTC) - timedelta(seconds=seconds)


def pause(seconds: float = 2 * GRACE) -> None:
    """Let the clock of the database go on: ages are by nothing else."""
    time.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Log:
    """The log, and who writes to it."""

    connection: Connection
    emitter: Emitter = field(default_factory=Emitter)
    journal: Journal = field(default_factory=Journal)

    def tell(self, kind: type[Event], stream: str, **fields: Any) -> None:
        """Append one fact."""
        self.journal.append(self.connection, self.emitter.emit(kind, stream, **fields))

    def sent(self, task_id: str = "t", queue: str = "mail", name: str = "app.send", **fields: Any) -> None:
        """A task is sent."""
        self.tell(TaskSent, task_id, **{"queue": queue, "name": name, **fields})

    def received(self, task_id: str = "t", worker: str = "w1", run: str = "r1", queue: str = "mail", **fields: Any) -> None:
        """A worker receives the task."""
        self.tell(TaskReceived, task_id, **{"worker": worker, "run": run, "queue": queue, "name": "app.send", **fields})

    def started(self, task_id: str = "t", worker: str = "w1", run: str = "r1", queue: str = "mail", **fields: Any) -> None:
        """A worker starts the task."""
        self.tell(TaskStarted, task_id, **{"worker": worker, "run": run, "queue": queue, "name": "app.send", **fields})

    def online(
        self, worker: str = "w1", queues: tuple[str, ...] | None = ("mail",), freq: float = 10, active: int = 0, **fields: Any
    ) -> None:
        """A worker comes."""
        self._of_worker(WorkerOnline, worker, queues, freq, active, fields)

    def beat(
        self, worker: str = "w1", queues: tuple[str, ...] | None = ("mail",), freq: float = 10, active: int = 0, **fields: Any
    ) -> None:
        """A worker says that it is there."""
        self._of_worker(WorkerHeartbeat, worker, queues, freq, active, fields)

    def offline(
        self, worker: str = "w1", queues: tuple[str, ...] | None = ("mail",), freq: float = 10, active: int = 0, **fields: Any
    ) -> None:
        """A worker goes."""
        self._of_worker(WorkerOffline, worker, queues, freq, active, fields)

    def _of_worker(
        self, kind: type[Event], worker: str, queues: tuple[str, ...] | None, freq: float, active: int, fields: dict[str, Any]
    ) -> None:
        software = {name: fields.pop(name, default) for name, default in (("pool", "prefork"), ("software", "celery"))}
        software |= {name: fields.pop(name) for name in ("visibility_timeout", "tasks") if name in fields}
        meta = json.dumps({"queues": None if queues is None else list(queues), "freq": freq, "active": active, **software}).encode()
        self.tell(kind, worker, **{"pid": 1, "source": "signal", "meta": meta, **fields})
