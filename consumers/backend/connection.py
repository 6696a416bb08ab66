"""The backend's way to the database: opened on first use in each process, tried again when it breaks."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakMethod

import psycopg
from celery.exceptions import BackendError, ImproperlyConfigured
from psycopg_pool import PoolTimeout

from celery_journal.consumers import embedded
from celery_journal.consumers.options import Options
from celery_journal.consumers.words import first_line
from celery_journal.journal import Connection, Connections, DatabaseError, DatabaseUnreachable, SchemaError, check_version, connect, migrate
from celery_journal.journal.answering import remaining, within
from celery_journal.journal.errors import JournalError
from celery_journal.journal.faults import is_outage, is_transient
from celery_journal.journal.waiting import JITTER

from .process import in_worker

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that every try has at least, whatever is left of its budget: a connection takes its time.
SHORTEST_TRY = 2.0

#: Seconds during which a replica that failed is left alone.
REPLICA_PAUSE = 30.0

#: Whether each call gets one try, because somebody above tries again.
one_try: ContextVar[bool] = ContextVar("one_try", default=False)


class JournalUnavailable(JournalError, BackendError):
    """The database of the journal cannot be reached at the moment. Nothing was stored, and trying again may help."""


def in_words_of_celery(exc: DatabaseError | SchemaError, *, worked: bool) -> JournalUnavailable | ImproperlyConfigured:
    """Return the error as Celery knows it. Of a server that has `worked` before no setting is wrong, nor in a worker.

    A worker was let in when it started, or the database was away; and its tasks must not fail for what a person has to correct.
    """
    may_pass = worked or in_worker() or isinstance(exc, DatabaseUnreachable) or getattr(exc, "may_pass", False)
    return JournalUnavailable(str(exc)) if may_pass else ImproperlyConfigured(str(exc))


def ensure_schema(connection: Connection, location: str | Path, schema: str) -> None:
    """Raise SchemaError if the journal there is not of this version; an embedded one, which has no operator, is brought to it."""
    if not isinstance(location, str):
        migrate(connection, schema)
    check_version(connection, schema)


class Server:
    """One database server, from any thread, and from every process forked off."""

    def __init__(self, location: str | Path, options: Options) -> None:
        self.location = location
        self.options = options
        #: Whether it has ever served us, or the process that we were forked from. What fails then is no wrong setting.
        self.worked = False
        self._opened: dict[int, Connections] = {}

    def run(self, work: Callable[[Connection], T], seconds: float) -> T:
        """Return what `work` returns, given a connection, for which it waits no longer than that.

        Raises JournalUnavailable when the server does not answer, or no longer lets us in; ImproperlyConfigured when it
        never did.
        """
        try:
            with within(self.options.answer_timeout), self.lend(remaining(seconds)) as connection:
                done = work(connection)
        except (DatabaseError, SchemaError) as exc:
            raise in_words_of_celery(exc, worked=self.worked) from exc
        except (psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.ObjectNotInPrerequisiteState):
            # It has become a standby, and with another host in the URL the next connection may find the primary; or it was restored
            # from another cluster, and a new look at its schema has the log count on.
            self.close()
            raise
        except psycopg.Error as exc:
            if is_transient(exc) or not (is_outage(exc) and (self.worked or in_worker())):
                raise
            raise JournalUnavailable(f"the journal's database refuses what it should take: {first_line(exc)}") from exc
        self.worked = True
        return done

    def admit(self, check: Callable[[Connection], object]) -> None:
        """Raise what `check` raises, or what keeps us from asking; what fails after that is no wrong setting."""
        with connect(self.dsn, self.options.connect_timeout) as connection:
            check(connection)
            ensure_schema(connection, self.location, self.options.schema_name)
        self.worked = True

    @contextmanager
    def lend(self, seconds: float) -> Iterator[Connection]:
        """Lend a connection, for which the caller waits no longer than that; what fails is said as it is."""
        try:
            with self._connections(seconds).connection(seconds) as connection:
                yield connection
        except (DatabaseError, SchemaError) as exc:
            if not isinstance(self.location, str) and not isinstance(exc.__cause__, PoolTimeout):
                self.close()  # an embedded server that has stopped is started again by the next use
            raise

    @property
    def dsn(self) -> str:
        """Where it is; an embedded server runs when this returns."""
        return self.location if isinstance(self.location, str) else embedded.use(self.location)

    def _connections(self, seconds: float) -> Connections:
        """Return this process's connections, to a schema that has been checked."""
        connections = self._opened.get(os.getpid())
        if connections is None:
            new = Connections(self.dsn, self.options.pool_size, self.options.connect_timeout)
            try:
                with new.connection(seconds) as connection:
                    ensure_schema(connection, self.location, self.options.schema_name)
                connections = self._opened.setdefault(os.getpid(), new)  # atomic; a lock could be inherited in a locked state
            finally:
                if connections is not new:  # it failed, or another thread was faster
                    new.close()
        return connections

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        connections: Any = self._opened.pop(os.getpid(), None)
        if connections is not None:
            connections.close()


class Database:
    """The journal's database, as one backend uses it: a server to write to, and perhaps another to read from."""

    def __init__(self, location: str | Path, options: Options, replica: str | Path | None = None) -> None:
        self.location = location
        self.options = options
        self._ends: list[WeakMethod[Callable[[], None]]] = []
        self._primary = Server(location, options)
        self._replica = None if replica is None else Server(replica, options)
        self._replica_rests_until = 0.0

    @property
    def dsn(self) -> str:
        """Where it is written; an embedded server runs when this returns."""
        return self._primary.dsn

    @property
    def worked(self) -> bool:
        """Whether the database has ever served us, or the process that we were forked from."""
        return self._primary.worked

    def run(self, work: Callable[[Connection], T], *, budget: float | None = None) -> T:
        """Return what `work` returns, given a connection.

        When the connection breaks, `work` is called again, with a jittered back-off, for `budget` seconds at most
        (the option retry_budget, unless given); so it must be idempotent. Raises JournalUnavailable when that did not
        help, ImproperlyConfigured when the database refuses us or has no journal for this version.
        """
        if budget is None:
            budget = 0.0 if one_try.get() else self.options.retry_budget
        deadline = time.monotonic() + budget
        attempt = 0
        while True:
            try:
                return self._primary.run(work, max(deadline - time.monotonic(), SHORTEST_TRY))
            except (psycopg.Error, JournalUnavailable) as exc:
                if not is_transient(exc) and not isinstance(exc, JournalUnavailable):
                    raise
                attempt += 1
                pause = JITTER.uniform(0, min(0.05 * 2**attempt, 2.0)) if attempt > 1 else 0.0
                if time.monotonic() + pause > deadline:
                    if isinstance(exc, JournalUnavailable):
                        raise
                    raise JournalUnavailable(f"the journal's database failed: {first_line(exc)}") from exc
                logger.warning("journal unavailable, trying again", extra={"attempt": attempt, "error": first_line(exc)})
                time.sleep(pause)

    def admit(self, check: Callable[[Connection], object]) -> None:
        """Look once, over a connection of its own, whether the journal can be written to: raise what `check` raises, or what is wrong."""
        self._primary.admit(check)

    def read(self, work: Callable[[Connection], T]) -> T:
        """Return what `work` returns, given a connection to the replica, which may be a little behind.

        Without a replica, or when it fails, it is the server that is written to.
        """
        if self._replica is not None and time.monotonic() >= self._replica_rests_until:
            try:
                done = self._replica.run(work, SHORTEST_TRY)
            except (psycopg.Error, JournalUnavailable, ImproperlyConfigured) as exc:
                self._rest_replica(exc)
            else:
                self._replica_rests_until = 0.0
                return done
        return self.run(work)

    @contextmanager
    def lend(self, *, fresh: bool = True) -> Iterator[Connection]:
        """Lend a connection; unless it must be `fresh`, to the replica, where there is one that answers. Nothing is tried again."""
        with ExitStack() as stack:
            yield self._lent(stack, fresh=fresh)

    def _lent(self, stack: ExitStack, *, fresh: bool) -> Connection:
        if self._replica is not None and not fresh and time.monotonic() >= self._replica_rests_until:
            try:
                connection = stack.enter_context(self._replica.lend(SHORTEST_TRY))
            except (psycopg.Error, DatabaseError, SchemaError) as exc:
                self._rest_replica(exc)
            else:
                self._replica_rests_until = 0.0
                return connection
        return stack.enter_context(self._primary.lend(self.options.connect_timeout))

    def _rest_replica(self, exc: BaseException) -> None:
        if not self._replica_rests_until:
            logger.warning("the replica of read_dsn failed, reading from the primary: %s", first_line(exc))
        self._replica_rests_until = time.monotonic() + REPLICA_PAUSE

    def on_close(self, end: Callable[[], None]) -> None:
        """Have the method called before the connections are closed, and before those that were told earlier.

        It is held weakly: of many threads that ask a new app for its backend each may get one of its own, and those that
        nobody uses must go at once, with their connections.
        """
        self._ends.append(WeakMethod(end))

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        for reference in reversed(self._ends):  # who came later may need who was there before
            if end := reference():
                end()
        for server in (self._primary, self._replica):
            if server is not None:
                server.close()
