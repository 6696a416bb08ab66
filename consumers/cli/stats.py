"""The command that counts and measures tasks by their names."""

from __future__ import annotations

import sys
from datetime import timedelta
from functools import partial
from typing import Any, get_args

import click

from celery_journal.consumers.stats import By, Tally, tallies
from celery_journal.consumers.words import duration
from celery_journal.journal import check_version
from celery_journal.projections import Q

from .output import Column, Output, console, table_options
from .searching import Searching, condition_of, is_told, say_doubts, words_argument, words_of


def _span(span: timedelta | None) -> str:
    return "" if span is None else duration(span)


def _rate(tally: Tally) -> str:
    return "" if tally.failure_rate is None else f"{100 * tally.failure_rate:.1f} %"


#: What there is room for: the columns of a terminal, from that width on.
COLUMNS = (
    (0, Column("tasks", lambda tally: f"{tally.tasks:,}", "right")),
    (60, Column("not ended", lambda tally: f"{tally.unended:,}", "right")),
    (130, Column("succeeded", lambda tally: f"{tally.succeeded:,}", "right")),
    (0, Column("failed", lambda tally: f"{tally.failed:,}", "right", style=lambda tally: "bold red" if tally.failed else "dim")),
    (130, Column("others", lambda tally: f"{tally.others:,}", "right")),
    (80, Column("failure rate", _rate, "right")),
    (130, Column("retried", lambda tally: f"{tally.retried:,}", "right")),
    (80, Column("wait p50", lambda tally: _span(tally.queue_wait.p50), "right")),
    (100, Column("p95", lambda tally: _span(tally.queue_wait.p95), "right")),
    (100, Column("p99", lambda tally: _span(tally.queue_wait.p99), "right")),
    (60, Column("run p50", lambda tally: _span(tally.run_time.p50), "right")),
    (100, Column("p95", lambda tally: _span(tally.run_time.p95), "right")),
    (100, Column("p99", lambda tally: _span(tally.run_time.p99), "right")),
    (130, Column("never sent", lambda tally: f"{tally.never_sent:,}", "right")),
    (130, Column("settled", lambda tally: f"{tally.settled:,}", "right")),
)


@click.command("stats", cls=Searching)
@words_argument
@click.option(
    "--since", help="Count what ended since then: 2h, 2026-01-31; `all` counts everything.  [default: 1d, unless a word has dates]"
)
@click.option(
    "--by", default="name", show_default=True, type=click.Choice(get_args(By)), help="What they are counted by; an hour is one of UTC."
)
@table_options
@click.pass_context
def stats(ctx: click.Context, condition: Q, since: str | None, by: By, output: Output) -> None:
    """Count the tasks by name: how many failed, how long they waited in their queues, and how long they ran. Exit code 1 if there are none.

    What failed and is settled, because it was annotated as resolved or replayed with success, is counted apart, and is not in the rate.

    p50, p95 and p99 are what 50, 95 and 99 of a hundred runs did not exceed; each attempt is a run.

    \b
    celery-journal stats --since 2h 'name:billing.*'
    celery-journal stats --by hour
    """
    target = ctx.obj
    if since is None:
        since = "all" if is_told(ctx, "since", "until") else "1d"
    if since != "all":
        condition &= condition_of([f"since:{since}"])
    with target.connect() as connection:
        check_version(connection, target.schema)
        found = tallies(connection, condition, target.schema, by)
    key = Column(by, lambda tally: tally.name)
    columns = [key] + [column for least, column in COLUMNS if not sys.stdout.isatty() or console().width >= least]
    if not output.rows(found, columns, partial(_as_object, by), nothing="no task is like that"):
        say_doubts([*words_of(ctx), f"since:{since}"] if since != "all" else words_of(ctx))
        ctx.exit(1)


def _as_object(by: By, tally: Tally) -> dict[str, Any]:
    """Return it as plain data, what it is of under its own name."""
    return {by if name == "name" else name: value for name, value in tally.as_dict().items()}
