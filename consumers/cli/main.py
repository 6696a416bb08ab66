"""The group of commands, and those about the schema."""

from __future__ import annotations

import io
import os
import shlex
import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from psycopg.errors import RaiseException, UndefinedObject
from rich.console import Console

from celery_journal import sql
from celery_journal.consumers.environment import told
from celery_journal.consumers.options import Options
from celery_journal.consumers.words import counted
from celery_journal.journal import (
    Connection,
    migrate,
    pending_migrations,
    projections_to_rebuild,
    role_name,
    roles_script,
    schema_version,
    script,
    wanted_version,
)
from celery_journal.journal.command import begun_as, command
from celery_journal.journal.dsn import shareable
from celery_journal.journal.migrations import Migration

from .annotate import annotate
from .capture import capture
from .doctor import doctor
from .errors import errors
from .explain import explain
from .failure import EXIT_CODES, Failure, one_sentence
from .graph import graph
from .history import history
from .listing import listing
from .lost import lost
from .output import TOLD_PLAINER, Output, confirm, confirming_options, output_options
from .periodic import periodic
from .plan import TYPED, place_of
from .projections import projections
from .replay import replay
from .replays import replays
from .revoke import revoke
from .show import show
from .spool import spool
from .stale import stale
from .stats import stats
from .status import queues, status, workers
from .tail import tail
from .target import Target
from .top import top
from .transfer import export, import_
from .watch import watch


class Commands(click.Group):
    """A group whose commands end with one sentence where something is wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        if sys.stdout is None:  # closed, as of some daemons
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  for the rest of the process
        if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not know every character of a task's name
            sys.stdout.reconfigure(errors=TOLD_PLAINER)
        with one_sentence(), told(Options.names(), lambda sentence: click.echo(f"Warning: {sentence}", err=True)):
            return super().invoke(ctx)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and keep what was typed."""
        ctx.meta.setdefault(TYPED, tuple(args))
        return super().resolve_command(ctx, args)


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
    ctx.with_resource(begun_as(_beginning(ctx, dsn, schema)))


def _beginning(ctx: click.Context, dsn: str | None, schema: str) -> str:
    """Return how the command begins that was typed: with the database and the schema, where those were typed and nobody's secret."""
    options = {"dsn": dsn and shareable(dsn), "schema": schema}
    typed = {name: value for name, value in options.items() if value and ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE}
    return " ".join(["celery-journal", *(f"--{name} {shlex.quote(value)}" for name, value in typed.items())])


@main.command("migrate")
@click.option("--roles", is_flag=True, help="Make the roles of this journal too, or bring them up to date.")
@click.option("--writer", "writers", multiple=True, metavar="LOGIN", help="With the roles: a login of workers, that may append and read.")
@confirming_options
@output_options
@click.pass_obj
def migrate_command(target: Target, roles: bool, writers: tuple[str, ...], yes: bool, dry_run: bool, output: Output) -> None:
    """Create the schema, or bring it to this version.

    Safe to run from many places at once, and to run again: functions, folds and views are replaced as a whole. At a terminal it asks
    before it applies a migration. With --roles the login of the workers need not own the log, and cannot change it.

    \b
    celery-journal --dsn postgresql://me@localhost/app migrate --roles --writer app
    """
    with target.connect() as connection:
        pending = pending_migrations(connection, target.schema)
        question = f"apply {counted(len(pending), 'migration')} to {place_of(connection, target.schema)}?"
        incomplete: list[str] = []
        if confirm(question, output, yes=yes or not pending, dry_run=dry_run, scripted=True):
            pending = _migrate(connection, target.schema, roles=roles or bool(writers), writers=writers)
            incomplete = projections_to_rebuild(connection, pending, target.schema)
        elif not dry_run:
            return
    if output.is_data:
        names = [migration.name for migration in pending]
        output.object({"applied": [] if dry_run else names, "pending": names if dry_run else [], "to_rebuild": incomplete})
        return
    for migration in pending:
        click.echo(f"{'would apply' if dry_run else 'applied'} {migration.name}")
    if not dry_run and (roles or writers):
        with target.connect() as connection:
            made = [role_name(connection, kind, target.schema) for kind in ("owner", "writer", "reader", "auditor", "importer")]
        click.echo(f"roles: {', '.join(made)}")
        if not writers:
            click.echo(f"give the workers theirs: {command('migrate --roles --writer LOGIN')}")
    if incomplete:
        click.echo(f"fill the new columns: {command('projections rebuild')} {' '.join(incomplete)}")
    if not pending:
        click.echo(f"schema {target.schema} is at version {wanted_version()} already")


def _migrate(connection: Connection, schema: str, *, roles: bool, writers: tuple[str, ...]) -> list[Migration]:
    """Migrate; functions and views too, where nothing is pending."""
    try:
        return migrate(connection, schema, roles=roles, writers=writers, say=partial(click.echo, err=True))
    except UndefinedObject as exc:
        raise Failure(f"{exc.diag.message_primary}; make the login first: create role NAME login", 1) from exc
    except RaiseException as exc:
        raise Failure(f"{exc.diag.message_primary}", 1) from exc


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
    """Print the SQL script of the roles: owner, writer, reader, auditor and importer. Their names say the schema and the database.

    \b
    celery-journal roles | psql app
    """
    click.echo(roles_script(target.schema), nl=False)


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
@click.option("--keep", is_flag=True, help="Leave database and worker running until Ctrl-C, with commands to try.")
def demo_command(keep: bool) -> None:
    """Show the journal at work: a real database, a real worker, real tasks, in a directory that is removed afterwards.

    \b
    celery-journal demo --keep
    """
    from celery_journal.consumers import demo

    demo.run(Console(), keep=keep)


main.add_command(annotate)
main.add_command(capture)
main.add_command(export)
main.add_command(import_)
main.add_command(replay)
main.add_command(revoke)
for reading in (
    doctor,
    errors,
    explain,
    graph,
    history,
    listing,
    lost,
    periodic,
    projections,
    queues,
    replays,
    show,
    spool,
    stale,
    stats,
    status,
    tail,
    top,
    watch,
    workers,
):
    main.add_command(reading)
