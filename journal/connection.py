"""Connections: one bounded pool a process, never an inherited connection, and errors that say what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import ConnectionPool, PoolTimeout

from celery_journal import sql

from .errors import DatabaseError, DatabaseMissing, DatabaseUnreachable, DsnUnreadable, LoginRefused
from .processes import cooperate, remember

Connection = psycopg.Connection[Any]

CONNECT_TIMEOUT = 10.0

#: How long a host that has vanished without a word is waited for; the system's own defaults are up to two hours.
PATIENCE = {"tcp_user_timeout": 30_000, "keepalives_idle": 20, "keepalives_interval": 5, "keepalives_count": 2}

#: What a connection of ours is called in pg_stat_activity.
APPLICATION_NAME = "celery-journal"


def redact(dsn: str) -> str:
    """Return where the DSN leads, without its password, of which libpq takes what follows an @ for the host."""
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "(an unreadable DSN)"
    if "@" in str(parts.get("host") or ""):
        return "(a DSN whose password has an @, which must be written as %40)"
    hosts, ports = (str(parts.get(name) or "").split(",") for name in ("host" if parts.get("host") else "hostaddr", "port"))
    if len(ports) == 1:
        ports *= len(hosts)  # one port is that of every host
    where = ",".join(f"{host}:{port}" if port and not host.startswith("/") else host for host, port in zip(hosts, ports, strict=False))
    user = f"{parts['user']}@" if parts.get("user") else ""
    return f"{user}{where or 'the local socket'}/{parts.get('dbname') or ''}"


def connect(dsn: str, timeout: float = CONNECT_TIMEOUT) -> Connection:
    """Return a connection in autocommit mode.

    Raises DatabaseUnreachable, LoginRefused or DatabaseMissing, whose text is one sentence without the password.
    """
    cooperate()
    try:
        connection = psycopg.connect(complete(dsn, timeout), autocommit=True)
        remember(connection)
        if is_pooled(connection):
            connection.prepare_threshold = None  # the next transaction may be in a session that has not prepared the statement
        return connection
    except psycopg.ProgrammingError:
        # From nothing: libpq quotes what it cannot read, and that may be the password.
        raise DsnUnreadable("the DSN cannot be read; write it as postgresql://user@host:port/database") from None
    except psycopg.OperationalError as exc:
        raise explain(dsn, exc) from exc


def is_pooled(connection: Connection) -> bool:
    """Return whether this leads through a pooler, such as PgBouncer, which may lend another session for each transaction."""
    # A pooler makes up the process id that it gives to its clients.
    return bool(connection.execute(sql.query("schema.sql", "backend")).fetchone() != (connection.info.backend_pid,))


def complete(dsn: str, timeout: float = CONNECT_TIMEOUT) -> str:
    """Return the DSN with our defaults for what it leaves open."""
    given = conninfo_to_dict(dsn)
    defaults: dict[str, Any] = {"connect_timeout": max(2, round(timeout)), "application_name": APPLICATION_NAME, **PATIENCE}
    return make_conninfo(dsn, **{name: value for name, value in defaults.items() if name not in given})


def explain(dsn: str, exc: psycopg.OperationalError) -> DatabaseError:
    """Return what a failed attempt to connect means, in one sentence, found out by asking and not by reading its text."""
    where = redact(dsn)
    pgconn = exc.pgconn
    if pgconn is not None and (pgconn.needs_password or pgconn.used_password):
        return LoginRefused(f"PostgreSQL at {where} refuses the user or the password; correct the URL or PGPASSWORD")
    name = pgconn.db.decode() if pgconn is not None else conninfo_to_dict(dsn).get("dbname")
    for neighbour in ("postgres", "template1"):
        with suppress(psycopg.Error), psycopg.connect(make_conninfo(dsn, dbname=neighbour, connect_timeout=2)) as connection:
            if connection.execute(sql.query("schema.sql", "database"), {"name": name}).fetchone() is None:
                return DatabaseMissing(f"PostgreSQL at {where} has no database of that name; run: createdb {name}")
    if _answers(dsn):
        why = "pg_hba.conf, too many connections, or a pooler without a server"
        return LoginRefused(f"PostgreSQL at {where} refuses the connection; its log says why: {why}", may_pass=True)
    return DatabaseUnreachable(f"no PostgreSQL answers at {where}; start it or correct the URL")


def _answers(dsn: str) -> bool:
    parts = {key: value for key, value in conninfo_to_dict(dsn).items() if key in {"host", "hostaddr", "port"}}
    parameters = make_conninfo("", **parts, connect_timeout=2).encode()
    return psycopg.pq.PGconn.ping(parameters) == psycopg.pq.Ping.OK


def pool_options(dsn: str, size: int, timeout: float, prepare_threshold: int | None) -> dict[str, Any]:
    """Return what every pool of ours is made with."""
    return {
        "conninfo": complete(dsn, timeout),
        "min_size": 0,
        "max_size": size,
        "timeout": timeout,
        "max_idle": 300,
        "kwargs": {"autocommit": True, "prepare_threshold": prepare_threshold},
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
                connect(self.dsn, timeout).close()  # says what is wrong, if it is not only that all are in use
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
            new = ConnectionPool(**pool_options(self.dsn, self.size, self.timeout, prepare_threshold), open=True, configure=remember)
            pool = self._pools.setdefault(os.getpid(), new)  # atomic; a lock could be inherited in a locked state
            if pool is not new:
                new.close()
        return pool
