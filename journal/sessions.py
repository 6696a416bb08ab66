"""What a session of the server is told before it works for us: once if it is ours alone, and anew in each transaction if a pooler lends it.

A pooler such as PgBouncer lends for each transaction whichever session is free, and that one may be as anybody has left it, or as its
role and database have it. So what we ask outside of a transaction becomes one that begins with our settings, in the same round trip.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any, Self, TypeVar

import psycopg
from psycopg import IsolationLevel
from psycopg.pq import PipelineStatus, TransactionStatus

from celery_journal import sql

from .answering import AnsweringConnection, AsyncAnsweringConnection

R = TypeVar("R")

_BEGIN, _TELL, _COMMIT = (sql.query("schema.sql", name) for name in ("begin", "tell session", "commit"))

#: What a session of ours is told, whatever server, database and role have it otherwise: nothing of what anybody has planted in other
#: schemas is found, values are written as psycopg and the folds read them, and no plan is compiled, which would take longer than what we
#: ask for.
SESSION = {
    "search_path": "pg_catalog,pg_temp",
    "datestyle": "ISO,YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    "row_security": "on",
    "default_transaction_isolation": "read committed",
    "jit": "off",
}


#: In a lent session a transaction says by itself how it is isolated: once it has asked anything, that is settled.
ISOLATION = IsolationLevel.READ_COMMITTED


def introduction(*, lent: bool) -> dict[str, Any]:
    """Return the parameters of the statement of sql/schema.sql that tells a session, for good or for this transaction."""
    return {"names": list(SESSION), "values": list(SESSION.values()), "only_here": lent}


class SessionCursor(psycopg.Cursor[R]):
    """A cursor each of whose statements finds the session as it has to be."""

    def execute(self, *args: Any, **kwargs: Any) -> Self:
        """Run the statement; in a lent session, as a transaction."""
        with _one_transaction(self.connection):
            super().execute(*args, **kwargs)
        return self

    def executemany(self, *args: Any, **kwargs: Any) -> None:
        """Run the statement for each; in a lent session, as one transaction."""
        with _one_transaction(self.connection):
            super().executemany(*args, **kwargs)

    def stream(self, *args: Any, **kwargs: Any) -> Iterator[R]:
        """Yield the rows one by one; from a lent session, as a transaction."""
        with self.connection.transaction() if _begins(self.connection) else nullcontext():
            yield from super().stream(*args, **kwargs)


class AsyncSessionCursor(psycopg.AsyncCursor[R]):
    """The same for event loops."""

    async def execute(self, *args: Any, **kwargs: Any) -> Self:
        """Run the statement; in a lent session, as a transaction."""
        async with _one_async_transaction(self.connection):
            await super().execute(*args, **kwargs)
        return self


class SessionConnection(AnsweringConnection):
    """A connection of ours, whose session may be lent."""

    #: Whether a pooler lends a session for each transaction.
    is_lent = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = SessionCursor

    def lend(self) -> None:
        """Tell from now on each transaction what a session of ours is told, and prepare nothing: the next one may be elsewhere."""
        self.prepare_threshold = None
        self.isolation_level = ISOLATION
        self.is_lent = True

    @contextmanager
    def transaction(self, *args: Any, **kwargs: Any) -> Iterator[psycopg.Transaction]:
        """Run the block as a transaction, or as a savepoint of the one that goes on."""
        begins = _begins(self)
        with super().transaction(*args, **kwargs) as transaction:
            if begins:
                self.execute(_TELL, introduction(lent=True))
            yield transaction


class AsyncSessionConnection(AsyncAnsweringConnection):
    """The same for event loops."""

    is_lent = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = AsyncSessionCursor

    async def lend(self) -> None:
        """Tell from now on each transaction what a session of ours is told, and prepare nothing."""
        self.prepare_threshold = None
        await self.set_isolation_level(ISOLATION)
        self.is_lent = True

    @asynccontextmanager
    async def transaction(self, *args: Any, **kwargs: Any) -> AsyncIterator[psycopg.AsyncTransaction]:
        """Run the block as a transaction, or as a savepoint of the one that goes on."""
        begins = _begins(self)
        async with super().transaction(*args, **kwargs) as transaction:
            if begins:
                await self.execute(_TELL, introduction(lent=True))
            yield transaction


def begin(connection: psycopg.Connection[Any]) -> None:
    """Begin a transaction in a pipeline, whose session knows what it has to; whoever calls this ends it."""
    connection.execute(_BEGIN)
    if _is_lent(connection):
        connection.execute(_TELL, introduction(lent=True))


@contextmanager
def told_if_lent(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Run what the block has in a pipeline; in a lent session as a transaction that knows what it has to."""
    if not _is_lent(connection):
        yield
        return
    begin(connection)
    yield
    connection.execute(_COMMIT)


def _is_lent(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    return bool(getattr(connection, "is_lent", False))  # that of a caller's own knows nothing of it


def _begins(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Return whether what comes next is a transaction by itself, in a session that has to be told."""
    info = connection.info
    return _is_lent(connection) and info.transaction_status == TransactionStatus.IDLE and info.pipeline_status == PipelineStatus.OFF


@contextmanager
def _one_transaction(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Run the statement of the block, where it would be a transaction by itself, as one that begins with our settings."""
    if not _begins(connection):
        yield
        return
    try:
        with connection.pipeline(), told_if_lent(connection):
            yield
    except BaseException:
        if not connection.closed:
            connection.rollback()
        raise


@asynccontextmanager
async def _one_async_transaction(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    """Run it for an event loop."""
    if not _begins(connection):
        yield
        return
    try:
        async with connection.pipeline():
            await connection.execute(_BEGIN)
            await connection.execute(_TELL, introduction(lent=True))
            yield
            await connection.execute(_COMMIT)
    except BaseException:
        if not connection.closed:
            await connection.rollback()
        raise
