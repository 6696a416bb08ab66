"""How commands print: a table on a terminal, plain lines in a pipe, JSON for programs."""

from __future__ import annotations

import codecs
import functools
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from celery_journal.consumers.words import shown
from celery_journal.projections.task_result import text_of

T = TypeVar("T")

#: What stands for the characters of our own drawings where an output does not know them: one for one, so that columns stay.
_PLAINER = {"█": "#", **dict.fromkeys("▏▎▍▌▋▊▉", "|"), "…": "~"}

#: Rows that a table shows at once: it must know all its cells before it can be drawn.
TABLE_PAGE = 1000


def console() -> Console:
    """Return a console of standard output, as it is now: without colours where NO_COLOR says so or nobody looks."""
    return Console(highlight=False, emoji=False, markup=False)


def told_plainer(error: UnicodeError) -> tuple[str, int]:
    """Tell the characters that the encoding of an output does not know otherwise, as codecs ask an error handler to."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    return "".join(_PLAINER.get(char) or char.encode("ascii", "backslashreplace").decode() for char in unknown), error.end


#: Its name, as an output is given it.
TOLD_PLAINER = "celery-journal.told-plainer"
codecs.register_error(TOLD_PLAINER, told_plainer)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its heading, and what stands in the cell of a row."""

    heading: str
    cell: Callable[[Any], object]
    justify: Literal["left", "right"] = "left"
    #: The style of rich that a cell has on a terminal, such as "bold red".
    style: Callable[[Any], str] | None = None
    #: Whether its cells are kept on one line, to be copied, however narrow the terminal.
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """How this command prints."""

    form: Literal["text", "json", "jsonl"] = "text"
    #: Whether lines in a pipe begin with one that names the columns.
    header: bool = False

    @property
    def is_data(self) -> bool:
        """Whether it is a program that reads it."""
        return self.form != "text"

    def rows(
        self,
        rows: Iterable[T],
        columns: Sequence[Column],
        as_object: Callable[[T], Mapping[str, Any]],
        *,
        nothing: str = "",
        title: str = "",
    ) -> int:
        """Print the rows and return how many there were; `nothing` is said where there is none.

        As a table on a terminal, in plain lines with tabs in a pipe, and as objects where asked for, as they come.
        """
        counted = 0

        def counting() -> Iterable[T]:
            nonlocal counted
            for row in rows:
                counted += 1
                yield row

        if self.is_data:
            self.objects(as_object(row) for row in counting())
            return counted
        pages = iter(counting())
        while page := list(itertools.islice(pages, TABLE_PAGE)):
            if sys.stdout.isatty():
                _print_table(page, columns, title if counted <= TABLE_PAGE else "")
            else:
                if self.header and counted == len(page):
                    click.echo("\t".join(column.heading for column in columns))
                for row in page:
                    click.echo("\t".join(_plain(column.cell(row)) for column in columns))
        if not counted and nothing:
            click.echo(nothing)
        return counted

    def objects(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Print the objects as they come: one a line, and as a JSON list unless JSON lines are asked for."""
        if self.form == "jsonl":
            for one in objects:
                click.echo(as_json(one))
            return
        before = "["  # not printed before there is something, or nothing for sure
        for one in objects:
            click.echo(f"{before}\n{as_json(one)}", nl=False)
            before = ","
        click.echo(f"{before if before == '[' else ''}\n]")

    def said(self, one: Mapping[str, Any], *lines: str) -> None:
        """Print the lines, or the object where it is a program that reads it."""
        if self.is_data:
            self.object(one)
        else:
            click.echo("\n".join(lines))

    def object(self, one: Mapping[str, Any]) -> None:
        """Print the one object: over several lines, unless JSON lines are asked for."""
        click.echo(as_json(one) if self.form == "jsonl" else as_json(one, indent=2))


def output_options(command: Any) -> Any:
    """Give the command --json and --jsonl, and with them its parameter `output`."""

    @click.option("--json", "as_json_list", is_flag=True, help="Print JSON.")
    @click.option("--jsonl", "as_json_lines", is_flag=True, help="Print JSON, one object a line.")
    @functools.wraps(command)
    def with_output(*args: Any, as_json_list: bool, as_json_lines: bool, **kwargs: Any) -> Any:
        if as_json_list and as_json_lines:
            raise click.UsageError("--json and --jsonl are two forms of the same; give one")
        return command(*args, output=Output("json" if as_json_list else "jsonl" if as_json_lines else "text"), **kwargs)

    return with_output


def table_options(command: Any) -> Any:
    """Give the command --json, --jsonl and --header, for what it prints as rows."""

    @click.option("--header", is_flag=True, help="In a pipe, name the columns in the first line.")
    @output_options
    @functools.wraps(command)
    def with_header(*args: Any, header: bool, output: Output, **kwargs: Any) -> Any:
        return command(*args, output=replace(output, header=header), **kwargs)

    return with_header


def confirming_options(command: Any) -> Any:
    """Give the command --yes and --dry-run."""
    command = click.option("--dry-run", is_flag=True, help="Only say what would be done.")(command)
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)


def confirm(question: str, output: Output, *, yes: bool, dry_run: bool, scripted: bool = False) -> bool:
    """Return whether it is to be done: unless `yes`, the user is asked; not with `dry_run`.

    What is `scripted` loses nothing, and is done where nobody is at a terminal, as in a deployment. Else that raises click.UsageError.
    """
    if dry_run or yes:
        return not dry_run
    is_anybody_there = sys.stdin is not None and sys.stdin.isatty()
    if scripted and not is_anybody_there:
        return True
    if output.is_data:
        raise click.UsageError("--json asks nobody; say --yes or --dry-run as well")
    try:
        return click.confirm(question, err=True)
    except (click.Abort, RuntimeError) as exc:  # the latter where standard input is closed
        if is_anybody_there:
            raise
        raise click.UsageError("there is nobody to ask; say --yes or --dry-run as well") from exc


def as_json(one: object, indent: int | None = None) -> str:
    """Return the object as JSON: moments in UTC, spans in seconds, bytes as text (base64 where they are binary)."""
    return json.dumps(_plain_data(one), indent=indent, ensure_ascii=True, allow_nan=False)


def _plain_data(value: object, within: frozenset[int] = frozenset()) -> object:
    """Return the value made of what JSON has: serializers of users know keys, sets, numbers and circles that it has not."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case dict() | list() | tuple() | set() | frozenset() if id(value) in within:
            return "..."
        case dict():
            inner = within | {id(value)}
            return {key if isinstance(key, str) else str(key): _plain_data(item, inner) for key, item in value.items()}
        case list() | tuple():
            return [_plain_data(item, within | {id(value)}) for item in value]
        case set() | frozenset():
            return [_plain_data(item, within | {id(value)}) for item in sorted(value, key=str)]
        case datetime():
            return value.astimezone(UTC).isoformat()
        case date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            return text_of(value)
        case _:
            return str(value)


def _plain(value: object) -> str:
    return "" if value is None else shown(value)


def _print_table(rows: Sequence[Any], columns: Sequence[Column], title: str) -> None:
    table = Table(box=None, pad_edge=False, title=title or None, title_justify="left")
    for column in columns:
        is_whole = column.whole or column.justify == "right"  # a number whose end is on the next line is taken for another
        table.add_column(column.heading, justify=column.justify, overflow="ellipsis" if is_whole else "fold", no_wrap=is_whole)
    for row in rows:
        table.add_row(*(Text(_plain(column.cell(row)), style=column.style(row) if column.style else "") for column in columns))
    console().print(table)
