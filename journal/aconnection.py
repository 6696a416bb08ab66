"""Connections for asyncio: one bounded pool an event loop, that ends with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from .connection import APPLICATION_NAME, CONNECT_TIMEOUT, Connection, complete, connect
from .errors import DatabaseUnreachable

AsyncConnection = psycopg.AsyncConnection[Any]
_Pool = AsyncConnectionPool[AsyncConnection]


class AsyncConnections:
    """A bounded pool of connections for each event loop that asks; a forked child opens its own."""

    def __init__(
        self, dsn: str, size: int = 4, timeout: float = CONNECT_TIMEOUT, check: Callable[[Connection], None] | None = None
    ) -> None:
        """`check` is given a connection, in a thread, before there is any other; what it raises, `connection` raises."""
        self.dsn = dsn
        self.size = size
        self.timeout = timeout
        self._check = check
        self._pools: dict[int, WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[_Pool]]] = {}

    @asynccontextmanager
    async def connection(self, timeout: float | None = None) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in autocommit mode, within `timeout` seconds (ours, unless given).

        Raises DatabaseUnreachable, LoginRefused or DatabaseMissing if there can be none.
        """
        timeout = self.timeout if timeout is None else min(timeout, self.timeout)
        pool = await self._opened()
        try:
            connection = await pool.getconn(timeout)
        except PoolTimeout as exc:
            await asyncio.to_thread(self._look, timeout)  # says what is wrong, if it is not only that all are in use
            raise DatabaseUnreachable("no connection became free in time; raise pool_size") from exc
        try:
            yield connection
        finally:
            await pool.putconn(connection)

    async def close(self) -> None:
        """Close the connections of this event loop; the next use opens new ones."""
        opening = self._of_this_process().pop(asyncio.get_running_loop(), None)
        if opening is not None:
            await (await opening).close()

    async def _opened(self) -> _Pool:
        pools, loop = self._of_this_process(), asyncio.get_running_loop()
        opening = pools.get(loop)
        if opening is None:  # who comes meanwhile waits for the same
            opening = pools[loop] = loop.create_task(self._open())
            opening.add_done_callback(lambda opened: opened.cancelled() or opened.exception())  # though nobody waits any more
        try:
            return await asyncio.shield(opening)
        except BaseException:
            if opening.done() and pools.get(loop) is opening:
                del pools[loop]
            raise

    async def _open(self) -> _Pool:
        prepare_threshold = await asyncio.to_thread(self._look, self.timeout)  # the pool itself cannot say why it gets no connection
        pool: _Pool = AsyncConnectionPool(
            complete(self.dsn, self.timeout),
            min_size=0,
            max_size=self.size,
            timeout=self.timeout,
            max_idle=300,
            open=False,
            kwargs={"autocommit": True, "prepare_threshold": prepare_threshold},
            check=AsyncConnectionPool.check_connection,  # the server may have been restarted
            name=APPLICATION_NAME,
        )
        await pool.open()
        pools, loop = self._of_this_process(), asyncio.get_running_loop()
        _close_with_loop(pool, lambda: pools.pop(loop, None))
        return pool

    def _look(self, timeout: float) -> int | None:
        with connect(self.dsn, timeout) as first:
            if self._check is not None:
                self._check(first)
            return first.prepare_threshold

    def _of_this_process(self) -> WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[_Pool]]:
        return self._pools.setdefault(os.getpid(), WeakKeyDictionary())


_guards: set[asyncio.Task[None]] = set()


def _close_with_loop(pool: _Pool, forget: Callable[[], object]) -> None:
    """Close the pool, and forget it, when its event loop ends: asyncio.run() cancels what is left then, and waits for it."""

    async def guard() -> None:
        try:
            while not pool.closed:
                await asyncio.sleep(3600)
        finally:
            forget()  # what is kept of it would keep the loop
            await pool.close()

    task = asyncio.get_running_loop().create_task(guard(), name="celery-journal-pool")
    _guards.add(task)
    task.add_done_callback(_guards.discard)
