"""What happens to tasks once and for all, from the log: each failure and each task that is lost, in its order, and none skipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.consumers.errors import fingerprint_of
from celery_journal.consumers.raised import error_of
from celery_journal.consumers.words import shown
from celery_journal.journal import Connection, RecordedEvent, horizon
from celery_journal.journal.codec import decode, escape
from celery_journal.projections import Q, TaskResult

from .alert import Alert, Kind, plain

#: Facts that are looked through at a time, and alerts that are made of them at most.
READ, TOLD = 1000, 50

#: Characters of a traceback, from its end: what was raised stands there.
TRACEBACK = 20_000

#: What alerts of each kind are made of.
OF_KIND: dict[Kind, str] = {"failure": "task-failed", "lost": "task-lost"}

#: Milliseconds within which a failure that is told twice is looked for. In ids, which begin with them.
_DAY = 24 * 3600 * 1000

#: What is told of a task besides its fact; `name` is that of the view.
_OF_TASK = ("queue", "worker", "root_id", "parent_id", "group_id")

Place = tuple[int, int]


class Page(NamedTuple):
    """A stretch of the log."""

    #: Each with its place, in the order of the log.
    alerts: list[tuple[Place, Alert]]
    #: The place after which to go on.
    place: Place
    #: Whether that is the end of the log.
    is_all: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """The log, as far as it tells what is to be told."""

    #: Of `failure` and `lost`.
    kinds: Sequence[Kind]
    #: The name of the subscription.
    watch: str
    schema: str = sql.DEFAULT_SCHEMA
    #: Which tasks it is about, if not all. One that has left the views is told of: nobody knows that it is none of them.
    condition: Q | None = None

    def after(self, connection: Connection, place: Place) -> Page:
        """Return what comes after the place."""
        rows = self._rows(connection, place)
        chosen = [row for row in rows if row["is_told"]]
        is_cut = len(chosen) > TOLD
        chosen = chosen[:TOLD]
        last = chosen[-1] if is_cut else rows[-1] if rows else None
        recorded = self._recorded(connection, chosen) if chosen else []
        return Page(
            [(one.place, alert) for one, alert in self._alerts(connection, recorded)],
            place if last is None else (last["transaction"], last["position"]),
            is_all=not is_cut and (last is None or last["read"] < READ),
        )

    def _rows(self, connection: Connection, place: Place) -> list[dict[str, Any]]:
        transaction, position = place
        parameters = {
            "transaction": transaction,
            "position": position,
            "horizon": horizon(connection, self.schema),
            "kinds": [OF_KIND[kind] for kind in self.kinds],
            "limit": READ,
        }
        with connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(sql.query("alerts.sql", "page", self.schema), parameters).fetchall()

    def _recorded(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> list[RecordedEvent]:
        """Return the facts of the rows, without the failures that are told a second time, as Celery does after a hard time limit."""
        milliseconds = [row["event_id"].int >> 80 for row in rows]
        window = {
            "first_id": UUID(int=max(0, min(milliseconds) - _DAY) << 80),
            "last_id": UUID(int=min(2**48 - 1, max(milliseconds) + _DAY) << 80 | (2**80 - 1)),
        }
        of_streams = {"streams": list({row["stream"] for row in rows}), "kinds": list(OF_KIND.values()), "since": 0}
        query = sql.query("journal.sql", "read transitions", self.schema)
        with connection.cursor(row_factory=dict_row) as cursor:
            found = [decode(row) for row in cursor.execute(query, {**of_streams, **window}, prepare=False)]
        wanted = {row["event_id"] for row in rows}
        first = {_run_of(one): one.place for one in reversed(found)}  # the earliest of each, as they are in the order of the log
        return [one for one in found if one.event.event_id in wanted and first[_run_of(one)] == one.place]

    def _alerts(self, connection: Connection, recorded: Sequence[RecordedEvent]) -> Iterator[tuple[RecordedEvent, Alert]]:
        if not recorded:
            return
        tasks = TaskResult.objects.using(connection, self.schema)
        ids = list({escape(one.event.stream) for one in recorded})
        rows = tasks.filter(task_id__in=ids).values("task_id", "task_name", *_OF_TASK)
        known = {row["task_id"]: row for row in rows[: len(ids)]}
        found = set(known)
        if self.condition is not None and known:
            found = {row["task_id"] for row in tasks.filter(self.condition, task_id__in=ids).values("task_id")[: len(ids)]}
        for one in recorded:
            task_id = escape(one.event.stream)
            if task_id in found or task_id not in known:
                yield one, _alert(one, known.get(task_id, {}), self.watch)


def _run_of(recorded: RecordedEvent) -> tuple[object, ...]:
    """Return what a failure has in common with itself, told a second time; of what names no run that is nothing."""
    event = recorded.event
    run = _text(event, "run")
    return (event.event_id,) if run is None or event.kind != OF_KIND["failure"] else (event.stream, event.attempt, run)


def _text(event: object, name: str) -> str | None:
    """Return what the event says, if it is text: of what could not be read it may be anything."""
    said = getattr(event, name, None)
    return plain(said) if isinstance(said, str) else None


def _alert(recorded: RecordedEvent, row: dict[str, Any], watch: str) -> Alert:
    event = recorded.event
    kind: Kind = "lost" if event.kind == OF_KIND["lost"] else "failure"
    task = {
        "task_id": plain(event.stream),
        "name": row.get("task_name") or _text(event, "name"),
        **{name: _text(event, name) or row.get(name) for name in _OF_TASK},
        "attempt": event.attempt,
        **(_of_failure(event) if kind == "failure" else {"reason": _text(event, "reason")}),
    }
    said = task.get("error") or task.get("reason")
    text = f"{shown(task['name'] or 'task')} {shown(event.stream)} {'has failed' if kind == 'failure' else 'is lost'}"
    return Alert(
        id=str(event.event_id),
        kind=kind,
        event="happened",
        episode=str(event.event_id),
        at=event.occurred_at,
        text=f"{text}: {shown(said)}" if said else text,
        watch=watch,
        task=task,
    )


def _of_failure(event: object) -> dict[str, Any]:
    traceback, error = _text(event, "traceback"), error_of(event)
    return {
        "error": None if error is None else plain(error),
        "group": fingerprint_of(event),
        "traceback": traceback if traceback is None or len(traceback) <= TRACEBACK else f"…{traceback[-TRACEBACK:]}",
    }
