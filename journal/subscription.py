"""Reading the log from where one stopped, exactly once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from celery_journal import sql

from .codec import RecordedEvent
from .errors import CheckpointRefused
from .journal import Journal

Connection = psycopg.Connection[Any]


class Subscription:
    """A named place in the log, kept in the database.

    What `handle` writes through the connection it is given commits together with the checkpoint, so a subscriber that
    writes to this database handles each event exactly once; other side effects happen at least once.
    """

    def __init__(self, journal: Journal, name: str) -> None:
        self.journal = journal
        self.name = name

    def catch_up(self, connection: Connection, handle: Callable[[Connection, Sequence[RecordedEvent]], object], limit: int = 1000) -> int:
        """Hand the next events (up to `limit`) to `handle`; return how many there were. One subscriber at a time.

        Raises CheckpointRefused if another login has begun it.
        """
        with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
            place = self._checkpoint(cursor)
            events = self.journal.read_all(connection, place, limit)
            if events:
                handle(connection, events)
                transaction, position = events[-1].place
                cursor.execute(
                    self._query("save checkpoint"),
                    {"name": self.name, "transaction": transaction, "position": position},
                )
        return len(events)

    def _checkpoint(self, cursor: psycopg.Cursor[dict[str, Any]]) -> tuple[int, int]:
        """Return the place after which to go on."""
        cursor.execute(self._query("begin subscription"), {"name": self.name})
        saved = cursor.execute(self._query("load checkpoint"), {"name": self.name}).fetchone()
        if saved is None:
            raise CheckpointRefused(self.name)
        return saved["transaction"], saved["position"]

    def _query(self, name: str) -> bytes:
        return sql.query("journal.sql", name, self.journal.schema)
