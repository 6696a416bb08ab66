"""The command that shows the log as it grows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import click
from rich.text import Text

from celery_journal.consumers.chronicle import remark_on
from celery_journal.consumers.contents import LINE, cut
from celery_journal.consumers.tail import Tail
from celery_journal.consumers.words import shown
from celery_journal.journal import RecordedEvent, check_version
from celery_journal.projections import Q

from .interrupts import until_interrupted
from .output import Output, console, output_options
from .searching import Searching, words_argument
from .styles import style_of


@click.command("tail", cls=Searching)
@words_argument
@click.option("--lines", "-n", default=10, show_default=True, type=click.IntRange(min=0), help="Facts from the end of the log.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@output_options
@click.pass_context
def tail(ctx: click.Context, condition: Q, lines: int, follow: bool, output: Output) -> None:
    """Show the end of the log, and with --follow what is added to it: all facts, or those about the tasks that the query words find.

    A fact shows when every transaction that began before it has ended, so that none is ever skipped.

    \b
    celery-journal tail --follow state:FAILURE
    """
    with ctx.obj.connect() as connection, until_interrupted(connection):
        check_version(connection, ctx.obj.schema)
        facts = _facts(Tail(connection, ctx.obj.schema, condition if condition.children else None), lines, follow)
        if output.is_data:
            output.objects(_as_object(recorded) for recorded in facts)
        elif sys.stdout.isatty():
            printer = console()
            for recorded in facts:
                printer.print(_line(recorded), soft_wrap=True)
        else:
            for recorded in facts:
                click.echo("\t".join(shown("" if value is None else value) for value in _cells(recorded)))


def _facts(tail: Tail, lines: int, follow: bool) -> Iterator[RecordedEvent]:
    """Yield the facts; Ctrl-C is their end, so that what is printed of them is whole."""
    with until_interrupted(tail.connection):
        found, place = tail.last(lines)
        yield from found
        if follow:
            yield from tail.after(place)


def _cells(recorded: RecordedEvent) -> tuple[object, ...]:
    event = recorded.event
    at = f"{event.occurred_at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
    return at, event.kind, event.stream, getattr(event, "name", None), getattr(event, "worker", None), cut(remark_on(event), LINE)


def _line(recorded: RecordedEvent) -> Text:
    at, kind, stream, name, worker, remark = ("" if value is None else shown(value) for value in _cells(recorded))
    state = getattr(recorded.event, "state", None)
    about = f"on {worker}" if worker else ""
    return Text.assemble(
        (f"{at}  ", "dim"),
        (f"{kind:<16}", style_of(state) if state else ""),
        f"  {stream}  ",
        (f"{name}  " if name else "", "bold"),
        f"{remark}  " if remark else "",
        (about, "dim"),
    )


def _as_object(recorded: RecordedEvent) -> dict[str, Any]:
    event = recorded.event
    names = ("name", "state", "worker", "queue", "root_id", "parent_id", "group_id", "task_id", "traceback")
    return {
        "transaction": recorded.transaction,
        "position": recorded.position,
        "event_id": event.event_id,
        "occurred_at": event.occurred_at,
        "recorded_at": recorded.recorded_at,
        "stream": event.stream,
        "kind": event.kind,
        "attempt": event.attempt,
        "source": event.source,
        **{name: getattr(event, name) for name in names if getattr(event, name, None) is not None},
        "remark": remark_on(event),
    }
