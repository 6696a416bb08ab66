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

logger = logging.getLogger(__name__)

Run = Callable[[Callable[[Connection], object]], object]

#: Classes of SQLSTATE that mean the same statement may do another time: no connection, rollback, no resources, an operator, the system.
_TRANSIENT_CLASSES = {"08", "40", "53", "57", "58"}

#: The same, by themselves: a lock, a server that became a standby, a transaction that took too long.
_TRANSIENT_STATES = {"55006", "55P03", "25006", "25P02", "25P03", "25P04"}

#: Classes that mean the journal is not as it was: no such table, no privilege, no such schema, a login refused.
_CHANGED_CLASSES = {"28", "3D", "3F", "42"}


@dataclass(frozen=True, slots=True)
class Drained:
    """How a drain went."""

    recorded: int = 0
    refused: int = 0


def is_transient(exc: BaseException) -> bool:
    """Return whether the same statement may do another time, such as after a lost connection; never after an error in the data."""
    if isinstance(exc, psycopg.InterfaceError):
        return True
    if not isinstance(exc, psycopg.Error):
        return False
    if exc.sqlstate is None:
        return isinstance(exc, psycopg.OperationalError)
    return exc.sqlstate[:2] in _TRANSIENT_CLASSES or exc.sqlstate in _TRANSIENT_STATES


def is_outage(exc: BaseException) -> bool:
    """Return whether it is the database that fails, and not the fact."""
    return is_transient(exc) or (isinstance(exc, psycopg.Error) and (exc.sqlstate or "")[:2] in _CHANGED_CLASSES)


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
