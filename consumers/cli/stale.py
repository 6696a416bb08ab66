"""The command that lists what has not ended for too long."""

from __future__ import annotations

import itertools
import sys
from datetime import UTC, timedelta
from typing import Any

import click

from celery_journal.consumers.alike import Waiting
from celery_journal.consumers.stale import StaleTask, get_stale_tasks
from celery_journal.consumers.words import duration, shown
from celery_journal.journal import check_version

from .output import Column, Output, Record, table_options
from .styles import style_of
from .waiting import all_option, rows_or_groups

TASK = Column("task", lambda task: task.task_id, whole=True)
NAME = Column("name", lambda task: task.name, whole=True)
STATE = Column("state", lambda task: task.state, style=lambda task: style_of(task.state))
AGE = Column("age", lambda task: duration(task.age), "right")
WHERE = Column("worker / queue", lambda task: task.worker or task.queue)
REASON = Column("reason", lambda task: task.reason)

COLUMNS = (TASK, NAME, STATE, AGE, WHERE, REASON)
RECORD = Record((AGE, TASK, STATE), (NAME,), (REASON,))

UNITS = ("weeks", "days", "hours", "minutes", "seconds", "microseconds")


def _units(command: Any) -> Any:
    for unit in reversed(UNITS):
        command = click.option(f"--{unit}", type=click.IntRange(min=0), metavar="N", help=f"So many {unit}.")(command)
    return command


@click.command("stale")
@_units
@click.option("--terminal-state", "states", multiple=True, metavar="STATE", help="Count this state as an end; may be repeated.")
@click.option("--scheduled", is_flag=True, help="Only tasks whose eta has passed by more than that, and that have not started.")
@all_option
@table_options
@click.pass_context
def stale(ctx: click.Context, /, states: tuple[str, ...], scheduled: bool, every: bool, output: Output, **units: int | None) -> None:
    """List the tasks that were sent longer ago than an hour, or than you say, and have not ended. Exit code 1 if there are any.

    A task with an eta counts from then on. The units are added up; ended is what Celery takes for an end, unless you say. More than
    fit on a terminal are counted by queue and reason.

    \b
    celery-journal stale --hours 1
    """
    given = {unit: number for unit, number in units.items() if number is not None}
    try:
        age = timedelta(**(given or {"hours": 1}))
    except OverflowError as exc:
        raise click.BadParameter("that is longer than time is reckoned") from exc
    with ctx.obj.connect() as connection:
        check_version(connection, ctx.obj.schema)
        tasks = get_stale_tasks(connection, age, states or None, scheduled=scheduled, schema=ctx.obj.schema)
        first = next(tasks, None)
        if first is not None:
            tasks = itertools.chain([first], tasks)
        if output.is_data:
            output.objects(_as_object(task) for task in tasks)
        elif first is None:
            click.echo(f"no {'scheduled ' if scheduled else ''}task is stale: none has waited for longer than {duration(age)}")
        elif sys.stdout.isatty():
            rows_or_groups(tasks, COLUMNS, RECORD, _waiting, every=every)
        else:
            click.echo("Stale scheduled tasks:" if scheduled else "Stale tasks:")
            for task in tasks:
                click.echo(f"  {task.date_created.astimezone(UTC)} - {shown(task.task_id)}: {shown(task.name or '')}")
    if first is not None:
        ctx.exit(1)


def _waiting(task: StaleTask) -> Waiting:
    return Waiting(task.task_id, task.name, task.queue, task.age, task.reason)


def _as_object(task: StaleTask) -> dict[str, Any]:
    return {
        "task_id": task.task_id,
        "name": task.name,
        "state": task.state,
        "date_created": task.date_created.astimezone(UTC).isoformat(),
        "eta": task.eta and task.eta.astimezone(UTC).isoformat(),
        "age_seconds": round(task.age.total_seconds(), 3),
        "worker": task.worker,
        "worker_alive": task.worker_alive,
        "queue": task.queue,
        "lost": task.lost_reason is not None,
        "reason": task.reason,
    }
