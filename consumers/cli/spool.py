"""The commands about the spool."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from celery_journal.consumers.drain import drain
from celery_journal.consumers.spool import Spool, SpoolStatus, beside, default_directory, spool_of, spools_in
from celery_journal.consumers.words import counted, duration, shown
from celery_journal.journal import Journal, check_version
from celery_journal.journal.command import command

from .failure import Failure
from .output import Column, Output, confirm, confirming_options, output_options, say
from .plan import place_of

COLUMNS = (
    Column("journal", lambda one: one[0].place),
    Column("schema", lambda one: one[0].schema),
    Column("file", lambda one: one[0].file),
    Column("waiting", lambda one: f"{one[0].waiting:,}", "right"),
    Column("refused", lambda one: f"{one[0].refused:,}", "right"),
    Column("oldest", lambda one: duration(one[0].age), "right"),
    Column("bytes", lambda one: f"{one[0].size:,}", "right"),
)


@click.group(invoke_without_command=True)
@click.option(
    "--directory",
    envvar="CELERY_JOURNAL_SPOOL",
    type=click.Path(path_type=Path),
    help="Where the spools are.  [env: CELERY_JOURNAL_SPOOL; default: celery-journal in $XDG_STATE_HOME or ~/.local/state]",
)
@output_options
@click.pass_context
def spool(ctx: click.Context, directory: Path | None, output: Output) -> None:
    """Show what waits on this machine for a database that was away: of the journal given, or else of all.

    A spool is found by the words that name the database: localhost and 127.0.0.1 have two. JSON has the reasons of what was refused.

    \b
    celery-journal spool --json
    """
    directory = directory if directory and str(directory) != "." else default_directory()
    if ctx.invoked_subcommand:
        ctx.obj = (ctx.obj, directory)
        return
    with _readable(directory):
        spools = [spool_of(ctx.obj.location, ctx.obj.schema, directory)] if ctx.obj.given else spools_in(directory)
        found = [(spool.status(), spool.reasons()) for spool in spools]
        others = beside(spools[0]) if ctx.obj.given and not found[0][0].waiting else []
    output.rows(found, COLUMNS, lambda one: _as_object(*one), nothing=f"there is no spool in {shown(directory)}")
    if others:
        _tell_others(spools[0], others)


@spool.command("drain")
@confirming_options
@output_options
@click.pass_context
def drain_command(ctx: click.Context, yes: bool, dry_run: bool, output: Output) -> None:
    """Append what waits to the log now. What the database refuses for its own sake is set aside, and the exit code is 1.

    At a terminal it asks first.

    \b
    celery-journal --dsn postgresql://me@localhost/app spool drain
    """
    target, directory = ctx.obj
    with _readable(directory), target.connect() as connection:
        check_version(connection, target.schema)
        spool = spool_of(target.location, target.schema, directory)
        waiting = spool.status().waiting
        others = [] if waiting else beside(spool)
        question = f"append {counted(waiting, 'event')} to {place_of(connection, target.schema)}?"
        if not confirm(question, output, yes=yes or not waiting, dry_run=dry_run, scripted=True):
            if dry_run:
                output.said({"would_append": waiting}, f"would append {counted(waiting, 'event')}")
                _tell_others(spool, others)
            return
        drained = drain(spool, Journal(target.schema), lambda work: work(connection))
        refused = spool.status().refused
    if output.is_data:
        told = {
            "drained": drained is not None,
            "recorded": drained.recorded if drained else 0,
            "refused": drained.refused if drained else 0,
        }
        output.object({**told, "refused_altogether": refused})
    elif drained is None:
        click.echo("another process drains the spool at the moment")
    else:
        click.echo(f"{counted(drained.recorded, 'event')} left the spool")
    _tell_others(spool, others)
    if refused and not output.is_data:
        were = counted(refused, "event was", "events were")
        say(f"{were} refused, now or before; run: {command('spool --json')}")
    if drained and drained.refused:
        ctx.exit(1)


def _tell_others(spool: Spool, others: list[SpoolStatus]) -> None:
    """Say on standard error where else something waits, if it does: the same database may have been named with other words."""
    if others and not spool.exists:
        nothing = f"no spool is kept here for {shown(spool.place)}, schema {shown(spool.schema)}"
        say(f"{nothing}; a spool is found by host, port, database and schema as they are written", err=True)
    for other in others:
        told = [f"{counted(other.waiting, 'event')} waiting"] if other.waiting else []
        told += [f"{counted(other.refused, 'event')} refused"] if other.refused else []
        say(f"for {shown(other.place)}, schema {shown(other.schema)}: {', '.join(told)}", err=True)


def _as_object(status: SpoolStatus, reasons: list[tuple[int, float, str]]) -> dict[str, Any]:
    return {
        "file": str(status.file),
        "journal": status.place,
        "schema": status.schema,
        "waiting": status.waiting,
        "refused": status.refused,
        "oldest_seconds": round(status.age, 3),
        "bytes": status.size,
        "refusals": [{"number": number, "spooled_at": spooled_at, "reason": reason} for number, spooled_at, reason in reasons],
    }


@contextmanager
def _readable(directory: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise Failure(f"the spool in {shown(directory)} cannot be read: {exc}", 1) from exc
