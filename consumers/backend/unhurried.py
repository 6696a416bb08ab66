"""Where facts go that nobody waits for: into the log, or into the spool, and each at least in part."""

from __future__ import annotations

import psycopg
from celery.exceptions import ImproperlyConfigured

from celery_journal.consumers.drain import is_outage
from celery_journal.journal import DatabaseError, PayloadTooLarge, connect
from celery_journal.journal.events import Event

from .connection import JournalUnavailable
from .outage import Outage

#: What is left out of a fact that is too large, or that the database refuses.
_PAYLOAD = ("args", "kwargs", "args_content_type", "message", "embedded", "embedded_content_type", "meta", "request", "reason")


class Unhurried:
    """Records many facts at once; one of them that cannot be stored as it is does not keep the others."""

    def __init__(self, outage: Outage) -> None:
        self._outage = outage

    def record(self, events: list[Event]) -> None:
        """Record the events; raise if neither the log nor the spool takes them."""
        outage = self._outage
        try:
            outage.record_soon(lambda connection: outage.journal.append(connection, *events), events)
        except (PayloadTooLarge, psycopg.Error) as exc:
            if is_outage(exc):
                raise
            if len(events) > 1:
                for event in events:
                    self.record([event])
            elif (brief := _brief(events[0])) != events[0]:
                self.record([brief])
            else:
                raise

    def record_last(self, events: list[Event]) -> None:
        """Do the same over a connection of its own: at the end of a process no pool can be opened any more."""
        outage = self._outage
        if not outage.away:
            try:
                with connect(outage.database.dsn, timeout=2) as connection:
                    outage.journal.append(connection, *events)
            except (DatabaseError, psycopg.Error, PayloadTooLarge, ImproperlyConfigured, OSError) as exc:
                outage.keep(events, JournalUnavailable(str(exc).strip().partition("\n")[0]))
            return
        outage.keep(events, JournalUnavailable("the journal's database is away"))


def _brief(event: Event) -> Event:
    return event.model_copy(update={name: None for name in _PAYLOAD if getattr(event, name, None) is not None})
