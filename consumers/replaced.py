"""Tasks that put another one in their place (`Task.replace()`): that one goes on under their id, and people know it by their name.

For a group that is Celery's own `celery.accumulate`, which nobody has ever called.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from celery_journal import sql
from celery_journal.journal import Connection
from celery_journal.journal.codec import escape
from celery_journal.projections import TaskResult

#: Tasks whose names are looked up at a time.
PAGE = 1000


def first_names(connection: Connection, task_ids: Iterable[str], schema: str = sql.DEFAULT_SCHEMA) -> dict[str, str]:
    """Return the names under which those of the tasks were sent first that have put another one in their place, by id."""
    given = {escape(task_id): task_id for task_id in task_ids}
    rows = connection.execute(sql.query("explain.sql", "first names", schema), {"ids": list(given)}).fetchall()
    return {given[task_id]: name for task_id, name in rows}


def under_first_names(connection: Connection, tasks: Iterable[TaskResult], schema: str = sql.DEFAULT_SCHEMA) -> Iterator[TaskResult]:
    """Yield the tasks, each with the name under which it was sent first."""
    rest = iter(tasks)
    while page := list(itertools.islice(rest, PAGE)):
        names = first_names(connection, [task.task_id for task in page], schema)
        yield from (task.model_copy(update={"task_name": names[task.task_id]}) if task.task_id in names else task for task in page)
