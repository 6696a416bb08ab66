"""The commands about the views."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from celery_journal.consumers.words import shown
from celery_journal.journal import check_version
from celery_journal.journal.command import command
from celery_journal.projections import PROJECTIONS, Difference, rebuild, verify

from .output import Output, confirm, confirming_options, output_options
from .plan import place_of

names = click.argument("names", nargs=-1, metavar=f"[{'|'.join(PROJECTIONS)}]...", type=click.Choice(PROJECTIONS))


@click.group()
def projections() -> None:
    """Rebuild the views from the log, or verify that they are what the log says.

    \b
    celery-journal projections verify
    """


@projections.command("rebuild")
@names
@confirming_options
@output_options
@click.pass_obj
def rebuild_command(target: Any, names: tuple[str, ...], yes: bool, dry_run: bool, output: Output) -> None:
    """Fold the log into new tables beside the live ones and swap them in; all projections, unless some are named.

    Readers never see an empty or partial view, and workers go on writing. At a terminal it asks first.

    \b
    celery-journal --dsn postgresql://me@localhost/app projections rebuild task_result
    """
    chosen = names or PROJECTIONS
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with target.connect() as connection:
        check_version(connection, target.schema)
        question = f"rebuild {', '.join(chosen)} in {place_of(connection, target.schema)}?"
        if not confirm(question, output, yes=yes, dry_run=dry_run, scripted=True):
            if dry_run:
                output.said({"would_rebuild": list(chosen)}, f"would rebuild {', '.join(chosen)}")
            return
        began = time.monotonic()
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            tasks: dict[str, TaskID] = {}

            def show(name: str, folded: int, total: int) -> None:
                if name not in tasks:
                    tasks[name] = bars.add_task(name, total=total)
                bars.update(tasks[name], completed=folded, total=total)

            folded = rebuild(connection, chosen, target.schema, progress=show, say=partial(click.echo, err=True))
    if output.is_data:
        output.object({"events": folded, "seconds": round(time.monotonic() - began, 3)})
        return
    for name, events in folded.items():
        click.echo(f"rebuilt {name} from {events:,} events")
    click.echo(f"done in {time.monotonic() - began:.1f} s")


@projections.command("verify")
@names
@output_options
@click.pass_context
def verify_command(ctx: click.Context, names: tuple[str, ...], output: Output) -> None:
    """Fold the log into temporary tables and report every row of which the views differ. Exit code 1 if there is any.

    \b
    celery-journal --dsn postgresql://me@localhost/app projections verify
    """
    with ctx.obj.connect() as connection:
        check_version(connection, ctx.obj.schema)
        verification = verify(connection, names or PROJECTIONS, ctx.obj.schema)
    if output.is_data:
        output.object({"compared": verification.compared, "differences": [_as_object(one) for one in verification.differences]})
        ctx.exit(1 if verification.differences else 0)
    for difference in verification.differences:
        click.echo(shown(difference))
    for name, rows in verification.compared.items():
        click.echo(f"compared {rows:,} rows of {name}")
    if verification.differences:
        click.echo(f"{len(verification.differences):,} of {verification.rows:,} rows differ; run: {command('projections rebuild')}")
        ctx.exit(1)
    click.echo(f"{verification.rows:,} rows compared, all identical")


def _as_object(one: Difference) -> dict[str, Any]:
    named = {"projection": one.projection, "table": one.table, "key": list(one.key), "columns": list(one.columns)}
    return {**named, "live": one.live, "folded": one.folded}
