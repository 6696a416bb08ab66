"""The group of commands, and those about the schema."""

from __future__ import annotations

import io
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from celery_journal import sql
from celery_journal.consumers.words import counted
from celery_journal.journal import migrate, pending_migrations, projections_to_rebuild, schema_version, script, wanted_version

from .annotate import annotate
from .capture import capture
from .doctor import doctor
from .explain import explain
from .failure import EXIT_CODES, one_sentence
from .graph import graph
from .history import history
from .listing import listing
from .lost import lost
from .output import TOLD_PLAINER, Output, confirm, confirming_options, output_options
from .periodic import periodic
from .projections import projections
from .replay import replay
from .revoke import revoke
from .show import show
from .spool import spool
from .stale import stale
from .stats import stats
from .tail import tail
from .target import Target
from .top import top
from .transfer import export, import_


class Commands(click.Group):
    """A group whose commands end with one sentence where something is wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        if sys.stdout is None:  # closed, as of some daemons
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  for the rest of the process
        if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not know every character of a task's name
            sys.stdout.reconfigure(errors=TOLD_PLAINER)
        with one_sentence():
            return super().invoke(ctx)


def _check_schema(_ctx: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return sql.check_schema_name(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


#: Also of `celery -A proj journal ...`.
HELP_OPTIONS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


@click.group(cls=Commands, epilog=EXIT_CODES, context_settings={**HELP_OPTIONS, "auto_envvar_prefix": "CELERY_JOURNAL"})
@click.option("--dsn", help="The database: postgresql://user@host/db, or embedded:///path.  [env: CELERY_JOURNAL_DSN]")
@click.option("--schema", default=sql.DEFAULT_SCHEMA, show_default=True, callback=_check_schema, help="The schema of the journal.")
@click.pass_context
def main(ctx: click.Context, dsn: str | None, schema: str) -> None:
    """The event-sourced result journal for Celery on PostgreSQL.

    \b
    celery-journal --dsn postgresql://me@localhost/app migrate
    """
    ctx.obj = Target(dsn, schema)


@main.command("migrate")
@confirming_options
@output_options
@click.pass_obj
def migrate_command(target: Target, yes: bool, dry_run: bool, output: Output) -> None:
    """Create the schema, or bring it to this version.

    Safe to run from many places at once, and to run again: functions, folds and views are replaced as a whole. At a terminal it asks
    before it applies a migration.

    \b
    celery-journal --dsn postgresql://me@localhost/app migrate --dry-run
    """
    with target.connect() as connection:
        pending = pending_migrations(connection, target.schema)
        question = f"apply {counted(len(pending), 'migration')} to schema {target.schema}?"
        incomplete: list[str] = []
        if confirm(question, output, yes=yes or not pending, dry_run=dry_run, scripted=True):
            pending = migrate(connection, target.schema)  # functions and views too, where nothing is pending
            incomplete = projections_to_rebuild(connection, pending, target.schema)
        elif not dry_run:
            return
    if output.is_data:
        names = [migration.name for migration in pending]
        output.object({"applied": [] if dry_run else names, "pending": names if dry_run else [], "to_rebuild": incomplete})
        return
    for migration in pending:
        click.echo(f"{'would apply' if dry_run else 'applied'} {migration.name}")
    if incomplete:
        click.echo(f"fill the new columns: celery-journal projections rebuild {' '.join(incomplete)}")
    if not pending:
        click.echo(f"schema {target.schema} is at version {wanted_version()} already")


@main.command("sql")
@click.pass_obj
def sql_command(target: Target) -> None:
    """Print the schema as one SQL script, for those who apply it themselves.

    \b
    celery-journal sql | psql app
    """
    click.echo(script(target.schema), nl=False)


@main.command("roles")
@click.pass_obj
def roles_command(target: Target) -> None:
    """Print the SQL script of the roles: owner, writer and reader.

    \b
    celery-journal roles | psql app
    """
    click.echo(sql.load("roles.sql", target.schema), nl=False)


@main.command("version")
@output_options
@click.pass_obj
def version_command(target: Target, output: Output) -> None:
    """Print the version of the package and of the schema it works with; with --dsn, also of the schema that is there.

    \b
    celery-journal version
    """
    ours = metadata.version("celery-journal")
    if not output.is_data:
        click.echo(f"celery-journal {ours}\nschema version {wanted_version()}")
    found = None
    if target.given:
        with target.connect() as connection:
            found = schema_version(connection, target.schema)
    if output.is_data:
        output.object({"celery_journal": ours, "schema_version": wanted_version(), "schema_found": found})
    elif target.given:
        click.echo(f"schema {target.schema} in the database: {'none' if found is None else f'version {found}'}")


@main.command("demo")
def demo_command() -> None:
    """Show the journal at work: a real database, a real worker, real tasks, in a directory that is removed afterwards.

    \b
    celery-journal demo
    """
    from celery_journal.consumers import demo

    demo.run(Console())


main.add_command(annotate)
main.add_command(capture)
main.add_command(export)
main.add_command(import_)
main.add_command(replay)
main.add_command(revoke)
for command in (doctor, explain, graph, history, listing, lost, periodic, projections, show, spool, stale, stats, tail, top):
    main.add_command(command)
