"""The command that tells what happened to a task, one thing after the other."""

from __future__ import annotations

import itertools
import sys
from datetime import UTC, timedelta

import click
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from celery_journal.consumers.chronicle import Chronicle, Line
from celery_journal.consumers.words import duration, shown
from celery_journal.journal import check_version
from celery_journal.projections import TaskAttempt

from .ids import whole_id
from .output import Column, Output, console, output_options
from .styles import style_of

#: How wide the bars are all together, at most; and the narrowest terminal that has room for any.
WIDTH, ROOM = 30, 60

#: A full cell, and what is less than one.
_FULL, _PARTS = "█", " ▏▎▍▌▋▊▉"


def _what(line: Line) -> str:
    return line.transition.kind + (f" {line.times:,} times" if line.times > 1 else "")


COLUMNS = (
    Column("at", lambda line: f"{line.transition.told_at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]),
    Column("after", lambda line: duration(line.after), justify="right"),
    Column("attempt", lambda line: line.transition.attempt, justify="right"),
    Column("what", _what),
    Column("worker", lambda line: line.transition.worker),
    Column("told by", lambda line: ", ".join(line.transition.witnesses)),
    Column("remark", lambda line: line.remark),
)


@click.command("history")
@click.argument("subject", metavar="ID")
@output_options
@click.pass_context
def history(ctx: click.Context, subject: str, output: Output) -> None:
    """Tell what happened to a task: each transition, who has told it, what people did, and whose clock is wrong.

    On a terminal the waits between are drawn to scale. Also of a group, a chord or a worker, and of what has left the views. Times are
    in UTC, corrected by the clock of the database where a clock is wrong. Exit code 1 if the journal never heard of it.

    \b
    celery-journal history 2f1c6c3a-2c3c-4a77-a8a8-8b6a4e6f5b0e
    """
    with ctx.obj.connect() as connection:
        check_version(connection, ctx.obj.schema)
        subject = whole_id(connection, ctx.obj.schema, subject)
        told = Chronicle.of(connection, subject, ctx.obj.schema)
        attempts = TaskAttempt.of(connection, subject, ctx.obj.schema)
    if not told.lines and not output.is_data:
        click.echo(f"nothing was ever heard of {shown(subject)}")
    elif output.is_data or not sys.stdout.isatty():
        output.rows(told.lines, COLUMNS, lambda line: line.as_dict())
    else:
        _draw(told, attempts)
    if not told.lines:
        ctx.exit(1)


def _draw(told: Chronicle, attempts: list[TaskAttempt]) -> None:
    printer = console()
    first = told.lines[0].transition.told_at
    printer.print(Text(f"{shown(told.id)}, from {first.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC", style="bold"))
    table = Table(box=None, pad_edge=False, show_header=False)
    there_is_room = [True, printer.width >= ROOM, printer.width >= ROOM, True, True]
    for justify, no_wrap in itertools.compress(_LAYOUT, there_is_room):
        table.add_column(justify=justify, no_wrap=no_wrap, overflow="fold")
    width = max(min(printer.width // 5, WIDTH), 8)
    rows = [_cells(line, told.length, width) for line in told.lines]
    if told.is_open:
        rows.append((Text(f"+{duration(told.length)}", style="dim"), Text(), Text(), Text("now", style="dim"), Text()))
    for row in rows:
        table.add_row(*itertools.compress(row, there_is_room))
    printer.print(table)
    for run in attempts:
        parts = [
            run.queue_wait is not None and f"waited {duration(run.queue_wait)}{f' in {run.queue}' if run.queue else ''}",
            run.run_time is not None and f"ran {duration(run.run_time)}",
        ]
        if any(parts):
            printer.print(Text(shown(f"attempt {run.attempt}: {', '.join(part for part in parts if part)}"), style="dim"), soft_wrap=True)


#: After how long, until the next, the bar, what, and what there is to remark: how each is justified, and whether it is kept on one line.
_LAYOUT: tuple[tuple[JustifyMethod, bool], ...] = (("right", True), ("right", True), ("left", True), ("left", True), ("left", False))


def _cells(line: Line, length: timedelta, width: int) -> tuple[Text, ...]:
    one = line.transition
    style = style_of(one.state)
    about = [one.worker and f"on {one.worker}", one.witnesses and f"told by {', '.join(one.witnesses)}"]
    remark = Text(shown(line.remark))
    remark.append(f"{'  ' if line.remark else ''}{shown(' '.join(part for part in about if part))}", style="dim")
    return (
        Text(f"+{duration(line.after)}", style="dim"),
        Text("" if line.until_next is None else duration(line.until_next)),
        Text(bar(line.after, line.until_next or timedelta(0), length, width), style=style),
        Text(shown(f"{one.attempt} {_what(line)}"), style=style),
        remark,
    )


def bar(start: timedelta, length: timedelta, whole: timedelta, width: int) -> str:
    """Return the bar of a span inside a whole one, to an eighth of a character; what is shorter, or a moment, is seen all the same."""
    eighths = 8 * width
    unit = whole / eighths if whole else timedelta(1)
    begin = min(round(start / unit), eighths - 1)
    end = min(round((start + length) / unit), eighths)
    cells = begin // 8  # blocks fill from the left, so that a bar begins with its cell
    full, part = divmod(max(end - cells * 8, 1) if length else 1, 8)
    return f"{' ' * cells + _FULL * full + (_PARTS[part] if part else ''):<{width}}"
