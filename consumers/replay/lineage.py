"""Which task a task was sent again of, and as which it was sent again itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from celery_journal import sql
from celery_journal.journal import Connection, Journal
from celery_journal.journal.events import Event, TaskReplayed, TaskSent

from .canvas import REPLAY_OF


@dataclass(frozen=True, slots=True)
class Lineage:
    """The replays around a task."""

    #: The task that it was sent again of; None if it is the first.
    replay_of: str | None = None
    #: The tasks as which it was sent again, the first one first.
    replayed_as: tuple[str, ...] = ()


def lineage(connection: Connection, task_id: str, schema: str = sql.DEFAULT_SCHEMA) -> Lineage:
    """Return the replays around the task; what was forgotten or has expired is in the log still."""
    recorded, _ = Journal(schema).read_transitions(connection, [task_id], ["task-sent", "task-replayed"])
    return lineage_in(task_id, [one.event for one in recorded])


def lineage_in(task_id: str, events: Sequence[Event]) -> Lineage:
    """Return the replays around the task, of which these are the events."""
    origins = [origin for event in events if isinstance(event, TaskSent) and (origin := origin_of(event)) is not None]
    copies = dict.fromkeys(event.task_id or task_id for event in events if isinstance(event, TaskReplayed))
    return Lineage(origins[0] if origins else None, tuple(copies))


def origin_of(sent: TaskSent) -> str | None:
    """Return the id of the task that this message is a replay of; None if it is none."""
    headers = (sent.message or {}).get("headers")
    origin = headers.get(REPLAY_OF) if isinstance(headers, Mapping) else None
    return origin if isinstance(origin, str) else None
