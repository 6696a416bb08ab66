"""Apps whose results go to an empty journal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from celery import Celery
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from celery_journal.consumers.backend import JournalBackend
from celery_journal.journal import migrate
from tests.conftest import empty, new_database

from .commanding import Commands, commanding
from .lostscene import Log
from .proxy import Proxy
from .scene import Mailbox, new_app, url_of
from .servers import PASSWORD, Server

NewApp = Callable[..., Celery]

#: The modules whose outcome depends on the version of Celery: `make test CELERY=5.6.3 PYTEST_ARGS="-m contract"`.
CONTRACT = {
    "test_awaiting",
    "test_backend",
    "test_bad_input",
    "test_bad_rows",
    "test_broadcast",
    "test_celery_command",
    "test_chord_endings",
    "test_chord_sweep",
    "test_chords",
    "test_expiry",
    "test_failure_matrix",
    "test_getting",
    "test_graph",
    "test_groups",
    "test_ignored",
    "test_lost_command",
    "test_lost_sweep",
    "test_many_workers",
    "test_members",
    "test_modes",
    "test_outage_policy",
    "test_periodic",
    "test_published",
    "test_replay",
    "test_replay_beside",
    "test_replay_canvas",
    "test_replay_rules",
    "test_result_examples",
    "test_result_sets",
    "test_results",
    "test_revoke_command",
    "test_revoking",
    "test_running",
    "test_states",
    "test_unregistered",
    "test_values",
    "test_waiting",
    "test_worker",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what has to hold with every Celery."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.stem in CONTRACT:
            item.add_marker("contract")


@pytest.fixture(autouse=True)
def spool_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the apps of the test, and the workers it starts, keep what waits for the database: never in somebody's home."""
    monkeypatch.setenv("CELERY_JOURNAL_SPOOL", str(tmp_path / "spool"))
    return tmp_path / "spool"


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    """What runs commands quickly, with pipes or on a terminal."""
    with commanding() as commands:
        yield commands


@pytest.fixture
def log(embedded_database: str) -> Iterator[Log]:
    """The log of an empty journal, and who writes to it; on one server, as that does not matter."""
    with psycopg.connect(embedded_database, autocommit=True) as connection:
        empty(connection)
        yield Log(connection)


@pytest.fixture
def make_app(dsn: str) -> Iterator[NewApp]:
    """Makes an app with the settings given, on the test's journal unless `url` says otherwise."""
    apps: list[Celery] = []

    def make(url: str | None = None, **conf: Any) -> Celery:
        apps.append(new_app(url or url_of(dsn), **conf))
        return apps[-1]

    yield make
    for app in apps:
        app.backend.database.close()
        app.close()


@pytest.fixture
def app(make_app: NewApp) -> Celery:
    """An app on the test's journal."""
    return make_app()


@pytest.fixture
def backend(app: Celery) -> JournalBackend:
    """The result backend of that app."""
    backend: JournalBackend = app.backend
    return backend


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    """A proxy before the test's journal."""
    proxy = Proxy(dsn)
    yield proxy
    proxy.close()


@pytest.fixture
def mailbox(tmp_path: Path) -> Mailbox:
    """A broker that keeps every message in a folder."""
    return Mailbox(tmp_path / "broker")


@pytest.fixture(scope="module")
def embedded_database(embedded_server: str) -> Iterator[str]:
    """A migrated database on the embedded server, shared by the tests of a module."""
    for dsn in new_database(embedded_server):
        with psycopg.connect(dsn, autocommit=True) as connection:
            migrate(connection)
        yield dsn


@pytest.fixture
def journal_of_owner(scram_server: Server) -> Iterator[str]:
    """The DSN of a login with a password, to an empty database of its own."""
    user = f"owner_{uuid4().hex[:8]}"
    for dsn in new_database(scram_server.dsn):
        scram_server.tell(f"create role {user} login password '{PASSWORD}'")
        scram_server.tell(f"alter database {conninfo_to_dict(dsn)['dbname']} owner to {user}")
        yield make_conninfo(dsn, user=user, password=PASSWORD)
    scram_server.tell(f"drop role {user}")


@pytest.fixture
def login(journal_of_owner: str) -> str:
    """The same, with a journal in it."""
    with psycopg.connect(journal_of_owner, autocommit=True) as connection:
        migrate(connection)
    return journal_of_owner
