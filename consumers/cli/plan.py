"""What a command is about to do with tasks, and where: told before anybody agrees to it, and by its dry run."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.core import ParameterSource

from celery_journal.consumers.words import counted, shown
from celery_journal.journal import Connection
from celery_journal.journal.command import command
from celery_journal.journal.dsn import masked
from celery_journal.projections import TaskResult

from .choosing import BATCH

#: Names and queues that are told one by one.
TOLD = 12

#: Where a group of commands keeps the words that were typed after its own options.
TYPED = "celery_journal.typed"


@dataclass(frozen=True, slots=True)
class Plan:
    """The tasks, by what they are and where they wait, and the systems that something is done in."""

    database: str
    #: How many there are of each name and queue; either may be unknown.
    tasks: Mapping[tuple[str | None, str | None], int]
    broker: str | None = None

    def lines(self) -> Iterator[str]:
        """Yield it in lines, fit for a terminal: the most frequent first."""
        order = sorted(self.tasks.items(), key=lambda one: (-one[1], str(one[0])))
        width = max((len(f"{count:,}") for _, count in order), default=0)
        for (name, queue), count in order[:TOLD]:
            yield f"  {count:>{width},} {shown(name or 'without a name')}{f' in {shown(queue)}' if queue else ''}"
        if left := order[TOLD:]:
            yield f"  and {counted(sum(count for _, count in left), 'task')} of {counted(len(left), 'other kind')}"
        yield f"in {shown(self.database)}{f', by {self.broker}' if self.broker else ''}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        tasks = [{"name": name, "queue": queue, "count": count} for (name, queue), count in self.tasks.items()]
        return {"database": self.database, "broker": self.broker, "tasks": tasks}

    def say_dry(self) -> None:
        """Print it, and the command that does it: the end of a dry run that found something."""
        if not self.tasks:
            return
        for line in self.lines():
            click.echo(line)
        if (again := typed_again("--dry-run")) is not None:
            click.echo(f"to do so: {again}")


def place_of(connection: Connection, schema: str) -> str:
    """Return which database that is, in words."""
    info = connection.info
    return f"{info.dbname} on {info.host if info.host.startswith('/') else f'{info.host}:{info.port}'}, schema {schema}"


def plan_of(connection: Connection, schema: str, task_ids: Sequence[str], app: Any = None) -> Plan:
    """Return the plan of doing something with these tasks; by the broker of the app, if one is given."""
    tasks, found = TaskResult.objects.using(connection, schema), Counter[tuple[str | None, str | None]]()
    for start in range(0, len(task_ids), BATCH):
        part = task_ids[start : start + BATCH]
        rows = list(tasks.filter(task_id__in=part).values("task_name", "queue"))
        found.update((row["task_name"], row["queue"]) for row in rows)
        if unseen := len(part) - len(rows):
            found[None, None] += unseen
    return Plan(place_of(connection, schema), found, broker_place(app) if app else None)


def broker_place(app: Any) -> str:
    """Return where the broker of an app is, without its password."""
    return masked(app.connection_for_write().as_uri())


def typed_again(*left_out: str) -> str | None:
    """Return the command that runs, as it was typed and can be again, but for the words left out; None if it was called from Python."""
    words = click.get_current_context().meta.get(TYPED)
    return words and command(" ".join(shlex.quote(_safe(word)) for word in words if word not in left_out))


def typed_broker() -> str:
    """Return the option --broker as it was typed, with a blank before it; nothing where it was not."""
    ctx = click.get_current_context()
    is_typed = ctx.get_parameter_source("broker") == ParameterSource.COMMANDLINE
    return f" --broker {shlex.quote(_safe(ctx.params['broker']))}" if is_typed else ""


def _safe(word: str) -> str:
    """Return the word; of a URL that may have a password in it only the scheme."""
    return re.sub(r"://([^@]*:.*@|.*password).*", "://...", word, flags=re.DOTALL | re.IGNORECASE)
