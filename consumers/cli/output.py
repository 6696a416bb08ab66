"""How commands print: a table on a terminal, plain lines in a pipe, JSON for programs."""

from __future__ import annotations

import codecs
import functools
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, Literal, TypeVar

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from celery_journal.consumers.words import shown
from celery_journal.projections.task_result import text_of

T = TypeVar("T")

#: What stands for the characters of our own drawings where an output does not know them: one for one, so that columns stay.
_PLAINER = {"█": "#", **dict.fromkeys("▏▎▍▌▋▊▉", "|"), "…": "~"}

#: A word, a moment, or a number with its unit, and what parts it from the next.
_WORDS = re.compile(r"(\S*\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?: UTC)?\S*|\S*\d (?:d|h|min|ms|s)\b\S*|\S+)\s*")

#: Rows that a table shows at once: it must know all its cells before it can be drawn.
TABLE_PAGE = 1000

#: Columns of a terminal below which a table is only drawn where all of it fits.
NARROW = 100

#: Columns that a table must have for each cell that is folded.
FOLDED = 30

#: Lines of a screen that are somebody's own: the command, and the next one.
PROMPTS = 3

#: What the lines below the first of a record, and of a sentence, begin with.
INDENT = "  "


def console(*, err: bool = False) -> Console:
    """Return a console of an output, as it is now: without colours where NO_COLOR says so or nobody looks."""
    return Console(highlight=False, emoji=False, markup=False, stderr=err)


def say(text: str | Text, *, begin: str = "", rest: str | None = None, err: bool = False) -> None:
    """Print what is prose: between words in lines as wide as the terminal, if it is one, and else on one line as it is.

    The first begins with `begin`, the others with `rest`, or as far to the right. No word is broken, however long: it may be an id.
    """
    text = Text(text) if isinstance(text, str) else text
    if not (sys.stderr if err else sys.stdout).isatty():
        click.echo(f"{begin}{text.plain}", err=err)
        return
    printer = console(err=err)
    for line in wrapped(text, printer.width, begin, " " * cell_len(begin) if rest is None else rest):
        printer.print(line, soft_wrap=True)


def wrapped(text: Text, width: int, begin: str = "", rest: str = "") -> list[Text]:
    """Return the lines of the text as `say` prints them."""
    offsets: list[int] = []
    used = cell_len(begin)
    for word in _WORDS.finditer(text.plain):
        if used + cell_len(word[1]) > width and word.start():
            offsets.append(word.start())
            used = cell_len(rest)
        used += cell_len(word[0])
    lines = text.divide(offsets)
    for line in lines:
        line.rstrip()
    return [Text(rest if place else begin).append_text(line) for place, line in enumerate(lines)]


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
class Record:
    """How a row is told where a table has no room: on two lines, and in sentences."""

    #: What stands on the first line, which is never cut: an id, and the little that is told beside it.
    first: Sequence[Column]
    #: What stands on the second, as far as there is room; what is most wanted comes first.
    second: Sequence[Column] = ()
    #: What is told in full below, each on lines of its own.
    prose: Sequence[Column] = ()

    @classmethod
    def of(cls, columns: Sequence[Column]) -> Record:
        """Return how the rows of any table are told: what stands in its first column, and the rest with its headings."""
        numbers, texts = ([one for one in columns[1:] if (one.justify == "right") is is_number] for is_number in (True, False))
        name = columns[0] if columns[0].style else replace(columns[0], style=lambda _row: "bold")
        return cls([name], prose=[Column("", partial(_labelled, part)) for part in (numbers, *([one] for one in texts))])


def _labelled(columns: Sequence[Column], row: object) -> str:
    told = ((column.heading, cell_of(column, row).plain) for column in columns)
    return INDENT.join(f"{heading}: {cell}" for heading, cell in told if cell)


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
        record: Record | None = None,
        nothing: str = "",
    ) -> int:
        """Print the rows and return how many there were; `nothing` is said where there is none.

        As a table on a terminal, or as records if it is narrow; in plain lines with tabs in a pipe, and as objects where asked for, as
        they come.
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
                _print_page(page, columns, record)
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


def as_json(one: object, indent: int | None = None, *, ensure_ascii: bool = True) -> str:
    """Return the object as JSON: moments in UTC, spans in seconds, bytes as text (base64 where they are binary)."""
    return json.dumps(_plain_data(one), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


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


def fits(rows: Sequence[Any], columns: Sequence[Column], record: Record | None = None) -> bool:
    """Return whether the rows fit on the screen, as `Output.rows` prints them on a terminal."""
    printer = console()
    most = printer.height - PROMPTS
    return len(rows) <= most and len(_lines(rows, columns, record, printer)) <= most


def _print_page(rows: Sequence[Any], columns: Sequence[Column], record: Record | None) -> None:
    printer = console()
    for line in _lines(rows, columns, record, printer):
        printer.print(line, soft_wrap=True)


def _lines(rows: Sequence[Any], columns: Sequence[Column], record: Record | None, printer: Console) -> list[Text]:
    """Return the lines of the rows: of a table, if it would be read with ease on a terminal of that width."""
    widths = [max(cell_len(column.heading), *(cell_of(column, row).cell_len for row in rows)) for column in columns]
    gaps = 2 * (len(columns) - 1)
    if sum(widths) + gaps > printer.width:
        widths = [_least(column, rows, width) for column, width in zip(columns, widths, strict=True)]
        if printer.width < NARROW or sum(widths) + gaps > printer.width:
            return list(records(rows, record or Record.of(columns), printer.width))
    lines = printer.render_lines(table(columns, rows, widths), pad=False)
    drawn = [Text.assemble(*((segment.text, segment.style or "") for segment in line)) for line in lines]
    for line in drawn:
        line.rstrip()
    return drawn


def _least(column: Column, rows: Sequence[Any], width: int) -> int:
    """Return how wide a column must be: all of it where it is whole, and else so that no word is broken, and not many lines are needed."""
    if _is_whole(column):
        return width
    words = (cell_len(word) for row in rows for word in cell_of(column, row).plain.split())
    return min(width, max(FOLDED, cell_len(column.heading), *words))


def _is_whole(column: Column) -> bool:
    return column.whole or column.justify == "right"  # a number whose end is on the next line is taken for another


def cell_of(column: Column, row: object) -> Text:
    """Return what stands in the cell, as it is shown."""
    told = column.cell(row)
    return told if isinstance(told, Text) else Text(_plain(told), style=column.style(row) if column.style else "")


def table(columns: Sequence[Column], rows: Sequence[Any], least: Sequence[int | None] = (), *, show_header: bool = True) -> Table:
    """Return the rows as a table, the columns at least so wide."""
    table = Table(box=None, pad_edge=False, show_header=show_header)
    for column, width in itertools.zip_longest(columns, least):
        is_whole = _is_whole(column)
        overflow: Literal["ellipsis", "fold"] = "ellipsis" if is_whole else "fold"
        table.add_column(column.heading, justify=column.justify, overflow=overflow, no_wrap=is_whole, min_width=width)
    for row in rows:
        table.add_row(*(cell_of(column, row) for column in columns))
    return table


def records(rows: Sequence[Any], record: Record, width: int) -> Iterator[Text]:
    """Yield the lines of the records on a terminal of that width. Their first lines are columns, as far as they fit."""
    first = [[cell_of(column, row) for column in record.first] for row in rows]
    widths = [max(cell.cell_len for cell in cells) for cells in zip(*first, strict=True)]
    gap = next((gap for gap in ("  ", " ") if sum(widths) + len(gap) * (len(widths) - 1) <= width), "")
    for row, cells in zip(rows, first, strict=True):
        for cell, column, size in zip(cells, record.first, widths, strict=True):
            if gap and size:
                cell.align(column.justify, size)
        line = Text(gap or "  ").join(cell for cell, size in zip(cells, widths, strict=True) if size)
        line.rstrip()
        yield line
        if told := [cell for column in record.second if (cell := cell_of(column, row))]:
            yield _second(told, width - len(INDENT))
        for column in record.prose:
            if cell := cell_of(column, row):
                yield from wrapped(cell, width, INDENT, INDENT)


def _second(cells: list[Text], room: int) -> Text:
    """Return the second line of a record. Its first cell leaves half of it to the others, if they need that."""
    others = sum(cell.cell_len + len(INDENT) for cell in cells[1:])
    cells[0].truncate(max(room // 2, room - others), overflow="ellipsis")
    line = Text(INDENT).join(cells)
    line.truncate(room, overflow="ellipsis")
    return Text(INDENT).append_text(line)
