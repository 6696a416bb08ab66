"""The command that shows everything about one id."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click
from celery import states
from rich.cells import cell_len
from rich.text import Text

from celery_journal.consumers.chronicle import remark_on
from celery_journal.consumers.contents import Unreadable
from celery_journal.consumers.dossier import Dossier, flat, raised_by, values_of
from celery_journal.consumers.words import duration, shown
from celery_journal.journal import check_version
from celery_journal.journal.command import command
from celery_journal.projections import ChordPart, TaskAttempt, TaskResult

from .ids import whole_id
from .output import INDENT, Output, as_json, console, output_options, say, wrapped
from .styles import style_of

#: A heading, and what stands below it by name.
Section = tuple[str, Iterable[tuple[str, object]]]

#: Fields that are told elsewhere, or decoded.
_DECODED = {"args", "kwargs", "result", "meta", "task_args", "task_kwargs", "traceback"}

#: Members that are named.
NAMED = 20

#: Characters of a value, a result or a traceback that are shown.
LONG = 2000

#: The heading of what is cut in front: what has happened stands at its end.
TRACEBACK = "traceback"

#: What is said of the rest.
LEFT_OUT = "({:,} characters are left out; to show all: --full)"

#: What is shown as it was given, and not between words.
VERBATIM = {"arguments", "result", TRACEBACK, "meta", "message"}

#: Columns that a value needs beside its label.
ROOM = 50

#: The states of what has gone wrong, the worst first.
_WRONG = (states.FAILURE, states.REVOKED, states.REJECTED, states.RETRY)

T = TypeVar("T", TaskResult, ChordPart)


@click.command("show")
@click.argument("subject", metavar="ID")
@click.option("--full", is_flag=True, help=f"Show values, results and tracebacks to their end, and not {LONG:,} characters of each.")
@output_options
@click.pass_context
def show(ctx: click.Context, subject: str, full: bool, output: Output) -> None:
    """Show all that is known of a task: why it is where it is, arguments, result, traceback, message, runs.

    Also of a group, whose failures come first, a chord or a worker. The beginning of an id does. Times are in UTC. JSON is never cut.
    Exit code 1 if the journal never heard of it.

    \b
    celery-journal show 2f1c6c3a-2c3c-4a77-a8a8-8b6a4e6f5b0e
    """
    from celery_journal.consumers.explain import explain

    with ctx.obj.connect() as connection:
        check_version(connection, ctx.obj.schema)
        subject = whole_id(connection, ctx.obj.schema, subject)
        dossier = Dossier.of(connection, subject, ctx.obj.schema)
        told = None if output.is_data or not dossier.is_known else explain(connection, subject, ctx.obj.schema)
    if output.is_data:
        output.object(dossier.as_dict())
    elif dossier.is_known:
        # Of a group that was not saved, and whose members have ended, only they tell.
        sentences = told.lines if told and told.kind != "unknown" else ()
        _print(sentences, _sections(dossier), None if full else LONG)
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
    if found.group:
        yield f"group {found.id}", _fields(found.group.as_dict(), {"group_id", "members", "result", "content_type", "content_encoding"})
    if found.members:
        yield f"members: {_told(found.tally)}", _named(found.members, found.tally, _state)
    if found.parts:
        tally = Counter(part.status for part in found.parts)
        yield f"returned: {_told(tally)}", _named(found.parts, tally, lambda part: _with_error(part.status, part))
    if found.worker:
        state = "alive" if found.worker.alive else "offline" if found.worker.offline else "silent"
        yield f"worker {found.id} {state}", _fields(found.worker.as_dict(), {"worker", "alive", "offline"})
        yield f"has at the moment ({len(found.running):,})", _named(found.running, Counter(one.status for one in found.running), _state)
    yield "people", ((_written(one.recorded_at), remark_on(act, one.recorded_by)) for one, act in found.actions)


def _of_task(found: Dossier, task: TaskResult) -> Iterator[Section]:
    values = values_of(task)
    error = [("error", error)] if (error := raised_by(task)) else []
    yield f"task {found.id} {task.status}", [*error, *_fields(task.as_dict(), {"task_id", "status", *_DECODED})]
    lineage = [("replay of", found.lineage.replay_of), *(("replayed as", new) for new in found.lineage.replayed_as)]
    yield "replays", ((name, value) for name, value in lineage if value is not None)
    kwargs = values["kwargs"]
    named = kwargs.items() if isinstance(kwargs, dict) else [_unplaced("**", kwargs)] if kwargs is not None else []
    args = values["args"]
    placed = enumerate(args) if isinstance(args, list | tuple) else [_unplaced("*", args)] if args is not None else []
    yield "arguments", ((str(name), _as_written(value)) for name, value in (*placed, *named))
    yield "result", [("", line) for line in _lines(values["result"])] if task.result is not None else []
    yield TRACEBACK, (("", line) for line in (task.traceback or "").splitlines())
    yield "meta", flat(found.meta())
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
    state = f"{task.status}, lost:" if task.lost_reason and task.date_done is None else task.status
    return _with_error(" ".join(filter(None, (state, task.task_name, task.worker and f"on {task.worker}"))), task)


def _with_error(told: str, one: TaskResult | ChordPart) -> str:
    return ": ".join(filter(None, (told, raised_by(one))))


def _named(of: Sequence[T], tally: Counter[str], tell: Callable[[T], str]) -> Iterator[tuple[str, str]]:
    """Yield those that there is room for, what has gone wrong first, and how many are left out."""
    named = sorted(of, key=lambda one: _rank(one.status))[:NAMED]
    yield from ((one.task_id, tell(one)) for one in named)
    if (left := tally.total() - len(named)) > 0:
        yield "", f"and {left:,} more"


def _told(tally: Counter[str]) -> str:
    """Return how many there are of each state, what has gone wrong first."""
    return ", ".join(f"{tally[state]:,} {state}" for state in sorted(tally, key=_rank))


def _rank(state: str) -> int:
    """Return the place of what has failed, was revoked, has not ended, or has succeeded, in that order."""
    if state == states.SUCCESS:
        return len(_WRONG) + 1
    return _WRONG.index(state) if state in _WRONG else len(_WRONG)


def _fields(fields: dict[str, Any], without: set[str]) -> Iterator[tuple[str, object]]:
    return ((name, value) for name, value in fields.items() if name not in without and value not in (None, ()))


def _lines(value: Any) -> list[str]:
    return str(value).splitlines() if isinstance(value, Unreadable) else as_json(value, indent=2, ensure_ascii=False).splitlines()


def _as_written(value: object) -> str:
    return str(value) if isinstance(value, Unreadable) else repr(value)


def _written(value: object) -> str:
    match value:
        case datetime():
            return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
        case timedelta():
            return duration(value)
        case list() | tuple() | dict():
            return ", ".join(map(str, value)) if all(isinstance(one, str) for one in value) else as_json(value, ensure_ascii=False)
        case _:
            return str(value)


def _print(told: Iterable[str], sections: Iterable[Section], most: int | None) -> None:
    """Print the sections, what there is to say of it all below the first heading; of what is longer than `most`, so much."""
    for heading, rows in sections:
        lines = [(shown(name), _written(value)) for name, value in rows]
        if not lines:
            continue
        style = style_of(heading.rpartition(" ")[2]) if heading.startswith("task ") else ""
        say(Text(shown(heading), style=f"bold {style}"), rest=INDENT)
        for sentence in told:
            say(sentence, begin=INDENT)
        told = ()
        width = max(len(name) for name, _ in lines)
        for name, value in _cut(heading, lines, most):
            _print_value(f"{INDENT}{name:<{width}}{INDENT}" if width else INDENT, shown(value), as_it_is=heading in VERBATIM)


def _print_value(label: str, value: str, *, as_it_is: bool) -> None:
    """Print a value behind its label, or below where that leaves little room; as it is, or between words."""
    printer = console()
    if as_it_is or not sys.stdout.isatty():
        printer.print(Text.assemble((label, "dim"), value), soft_wrap=True)
        return
    is_beside = cell_len(label) + min(cell_len(value), ROOM) <= printer.width
    if not is_beside:
        printer.print(Text(label.rstrip(), style="dim"), soft_wrap=True)
    indent = " " * cell_len(label) if is_beside else 2 * INDENT
    lines = wrapped(Text(value), printer.width, indent, indent)
    if is_beside:
        lines[0] = Text.assemble((label, "dim"), lines[0][cell_len(label) :])
    for line in lines:
        printer.print(line, soft_wrap=True)


def _cut(heading: str, lines: list[tuple[str, str]], most: int | None) -> list[tuple[str, str]]:
    """Return the lines, with a note of how much is left out: of each value, or of many lines that are one; of a traceback its beginning."""
    if most is None:
        return lines
    if any(name for name, _ in lines):
        return [(name, value if len(value) <= most else f"{value[:most]}… {LEFT_OUT.format(len(value) - most)}") for name, value in lines]
    whole = "\n".join(value for _, value in lines)
    if len(whole) <= most:
        return lines
    kept = whole[-most:].partition("\n")[2] if heading == TRACEBACK else whole[:most]
    note = ("", LEFT_OUT.format(len(whole) - len(kept)))
    told = [("", line) for line in kept.splitlines()]
    return [note, *told] if heading == TRACEBACK else [*told, note]
