"""What the journal knows about an id: read first, told afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.consumers.request import NOT_REGISTERED
from celery_journal.journal import Connection, Journal, RecordedEvent
from celery_journal.journal.codec import escape
from celery_journal.journal.events import Event, TaskRejected, TaskReplayed

E = TypeVar("E", bound=Event)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chord:
    """A chord, and whom it waits for."""

    row: Row
    #: The members that have not returned, with their states; those of which nothing is known have none.
    missing: list[Row]
    #: The members that were not sent, as far as is known: of which nobody has heard, though the header was to be sent at once.
    unsent: list[str]


@dataclass(frozen=True, slots=True)
class Known:
    """Everything about one id. Ages are to be reckoned from `now`, which is the database's."""

    id: str
    now: datetime
    task: Row | None
    attempts: list[Row]
    events: list[RecordedEvent]
    workers: dict[str, Row]
    #: Who consumes the queue in which the task waits, or from which it came to a worker that does not know it, and how much is before it.
    consumers: Row | None
    ahead: int
    #: The tasks that the first of those has registered that have not registered this one.
    registered: list[str]
    #: The chord of this id, and the open one whose body this is.
    chord: Chord | None
    body_of: Chord | None
    group: Row | None
    members: list[Row]
    #: How the task stands as which it was sent again last; None where nobody has heard of that.
    copy: Row | None

    def last(self, kind: type[E], attempt: int | None = None) -> tuple[E, datetime] | None:
        """Return the last fact of that kind (of an attempt), and when the database heard of it."""
        for recorded in reversed(self.events):
            if isinstance(recorded.event, kind) and attempt in {None, recorded.event.attempt}:
                return recorded.event, recorded.recorded_at
        return None

    def all_of(self, kind: type[E]) -> list[E]:
        """Return every fact of that kind, in the order of the log."""
        return [recorded.event for recorded in self.events if isinstance(recorded.event, kind)]


class Reader:
    """Asks the views and the log."""

    def __init__(self, connection: Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    def rows(self, name: str, **parameters: Any) -> list[Row]:
        """Return the rows of a query of explain.sql."""
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(sql.query("explain.sql", name, self._schema), parameters).fetchall()

    def one(self, name: str, **parameters: Any) -> Row | None:
        """Return its only row."""
        return next(iter(self.rows(name, **parameters)), None)

    def known(self, subject: str) -> Known:
        """Return what is known about the id."""
        key = escape(subject)
        task, attempts = self.one("task", id=key), self.rows("attempts", id=key)
        chord, group = self._chord(key), self.one("group", id=key)
        # Of a worker or a wide chord the log has far more than there is to say.
        is_other = task is None and (chord is not None or group is not None or self.one("workers", workers=[key]) is not None)
        events = [] if is_other else Journal(self._schema).read_stream(self._connection, subject)
        names = {row["worker"] for row in (*attempts, *([task] if task else [])) if row["worker"]} | {key}
        names |= {worker for recorded in events if (worker := getattr(recorded.event, "worker", None))}
        workers = {row["worker"]: row for row in self.rows("workers", workers=[escape(name) for name in names])}
        queue = attempts[-1]["queue"] if attempts else task["queue"] if task else None
        consumers, ahead = None, 0
        waits = any(run["status"] == "PENDING" and run["worker"] is None for run in attempts)  # also one that has ended and was sent again
        is_unknown = any(isinstance(one.event, TaskRejected) and (one.event.reason or "").endswith(NOT_REGISTERED) for one in events)
        if task is not None and queue is not None and (task["date_done"] is None or waits or is_unknown):
            consumers = self.one("consumers", queue=queue, task=task["name"])
            ahead = (self.one("ahead", queue=queue, sent=task["date_sent"]) or {"count": 0})["count"]
        (of_body,) = (self.one("chord of body", id=key) or {"": None}).values()
        members = [] if task else self.rows("open members", id=key)
        if group is not None:
            members = self._states(group["members"] or [])
        copies = [one.event.task_id for one in events if isinstance(one.event, TaskReplayed) and one.event.task_id not in {None, subject}]
        return Known(
            id=subject,
            now=(self.one("now") or {})["clock_timestamp"],
            task=task,
            attempts=attempts,
            events=events,
            workers=workers,
            consumers=consumers,
            ahead=ahead,
            registered=self._registered(consumers),
            chord=chord,
            body_of=self._chord(of_body) if of_body is not None else None,
            group=group,
            members=members,
            copy=next((self.one("task", id=escape(copy)) for copy in reversed(copies)), None),
        )

    def _registered(self, consumers: Row | None) -> list[str]:
        lacking = (consumers or {}).get("unregistered") or []
        row = self.one("registered", worker=lacking[0]) if lacking else None
        return (row or {}).get("tasks") or []

    def _chord(self, group_id: str) -> Chord | None:
        row = self.one("chord", id=group_id)
        if row is None or row["date_created"] is None:
            return None
        returned = {part["task_id"] for part in self.rows("returned", id=group_id)}
        members = dict(_members(row.pop("sub_tasks")))
        missing = self._states([task_id for task_id in members if task_id not in returned])
        unsent = [member["task_id"] for member in missing if member["state"] is None]
        return Chord(row, missing, self._unsent(group_id, members, unsent) if unsent and row["state"] == "open" else [])

    def _unsent(self, group_id: str, members: dict[str, bool], unheard: list[str]) -> list[str]:
        """Return those of the members that should have been sent, and were not. One with others before it may have to wait for them."""
        query = sql.query("explain.sql", "sized", self._schema)
        if not any(row["is_sized"] for row in Journal(self._schema).look(self._connection, query, {"id": group_id})):
            return unheard
        first = [task_id for task_id, is_first in members.items() if is_first]
        is_tracked = any(member["date_sent"] for member in self._states(first))
        return [task_id for task_id in unheard if members[task_id]] if is_tracked else []

    def _states(self, task_ids: list[str]) -> list[Row]:
        found = {row["task_id"]: row for row in self.rows("states", ids=task_ids)}
        return [
            found.get(task_id, {"task_id": task_id, "state": None, "worker": None, "lost": False, "date_sent": None})
            for task_id in task_ids
        ]


def _members(header: Any, *, is_first: bool = True) -> Iterator[tuple[str, bool]]:
    """Yield the ids of a header's tasks, and whether nothing comes before them.

    A node is [[id, parent], null] for a task, [[id, parent], [nodes]] for a group.
    """
    for node in header if isinstance(header, list) else []:
        if isinstance(node, list) and len(node) == 2 and isinstance(node[1], list):
            yield from _members(node[1], is_first=is_first and isinstance(node[0], list) and not any(node[0][1:]))
        elif isinstance(node, list) and node and isinstance(node[0], list) and node[0] and isinstance(node[0][0], str):
            yield node[0][0], is_first and not any(node[0][1:])
