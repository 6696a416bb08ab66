"""The command that lists what will not go on by itself, marks it and fails it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import click
from celery.exceptions import BackendError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from celery_journal.consumers.lost import GRACE, Lost, find_lost, mark_lost
from celery_journal.consumers.words import counted, duration, shown
from celery_journal.journal import Emitter, Journal, check_version

from .failure import Failure
from .stale import print_json


@click.command("lost")
@click.option("--mark", is_flag=True, help="Record in the log that they are lost; their Celery states stay as they are.")
@click.option("--fail", is_flag=True, help="Make them FAILURE with WorkerLostError, so that whoever waits hears of it, and mark them.")
@click.option(
    "--grace", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help=f"Silence that is needed.  [default: {GRACE:g}]"
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def lost(ctx: click.Context, mark: bool, fail: bool, grace: float | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """List the tasks that will not go on by themselves, for all that is known, and say why. Exit code 1 if there are any.

    \b
    That is: never received, though a live worker should have; expired, and nobody has said so; with a worker that is gone or
    was started anew; running for longer than their time limit; chords of which nothing is left to wait for, or only what is
    lost or was never sent. One that goes on after all is simply not lost. What they fail with --fail calls error callbacks
    only as `celery -A proj journal lost --fail`.

    \b
    celery-journal lost --mark
    """
    target = ctx.obj
    silence = target.options.lost_grace if grace is None else grace
    verb = "fail" if fail else "mark"
    with target.connect() as connection:
        check_version(connection, target.schema)
        found = find_lost(connection, silence, target.schema)
        chosen = [one for one in found if one.task_id is not None and (fail or not one.marked)] if mark or fail else []
        if as_json and chosen and not (yes or dry_run):
            raise click.UsageError("--json asks nobody; say --yes or --dry-run as well")
        if not as_json:
            _print(found)
        done: list[str] = []
        if chosen and dry_run:
            done.append(f"would {verb} {counted(len(chosen), 'task')}")
        elif chosen and (yes or click.confirm(f"{verb} {counted(len(chosen), 'task')}?", err=True)):
            marked = mark_lost(connection, chosen, Journal(target.schema), Emitter())
            done.append(f"marked {counted(len(marked), 'task')}")
            if fail:
                done.append(f"failed {counted(_fail(target, [*(one for one in chosen if one.marked), *marked]), 'task')}")
    if as_json:
        print_json(_as_object(one) for one in found)
    else:
        for line in done:
            click.echo(line)
    if found:
        ctx.exit(1)


def _fail(target: Any, chosen: list[Lost]) -> int:
    """Fail them, and return how many that were; the bodies of chords last, because most end with their members."""
    from celery_journal.consumers.failing import fail_lost

    backend = target.backend
    try:
        return sum(fail_lost(backend, one) for one in sorted(chosen, key=lambda one: one.is_body))
    except BackendError as exc:
        raise Failure(str(exc), 3) from exc
    finally:
        if target.app is None:
            backend.database.close()


def _as_object(one: Lost) -> dict[str, Any]:
    return {
        "task_id": one.task_id,
        "name": one.name,
        "state": one.state,
        "cause": one.cause,
        "reason": one.reason,
        "worker": one.worker,
        "queue": one.queue,
        "group_id": one.group_id,
        "body_of": one.body_of,
        "attempt": one.attempt,
        "date_sent": one.date_sent and one.date_sent.astimezone(UTC).isoformat(),
        "last_heard_of": one.recorded_at and one.recorded_at.astimezone(UTC).isoformat(),
        "marked": one.marked,
    }


def _print(found: list[Lost]) -> None:
    if not found:
        click.echo("no task is lost")
        return
    if not sys.stdout.isatty():
        for one in found:
            marked = " (marked)" if one.marked else ""
            click.echo(f"{shown(one.task_id or one.group_id)}: {shown(one.name or '')} {one.state}: {shown(one.reason)}{marked}")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("task", "name", "state", "silent for", "reason", "marked"):
        table.add_column(heading, overflow="fold")
    for one in found:
        silent = duration(datetime.now(UTC) - one.recorded_at) if one.recorded_at else ""
        cells = (one.task_id or one.group_id, one.name or "", one.state, silent, one.reason, "yes" if one.marked else "")
        table.add_row(*(Text(shown(cell)) for cell in cells))
    Console().print(table)
