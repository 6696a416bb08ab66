"""Tasks whose names the workers that would receive them have not registered: whichever receives one fails it, as Celery does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from psycopg.rows import class_row

from celery_journal import sql
from celery_journal.journal import Connection

from .words import counted, duration

#: Tasks of each name among which the oldest that is due is looked for: those before it have an eta.
LOOKED_AT = 20

#: Names of a worker's tasks that are told, the ones most like the name it lacks first.
NEAREST = 3


@dataclass(frozen=True, slots=True)
class Unregistered:
    """What waits in a queue under a name that no live worker of the queue has registered."""

    queue: str
    name: str
    #: Those with an eta included.
    tasks: int
    #: For how long the oldest should have been taken by now.
    age: timedelta
    #: The live workers that consume the queue.
    workers: list[str]

    def __str__(self) -> str:
        return f"{self.name} in {self.queue} ({self.tasks:,}, the oldest for {duration(self.age)})"

    def as_dict(self) -> dict[str, Any]:
        """Return every field by name."""
        return {"queue": self.queue, "name": self.name, "tasks": self.tasks, "oldest": self.age, "workers": self.workers}


@dataclass(frozen=True, slots=True)
class Unlike:
    """A name under which tasks were sent to a queue lately, which some of its live workers have registered, and some have not."""

    queue: str
    name: str
    #: Those that have not.
    workers: list[str]


def find_unregistered(connection: Connection, schema: str = sql.DEFAULT_SCHEMA) -> list[Unregistered]:
    """Return what waits, and is due, under names that no live worker of its queue has registered, the longest first."""
    with connection.cursor(row_factory=class_row(Unregistered)) as cursor:
        return cursor.execute(sql.query("unregistered.sql", "waiting", schema), {"looked_at": LOOKED_AT}).fetchall()


def find_unlike(connection: Connection, schema: str = sql.DEFAULT_SCHEMA) -> list[Unlike]:
    """Return the names of the tasks that were sent last which not all live workers of their queues have registered."""
    with connection.cursor(row_factory=class_row(Unlike)) as cursor:
        return cursor.execute(sql.query("unregistered.sql", "unlike", schema)).fetchall()


def has_instead(tasks: Sequence[str], name: str) -> str:
    """Return the tasks that a worker has, in words: those whose names are most like the one that it lacks, which may be misspelled."""
    own = [task for task in tasks if not task.startswith("celery.")]
    if not own:
        return "no task of its own"
    nearest = get_close_matches(name, own, NEAREST, cutoff=0)
    more = len(own) - len(nearest)
    return ", ".join(nearest) + (f" and {counted(more, 'other task')}" if more else "")
