"""The commands that say what is broken now: on one screen, and of workers and queues in full."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import click
from rich.console import Group
from rich.text import Text

from celery_journal.consumers.clock import now_of
from celery_journal.consumers.spool import spool_of
from celery_journal.consumers.status import QueueStatus, Status, queues_of, status_of
from celery_journal.consumers.words import counted, duration, listed, moment, short, shown
from celery_journal.journal import check_version
from celery_journal.journal.command import command
from celery_journal.projections import Worker

from .output import INDENT, Column, Output, Record, console, output_options, table_options, wrapped
from .spans import Seconds
from .watching import keep_drawing

#: Errors and queues that the screen shows, the worst first.
LINES = 8

#: What the states of a worker are shown as.
STYLES = {"alive": "green", "gone": "bold red", "offline": "dim"}


def state_of(worker: Worker) -> str:
    """Return `alive`, `gone` (it stopped telling that it lives) or `offline` (it has said that it goes)."""
    return "alive" if worker.alive else "offline" if worker.offline else "gone"


QUEUES = (
    Column("queue", lambda one: one.queue or "(not told)"),
    Column("waiting", lambda one: f"{one.waiting:,}", "right"),
    Column("running", lambda one: f"{one.running:,}", "right"),
    Column("oldest", lambda one: "" if one.age is None else duration(one.age), "right"),
    Column("workers", lambda one: f"{one.workers:,}" if one.queue else "", "right", lambda one: "" if one.workers else "bold red"),
)

WORKERS = (
    Column("worker", lambda one: one.worker, whole=True),
    Column("state", state_of, style=lambda one: STYLES[state_of(one)]),
    Column("last heard of", lambda one: one.last_seen and moment(one.last_seen).removesuffix(" UTC")),
    Column("running", lambda one: one.active, "right"),
    Column("processes", lambda one: one.concurrency, "right"),
    Column("queues", lambda one: None if one.queues is None else ", ".join(one.queues)),
)

QUEUE_RECORD = Record(
    QUEUES[:1],
    (
        Column("", lambda one: f"{one.waiting:,} waiting"),
        Column("", lambda one: f"{one.running:,} running"),
        Column("", lambda one: one.age and f"the oldest for {duration(one.age)}"),
        Column("", lambda one: one.queue and counted(one.workers, "worker"), style=lambda one: "" if one.workers else "bold red"),
    ),
)

WORKER_RECORD = (
    Column("", lambda one: None if one.active is None else f"{one.active:,} running"),
    Column("", lambda one: None if one.concurrency is None else counted(one.concurrency, "process", "processes")),
    Column("", lambda one: None if one.queues is None else f"consumes {', '.join(one.queues)}"),
)


@click.command("status")
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C or `q`.")
@click.option("--interval", default=2.0, show_default=True, type=Seconds(0.2, 3600), help="Seconds from one look to the next.")
@output_options
@click.pass_context
def status(ctx: click.Context, watch: bool, interval: float, output: Output) -> None:
    """Say what is broken: workers that are gone, queues that no worker consumes, what is lost or stuck, and the errors of the last hour.

    Exit code 1 if anything is. Tasks that fail are no such thing: they are counted, with their errors.

    \b
    celery-journal status --watch
    """
    target = ctx.obj
    if watch:
        if output.is_data or not sys.stdout.isatty():
            raise click.UsageError("--watch draws on a terminal; without it the status is printed once")
        keep_drawing(target, interval, lambda connection: status_of(connection, target.schema, **_spooled(target)), _drawn)
        return
    with target.connect() as connection:
        check_version(connection, target.schema)
        found = status_of(connection, target.schema, **_spooled(target))
    if output.is_data:
        output.object(found.as_dict())
    else:
        _print(found)
    if found.problems:
        ctx.exit(1)


@click.command("queues")
@table_options
@click.pass_obj
def queues(target: Any, output: Output) -> None:
    """List the queues: what waits and runs, for how long the oldest should have been taken, and how many live workers consume it.

    Those that no worker consumes come first. What is lost is not counted.

    \b
    celery-journal queues --json
    """
    with target.connect() as connection:
        check_version(connection, target.schema)
        found = queues_of(connection, target.schema)
    output.rows(found, QUEUES, QueueStatus.as_dict, record=QUEUE_RECORD, nothing="nothing waits, and no worker tells of its queues")


@click.command("workers")
@click.option("--all", "also_offline", is_flag=True, help="Also those that have said that they go.")
@table_options
@click.pass_obj
def workers(target: Any, also_offline: bool, output: Output) -> None:
    """List the workers that are alive, and those that are gone without a word: what they run, and which queues they consume.

    \b
    celery-journal workers --all
    """
    with target.connect() as connection:
        check_version(connection, target.schema)
        found = [one for one in Worker.all(connection, target.schema) if also_offline or not one.offline]
        now = now_of(connection, target.schema)
    record = Record((*WORKERS[:2], Column("", lambda one: f"heard of {short(one.last_seen, now)}")), WORKER_RECORD)
    as_object = lambda one: {**one.as_dict(), "state": state_of(one)}  # noqa: E731
    output.rows(found, WORKERS, as_object, record=record, nothing="no worker has told of itself")


def _spooled(target: Any) -> dict[str, int]:
    """Return what waits on this machine; nothing where no spool can be read."""
    if target.options.spool != "":
        try:
            waits = spool_of(target.location, target.schema, target.options.spool).status()
        except (sqlite3.Error, OSError) as exc:
            click.echo(f"the spool cannot be read: {shown(exc)}", err=True)
        else:
            return {"spooled": waits.waiting, "refused": waits.refused}
    return {"spooled": 0, "refused": 0}


def _print(found: Status) -> None:
    printer = console()
    for line in _lines(found):
        if not sys.stdout.isatty():
            click.echo(line.plain)
            continue
        for part in _wrapped(line, printer.width):
            printer.print(part, soft_wrap=True)


def _drawn(found: Status) -> Group:
    width = console().width
    return Group(*(part for line in _lines(found) for part in _wrapped(line, width)))


def _wrapped(line: Text, width: int) -> list[Text]:
    """Return the line as lines of that width, parted between words; or its beginning, if it is to be one."""
    if not line.no_wrap:
        return wrapped(line, width, rest=INDENT)
    line.truncate(width, overflow=line.overflow)
    return [line]


def _lines(found: Status) -> Iterator[Text]:
    """Yield the lines of the screen: what is broken, and then what there is to see."""
    yield Text(f"{found.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC", style="dim")
    for problem in found.problems:
        yield Text(f"broken: {shown(problem)}", style="bold red")
    if not found.problems:
        yield Text("nothing is broken", style="green")
    alive = [worker.worker for worker in found.alive]
    yield Text(f"workers: {len(alive):,} alive{', ' if alive else ''}{shown(listed(alive))}")
    for one in found.queues[:LINES]:
        oldest = "" if one.age is None else f", the oldest for {duration(one.age)}"
        consumers = f"; {counted(one.workers, 'worker')}" if one.queue else ""
        yield Text(f"queue {shown(one.queue or '(not told)')}: {one.waiting:,} waiting{oldest}; {one.running:,} running{consumers}")
    if len(found.queues) > LINES:
        yield Text(f"and {counted(len(found.queues) - LINES, 'queue')} more: {command('queues')}", style="dim")
    settled = f"; {found.settled:,} more failed and {'is' if found.settled == 1 else 'are'} settled" if found.settled else ""
    yield Text(f"in the last hour: {found.ended:,} ended, {found.failed:,} of them failed{settled}")
    for group in found.errors[:LINES]:
        yield Text(f"  {group.count:,} {shown(group.error)}", no_wrap=True, overflow="ellipsis")
    if len(found.errors) > LINES:
        yield Text(f"  and {counted(len(found.errors) - LINES, 'error')} more: {command('errors')}", style="dim")
