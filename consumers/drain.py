"""From the spool into the log: in order, idempotently, and no fact leaves the one before it is in the other."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import psycopg

from celery_journal.consumers.spool import Spool, Waiting
from celery_journal.journal import Connection, EventConflict, EventRefused, Journal
from celery_journal.journal.events import Event
from celery_journal.journal.faults import is_outage

logger = logging.getLogger(__name__)

Run = Callable[[Callable[[Connection], object]], object]


@dataclass(frozen=True, slots=True)
class Drained:
    """How a drain went."""

    recorded: int = 0
    refused: int = 0


def drain(spool: Spool, journal: Journal, run: Run) -> Drained | None:
    """Append what waits; return how much that was, or None if another process is at it.

    `run` is given what is to be done with a connection. Raises what it raises when the database is away; then what is
    left waits on. What the database refuses for its own sake is set aside.
    """
    with spool.draining() as ours:
        if not ours:
            return None
        # Each was within the limit when it was put there, and whoever drains may have another.
        journal = replace(journal, max_payload_bytes=sys.maxsize)
        recorded = refused = 0
        while batch := spool.first():
            refusals = _append(batch, journal, run)
            spool.settle(batch, refusals)
            for number, reason in refusals.items():
                logger.error("a spooled event is refused and was set aside: %s", reason, extra={"number": number, "spool": str(spool.path)})
            recorded += len(batch) - len(refusals)
            refused += len(refusals)
        return Drained(recorded, refused)


def _append(batch: Sequence[Waiting], journal: Journal, run: Run) -> dict[int, str]:
    """Record the facts; return the reasons of those that are refused, by number."""
    events: list[Event] = []
    try:
        events += [waiting.event for waiting in batch]
        run(lambda connection: journal.append(connection, *events))
    except EventConflict as exc:  # the others are recorded
        return {
            waiting.number: str(EventConflict([event.event_id]))
            for waiting, event in zip(batch, events, strict=True)
            if event.event_id in exc.event_ids
        }
    except (psycopg.Error, EventRefused, ValueError, TypeError, KeyError) as exc:  # the last three: it cannot be read
        if is_outage(exc):
            raise
        if len(batch) == 1:
            return {batch[0].number: str(exc).strip().partition("\n")[0] or type(exc).__name__}
        middle = len(batch) // 2
        return {**_append(batch[:middle], journal, run), **_append(batch[middle:], journal, run)}
    return {}
