"""What will surprise is found, each with what to do."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery
from psycopg.conninfo import make_conninfo

from celery_journal.consumers.doctor import CHECKS, Finding, Subject, examine, unreadable
from celery_journal.consumers.options import Options
from celery_journal.consumers.spool import packed, spool_of
from celery_journal.journal import Connection, Emitter, Journal, migrate
from celery_journal.journal.events import ChordStarted, Event, OperatorActed, TaskIgnored, TaskReceived, TaskSent, TaskSucceeded
from celery_journal.journal.workers import WorkerHeartbeat
from tests.conftest import require

from . import servers
from .conftest import NewApp
from .scene import until
from .test_cli import as_url, command

Examine = Callable[..., list[Finding]]


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    """One server will do: what there is to look at is the same in all."""
    return embedded_database


@pytest.fixture(autouse=True)
def fresh(connection: Connection) -> None:
    """What other tests have left dead in the tables is no bloat."""
    connection.execute("select pg_stat_reset()")


@pytest.fixture
def tell(connection: Connection) -> Callable[..., None]:
    """Append a fact."""
    emitter = Emitter()

    def append(kind: type[Event], stream: str, **fields: Any) -> None:
        Journal().append(connection, emitter.emit(kind, stream, **fields))

    return append


@pytest.fixture
def wrong(connection: Connection, dsn: str, tmp_path: Path) -> Examine:
    """What is wrong with the journal, or with the settings of an app that uses it."""

    def look(check: str, app: Celery | None = None, where: str = dsn, **options: Any) -> list[Finding]:
        given = Options.read({"spool": str(tmp_path / "spool"), "lost_grace": 0.01, **options})
        subject = Subject(connection, where, given, given.schema_name, app)
        return [finding for finding in examine(subject) if finding.check == check and finding.status != "ok"]

    return look


def test_a_healthy_journal_has_nothing_wrong(connection: Connection, dsn: str) -> None:
    """And each check says so; exit code 0."""
    result = command("doctor", "--payloads", "--json", dsn=as_url(dsn))

    findings = json.loads(result.stdout)
    assert result.returncode == 0, findings
    assert {finding["status"] for finding in findings} == {"ok"}
    assert {"partitions", "horizon", "places", "clocks", "workers", "lost tasks", "spool", "payloads"} <= {
        finding["check"] for finding in findings
    }
    assert "celery -A proj journal doctor" in command("doctor", dsn=as_url(dsn)).stderr


def test_what_is_wrong_is_said_with_what_to_do(tell: Callable[..., None], dsn: str) -> None:
    """Exit code 1."""
    tell(TaskSent, "t", occurred_at=datetime(2001, 1, 1, tzinfo=UTC))

    result = command("doctor", dsn=as_url(dsn))

    (line,) = [line for line in result.stdout.splitlines() if not line.startswith("ok\t")]
    assert (result.returncode, *line.split("\t")[:2]) == (1, "warn", "partitions")
    assert "1 event, from 2001-01-01 to 2001-01-01\tmind the clocks" in line


def test_a_week_without_a_partition_is_bad(connection: Connection, wrong: Examine) -> None:
    """Its events would be where no retention drops them."""
    with connection.transaction(force_rollback=True):
        next_week = datetime.now(UTC) - timedelta(days=datetime.now(UTC).weekday() - 7)
        connection.execute(f"drop table celery_journal.event_{next_week:%Y_%m_%d}".encode())
        (finding,) = wrong("partitions")

    assert finding.status == "bad"
    assert f"event_{next_week:%Y_%m_%d}" in finding.found
    assert "celery-journal migrate" in finding.advice


def test_a_week_that_a_clock_has_taken_is_named_and_mended(empty_database: str) -> None:
    """A fact of a clock three months ahead: `--mend` gives its week a partition, and says so."""
    now, url = datetime.now(UTC), as_url(empty_database)
    week = (now - timedelta(days=now.weekday() - 91)).replace(hour=0, minute=0, second=0, microsecond=0)
    ahead = Emitter().emit(TaskSent, "t", occurred_at=week + timedelta(days=2))
    with psycopg.connect(empty_database, autocommit=True) as connection:
        migrate(connection)
        Journal().append(connection, ahead)

    said = command("doctor", dsn=url)
    planned = command("doctor", "--mend", "--dry-run", dsn=url)
    mended = command("doctor", "--mend", dsn=url)

    (line,) = [line for line in said.stdout.splitlines() if "\tpartitions\t" in line]
    assert line.startswith("warn")
    assert f"{week:%Y-%m-%d} (1 event)" in line
    assert line.endswith("run: celery-journal doctor --mend")
    assert f"would move 1 event of the week of {week:%Y-%m-%d}" in planned.stderr
    assert f"moved 1 event of the week of {week:%Y-%m-%d} into a partition of its own" in mended.stderr
    assert "ok\tpartitions\t" in mended.stdout
    with psycopg.connect(empty_database, autocommit=True) as connection:
        assert [recorded.event for recorded in Journal().read_stream(connection, "t")] == [ahead]


def test_whoever_holds_up_the_readers_of_the_log_is_named(
    connection: Connection, wrong: Examine, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what ends it."""
    monkeypatch.setattr("celery_journal.consumers.doctor.database.LONG", timedelta(0))
    with psycopg.connect(dsn, application_name="a long report") as other:
        other.execute("create temporary table held (one integer)")
        (finding,) = wrong("horizon")
        assert f"a long report (process {other.info.backend_pid}, idle in transaction)" in finding.found
        assert finding.advice == f"end it: select pg_terminate_backend({other.info.backend_pid})"
        other.rollback()

    with psycopg.connect(dsn) as other:  # such as a rebuild
        working = threading.Thread(target=other.execute, args=["create temporary table held (one integer); select pg_sleep(1)"])
        working.start()
        until(lambda: wrong("horizon"))
        (finding,) = wrong("horizon")
        assert finding.advice.startswith("wait for it, or end it: ")
        working.join()
        other.rollback()

    assert wrong("horizon") == []


def test_an_age_that_is_hidden_from_the_role_is_told(connection: Connection, dsn: str, tmp_path: Path) -> None:
    """PostgreSQL shows an ordinary role that somebody else has a transaction, and not since when."""
    connection.execute("create role ordinary login")
    connection.execute("grant usage on schema celery_journal to ordinary")
    connection.execute("grant select on all tables in schema celery_journal to ordinary")
    try:
        with psycopg.connect(dsn) as other, psycopg.connect(dsn, user="ordinary", autocommit=True) as looking:
            other.execute("create temporary table held (one integer)")
            subject = Subject(looking, dsn, Options.read({"spool": str(tmp_path)}), "celery_journal")
            (finding,) = (finding for finding in CHECKS["horizon"](subject))
            other.rollback()
    finally:
        connection.execute("drop owned by ordinary")
        connection.execute("drop role ordinary")

    assert "whose age is hidden from this role" in finding.found
    assert finding.advice == "grant pg_read_all_stats to ordinary, and look again"


def test_a_reader_that_is_far_behind_is_named(connection: Connection, tell: Callable[..., None], wrong: Examine, monkeypatch: Any) -> None:
    """It may be one that nobody needs any more."""
    monkeypatch.setattr("celery_journal.consumers.doctor.database.FAR_BEHIND", 2)
    connection.execute("insert into celery_journal.subscription (name, transaction, position) values ('audit', '0', 0)")
    tell(TaskSent, "t")
    assert wrong("subscriptions") == []
    tell(TaskSent, "u")

    (finding,) = wrong("subscriptions")

    assert "subscription audit" in finding.found


def test_an_index_that_cannot_be_used_is_bad(connection: Connection, wrong: Examine) -> None:
    """As a `create index concurrently` leaves one that was interrupted."""
    with connection.transaction(force_rollback=True):
        connection.execute("update pg_index set indisvalid = false where indexrelid = 'celery_journal.task_result_row_date_done'::regclass")
        (finding,) = wrong("indexes")

    assert "task_result_row_date_done" in finding.found


def test_results_that_do_not_wait_for_the_disk_are_warned_of(connection: Connection, wrong: Examine) -> None:
    """A crash of the server would lose them."""
    connection.execute("set synchronous_commit = off")

    (finding,) = wrong("durability")

    assert "synchronous_commit is off" in finding.found


def test_a_clock_that_is_wrong_is_named(tell: Callable[..., None], wrong: Examine) -> None:
    """That of a worker by its heartbeats; and that of a sender by what it told."""
    later = datetime.now(UTC) + timedelta(minutes=5)
    tell(TaskSent, "t", occurred_at=later)
    (sender,) = wrong("clocks")
    tell(WorkerHeartbeat, "w1", occurred_at=later, source="signal", meta=b'{"freq": 10}')
    (worker,) = wrong("clocks")

    assert re.search(r"1 event of the last 1 happened after being recorded, up to (5 min|4 min \d+ s)", sender.found)
    assert re.fullmatch(r"the clock of w1 is (5 min|4 min \d+ s) ahead", worker.found)


def test_a_fact_that_was_recorded_late_is_no_wrong_clock(tell: Callable[..., None], wrong: Examine) -> None:
    """A heartbeat may have waited for a database that was slow, or away; by itself that says nothing about a clock."""
    tell(WorkerHeartbeat, "w1", occurred_at=datetime.now(UTC) - timedelta(seconds=8), source="signal", meta=b'{"freq": 10}')
    late = wrong("clocks")
    tell(WorkerHeartbeat, "w1", occurred_at=datetime.now(UTC) - timedelta(minutes=5), source="signal", meta=b'{"freq": 10}')
    (behind,) = wrong("clocks")

    assert late == []
    assert behind.found == "the clock of w1 is 5 min behind"


def test_a_worker_that_went_without_a_word_is_named(connection: Connection, tell: Callable[..., None], wrong: Examine) -> None:
    """One that says that it goes is not."""
    tell(WorkerHeartbeat, "w1", source="signal", meta=b'{"freq": 0.001}')
    connection.execute("select pg_sleep(0.1)")

    (finding,) = wrong("workers")

    assert "w1" in finding.found
    assert "celery-journal lost" in finding.advice


def test_tasks_that_workers_do_not_know_are_bad(tell: Callable[..., None], wrong: Examine) -> None:
    """What waits for none that does; and what was sent lately where only some do."""
    for worker, names in (("w1", '["shop.pack", "shop.mail"]'), ("w2", '["shop.mail"]')):
        tell(WorkerHeartbeat, worker, source="signal", meta=f'{{"queues": ["orders"], "tasks": {names}}}'.encode())
    for name in ("shop.mail", "shop.pack", "shop.print"):
        tell(TaskSent, name, name=name, queue="orders")
    tell(TaskSent, "elsewhere", name="shop.print", queue="others")

    bad, some = wrong("registered tasks")

    fails = "and whichever live worker receives one fails it: w1, w2 have not registered it"
    assert (bad.status, bad.found) == ("bad", f"1 task of orders waits under the name shop.print, {fails}")
    assert "autodiscover_tasks" in bad.advice
    assert (some.status, some.found) == ("warn", "shop.pack is sent to orders, where w2 has not registered it, and others have")
    assert some.advice.endswith("or let them consume other queues")


def test_waits_for_ignored_results_are_told_for_a_day(tell: Callable[..., None], wrong: Examine) -> None:
    """By name; what somebody has only noted of a task is no wait."""
    for task_id, days, meta in (("new", 0, b'{"waited": true}'), ("old", 2, b'{"waited": true}'), ("noted", 0, b'{"resolved": true}')):
        tell(TaskIgnored, task_id, name=f"app.{task_id}")
        tell(OperatorActed, task_id, action="wait", meta=meta, occurred_at=datetime.now(UTC) - timedelta(days=days))

    (finding,) = wrong("waited-for results")

    assert finding.found.endswith("and got None: app.new")


def test_lost_tasks_are_counted(connection: Connection, tell: Callable[..., None], wrong: Examine) -> None:
    """Which they are, another command says."""
    tell(TaskReceived, "t", worker="w1", run="r", name="app.send", expires=datetime.now(UTC) - timedelta(days=1))
    tell(WorkerHeartbeat, "w1", source="signal", meta=b'{"freq": 0.001}')
    connection.execute("select pg_sleep(0.2)")

    (finding,) = wrong("lost tasks")

    assert finding.found == "1 task will not go on by itself"


def test_what_waits_on_this_machine_is_bad(dsn: str, wrong: Examine, tmp_path: Path) -> None:
    """The database is back, and nobody has drained it."""
    spool_of(dsn, "celery_journal", tmp_path / "spool").put(packed(Emitter().emit(TaskSucceeded, "t")))

    (finding,) = wrong("spool")

    assert finding.found.startswith("1 event of this machine wait")
    assert finding.advice == "run: celery-journal spool drain"
    assert "retry_budget raises" in wrong("spool", spool="")[0].found


def test_the_spool_of_an_embedded_server_is_that_of_its_directory(connection: Connection, dsn: str, tmp_path: Path) -> None:
    """By which the backend calls it, and not by the DSN of the server that runs there."""
    options = Options.read({"spool": str(tmp_path / "spool")})
    spool_of(tmp_path / "data", "celery_journal", options.spool).put(packed(Emitter().emit(TaskSucceeded, "t")))

    subject = Subject(connection, dsn, options, "celery_journal", location=tmp_path / "data")

    assert [finding.status for finding in examine(subject) if finding.check == "spool"] == ["bad"]


def test_a_spool_of_the_same_database_in_other_words_is_told(wrong: Examine, dsn: str, tmp_path: Path) -> None:
    """Its server may be this one: localhost and 127.0.0.1. That of another database is not ours to tell."""
    fact = packed(Emitter().emit(TaskSucceeded, "t"))
    spool_of(make_conninfo(dsn, host="elsewhere"), "celery_journal", tmp_path / "spool").put(fact)
    spool_of(make_conninfo(dsn, dbname="other"), "celery_journal", tmp_path / "spool").put(fact)

    (finding,) = wrong("spool")

    assert finding.status == "warn"
    assert "1 event of this machine in the spool of " in finding.found
    assert "elsewhere" in finding.found


def test_polling_is_told(wrong: Examine) -> None:
    """With an empty listen_dsn, and one that leads nowhere."""
    assert "polled" in wrong("listening", listen_dsn="")[0].found
    assert wrong("listening", listen_dsn=f"host=127.0.0.1 port={servers.unused_port()}")[0].status == "bad"


def test_a_pooler_without_a_way_to_listen_is_told(connection: Connection, dsn: str, tmp_path: Path) -> None:
    """PgBouncer in transaction mode: results are polled, unless listen_dsn leads past it."""
    require("PgBouncer", servers.PGBOUNCER is not None)
    with (
        servers.folder_of_servers() as folder,
        servers.pgbouncer(dsn, folder) as pooled,
        psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as through,
    ):

        def listening(**options: Any) -> Finding:
            subject = Subject(through, pooled, Options.read({"spool": str(tmp_path), **options}), "celery_journal")
            return next(finding for finding in examine(subject) if finding.check == "listening")

        deaf, hearing = listening(), listening(listen_dsn=dsn)

    assert (deaf.status, hearing.status) == ("warn", "ok")
    assert "listen_dsn" in deaf.advice


def test_payloads_that_do_not_decode_are_named(connection: Connection, tell: Callable[..., None], dsn: str) -> None:
    """F26: those of a serializer that is not accepted, and those that are not what they say."""
    tell(TaskSucceeded, "fine", result=b"1", content_type="application/json", content_encoding="utf-8", args=b"[1]", kwargs=b"{}")
    tell(TaskSucceeded, "pickled", result=b"\x80", content_type="application/x-python-serialize", content_encoding="binary")
    tell(TaskSucceeded, "cut", result=b"[1, ", content_type="application/json", content_encoding="utf-8")

    findings = list(unreadable(Subject(connection, dsn, Options(), "celery_journal")))

    assert [finding.found.partition(":")[0] for finding in findings] == [
        "the result of cut cannot be read",
        "the result of pickled cannot be read",
    ]
    assert "accept_content" in findings[1].advice


@pytest.mark.parametrize(
    ("check", "conf", "found"),
    [
        pytest.param("track_started", {"task_track_started": False}, "says PENDING while a task runs", id="track_started"),
        pytest.param("ignored results", {"task_ignore_result": True}, "no task's return value is stored", id="ignored"),
        pytest.param("result_expires", {"result_expires": 60, "task_time_limit": 3600}, "a task may run for 1 h", id="time limit"),
    ],
)
def test_settings_that_surprise_are_told(wrong: Examine, make_app: NewApp, check: str, conf: Any, found: str) -> None:
    """And with other settings nothing is wrong."""
    (finding,) = wrong(check, make_app(**conf))

    assert found in finding.found
    assert finding.advice
    assert wrong(check, make_app(task_track_started=True)) == []


@pytest.mark.parametrize(
    ("check", "options"),
    [
        pytest.param("ignored results", {"journal_ignored": False}, id="journal_ignored"),
        pytest.param("publishing", {"track_publish": "off"}, id="track_publish"),
        pytest.param("publishing", {"store_arguments": False}, id="store_arguments"),
    ],
)
def test_options_that_leave_something_out_are_told(wrong: Examine, make_app: NewApp, check: str, options: dict[str, Any]) -> None:
    """They may be meant so."""
    app = make_app()

    assert len(wrong(check, app, **options)) == 1
    assert wrong(check, app) == []


def test_results_that_expire_before_their_chord_are_told(tell: Callable[..., None], wrong: Examine, make_app: NewApp) -> None:
    """Those of its first members are gone when the last one ends."""
    tell(ChordStarted, "g", size=2, occurred_at=datetime.now(UTC) - timedelta(hours=2))

    (finding,) = wrong("result_expires", make_app(result_expires=3600))

    assert "chord g took 2 h" in finding.found
    assert "is open for 2 h" in wrong("result_expires", make_app(result_expires=10800))[0].found
    assert wrong("result_expires", make_app(result_expires=36000)) == []
    assert wrong("result_expires", make_app(result_expires=None)) == []


def test_a_visibility_timeout_that_is_too_short_is_told(tell: Callable[..., None], wrong: Examine, make_app: NewApp) -> None:
    """Redis gives the message to a second worker then, and the task runs twice."""
    received = datetime.now(UTC) - timedelta(minutes=10)
    tell(TaskReceived, "t", worker="w1", run="r", occurred_at=received)
    tell(TaskSucceeded, "t", worker="w1", run="r")
    short = {"broker_url": "redis://127.0.0.1:6379/0", "broker_transport_options": {"visibility_timeout": 60}}

    (finding,) = wrong("visibility timeout", make_app(**short))

    assert "after 1 min, and one has it for 10 min" in finding.found
    assert wrong("visibility timeout", make_app(broker_url="redis://127.0.0.1:6379/0")) == []
    assert wrong("visibility timeout", make_app()) == []
    tell(TaskReceived, "later", worker="w1", run="s", eta=datetime.now(UTC) + timedelta(hours=2))
    assert wrong("visibility timeout", make_app(broker_url="redis://127.0.0.1:6379/0"))[0].found.endswith(
        "after 1 h, and one has it for 2 h"
    )
    (broken,) = wrong("visibility timeout", make_app(broker_url="nope://"))
    assert (broken.status, broken.found) == ("bad", "broker_url cannot be used: 'No such transport: nope'")


@pytest.mark.parametrize(
    ("check", "tampering", "mending", "told"),
    [
        pytest.param(
            "triggers", "alter table celery_journal.event disable trigger fold", "alter table celery_journal.event enable trigger fold",
            "the views stand still", id="a fold that is switched off"),
        pytest.param(
            "triggers", "alter table celery_journal.event_default enable trigger refuse_change",
            "alter table celery_journal.event_default enable always trigger refuse_change",
            "the log can be changed", id="not always enabled"),
        pytest.param(
            "triggers", "alter table celery_journal.event_default disable trigger refuse_change_of_row",
            "alter table celery_journal.event_default enable always trigger refuse_change_of_row",
            "the log can be changed", id="rows that can be changed"),
        pytest.param(
            "triggers", "alter table celery_journal.event_default disable trigger refuse_nonsense",
            "alter table celery_journal.event_default enable always trigger refuse_nonsense",
            "the log can hold anything", id="nonsense that is let in"),
        pytest.param(
            "rebuilds", "create table celery_journal.task_result_row__rebuild ()", "drop table celery_journal.task_result_row__rebuild",
            "task_result_row__rebuild", id="a killed rebuild"),
        pytest.param(
            "replication", "alter role all set session_replication_role = replica", "alter role all reset session_replication_role",
            "every login in every database", id="replica role"),
        pytest.param(
            "privileges", "grant execute on function celery_journal.fold() to public",
            "revoke execute on function celery_journal.fold() from public", "celery_journal.fold()", id="a function that is everybody's"),
        pytest.param(
            "privileges", "create role some_forger; grant insert on celery_journal.event to some_forger",
            "drop owned by some_forger; drop role some_forger", "some_forger", id="places that can be chosen"),
        pytest.param(
            "sweep leases",
            "insert into celery_journal.chord_lease (group_id, claimed_by, login, claimed_until) "
            "values ('', 'evil', 'app_w', now() + interval '1000 years')",
            "delete from celery_journal.chord_lease", "evil, who logged in as app_w", id="a sweep for ever"),
    ],
)  # fmt: skip
def test_who_goes_past_the_guards_is_named(
    check: str, tampering: str, mending: str, told: str, connection: Connection, wrong: Examine
) -> None:
    """Each with what to do; nothing is wrong when that is done."""
    assert wrong(check) == []
    connection.execute(tampering.encode())
    try:
        (found,) = wrong(check)
    finally:
        connection.execute(mending.encode())

    assert told in found.found
    assert found.advice
    assert wrong(check) == []


def test_a_login_of_the_workers_that_owns_the_log_is_named(make_app: NewApp, wrong: Examine) -> None:
    """The quick start makes another."""
    (found,) = wrong("login", make_app())

    assert "a superuser, who can change the log" in found.found
    assert "migrate --roles --writer" in found.advice
