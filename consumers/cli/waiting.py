"""How commands list tasks that do not go on: each, or where there are more than fit on the screen, by queue and reason."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from celery_journal.consumers.alike import Alike, Waiting, alike
from celery_journal.consumers.words import counted, duration

from .output import Column, Output, Record, console, fits, say

T = TypeVar("T")


def _age(group: Alike) -> str:
    return "" if group.age is None else duration(group.age)


NAMES = Column("names", Alike.told_names)
REASON = Column("reason", lambda group: group.reason)

COLUMNS = (
    Column("tasks", lambda group: f"{group.count:,}", "right"),
    Column("queue", lambda group: group.queue),
    Column("oldest", _age, "right"),
    NAMES,
    REASON,
    Column("such as", lambda group: group.example, whole=True),
)

RECORD = Record(
    first=(
        Column("", lambda group: counted(group.count, "task"), "right"),
        Column("", lambda group: group.queue and f"in {group.queue}"),
        Column("", lambda group: group.age and f"the oldest for {duration(group.age)}"),
    ),
    prose=(NAMES, REASON, Column("", lambda group: f"such as {group.example}")),
)


def all_option(command: Any) -> Any:
    """Give the command --all."""
    return click.option("--all", "every", is_flag=True, help="On a terminal: each task, however many there are.")(command)


def rows_or_groups(
    found: Iterable[T],
    columns: Sequence[Column],
    record: Record,
    waiting: Callable[[T], Waiting],
    *,
    every: bool,
) -> None:
    """Print each on a terminal if it is to be `every` one, or if they fit on it; else by queue and reason, and how to see each.

    That is for people alone: what stands for a row in JSON is not asked.
    """
    tasks = iter(found)
    first = [] if every else list(itertools.islice(tasks, console().height + 1))
    if every or fits(first, columns, record):
        Output().rows(itertools.chain(first, tasks), columns, vars, record=record)
        return
    groups = alike(map(waiting, itertools.chain(first, tasks)))
    Output().rows(groups, COLUMNS, vars, record=RECORD)
    total = sum(group.count for group in groups)
    say(f"{counted(total, 'task')} in all; to list each, add: --all")
