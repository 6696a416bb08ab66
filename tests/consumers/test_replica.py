"""read_dsn: results are read from a standby that follows by streaming replication, and may be behind or away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from celery import Celery, chord
from celery.exceptions import TimeoutError as CeleryTimeoutError

from celery_journal.consumers.backend import connection
from celery_journal.journal import migrate
from tests.conftest import empty

from .scene import Mailbox, delivered, kinds, new_app, until, url_of
from .servers import Server, folder_of_servers, postgresql, standby_of
from .workers import available, working

#: Seconds to wait for a result: only a test that fails waits so long.
PATIENCE = 60

BROKER = "redis" if available("redis") else "filesystem"

#: What the log says, once, when the replica is of no use.
FAILED = "the replica of read_dsn failed, reading from the primary"

NewApp = Callable[..., Celery]


@dataclass(frozen=True, slots=True)
class Pair:
    """A primary, and the standby that follows it."""

    primary: Server
    standby: Server

    def catch_up(self) -> None:
        """Wait until the standby shows all that the primary has."""
        here = self.primary.ask("select pg_current_wal_insert_lsn()::text")
        until(lambda: self.standby.ask("select pg_last_wal_replay_lsn() >= %s::pg_lsn", here))

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """The standby shows what it had, however much is written."""
        self.catch_up()
        self.standby.ask("select pg_wal_replay_pause()")
        until(lambda: self.standby.ask("select pg_get_wal_replay_pause_state()") == "paused")
        try:
            yield
        finally:
            self.standby.ask("select pg_wal_replay_resume()")


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Both with a journal in them."""
    with folder_of_servers() as folder:
        homes = [folder / name for name in ("primary", "standby")]
        for home in homes:
            home.mkdir()
        with postgresql(homes[0]) as primary:
            with psycopg.connect(primary.dsn, autocommit=True) as connection:
                migrate(connection)
            with standby_of(primary, homes[1]) as standby:
                yield Pair(primary, standby)


@pytest.fixture
def new(pair: Pair) -> Iterator[NewApp]:
    """Makes an app that writes to the primary and reads from the standby, on an empty journal."""
    with psycopg.connect(pair.primary.dsn, autocommit=True) as connection:
        empty(connection)
    pair.catch_up()
    apps: list[Celery] = []

    def make(**options: object) -> Celery:
        apps.append(new_app(url_of(pair.primary.dsn), result_backend_transport_options={"read_dsn": pair.standby.dsn, **options}))
        return apps[-1]

    yield make
    for app in apps:
        app.backend.database.close()
        app.close()


def test_a_state_is_what_the_replica_shows(new: NewApp, pair: Pair) -> None:
    """As far behind as it may be: that is what one asks a replica for."""
    app = new()
    app.backend.store_result("a", None, "STARTED")

    with pair.standing_still():
        app.backend.mark_as_done("a", 7)
        assert app.AsyncResult("a").state == "STARTED"

    until(lambda: app.AsyncResult("a").state == "SUCCESS")


def test_whoever_waits_is_given_what_the_primary_has(new: NewApp, pair: Pair) -> None:
    """A notification outruns the replica, which would say that there is nothing yet."""
    app = new()

    with pair.standing_still():
        app.backend.mark_as_done("a", 7)

        assert app.AsyncResult("a").get(timeout=PATIENCE) == 7
        assert app.GroupResult("g", [app.AsyncResult("a")]).get(timeout=PATIENCE) == [7]


def test_a_chord_is_gathered_by_what_the_primary_has(new: NewApp, pair: Pair, mailbox: Mailbox) -> None:
    """The replica does not know the header, by whose structure the body is given its values."""
    app = new()
    app.conf.update(mailbox.conf)
    inner = app.GroupResult("inner", [app.AsyncResult("m1"), app.AsyncResult("m2")])

    with pair.standing_still():
        app.backend.apply_chord(("g", [app.AsyncResult("m0"), inner]), app.signature("scene.collect", task_id="body"))
        app.backend.set_chord_size("g", 3)
        for index in range(3):
            part = delivered(app, task_id=f"m{index}", group_id="g", group_index=index)
            app.backend.on_chord_part_return(part, "SUCCESS", index)

        assert [message.args for message in mailbox.sent()] == [[[0, [1, 2]]]]


def test_a_worker_works_on_while_the_replica_stands_still(pair: Pair, tmp_path: Path) -> None:
    """Retries, and a chord in a chord."""
    url, options = url_of(pair.primary.dsn), {"read_dsn": pair.standby.dsn}
    with working(BROKER, url, pair.primary.dsn, tmp_path, result_backend_transport_options=options) as worker, pair.standing_still():
        retried = worker.send("persist", 2)
        inner = chord([worker.signature("add", 2, 2), worker.signature("add", 3, 3)], worker.signature("collect"), app=worker.app)
        gathered = chord([worker.signature("add", 1, 1), inner], app=worker.app)(worker.signature("collect"))

        assert gathered.get(timeout=PATIENCE) == [2, [4, 6]]
        assert retried.get(timeout=PATIENCE) == 2
        assert kinds(pair.standby.dsn, retried.id) == []


def test_a_replica_that_is_away_is_done_without(
    new: NewApp, pair: Pair, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The primary answers in its stead, the log says so once, and when the replica is back it is used again."""
    monkeypatch.setattr(connection, "REPLICA_PAUSE", 0.2)
    app = new()
    app.backend.mark_as_done("a", 7)
    pair.catch_up()
    assert app.AsyncResult("a").state == "SUCCESS"

    with pair.standby.stopped():
        app.backend.mark_as_done("b", 8)
        assert [app.AsyncResult(task_id).result for task_id in ("a", "b", "b")] == [7, 8, 8]
        assert caplog.text.count(FAILED) == 1

    until(lambda: app.AsyncResult("b").state == "SUCCESS" and readers(pair.standby))
    assert caplog.text.count(FAILED) == 1


def test_a_replica_that_was_never_there_is_done_without(
    pair: Pair, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor need it have a journal; its password, which only the environment may tell, is not shown."""
    monkeypatch.setenv("CELERY_JOURNAL_READ_DSN", "postgresql://me:s3cret@127.0.0.1:9/nowhere")
    app = new_app(url_of(pair.primary.dsn))
    app.backend.mark_as_done("a", 7)

    assert app.AsyncResult("a").state == "SUCCESS"

    assert caplog.text.count(FAILED) == 1
    assert "s3cret" not in caplog.text + app.bugreport()
    app.backend.database.close()


def test_a_replica_cannot_tell_of_results(new: NewApp, pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """PostgreSQL sends no notifications on a standby: results are polled, and the log says why."""
    app = new(listen_dsn=pair.standby.dsn)

    with pytest.raises(CeleryTimeoutError):
        app.AsyncResult("a").get(timeout=0.5)
    app.backend.mark_as_done("a", 7)
    assert app.AsyncResult("a").get(timeout=PATIENCE) == 7

    assert caplog.text.count("results are polled, because this server is a standby") == 1


def readers(server: Server) -> int:
    """Return how many sessions of ours the server has."""
    return int(str(server.ask("select count(*) from pg_stat_activity where application_name = 'celery-journal'")))
