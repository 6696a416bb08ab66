"""Marking what is lost, inside whatever process of ours lives long: one of all at a time, now and then."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

from celery_journal import sql
from celery_journal.consumers.options import Options
from celery_journal.journal import Connection, Emitter, Journal

from . import redelivery
from .lost import GRACE, Lost, sweep_lost
from .redelivery import Held

logger = logging.getLogger(__name__)

#: Gives what it is called with a connection, and returns what that returns.
Run = Callable[[Callable[[Connection], list[Lost]]], list[Lost]]

#: The search is for what has waited for minutes: every third of the sweeps' turns will do.
TURNS = 3


class LostSweep:
    """Marks what is lost when it is this process's turn."""

    def __init__(
        self, run: Run, journal: Journal, emitter: Emitter, interval: float = 10.0, grace: float = GRACE, held: Held | None = None
    ) -> None:
        self._run = run
        self._journal = journal
        self._emitter = emitter
        self._pause = TURNS * interval
        self._grace = grace
        self._held = held
        self._rests_until = 0.0

    @classmethod
    def of(cls, backend: Any) -> Self | None:
        """Return the sweep with a result backend's options; None where `mark_lost` is off."""
        options = backend.options
        if not options.mark_lost:
            return None
        held = partial(redelivery.held, backend.app)
        return cls(backend.database.run, backend.journal, backend.emitter, options.sweep_interval, options.lost_grace, held)

    def try_turn(self) -> None:
        """Mark what is lost, if it is our turn; whatever fails is tried again another time."""
        if time.monotonic() < self._rests_until:
            return
        try:
            marked = self._run(self._sweep)
        except Exception as exc:  # noqa: BLE001  what this thread is for must go on
            # While the database was away, nobody could be heard: silence means nothing until they have had the time to speak.
            self._rests_until = time.monotonic() + max(self._pause, min(self._grace, 60.0))
            logger.warning("the search for lost tasks must wait: %s", str(exc).partition("\n")[0] or type(exc).__name__)
            return
        if marked:
            logger.warning("%d tasks are lost", len(marked), extra={"task_ids": [lost.task_id for lost in marked[:100]]})

    def _sweep(self, connection: Connection) -> list[Lost]:
        turn = {"claimant": self._emitter.name, "pause": self._pause}
        if connection.execute(sql.query("lost.sql", "begin sweep", self._journal.schema), turn).fetchone() != (True,):
            return []
        return sweep_lost(connection, self._journal, self._emitter, self._grace, self._held)


@contextmanager
def sweeping(connect: Callable[[], Connection], journal: Journal, options: Options) -> Iterator[None]:
    """Have what is lost marked during the block, as the options say, over a connection of its own for each search."""

    def run(work: Callable[[Connection], list[Lost]]) -> list[Lost]:
        with connect() as connection:
            return work(connection)

    if not options.mark_lost:
        yield
        return
    sweeper = LostSweeper(LostSweep(run, journal, Emitter(), options.sweep_interval, options.lost_grace), options.sweep_interval)
    sweeper.start()
    try:
        yield
    finally:
        sweeper.stop()


class LostSweeper(threading.Thread):
    """A daemon thread that marks what is lost, for processes that have no sweep of their own."""

    def __init__(self, sweep: LostSweep, interval: float = 10.0) -> None:
        super().__init__(name="celery-journal-lost", daemon=True)
        self._sweep = sweep
        self._interval = interval
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End before the next search."""
        self._stopped.set()

    def run(self) -> None:
        """Search until stopped."""
        while not self._stopped.wait(self._interval):
            self._sweep.try_turn()
