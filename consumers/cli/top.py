"""The command that shows what goes on at the moment."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from datetime import UTC

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from celery_journal.consumers.stats import Share, Snapshot, snapshot
from celery_journal.consumers.words import counted, duration, listed, shown
from celery_journal.journal import check_version

from .output import Output, console, output_options
from .spans import Seconds
from .styles import style_of
from .watching import keep_drawing

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
    """Show what waits and runs, and how much ends a second, by name, state, worker and queue, until Ctrl-C or `q`.

    \b
    celery-journal top --interval 1
    """
    target = ctx.obj
    if sys.stdout.isatty() and not once and not output.is_data:
        keep_drawing(target, interval, lambda connection: snapshot(connection, window, target.schema), _drawn)
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
        is_gone = what == "worker" and share.key in seen.gone
        style = style_of(share.key) if what == "state" else "bold red" if is_gone else ""
        table.add_row(
            Text(shown(share.key) + (" (gone)" if is_gone else ""), style=style), *itertools.compress(_numbers(seen, share), there_is_room)
        )
    if len(shares) > LINES:
        table.add_row(Text(f"and {len(shares) - LINES:,} more", style="dim"))
    return table


#: The columns of a terminal, from that width on.
_HEADINGS = ((0, "waiting"), (0, "running"), (80, "ended"), (60, "a second"), (0, "failed"), (80, "took"), (60, "oldest"))


def _numbers(seen: Snapshot, share: Share) -> Iterator[str]:
    yield from (f"{number:,}" for number in (share.waiting, share.running, share.ended))
    yield f"{seen.rate(share):.2f}"
    yield f"{share.failed:,}"
    yield "" if share.run_time is None else duration(share.run_time)
    age = seen.oldest.get(share.key) if share.what == "queue" else None
    yield "" if age is None else duration(age)


def _summary(seen: Snapshot) -> str:
    one = seen.everything
    return (
        f"{seen.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC  {counted(seen.workers, 'worker')} alive{_gone(seen)}  {one.waiting:,} waiting  "
        f"{one.running:,} running  in {duration(seen.seconds)}: {one.ended:,} ended, {seen.rate(one):.2f} a second, {one.failed:,} failed"
    )


def _gone(seen: Snapshot) -> str:
    return f", {len(seen.gone):,} gone: {shown(listed(sorted(seen.gone)))}" if seen.gone else ""


def _print(seen: Snapshot) -> None:
    """Print the lines of a pipe."""
    click.echo(_summary(seen))
    for what, shares in seen.shares.items():
        for share in shares:
            click.echo("\t".join((what, shown(share.key), *_numbers(seen, share))))
