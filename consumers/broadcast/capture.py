"""The capture: one thread reads from the broker, another writes to the log, and neither takes more than memory holds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress

import psycopg

from celery_journal import sql
from celery_journal.consumers.signal_safe import SignalSafeEvent
from celery_journal.journal import Connection, DatabaseError, SchemaError
from celery_journal.journal.faults import is_outage

from .broker import Broker
from .delivery import Delivery
from .recorder import Recorder

logger = logging.getLogger(__name__)

#: About how many bytes of messages make a batch, whatever their number: what is read takes several times as much.
BATCH_BYTES = 2 << 20

#: How many bytes of a broker that keeps nothing wait for the database at most.
WAITING_BYTES = 32 << 20

#: Seconds between two looks at how much waits in the queue, and who else consumes from it.
LOOK_INTERVAL = 2.0

#: Seconds that others are taken to consume as well after they were last seen: what they had comes back, later than what followed.
SHARED_FOR = 30.0

#: Seconds that those who journal by themselves take to notice that the database is back, and to record what they have kept for it.
AFTERMATH = 3.0

#: Seconds that a stop waits for the database.
GRACE = 8.0

#: The longest pauses before the broker, and the database, are tried again, in seconds. What waits for the database waits in a broker
#: that may lose it.
LONGEST_PAUSE, LONGEST_DATABASE_PAUSE = 5.0, 1.0


class Unrecorded(Exception):
    """The database was away until the capture had to stop."""


class Capture:
    """Consumes Celery's broadcast into the log until it is stopped, or, `once`, until the queue is empty."""

    def __init__(
        self,
        broker: Broker,
        recorder: Recorder,
        connect: Callable[[], Connection],
        *,
        batch: int = 2000,
        linger: float = 0.5,
        once: bool = False,
        say: Callable[[str], None] = logger.warning,
    ) -> None:
        self.broker = broker
        self.recorder = recorder
        self._connect = connect
        self._batch = batch
        self._linger = linger
        self._once = once
        self._say = say
        self._stopping = SignalSafeEvent()
        self._giving_up = SignalSafeEvent()
        self._connection: Connection | None = None
        self._writing: Future[None] | None = None
        self._looked = self._shared_at = float("-inf")
        self._heard = 0.0
        #: Until when who journals by itself may be behind, by the monotonic clock.
        self._aftermath_until = float("-inf")
        #: Whether the queue is there, and read.
        self.is_reading = False
        #: How many messages wait in the queue; None where the broker does not tell.
        self.backlog: int | None = None
        self._database_trouble = self._broker_trouble = ""
        #: Called several times a second.
        self.on_turn: Callable[[], None] = lambda: None

    @property
    def trouble(self) -> str:
        """What is waited for, in words; empty while all is well."""
        return self._broker_trouble or self._database_trouble

    def stop(self) -> None:
        """Record what is here and end; called again, end at once."""
        if self._stopping.is_set():
            self._giving_up.set()
        self._stopping.set()

    def run(self) -> None:
        """Capture. Raises Unrecorded if what was read from a broker that keeps nothing could not be written before the end."""
        with ThreadPoolExecutor(1, "celery-journal-capture") as writer:
            try:
                while not self._stopping.is_set():
                    try:
                        self._open()
                        self._consume(writer)
                    except self.broker.errors as exc:
                        self._fail(exc)
                self._finish(writer)
            finally:
                self._giving_up.set()
                self.broker.close()
        if self._connection is not None:
            self._connection.close()

    def _open(self) -> None:
        pause = 0.5
        while not self._stopping.is_set():
            try:
                self.broker.open()
            except self.broker.errors as exc:
                self._fail(exc)
                self._stopping.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                break
        self._mend()
        self.is_reading = True
        self._heard = time.monotonic()
        self._looked = float("-inf")

    def _consume(self, writer: ThreadPoolExecutor) -> None:
        while not self._stopping.is_set():
            self._look()
            # What is done is to be acknowledged soon, or nothing more is sent.
            self.broker.read(0.05 if self._writing else 0.2, self._is_enough)
            self._turn(writer)
            if self._once and self._is_drained():
                return self._stopping.set()
        return None

    def _turn(self, writer: ThreadPoolExecutor) -> None:
        """Acknowledge what is written, and give the writer what is to be next."""
        self.on_turn()
        if self.broker.arrived:
            self._heard = max(self._heard, self.broker.arrived[-1].arrived)
        if self._writing is not None and self._writing.done():
            writing, self._writing = self._writing, None
            with suppress(Unrecorded):  # we are to end; the end says so
                writing.result()
            self.broker.acknowledge()
        if self._writing is None and ((taken := self._ripe()) or self.recorder.is_due()):
            self._writing = writer.submit(self._write, taken)

    def _ripe(self) -> list[Delivery]:
        """Return the messages of the next batch, none before those who tell of the same first-hand had the time to."""
        arrived, now = self.broker.arrived, time.monotonic()
        linger = max(self._linger, AFTERMATH) if now < self._aftermath_until else self._linger
        before = now if self.is_behind else now - linger
        # A batch is full, or collects for half as long again: each is a transaction.
        if not arrived or arrived[0].arrived > before - (0 if self.is_behind or len(arrived) >= self._batch else self._linger / 2):
            return []
        return self.broker.take(self._batch, BATCH_BYTES, before)

    @property
    def is_behind(self) -> bool:
        """Whether what arrives has waited in the queue for long."""
        return (self.backlog or 0) > self._batch

    def _is_enough(self) -> bool:
        arrived = self.broker.arrived
        if self.broker.keeps:  # the broker itself sends no more than we asked for
            return len(arrived) >= self._batch and self._writing is None
        return len(arrived) >= self._batch and (self._writing is None or self.broker.bytes > WAITING_BYTES)

    def _is_drained(self) -> bool:
        busy = self.broker.arrived or self._writing or self.recorder.waiting
        return not busy and not self.backlog and time.monotonic() - self._heard > max(1.0, 2 * self._linger)

    def _look(self) -> None:
        """See how much waits, and whether others consume from the queue."""
        if time.monotonic() - self._looked < LOOK_INTERVAL:
            return
        self._looked = time.monotonic()
        if (found := self.broker.backlog()) is not None:
            self.backlog, consumers = found
            if consumers > 1:
                self._shared_at = self._looked
        self.recorder.shared = self._looked - self._shared_at < SHARED_FOR

    def _write(self, taken: list[Delivery], *, all_of_it: bool = False) -> None:
        """Record the messages, however long the database is away; raise Unrecorded if that is too long for a stop."""
        self.recorder.take(taken)
        pause, away_since = 0.2, None
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = self._connect()
                    if away_since is not None or self._has_started_lately(self._connection):
                        self._aftermath_until = time.monotonic() + 2 * AFTERMATH
                        self._stopping.wait(AFTERMATH)
                self.recorder.record(self._connection, all_of_it=all_of_it)
            except (psycopg.Error, DatabaseError, SchemaError) as exc:
                if isinstance(exc, psycopg.Error) and not is_outage(exc):
                    raise
                self._lose_connection()
                away_since = away_since or time.time()
                if not self._database_trouble:
                    kept = "the broker keeps what comes" if self.broker.keeps else "what comes is kept in memory, up to a limit"
                    self._database_trouble = str(exc).strip().partition("\n")[0]
                    self._say(f"waiting for the database: {self._database_trouble}; {kept}")
                if self._giving_up.wait(pause):
                    raise Unrecorded from exc
                pause = min(pause * 2, LONGEST_DATABASE_PAUSE)
            else:
                if away_since is not None:
                    self._note_outage(away_since)
                return

    def _has_started_lately(self, connection: Connection) -> bool:
        """Return whether the database is just back from an outage that this capture, which may be new, has not seen itself."""
        query = sql.query("broadcast.sql", "has started lately")
        return connection.execute(query, {"seconds": 2 * AFTERMATH}).fetchone() == (True,)

    def _note_outage(self, since: float) -> None:
        """Take in that the database is back, and that others may have to find that yet."""
        self.recorder.authorities.note_outage(since, time.time())
        self._aftermath_until = time.monotonic() + 2 * AFTERMATH
        self._database_trouble = ""
        self._say("the database is back")

    def _lose_connection(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def _finish(self, writer: ThreadPoolExecutor) -> None:
        """Record and acknowledge what is here, as far as the database lets us within the grace."""
        with suppress(*self.broker.errors):
            self.broker.stop()
        deadline = time.monotonic() + GRACE
        self._giving_up.wait(min(self._linger, 1.0))
        last = writer.submit(self._write_last)
        while not last.done() and not self._giving_up.is_set() and time.monotonic() < deadline:
            self.on_turn()
            wait_for([last], timeout=0.1)
        self._giving_up.set()
        try:
            last.result()
        except Unrecorded:
            if not self.broker.keeps:
                raise
            self._say("the database is away; what is not recorded stays with the broker")
        finally:
            with suppress(*self.broker.errors):
                self.broker.acknowledge(last=True)

    def _write_last(self) -> None:
        everything = self.broker.take(len(self.broker.arrived), 1 << 62, float("inf"))
        self._write(everything, all_of_it=not self.broker.keeps)

    def _fail(self, exc: BaseException) -> None:
        self.is_reading = False
        if not self._broker_trouble and not self._stopping.is_set():
            reason = str(exc).strip().partition("\n")[0] or type(exc).__name__
            self._broker_trouble = f"no events from {self.broker.url}: {reason}"
            self._say(f"{self._broker_trouble}; trying again")

    def _mend(self) -> None:
        if self._broker_trouble:
            self._broker_trouble = ""
            self._say("the broker is back")
