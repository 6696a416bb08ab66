"""The part of the log in which nothing can appear any more, in an order that gives the same views again."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

from psycopg import Cursor
from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.journal import Connection, Journal
from celery_journal.journal.codec import COLUMNS, Row, escape
from celery_journal.projections import Q, TaskResult

R = TypeVar("R")

#: Seconds that it waits for transactions which were open when it was asked.
PATIENCE = 5.0

#: Places that are held to put them in order: a transaction may have begun that many events before it wrote.
LOOKAHEAD = 100_000

#: Places, rows and tasks that are asked for in one statement.
PLACES, ROWS, TASKS = 10_000, 500, 500


@dataclass(frozen=True, slots=True)
class Settled:
    """The log up to a horizon. Rows hold the connection until they are at their end, or closed."""

    connection: Connection
    schema: str
    #: Transactions from this one on are not in it.
    horizon: int
    #: Events that were there when it was asked for, and are not in it: somebody's transaction is open for longer than patience.
    left_out: int

    @classmethod
    def of(cls, connection: Connection, schema: str = sql.DEFAULT_SCHEMA, patience: float = PATIENCE) -> Settled:
        """Return all that is recorded now, as soon as nothing can come before it any more."""
        deadline = time.monotonic() + patience
        asked = None
        while True:
            horizon, following = connection.execute(_query("horizon", schema)).fetchone() or (0, 0)
            asked = following if asked is None else asked
            horizon = min(horizon, asked)
            (left_out,) = connection.execute(_query("left out", schema), {"horizon": horizon, "asked": asked}).fetchone() or (0,)
            if not left_out or time.monotonic() > deadline:
                return cls(connection, schema, horizon, left_out)
            time.sleep(0.05)

    def rows(self) -> Generator[Row]:
        """Yield every row."""
        return self._rows_at(self._places())

    def rows_of(self, condition: Q) -> Generator[Row]:
        """Yield the rows of the tasks for which the condition holds, and of their groups."""
        groups: set[str] = set()
        for tasks in pages_of_tasks(self.connection, self.schema, condition):
            new = {task["group_id"] for task in tasks if task["group_id"]} - groups
            groups |= new
            streams = [escape(stream) for stream in (*(task["task_id"] for task in tasks), *sorted(new))]
            query, parameters = _query("places of streams", self.schema), {"streams": streams, "horizon": self.horizon}
            places = Journal(self.schema).look(self.connection, query, parameters)
            yield from self._rows_at(iter(sorted((place["position"], place["event_id"], place["stream"]) for place in places)))

    def _rows_at(self, places: Iterator[tuple[int, UUID, str]]) -> Generator[Row]:
        while page := list(islice(places, ROWS)):
            _, event_ids, streams = zip(*page, strict=True)
            keys = {"event_ids": list(event_ids), "streams": list(streams)}
            yield from self._read("rows", {**keys, "first_id": min(event_ids), "last_id": max(event_ids)})

    def _places(self) -> Iterator[tuple[int, UUID, str]]:
        """Yield (position, key) of each row by position, which decides in the views; the log is read by the transaction."""
        waiting: list[tuple[int, UUID, str]] = []
        for _, position, event_id, stream_of_it in self._places_by_transaction():
            heappush(waiting, (position, event_id, stream_of_it))
            if len(waiting) > LOOKAHEAD:
                yield heappop(waiting)
        while waiting:
            yield heappop(waiting)

    def _places_by_transaction(self) -> Iterator[tuple[int, int, UUID, str]]:
        place = (0, 0)
        while True:
            parameters = {"transaction": place[0], "position": place[1], "horizon": self.horizon, "limit": PLACES}
            page = self.connection.execute(_query("places", self.schema), parameters).fetchall()
            yield from page
            if len(page) < PLACES:
                return
            place = page[-1][:2]

    def _read(self, name: str, parameters: dict[str, Any]) -> Iterator[Row]:
        """Yield the rows one by one: a page of large results need not fit into memory."""
        with self.connection.cursor(row_factory=dict_row) as cursor:
            for row in stream(cursor, _query(name, self.schema), parameters):
                yield {column: _in_utc(row[column]) for column in (*COLUMNS, "recorded_at", "recorded_by")}


def stream(cursor: Cursor[R], query: bytes, parameters: Mapping[str, Any]) -> Generator[R]:
    """Yield the rows one by one. Until it is at its end, or closed, nobody else can use the connection, not even to end it."""
    with closing(cursor.stream(query, parameters)) as rows:  # type: ignore[type-var]  # a generator, though typed as an iterator
        yield from rows


def pages_of_tasks(connection: Connection, schema: str, condition: Q) -> Iterator[list[dict[str, Any]]]:
    """Yield the ids of the tasks for which the condition holds, with those of their groups, in short statements."""
    found, after = TaskResult.objects.using(connection, schema).filter(condition).order_by("task_id").values("task_id", "group_id"), ""
    while page := list(found.filter(task_id__gt=after)[:TASKS]):
        yield page
        after = page[-1]["task_id"]


def _in_utc(value: Any) -> Any:
    """Return the moment in UTC, whatever the session's time zone is."""
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def _query(name: str, schema: str) -> bytes:
    return sql.query("transfer.sql", name, schema)
