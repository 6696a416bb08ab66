"""The backend's way to the database: opened on first use in each process, tried again when it breaks."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from celery.exceptions import BackendError, ImproperlyConfigured

from celery_journal.consumers import embedded
from celery_journal.consumers.options import Options
from celery_journal.journal import Connection, Connections, DatabaseError, DatabaseUnreachable, SchemaError, check_version, migrate

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: A connection that ended, a server that shuts down, a serialization failure, a deadlock: the same statement may do next time.
TRANSIENT = (psycopg.OperationalError, psycopg.InterfaceError)


class JournalUnavailable(BackendError):
    """The database of the journal cannot be reached at the moment. Nothing was stored, and trying again may help."""


class Database:
    """The journal's database, as one backend uses it: from any thread, and from every process forked off."""

    def __init__(self, location: str | Path, options: Options) -> None:
        self.location = location
        self.options = options
        self._opened: dict[int, Connections] = {}

    def run(self, work: Callable[[Connection], T], *, budget: float | None = None) -> T:
        """Return what `work` returns, given a connection.

        When the connection breaks, `work` is called again, with a jittered back-off, for `budget` seconds at most
        (the option retry_budget, unless given); so it must be idempotent. Raises JournalUnavailable when that did not
        help, ImproperlyConfigured when the database refuses us or has no journal for this version.
        """
        deadline = time.monotonic() + (self.options.retry_budget if budget is None else budget)
        attempt = 0
        while True:
            try:
                return self._run(work)
            except (*TRANSIENT, JournalUnavailable) as exc:
                attempt += 1
                pause = random.uniform(0, min(0.05 * 2**attempt, 2.0)) if attempt > 1 else 0.0  # noqa: S311  jitter, no secret
                if time.monotonic() + pause > deadline:
                    if isinstance(exc, JournalUnavailable):
                        raise
                    raise JournalUnavailable(f"the journal's database failed: {_first_line(exc)}") from exc
                logger.warning("journal unavailable, trying again", extra={"attempt": attempt, "error": _first_line(exc)})
                time.sleep(pause)
                self._replace_broken()

    def _run(self, work: Callable[[Connection], T]) -> T:
        try:
            connections = self._connections()
            with connections.connection() as connection:
                return work(connection)
        except DatabaseUnreachable as exc:
            if not isinstance(self.location, str):
                self.close()  # an embedded server that has stopped is started again by the next use
            raise JournalUnavailable(str(exc)) from exc
        except (DatabaseError, SchemaError) as exc:
            raise ImproperlyConfigured(str(exc)) from exc

    def _connections(self) -> Connections:
        """Return this process's connections, to a schema that has been checked."""
        connections = self._opened.get(os.getpid())
        if connections is None:
            dsn = self.location if isinstance(self.location, str) else embedded.use(self.location)
            connections = Connections(dsn, self.options.pool_size, self.options.connect_timeout)
            with connections.connection() as connection:
                if not isinstance(self.location, str):
                    migrate(connection, self.options.schema_name)  # an embedded journal has no operator who would
                check_version(connection, self.options.schema_name)
            connections = self._opened.setdefault(os.getpid(), connections)
        return connections

    def _replace_broken(self) -> None:
        if connections := self._opened.get(os.getpid()):
            with suppress(DatabaseError):
                connections.check()

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        connections: Any = self._opened.pop(os.getpid(), None)
        if connections is not None:
            connections.close()


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__
