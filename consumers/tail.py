"""The end of the log, and what is added to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.journal import Connection, Journal, RecordedEvent
from celery_journal.journal.codec import decode, escape
from celery_journal.projections import Q, TaskResult

#: Events that are read at a time, and those that are looked through at most for the last ones that a query finds.
PAGE, LOOKED_THROUGH = 1000, 50_000

#: Seconds between two looks at the log.
PAUSE = 0.5

_END = (2**63 - 1, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class Tail:
    """The log from its end on: the facts about the tasks that a condition finds, or all."""

    connection: Connection
    schema: str = sql.DEFAULT_SCHEMA
    condition: Q | None = None

    def last(self, number: int) -> tuple[list[RecordedEvent], tuple[int, int]]:
        """Return the last so many facts, in the order of the log, and the place after which new ones stand."""
        found: list[RecordedEvent] = []
        end, before, looked_through = None, _END, 0
        while (len(found) < number or end is None) and looked_through < LOOKED_THROUGH:
            page = self._before(before, PAGE if self.condition else max(number, 1))
            if not page:
                break
            end = end or page[0].place
            found += self._chosen(page)[: number - len(found)]
            before, looked_through = page[-1].place, looked_through + len(page)
        return found[::-1], end or (0, 0)

    def after(self, place: tuple[int, int]) -> Iterator[RecordedEvent]:
        """Yield what comes after the place, as it comes, for ever.

        Nothing is skipped, whatever writers are in flight: a fact shows when every transaction that began before it has ended.
        """
        journal = Journal(self.schema)
        while True:
            page = journal.read_all(self.connection, place, PAGE)
            yield from self._chosen(page)
            place = page[-1].place if page else place
            if len(page) < PAGE:
                time.sleep(PAUSE)

    def _before(self, place: tuple[int, int], limit: int) -> list[RecordedEvent]:
        transaction, position = place
        with self.connection.cursor(row_factory=dict_row) as cursor:
            parameters = {"transaction": transaction, "position": position, "limit": limit}
            return [decode(row) for row in cursor.execute(sql.query("tail.sql", "last", self.schema), parameters)]

    def _chosen(self, page: Sequence[RecordedEvent]) -> list[RecordedEvent]:
        """Return those of the facts whose tasks the condition finds."""
        if self.condition is None or not page:
            return list(page)
        streams = {escape(recorded.event.stream) for recorded in page}
        tasks = TaskResult.objects.using(self.connection, self.schema).filter(self.condition, task_id__in=list(streams))
        chosen = {row["task_id"] for row in tasks.values("task_id")[: len(streams)]}
        return [recorded for recorded in page if escape(recorded.event.stream) in chosen]
