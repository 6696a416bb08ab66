"""Who journals by itself: what such a process broadcasts only confirms what it records, now or a little later."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from celery_journal import sql
from celery_journal.journal import Connection
from celery_journal.journal.codec import escape

from .translator import Testimony

#: Seconds between two looks into the log for a process of a worker that is not its newest, and so has little more to say.
LOOK_INTERVAL = 300.0

#: How far back.
_LOG = timedelta(days=1)

#: More processes and outages than these are not remembered.
MOST_PROCESSES, MOST_OUTAGES = 10_000, 20

#: Seconds that the word of whoever sends a task waits for what a sender that journals records of it: of one who does, of one who does
#: not, and of one of whom neither is known.
JOURNALS, IS_SILENT, UNHEARD = 10.0, 0.0, 3.0

#: The name of a worker or a sender, and its process.
Process = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class Sign:
    """The last sign of life that a process has recorded itself: when by its clock, and how far that is ahead."""

    seen: float
    clock_offset: float
    #: Seconds until it may be another that has the same name and the same process id, as in containers.
    patience: float


@dataclass(slots=True)
class Authorities:
    """Remembers who journals by itself: of a worker that was started anew the view knows only the newest process."""

    _signs: dict[Process, Sign] = field(default_factory=dict)
    #: When the log was looked into, by the monotonic clock.
    _looked: dict[Process, float] = field(default_factory=dict)
    #: While the database was away, nobody could record anything: from when until when.
    _outages: list[tuple[float, float]] = field(default_factory=list)
    #: Whether those who send tasks journal that.
    _senders: dict[Process, bool] = field(default_factory=dict)

    def learn(self, connection: Connection, schema: str, testimonies: Iterable[Testimony]) -> None:
        """Find out about those who testify."""
        processes = {(escape(testimony.hostname), testimony.pid) for testimony in testimonies if testimony.worker is not None}
        if not processes:
            return
        workers = sorted({worker for worker, _ in processes})
        current: set[Process] = set()
        for worker, pid, journals, *sign in connection.execute(sql.query("broadcast.sql", "workers", schema), {"workers": workers}):
            current.add((worker, pid))
            if journals:
                self._remember((worker, pid), Sign(*sign))
        self._look(connection, schema, processes - current - self._signs.keys())

    def _look(self, connection: Connection, schema: str, processes: Iterable[Process]) -> None:
        """Look into the log for what these were."""
        now = time.monotonic()
        processes = [process for process in processes if now - self._looked.get(process, float("-inf")) >= LOOK_INTERVAL]
        if not processes:
            return
        if len(self._looked) > MOST_PROCESSES:
            self._looked.clear()
        self._looked.update(dict.fromkeys(processes, now))
        moment = datetime.now(UTC)
        asked = {"workers": sorted({worker for worker, _ in processes}), "since": moment - _LOG, "until": moment + _LOG}
        for worker, pid, *sign in connection.execute(sql.query("broadcast.sql", "signs of life", schema), asked, prepare=False):
            self._remember((worker, pid), Sign(*sign))

    def _remember(self, process: Process, sign: Sign) -> None:
        known = self._signs.pop(process, sign)
        self._signs[process] = max(sign, known, key=lambda one: one.seen)
        if len(self._signs) > MOST_PROCESSES:
            del self._signs[next(iter(self._signs))]  # whoever has not been heard of for longest

    def note_outage(self, began: float, ended: float) -> None:
        """Take in that the database was away between these moments, as timestamps: who is silent then need not be gone."""
        self._outages = [*self._outages[1 - MOST_OUTAGES :], (began, ended)]

    def note_sender(self, testimony: Testimony, *, journals: bool) -> None:
        """Take in whether whoever sent a task has recorded that itself."""
        sender = testimony.hostname, testimony.pid
        self._senders.pop(sender, None)
        self._senders[sender] = journals
        if len(self._senders) > MOST_PROCESSES:
            del self._senders[next(iter(self._senders))]

    def patience_with(self, testimony: Testimony) -> float:
        """Return for how many seconds that a task was sent may wait for what its sender records."""
        journals = self._senders.get((testimony.hostname, testimony.pid))
        return UNHEARD if journals is None else JOURNALS if journals else IS_SILENT

    def speaks_for_itself(self, testimony: Testimony) -> bool:
        """Return whether whoever testifies journals itself what it testifies."""
        sign = self._signs.get((escape(testimony.hostname), testimony.pid))
        return sign is not None and testimony.worker is not None and testimony.occurred_at.timestamp() <= self._until(sign)

    def _until(self, sign: Sign) -> float:
        until = sign.seen + sign.patience
        for began, ended in self._outages:
            if began + sign.clock_offset <= until:
                until = max(until, ended + sign.clock_offset + sign.patience)
        return until
