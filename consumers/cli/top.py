"""The command that shows what goes on at the moment."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import UTC

import click
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from celery_journal.consumers.stats import Share, Snapshot, snapshot
from celery_journal.consumers.words import counted, duration, shown
from celery_journal.journal import Connection, check_version

from .interrupts import until_interrupted
from .output import Output, console, output_options
from .styles import style_of

#: Lines of each table on a terminal.
LINES = 8

#: Seconds before the moment that count for the rates.
WINDOW = 60.0


@click.command("top")
@click.option("--interval", default=2.0, show_default=True, type=click.FloatRange(0.2, 3600), help="Seconds from one look to the next.")
@click.option("--window", default=WINDOW, show_default=True, type=click.FloatRange(1, 86400), help="Seconds that count for the rates.")
@click.option("--once", is_flag=True, help="Look once; so it is in a pipe.")
@output_options
@click.pass_context
def top(ctx: click.Context, interval: float, window: float, once: bool, output: Output) -> None:
    """Show what waits and runs, and how much ends a second, by name, state, worker and queue, until Ctrl-C.

    \b
    celery-journal top --interval 1
    """
    target = ctx.obj
    is_live = sys.stdout.isatty() and not once and not output.is_data
    with target.connect() as connection:
        check_version(connection, target.schema)
        if output.is_data:
            output.object(snapshot(connection, window, target.schema).as_dict())
        elif not is_live:
            seen = snapshot(connection, window, target.schema)
            if sys.stdout.isatty():
                console().print(_drawn(seen))
            else:
                _print(seen)
        else:
            _watch(connection, target.schema, interval, window)


def _watch(connection: Connection, schema: str, interval: float, window: float) -> None:
    with until_interrupted(connection), Live(console=console(), screen=True, auto_refresh=False) as live:
        while True:
            live.update(_drawn(snapshot(connection, window, schema)), refresh=True)
            time.sleep(interval)


def _drawn(seen: Snapshot) -> Group:
    """Return the tables of a terminal."""
    tables = [_table(seen, what, shares) for what, shares in seen.shares.items() if shares]
    return Group(Text(_summary(seen), style="bold"), *tables)


def _table(seen: Snapshot, what: str, shares: list[Share]) -> Table:
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column(what, ratio=1, overflow="ellipsis", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True, min_width=8)
    for share in shares[:LINES]:
        style = style_of(share.key) if what == "state" else ""
        table.add_row(Text(shown(share.key), style=style), *_numbers(seen, share))
    if len(shares) > LINES:
        table.add_row(Text(f"and {len(shares) - LINES:,} more", style="dim"))
    return table


_HEADINGS = ("waiting", "running", "ended", "a second", "failed", "took")


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
