"""The command that shows the log as it grows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC
from functools import partial
from typing import Any

import click
from rich.text import Text

from celery_journal.consumers.chronicle import remark_on
from celery_journal.consumers.contents import LINE, cut
from celery_journal.consumers.tail import LOOKED_THROUGH, Found, Tail
from celery_journal.consumers.words import shown
from celery_journal.journal import Connection, RecordedEvent
from celery_journal.journal.command import command
from celery_journal.projections import Q

from .interrupts import Interruption, until_interrupted
from .lasting import LastingConnection
from .output import Output, console, output_options
from .searching import Searching, words_argument
from .styles import style_of

#: Seconds between two looks at the log.
PAUSE = 0.5


@click.command("tail", cls=Searching)
@words_argument
@click.option("--lines", "-n", default=10, show_default=True, type=click.IntRange(min=0), help="Facts from the end of the log.")
@click.option("--follow", "-f", is_flag=True, help="Go on with what is added, until Ctrl-C.")
@output_options
@click.pass_context
def tail(ctx: click.Context, condition: Q, lines: int, follow: bool, output: Output) -> None:
    """Show the end of the log, and with --follow what is added to it: all facts, or those about the tasks that the query words find.

    A fact shows when every transaction that began before it has ended, so that none is ever skipped. When the database goes away,
    --follow says so, and goes on where it was when it is back.

    \b
    celery-journal tail --follow state:FAILURE
    """
    tail_of = partial(Tail, schema=ctx.obj.schema, condition=condition if condition.children else None)
    with closing(LastingConnection(ctx.obj, _say)) as lasting, until_interrupted() as interruption:
        facts = _facts(lasting, tail_of, lines, follow, interruption)
        if output.is_data:
            output.objects(_as_object(recorded) for recorded in facts)
        elif sys.stdout.isatty():
            printer = console()
            for recorded in facts:
                printer.print(_line(recorded), soft_wrap=True)
        else:
            for recorded in facts:
                click.echo("\t".join(shown("" if value is None else value) for value in _cells(recorded)))


def _say(text: str) -> None:
    click.echo(text, err=True)


def _facts(
    lasting: LastingConnection, tail_of: Callable[[Connection], Tail], lines: int, follow: bool, interruption: Interruption
) -> Iterator[RecordedEvent]:
    """Yield the facts; an interruption is their end, so that what is printed of them is whole."""

    def more(connection: Connection) -> Found:
        return tail_of(connection).after(found.place)

    try:
        with interruption.waiting():
            found = tail_of(lasting.connection).last(lines)
        if not found.is_all:
            _say(f"only the last {LOOKED_THROUGH:,} facts were looked through; for older tasks: {command('list')}")
        while True:
            for recorded in found.facts:
                if interruption.is_asked_for:
                    return
                yield recorded
            if not follow:
                return
            with interruption.waiting():
                time.sleep(PAUSE if found.is_all else 0)
                found = lasting.ask(more)
    except KeyboardInterrupt:
        return


def _cells(recorded: RecordedEvent) -> tuple[object, ...]:
    event = recorded.event
    at = f"{event.occurred_at.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
    return (
        at,
        event.kind,
        event.stream,
        getattr(event, "name", None),
        getattr(event, "worker", None),
        cut(remark_on(event, recorded.recorded_by), LINE),
    )


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
        "recorded_by": recorded.recorded_by,
        "remark": remark_on(event, recorded.recorded_by),
    }
