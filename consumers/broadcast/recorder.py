"""Messages into the log: each batch is a transaction, and what is wrong with one event keeps no other from being recorded."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from celery_journal.journal import Connection, EventConflict, EventRefused, Journal
from celery_journal.journal.events import Event, TaskSent, TaskStarted
from celery_journal.journal.faults import is_outage

from .authorities import Authorities
from .delivery import Delivery
from .judge import judge
from .translator import Malformed, Testimony, translate

logger = logging.getLogger(__name__)

#: Seconds that an event may wait whose attempt nobody has told of, while others capture as well; else only as long as a turn.
PATIENCE = 3.0

#: Seconds that a start waits while others capture as well, who may have what was received before it; and an end for the start.
COURTESY = 0.8

#: Seconds until it is asked again whether anybody has told of what is not known yet.
AGAIN = 0.25

#: More than these do not wait.
MOST_WAITING = 10_000

#: More than these do not wait for what their senders may record: a broker sends only so many before one is acknowledged.
MOST_UNSURE = 500


@dataclass(slots=True)
class Tally:
    """What became of the events, since the start."""

    events: int = 0
    facts: int = 0
    witnessed: int = 0
    malformed: int = 0
    refused: int = 0
    #: How far behind the events are when they are recorded, in seconds.
    lag: float = 0.0


@dataclass(slots=True)
class _Claim:
    """A testimony, the message it came with, and until when it waits."""

    testimony: Testimony
    delivery: Delivery
    #: By the monotonic clock: when others that capture will have recorded what came before, or when it is to be looked at again.
    not_before: float


@dataclass(slots=True)
class Recorder:
    """Records messages, and keeps what is to wait a little. Used by one thread at a time."""

    journal: Journal
    tally: Tally = field(default_factory=Tally)
    #: Whether others consume from the queue as well.
    shared: bool = False
    #: Who journals by itself.
    authorities: Authorities = field(default_factory=Authorities)
    #: Whose queues tasks are sent to; None where that is not known.
    app: Any = None
    _waiting: list[_Claim] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)

    def take(self, deliveries: Iterable[Delivery]) -> None:
        """Read the messages; those that say nothing are done."""
        for delivery in deliveries:
            testimonies = list(self._read(delivery))
            delivery.open = len(testimonies)
            for testimony in testimonies:
                courtesy = _turn(testimony) * COURTESY if self.shared else 0.0
                self._waiting.append(_Claim(testimony, delivery, delivery.arrived + courtesy))

    def is_due(self) -> bool:
        """Return whether something has waited for long enough."""
        now = time.monotonic()
        return any(claim.not_before <= now for claim in self._waiting)

    @property
    def waiting(self) -> int:
        """How many events are read and not recorded."""
        return len(self._waiting)

    def record(self, connection: Connection, *, all_of_it: bool = False) -> None:
        """Record what is due, or all of it.

        Raises an error of psycopg when it is the database that fails. Then nothing is recorded, and everything waits on.
        """
        now = time.monotonic()
        all_of_it = all_of_it or len(self._waiting) > MOST_WAITING
        due = [claim for claim in self._waiting if all_of_it or claim.not_before <= now]
        if not due:
            return
        testimonies = [claim.testimony for claim in due]
        is_crowded = len(due) > MOST_UNSURE
        may_wait = [not all_of_it and self._may_wait(claim, now, is_crowded=is_crowded) for claim in due]
        with connection.transaction():  # in one of its own, an append may leave what is relaxed to the next crash
            judgement = judge(connection, self.journal.schema, testimonies, may_wait, self.authorities, alone=not self.shared)
            refused = self._append(connection, judgement.events)
        recorded = [claim for place, claim in enumerate(due) if place not in judgement.open]
        for place in judgement.open:
            due[place].not_before = now + AGAIN
        kept = {id(claim) for claim in recorded}
        self._waiting = [claim for claim in self._waiting if id(claim) not in kept]
        self._count(recorded, judgement.facts, judgement.witnessed, refused)
        for claim in recorded:
            claim.delivery.open = (claim.delivery.open or 0) - 1

    def _may_wait(self, claim: _Claim, now: float, *, is_crowded: bool) -> bool:
        if claim.testimony.kind is TaskSent:
            patience = 0.0 if is_crowded else self.authorities.patience_with(claim.testimony)
        else:
            patience = PATIENCE if self.shared else COURTESY
        return claim.delivery.arrived + patience > now

    def _read(self, delivery: Delivery) -> Iterable[Testimony]:
        try:
            events = delivery.events()
        except Exception as exc:  # noqa: BLE001  anybody can publish anything, and what cannot be read now never can
            self._complain(f"a message cannot be read: {type(exc).__name__}")
            return
        for event in events:
            try:
                testimony = translate(event, self.app)
            except Malformed as exc:
                self._complain(str(exc))
            else:
                if testimony is not None:
                    yield testimony

    def _append(self, connection: Connection, events: Sequence[Event]) -> int:
        """Append the events, and return how many the log refused."""
        if not events:
            return 0
        try:
            with connection.transaction():
                try:
                    self.journal.append(connection, *events)
                except EventConflict as exc:  # judged before by somebody else, or by who was before us; the rest is recorded
                    logger.debug("told before, in another way", extra={"event_ids": exc.event_ids})
        except (psycopg.Error, EventRefused, ValueError, TypeError) as exc:
            if is_outage(exc):
                raise
            if len(events) == 1:
                reason = str(exc).strip().partition("\n")[0]
                logger.error("an event of the broadcast is refused: %s", reason, extra={"kind": events[0].kind, "stream": events[0].stream})
                return 1
            middle = len(events) // 2
            return self._append(connection, events[:middle]) + self._append(connection, events[middle:])
        return 0

    def _count(self, recorded: Sequence[_Claim], facts: int, witnessed: int, refused: int) -> None:
        tally = self.tally
        tally.events += len(recorded)
        tally.facts += facts
        tally.witnessed += witnessed
        tally.refused += refused
        if recorded:
            tally.lag = max(0.0, time.time() - max(claim.testimony.occurred_at for claim in recorded).timestamp())

    def _complain(self, reason: str) -> None:
        """Count a broken event, and say so once for each reason."""
        self.tally.malformed += 1
        if reason not in self._said and len(self._said) < 100:
            self._said.add(reason)
            logger.warning("what is broadcast is skipped: %s", reason)


def _turn(testimony: Testimony) -> int:
    """Return how many turns it waits for what came before it: none where a task is sent or received, or a worker is heard of."""
    return 0 if testimony.attempt is not None else 1 if testimony.kind is TaskStarted else 2
