"""Building projections anew from the log, beside the live ones.

From the moment a second trigger stands on the log, new events are folded into the old and the new tables. History is
folded into the new ones chunk by chunk, and because a fold is a join, what is folded twice changes nothing: no phase of
catching up, and the swap is a rename. Readers never see an empty or partial view; writers wait for moments only.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import UUID

from psycopg import errors

from celery_journal.journal import JournalError, is_pooled
from celery_journal.sql import DEFAULT_SCHEMA
from celery_journal.sql.fold import Projection, trigger, trigger_function

from ._statements import statement
from .projection import PROJECTIONS, Connection

#: Events a transaction. Larger is a little faster, and holds the new table's rows longer.
CHUNK = 50_000

#: How often it steps back for a writer that takes long, before it gives up.
ATTEMPTS = 60

#: Seconds to wait for transactions that are older than the rebuild.
PATIENCE = 600.0


class RebuildBlocked(JournalError):
    """The rebuild cannot be done here, or not now. The live views are as they were."""


Progress = Callable[[str, int, int], object]


def rebuild(
    connection: Connection,
    names: Sequence[str] = PROJECTIONS,
    schema: str = DEFAULT_SCHEMA,
    chunk: int = CHUNK,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Replace each projection by one folded from the log; return how many events were folded, by name.

    The connection must be in autocommit mode and its user own the tables. `progress` is called with the name, the
    events folded and an estimate of all. Another rebuild is waited for. What a killed one left is removed first.
    """
    with _alone(connection, schema):
        return {name: _rebuild(connection, name, schema, chunk, progress) for name in names}


def _rebuild(connection: Connection, name: str, schema: str, chunk: int, progress: Progress | None) -> int:
    live, new = Projection(name, schema), Projection(name, schema, table_suffix="__rebuild")
    second = f"rebuild_{name}"
    _remove(connection, schema, new, second)
    for table in live.table_names:
        connection.execute(statement("create", schema, new=new.table(table), live=live.table(table)))
        _copy_storage(connection, schema, live.table(table), new.table(table))
    connection.execute(trigger_function([new], schema, second).encode())
    _with_writers_stopped(connection, schema, [trigger(schema, second).encode()])
    try:
        folded = _fold_history(connection, new, schema, chunk, progress)
        _refold_forgotten(connection, new, schema)
        _wait_for_older_readers(connection, schema)
        _swap(connection, live, new, schema, second)
    except BaseException:
        if not connection.broken:
            _remove(connection, schema, new, second)
        raise
    return folded


def _fold_history(connection: Connection, new: Projection, schema: str, chunk: int, progress: Progress | None) -> int:
    extent = connection.execute(statement("extent", schema)).fetchone()
    if extent is None:
        return 0
    last, estimate = extent
    statements = new.history("where event_id > %(after)s and event_id <= %(until)s")
    after, folded = UUID(int=0), 0
    while found := connection.execute(statement("next chunk", schema), {"after": after, "last": last, "chunk": chunk}).fetchone():
        until, events = found
        with connection.transaction():
            connection.execute(statement("plan for many", schema))
            for text in statements:
                connection.execute(text, {"after": after, "until": until})
        after, folded = until, folded + events
        if progress is not None:
            progress(new.name, folded, max(estimate, folded))
    return folded


def _refold_forgotten(connection: Connection, new: Projection, schema: str) -> None:
    """Fold what was ever forgotten anew: chunk by chunk it could not be known what a forgotten fact hides."""
    after = ""
    while True:
        with connection.transaction():
            connection.execute(statement("plan for many", schema))
            rows = connection.execute(new.lock_forgotten(), {"after": after, "limit": 1000}).fetchall()
            if not rows:
                return
            ids = [key for (key,) in rows]
            for text in new.refold():
                connection.execute(text, {"ids": ids})
        after = ids[-1]


def _wait_for_older_readers(connection: Connection, schema: str) -> None:
    """Wait for transactions that read as of a moment before the new tables were filled: to them they would be empty."""
    (transaction,) = connection.execute(statement("transaction", schema)).fetchone() or ("0",)
    deadline = time.monotonic() + PATIENCE
    while readers := connection.execute(statement("older readers", schema), {"transaction": transaction}).fetchall():
        if time.monotonic() > deadline:
            pids = ", ".join(str(pid) for (pid,) in readers)
            raise RebuildBlocked(
                f"older transactions (pid {pids}) still read the views; nothing was changed, try again when they have ended"
            )
        time.sleep(0.05)


def _swap(connection: Connection, live: Projection, new: Projection, schema: str, second: str) -> None:
    """Point the views at the new tables and let these take the names of the live ones.

    A reader locks a view before its tables, and so does this: else each would wait for the other. The second trigger
    only falls silent here; to drop it waits for the readers of the log as well.
    """
    statements = [statement("silence", schema, trigger=second)]
    tables = re.compile(rf"\b{schema}\.({'|'.join(live.table_names)})\b")
    views = [Projection(name, schema).view for name in PROJECTIONS]  # one may read another's table
    statements += [tables.sub(lambda match: new.table(match[1]), view).encode() for view in views if tables.search(view)]
    after = []
    for table in live.table_names:
        old_name = f"{table}__old"
        statements.append(statement("rename", schema, live=live.table(table), new=new.table(table), old_name=old_name, live_name=table))
        after.append(statement("drop", schema, new=f"{schema}.{old_name}"))
        for name, wanted in _index_names(connection, schema, new.table(table), live.table(table)):
            after.append(statement("rename index", schema, name=name, wanted=wanted))
    _with_writers_stopped(connection, schema, [*statements, *after])
    with suppress(errors.LockNotAvailable):  # a silent trigger does no harm, and the next rebuild removes it
        _remove(connection, schema, new, second)


def _index_names(connection: Connection, schema: str, new: str, live: str) -> list[tuple[str, str]]:
    """Return the name of each index of the new table with the one it has to take over from the live table."""
    wanted = {definition: name for name, definition in connection.execute(statement("indexes", schema), {"table": live})}
    return [(name, wanted[definition]) for name, definition in connection.execute(statement("indexes", schema), {"table": new})]


def _copy_storage(connection: Connection, schema: str, live: str, new: str) -> None:
    options, owner = connection.execute(statement("storage", schema), {"table": live}).fetchone() or (None, None)
    if options:
        connection.execute(statement("set storage", schema, new=new, options=options))
    connection.execute(statement("set owner", schema, new=new, owner=str(owner)))
    for (text,) in connection.execute(statement("privileges", schema), {"table": live, "new": new}).fetchall():
        connection.execute(text.encode())


def _remove(connection: Connection, schema: str, new: Projection, second: str) -> None:
    """Remove the second trigger and the new tables, if there are any."""
    if connection.execute(statement("attached", schema), {"trigger": second}).fetchone() is not None:
        _with_writers_stopped(connection, schema, [statement("detach", schema, trigger=second)])
    connection.execute(statement("drop function", schema, trigger=second))
    for table in new.table_names:
        connection.execute(statement("drop", schema, new=new.table(table)))


def _with_writers_stopped(connection: Connection, schema: str, statements: Sequence[bytes]) -> None:
    """Run the statements in one transaction that no writer overlaps. Steps back, and tries again, when it has to wait long."""
    for attempt in range(ATTEMPTS):
        try:
            with connection.transaction():
                connection.execute(statement("lock timeout", schema))
                connection.execute(statement("stop writers", schema))
                for text in statements:
                    connection.execute(text)
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0.1, 0.5))  # noqa: S311  jitter, no secret
        else:
            return


@contextmanager
def _alone(connection: Connection, schema: str) -> Iterator[None]:
    if is_pooled(connection):
        raise RebuildBlocked("a rebuild needs one session from beginning to end; name PostgreSQL itself, past the pooler")
    while connection.execute(statement("lock", schema)).fetchone() != (True,):
        time.sleep(0.1)
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute(statement("unlock", schema))
