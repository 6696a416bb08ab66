"""What the journal knows, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby, pairwise
from pathlib import Path
from textwrap import indent
from typing import Any

import psycopg
from celery.result import AsyncResult, GroupResult
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from celery_journal import sql
from celery_journal.consumers.explain import explain
from celery_journal.consumers.timeline import Transition, timeline
from celery_journal.journal import Connection
from celery_journal.journal.events import ChordPartReturned, ChordUnlocked, Event
from celery_journal.projections import ChordCounter
from celery_journal.projections import GroupResult as GroupRow

from .tasks import DIRECTORY, app
from .work import Work
from .worker import DemoFailed


def step(console: Console, title: str, *lines: str) -> None:
    """Begin a step: what happens, and why it matters."""
    console.print()
    console.rule(title, align="left")
    say(console, *lines)


def say(console: Console, *lines: str, style: str | None = None) -> None:
    """Print the lines as they are."""
    for line in lines:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def table(console: Console, *columns: str, rows: Iterable[Sequence[object]]) -> None:
    """Print a table. A column whose name ends with `>` is aligned to the right, one with `~` may be broken into lines."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in columns:
        name = column.rstrip(">~")
        shown.add_column(name, justify="right" if ">" in column else "left", no_wrap="~" not in column, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(str(cell)) for cell in row))
    console.print(shown)


def commands(console: Console, directory: Path, work: Work) -> None:
    """Show what can be typed while it runs."""
    step(console, "Try it", "The database and a worker of the demo run until Ctrl-C; then everything is removed. In another terminal:")
    dsn = f"celery-journal --dsn embedded://{directory / 'journal'}"
    say(
        console,
        "",
        f"{dsn} list",
        f"{dsn} explain {work.broken_chord.id}",
        f"{dsn} graph {work.chord.id}",
        f"{dsn} errors",
        f"{DIRECTORY}={directory} celery -A celery_journal.consumers.demo.tasks journal replay --filter state:FAILURE --dry-run",
    )


def results(console: Console, connection: Connection, work: Work) -> None:
    """Show what became of each task, and the states that the log has of it."""
    step(console, "The results", "The view task_result, as Celery's AsyncResult reads it, and beside it what the log has kept.")
    rows = [(order.what, *_outcome(console, connection, order.results)) for order in work.orders]
    table(console, *("task", "state", "result~", "in the log~"), rows=rows)


def _outcome(console: Console, connection: Connection, tasks: list[AsyncResult]) -> tuple[str, str, str]:
    values = [task.result for task in tasks]
    logged = [_states(fact.state for fact in _history(connection, task.id) if fact.state) for task in tasks]
    several = Counter(logged).items()
    return (
        _states(sorted((task.state for task in tasks), reverse=True)),
        _repr(console, values if len(values) > 1 else values[0]),
        logged[0] if len(tasks) == 1 else "; ".join(f"{number} x ({states})" for states, number in several),
    )


def _states(states: Iterable[str]) -> str:
    runs = [(state, len(list(same))) for state, same in groupby(states)]
    return ", ".join(state if number == 1 else f"{state} x {number}" for state, number in runs)


def _repr(console: Console, value: object) -> str:
    """Return the value as Python writes it, so that no control character of a task reaches the terminal."""
    text = repr(value) if console.encoding.startswith("utf") else ascii(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _history(connection: Connection, task_id: str) -> list[Transition]:
    """Return the transitions of a task, in the order in which they happened."""
    return timeline(app.backend.journal.read_stream(connection, task_id), app.backend)


def _stream(connection: Connection, stream: str) -> list[Any]:
    """Return the events of a task, a group or a chord, in the order of the log."""
    return [recorded.event for recorded in app.backend.journal.read_stream(connection, stream)]


def groups(console: Console, connection: Connection, work: Work) -> None:
    """Show the other two views: what was saved of the group, and where the chords stand."""
    step(console, "The group and the chords", "The views group_result and chord_counter. A count falls to 0 as the parts return.")
    saved = GroupRow.get(connection, work.group.id, app.backend.journal.schema)
    members, done_at = len(saved.members or ()), _clock(saved.date_done)
    rows: list[tuple[object, ...]] = [("group_result", "group of 10 x square", members, "", "", "saved", done_at)]
    for what, header in (("chord of 10 x square", work.chord), ("chord with a failing part", work.broken_chord)):
        row = ChordCounter.get(connection, header.id, app.backend.journal.schema)
        rows.append(("chord_counter", what, row.size, row.count, row.failed, row.state, _clock(row.date_done)))
    table(console, *("view", "of", "size>", "count>", "failed>", "state", "done at"), rows=rows)


def history(console: Console, connection: Connection, task: AsyncResult) -> None:
    """Show each transition of one task."""
    step(console, "The timeline of the retried task", "A row that is overwritten would only say SUCCESS. The log has each attempt.")
    facts = _history(connection, task.id)
    rows = [
        (_clock(fact.occurred_at), _seconds(before, fact), fact.kind, fact.state or "", fact.attempt, _worker(fact.event))
        for before, fact in pairwise([facts[0], *facts])
    ]
    table(console, *("at", "after>", "event", "state", "attempt>", "worker (process)"), rows=rows)


def reasons(console: Console, connection: Connection, work: Work) -> None:
    """Show what `celery-journal explain` says of a few tasks."""
    step(console, "Why a task is where it is", "PENDING means that it waits. An id that nobody has sent is no task.")
    asked = {order.what: order.results[0].id for order in work.orders if order.what.startswith(("flaky", "pause"))}
    asked["an id that nobody sent"] = "7c1c0d3e-0000-4000-8000-000000000000"
    schema = app.backend.journal.schema
    table(console, "task", "why~", rows=[(what, explain(connection, task_id, schema)) for what, task_id in asked.items()])


def countdown(console: Console, connection: Connection, header: GroupResult) -> None:
    """Show how the parts of a chord made its counter fall."""
    step(console, "The chord's counter as it fell", "Each part counts once, even if it is delivered twice. The last one sends the body.")
    events = _stream(connection, header.id)
    missing, rows = {task.id for task in header}, []
    for event in events:
        what, task_id = "", getattr(event, "task_id", None) or ""
        if isinstance(event, ChordPartReturned):
            missing.discard(task_id)
            what = f"part {event.group_index}: {event.state}"
        elif isinstance(event, ChordUnlocked):
            what = "the body is sent"
        rows.append((_seconds(events[0], event), event.kind, what, task_id, len(missing)))
    table(console, *("after>", "event", "", "task", "count>"), rows=rows)


def log(console: Console, connection: Connection) -> None:
    """Show how large the log is, and what is in it."""
    events, streams, size = one(connection, "size of the log")
    step(console, "The log", f"{events} events about {streams} tasks, groups and chords, {size} with all indexes and empty partitions.")
    table(console, "event", "number>", rows=connection.execute(statement("kinds")).fetchall())


def refusals(console: Console, connection: Connection, task: AsyncResult) -> None:
    """Try to change the log, as a superuser, and show what the database says to it."""
    step(console, "Tampering", "Now a superuser tries to rewrite history. The database itself refuses:")
    for name in ("change", "delete"):
        text = psycopg.ClientCursor(connection).mogrify(statement(name), {"stream": task.id})
        say(console, "", indent(text, "  "))
        try:
            connection.execute(statement(name), {"stream": task.id})
        except psycopg.errors.RestrictViolation as exc:
            say(console, f"  ERROR: {exc.diag.message_primary}", f"  HINT: {exc.diag.message_hint}")
        else:
            raise DemoFailed(f"the database let somebody {name} an event")


def statement(name: str) -> bytes:
    """Return the named query of the demo."""
    return sql.query("demo.sql", name, app.backend.journal.schema)


def one(connection: Connection, name: str) -> tuple[Any, ...]:
    """Return the one row that the query of the demo answers."""
    row: tuple[Any, ...] | None = connection.execute(statement(name)).fetchone()
    return row or ()


def _clock(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"


def _seconds(before: Event | Transition, event: Event | Transition) -> str:
    return f"{(event.occurred_at - before.occurred_at).total_seconds():.3f} s"


def _worker(event: Any) -> str:
    return f"{event.worker} ({event.pid})" if getattr(event, "worker", None) else ""
