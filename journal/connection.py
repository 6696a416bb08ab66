"""Connections: one bounded pool a process, never an inherited connection, and errors that say what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool, PoolTimeout

from celery_journal import sql

from .answering import Overdue, remaining, within
from .asking import asked
from .dsn import parts_of, redact
from .errors import DatabaseError, DatabaseMissing, DatabaseUnreachable, DsnUnreadable, LoginRefused
from .faults import NO_DATABASE, NO_LOGIN, WRONG_LOGIN
from .moments import READING
from .processes import cooperate, remember
from .sessions import SESSION, SessionConnection, introduction

Connection = psycopg.Connection[Any]

CONNECT_TIMEOUT = 10.0

#: Seconds for which it is asked why there is no connection.
ASKING = 2.0

#: How long a host that has vanished without a word is waited for; the system's own defaults are up to two hours.
PATIENCE = {"tcp_user_timeout": 30_000, "keepalives_idle": 20, "keepalives_interval": 5, "keepalives_count": 2}

#: What a connection of ours is called in pg_stat_activity.
APPLICATION_NAME = "celery-journal"

#: The routine of PostgreSQL that finds out whether a role exists and may log in.
OF_ROLES = "InitializeSessionUserId"

#: A name that needs no quotes in SQL.
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


def connect(dsn: str, timeout: float = CONNECT_TIMEOUT) -> Connection:
    """Return a connection in autocommit mode.

    Raises DatabaseUnreachable, LoginRefused or DatabaseMissing, whose text is one sentence without the password.
    """
    cooperate()
    try:
        connection = SessionConnection.connect(complete(dsn, timeout), autocommit=True, context=READING)
        remember(connection)
        return _introduced(connection, timeout)
    except psycopg.ProgrammingError as exc:
        if exc.sqlstate is not None:  # of our own statement, and not of the DSN
            raise
        # From nothing: libpq quotes what it cannot read, and that may be the password.
        raise DsnUnreadable("the DSN cannot be read; write it as postgresql://user@host:port/database") from None
    except psycopg.OperationalError as exc:
        # psycopg's own keeps what it connected with, the password too, for whoever stores errors with their attributes.
        failure, cause = explain(dsn, exc), type(exc)(str(exc))
    raise failure from cause


def _introduced(connection: SessionConnection, timeout: float) -> Connection:
    """Return the connection, as soon as it is known whose session it is, and a session of ours knows how we write; close it otherwise."""
    try:
        with within(timeout):
            parameters = {"given": connection.info.backend_pid, **introduction(lent=False)}
            if connection.execute(sql.query("schema.sql", "introduce"), parameters).fetchone() != (False, len(SESSION)):
                connection.lend()
    except BaseException:
        connection.close()
        raise
    return connection


def is_pooled(connection: Connection) -> bool:
    """Return whether this leads through a pooler, such as PgBouncer, which may lend another session for each transaction."""
    # A pooler makes up the process id that it gives to its clients.
    row = connection.execute(sql.query("schema.sql", "backend"), {"given": connection.info.backend_pid}).fetchone()
    return row is not None and bool(row[0])


def complete(dsn: str, timeout: float = CONNECT_TIMEOUT) -> str:
    """Return the DSN with our defaults for what it leaves open."""
    given = parts_of(dsn)
    defaults: dict[str, Any] = {"connect_timeout": max(2, round(timeout)), "application_name": APPLICATION_NAME, **PATIENCE}
    ours = {name: value for name, value in defaults.items() if name not in given}
    return make_conninfo(dsn, **ours, client_encoding="UTF8")  # whatever is given: texts are of all languages


def explain(dsn: str, exc: psycopg.OperationalError) -> DatabaseError:
    """Return what a failed attempt to connect means, in one sentence: by its SQLSTATE, and else by asking."""
    where = redact(dsn)
    if isinstance(exc, psycopg.errors.ConnectionTimeout | Overdue):
        return DatabaseUnreachable(f"PostgreSQL at {where} does not answer in time")
    state, said, routine = exc.sqlstate, _said(exc), ""
    if state in {None, NO_LOGIN}:
        state, said, routine = asked(complete(dsn, ASKING)) or (state, said, routine)
    if state == NO_DATABASE:
        name = exc.pgconn.db.decode() if exc.pgconn is not None else parts_of(dsn).get("dbname")
        return DatabaseMissing(f"PostgreSQL at {where} has no database of that name; run: createdb {name}")
    if state == WRONG_LOGIN:
        return LoginRefused(
            f"PostgreSQL at {where} refuses the user or the password ({said}); correct the URL or PGPASSWORD", sqlstate=state
        )
    if state == NO_LOGIN and routine == OF_ROLES:
        return LoginRefused(f"PostgreSQL at {where} knows no such login ({said}); {_role_to_make(dsn, exc)}", sqlstate=state)
    if state == NO_LOGIN:
        return LoginRefused(
            f"PostgreSQL at {where} refuses the login ({said}); correct the URL, or the server's pg_hba.conf", sqlstate=state
        )
    if exc.pgconn is not None and exc.pgconn.needs_password and not exc.pgconn.used_password:  # libpq has none to send
        return LoginRefused(f"PostgreSQL at {where} asks for a password, and there is none; add it to the URL or set PGPASSWORD")
    if state is not None or _answers(dsn):
        return LoginRefused(f"PostgreSQL at {where} refuses the connection: {said}", may_pass=True, sqlstate=state)
    return DatabaseUnreachable(f"no PostgreSQL answers at {where}; start it or correct the URL")


def _role_to_make(dsn: str, exc: psycopg.OperationalError) -> str:
    """Return what to do where a role does not exist, or must not log in: both are refused with one SQLSTATE."""
    given = parts_of(dsn).get("user")
    name = str(given or (exc.pgconn.user.decode() if exc.pgconn is not None else ""))
    quoted = name if _PLAIN.fullmatch(name) else '"{}"'.format(name.replace('"', '""'))
    other = "name another user in the URL" if given else "name a user in the URL, which has none"
    return f"{other}, or run there: create role {quoted} login (alter role {quoted} login, if it exists)"


def _said(exc: psycopg.OperationalError) -> str:
    """Return the server's own words, which libpq puts after those about the address; a password is in neither."""
    last = str(exc).strip().rpartition("\n")[2]
    return last.rpartition("failed: ")[2].removeprefix("FATAL:").strip() or type(exc).__name__


def _answers(dsn: str) -> bool:
    parts = {key: value for key, value in parts_of(dsn).items() if key in {"host", "hostaddr", "port"}}
    parameters = make_conninfo("", **parts, connect_timeout=2).encode()
    return psycopg.pq.PGconn.ping(parameters) == psycopg.pq.Ping.OK


def pool_options(dsn: str, size: int, timeout: float, prepare_threshold: int | None) -> dict[str, Any]:
    """Return what every pool of ours is made with."""
    # A pooler refuses `options`, and has sessions that are not ours.
    given = parts_of(dsn).get("options") or ""
    settings = " ".join("-c {}={}".format(name, value.replace(" ", "\\ ")) for name, value in SESSION.items())
    options = {} if prepare_threshold is None else {"options": f"{given} {settings}".strip()}
    return {
        "conninfo": make_conninfo(complete(dsn, timeout), **options),
        "min_size": 0,
        "max_size": size,
        "timeout": timeout,
        "max_idle": 300,
        "connection_class": SessionConnection,
        "kwargs": {"autocommit": True, "prepare_threshold": prepare_threshold, "context": READING},
        "name": APPLICATION_NAME,
    }


class Connections:
    """A bounded pool of connections, thread-safe; a forked child opens its own and leaves the inherited ones alone."""

    def __init__(self, dsn: str, size: int = 4, timeout: float = CONNECT_TIMEOUT) -> None:
        self.dsn = dsn
        self.size = size
        self.timeout = timeout
        #: By process. What was inherited through a fork is neither used nor closed: that would end the parent's sessions.
        self._pools: dict[int, ConnectionPool[Connection]] = {}

    @contextmanager
    def connection(self, timeout: float | None = None) -> Iterator[Connection]:
        """Lend a connection, within `timeout` seconds (ours, unless given).

        Raises DatabaseUnreachable, LoginRefused or DatabaseMissing if there can be none.
        """
        timeout = self.timeout if timeout is None else min(timeout, self.timeout)
        pool = self._open(timeout)
        try:
            connection = pool.getconn(timeout)
        except PoolTimeout as exc:
            try:
                connect(self.dsn, remaining(timeout)).close()  # says what is wrong, if it is not only that all are in use
            except DatabaseError:
                self._discard(pool)
                raise
            raise DatabaseUnreachable(f"no connection to {redact(self.dsn)} became free within {timeout:g} s; raise pool_size") from exc
        try:
            yield connection
        finally:
            broken = connection.broken
            pool.putconn(connection)
            if broken:
                self._discard(pool)

    def _discard(self, pool: ConnectionPool[Connection]) -> None:
        """Have the next use open a new pool: one that met an outage pauses longer and longer, and would miss the end of it."""
        current = self._pools.pop(os.getpid(), None)
        if current is not None and current is not pool and self._pools.setdefault(os.getpid(), current) is not current:
            current.close(timeout=0.5)
        pool.close(timeout=0.5)

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        pool = self._pools.pop(os.getpid(), None)
        if pool is not None:
            pool.close(timeout=1)

    def _open(self, timeout: float) -> ConnectionPool[Connection]:
        pool = self._pools.get(os.getpid())
        if pool is None:
            with connect(self.dsn, timeout) as first:  # the pool itself cannot say why it gets no connection
                prepare_threshold = first.prepare_threshold

            def configure(connection: SessionConnection) -> None:
                remember(connection)
                if prepare_threshold is None:
                    connection.lend()

            new = ConnectionPool(**pool_options(self.dsn, self.size, self.timeout, prepare_threshold), open=True, configure=configure)
            pool = self._pools.setdefault(os.getpid(), new)  # atomic; a lock could be inherited in a locked state
            if pool is not new:
                new.close()
        return pool
