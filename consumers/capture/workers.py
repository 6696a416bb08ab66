"""That a worker is there, and goes on being there: what tells a task that runs from one that is lost."""

from __future__ import annotations

import atexit
import logging
import os
import platform
import threading
from typing import Any, ClassVar
from weakref import WeakSet

import celery
from celery.signals import worker_ready, worker_shutdown
from kombu.utils import json

from celery_journal.consumers.redelivery import visibility_timeout
from celery_journal.consumers.routing import name_of
from celery_journal.journal.codec import escape
from celery_journal.journal.workers import WorkerEvent, WorkerHeartbeat, WorkerOffline, WorkerOnline

from .apps import Recorder, recorder_of
from .buffer import close_all

logger = logging.getLogger(__name__)


#: Seconds that the end of a worker waits for its heart.
PATIENCE = 3.0

#: Bytes of the names of tasks that a worker tells, which is some thousands of names. Of one that has more it is not known what it has
#: registered: a part of them would say that it has not the rest.
MOST_NAMES = 500_000


class Heart(threading.Thread):
    """A daemon thread of a worker's main process that says every `heartbeat_interval` seconds that it is there.

    A thread, and not the worker's own event loop, which some pools block for as long as a task runs.
    """

    beating: ClassVar[WeakSet[Heart]] = WeakSet()

    def __init__(self, recorder: Recorder, consumer: Any) -> None:
        super().__init__(name="celery-journal-heart", daemon=True)
        self._recorder = recorder
        self._consumer = consumer
        self._visibility_timeout = visibility_timeout(consumer.app)
        self._pid = os.getpid()
        self._stopped = threading.Event()
        #: Whether it is recorded that the worker has come: what an earlier one of that name had, it does not have.
        self._is_known = False
        #: The names of tasks that it has told.
        self._told: list[str] | None = None
        self.beating.add(self)

    def stop(self) -> None:
        """End, and say that the worker goes; nothing is said after that. In a process forked off the worker this does nothing."""
        if os.getpid() == self._pid and not self._stopped.is_set():
            self._stopped.set()
            self.join(timeout=PATIENCE)  # it may be about to say that it is there
            self._say(WorkerOffline)

    def is_of(self, worker: Any) -> bool:
        """Return whether it is the heart of that worker: there may be several in a process."""
        return self._consumer.controller is worker

    def run(self) -> None:
        """Say that it is there until it is stopped."""
        while not self._stopped.is_set():
            self._is_known = self._say(WorkerHeartbeat if self._is_known else WorkerOnline) or self._is_known
            self._stopped.wait(self._recorder.options.heartbeat_interval)

    def _say(self, kind: type[WorkerEvent]) -> bool:
        try:
            registered = self._registered()
            more = {} if registered == self._told else {"tasks": self._within_bounds(registered)}
            self._recorder.append_now(
                self._recorder.emitter.emit(kind, self._consumer.hostname, source="signal", pid=os.getpid(), meta=self._meta(more))
            )
        except Exception as exc:  # noqa: BLE001  a heartbeat that is late says nothing any more
            logger.debug("a heartbeat is not recorded: %s", exc)
            return False
        self._told = registered
        return True

    def _registered(self) -> list[str]:
        """Return the names of the tasks that it takes: those that the app has had when the worker last connected to its broker."""
        return sorted(escape(name) for name in list(self._consumer.strategies))

    def _within_bounds(self, names: list[str]) -> list[str] | None:
        size = sum(len(name.encode()) for name in names)
        return names if size <= min(MOST_NAMES, self._recorder.options.max_payload_bytes // 2) else None

    def _meta(self, more: dict[str, Any]) -> bytes:
        from celery.worker import state  # takes a while to import, and only workers have it

        worker = self._consumer.controller
        facts = {
            "software": "celery",
            "version": celery.__version__,
            "system": platform.system(),
            "pool": type(self._consumer.pool).__module__.rpartition(".")[2],
            "concurrency": getattr(worker, "concurrency", None),
            "queues": sorted({name_of(queue) for queue in list(self._consumer.app.amqp.queues.consume_from.values())}),
            "freq": self._recorder.options.heartbeat_interval,
            "active": len(state.active_requests),
            "reserved": len(state.reserved_requests),
            "processed": state.all_total_count[0],
            "loadavg": [round(load, 2) for load in os.getloadavg()],
            **more,
        }
        if self._visibility_timeout is not None:
            facts["visibility_timeout"] = self._visibility_timeout
        encoded: str = json.dumps(facts)
        return encoded.encode()


@worker_ready.connect(weak=False, dispatch_uid="celery-journal-capture")
def _begin(sender: Any, **_signal: Any) -> None:
    recorder = recorder_of(sender.app)
    if recorder is not None and recorder.options.heartbeat_interval:
        Heart(recorder, sender).start()


@worker_shutdown.connect(weak=False, dispatch_uid="celery-journal-capture")
def _end(sender: Any = None, **_signal: Any) -> None:
    for heart in list(Heart.beating):
        if heart.is_of(sender):
            heart.stop()
    close_all()


@atexit.register
def _end_all() -> None:
    """Say that the workers of this process go: a cold shutdown sends no signal."""
    for heart in list(Heart.beating):
        heart.stop()
