"""The log: append to it, read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from celery_journal import sql

from .codec import COLUMNS, DEFAULT_MAX_PAYLOAD_BYTES, RecordedEvent, Row, decode, encode, escape
from .constraints import MAX_ID_BYTES
from .epoch import horizon
from .errors import EventConflict
from .events import Event
from .notifications import announcement, audience_of
from .sessions import begin, told_if_lent

Connection = psycopg.Connection[Any]

#: Above this many events an append is split, so that one statement stays within the memory of a small server.
APPEND_CHUNK = 5000

BEGINNING = (0, 0)


@dataclass(frozen=True, slots=True)
class Journal:
    """The event log in one PostgreSQL schema."""

    schema: str = sql.DEFAULT_SCHEMA
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES
    #: In characters, of the ids of tasks and groups.
    max_id_length: int = MAX_ID_BYTES
    #: Wait for the disk with every event, not only with those that end something.
    everything_durable: bool = False
    #: Hint at what is appended to those who wait for results.
    announcing: bool = False

    def append(self, connection: Connection, *events: Event) -> int:
        """Record the events and fold them into the views, in one statement; return how many were new.

        An event that is recorded already is left alone. Raises EventConflict if one is recorded with other content
        (the others are recorded), EventRefused if one is above a limit (none is recorded).
        """
        rows = [encode(event, self.max_payload_bytes, self.max_id_length) for event in events]
        audience = audience_of(events) if self.announcing and _is_idle(connection) else None
        if len(rows) == 1:
            new, listening, conflicts = self._append_one(connection, events[0], rows[0], audience)
        else:
            new, listening, conflicts = self._append_many(connection, events, rows)
        if audience is not None and listening:
            connection.execute(sql.query("notify.sql", "announce", self.schema), announcement(events, audience))
        if conflicts:
            raise EventConflict(conflicts)
        return new

    def append_and_ask(self, connection: Connection, event: Event, query: bytes, parameters: Mapping[str, Any]) -> Any:
        """Record the event and then, in the same round trip, run the query; return the value that it answers.

        Two transactions: what the query locks is not held while the event waits for the disk. Raises what `append` raises.
        """
        row = encode(event, self.max_payload_bytes, self.max_id_length)
        relaxed = self._is_relaxed(connection, [event])
        with connection.cursor() as appending, connection.cursor() as asking:
            try:
                with connection.pipeline():
                    begin(connection)
                    appending.execute(self._query("append"), {**row, "relaxed": relaxed, "audience": None})
                    connection.execute(b"commit")
                    with told_if_lent(connection):
                        asking.execute(query, parameters)
            except psycopg.Error:
                if not connection.broken:
                    connection.rollback()
                raise
            # Not before the end of the pipeline: each fetch inside would be a round trip of its own.
            recorded, (answer,) = appending.fetchone(), asking.fetchone() or (None,)
        if recorded is None and (conflicts := self._conflicts(connection, [row])):
            raise EventConflict(conflicts)
        return answer

    def append_unless(self, connection: Connection, event: Event, query: bytes, parameters: Mapping[str, Any]) -> bool:
        """Record the event unless the query answers true; return whether it is recorded.

        Those who do so for the same stream at the same time wait for each other. The connection must be idle.
        """
        with connection.transaction():
            connection.execute(self._query("lock stream"), {"stream": escape(event.stream)})
            if connection.execute(query, parameters, prepare=False).fetchone() == (True,):
                return False
            self.append(connection, event)
        if self.announcing and (audience := audience_of([event])) is not None:
            connection.execute(sql.query("notify.sql", "announce", self.schema), announcement([event], audience))
        return True

    def _append_one(self, connection: Connection, event: Event, row: Row, audience: str | None) -> tuple[int, bool, list[UUID]]:
        """Append one event; return how many were new, whether anybody may be listening, and what is recorded with other content."""
        relaxed = self._is_relaxed(connection, [event])
        with connection.cursor() as cursor:
            cursor.execute(self._query("append"), {**row, "relaxed": relaxed, "audience": audience})
            recorded = cursor.fetchone()
        if recorded is None:  # perhaps we did, and the connection broke before we could say so
            return 0, True, self._conflicts(connection, [row])
        return 1, bool(recorded[1]), []

    def _append_many(self, connection: Connection, events: Sequence[Event], rows: Sequence[Row]) -> tuple[int, bool, list[UUID]]:
        """Append what may take several statements; return the same."""
        new = 0
        conflicts: list[UUID] = []
        for start in range(0, len(rows), APPEND_CHUNK):
            chunk = rows[start : start + APPEND_CHUNK]
            relaxed = self._is_relaxed(connection, events[start : start + APPEND_CHUNK])
            recorded = len(connection.execute(self._query("append many"), {**_arrays(chunk), "relaxed": relaxed}).fetchall())
            new += recorded
            if recorded < len(chunk):
                conflicts += self._conflicts(connection, chunk)
        return new, True, conflicts

    def make_room(self, connection: Connection, event_ids: Sequence[UUID]) -> list[str]:
        """Create partitions for events of the last two years, where their weeks have none; return the names of the new ones.

        What is older is recorded in the default partition, as is what a partition came too late for.
        """
        query = sql.query("schema.sql", "create past partitions", self.schema)
        return [name for (name,) in connection.execute(query, {"event_ids": list(event_ids)})]

    def restore(self, connection: Connection, rows: Sequence[Row], *, dry_run: bool = False) -> tuple[int, list[UUID]]:
        """Record rows of a log as they are there, `recorded_at` too, in one statement, all or none.

        Returns how many were new, and the ids of those that are recorded with other content; with `dry_run`, what it would return.
        """
        if dry_run:
            recorded = self._recorded(connection, rows)
            new = sum((row["event_id"], row["stream"]) not in recorded for row in rows)
        else:
            self.make_room(connection, [row["event_id"] for row in rows])
            recorded_at = [row.get("recorded_at") for row in rows]
            new = len(
                connection.execute(self._query("restore many"), {**_arrays(rows), "recorded_at": recorded_at, "relaxed": False}).fetchall()
            )
        return new, self._conflicts(connection, rows) if new < len(rows) else []

    def _is_relaxed(self, connection: Connection, events: Sequence[Event]) -> bool:
        """Return whether the events need not wait for the disk. In a transaction of the caller's own, they share its fate."""
        return _is_idle(connection) and not self.everything_durable and all(event.relaxed for event in events)

    def _conflicts(self, connection: Connection, rows: Sequence[Row]) -> list[UUID]:
        """Return the ids under which the log has something else than the rows say."""
        recorded = self._recorded(connection, rows)
        found = ((row, recorded.get((row["event_id"], row["stream"]))) for row in rows)
        return [row["event_id"] for row, there in found if there is not None and any(there[column] != row[column] for column in COLUMNS)]

    def _recorded(self, connection: Connection, rows: Sequence[Row]) -> dict[tuple[UUID, str], Row]:
        """Return what the log has under the ids of the rows."""
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(self._query("recorded"), {"event_ids": [row["event_id"] for row in rows]}, prepare=False)
            return {(row["event_id"], row["stream"]): row for row in cursor}

    def read_stream(self, connection: Connection, stream: str) -> list[RecordedEvent]:
        """Return every event of a task or a group, in the order of the log, the caller's own included.

        Outside of a transaction of the caller's, only the partitions of one stretch of the log are locked at a time.
        """
        rows = self.look(connection, self._query("read stream"), {"stream": escape(stream)})
        return [decode(row) for row in sorted(rows, key=_place)]

    async def aread_stream(self, connection: psycopg.AsyncConnection[Any], stream: str) -> list[RecordedEvent]:
        """Return the same for an event loop."""
        rows: list[Row] = []
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(self._query("boundaries"))
            for stretch in _stretches(await cursor.fetchone()):
                await cursor.execute(self._query("read stream"), {"stream": escape(stream), **stretch}, prepare=False)
                rows += await cursor.fetchall()
        return [decode(row) for row in sorted(rows, key=_place)]

    def known(self, connection: Connection, streams: Iterable[str], *, tasks: bool = False) -> set[str]:
        """Return those of the streams of which the log has anything; with `tasks`, only those that are tasks, not workers or groups."""
        given = {escape(stream): stream for stream in streams}
        rows = self.look(connection, self._query("known"), {"streams": list(given), "tasks": tasks})
        return {given[row["stream"]] for row in rows}

    def look(self, connection: Connection, query: bytes, parameters: Mapping[str, Any]) -> Iterator[Row]:
        """Yield what the query finds in each stretch of the log, from `first_id` to `last_id`, the oldest first.

        The partitions of two years would be more locks than a server has for each connection. Outside of a transaction of the caller's,
        only those of one stretch are locked at a time.
        """
        for stretch in self.stretches(connection):
            with connection.cursor(row_factory=dict_row) as cursor:
                yield from cursor.execute(query, {**parameters, **stretch}, prepare=False).fetchall()

    def stretches(self, connection: Connection) -> list[dict[str, UUID]]:
        """Return the stretches that `look` looks into.

        To be given to statements that are not prepared: only a plan made for these very values locks no other partitions.
        """
        with connection.cursor(row_factory=dict_row) as cursor:
            return _stretches(cursor.execute(self._query("boundaries")).fetchone())

    def read_transitions(
        self, connection: Connection, streams: Iterable[str], kinds: Iterable[str], since: int = 0
    ) -> tuple[list[RecordedEvent], int]:
        """Return the events of these kinds in these streams, in the order of the log, and the `since` of the next reading.

        With it, the next returns what this one did not see, and perhaps the last ones again.
        """
        parameters = {"streams": [escape(stream) for stream in streams], "kinds": list(kinds), "since": since}
        rows: list[Row] = []
        with connection.cursor(row_factory=dict_row) as cursor:
            # The horizon comes first: whatever ended before it is seen by each of the statements after it.
            found = cursor.execute(self._query("boundaries")).fetchone()
            for stretch in _stretches(found):
                rows += cursor.execute(self._query("read transitions"), {**parameters, **stretch}, prepare=False)
        return [decode(row) for row in sorted(rows, key=_place)], (found or {"horizon": 0})["horizon"]

    def read_all(self, connection: Connection, after: tuple[int, int] = BEGINNING, limit: int = 1000) -> list[RecordedEvent]:
        """Return up to `limit` events that stand after the place `after`, in the order of the log.

        Only events before which nothing can appear any more: continue from the `place` of the last one and none is
        skipped, whatever writers are in flight, and whatever cluster the log was restored from. Raises LogRestored if that
        was just found out, and this login cannot have it count on.
        """
        transaction, position = after
        parameters = {"transaction": transaction, "position": position, "limit": limit, "horizon": horizon(connection, self.schema)}
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(self._query("read all"), parameters)
            return [decode(row) for row in cursor]

    def _query(self, name: str) -> bytes:
        return sql.query("journal.sql", name, self.schema)


def _is_idle(connection: Connection) -> bool:
    """Return whether the next statement is a transaction by itself, and not a part of one of the caller's."""
    return connection.autocommit and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def _stretches(found: Row | None) -> list[dict[str, UUID]]:
    """Return the first and the last id of each stretch of the log; together they take in whatever id there is."""
    starts = found["boundaries"] if found else []
    firsts = [UUID(int=0), *starts]
    lasts = [*(UUID(int=start.int - 1) for start in starts), UUID(int=2**128 - 1)]
    return [{"first_id": first, "last_id": last} for first, last in zip(firsts, lasts, strict=True)]


def _place(row: Row) -> tuple[int, int]:
    return row["transaction"], row["position"]


def _arrays(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Return the rows as one array a column."""
    columns: dict[str, list[Any]] = {column: [row[column] for row in rows] for column in COLUMNS}
    return {**columns, "members": _array_literals(columns["members"])}


def _array_literals(arrays: Sequence[list[str] | None]) -> list[str | None]:
    """Return each array as PostgreSQL writes it: an array of arrays would have to be rectangular."""
    return [None if array is None else "{" + ",".join(map(_quoted, array)) + "}" for array in arrays]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
