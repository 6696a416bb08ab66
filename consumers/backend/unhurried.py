"""Where facts go that nobody waits for: into the log, or into the spool, and each at least in part."""

from __future__ import annotations

import logging
from collections.abc import Callable

import psycopg
from celery.exceptions import ImproperlyConfigured

from celery_journal.journal import DatabaseError, EventRefused, connect
from celery_journal.journal.events import Event
from celery_journal.journal.faults import is_outage

from .connection import JournalUnavailable
from .outage import Outage

logger = logging.getLogger(__name__)

#: What is left out of a fact that is too large, or that the database refuses.
_PAYLOAD = ("args", "kwargs", "args_content_type", "message", "embedded", "embedded_content_type", "meta", "request", "reason")


class Unhurried:
    """Records many facts at once; one of them that cannot be stored as it is does not keep the others."""

    def __init__(self, outage: Outage) -> None:
        self._outage = outage

    def record(self, events: list[Event]) -> None:
        """Record the events; raise if neither the log nor the spool takes them."""
        outage = self._outage

        def record(some: list[Event]) -> None:
            outage.record_soon(lambda connection: outage.journal.append(connection, *some), some)

        _each(record, events)

    def record_last(self, events: list[Event]) -> None:
        """Do the same over a connection of its own: at the end of a process no pool can be opened any more."""
        outage = self._outage

        def record(some: list[Event]) -> None:
            if outage.away:
                outage.keep(some, JournalUnavailable("the journal's database is away"))
                return
            try:
                with connect(outage.database.dsn, timeout=2) as connection:
                    outage.journal.append(connection, *some)
            except (DatabaseError, psycopg.Error, ImproperlyConfigured, OSError) as exc:
                if isinstance(exc, psycopg.Error) and not is_outage(exc):
                    raise
                outage.keep(some, JournalUnavailable(str(exc).strip().partition("\n")[0]))

        _each(record, events)


def _each(record: Callable[[list[Event]], None], events: list[Event]) -> None:
    """Record the events; one by one if they are refused together, and what is refused alone without its payload, or not at all."""
    try:
        record(events)
    except (EventRefused, psycopg.Error) as exc:
        if is_outage(exc):
            raise
        if len(events) > 1:
            for event in events:
                _each(record, [event])
        elif (brief := without_payload(events[0])) != events[0]:
            _each(record, [brief])
        else:
            reason = str(exc).strip().partition("\n")[0]
            logger.error("%s of %.36s is lost: %s", brief.kind, brief.stream, reason, extra={"stream": brief.stream})


def without_payload(event: Event) -> Event:
    """Return the event without what users have put into it."""
    return event.model_copy(update={name: None for name in _PAYLOAD if getattr(event, name, None) is not None})
