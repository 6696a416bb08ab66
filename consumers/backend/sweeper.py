"""The sweep inside a worker: chords that a crash has left open are completed by whoever is alive, and what is lost is marked."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Any, ClassVar

from celery.signals import worker_ready, worker_shutting_down

from celery_journal.consumers.signal_safe import SignalSafeEvent
from celery_journal.consumers.sweeping import LostSweep

from .chordsweep import SweptChords
from .connection import JournalUnavailable

logger = logging.getLogger(__name__)


class Sweeper(threading.Thread):
    """A daemon thread of a worker's main process that looks every `sweep_interval` seconds whether it is to sweep."""

    running: ClassVar[weakref.WeakSet[Sweeper]] = weakref.WeakSet()

    def __init__(self, backend: SweptChords) -> None:
        super().__init__(name="celery-journal-sweeper", daemon=True)
        self._backend = backend
        self._lost = LostSweep.of(backend)
        self._stopped = SignalSafeEvent()  # Celery tells of the shutdown in its handlers of signals
        self.running.add(self)

    def stop(self) -> None:
        """End before the next sweep."""
        self._stopped.set()

    def run(self) -> None:
        """Sweep until stopped; a sweep that fails is tried again at the next turn."""
        while not self._stopped.wait(self._backend.options.sweep_interval):
            try:
                if self._backend.sweep_is_ours() and (swept := self._backend.sweep_chords()):
                    logger.warning("sent the bodies of chords that were left open", extra={"group_ids": swept})
            except JournalUnavailable as exc:
                logger.warning("the sweep must wait for the journal: %s", exc)
            except Exception:
                logger.exception("the sweep failed, and will be tried again")
            if self._lost is not None:
                self._lost.try_turn()


@worker_ready.connect(weak=False, dispatch_uid="celery-journal-sweeper")
def _start(sender: Any, **_signal: Any) -> None:
    backend = sender.app.backend
    if isinstance(backend, SweptChords):
        Sweeper(backend).start()


@worker_shutting_down.connect(weak=False, dispatch_uid="celery-journal-sweeper")
def _stop(**_signal: Any) -> None:
    for sweeper in list(Sweeper.running):
        sweeper.stop()
