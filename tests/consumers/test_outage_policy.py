"""The database stays away for longer than the retry budget: facts go to the spool, nobody waits twice, and all of it comes back."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import celery
import psycopg
import pytest
from celery import Celery
from celery.exceptions import BackendStoreError
from psycopg.conninfo import conninfo_to_dict

from celery_journal.consumers.backend import JournalBackend, JournalUnavailable, ResultTooLarge, outage, process
from celery_journal.journal import migrate
from tests.journal.proxy import Proxy as LossyProxy

from .proxy import Proxy
from .scene import ask, delivered, kinds, start, until, url_of
from .servers import unused_port

NewApp = Callable[..., Celery]

#: Short, so that the tests are.
BUDGET = 0.2


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    """One server will do: an outage is the same for all."""
    return embedded_database


class Way:
    """The only way to the test's journal, which can be closed and opened."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._proxy = Proxy(dsn)
        self.url = url_of(self._proxy.dsn)
        self._port = int(conninfo_to_dict(self._proxy.dsn)["port"] or 0)

    def close(self) -> None:
        """From now on, nobody answers."""
        self._proxy.close()

    def open(self) -> None:
        """It is as if nothing had been."""
        self._proxy = Proxy(self._dsn, port=self._port)


@pytest.fixture
def way(dsn: str) -> Iterator[Way]:
    way = Way(dsn)
    yield way
    way.close()


@pytest.fixture
def make(way: Way, make_app: NewApp) -> Callable[..., JournalBackend]:
    """Makes a backend that has worked already, and whose budget is small."""

    def make(conf: dict[str, Any] | None = None, **options: Any) -> JournalBackend:
        app = make_app(way.url, result_backend_transport_options={"retry_budget": BUDGET, **options}, **(conf or {}))
        backend: JournalBackend = app.backend
        backend.store_result("before", 1, "SUCCESS")
        return backend

    return make


def waiting(backend: JournalBackend) -> int:
    """Return how many facts are in the spool."""
    assert backend.spool is not None
    return backend.spool.status().waiting


def messages(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    """Return what was logged with that text in it."""
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


# Spooled, and drained


def test_what_is_stored_during_an_outage_is_there_after_it(
    make: Callable[..., JournalBackend], way: Way, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """B37: the caller need do nothing: each fact is recorded, once, in the order of the calls."""
    backend = make()
    way.close()

    for number in range(5):
        backend.store_result(f"t{number}", number, "SUCCESS", request=delivered(backend.app, task_id=f"t{number}"))
    assert waiting(backend) == 5
    assert [message.split(":")[0] for message in messages(caplog, "waiting in the spool")] == [
        f"the journal is away, {number} waiting in the spool" for number in range(1, 6)
    ]

    way.open()
    until(lambda: waiting(backend) == 0)
    assert [stream for (stream,) in ask(dsn, b"select stream from celery_journal.event order by position")] == [
        "before",
        *(f"t{number}" for number in range(5)),
    ]
    assert [backend.get_task_meta(f"t{number}")["result"] for number in range(5)] == [0, 1, 2, 3, 4]
    until(lambda: messages(caplog, "the journal is back, 5 left the spool"))


def test_every_kind_of_write_goes_to_the_spool(make: Callable[..., JournalBackend], way: Way, dsn: str) -> None:
    """Not only results: saved groups, what is forgotten, and all that chords say."""
    backend = make()
    app = backend.app
    members = [app.AsyncResult("m0"), app.AsyncResult("m1")]
    way.close()

    app.GroupResult("saved", members).save()
    app.AsyncResult("before").forget()
    backend.apply_chord(("g", members), app.signature("scene.sum", task_id="body"))
    backend.set_chord_size("g", 2)
    backend.on_chord_part_return(delivered(app, task_id="m0", group_id="g", group_index=0), "SUCCESS", 1)
    app.GroupResult("saved", members).delete()

    assert waiting(backend) == 6
    way.open()
    until(lambda: waiting(backend) == 0)
    assert kinds(dsn, "saved") == ["group-saved", "group-deleted"]
    assert kinds(dsn, "before") == ["task-succeeded", "task-forgotten"]
    assert kinds(dsn, "g") == ["chord-started", "chord-size-set", "chord-part-returned"]


def test_a_chord_whose_last_part_was_spooled_is_swept(
    make_app: NewApp, way: Way, mailbox: Any, make: Callable[..., JournalBackend]
) -> None:
    """The body is sent once, when the part is in the log; nobody could claim it before."""
    backend = make(mailbox.conf)
    app = backend.app
    members = [app.AsyncResult("m0"), app.AsyncResult("m1")]
    backend.apply_chord(("g", members), app.signature("scene.sum", task_id="body"))
    backend.set_chord_size("g", 2)
    backend.on_chord_part_return(delivered(app, task_id="m0", group_id="g", group_index=0), "SUCCESS", 1)
    way.close()

    backend.on_chord_part_return(delivered(app, task_id="m1", group_id="g", group_index=1), "SUCCESS", 2)
    assert mailbox.sent() == []

    way.open()
    until(lambda: waiting(backend) == 0)
    assert backend.sweep_chords() == ["g"]
    assert [(message.id, message.args) for message in mailbox.sent()] == [("body", [[1, 2]])]
    assert backend.sweep_chords() == []


def test_what_another_process_left_in_the_spool_is_drained_by_a_worker(
    make: Callable[..., JournalBackend], make_app: NewApp, way: Way, dsn: str
) -> None:
    """Whoever put it there may have died: a worker looks when it is ready, and now and then."""
    backend = make()
    way.close()
    backend.store_result("a", 1, "SUCCESS")
    backend.database.close()  # and with it the thread that drains
    way.open()

    other = make_app(way.url, result_backend_transport_options={"sweep_interval": 0.2})
    celery.signals.worker_ready.send(sender=type("Consumer", (), {"app": other}))

    try:
        until(lambda: kinds(dsn, "a") == ["task-succeeded"])
    finally:
        celery.signals.worker_shutting_down.send(sender=None)


def test_what_another_process_left_in_the_spool_is_drained_by_whoever_writes(
    make: Callable[..., JournalBackend], make_app: NewApp, way: Way, dsn: str
) -> None:
    """A machine need not have a worker: a producer that ended during an outage is followed by another."""
    backend = make()
    way.close()
    backend.store_result("a", 1, "SUCCESS")
    backend.database.close()
    way.open()

    make_app(way.url).backend.store_result("b", 1, "SUCCESS")

    until(lambda: kinds(dsn, "a") == ["task-succeeded"])


def test_a_spool_that_is_damaged_hinders_nobody(make: Callable[..., JournalBackend], dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and results are stored; what is in it is for whoever can mend it."""
    backend = make()
    assert backend.spool is not None
    backend.spool.path.parent.mkdir(parents=True)
    backend.spool.path.write_bytes(b"something else " * 1000)
    backend.outage.stop()  # it has not looked yet

    backend.store_result("a", 1, "SUCCESS")

    assert kinds(dsn, "a") == ["task-succeeded"]
    assert messages(caplog, "the spool cannot be read: file is not a database")


def test_a_child_that_is_forked_during_an_outage_knows_of_it(spool_folder: Path) -> None:
    """Or each of the children that a worker makes during an outage would wait for the budget."""
    with start("spooling", f"postgresql://me@127.0.0.1:{unused_port()}/db", str(spool_folder), "fork") as process:
        said, _ = process.communicate()

    parent, child = said.split()
    assert int(parent) > 0
    assert int(child) == 0


def test_a_password_that_is_changed_or_a_database_that_is_replaced_is_an_outage(empty_database: str, make_app: NewApp) -> None:
    """What worked and then does not is no wrong setting of ours: results wait until it is put right."""
    name = str(conninfo_to_dict(empty_database)["dbname"])
    with psycopg.connect(empty_database, autocommit=True) as connection:
        migrate(connection)
    backend = make_app(url_of(empty_database), result_backend_transport_options={"retry_budget": BUDGET}).backend
    backend.store_result("before", 1, "SUCCESS")
    server = psycopg.conninfo.make_conninfo(empty_database, dbname="postgres")
    end = b"select pg_terminate_backend(pid) from pg_stat_activity where datname = %s"
    with psycopg.connect(server, autocommit=True) as administrator:
        administrator.execute(end, [name])
        administrator.execute(f"alter database {name} rename to {name}_away".encode())
        try:
            backend.store_result("a", 1, "SUCCESS")
            assert waiting(backend) == 1
        finally:
            administrator.execute(f"alter database {name}_away rename to {name}".encode())

    until(lambda: waiting(backend) == 0)
    assert kinds(empty_database, "a") == ["task-succeeded"]
    backend.database.close()


def test_tables_that_are_gone_for_a_moment_are_an_outage(make: Callable[..., JournalBackend], dsn: str) -> None:
    """Such as while somebody restores a backup. The connection stands, and yet nothing can be written."""
    backend = make()

    def rename(name: str, to: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"alter table celery_journal.{name} rename to {to}".encode())

    try:
        rename("event", "event_away")
        backend.store_result("a", 1, "SUCCESS")
        assert waiting(backend) == 1
    finally:
        rename("event_away", "event")

    until(lambda: waiting(backend) == 0)
    assert kinds(dsn, "a") == ["task-succeeded"]


def test_an_outage_draws_none_of_the_random_numbers_of_the_application(
    make: Callable[..., JournalBackend], way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    """Who has seeded them gets the same ones whether the database answers or not."""
    backend = make(retry_budget=3.0)
    way.close()
    before = random.getstate()

    backend.store_result("a", 1, "SUCCESS")

    assert len(messages(caplog, "trying again")) > 1  # from the second on, there is a pause between them
    assert random.getstate() == before


# Nobody waits twice


def test_only_the_first_write_of_an_outage_waits(make: Callable[..., JournalBackend], way: Way, caplog: pytest.LogCaptureFixture) -> None:
    """B37: those after it go to the spool without a try, from any thread, until the database has been found again."""
    backend = make(retry_budget=3.0)  # in which even a busy machine tries more than once
    way.close()
    backend.store_result("first", 1, "SUCCESS")
    assert messages(caplog, "trying again")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: backend.store_result(f"t{number}", number, "SUCCESS"), range(40)))

    assert len(messages(caplog, "waiting in the spool: the journal's database is away")) == 40
    assert waiting(backend) == 41
    way.open()
    until(lambda: waiting(backend) == 0 and not backend.outage.away)
    backend.store_result("after", 1, "SUCCESS")
    assert waiting(backend) == 0


def test_one_thread_of_a_process_drains_and_ends_when_all_is_done(make: Callable[..., JournalBackend], way: Way) -> None:
    """An outage leaves nothing behind in a process, and the next one is met like the first."""
    backend = make()

    def drainers() -> int:
        mine = [thread for thread in threading.enumerate() if isinstance(thread, outage.Drainer)]
        return sum(thread._outage is backend.outage for thread in mine)  # others may have been left without a database by now

    for turn in range(2):
        way.close()
        backend.store_result(f"a{turn}", 1, "SUCCESS")
        backend.store_result(f"b{turn}", 1, "SUCCESS")
        assert drainers() == 1
        way.open()
        until(lambda: not drainers())
        assert waiting(backend) == 0


# A spool that is off, full, or cannot be written


def test_without_a_spool_the_error_is_raised(make: Callable[..., JournalBackend], way: Way) -> None:
    """The option `spool` empty: whoever stores decides what to do."""
    backend = make(spool="")
    way.close()

    with pytest.raises(JournalUnavailable) as failed:
        backend.store_result("a", 1, "SUCCESS")

    assert backend.exception_safe_to_retry(failed.value)
    assert backend.spool is None


def test_a_spool_that_cannot_be_written_is_said_once_and_the_error_is_raised(
    make: Callable[..., JournalBackend], way: Way, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Loudly, with the path and the option; a fact is never dropped in silence."""
    (tmp_path / "file").touch()
    backend = make(spool=str(tmp_path / "file" / "spool"))
    way.close()

    for _ in range(2):
        with pytest.raises(JournalUnavailable):
            backend.store_result("a", 1, "SUCCESS")

    (said,) = messages(caplog, "results may get lost")
    assert f"{tmp_path}/file/spool" in said
    assert "have the option spool name a directory that can" in said


def test_a_full_spool_is_said_and_raised(make: Callable[..., JournalBackend], way: Way, caplog: pytest.LogCaptureFixture, dsn: str) -> None:
    """What is in there is kept; what is not is reported to whoever stored it, every time."""
    backend = make(spool_max_bytes=60_000)
    way.close()
    backend.store_result("kept", 1, "SUCCESS")

    for _ in range(2):
        with pytest.raises(JournalUnavailable, match=r"and the spool .* holds all that it may, 60,000 bytes; raise spool_max"):
            backend.store_result("large", "x" * 60_000, "SUCCESS")

    assert len(messages(caplog, "raise spool_max_bytes")) == 2
    way.open()
    until(lambda: kinds(dsn, "kept") == ["task-succeeded"])


def test_a_result_above_the_limit_is_refused_during_an_outage_too(make: Callable[..., JournalBackend], way: Way) -> None:
    """It would be refused later, when nobody is there to hear it."""
    backend = make(max_payload_bytes=1000)
    way.close()

    with pytest.raises(ResultTooLarge, match="above the limit of 1,000"):
        backend.store_result("a", "x" * 5000, "SUCCESS")

    assert waiting(backend) == 0


# Celery's own retries


class Counting(JournalBackend):
    """Remembers the event of each try."""

    tried: list[Any]

    def append(self, *events: Any) -> None:
        self.__dict__.setdefault("tried", []).extend(events)
        super().append(*events)


ALWAYS = {"result_backend_always_retry": True, "result_backend_base_sleep_between_retries_ms": 1}


def counting(app: Celery, url: str) -> Counting:
    """Return such a backend, which has worked already."""
    backend = Counting(app, url=url.removeprefix("journal+"))
    backend.store_result("before", 1, "SUCCESS")
    backend.tried.clear()
    return backend


def test_celerys_retries_are_counted_by_celery(way: Way, make_app: NewApp, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """B24: each of them is one try of ours, all of the same event; when Celery gives up, it is in the spool."""
    app = make_app(way.url, **ALWAYS, result_backend_max_retries=4, result_backend_transport_options={"retry_budget": 600})
    backend = counting(app, way.url)
    way.close()

    stored = backend.store_result("a", ValueError("x"), "FAILURE")

    assert len(backend.tried) == 5
    assert len({event.event_id for event in backend.tried}) == 1
    assert stored["exc_type"] == "ValueError"
    assert messages(caplog, "trying again") == []
    assert waiting(backend) == 1
    way.open()
    until(lambda: kinds(dsn, "a") == ["task-failed"])
    backend.database.close()


def test_without_a_spool_celery_raises_its_own_error(way: Way, make_app: NewApp) -> None:
    """B24: BackendStoreError, which names the task and the state."""
    options = {"retry_budget": 600, "spool": ""}
    app = make_app(way.url, **ALWAYS, result_backend_max_retries=2, result_backend_transport_options=options)
    backend = counting(app, way.url)
    way.close()

    with pytest.raises(BackendStoreError) as failed:
        backend.store_result("a", 1, "SUCCESS")

    assert (failed.value.task_id, failed.value.state) == ("a", "SUCCESS")
    assert len(backend.tried) == 3
    backend.database.close()


def test_celery_retries_for_as_long_as_it_takes(way: Way, make_app: NewApp, dsn: str) -> None:
    """B24: result_backend_max_retries is endless unless set, and then nothing is spooled."""
    app = make_app(way.url, **ALWAYS, result_backend_transport_options={"retry_budget": 0})
    backend = counting(app, way.url)
    way.close()

    with ThreadPoolExecutor(1) as pool:
        storing = pool.submit(backend.store_result, "a", 1, "SUCCESS")
        until(lambda: len(backend.tried) >= 4)
        assert not storing.done()
        way.open()
        assert storing.result() == 1

    assert waiting(backend) == 0
    assert kinds(dsn, "a") == ["task-succeeded"]
    backend.database.close()


def test_a_try_whose_answer_was_lost_is_recorded_once(make_app: NewApp, dsn: str) -> None:
    """B24: the first try was committed before its connection broke, and the second is known to be the same fact."""
    with LossyProxy(dsn) as proxy:
        app = make_app(url_of(proxy.dsn), **ALWAYS)
        backend = counting(app, url_of(proxy.dsn))
        request = delivered(app, task_id="a")  # without one its row is read first
        proxy.lose_the_next_answer()

        backend.store_result("a", 1, "SUCCESS", request=request)

        assert proxy.lost.is_set()
        assert len(backend.tried) == 2
        backend.database.close()
    assert kinds(dsn, "a") == ["task-succeeded"]


def test_an_error_in_the_data_is_not_retried(make_app: NewApp) -> None:
    """B06: it would fail for ever."""
    app = make_app(**ALWAYS, result_backend_transport_options={"max_payload_bytes": 1000})
    backend = Counting(app, url=app.conf.result_backend.removeprefix("journal+"))

    with pytest.raises(Exception, match="above the limit"):
        backend.store_result("a", "x" * 5000, "SUCCESS")

    assert len(backend.tried) == 3  # whole, without arguments, without children
    backend.database.close()


@pytest.mark.parametrize("call", ["store", "read"])
def test_a_workers_main_process_is_not_held_up(
    way: Way, make_app: NewApp, monkeypatch: pytest.MonkeyPatch, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    """B24: it looks after all others, so endless retries of Celery's end there when the retry budget is spent."""
    app = make_app(way.url, **ALWAYS, result_backend_transport_options={"retry_budget": BUDGET})
    backend = counting(app, way.url)
    monkeypatch.setattr(process, "_main_process", 0)
    celery.signals.worker_init.send(sender=app)
    assert process.is_worker_main()
    way.close()

    if call == "store":
        backend.mark_as_revoked("a", "revoked")
        assert waiting(backend) == 1
    else:
        with pytest.raises(JournalUnavailable):
            backend.get_task_meta("a")
    backend.database.close()


@pytest.mark.parametrize(
    ("error", "safe"),
    [
        pytest.param(JournalUnavailable("x"), True, id="away"),
        pytest.param(psycopg.OperationalError("x"), True, id="connection lost"),
        pytest.param(psycopg.InterfaceError("x"), True, id="connection closed"),
        pytest.param(psycopg.errors.AdminShutdown("x"), True, id="admin shutdown"),
        pytest.param(psycopg.errors.CannotConnectNow("x"), True, id="starting up"),
        pytest.param(psycopg.errors.SerializationFailure("x"), True, id="serialization failure"),
        pytest.param(psycopg.errors.DeadlockDetected("x"), True, id="deadlock"),
        pytest.param(psycopg.errors.DiskFull("x"), True, id="disk full"),
        pytest.param(psycopg.errors.TooManyConnections("x"), True, id="too many connections"),
        pytest.param(psycopg.errors.ReadOnlySqlTransaction("x"), True, id="became a standby"),
        pytest.param(psycopg.errors.IdleInTransactionSessionTimeout("x"), True, id="idle in transaction"),
        pytest.param(psycopg.errors.ProgramLimitExceeded("x"), False, id="too long for an index"),
        pytest.param(psycopg.errors.StringDataRightTruncation("x"), False, id="data"),
        pytest.param(psycopg.errors.UniqueViolation("x"), False, id="constraint"),
        pytest.param(psycopg.errors.UndefinedTable("x"), False, id="undefined table"),
        pytest.param(ValueError("x"), False, id="no database error"),
    ],
)
def test_only_what_may_do_next_time_is_tried_again(backend: JournalBackend, error: Exception, safe: bool) -> None:
    """B06: by SQLSTATE: psycopg calls an OperationalError also what will never do."""
    assert backend.exception_safe_to_retry(error) is safe


# A replica for reading


def test_results_are_read_from_the_replica(dsn: str, make_app: NewApp, proxy: Proxy) -> None:
    """The option read_dsn: what reads goes there, and what writes does not."""
    backend = make_app(result_backend_transport_options={"read_dsn": proxy.dsn}).backend
    backend.store_result("a", 1, "SUCCESS")
    assert proxy.round_trips == 0

    with proxy.counting() as reading:
        assert backend.get_task_meta("a")["result"] == 1
    with proxy.counting() as fresh:
        assert backend._rows(backend.TaskModel, ["a"], fresh=True)["a"].status == "SUCCESS"

    assert reading[0] > 0
    assert fresh == [0]


def test_a_replica_that_fails_is_replaced_by_the_primary(
    dsn: str, make_app: NewApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With one warning, and without a wait for each read."""
    monkeypatch.setenv("CELERY_JOURNAL_READ_DSN", f"postgresql://me:s3cret@127.0.0.1:{unused_port()}/db")
    backend = make_app().backend
    backend.store_result("a", 1, "SUCCESS")

    for _ in range(3):
        assert backend.get_task_meta("a", cache=False)["result"] == 1

    (said,) = messages(caplog, "replica")
    assert said.startswith("the replica of read_dsn failed, reading from the primary: no PostgreSQL answers at me@127.0.0.1")
    assert "s3cret" not in caplog.text


def test_a_replica_that_comes_back_is_used_again(
    dsn: str, make_app: NewApp, way: Way, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a pause; and the next failure is said again."""
    monkeypatch.setattr("celery_journal.consumers.backend.connection.REPLICA_PAUSE", 0.0)
    backend = make_app(result_backend_transport_options={"read_dsn": way._proxy.dsn}).backend
    backend.store_result("a", 1, "SUCCESS")
    assert backend.get_task_meta("a", cache=False)["result"] == 1
    way.close()
    assert backend.get_task_meta("a", cache=False)["result"] == 1
    assert len(messages(caplog, "replica")) == 1

    way.open()

    with way._proxy.counting() as reading:
        assert backend.get_task_meta("a", cache=False)["result"] == 1
    assert reading[0] > 0


def test_a_workers_main_process_reads_what_it_decides_by_from_the_primary(
    make_app: NewApp, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a lost task had succeeded must not depend on how far behind a replica is."""
    monkeypatch.setattr(process, "_main_process", 0)
    app = make_app(result_backend_transport_options={"read_dsn": proxy.dsn})
    celery.signals.worker_init.send(sender=app)

    app.backend.get_task_meta("a")

    assert proxy.round_trips == 0


def test_a_host_that_vanishes_is_not_waited_for_as_long_as_the_system_would(make_app: NewApp, way: Way) -> None:
    """B37: a write to a machine that lost its power fails within half a minute, unless the URL says otherwise."""

    def patience(url: str) -> str | None:
        backend = make_app(url).backend
        parameters: dict[str, str] = backend.database.run(lambda connection: connection.info.get_parameters())
        return parameters.get("tcp_user_timeout")

    assert patience(way.url) == "30000"
    assert patience(f"{way.url}&tcp_user_timeout=5000") == "5000"
