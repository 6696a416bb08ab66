"""The command that shows everything about one id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from celery import states
from rich.text import Text

from celery_journal.consumers.chronicle import remark_on
from celery_journal.consumers.contents import Unreadable
from celery_journal.consumers.dossier import Dossier, flat
from celery_journal.consumers.raised import error_of
from celery_journal.consumers.words import duration, shown
from celery_journal.journal import check_version
from celery_journal.journal.command import command
from celery_journal.projections import ChordPart, TaskAttempt, TaskResult

from .ids import whole_id
from .output import Output, as_json, console, output_options
from .styles import style_of

#: A heading, and what stands below it by name.
Section = tuple[str, Iterable[tuple[str, object]]]

#: Fields that are told elsewhere, or decoded.
_DECODED = {"args", "kwargs", "result", "meta", "task_args", "task_kwargs", "traceback"}

#: Members that are named.
NAMED = 20


@click.command("show")
@click.argument("subject", metavar="ID")
@output_options
@click.pass_context
def show(ctx: click.Context, subject: str, output: Output) -> None:
    """Show all that is known of a task: arguments, result, traceback, message, runs; also of a group, a chord or a worker.

    The beginning of an id does. Times are in UTC. Exit code 1 if the journal never heard of it.

    \b
    celery-journal show 2f1c6c3a-2c3c-4a77-a8a8-8b6a4e6f5b0e
    """
    with ctx.obj.connect() as connection:
        check_version(connection, ctx.obj.schema)
        subject = whole_id(connection, ctx.obj.schema, subject)
        dossier = Dossier.of(connection, subject, ctx.obj.schema)
    if output.is_data:
        output.object(dossier.as_dict())
    elif dossier.is_known:
        _print(_sections(dossier))
    else:
        click.echo(f"nothing was ever heard of {shown(subject)}: neither a task, nor a group, a chord or a worker has that id")
    if not dossier.is_known:
        ctx.exit(1)


def _sections(found: Dossier) -> Iterator[Section]:
    if found.task:
        yield from _of_task(found, found.task)
    elif found.events:
        kinds = ", ".join(dict.fromkeys(recorded.event.kind for recorded in found.events))
        yield f"{found.id}", [("in the log", kinds), ("in the views", f"nothing; {command('history')} tells what there was")]
    if found.chord:
        yield f"chord {found.id} {found.chord.state}", _fields(found.chord.as_dict(), {"group_id", "state", "sub_tasks"})
        yield "returned", ((part.task_id, _with_error(part.status, part)) for part in found.parts[:NAMED])
    if found.group:
        yield f"group {found.id}", _fields(found.group.as_dict(), {"group_id", "members", "result", "content_type", "content_encoding"})
    if found.members:
        yield f"members ({len(found.members):,})", ((task.task_id, _state(task)) for task in found.members[:NAMED])
    if found.worker:
        state = "alive" if found.worker.alive else "offline" if found.worker.offline else "silent"
        yield f"worker {found.id} {state}", _fields(found.worker.as_dict(), {"worker", "alive", "offline"})
        yield f"has at the moment ({len(found.running):,})", ((task.task_id, _state(task)) for task in found.running[:NAMED])
    yield "people", ((_written(one.recorded_at), remark_on(act, one.recorded_by)) for one, act in found.actions)


def _of_task(found: Dossier, task: TaskResult) -> Iterator[Section]:
    values = found.values()
    error = [("error", _error(task))] if _error(task) else []
    yield f"task {found.id} {task.status}", [*error, *_fields(task.as_dict(), {"task_id", "status", *_DECODED})]
    lineage = [("replay of", found.lineage.replay_of), *(("replayed as", new) for new in found.lineage.replayed_as)]
    yield "replays", ((name, value) for name, value in lineage if value is not None)
    kwargs = values["kwargs"]
    named = kwargs.items() if isinstance(kwargs, dict) else [_unplaced("**", kwargs)] if kwargs is not None else []
    args = values["args"]
    placed = enumerate(args) if isinstance(args, list | tuple) else [_unplaced("*", args)] if args is not None else []
    yield "arguments", ((str(name), _as_written(value)) for name, value in (*placed, *named))
    yield "result", [("", line) for line in _lines(values["result"])] if task.result is not None else []
    yield "traceback", (("", line) for line in (task.traceback or "").splitlines())
    yield "meta", flat(values["meta"])
    yield "message", flat(found.message())
    yield "runs", ((f"attempt {run.attempt}", _run(run)) for run in found.attempts)


def _unplaced(name: str, value: object) -> tuple[str, object]:
    """Return what stands for all arguments; where it is a text, only what they look like is known."""
    is_text = isinstance(value, str) and not isinstance(value, Unreadable)
    return (f"{name} as text", Unreadable(value)) if is_text else (name, value)


def _run(run: TaskAttempt) -> str:
    parts = [
        run.status,
        run.worker and f"on {run.worker}",
        run.queue and f"from {run.queue}",
        run.queue_wait is not None and f"waited {duration(run.queue_wait)}",
        run.run_time is not None and f"ran {duration(run.run_time)}",
        run.date_started and f"started {_written(run.date_started)}",
    ]
    return " ".join(part for part in parts if part)


def _state(task: TaskResult) -> str:
    return _with_error(" ".join(filter(None, (task.status, task.task_name, task.worker and f"on {task.worker}"))), task)


def _with_error(told: str, one: TaskResult | ChordPart) -> str:
    return ": ".join(filter(None, (told, _error(one))))


def _error(one: TaskResult | ChordPart) -> str | None:
    return error_of(one) if one.status in states.EXCEPTION_STATES else None


def _fields(fields: dict[str, Any], without: set[str]) -> Iterator[tuple[str, object]]:
    return ((name, value) for name, value in fields.items() if name not in without and value not in (None, ()))


def _lines(value: Any) -> list[str]:
    return str(value).splitlines() if isinstance(value, Unreadable) else as_json(value, indent=2).splitlines()


def _as_written(value: object) -> str:
    return str(value) if isinstance(value, Unreadable) else repr(value)


def _written(value: object) -> str:
    match value:
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
        case timedelta():
            return duration(value)
        case list() | tuple() | dict():
            return ", ".join(map(str, value)) if all(isinstance(one, str) for one in value) else as_json(value)
        case _:
            return str(value)


def _print(sections: Iterable[Section]) -> None:
    printer = console()
    for heading, rows in sections:
        told = [(name, _written(value)) for name, value in rows]
        if not told:
            continue
        printer.print(Text(shown(heading), style=f"bold {style_of(heading.rpartition(' ')[2]) if heading.startswith('task ') else ''}"))
        width = max(len(name) for name, _ in told)
        for name, value in told:
            label = f"  {shown(name):<{width}}  " if width else "  "
            printer.print(Text.assemble((label, "dim"), shown(value)), soft_wrap=True)
