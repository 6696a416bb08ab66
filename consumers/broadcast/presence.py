"""That a capture is there, and up to date: without one, the silence of those whom only the broadcast tells of means nothing."""

from __future__ import annotations

import logging
import os
import platform
import socket
import threading
from collections.abc import Callable
from importlib import metadata
from types import TracebackType

from kombu.utils import json

from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.workers import WorkerEvent, WorkerHeartbeat, WorkerOffline, WorkerOnline

from .capture import Capture

logger = logging.getLogger(__name__)

#: What the view `worker` says that a capture is.
SOFTWARE = "celery-journal capture"


class Presence(threading.Thread):
    """A daemon thread that says every `interval` seconds that the capture is there, unless it is behind or in trouble."""

    def __init__(self, capture: Capture, journal: Journal, connect: Callable[[], Connection], interval: float) -> None:
        super().__init__(name="celery-journal-presence", daemon=True)
        self._capture = capture
        self._journal = journal
        self._connect = connect
        self._interval = interval
        self._emitter = Emitter()
        self._name = f"capture-{os.getpid()}@{socket.gethostname()}"
        self._stopped = threading.Event()
        self._is_known = False

    def __enter__(self) -> Presence:
        if self._interval:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self._stopped.set()
        if self._interval:
            self.join(timeout=5)

    def run(self) -> None:
        """Say that it is there until the end of the block, and then that it goes."""
        while not self._stopped.wait(min(self._interval, 1.0) if not self._is_known else self._interval):
            if self._capture.is_reading and not self._capture.is_behind and not self._capture.trouble:
                self._say(WorkerHeartbeat if self._is_known else WorkerOnline)
        if self._is_known:
            self._say(WorkerOffline)

    def _say(self, kind: type[WorkerEvent]) -> None:
        facts = {
            "software": SOFTWARE,
            "version": metadata.version("celery-journal"),
            "system": platform.system(),
            "freq": self._interval,
            "processed": self._capture.recorder.tally.events,
        }
        event = self._emitter.emit(kind, self._name, source="signal", pid=os.getpid(), meta=json.dumps(facts).encode())
        try:
            with self._connect() as connection:
                self._journal.append(connection, event)
        except Exception as exc:  # noqa: BLE001  the next one will do
            logger.debug("the presence of the capture is not recorded: %s", exc)
        else:
            self._is_known = True
