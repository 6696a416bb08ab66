"""What happens to facts while the database is away: they go to the spool, and into the log when it is back.

Only the first write of an outage waits for the retry budget. Those after it go to the spool at once, until a thread of
this process, which looks every second, has found the database again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from celery.exceptions import ImproperlyConfigured
from celery.signals import worker_ready

from celery_journal.consumers.drain import Drained, drain
from celery_journal.consumers.spool import Spool, SpoolFailed, SpoolFull, packed
from celery_journal.journal import Connection, Journal, check_version
from celery_journal.journal.events import Event
from celery_journal.journal.faults import is_outage
from celery_journal.journal.waiting import JITTER

from .connection import Database, JournalUnavailable, one_try

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds between two looks for a database that is away.
PROBE_INTERVAL = 1.0

#: Seconds for which what is only in memory is tried again: a connection may have broken long ago.
SHORT = 0.5

#: Seconds for which it is believed that the database is away, since somebody has last seen it so.
BELIEF = 30.0


@dataclass(slots=True)
class _Process:
    """What one process does; a forked child has none of our threads."""

    #: Whether it has looked for what another has left in the spool.
    looked: bool = False
    #: Whether this process has said that its spool cannot be used.
    complained: bool = False
    #: Whether to look into the spool for as long as the process lives, for what others have left there.
    watching: bool = False
    drainer: Drainer | None = None
    mutex: threading.Lock = field(default_factory=threading.Lock)


class Outage:
    """Records facts, in the log or else in the spool. Without a spool, it says that it could not."""

    def __init__(self, database: Database, journal: Journal, spool: Spool | None) -> None:
        self.database = database
        self.journal = journal
        self.spool = spool
        self._processes: dict[int, _Process] = {}
        self._away_until = 0.0
        database.on_close(self.stop)

    @property
    def away(self) -> bool:
        """Whether this process, or the one that it was forked from, has found the database away, and not yet back."""
        return time.monotonic() < self._away_until

    def record(self, work: Callable[[Connection], T], events: Sequence[Event]) -> T | None:
        """Do `work`, which records the events; or put the events into the spool, and return None.

        Raises JournalUnavailable if neither the database nor the spool takes them.
        """
        if self.spool is None or one_try.get():
            return self.database.run(work)
        if self.away:
            self.keep(events, JournalUnavailable("the journal's database is away"))
            return None
        try:
            done = self.database.run(work)
        except JournalUnavailable as exc:
            self.keep(events, exc)
        else:
            self._look()
            return done
        return None

    def record_soon(self, work: Callable[[Connection], T], events: Sequence[Event]) -> None:
        """Do `work`, which records the events; at the first failure put them into the spool, because they are only in memory yet.

        Nobody waits for that, and nobody else is to believe by it that the database is away. Nor does anybody hear of a wrong
        setting: what is refused until a person has corrected it waits, too.
        """
        if self.away or self.spool is None:
            self.record(work, events)
            return
        try:
            self.database.run(work, budget=SHORT)
        except JournalUnavailable as exc:
            self.keep(events, exc, believe=False)
        except (ImproperlyConfigured, psycopg.Error) as exc:
            self.keep_refused(events, exc)
        else:
            self._look()

    def keep_refused(self, events: Sequence[Event], refusal: ImproperlyConfigured | psycopg.Error) -> None:
        """Put into the spool what the database takes once a person has corrected something; raise what is the fault of a fact."""
        if isinstance(refusal, psycopg.Error) and not is_outage(refusal):
            raise refusal
        self.keep(events, JournalUnavailable(str(refusal).strip().partition("\n")[0]), believe=False)

    def keep(self, events: Sequence[Event], reason: JournalUnavailable, *, believe: bool = True) -> None:
        """Put the events into the spool, and see to it that they leave it; raise the reason if the spool is of no use.

        From then on it is believed that the database is away, unless `believe` is false.
        """
        if self.spool is None:
            raise reason
        process = self._process()
        try:
            waiting = self.spool.put(*(packed(event, self.journal.max_payload_bytes, self.journal.max_id_length) for event in events))
        except SpoolFull as exc:
            self._find_back(process)
            logger.error("%s and %s", reason, exc)
            raise JournalUnavailable(f"{reason}, and {exc}") from exc
        except SpoolFailed as exc:
            if not process.complained:
                process.complained = True
                logger.error("results may get lost: %s", exc)
            raise reason from exc
        if believe:
            self._find_back(process)
        else:
            self._start(process)
        streams = [event.stream for event in events]
        logger.warning("the journal is away, %d waiting in the spool: %s", waiting, reason, extra={"waiting": waiting, "streams": streams})

    def watch(self) -> None:
        """Drain what is in the spool, and what any process will have left there, for as long as this process lives."""
        if self.spool is not None:
            process = self._process()
            process.watching = True
            self._start(process)

    def stop(self) -> None:
        """End the thread of this process; what is in the spool stays there."""
        process, self._away_until = self._processes.pop(os.getpid(), None), 0.0
        if process is not None and process.drainer is not None:
            process.drainer.stop()

    def turn(self) -> Drained | None:
        """Drain, if the database is back. Raises if it is not."""
        if self.spool is None or not (self.away or self.spool.length()):
            return None
        try:
            self.database.run(lambda connection: check_version(connection, self.journal.schema), budget=0)
        except JournalUnavailable:
            self._away_until = time.monotonic() + BELIEF
            raise
        self._away_until = 0.0
        return drain(self.spool, self.journal, lambda work: self.database.run(work, budget=0))

    def is_done(self) -> bool:
        """Return whether nothing is left to do for the thread, and let go of it then."""
        process = self._process()
        with process.mutex:
            if self.away or process.watching or (self.spool is not None and self.spool.length()):
                return False
            process.drainer = None
            return True

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to drain at the moment."""
        return not self.away and (self.spool is None or not self.spool.length())

    def _find_back(self, process: _Process) -> None:
        self._away_until = time.monotonic() + BELIEF
        self._start(process)

    def _look(self) -> None:
        """See to what another process may have left in the spool, once in each process: not every machine has a worker."""
        process = self._process()
        if process.looked or self.spool is None:
            return
        process.looked = True
        try:
            if self.spool.length():
                self._start(process)
        except (sqlite3.Error, OSError) as exc:
            logger.error("the spool cannot be read: %s", exc, extra={"spool": str(self.spool.path)})

    def _start(self, process: _Process) -> None:
        with process.mutex:
            if process.drainer is None:
                process.drainer = Drainer(self)
                try:
                    process.drainer.start()
                except RuntimeError:  # the interpreter is about to end; another process will drain
                    process.drainer = None

    def _process(self) -> _Process:
        process = self._processes.get(os.getpid())
        return process if process is not None else self._processes.setdefault(os.getpid(), _Process())


class Drainer(threading.Thread):
    """A daemon thread that waits for the database to come back, and drains the spool."""

    def __init__(self, outage: Outage) -> None:
        super().__init__(name="celery-journal-drainer", daemon=True)
        self._outage = outage
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End, as soon as the turn is over."""
        self._stopped.set()
        if threading.current_thread() is not self:
            self.join(timeout=5)

    def run(self) -> None:
        """Drain until nothing is left."""
        outage, pause = self._outage, PROBE_INTERVAL
        while not self._stopped.wait(pause * JITTER.uniform(1.0, 1.2)):  # a worker has many processes
            pause = PROBE_INTERVAL
            try:
                if (drained := outage.turn()) and (drained.recorded or drained.refused):
                    logger.warning("the journal is back, %d left the spool and %d were refused", drained.recorded, drained.refused)
                if outage.is_done():
                    return
                if outage.is_idle:
                    pause = outage.database.options.sweep_interval
            except (JournalUnavailable, ImproperlyConfigured, psycopg.Error) as exc:
                logger.debug("the journal is still away: %s", exc)
            except Exception:
                logger.exception("the spool could not be drained, and will be tried again")
                pause = outage.database.options.sweep_interval


@worker_ready.connect(weak=False, dispatch_uid="celery-journal-drainer")
def _watch(sender: Any, **_signal: Any) -> None:
    outage = getattr(sender.app.backend, "outage", None)
    if isinstance(outage, Outage):
        outage.watch()
