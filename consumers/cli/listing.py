"""The command that lists tasks."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from functools import partial
from typing import Any

import click
from celery import states
from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.consumers.clock import now_of
from celery_journal.consumers.contents import LINE, arguments_of, cut
from celery_journal.consumers.dossier import raised_by, task_object, took_of
from celery_journal.consumers.narrowing import narrowed
from celery_journal.consumers.replaced import PAGE, under_first_names
from celery_journal.consumers.settlement import ListedTask, with_settlement
from celery_journal.consumers.words import duration, moment, short, shown
from celery_journal.journal import Connection, check_version
from celery_journal.projections import QuerySet, TaskResult
from celery_journal.projections.query import Q

from .output import Column, Output, Record, console, say, table_options
from .searching import Searching, is_told, say_doubts, words_argument, words_of
from .styles import style_of


def _took(task: TaskResult) -> str:
    took = took_of(task)
    return "" if took is None else duration(took)


def _error(task: TaskResult) -> str:
    return cut(shown(raised_by(task) or ""), LINE)


def _state(task: ListedTask) -> str:
    return f"{task.status} (settled)" if task.settled else task.status


def _at(task: TaskResult) -> datetime | None:
    return task.date_done or task.date_created


def _short(now: datetime, task: TaskResult) -> str:
    return short(_at(task), now)


def _ran(task: TaskResult) -> str:
    return f"took {took}" if (took := _took(task)) else ""


ENDED = Column("ended, or sent", lambda task: moment(at).removesuffix(" UTC") if (at := _at(task)) else None)
TASK = Column("task", lambda task: task.task_id, whole=True)
NAME = Column("name", lambda task: task.task_name, whole=True)
ARGUMENTS = Column("arguments", arguments_of)
STATE = Column("state", _state, style=lambda task: style_of(task.status))
TOOK = Column("took", _took, justify="right")
WORKER = Column("worker", lambda task: task.worker, whole=True)
ERROR = Column("error", _error)

COLUMNS = (ENDED, TASK, NAME, ARGUMENTS, STATE, TOOK, WORKER, ERROR)

#: What there is room for on a terminal that is not wide, though no record is needed.
WIDE = 140


def _record(now: datetime) -> Record:
    return Record((Column("", partial(_short, now)), TASK, STATE), (NAME, ERROR, Column("", _ran), WORKER, ARGUMENTS))


#: The fields that these columns need.
READ = (
    "task_id",
    "task_name",
    "status",
    "worker",
    "traceback",
    "date_created",
    "date_started",
    "date_done",
    "args",
    "kwargs",
    "args_content_type",
)


def _shown(found: QuerySet[TaskResult], connection: Connection, schema: str) -> Iterator[TaskResult]:
    """Yield the tasks with what of their results there is to show: of errors those that are short enough for a line."""
    rows = iter(found.values(*READ))
    while page := list(itertools.islice(rows, PAGE)):
        failed = [row["task_id"] for row in page if row["status"] in states.EXCEPTION_STATES]
        with connection.cursor(row_factory=dict_row) as cursor:
            raised = cursor.execute(sql.query("explain.sql", "raised", schema), {"ids": failed}).fetchall() if failed else []
        errors = {row["task_id"]: row for row in raised}
        yield from (TaskResult(**{**row, **errors.get(row["task_id"], {})}) for row in page)


@click.command("list", cls=Searching)
@words_argument
@click.option("--limit", default=50, show_default=True, type=click.IntRange(0, 10**9), help="Tasks at most; 0 lists all.")
@click.option("--order", metavar="FIELD", help="Order by this field of the view task_result, -FIELD descending.  [default: -date_done]")
@table_options
@click.pass_context
def listing(ctx: click.Context, condition: Q, limit: int, order: str | None, output: Output) -> None:
    """List the tasks that the query words find: those that have not ended first, then the newest. Exit code 1 if there are none.

    What was annotated as hidden is left out, unless a word says hidden:yes or hidden:no. What is settled, because it was annotated as
    resolved or replayed with success, is marked so; settled:no leaves it out.

    \b
    celery-journal list state:FAILURE,RETRY 'name:billing.*' -worker:w3 since:2h args.user_id:42
    """
    target = ctx.obj
    if not is_told(ctx, "hidden"):
        condition &= Q(hidden=False)
    with target.connect() as connection:
        check_version(connection, target.schema)
        found = TaskResult.objects.using(connection, target.schema).filter(narrowed(condition, connection, target.schema))
        if order is not None:
            found = found.order_by(order)
        found = found[: limit + 1] if limit else found
        tasks = found if output.is_data else _shown(found, connection, target.schema)
        rows: Any = with_settlement(connection, under_first_names(connection, tasks, target.schema), target.schema)
        is_wide = not sys.stdout.isatty() or console().width >= WIDE
        columns = [column for column in COLUMNS if is_wide or column not in (TOOK, WORKER)]
        record = _record(now_of(connection, target.schema)) if sys.stdout.isatty() else None
        with closing(rows):  # before its connection: it may not have been read to its end
            printed = output.rows(
                itertools.islice(rows, limit) if limit else rows, columns, task_object, record=record, nothing="no task is like that"
            )
            if limit and next(rows, None) is not None:  # who counts lines in a pipe is to know as well
                say(f"there are more than {limit:,}; narrow the query, or say --limit 0", err=True)
    if not printed:
        say_doubts(words_of(ctx))
        ctx.exit(1)
