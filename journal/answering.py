"""Connections that wait for the server only until a deadline, whatever stands between the two.

The waiting is done here and not by `statement_timeout`: a server that hangs does not look at its clock, and behind a
pooler a setting of the session is somebody else's.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

import psycopg
from psycopg import pq, waiting

T = TypeVar("T")
_Waits = Generator[Any, Any, T]

#: Seconds between two looks at the clock, and for Ctrl-C.
_INTERVAL = 0.1

#: Seconds that a request to cancel may take, in a thread that nobody waits for.
_PATIENCE = 5.0

#: Seconds that Ctrl-C waits for the statement to end.
_FAREWELL = 1.0

#: When whoever works in this context stops waiting for the server, by the monotonic clock; None: never.
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


class Overdue(psycopg.OperationalError):
    """The server did not answer in time. Whether it did what it was asked is not known."""


@contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Wait for the server during the block no longer than that, nor longer than a block around this one."""
    outer = _deadline.get()
    if seconds is None:
        yield
        return
    ours = time.monotonic() + seconds
    token = _deadline.set(ours if outer is None else min(ours, outer))
    try:
        yield
    finally:
        _deadline.reset(token)


def remaining(seconds: float) -> float:
    """Return how many of the seconds are left before the deadline."""
    deadline = _deadline.get()
    return seconds if deadline is None else max(0.0, min(seconds, deadline - time.monotonic()))


class AnsweringConnection(psycopg.Connection[Any]):
    """A connection that is given up, and its statement cancelled, when the deadline has passed."""

    def wait(self, gen: _Waits[T], *_args: Any, **_kwargs: Any) -> T:
        """Return what the generator returns; raise Overdue when the server has not answered in time."""
        waits = _until(gen, _deadline.get())
        try:
            return waiting.wait(waits, self.pgconn.socket, interval=_INTERVAL)
        except Overdue:
            _abandon(self.pgconn)
            raise
        except (KeyboardInterrupt, CancelledError):
            if self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
                _cancel(self.pgconn)
                try:
                    with suppress(psycopg.errors.QueryCanceled):
                        waiting.wait(_until(waits, time.monotonic() + _FAREWELL), self.pgconn.socket, interval=_INTERVAL)
                except Overdue:
                    self.pgconn.finish()
            raise


class AsyncAnsweringConnection(psycopg.AsyncConnection[Any]):
    """The same for event loops; whoever is cancelled while it waits is let go at once."""

    async def wait(self, gen: _Waits[T], *_args: Any, **_kwargs: Any) -> T:
        """Return what the generator returns; raise Overdue when the server has not answered in time."""
        try:
            return await waiting.wait_async(_until(gen, _deadline.get()), self.pgconn.socket, interval=_INTERVAL)
        except (Overdue, CancelledError, KeyboardInterrupt):
            if self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
                _abandon(self.pgconn)
            raise


def _until(gen: _Waits[T], deadline: float | None) -> _Waits[T]:
    """Yield what the generator waits for, and raise Overdue instead once the deadline has passed and nothing has come."""
    try:
        ready = yield next(gen)
        while True:
            if not ready and deadline is not None and time.monotonic() >= deadline:
                raise Overdue("the server did not answer in time")
            ready = yield gen.send(ready)
    except StopIteration as done:
        result: T = done.value
        return result


def _abandon(pgconn: pq.abc.PGconn) -> None:
    """Cancel the statement and end the connection, without waiting for either."""
    _cancel(pgconn)
    pgconn.finish()


def _cancel(pgconn: pq.abc.PGconn) -> None:
    """Ask the server to cancel the statement, in a thread: it may answer that as little as the statement."""
    with suppress(psycopg.Error, RuntimeError):  # broken already; or the interpreter is about to end
        threading.Thread(target=_asking_to_cancel(pgconn), name="celery-journal-cancel", daemon=True).start()


def _asking_to_cancel(pgconn: pq.abc.PGconn) -> Callable[[], None]:
    """Return what cancels the statement, which does not need the connection any more."""
    try:
        request = pgconn.cancel_conn()
    except psycopg.NotSupportedError:  # libpq before 17
        old = pgconn.get_cancel()

        def cancel() -> None:
            with suppress(psycopg.Error):
                old.cancel()

        return cancel
    pid = os.getpid()

    def ask() -> None:
        with suppress(psycopg.Error, OSError):
            request.start()
            until = time.monotonic() + _PATIENCE
            while os.getpid() == pid and time.monotonic() < until:
                match request.poll():
                    case pq.PollingStatus.READING:
                        _wait_for(request.socket, selectors.EVENT_READ)
                    case pq.PollingStatus.WRITING:
                        _wait_for(request.socket, selectors.EVENT_WRITE)
                    case _:
                        break
        request.finish()

    return ask


def _wait_for(fileno: int, event: int) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(fileno, event)
        selector.select(_INTERVAL)
