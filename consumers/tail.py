"""The end of the log, and what is added to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.journal import Connection, Journal, RecordedEvent, horizon
from celery_journal.journal.codec import decode, escape
from celery_journal.projections import Q, TaskResult

#: Events that are read at a time, and those that are looked through at most for the last ones that a query finds.
PAGE, LOOKED_THROUGH = 1000, 50_000

_END = (2**63 - 1, 2**63 - 1)


class Found(NamedTuple):
    """Facts, in the order of the log."""

    facts: list[RecordedEvent]
    #: The place after which to go on.
    place: tuple[int, int]
    #: Whether there are no more on that side, or no more were asked for.
    is_all: bool


@dataclass(frozen=True, slots=True)
class Tail:
    """The log from its end on: the facts about the tasks that a condition finds, or all."""

    connection: Connection
    schema: str = sql.DEFAULT_SCHEMA
    condition: Q | None = None

    def last(self, number: int) -> Found:
        """Return the last so many facts, and the place after which new ones stand."""
        found: list[RecordedEvent] = []
        end, before, looked_through = None, _END, 0
        while len(found) < number or end is None:
            page = self._before(before, PAGE if self.condition else max(number, 1))
            if not page:
                break
            end = end or page[0].place
            found += self._chosen(page)[: number - len(found)]
            before, looked_through = page[-1].place, looked_through + len(page)
            if self.condition and looked_through >= LOOKED_THROUGH:
                return Found(found[::-1], end, is_all=len(found) >= number)
        return Found(found[::-1], end or (0, 0), is_all=True)

    def after(self, place: tuple[int, int]) -> Found:
        """Return what comes after the place, a page at most.

        Nothing is skipped, whatever writers are in flight: a fact shows when every transaction that began before it has ended.
        """
        page = Journal(self.schema).read_all(self.connection, place, PAGE)
        return Found(self._chosen(page), page[-1].place if page else place, is_all=len(page) < PAGE)

    def _before(self, place: tuple[int, int], limit: int) -> list[RecordedEvent]:
        transaction, position = place
        with self.connection.cursor(row_factory=dict_row) as cursor:
            parameters = {
                "transaction": transaction,
                "position": position,
                "limit": limit,
                "horizon": horizon(self.connection, self.schema),
            }
            return [decode(row) for row in cursor.execute(sql.query("tail.sql", "last", self.schema), parameters)]

    def _chosen(self, page: Sequence[RecordedEvent]) -> list[RecordedEvent]:
        """Return those of the facts whose tasks the condition finds."""
        if self.condition is None or not page:
            return list(page)
        streams = {escape(recorded.event.stream) for recorded in page}
        tasks = TaskResult.objects.using(self.connection, self.schema).filter(self.condition, task_id__in=list(streams))
        chosen = {row["task_id"] for row in tasks.values("task_id")[: len(streams)]}
        return [recorded for recorded in page if escape(recorded.event.stream) in chosen]
