"""The run of the demo, from an empty directory to the proof, and back to nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from celery.exceptions import TimeoutError as CeleryTimeoutError
from rich.console import Console
from rich.progress import track

from celery_journal.consumers import embedded
from celery_journal.journal import Connection, connect, migrate
from celery_journal.projections import ChordCounter, rebuild, verify

from . import interrupts, show, tasks
from .work import Work, send
from .worker import CHILDREN, DEADLINE, DemoFailed, Worker, running

#: What Celery would take from the environment instead of from us: somebody's real broker, for one.
FOREIGN_VARIABLES = {"APP", "BROKER_URL", "CONFIG_MODULE", "LOADER", "RESULT_BACKEND"}

WIDTH = 100


def run(console: Console, *, keep: bool = False) -> None:
    """Run the demo; raise DemoFailed or DatabaseUnreachable if it cannot go on. It leaves nothing behind either way.

    With `keep` its database and a worker run until a signal arrives, to be looked at by commands that it names.
    """
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(interrupts.orderly())
        stack.enter_context(_environment_of_its_own())
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="celery-journal-demo-")))
        show.step(console, "Start", "A PostgreSQL and a Celery worker of the demo's own, in a directory that is removed at the end.")
        connection = stack.enter_context(_database(directory, console))
        with interrupts.held():
            worker = stack.enter_context(running(directory))
            stack.callback(interrupts.ignore)
        first = _first_task(worker, console)
        work = _run_tasks(worker, first, connection, console)
        worker.ask_to_stop()  # it takes a moment, and there is much to show meanwhile
        show.results(console, connection, work)
        show.groups(console, connection, work)
        show.history(console, connection, work.retried)
        show.reasons(console, connection, work)
        show.countdown(console, connection, work.chord)
        show.log(console, connection)
        show.refusals(console, connection, work.retried)
        worker.stop()
        rows = _prove(connection, console)
        if keep:
            with interrupts.held():
                stack.enter_context(running(directory))
            show.commands(console, directory, work)
            interrupts.wait()
        with console.status("removing everything"):
            stack.close()
    show.say(console, "", f"Done in {time.monotonic() - began:.0f} s; nothing is left running or on the disk.")
    show.say(console, f"{rows} rows of the rebuilt views were compared with the log: they are identical.", style="bold green")


@contextmanager
def _database(directory: Path, console: Console) -> Iterator[Connection]:
    tasks.configure(directory)
    backend = tasks.app.backend
    try:
        with console.status("starting PostgreSQL"):
            connection = connect(embedded.use(directory / "journal"))
        with connection:
            migrate(connection, backend.journal.schema)
            show.say(console, "PostgreSQL {} runs, with an empty journal in it.".format(*show.one(connection, "server")))
            yield connection
    finally:
        backend.database.close()
        embedded.leave(directory / "journal")


def _first_task(worker: Worker, console: Console) -> Any:
    """Return the result of a task that has ended: the worker is ready."""
    first = tasks.add.delay(2, 3)
    with console.status("starting the worker"):
        list(_ended(worker, [first]))
    show.say(console, f"A celery worker runs: prefork, {CHILDREN} children.")
    return first


def _run_tasks(worker: Worker, first: Any, connection: Connection, console: Console) -> Work:
    show.step(console, "Run tasks", "Each transition of a task becomes an event in the log, which is only ever appended to.")
    with console.status("sending tasks"):
        work = send(worker, first)
    began, total = time.monotonic(), len(work.results)
    show.say(console, f"{total} tasks are sent.")
    ended = track(_ended(worker, work.results), "tasks ended", total, console=console, transient=True, disable=not console.is_terminal)
    for _ in ended:
        pass
    with console.status("waiting for the chords"):
        ids = [work.chord.id, work.broken_chord.id]
        worker.wait_until(lambda: _have_ended(connection, ids), "ending the chords")
    show.say(console, f"All of them have ended, {time.monotonic() - began:.1f} s later.")
    return work


def _ended(worker: Worker, results: list[Any]) -> Iterator[object]:
    """Yield as each of the tasks ends."""
    ids = [result.id for result in results]
    try:
        yield from tasks.app.backend.get_many(ids, timeout=DEADLINE, on_interval=worker.check)
    except CeleryTimeoutError as exc:
        raise worker.late("running the tasks") from exc


def _have_ended(connection: Connection, chords: list[str]) -> bool:
    rows = ChordCounter.get_many(connection, chords, tasks.app.backend.journal.schema)
    return len(rows) == len(chords) and all(row.state != "open" for row in rows.values())


def _prove(connection: Connection, console: Console) -> int:
    """Empty the views, rebuild them from the log and compare; return how many rows were compared."""
    show.step(console, "Drop and rebuild", "The views are only a reading of the log. So throw them away, and read it again.")
    schema = tasks.app.backend.journal.schema
    before = _fingerprints(connection)
    connection.execute(show.statement("empty the views"))
    emptied = _fingerprints(connection)
    with console.status("rebuilding the views"):
        rebuild(connection, schema=schema)
        rebuilt = _fingerprints(connection)
        verification = verify(connection, schema=schema)
    show.table(
        console,
        *("", "rows>", "dropped>", "rebuilt>", "fingerprint before", "and after"),
        rows=[(view, before[view][0], emptied[view][0], rebuilt[view][0], before[view][1], rebuilt[view][1]) for view in before],
    )
    if before != rebuilt or verification.differences:
        raise DemoFailed(f"the rebuilt views are not what they were; {len(verification.differences)} rows differ from the log")
    return verification.rows


def _fingerprints(connection: Connection) -> dict[str, tuple[int, str]]:
    """Return, by view, how many rows it has and a hash of all that can be read in it."""
    return {view: (rows, fingerprint or "") for view, rows, fingerprint in connection.execute(show.statement("fingerprints"))}


@contextmanager
def _environment_of_its_own() -> Iterator[None]:
    before = dict(os.environ)
    for name in before:
        if name in FOREIGN_VARIABLES or name.startswith("CELERY"):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)
