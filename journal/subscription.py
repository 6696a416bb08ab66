"""Reading the log from where one stopped, exactly once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from celery_journal import sql

from .codec import RecordedEvent
from .connection import is_pooled
from .errors import CheckpointRefused
from .journal import BEGINNING, Journal

Connection = psycopg.Connection[Any]


class Checkpoint(NamedTuple):
    """How far a subscriber has come, and what it has to remember there."""

    place: tuple[int, int]
    state: bytes | None = None


class Subscription:
    """A named place in the log, kept in the database.

    What `handle` writes through the connection it is given commits together with the checkpoint, so a subscriber that
    writes to this database handles each event exactly once; other side effects happen at least once.

    Who does something elsewhere that takes long must not keep a transaction open meanwhile, for which all would wait that read the log
    in order: it begins, reads, does so, and moves on, after it was seen to that nobody else does the same (`take`).
    """

    def __init__(self, journal: Journal, name: str) -> None:
        self.journal = journal
        self.name = name

    def catch_up(self, connection: Connection, handle: Callable[[Connection, Sequence[RecordedEvent]], object], limit: int = 1000) -> int:
        """Hand the next events (up to `limit`) to `handle`; return how many there were. One subscriber at a time.

        Raises CheckpointRefused if another login has begun it.
        """
        with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
            place = self._checkpoint(cursor, BEGINNING).place
            events = self.journal.read_all(connection, place, limit)
            if events:
                handle(connection, events)
                transaction, position = events[-1].place
                cursor.execute(
                    self._query("save checkpoint"),
                    {"name": self.name, "transaction": transaction, "position": position},
                )
        return len(events)

    def take(self, connection: Connection) -> bool:
        """Return whether nobody else has the subscription as long as this connection lasts.

        Where that leads through a pooler, which lends sessions, nobody can be kept away: who is late then fails to move.
        """
        if is_pooled(connection):
            return True
        return connection.execute(self._query("take subscription"), {"name": self.name}).fetchone() == (True,)

    def begin(self, connection: Connection, place: tuple[int, int] = BEGINNING) -> Checkpoint:
        """Return where it stands; at the first time that is the place given.

        Raises CheckpointRefused if another login has begun it.
        """
        with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
            return self._checkpoint(cursor, place)

    def move(self, connection: Connection, before: Checkpoint, after: Checkpoint) -> bool:
        """Have it stand at `after`, if it stands at `before`; return whether it does. The same may be tried again after an outage."""
        parameters = {
            "name": self.name,
            **dict(zip(("transaction_before", "position_before"), before.place, strict=True)),
            **dict(zip(("transaction", "position"), after.place, strict=True)),
            "state_before": before.state,
            "state": after.state,
        }
        return connection.execute(self._query("move checkpoint"), parameters).rowcount == 1

    def _checkpoint(self, cursor: psycopg.Cursor[dict[str, Any]], beginning: tuple[int, int]) -> Checkpoint:
        """Return where it stands, and have nobody else move it until the end of the transaction."""
        transaction, position = beginning
        cursor.execute(self._query("begin subscription"), {"name": self.name, "transaction": transaction, "position": position})
        saved = cursor.execute(self._query("load checkpoint"), {"name": self.name}).fetchone()
        if saved is None:
            raise CheckpointRefused(self.name)
        return Checkpoint((saved["transaction"], saved["position"]), saved["state"])

    def _query(self, name: str) -> bytes:
        return sql.query("journal.sql", name, self.journal.schema)
