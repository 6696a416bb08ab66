"""The commands that take the log out and in, and the past of other result backends in."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, get_args
from uuid import uuid4
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import click
from kombu.serialization import registry
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from celery_journal.consumers.transfer import foreign
from celery_journal.consumers.transfer.archive import BrokenFile, archive, rows_in
from celery_journal.consumers.transfer.forms import FORMS
from celery_journal.consumers.transfer.past import ForeignError
from celery_journal.consumers.transfer.restoring import Restored, restore
from celery_journal.consumers.transfer.settled import Settled
from celery_journal.consumers.transfer.sheet import View, sheet
from celery_journal.consumers.words import counted, shown
from celery_journal.journal import Connection, Journal, check_version
from celery_journal.journal.command import command
from celery_journal.journal.dsn import redact_url
from celery_journal.projections.query import Q

from .failure import Failure
from .output import Output, confirm, confirming_options, output_options
from .searching import Searching, words_argument


@click.command("export", cls=Searching)
@words_argument
@click.option("--format", "form", type=click.Choice([*FORMS, "csv"]), default="jsonl", show_default=True, help="How it is written.")
@click.option("--view", type=click.Choice(get_args(View)), help="What csv shows.  [default: task_result]")
@click.option(
    "--output",
    "-o",
    "path",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The file; standard output unless given, or for -.",
)
@click.option("--yes", is_flag=True, help="Write over the file if it is there, without asking.")
@click.pass_context
def export(ctx: click.Context, condition: Q, form: str, view: View | None, path: Path | None, yes: bool) -> None:
    """Write the log to a file that `import` reads, or a view as CSV. With query words only the tasks found, and their groups.

    \b
    jsonl    the log, an event a line, its fields by name; loses nothing
    msgpack  the same, smaller and faster
    csv      a view, for spreadsheets; no cell can start a formula

    \b
    The same log gives the same bytes. A file appears under its name when it is complete.

    \b
    celery-journal export --output journal.jsonl
    celery-journal export state:FAILURE since:1d --format csv > failed.csv
    """
    target, chosen = ctx.obj, condition if condition.children else None
    path = None if path == Path("-") else path
    if view is not None and form != "csv":
        raise click.UsageError(f"--view goes with --format csv; {form} holds the log, of which every view can be made again")
    if view == "worker" and chosen is not None:
        raise click.UsageError("query words find tasks; --view worker shows all workers")
    if form == "msgpack" and path is None and sys.stdout.isatty():
        raise click.UsageError("msgpack is not for a terminal; say --output FILE")
    if path is not None and not _is_free(path, yes=yes):
        return
    with target.connect() as connection:
        check_version(connection, target.schema)
        if form == "csv":
            with closing(sheet(connection, target.schema, view or "task_result", chosen)) as lines:
                written = _write(path, lines, "rows")
            found, what, left_out = written - 1, "row", 0  # but for the heading
        else:
            settled = Settled.of(connection, target.schema)
            with closing(settled.rows() if chosen is None else settled.rows_of(chosen)) as rows:
                written = _write(path, archive(rows, FORMS[form]), "events")
            found, what, left_out = written - 2, "event", settled.left_out  # but for the header and the end
    if path is not None:
        click.echo(f"exported {counted(found, what)} to {shown(path)}", err=True)
    if left_out:
        click.echo(f"not in it: {counted(left_out, 'event')} behind a transaction that is still open; see: {command('doctor')}", err=True)
    if chosen is not None and not found:
        click.echo("no task is found by these words", err=True)
        ctx.exit(1)


def _is_free(path: Path, *, yes: bool) -> bool:
    """Return whether the file may be written: unless `yes`, one that is there only if the user says so."""
    if yes or not path.is_file():
        return True
    if not sys.stdin.isatty():
        raise click.UsageError(f"{shown(path)} is there already; say --yes to write over it, or name another file")
    return click.confirm(f"{shown(path)} is there already; write over it?", err=True)


def _zone(_ctx: click.Context, _parameter: click.Parameter, name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError) as exc:  # OSError: a directory of zones
        raise click.BadParameter(f"there is no time zone {shown(name)}; write one as Europe/Berlin") from exc


@click.command("import")
@click.argument("source", metavar="FILE|URL")
@click.option(
    "--from",
    "backend",
    type=click.Choice(get_args(foreign.Source)),
    help="Take over the past of another result backend, at URL: a database as SQLAlchemy names it, or a Redis.",
)
@click.option("--accept", multiple=True, type=click.Choice(sorted(registry.name_to_type)), help="Serializers to trust there besides json.")
@click.option("--serializer", default="json", show_default=True, help="The result_serializer there (sqlalchemy and redis).")
@click.option("--key-prefix", default="", help="The global_keyprefix there (redis).")
@click.option("--timezone", "zone", default="UTC", show_default=True, callback=_zone, help="The timezone setting there (tables).")
@confirming_options
@output_options
@click.pass_context
def import_(
    ctx: click.Context,
    source: str,
    backend: foreign.Source | None,
    accept: tuple[str, ...],
    serializer: str,
    key_prefix: str,
    zone: ZoneInfo,
    yes: bool,
    dry_run: bool,
    output: Output,
) -> None:
    """Read an export into this journal (- is standard input), or the past of another result backend.

    Once more changes nothing: what is known is left alone, and what the journal has under the same id with other content stands, is
    counted and listed. Exit code 1 if there is any, or if the file is broken: it is looked through first, and then nothing of it is in;
    but of what comes through a pipe what stands before that place. A chord that was open there is open here, and the workers of this
    journal will go on with it.

    \b
    celery-journal import journal.jsonl --dry-run
    celery-journal import --from redis redis://localhost:6379/0
    celery-journal import --from django-celery-results postgresql://me@localhost/shop
    """
    target = ctx.obj
    if backend is None and (accept or key_prefix or serializer != "json" or zone.key != "UTC"):
        raise click.UsageError("--accept, --serializer, --key-prefix and --timezone are for another result backend; say --from as well")
    if source == "-" and not (yes or dry_run):
        raise click.UsageError("standard input is the file, so there is nobody to ask; say --yes or --dry-run as well")
    where = "standard input" if source == "-" else redact_url(source, "the other result backend") if backend else source
    with target.connect() as connection:
        check_version(connection, target.schema)
        if not (dry_run or confirm(f"import {shown(where)} into the journal?", output, yes=yes, dry_run=False)):
            return
        if backend is None:
            is_whole = _restore(connection, Journal(target.schema), source, output, dry_run=dry_run)
        else:
            past = foreign.take(
                connection,
                Journal(target.schema),
                backend,
                source,
                accept=frozenset({"json", *accept}),
                serializer=serializer,
                key_prefix=key_prefix,
                zone=zone,
                dry_run=dry_run,
            )
            is_whole = _take_over(past, output, dry_run=dry_run)
    if not is_whole:
        ctx.exit(1)


def _restore(connection: Connection, journal: Journal, source: str, output: Output, *, dry_run: bool) -> bool:
    """Read the file, and say how that went; return whether all of it is in."""
    restored, broken = Restored(), None
    try:
        with _opened(source) as file, _progress("events") as show:
            if file.seekable():
                _look_through(file, show)
            for restored in restore(connection, journal, file, dry_run=dry_run):
                show(restored.new + restored.known + restored.conflicting)
    except OSError as exc:
        raise Failure(f"{shown(source)} cannot be read: {exc.strerror}", 1) from exc
    except BrokenFile as exc:
        broken = str(exc)
    if output.is_data:
        output.object(
            {
                "new": restored.new,
                "known": restored.known,
                "conflicting": restored.conflicting,
                "conflicts": restored.examples,
                "refused": restored.refused,
                "refusals": restored.reasons,
                "dry_run": dry_run,
                "broken": broken,
            }
        )
    else:
        verb = "would import" if dry_run else "imported"
        click.echo(f"{verb} {counted(restored.new, 'event')}; {restored.known:,} known already, {restored.conflicting:,} conflicting")
        for event_id in restored.examples:
            click.echo(f"conflicting: {event_id} is in the log with other content, which stands")
        if restored.refused:
            click.echo(f"{counted(restored.refused, 'event makes', 'events make')} no sense, and the log does not take them:")
        for reason in restored.reasons:
            click.echo(f"refused: {reason}")
    if broken is not None:
        raise Failure(broken, 1)
    return not (restored.conflicting or restored.refused)


def _take_over(past: Iterator[foreign.Taken], output: Output, *, dry_run: bool) -> bool:
    """Take over the past, and say how that went; return whether that was all of it."""
    taken = foreign.Taken()
    try:
        with _progress("tasks") as show:
            for taken in past:
                show(taken.tasks + taken.groups + taken.known)
    except ForeignError as exc:
        raise Failure(str(exc), 1) from exc
    untaken = [{"id": one.id, "why": one.why} for one in taken.untaken]
    if output.is_data:
        output.object({"tasks": taken.tasks, "groups": taken.groups, "known": taken.known, "untaken": untaken, "dry_run": dry_run})
    else:
        verb = "would take over" if dry_run else "took over"
        click.echo(f"{verb} {counted(taken.tasks, 'task')} and {counted(taken.groups, 'group')}; {taken.known:,} known already")
        for one in untaken:
            click.echo(f"not taken over: {shown(one['id'])}: {shown(one['why'])}")
    return not untaken


def _look_through(file: BinaryIO, show: Callable[[int], None]) -> None:
    """Raise BrokenFile if the file is no whole export: what is in the log stays there, so it is better not to begin."""
    beginning = file.tell()
    for number, _ in enumerate(rows_in(file), 1):
        show(number)
    file.seek(beginning)


def _opened(source: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if source == "-" else Path(source).open("rb")


def _write(path: Path | None, parts: Iterable[bytes], noun: str) -> int:
    """Write the parts to the file, or to standard output; return how many there were."""
    count = 0
    with _destination(path) as file, _progress(noun) as show:
        for count, part in enumerate(parts, 1):
            file.write(part)
            show(count)
    return count


@contextmanager
def _destination(path: Path | None) -> Iterator[BinaryIO]:
    """A file that appears under its name when it is complete; or standard output."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    _refuse_trap(path)
    path = path.resolve()
    try:
        if path.exists() and not path.is_file():  # a pipe or a device
            with path.open("wb") as file:
                yield file
            return
        partial = path.with_name(f".{path.name}.{uuid4().hex}.part")
        try:
            # What people's tasks return is for nobody else's eyes; of a file that is there, its owner has decided.
            with open(partial, "xb", opener=_private) as file:
                if path.exists() and path.stat().st_uid == os.geteuid():
                    shutil.copymode(path, partial)
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as exc:
        raise Failure(f"{shown(path)} cannot be written: {exc.strerror or exc}", 1) from exc


def _refuse_trap(path: Path) -> None:
    """Raise Failure where another user has put something, such as a link, that leads what is written elsewhere."""
    with suppress(OSError):  # it is not there, or cannot be reached, which is said when it is written
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) and found.st_uid not in {0, os.geteuid()}:
            raise Failure(f"{shown(path)} is a link or a pipe of another user; name another file", 1)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


@contextmanager
def _progress(noun: str) -> Iterator[Callable[[int], None]]:
    """What shows on a terminal how many there are so far."""
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} " + noun), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("")
        yield lambda completed: progress.update(task, completed=completed)
