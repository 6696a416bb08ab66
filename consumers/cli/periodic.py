"""The commands about the periodic tasks of an app."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click
from celery.beat import ScheduleEntry, Scheduler, SchedulingError

from celery_journal.consumers.backend.admission import check_rights
from celery_journal.consumers.capture.control import account
from celery_journal.consumers.periodic import UnknownScheduler, run_now, scheduler_of
from celery_journal.consumers.words import counted, listed, shown
from celery_journal.journal import Emitter, Journal, check_version
from celery_journal.journal.events import OperatorActed

from .choosing import broker_of
from .failure import Failure
from .output import Column, Output, confirm, confirming_options, output_options
from .plan import broker_place


@click.group("periodic")
def periodic() -> None:
    """Show the periodic tasks of an app, as its beat knows them, and run one now.

    \b
    celery -A shop journal periodic list
    """


@periodic.command("list")
@output_options
@click.pass_obj
def list_command(target: Any, output: Output) -> None:
    """Show which there are: of `beat_schedule`, or what the app's `beat_scheduler` has.

    \b
    celery -A shop journal periodic list
    """
    entries = _entries(_scheduler(target))
    columns = [*_COLUMNS, Column("schedule", _schedule), Column("queue", lambda entry: entry.options.get("queue"))]
    output.rows((entries[name] for name in sorted(entries)), columns, _as_object, nothing="this app has no periodic tasks")


@periodic.command("run")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--reason", help="Why, for the log.")
@confirming_options
@output_options
@click.pass_obj
def run_command(target: Any, names: tuple[str, ...], reason: str | None, yes: bool, dry_run: bool, output: Output) -> None:
    """Send periodic tasks now, as beat would; when it sends them next stays as it is. Who ran one and why is in the log.

    \b
    celery -A shop journal periodic run nightly-report --reason "the disk was full at night"
    """
    scheduler = _scheduler(target)
    entries = _chosen(scheduler, names)
    ids: dict[str, str] = {}
    columns = [*_COLUMNS, Column("task id", lambda entry: ids.get(entry.name, "would be sent"), whole=True)]
    named = listed([shown(entry.name) for entry in entries])
    question = f"run {counted(len(entries), 'periodic task')} now, by {broker_place(target.app)}: {named}?"
    if confirm(question, output, yes=yes, dry_run=dry_run):
        running = _run(target, scheduler, entries, reason, ids)
    elif dry_run:
        running = iter(entries)
    else:
        return
    output.rows(running, columns, lambda entry: {**_as_object(entry), "task_id": ids.get(entry.name)})


def _run(
    target: Any, scheduler: Scheduler, entries: Sequence[ScheduleEntry], reason: str | None, ids: dict[str, str]
) -> Iterator[ScheduleEntry]:
    """Send them one after the other, with the fact of who did so; yield each once it is sent and its id stands in `ids`."""
    journal, emitter = Journal(target.schema), Emitter()
    try:
        with target.connect() as connection:
            check_version(connection, target.schema)
            check_rights(connection, target.schema)
            with broker_of(target.app) as broker:
                producer = target.app.amqp.Producer(broker)
                for entry in entries:
                    task_id = ids[entry.name] = run_now(scheduler, entry, producer)
                    acted = emitter.emit(OperatorActed, task_id, action="run", author=account(), reason=reason, source="operator")
                    journal.append(connection, acted)
                    yield entry
    except SchedulingError as exc:
        raise Failure(f"{shown(exc)}; it and those after it were not sent", 1) from exc
    finally:
        target.backend.database.close()


def _scheduler(target: Any) -> Scheduler:
    if target.app is None:
        raise click.UsageError("periodic tasks are those of an app; run it as: celery -A proj journal periodic ...")
    try:
        return scheduler_of(target.app)
    except UnknownScheduler as exc:
        raise click.UsageError(shown(exc)) from exc


def _entries(scheduler: Scheduler) -> dict[str, ScheduleEntry]:
    return dict(scheduler.schedule)


def _chosen(scheduler: Scheduler, names: Sequence[str]) -> list[ScheduleEntry]:
    entries = _entries(scheduler)
    unknown = [name for name in names if name not in entries]
    if unknown:
        there = ", ".join(shown(name) for name in sorted(entries)) or "none"
        raise Failure(f"beat knows no periodic task {', '.join(shown(name) for name in unknown)}; there are: {there}", 1)
    return [entries[name] for name in dict.fromkeys(names)]


def _schedule(entry: ScheduleEntry) -> str:
    """Return when beat sends it, as Celery's schedules say it: crontab: 0 4 * * * (m/h/dM/MY/d)."""
    return str(entry.schedule).strip("<>")


def _as_object(entry: ScheduleEntry) -> dict[str, Any]:
    return {"name": entry.name, "task": entry.task, "schedule": _schedule(entry), "queue": entry.options.get("queue")}


_COLUMNS = [Column("name", lambda entry: entry.name, whole=True), Column("task", lambda entry: entry.task)]
