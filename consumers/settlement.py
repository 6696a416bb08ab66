"""What is settled though it has failed or has not ended: noted to be resolved, or sent again with success."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from celery import states

from celery_journal import sql
from celery_journal.journal import Connection
from celery_journal.journal.codec import escape
from celery_journal.projections import TaskResult

from .replaced import PAGE


class ListedTask(TaskResult):
    """A task, and whether anybody needs to look at it."""

    #: Why not, in words; None as long as somebody does, and of what has succeeded.
    settled: str | None = None


def settled_in(connection: Connection, task_ids: Iterable[str], schema: str = sql.DEFAULT_SCHEMA) -> dict[str, str]:
    """Return why those of the tasks that are settled are so, by their ids as the views have them."""
    keys = [escape(task_id) for task_id in task_ids]
    if not keys:
        return {}
    rows = connection.execute(sql.query("lost.sql", "settled", schema), {"task_ids": keys}, prepare=False).fetchall()
    # What people have said stands last, and counts.
    return {task_id: "resolved" if copy is None else f"replayed as {copy}, which has succeeded" for task_id, copy in rows}


def with_settlement(connection: Connection, tasks: Iterable[TaskResult], schema: str = sql.DEFAULT_SCHEMA) -> Iterator[ListedTask]:
    """Yield the tasks, each with why nobody needs to look at it any more."""
    rest = iter(tasks)
    while page := list(itertools.islice(rest, PAGE)):
        why = settled_in(connection, [task.task_id for task in page if task.status != states.SUCCESS], schema)
        # As they are: what was read has been looked at once.
        yield from (ListedTask.model_construct(task.model_fields_set, **vars(task), settled=why.get(task.task_id)) for task in page)
