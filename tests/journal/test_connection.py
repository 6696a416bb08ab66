"""Connections, and what is said when there can be none."""

from __future__ import annotations

import os
import socket
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from celery_journal.journal import (
    Connection,
    Connections,
    DatabaseError,
    DatabaseMissing,
    DatabaseUnreachable,
    DsnUnreadable,
    LoginRefused,
    connect,
    redact,
)
from celery_journal.journal.dsn import UNSAFE

from .forking import in_a_fork
from .waiting import wait_until

SECRET = "geheim-7f3a"


def backend(connection: Connection) -> int:
    """Return the process of the server that answers, which a closed connection has none of."""
    (pid,) = connection.execute("select pg_backend_pid()").fetchone() or (0,)
    return int(pid)


def is_one_sentence_without_the_password(error: DatabaseError) -> bool:
    """Whether the text is fit for a log: one line, and not the password, neither there nor in the traceback."""
    text, full = str(error), "".join(traceback.format_exception(error))
    return "\n" not in text and not text.endswith(".") and SECRET not in full


def how_it_fails(dsn: str) -> DatabaseError:
    """Return the error that connecting raises, the same for one connection and for a pool."""
    with pytest.raises(DatabaseError) as alone:
        connect(dsn, timeout=2)
    with pytest.raises(DatabaseError) as pooled, Connections(dsn, timeout=2).connection():
        pass
    assert (type(alone.value), str(alone.value)) == (type(pooled.value), str(pooled.value))
    return alone.value


def without(dsn: str, parameter: str) -> str:
    """Return the DSN with one parameter left open."""
    parameters: dict[str, Any] = {name: value for name, value in conninfo_to_dict(dsn).items() if name != parameter}
    return make_conninfo(**parameters)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# No connection


def test_a_server_that_does_not_answer_is_unreachable() -> None:
    """The sentence says where nobody answers."""
    port = free_port()

    error = how_it_fails(make_conninfo(host="127.0.0.1", port=port, user="app", password=SECRET, dbname="results"))

    assert type(error) is DatabaseUnreachable
    assert f"app@127.0.0.1:{port}/results" in str(error)
    assert is_one_sentence_without_the_password(error)


def test_a_socket_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    """A server that is not started has no socket."""
    error = how_it_fails(make_conninfo(host=str(tmp_path), user="app", password=SECRET, dbname="results"))

    assert type(error) is DatabaseUnreachable
    assert str(tmp_path) in str(error)
    assert is_one_sentence_without_the_password(error)


def test_a_host_without_a_name_is_unreachable() -> None:
    """A name that nobody knows is no server."""
    error = how_it_fails(make_conninfo(host="nowhere.invalid", user="app", password=SECRET, dbname="results"))

    assert type(error) is DatabaseUnreachable
    assert is_one_sentence_without_the_password(error)


def test_a_database_that_is_missing_is_named(server: str) -> None:
    """The sentence says which command makes it."""
    error = how_it_fails(make_conninfo(server, dbname="journal_missing", password=SECRET))

    assert type(error) is DatabaseMissing
    assert "createdb journal_missing" in str(error)
    assert is_one_sentence_without_the_password(error)


def test_a_missing_database_that_the_environment_names_is_named(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the database that was asked for, also when the DSN leaves it to PGDATABASE."""
    monkeypatch.setenv("PGDATABASE", "journal_missing")
    nameless = without(server, "dbname")

    error = how_it_fails(nameless)

    assert type(error) is DatabaseMissing
    assert "createdb journal_missing" in str(error)


def test_a_user_that_is_missing_is_refused(server: str) -> None:
    """The server answers, and does not know who asks."""
    error = how_it_fails(make_conninfo(server, user="journal_missing", password=SECRET))

    assert type(error) is LoginRefused
    assert "journal_missing@" in str(error)
    assert 'knows no such login (role "journal_missing" does not exist); name another user in the URL' in str(error)
    assert "or run there: create role journal_missing login (alter role journal_missing login, if it exists)" in str(error)
    assert "pg_hba.conf" not in str(error)
    assert is_one_sentence_without_the_password(error)


def test_a_user_that_nobody_has_named_is_told_too(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names none is the user of the environment, or of the account; a name that needs quotes has them."""
    monkeypatch.setenv("PGUSER", "Me Missing")

    error = how_it_fails(without(server, "user"))

    assert type(error) is LoginRefused
    assert 'name a user in the URL, which has none, or run there: create role "Me Missing" login' in str(error)


def test_a_role_that_must_not_log_in_is_told_so(server: str) -> None:
    """It is there, and the same sentence says how it may."""
    role = f"journal_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(f"create role {role}".encode())
        try:
            error = how_it_fails(make_conninfo(server, user=role))
        finally:
            admin.execute(f"drop role {role}".encode())

    assert type(error) is LoginRefused
    assert f"alter role {role} login" in str(error)


@pytest.fixture
def login(embedded_server: str) -> Iterator[str]:
    """The DSN of a user whom the server asks for a password, which is SECRET. We own that server, so we may say so."""
    user = f"journal_{uuid4().hex[:12]}"
    with psycopg.connect(embedded_server, autocommit=True) as connection:
        path = Path(str(conninfo_to_dict(embedded_server)["host"])) / "pg_hba.conf"
        rules = path.read_text()
        connection.execute(f"create role {user} login password '{SECRET}'".encode())
        path.write_text(f"local all {user} scram-sha-256\nhost all {user} all scram-sha-256\n{rules}")
        connection.execute("select pg_reload_conf()")
        dsn = make_conninfo(embedded_server, user=user, password=SECRET, dbname="postgres")
        wait_until(lambda: asks_for_a_password(dsn))
        yield dsn
        path.write_text(rules)
        connection.execute("select pg_reload_conf()")
        connection.execute(f"drop role {user}".encode())


def asks_for_a_password(dsn: str) -> bool:
    with psycopg.connect(dsn) as connection:
        return bool(connection.pgconn.used_password)


@pytest.mark.parametrize("password", [pytest.param(f"not {SECRET}", id="wrong"), pytest.param(None, id="missing")])
def test_a_wrong_password_is_refused(password: str | None, login: str) -> None:
    """The sentence says what to correct, and not what was tried."""
    connect(login).close()

    error = how_it_fails(make_conninfo(without(login, "password"), password=password))

    assert type(error) is LoginRefused
    assert "password" in str(error)
    assert is_one_sentence_without_the_password(error)


@pytest.mark.parametrize(
    "dsn",
    [
        pytest.param("postgresql://app:geheim-7f3a%ss@host/results", id="percent sign in the password"),
        pytest.param("host=localhost password='geheim-7f3a", id="quote left open"),
        pytest.param("postgresql://app:x@host/results?passwort=geheim-7f3a", id="misspelled parameter"),
        pytest.param("geheim-7f3a", id="not a DSN"),
    ],
)
def test_a_dsn_that_cannot_be_read_is_not_shown(dsn: str) -> None:
    """Whatever is in it may be the password, so the sentence says only how to write one."""
    error = how_it_fails(dsn)

    assert type(error) is DsnUnreadable
    assert "postgresql://" in str(error)
    assert is_one_sentence_without_the_password(error)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        pytest.param("postgresql://app:secret@db.example:5433/results", "app@db.example:5433/results", id="all of it"),
        pytest.param("postgresql://app@db.example/results", "app@db.example/results", id="no port"),
        pytest.param("host=/run/postgresql port=5433 dbname=results", "/run/postgresql/results", id="socket"),
        pytest.param("hostaddr=127.0.0.1 port=5433 user=app password=secret dbname=results", "app@127.0.0.1:5433/results", id="address"),
        pytest.param("dbname=results", "the local socket/results", id="no host"),
        pytest.param("postgresql://app:se%cret@host/results", UNSAFE, id="unreadable"),
        pytest.param("postgresql://a:se@cret@host/x", UNSAFE, id="an @ in it"),
    ],
)
def test_a_dsn_is_shown_without_its_password(dsn: str, shown: str) -> None:
    """Logs say where a connection leads, and not the way in."""
    assert redact(dsn) == shown


# One connection


def test_a_connection_commits_each_statement(database: str) -> None:
    """What it does is done, and seen by others."""
    with connect(database) as connection:
        assert connection.autocommit


def test_a_connection_says_who_it_is(database: str) -> None:
    """People who look at the server see whose connection it is, unless the DSN says otherwise."""
    with connect(database) as ours, connect(make_conninfo(database, application_name="mine")) as mine:
        names = [connection.execute("show application_name").fetchone() for connection in (ours, mine)]

    assert names == [("celery-journal",), ("mine",)]


# A pool


@pytest.fixture
def connections(database: str) -> Iterator[Connections]:
    """A pool of two, under a name of its own in pg_stat_activity."""
    pool = Connections(make_conninfo(database, application_name=f"pool-{uuid4().hex[:12]}"), size=2, timeout=30)
    yield pool
    pool.close()


def sessions(connections: Connections) -> int:
    """Return how many sessions the server has for the pool."""
    name = conninfo_to_dict(connections.dsn)["application_name"]
    with psycopg.connect(connections.dsn, application_name="observer") as connection:
        (number,) = connection.execute("select count(*) from pg_stat_activity where application_name = %s", (name,)).fetchone() or (0,)
    return int(number)


def test_a_connection_is_lent_and_lent_again(connections: Connections) -> None:
    """A second use gets the session of the first."""
    with connections.connection() as connection:
        first = backend(connection)
    with connections.connection() as connection:
        second = backend(connection)

    assert first == second


def test_many_threads_share_few_connections(connections: Connections) -> None:
    """Twelve threads that all want a connection, again and again, are all served by the two that there may be."""
    begin = threading.Barrier(12)

    def use(_: int) -> set[int]:
        begin.wait(60)
        pids = set()
        for _ in range(10):
            with connections.connection() as connection:
                pids.add(backend(connection))
        return pids

    with ThreadPoolExecutor(12) as threads:
        used = set().union(*threads.map(use, range(12)))

    assert 1 <= len(used) <= 2
    wait_until(lambda: sessions(connections) <= 2)


def test_waiting_for_a_connection_ends(database: str) -> None:
    """Who gets none within the timeout learns that the pool is too small, not that the server is down."""
    connections = Connections(database, size=1, timeout=0.2)

    with connections.connection(), pytest.raises(DatabaseUnreachable) as error, connections.connection():
        pass

    connections.close()
    assert "pool_size" in str(error.value)


def test_a_connection_comes_back_clean(connections: Connections) -> None:
    """A transaction that its borrower left open is not lent on."""
    with connections.connection() as connection:
        connection.execute("begin")
        first = backend(connection)

    with connections.connection() as connection:
        status, second = connection.info.transaction_status, backend(connection)

    assert status == psycopg.pq.TransactionStatus.IDLE
    assert first == second


def test_what_fails_while_a_connection_is_lent_does_not_lose_it(connections: Connections) -> None:
    """After more failures than there are connections, one is still to be had."""
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), connections.connection():
            raise ZeroDivisionError

    with connections.connection() as connection:
        assert backend(connection) > 0


def terminate(connections: Connections, pid: int) -> None:
    """End the session as an administrator would, or a restart of the server."""
    with psycopg.connect(connections.dsn, application_name="observer", autocommit=True) as connection:
        connection.execute("select pg_terminate_backend(%s)", (pid,))
        wait_until(lambda: connection.execute("select from pg_stat_activity where pid = %s", (pid,)).fetchone() is None)


def test_a_terminated_session_is_not_lent_twice(connections: Connections) -> None:
    """Its borrower learns of it, and the next one gets another."""
    with connections.connection() as connection:
        first = backend(connection)
    terminate(connections, first)

    with pytest.raises(psycopg.OperationalError), connections.connection() as connection:
        backend(connection)

    with connections.connection() as connection:
        assert backend(connection) not in {0, first}


def test_a_closed_pool_opens_again(connections: Connections) -> None:
    """Closing ends the sessions; the next use makes new ones."""
    with connections.connection() as connection:
        first = backend(connection)

    connections.close()

    wait_until(lambda: sessions(connections) == 0)
    with connections.connection() as connection:
        assert backend(connection) not in {0, first}


def test_closing_what_was_never_opened_does_nothing(database: str) -> None:
    """A backend that never stored a result closes without connecting."""
    Connections(make_conninfo(database, host="nowhere.invalid")).close()


# A fork


def test_a_forked_child_opens_its_own_connections(connections: Connections) -> None:
    """Parent and child never speak over one connection, and the parent's still works after the child is gone."""

    def use() -> tuple[int, int]:
        with connections.connection() as connection:
            return os.getpid(), backend(connection)

    before = use()

    in_the_child = in_a_fork(use)

    assert in_the_child[0] != before[0]
    assert in_the_child[1] != before[1]
    assert use() == before


def test_a_forked_child_that_closes_its_connections_leaves_its_parents_alone(connections: Connections) -> None:
    """Also when it never opened any of its own."""

    def use() -> int:
        with connections.connection() as connection:
            return backend(connection)

    def close() -> None:
        connections.close()

    def use_and_close() -> None:
        use()
        connections.close()

    before = use()

    in_a_fork(close)
    in_a_fork(use_and_close)

    assert use() == before


def test_a_child_forked_while_a_connection_is_lent_can_work(connections: Connections) -> None:
    """What the parent's thread was doing at that moment does not block the child."""

    def use() -> int:
        with connections.connection() as connection:
            return backend(connection)

    with connections.connection() as lent:
        connections_of_parent = {backend(lent)}
        in_the_child = in_a_fork(use)
        connections_of_parent.add(backend(lent))

    assert len(connections_of_parent) == 1
    assert in_the_child not in connections_of_parent


def test_generations_of_forks_each_open_their_own(connections: Connections) -> None:
    """A child of a child is nobody's heir either."""

    def use() -> Any:
        with connections.connection() as connection:
            return backend(connection)

    pids = [use(), *in_a_fork(lambda: [use(), in_a_fork(use), use()]), use()]

    parent, child, grandchild, child_again, parent_again = pids
    assert (parent, child) == (parent_again, child_again)
    assert len({parent, child, grandchild}) == 3
