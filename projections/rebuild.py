"""Building projections anew from the log, beside the live ones.

From the moment a second trigger stands on the log, new events are folded into the old and the new tables. History is
folded into the new ones chunk by chunk, and because a fold is a join, what is folded twice changes nothing: no phase of
catching up, and the swap is a rename. Readers never see an empty or partial view; writers wait for moments only.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from uuid import UUID

from psycopg import errors

from celery_journal.journal import LocksHeld, Say, Wait, holders, is_pooled, trusted_path
from celery_journal.journal.waiting import PATIENCE
from celery_journal.sql import DEFAULT_SCHEMA
from celery_journal.sql.fold import Projection, trigger, trigger_function

from ._statements import statement
from .projection import PROJECTIONS, Connection

#: Events a transaction. Larger is a little faster, and holds the new table's rows longer.
CHUNK = 50_000


#: Seconds to wait for the moment in which what is silent already can go.
NO_HURRY = 5.0


class RebuildBlocked(LocksHeld):
    """The rebuild cannot be done here, or not now. The live views are as they were."""


Progress = Callable[[str, int, int], object]


def rebuild(
    connection: Connection,
    names: Sequence[str] = PROJECTIONS,
    schema: str = DEFAULT_SCHEMA,
    chunk: int = CHUNK,
    progress: Progress | None = None,
    say: Say | None = None,
) -> dict[str, int]:
    """Replace each projection by one folded from the log; return how many events were folded, by name.

    The connection must be in autocommit mode and its user own the tables. `progress` is called with the name, the
    events folded and an estimate of all; `say` is told whom it waits for, and what it had to leave. Another rebuild is
    waited for. What a killed one left is removed first. Raises RebuildBlocked, and the live views are as they were.
    """
    with _alone(connection, schema, say):
        for name in names:
            _check_dependents(connection, Projection(name, schema), schema)
        return {name: _Rebuild(connection, name, schema, say).run(chunk, progress) for name in names}


def _check_dependents(connection: Connection, live: Projection, schema: str) -> None:
    """Refuse where somebody reads a table itself: that would go on with the replaced one. Whoever may not even read it is no reason."""
    for table in live.table_names:
        for what, owner, reads in connection.execute(statement("dependents", schema), {"table": live.table(table)}).fetchall():
            if reads:
                raise RebuildBlocked(
                    f"{what} of {owner} depends on the table {live.table(table)}, which a rebuild replaces; "
                    f"let it read the view {schema}.{live.name} instead, and try again"
                )


class _Rebuild:
    """One projection, rebuilt."""

    def __init__(self, connection: Connection, name: str, schema: str, say: Say | None) -> None:
        self._connection = connection
        self._schema = schema
        self._say = say
        self._live, self._new = Projection(name, schema), Projection(name, schema, table_suffix="__rebuild")
        self._second = f"rebuild_{name}"

    def run(self, chunk: int, progress: Progress | None) -> int:
        """Replace it; return how many events were folded."""
        connection, schema, live, new = self._connection, self._schema, self._live, self._new
        self._remove()
        for table in live.table_names:
            connection.execute(statement("create", schema, new=new.table(table), live=live.table(table)))
            owner = _copy_storage(connection, schema, live.table(table), new.table(table))
        with connection.transaction():
            connection.execute(trigger_function([new], schema, self._second).encode())
            connection.execute(statement("close function", schema, trigger=self._second, owner=owner))
        self._with_writers_stopped(lambda: [trigger(schema, self._second).encode()])
        try:
            folded = _fold_history(connection, new, schema, chunk, progress)
            _refold_forgotten(connection, new, schema)
            self._wait_for_older_readers()
            self._with_writers_stopped(self._swap)
        except BaseException:
            if not connection.broken:
                with suppress(LocksHeld):
                    self._remove(NO_HURRY)
            raise
        with suppress(LocksHeld):  # a silent trigger does no harm, and the next rebuild removes it
            self._remove(patience=NO_HURRY)
        return folded

    def _wait_for_older_readers(self) -> None:
        """Wait for transactions that read as of a moment before the new tables were filled: to them they would be empty."""
        connection, schema = self._connection, self._schema
        (transaction,) = connection.execute(statement("transaction", schema)).fetchone() or ("0",)
        pids: list[int] = []
        wait = Wait("the rebuild", self._say, lambda: holders(connection, "holders of snapshots", schema, {"pids": pids}))
        while readers := connection.execute(statement("older readers", schema), {"transaction": transaction}).fetchall():
            pids[:] = [pid for (pid,) in readers]
            if not wait.pause():
                raise RebuildBlocked(
                    f"older transactions still read the views ({wait.whom()}); nothing was changed, try again when they have ended"
                )

    def _swap(self) -> list[bytes]:
        """Return what points the views at the new tables and lets these take the names of the live ones.

        A reader locks a view before its tables, and so does this: else each would wait for the other. The second trigger
        only falls silent here; to drop it waits for the readers of the log as well.
        """
        connection, schema, live, new = self._connection, self._schema, self._live, self._new
        statements = [statement("silence", schema, trigger=self._second)]
        tables = re.compile(rf"\b{schema}\.({'|'.join(live.table_names)})\b")
        views = [Projection(name, schema).view for name in PROJECTIONS]  # one may read another's table
        statements += [tables.sub(lambda match: new.table(match[1]), view).encode() for view in views if tables.search(view)]
        after = []
        for table in live.table_names:
            old_name = f"{table}__old"
            statements.append(statement("rename", schema, live=live.table(table), new=new.table(table), old_name=old_name, live_name=table))
            after += self._discarding(table, f"{schema}.{old_name}")
            for name, wanted in _index_names(connection, schema, new.table(table), live.table(table)):
                after.append(statement("rename index", schema, name=name, wanted=wanted))
        return [*statements, *after]

    def _discarding(self, table: str, old: str) -> list[bytes]:
        """Return what drops the old table; or, where something of a stranger's holds it fast, empties it and sets it aside."""
        connection, schema, live = self._connection, self._schema, self._live.table(table)
        dependents = connection.execute(statement("dependents", schema), {"table": live}).fetchall()
        if not dependents:
            return [statement("drop", schema, new=old)]
        aside = f"{table}__aside_{time.time_ns():x}"
        if self._say is not None:
            told = "; ".join(f"{what} of {owner}" for what, owner, _ in dependents)
            self._say(f"the replaced table is emptied and kept as {schema}.{aside}, because of: {told}; drop both when you can")
        indexes = [name for name, _ in connection.execute(statement("indexes", schema), {"table": live}).fetchall()]
        renamed = [
            statement("rename index", schema, name=name, wanted=f"aside_{time.time_ns():x}_{number}") for number, name in enumerate(indexes)
        ]
        return [statement("empty", schema, table=old), statement("set aside", schema, table=old, aside=aside), *renamed]

    def _remove(self, patience: float = PATIENCE) -> None:
        """Remove the second trigger and the new tables, if there are any, and what earlier rebuilds had to leave."""
        connection, schema = self._connection, self._schema
        if connection.execute(statement("attached", schema), {"trigger": self._second}).fetchone() is not None:
            self._with_writers_stopped(lambda: [statement("detach", schema, trigger=self._second)], patience)
        with suppress(errors.DependentObjectsStillExist):  # the next one replaces its body, and it works on the log alone
            connection.execute(statement("drop function", schema, trigger=self._second))
        for table in self._new.table_names:
            self._drop(self._new.table(table))
        for (name,) in connection.execute(statement("left aside", schema)).fetchall():
            self._drop(f"{schema}.{name}")

    def _drop(self, table: str) -> None:
        """Drop a table of ours that nobody needs; where something of a stranger's holds it fast, empty it and set it aside."""
        connection, schema = self._connection, self._schema
        try:
            connection.execute(statement("drop", schema, new=table))
        except errors.DependentObjectsStillExist:
            aside = f"{table.rpartition('.')[2]}__aside_{time.time_ns():x}"
            with connection.transaction():
                connection.execute(statement("empty", schema, table=table))
                connection.execute(statement("set aside", schema, table=table, aside=aside))

    def _with_writers_stopped(self, statements: Callable[[], Sequence[bytes]], patience: float = PATIENCE) -> None:
        """Run the statements in one transaction that no writer overlaps. Steps back, and tries again, when it has to wait at all long."""
        connection, schema = self._connection, self._schema
        wait = Wait("the rebuild", self._say, lambda: holders(connection, "holders of relations", schema, {}), patience)
        while True:
            wanted = statements()
            stopping = [statement(name, schema) for name in ("lock timeout", "stop writers", "shorter lock timeout")]
            try:
                # At once, the commit included: writers do not wait for what goes to and fro between us and the server.
                connection.execute(b";\n".join([*stopping, *wanted]))
            except (errors.LockNotAvailable, errors.DeadlockDetected, errors.DependentObjectsStillExist):
                if not wait.pause():
                    raise RebuildBlocked(f"nothing was changed, because of {wait.whom()}; end that, and try again") from None
            else:
                return


def _fold_history(connection: Connection, new: Projection, schema: str, chunk: int, progress: Progress | None) -> int:
    extent = connection.execute(statement("extent", schema)).fetchone()
    if extent is None:
        return 0
    last, estimate = extent
    statements = new.history("where event_id > %(after)s and event_id <= %(until)s")
    after, folded = UUID(int=0), 0
    while found := connection.execute(
        statement("next chunk", schema), {"after": after, "last": last, "chunk": chunk}, prepare=False
    ).fetchone():
        until, events = found
        with connection.transaction():
            connection.execute(statement("plan for many", schema))
            for text in statements:
                connection.execute(text, {"after": after, "until": until}, prepare=False)
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


def _index_names(connection: Connection, schema: str, new: str, live: str) -> list[tuple[str, str]]:
    """Return the name of each index of the new table with the one it has to take over from the live table."""
    wanted = {definition: name for name, definition in connection.execute(statement("indexes", schema), {"table": live})}
    return [(name, wanted[definition]) for name, definition in connection.execute(statement("indexes", schema), {"table": new})]


def _copy_storage(connection: Connection, schema: str, live: str, new: str) -> str:
    """Give the new table what `like` does not copy; return the owner."""
    options, owner = connection.execute(statement("storage", schema), {"table": live}).fetchone() or (None, None)
    if options:
        connection.execute(statement("set storage", schema, new=new, options=options))
    connection.execute(statement("set owner", schema, new=new, owner=str(owner)))
    for (text,) in connection.execute(statement("privileges", schema), {"table": live, "new": new}).fetchall():
        connection.execute(text.encode())
    return str(owner)


@contextmanager
def _alone(connection: Connection, schema: str, say: Say | None) -> Iterator[None]:
    """One rebuild at a time, which finds nothing of what anybody may have planted in other schemas."""
    if is_pooled(connection):
        raise RebuildBlocked("a rebuild needs one session from beginning to end; name PostgreSQL itself, past the pooler")
    with trusted_path(connection, schema):
        key = {"key": f"{schema}.rebuild"}
        wait = Wait("the rebuild", say, lambda: holders(connection, "holders of an advisory lock", schema, key))
        while connection.execute(statement("lock", schema)).fetchone() != (True,):
            if not wait.pause():
                raise RebuildBlocked(f"another rebuild has not ended: {wait.whom()}; nothing was changed")
        try:
            yield
        finally:
            if not connection.broken:
                connection.execute(statement("unlock", schema))
