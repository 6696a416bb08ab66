"""Hints that a stream has news: what a writer sends after its commit, and what a listener hears."""

from __future__ import annotations

import hashlib
import selectors
import socket
from collections.abc import Iterable
from contextlib import suppress

import psycopg

from celery_journal import sql

from .answering import within
from .connection import CONNECT_TIMEOUT, connect
from .errors import CannotListen
from .events import Event, TaskEvent, TaskFailed, TaskIgnored, TaskRevoked, TaskSucceeded

#: A hint for everybody, in place of more tokens than fit into the 8000 bytes of a notification.
EVERYTHING = "*"

_MOST_TOKENS = 500


def token(stream: str) -> str:
    """Return what stands for the stream in a hint: ids may be data of users, which a channel that all can hear must not tell."""
    return hashlib.blake2b(stream.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def audience_of(events: Iterable[Event]) -> str | None:
    """Return who could be waiting for the events: those who wait for `results`, those who want all `transitions`, or nobody."""
    news = [event for event in events if isinstance(event, TaskEvent)]
    if any(isinstance(event, TaskSucceeded | TaskFailed | TaskRevoked | TaskIgnored) for event in news):
        return "results"
    return "transitions" if news else None


def announcement(events: Iterable[Event], audience: str) -> dict[str, str]:
    """Return the parameters of the query that hints at the events."""
    tokens = {token(event.stream) for event in events if isinstance(event, TaskEvent)}
    return {"audience": audience, "tokens": " ".join(sorted(tokens)) if len(tokens) <= _MOST_TOKENS else EVERYTHING}


class Listener:
    """A connection that hears the hints of one journal, for one thread; another may wake it."""

    def __init__(self, dsn: str, schema: str = sql.DEFAULT_SCHEMA, *, transitions: bool = False, timeout: float = CONNECT_TIMEOUT) -> None:
        """Listen from now on, for results, and for transitions too if asked.

        Raises DatabaseError where there can be no connection, CannotListen where it leads through a pooler or to a
        standby, and psycopg.Error when it breaks.
        """
        self._connection = connect(dsn, timeout)
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        try:
            with within(timeout):
                self._listen(schema, transitions)
        except BaseException:
            self.close()
            raise

    def _listen(self, schema: str, transitions: bool) -> None:
        if self._connection.prepare_threshold is None:  # so says connect()
            raise CannotListen("this connection leads through a pooler")
        try:
            self._connection.execute(sql.query("notify.sql", "listen", schema))
        except psycopg.errors.ReadOnlySqlTransaction as exc:
            raise CannotListen("this server is a standby") from exc
        for audience in ("results", "transitions") if transitions else ("results",):
            self._connection.execute(sql.query("notify.sql", "hear", schema), {"audience": audience})

    def wait(self, timeout: float) -> set[str]:
        """Return the tokens heard within `timeout` seconds; none when time is up or when woken. Raises psycopg.Error when it breaks."""
        # Not Connection.notifies(timeout=...): nobody could wake it.
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection.fileno(), selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            ready = {key.fileobj for key, _ in selector.select(timeout)}
        if self._woken in ready:
            self._woken.recv(4096)
        if self._connection.fileno() not in ready:
            return set()
        return {heard for notify in self._connection.notifies(timeout=0) for heard in notify.payload.split()}

    def wake(self) -> None:
        """Let `wait` return; from any thread."""
        with suppress(OSError):  # closed, or so many wakings that one more makes no difference
            self._waker.send(b"\0")

    def close(self) -> None:
        """End the connection, and with it the listening."""
        self._connection.close()
        self._woken.close()
        self._waker.close()
