"""Real PostgreSQL for every test: the embedded one, and the machine's own where there is one (in CI there must be)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from celery_journal.consumers import embedded
from celery_journal.journal import Connection, Emitter, Journal, migrate
from celery_journal.journal.migrations import migrations

from .consumers.servers import Server, folder_of_servers, postgresql

# A busy machine says nothing of how well a strategy chooses.
settings.register_profile("any machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

#: The PostgreSQL of the machine, as a superuser.
LOCAL_SERVER = os.environ.get("CELERY_JOURNAL_TEST_SERVER", "postgresql://postgres@127.0.0.1:5432/postgres")

TABLES = (
    "event",
    "task_result_row",
    "task_attempt_row",
    "group_result_row",
    "chord_counter_row",
    "chord_part_row",
    "worker_row",
    "chord_lease",
    "subscription",
)


def require(service: str, available: bool) -> None:
    """Skip where a service of the machine is missing; in CI that is a failure."""
    if not available and os.environ.get("CI"):
        pytest.fail(f"{service} is missing, and CI must have it")
    if not available:
        pytest.skip(f"no {service} on this machine")


def answers(dsn: str) -> bool:
    """Return whether there is a server."""
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What apps and commands keep on this machine is the tests' own, also for what lives longer than a test: never in somebody's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[str]:
    """The DSN of an embedded server that ends with this run, however it ends.

    Not in pytest's own directory: another run of root's takes away the rights on it that the server needs.
    """
    with tempfile.TemporaryDirectory(prefix="celery-journal-tests-") as directory:
        dsn = embedded.use(Path(directory) / "journal")
        for folder in (Path(directory), Path(directory) / "journal"):
            folder.chmod(0o711)  # a PgBouncer of the server's account has to pass to its socket
        yield dsn
        embedded.leave(Path(directory) / "journal")


@pytest.fixture(scope="session", params=[pytest.param("embedded", id="embedded"), pytest.param("local", id="local")])
def server(request: pytest.FixtureRequest) -> str:
    """The DSN of each server in turn."""
    if request.param == "embedded":
        dsn: str = request.getfixturevalue("embedded_server")
        return dsn
    require("PostgreSQL", answers(LOCAL_SERVER))
    return LOCAL_SERVER


@pytest.fixture(scope="session")
def scram_server() -> Iterator[Server]:
    """A server of our own that asks every login but postgres, who needs none, for a password, and has few connections."""
    with folder_of_servers() as folder, postgresql(folder, max_connections="25") as server:
        (server.data / "pg_hba.conf").write_text("host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        server.tell("select pg_reload_conf()")
        yield server


def new_database(server: str) -> Iterator[str]:
    name = f"journal_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
        connection.execute(f"alter database {name} set jit = off".encode())  # as our own sessions have it
    try:
        yield psycopg.conninfo.make_conninfo(server, dbname=name)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"drop database {name} with (force)".encode())


def migrate_to(connection: psycopg.Connection[Any], version: int) -> None:
    """Bring an empty database to an old version, without what every migration replaces: functions, folds and views."""
    connection.execute("create schema celery_journal")
    for migration in migrations()[:version]:
        connection.execute(migration.text.encode())
        connection.execute("insert into celery_journal.migration (version, name) values (%s, %s)", (migration.version, migration.name))


@pytest.fixture(scope="session")
def database(server: str) -> Iterator[str]:
    """A migrated database, shared by the tests of a session."""
    for dsn in new_database(server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
        yield dsn


@pytest.fixture
def empty_database(server: str) -> Iterator[str]:
    """A database of its own, with nothing in it."""
    yield from new_database(server)


#: Deleted, which takes a tenth of the time of a TRUNCATE. What records the maintenance of the log would leave a fact in it.
EMPTY = f"""
do $$
begin
    set local celery_journal.maintenance = on;
    alter table only celery_journal.event disable trigger refuse_change;
    {"".join(f"delete from celery_journal.{table};" for table in TABLES)}
    alter table only celery_journal.event enable always trigger refuse_change;
    perform setval('celery_journal.event_position', 1, false);
end $$"""


def empty(connection: psycopg.Connection[Any]) -> None:
    """Empty every table of the journal, past the triggers that refuse it."""
    for last in (False, False, True):
        try:
            connection.execute(EMPTY.encode())
            break
        except psycopg.errors.DeadlockDetected:  # with a sweep of a worker, which reads them in another order
            if last:
                raise


@pytest.fixture
def dsn(database: str) -> str:
    """The DSN of an empty journal."""
    with psycopg.connect(database, autocommit=True) as connection:
        empty(connection)
    return database


@pytest.fixture
def connection(dsn: str) -> Iterator[Connection]:
    """A connection to an empty journal, each statement its own transaction."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def emitter() -> Emitter:
    return Emitter()
