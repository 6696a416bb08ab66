"""The command that tells what happened to a task, one thing after the other."""

from __future__ import annotations

import sys
from datetime import UTC, timedelta

import click
from rich.text import Text

from celery_journal.consumers.chronicle import Chronicle, Line
from celery_journal.consumers.words import duration, shown
from celery_journal.journal import check_version
from celery_journal.projections import TaskAttempt

from .ids import whole_id
from .output import INDENT, NARROW, Column, Output, Record, console, output_options, records, say, table
from .styles import style_of

#: How wide the bars are all together, at most.
WIDTH = 30

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
    heading = f"{shown(told.id)}, from {first.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"
    say(Text(heading, style="bold"), rest=INDENT)
    width = max(min(printer.width // 5, WIDTH), 8)
    rows: list[Line | None] = [*told.lines, *([None] if told.is_open else [])]
    columns = (
        Column("after", lambda line: f"+{duration(line.after if line else told.length)}", "right", lambda _: "dim"),
        Column("until the next", lambda line: None if line is None or line.until_next is None else duration(line.until_next), "right"),
        Column("bar", lambda line: line and bar(line.after, line.until_next or timedelta(0), told.length, width), style=_style, whole=True),
        Column("what", lambda line: f"{line.transition.attempt} {_what(line)}" if line else "now", style=_style, whole=True),
    )
    remark = Column("remark", lambda line: line and _remark(line))
    if printer.width < NARROW:
        for line in records(rows, Record(columns, prose=(remark,)), printer.width):
            printer.print(line, soft_wrap=True)
    else:
        printer.print(table((*columns, remark), rows, show_header=False))
    for run in attempts:
        parts = [
            run.queue_wait is not None and f"waited {duration(run.queue_wait)}{f' in {run.queue}' if run.queue else ''}",
            run.run_time is not None and f"ran {duration(run.run_time)}",
        ]
        if any(parts):
            told_of_run = f"attempt {run.attempt}: {', '.join(part for part in parts if part)}"
            say(Text(shown(told_of_run), style="dim"), rest=INDENT)


def _style(line: Line | None) -> str:
    return style_of(line.transition.state) if line else "dim"


def _remark(line: Line) -> Text:
    one = line.transition
    about = [one.worker and f"on {one.worker}", one.witnesses and f"told by {', '.join(one.witnesses)}"]
    remark = Text(shown(line.remark))
    return remark.append(f"{'  ' if line.remark else ''}{shown(' '.join(part for part in about if part))}", style="dim")


def bar(start: timedelta, length: timedelta, whole: timedelta, width: int) -> str:
    """Return the bar of a span inside a whole one, to an eighth of a character; what is shorter, or a moment, is seen all the same."""
    eighths = 8 * width
    unit = whole / eighths if whole else timedelta(1)
    begin = min(round(start / unit), eighths - 1)
    end = min(round((start + length) / unit), eighths)
    cells = begin // 8  # blocks fill from the left, so that a bar begins with its cell
    full, part = divmod(max(end - cells * 8, 1) if length else 1, 8)
    return f"{' ' * cells + _FULL * full + (_PARTS[part] if part else ''):<{width}}"
