"""Connections for asyncio: one bounded pool an event loop, that ends with it."""

from __future__ import annotations

import asyncio
import os
import selectors
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from .connection import CONNECT_TIMEOUT, Connection, connect, pool_options
from .dsn import redact
from .errors import DatabaseError, DatabaseUnreachable
from .sessions import AsyncSessionConnection

T = TypeVar("T")

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
            try:
                await _in_a_thread(lambda: self._look(timeout))  # says what is wrong, if it is not only that all are in use
            except DatabaseError:
                await self._discard(pool)
                raise
            raise DatabaseUnreachable(f"no connection to {redact(self.dsn)} became free within {timeout:g} s; raise pool_size") from exc
        try:
            yield connection
        finally:
            broken = connection.broken
            await pool.putconn(connection)
            if broken:
                await self._discard(pool)

    async def close(self) -> None:
        """Close the connections of this event loop; the next use opens new ones."""
        opening = self._of_this_process().get(asyncio.get_running_loop())
        if opening is not None:
            await self._discard(await opening)

    async def _discard(self, pool: _Pool) -> None:
        """Have the next use open a new pool: one that met an outage pauses longer and longer, and would miss the end of it."""
        self._forget(pool, asyncio.get_running_loop())
        await pool.close(timeout=0.5)

    def _forget(self, pool: _Pool, loop: asyncio.AbstractEventLoop) -> None:
        pools = self._of_this_process()
        opening = pools.get(loop)
        if opening is not None and opening.done() and not opening.cancelled() and opening.exception() is None and opening.result() is pool:
            del pools[loop]

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
        prepare_threshold = await _in_a_thread(lambda: self._look(self.timeout))  # the pool itself cannot say why it gets no connection
        options = {**pool_options(self.dsn, self.size, self.timeout, prepare_threshold), "connection_class": AsyncSessionConnection}
        if prepare_threshold is None:
            options["configure"] = AsyncSessionConnection.lend
        pool: _Pool = AsyncConnectionPool(**options, open=False, check=_check)
        await pool.open()
        loop = asyncio.get_running_loop()
        _close_with_loop(pool, lambda: self._forget(pool, loop))
        return pool

    def _look(self, timeout: float) -> int | None:
        with connect(self.dsn, timeout) as first:
            if self._check is not None:
                self._check(first)
            return first.prepare_threshold

    def _of_this_process(self) -> WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[_Pool]]:
        return self._pools.setdefault(os.getpid(), WeakKeyDictionary())


async def _in_a_thread(call: Callable[[], T]) -> T:
    """Return what the call returns, from a thread that the end of the event loop does not wait for, as it does for asyncio's own."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def tell(settle: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: None if answer.done() else settle())

    def run() -> None:
        try:
            done = context.run(call)
        except BaseException as exc:  # noqa: BLE001  it is for who waits
            error = exc
            tell(lambda: answer.set_exception(error))
        else:
            tell(lambda: answer.set_result(done))

    threading.Thread(target=run, name="celery-journal-look", daemon=True).start()
    return await answer


async def _check(connection: AsyncConnection) -> None:
    """Refuse a connection that the server has ended since it was used: then there is something to read. That costs no round trip."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        if selector.select(0):
            await AsyncConnectionPool.check_connection(connection)


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
