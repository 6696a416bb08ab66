"""The command that shows what goes on at the moment."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC
from typing import Any

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from celery_journal.consumers.stats import Share, Snapshot, snapshot
from celery_journal.consumers.words import counted, duration, shown
from celery_journal.journal import Connection, check_version

from .interrupts import until_interrupted
from .lasting import LastingConnection
from .output import Output, console, output_options
from .spans import Seconds
from .styles import style_of

#: Lines of each table on a terminal.
LINES = 8

#: Seconds before the moment that count for the rates.
WINDOW = 60.0


@click.command("top")
@click.option("--interval", default=2.0, show_default=True, type=Seconds(0.2, 3600), help="Seconds from one look to the next.")
@click.option("--window", default=WINDOW, show_default=True, type=Seconds(1, 86400), help="Seconds that count for the rates.")
@click.option("--once", is_flag=True, help="Look once; so it is in a pipe.")
@output_options
@click.pass_context
def top(ctx: click.Context, interval: float, window: float, once: bool, output: Output) -> None:
    """Show what waits and runs, and how much ends a second, by name, state, worker and queue, until Ctrl-C.

    \b
    celery-journal top --interval 1
    """
    target = ctx.obj
    if sys.stdout.isatty() and not once and not output.is_data:
        _watch(target, interval, window)
        return
    with target.connect() as connection:
        check_version(connection, target.schema)
        seen = snapshot(connection, window, target.schema)
    if output.is_data:
        output.object(seen.as_dict())
    elif sys.stdout.isatty():
        console().print(_drawn(seen))
    else:
        _print(seen)


def _watch(target: Any, interval: float, window: float) -> None:
    """Draw what goes on again and again; what was seen last stays while the database is away."""
    drawn = Group()

    def look(connection: Connection) -> Snapshot:
        return snapshot(connection, window, target.schema)

    def say(text: str) -> None:
        live.update(Group(Text(text, style="bold red"), drawn), refresh=True)

    with (
        closing(LastingConnection(target, say)) as lasting,
        until_interrupted() as interruption,
        Live(console=console(), screen=True, auto_refresh=False) as live,
        interruption.waiting(),
    ):
        while True:
            drawn = _drawn(lasting.ask(look))
            live.update(drawn, refresh=True)
            time.sleep(interval)


def _drawn(seen: Snapshot) -> Group:
    """Return the tables of a terminal."""
    width = console().width
    tables = [_table(seen, what, shares, width) for what, shares in seen.shares.items() if shares]
    return Group(Text(_summary(seen), style="bold"), *tables)


def _table(seen: Snapshot, what: str, shares: list[Share], width: int) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column(what, ratio=1, overflow="ellipsis", no_wrap=True)
    there_is_room = [width >= least for least, _ in _HEADINGS]
    for _, heading in itertools.compress(_HEADINGS, there_is_room):
        table.add_column(heading, justify="right", no_wrap=True, min_width=8)
    for share in shares[:LINES]:
        style = style_of(share.key) if what == "state" else ""
        table.add_row(Text(shown(share.key), style=style), *itertools.compress(_numbers(seen, share), there_is_room))
    if len(shares) > LINES:
        table.add_row(Text(f"and {len(shares) - LINES:,} more", style="dim"))
    return table


#: The columns of a terminal, from that width on.
_HEADINGS = ((0, "waiting"), (0, "running"), (80, "ended"), (60, "a second"), (0, "failed"), (80, "took"))


def _numbers(seen: Snapshot, share: Share) -> Iterator[str]:
    yield from (f"{number:,}" for number in (share.waiting, share.running, share.ended))
    yield f"{seen.rate(share):.2f}"
    yield f"{share.failed:,}"
    yield "" if share.run_time is None else duration(share.run_time)


def _summary(seen: Snapshot) -> str:
    one = seen.everything
    return (
        f"{seen.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC  {counted(seen.workers, 'worker')} alive  {one.waiting:,} waiting  "
        f"{one.running:,} running  in {duration(seen.seconds)}: {one.ended:,} ended, {seen.rate(one):.2f} a second, {one.failed:,} failed"
    )


def _print(seen: Snapshot) -> None:
    """Print the lines of a pipe."""
    click.echo(_summary(seen))
    for what, shares in seen.shares.items():
        for share in shares:
            click.echo("\t".join((what, shown(share.key), *_numbers(seen, share))))
