"""The events of a worker. Its stream is its host name, as Celery has it (`celery@host`)."""

from __future__ import annotations

from typing import Literal

from .event import Event


class WorkerEvent(Event):
    """A fact about a worker."""

    #: The worker's main process.
    pid: int | None = None
    #: JSON: software, version, system, pool, concurrency, queues, prefetch, freq (seconds between heartbeats), active, processed, loadavg;
    #: and when it comes, or when they change, tasks (the names that it has registered).
    meta: bytes | None = None


class WorkerOnline(WorkerEvent):
    kind: Literal["worker-online"] = "worker-online"


class WorkerHeartbeat(WorkerEvent):
    relaxed = True
    kind: Literal["worker-heartbeat"] = "worker-heartbeat"


class WorkerOffline(WorkerEvent):
    kind: Literal["worker-offline"] = "worker-offline"


class WorkerForgotten(Event):
    """It has been silent for so long that nobody wants to see it any more: what stands before it in the log leaves the views."""

    kind: Literal["worker-forgotten"] = "worker-forgotten"
