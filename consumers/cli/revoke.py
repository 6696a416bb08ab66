"""The command that has workers revoke tasks."""

from __future__ import annotations

import signal as signals
from typing import Any

import click

from celery_journal.consumers.capture.control import account
from celery_journal.consumers.words import counted, shown
from celery_journal.journal import Connection, Emitter, Journal, check_version
from celery_journal.journal.events import OperatorActed
from celery_journal.projections import TaskResult
from celery_journal.projections.query import Q

from .choosing import app_of, broker_of, broker_option, choosing_options, chosen, with_members
from .output import Output, confirm, confirming_options, output_options

#: Tasks that workers are told of at once.
BATCH = 500

_SIGNALS = sorted(one.name for one in signals.Signals)


@click.command("revoke")
@choosing_options
@click.option("--terminate", is_flag=True, help="Also end the process that runs the task.")
@click.option(
    "--signal",
    default="SIGTERM",
    show_default=True,
    type=click.Choice(_SIGNALS, case_sensitive=False),
    metavar="NAME",
    help="By this signal.",
)
@click.option("--reason", help="Why, for the log.")
@broker_option
@confirming_options
@output_options
@click.pass_obj
def revoke(
    target: Any,
    task_ids: tuple[str, ...],
    words: str | None,
    terminate: bool,
    signal: str,
    reason: str | None,
    broker: str | None,
    yes: bool,
    dry_run: bool,
    output: Output,
) -> None:
    """Have the workers revoke tasks: none will start them any more. What has ended is left alone; a group is its tasks.

    \b
    celery -A shop journal revoke --filter 'name:billing.* state:PENDING' --reason "wrong prices"
    """
    app, action = app_of(target, broker), "terminate" if terminate else "revoke"
    journal, emitter = Journal(target.schema), Emitter()
    try:
        with target.connect() as connection:
            check_version(connection, target.schema)
            named = chosen(connection, target.schema, task_ids, words, also=Q(date_done__isnull=True))
            found = _not_ended(connection, target.schema, with_members(connection, target.schema, named))
            if not output.is_data:
                for task_id in found:
                    click.echo(shown(task_id))
            done = bool(found) and confirm(f"{action} {counted(len(found), 'task')}?", output, yes=yes, dry_run=dry_run)
            if done:
                facts: dict[str, Any] = {"action": action, "author": account(), "reason": reason, "source": "operator"}
                with broker_of(app) as sending:
                    for start in range(0, len(found), BATCH):
                        batch = found[start : start + BATCH]
                        arguments = {"task_id": batch, "terminate": terminate, "signal": signal}
                        app.control.broadcast("revoke", arguments=arguments, connection=sending)
                        # Here and not by what is attached to revoke(), which knows no reason.
                        journal.append(connection, *(emitter.emit(OperatorActed, one, **facts) for one in batch))
    finally:
        app.backend.database.close()
    if output.is_data:
        output.object({"action": action, "dry_run": dry_run, "done": done, "task_ids": found})
    elif dry_run or done or not found:
        click.echo(f"{'would ' if dry_run else ''}{action}{'' if dry_run else 'd'} {counted(len(found), 'task')}")


def _not_ended(connection: Connection, schema: str, task_ids: list[str]) -> list[str]:
    """Return those of the tasks that have not ended, and say what the others are; workers may know one that the journal does not."""
    tasks = TaskResult.objects.using(connection, schema)
    found: list[str] = []
    for start in range(0, len(task_ids), BATCH):
        part = task_ids[start : start + BATCH]
        known = {row["task_id"]: row for row in tasks.filter(task_id__in=part).values("task_id", "status", "date_done")}
        for task_id in part:
            if (row := known.get(task_id)) is None:
                click.echo(f"the journal knows no task {shown(task_id)}; the workers are told of it all the same", err=True)
            elif row["date_done"] is not None:
                click.echo(f"{shown(task_id)} has ended already: {row['status']}", err=True)
                continue
            found.append(task_id)
    return found
