"""The command that lists tasks."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import click
from celery import states

from celery_journal.consumers.contents import arguments_of, error_of
from celery_journal.consumers.words import duration, moment
from celery_journal.journal import check_version
from celery_journal.projections import QuerySet, TaskResult
from celery_journal.projections.query import Q

from .output import Column, Output, console, output_options
from .searching import Searching, is_told, say_doubts, words_argument, words_of
from .styles import style_of


def _took(task: TaskResult) -> str:
    if task.date_started is None or task.date_done is None or task.date_done < task.date_started:
        return ""
    return duration(task.date_done - task.date_started)


#: What there is room for: the columns of a terminal, from that width on.
COLUMNS = (
    (0, Column("ended, or sent", lambda task: moment(task.date_done or task.date_created).removesuffix(" UTC"))),
    (0, Column("task", lambda task: task.task_id, whole=True)),
    (0, Column("name", lambda task: task.task_name)),
    (120, Column("arguments", arguments_of)),
    (0, Column("state", lambda task: task.status, style=lambda task: style_of(task.status))),
    (140, Column("took", _took, justify="right")),
    (140, Column("worker", lambda task: task.worker)),
    (100, Column("error", error_of)),
)


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


def _shown(found: QuerySet[TaskResult], tasks: Any) -> Iterator[TaskResult]:
    """Yield the tasks without their results, which may be large; but for errors that have no traceback, as that of a time limit."""
    for row in found.values(*READ):
        task = TaskResult(**row)
        is_error = task.status in states.EXCEPTION_STATES and task.traceback is None
        yield (is_error and tasks.filter(task_id=task.task_id).first()) or task


@click.command("list", cls=Searching)
@words_argument
@click.option("--limit", default=50, show_default=True, type=click.IntRange(0, 10**9), help="Tasks at most; 0 lists all.")
@click.option("--order", metavar="FIELD", help="Order by this field of the view task_result, -FIELD descending.  [default: -date_done]")
@output_options
@click.pass_context
def listing(ctx: click.Context, condition: Q, limit: int, order: str | None, output: Output) -> None:
    """List the tasks that the query words find: those that have not ended first, then the newest. Exit code 1 if there are none.

    What was annotated as hidden is left out, unless a word says hidden:yes or hidden:no.

    \b
    celery-journal list state:FAILURE,RETRY 'name:billing.*' -worker:w3 since:2h args.user_id:42
    """
    target = ctx.obj
    if not is_told(ctx, "hidden"):
        condition &= Q(hidden=False)
    with target.connect() as connection:
        check_version(connection, target.schema)
        tasks = TaskResult.objects.using(connection, target.schema)
        found = tasks.filter(condition)
        if order is not None:
            found = found.order_by(order)
        found = found[: limit + 1] if limit else found
        rows: Any = iter(found) if output.is_data else _shown(found, tasks)
        width = console().width
        columns = [column for least, column in COLUMNS if not sys.stdout.isatty() or width >= least]
        with closing(rows):  # before its connection: it may not have been read to its end
            printed = output.rows(
                itertools.islice(rows, limit) if limit else rows, columns, lambda task: task.as_dict(), nothing="no task is like that"
            )
            if limit and next(rows, None) is not None:  # who counts lines in a pipe is to know as well
                click.echo(f"there are more than {limit:,}; narrow the query, or say --limit 0", err=True)
    if not printed:
        say_doubts(words_of(ctx))
        ctx.exit(1)
