"""The command that has workers revoke tasks."""

from __future__ import annotations

import signal as signals
from typing import Any

import click
from celery import states

from celery_journal.consumers.backend.admission import check_rights
from celery_journal.consumers.capture.control import account, requests
from celery_journal.consumers.words import counted, shown
from celery_journal.journal import Connection, Emitter, Journal, check_version
from celery_journal.projections import TaskResult, Worker
from celery_journal.projections.query import Q

from .choosing import app_of, broker_of, broker_option, choosing_options, chosen, question, refuse_unknown, with_members
from .failure import Failure
from .hearing import Hearing, tell
from .output import Output, confirm, confirming_options, output_options
from .plan import plan_of

#: Tasks that workers are told of at once.
BATCH = 500

#: Tasks of one canvas.
MOST = 100_000

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
@click.option("--workflow", is_flag=True, help="All of the canvas that each is a part of, from any of its ids; also what was not sent yet.")
@click.option(
    "--timeout", default=1.0, show_default=True, type=click.FloatRange(min=0.1, max=60), help="Seconds that workers have to answer."
)
@click.option("--reason", help="Why, for the log.")
@click.option("--unknown", is_flag=True, help="Also ids of which the journal knows nothing, instead of revoking none.")
@broker_option
@confirming_options
@output_options
@click.pass_context
def revoke(
    ctx: click.Context,
    task_ids: tuple[str, ...],
    words: str | None,
    terminate: bool,
    signal: str,
    workflow: bool,
    timeout: float,
    reason: str | None,
    unknown: bool,
    broker: str | None,
    yes: bool,
    dry_run: bool,
    output: Output,
) -> None:
    """Have the workers revoke tasks: none will start them any more. What has ended is left alone; a group is its tasks.

    It says which workers have answered, and which had the tasks. Where the journal does not know one of the ids, nothing is revoked, and
    the exit code is 1; so it is where no worker answers, or not the one that runs a task.

    \b
    celery -A shop journal revoke --filter 'name:billing.* state:PENDING' --reason "wrong prices"
    celery -A shop journal revoke 2f1c6c3a-2c3c-4a77-a8a8-8b6a4e6f5b0e --workflow --terminate
    """
    target = ctx.obj
    app, action = app_of(target, broker), "terminate" if terminate else "revoke"
    journal, emitter, hearing = Journal(target.schema), Emitter(), Hearing()
    silent: list[str] = []
    try:
        with target.connect() as connection:
            check_version(connection, target.schema)
            if not dry_run:  # or else the workers would be told, and the log not
                check_rights(connection, target.schema)
            # Of a whole canvas any id does, also of a task that has ended.
            also = None if workflow else Q(date_done__isnull=True)
            named = chosen(connection, target.schema, task_ids, words, also=also)
            named = _canvases(connection, target.schema, named) if workflow else with_members(connection, target.schema, named)
            for task_id in named:
                app.backend.check_id(task_id)  # before any worker is told, because it could not be recorded
            if not (unknown or workflow):
                refuse_unknown(connection, journal, named, "nothing is revoked; correct it, or say --unknown")
            received = _not_ended(connection, target.schema, named, quietly=workflow)
            found = list(received)
            if not output.is_data:
                for task_id in found:
                    click.echo(shown(task_id))
            plan = plan_of(connection, target.schema, found, app)
            done = bool(found) and confirm(question(action, found, plan.lines()), output, yes=yes, dry_run=dry_run)
            if done:
                facts: dict[str, Any] = {"action": action, "author": account(), "reason": reason, "source": "operator"}
                with broker_of(app) as sending:
                    for start in range(0, len(found), BATCH):
                        batch = found[start : start + BATCH]
                        # First: a worker that starts meanwhile finds it in the log, if it was not there to be told.
                        journal.append(connection, *requests(emitter, batch, **facts))
                        tell(app, sending, hearing, batch, terminate=terminate, signal=signal, timeout=timeout)
                hearing.complete(received)
                silent = [
                    worker.worker
                    for worker in Worker.all(connection, target.schema)
                    if worker.alive and worker.worker not in hearing.workers
                ]
            going_on = _going_on(connection, target.schema, found, silent) if silent else {}
    finally:
        app.backend.database.close()
    if output.is_data:
        held = [{"task_id": task_id, "worker": worker, "state": how} for task_id, (worker, how) in hearing.held.items()]
        answers = {"workers": hearing.workers, "silent": silent, "held": held, "going_on": going_on}
        told = {"action": action, "dry_run": dry_run, "done": done, "task_ids": found, **answers}
        output.object({**told, "plan": plan.as_dict()} if dry_run else told)
    elif done:
        _say(hearing, found, silent, going_on, action, remembers=app.backend.options.remember_revokes)
    elif dry_run or not found:
        click.echo(f"{'would ' if dry_run else ''}{action}{'' if dry_run else 'd'} {counted(len(found), 'task')}")
        plan.say_dry()
    if done and (going_on or not hearing.heard):
        ctx.exit(1)


def _say(hearing: Hearing, found: list[str], silent: list[str], going_on: dict[str, str], action: str, *, remembers: bool) -> None:
    """Say who heard it, who had the tasks, and what becomes of the others."""
    for task_id, (worker, how) in hearing.held.items():
        became = "which ends it" if action == "terminate" else "which lets it end: --terminate stops it"
        click.echo(
            f"{shown(task_id)} "
            + (f"runs on {shown(worker)}, {became}" if how == "active" else f"waits on {shown(worker)}: it will not run")
        )
    for task_id, worker in going_on.items():
        click.echo(f"{shown(task_id)} was started on {shown(worker)}, which does not answer: it goes on")
    for worker, error in hearing.workers.items():
        if error is not None:
            click.echo(f"{shown(worker)} could not do so: {shown(error)}", err=True)
    answered = counted(len(hearing.heard), "worker")
    names = ", ".join(map(shown, hearing.heard))
    later = "one that starts later with this journal discards what waits" if remembers else "what waits will still run when one comes"
    click.echo(
        f"{action}d {counted(len(found), 'task')}: {answered} answered, {names}"
        if names
        else f"{action} {counted(len(found), 'task')}: asked for, but {answered} answered; {later}"
    )
    if silent:
        click.echo(f"alive, but without an answer: {', '.join(map(shown, silent))}", err=True)


def _going_on(connection: Connection, schema: str, found: list[str], silent: list[str]) -> dict[str, str]:
    """Return those of the tasks that run on a worker which does not answer, with its name."""
    running = TaskResult.objects.using(connection, schema).filter(date_started__isnull=False, date_done__isnull=True, worker__in=silent)
    rows = [
        row
        for start in range(0, len(found), BATCH)
        for row in running.filter(task_id__in=found[start : start + BATCH]).values("task_id", "worker")
    ]
    return {row["task_id"]: row["worker"] for row in rows}


def _canvases(connection: Connection, schema: str, task_ids: list[str]) -> list[str]:
    """Return the tasks of the canvases that these are parts of, each once."""
    from celery_journal.consumers.graph import canvas_of

    found: dict[str, None] = {}
    for task_id in task_ids:
        if task_id in found:
            continue
        canvas = canvas_of(connection, task_id, schema, most=MOST)
        if not canvas.nodes:
            raise Failure(f"the journal knows no canvas that {shown(task_id)} is a part of; nothing is revoked", 1)
        if canvas.is_cut:
            raise Failure(
                f"the canvas of {shown(task_id)} has more than {MOST:,} tasks; revoke them by --filter 'root:{shown(task_id)}'", 1
            )
        found |= dict.fromkeys(node.id for node in canvas.nodes.values() if node.kind == "task")
    return list(found)


def _not_ended(connection: Connection, schema: str, task_ids: list[str], *, quietly: bool) -> dict[str, str | None]:
    """Return those of the tasks that have not ended, and say what the others are; workers may know one that the journal does not.

    With each, the worker that has received it and not started it yet.
    """
    tasks = TaskResult.objects.using(connection, schema)
    found: dict[str, str | None] = {}
    for start in range(0, len(task_ids), BATCH):
        part = task_ids[start : start + BATCH]
        known = {row["task_id"]: row for row in tasks.filter(task_id__in=part).values("task_id", "status", "date_done", "worker")}
        for task_id in part:
            if (row := known.get(task_id)) is None:
                if not quietly:
                    click.echo(f"the view has no task {shown(task_id)}; the workers are told of it all the same", err=True)
            elif row["date_done"] is not None:
                if not quietly:
                    click.echo(f"{shown(task_id)} has ended already: {row['status']}", err=True)
                continue
            found[task_id] = row["worker"] if row is not None and row["status"] == states.RECEIVED else None
    return found
