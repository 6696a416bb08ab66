"""The backend's way to the database for asyncio, with psycopg's asynchronous connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from celery.exceptions import ImproperlyConfigured

from celery_journal.consumers import embedded
from celery_journal.consumers.options import Options
from celery_journal.journal import Connection, DatabaseError, SchemaError
from celery_journal.journal.aconnection import AsyncConnection, AsyncConnections

from .connection import JournalUnavailable, ensure_schema, in_words_of_celery

logger = logging.getLogger(__name__)


class AsyncDatabase:
    """The journal's database, as event loops use it: a server to write to, and perhaps another to read from."""

    def __init__(self, location: str | Path, options: Options, replica: str | Path | None = None) -> None:
        self._options = options
        self._primary = _Server(location, options)
        self._replica = None if replica is None else _Server(replica, options)

    @property
    def schema(self) -> str:
        """The schema of the journal."""
        return self._options.schema_name

    @asynccontextmanager
    async def primary(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection that sees everything. Raises JournalUnavailable or ImproperlyConfigured if there is none."""
        async with self._primary.connection() as connection:
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection to read from: to the replica, which may be a little behind, where there is one that answers."""
        async with AsyncExitStack() as stack:
            yield await self._lent(stack)

    async def close(self) -> None:
        """Close the connections of this event loop; the next use opens new ones, and asyncio.run() closes them by itself."""
        for server in (self._primary, self._replica):
            if server is not None:
                await server.close()

    async def _lent(self, stack: AsyncExitStack) -> AsyncConnection:
        if self._replica is not None:
            try:
                return await stack.enter_async_context(self._replica.connection())
            except (JournalUnavailable, ImproperlyConfigured) as exc:
                logger.warning("the replica of read_dsn failed, reading from the primary: %s", exc)
        return await stack.enter_async_context(self._primary.connection())


class _Server:
    """One database server."""

    def __init__(self, location: str | Path, options: Options) -> None:
        self._location = location
        self._options = options
        self._connections: AsyncConnections | None = None
        self._worked = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        if self._connections is None:
            dsn = self._location if isinstance(self._location, str) else await asyncio.to_thread(embedded.use, self._location)
            if self._connections is None:  # another task may have been quicker
                self._connections = AsyncConnections(dsn, self._options.pool_size, self._options.connect_timeout, self._check)
        try:
            async with self._connections.connection() as connection:
                self._worked = True
                yield connection
        except (DatabaseError, SchemaError) as exc:
            raise in_words_of_celery(exc, worked=self._worked) from exc

    async def close(self) -> None:
        if self._connections is not None:
            await self._connections.close()

    def _check(self, connection: Connection) -> None:
        ensure_schema(connection, self._location, self._options.schema_name)
