"""One odd row never keeps the others from being found, marked, failed, shown, examined or sent again."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from celery import Celery

from celery_journal.consumers import install
from celery_journal.consumers.doctor import examination
from celery_journal.consumers.doctor.examination import Finding, Subject, examine
from celery_journal.consumers.lost import Lost, find_lost, mark_lost, sweep_lost
from celery_journal.consumers.options import Options
from celery_journal.consumers.replay import Replay
from celery_journal.consumers.stale import get_stale_tasks
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import ChordStarted, GroupSaved, TaskFailed, TaskSucceeded

from .conftest import NewApp
from .lostscene import GRACE, SOON, Log, pause
from .replayscene import begun, failing
from .scene import Mailbox, kinds, row
from .test_cli import as_url, command

NOW = ("--grace", f"{GRACE}")


@pytest.fixture
def log(connection: Connection) -> Log:
    return Log(connection)


def lose(log: Log, *task_ids: str) -> None:
    """These were started by a worker that is gone."""
    log.online("gone", queues=("third",), freq=SOON)
    for task_id in task_ids:
        log.sent(task_id, queue="third")
        log.started(task_id, worker="gone", queue="third")


def overtake(log: Log) -> None:
    """A message is purged, a later one is received, and then the last worker of that queue goes."""
    log.online("w1", freq=1)
    log.sent("purged")
    log.sent("later")
    log.started("later")
    log.tell(TaskSucceeded, "later", worker="w1", run="r1", queue="mail")
    log.beat("w1", freq=SOON)


@pytest.mark.parametrize("ends", ["found", "lost", "fail", "doctor", "sweep"])
def test_a_queue_without_a_worker_in_which_one_was_overtaken_does_not_end_the_search(log: Log, dsn: str, ends: str) -> None:
    """F12: what was overtaken waits for a worker; what is lost is found all the same."""
    overtake(log)
    lose(log, "t")
    pause(0.2)

    match ends:
        case "found":
            assert [one.task_id for one in find_lost(log.connection, GRACE)] == ["t"]
        case "lost":
            listed = command("lost", *NOW, dsn=as_url(dsn))
            assert (listed.returncode, listed.stdout.count("\n"), listed.stderr) == (1, 1, "")
        case "fail":
            failed = command("lost", *NOW, "--fail", "--yes", dsn=as_url(dsn))
            assert failed.stdout.endswith("marked 1 task\nfailed 1 task\n"), failed.stderr
            assert row(dsn, "t").status == "FAILURE"
        case "doctor":
            examined = command("doctor", "--json", dsn=as_url(dsn))
            assert "Traceback" not in examined.stderr
            assert '"check": "lost tasks"' in examined.stdout
        case "sweep":
            assert [one.task_id for one in sweep_lost(log.connection, Journal(), Emitter(), GRACE)] == ["t"]


ODD = {
    "created before all dates": "update celery_journal.task_result_row set date_created = '-infinity' where task_id = 'odd'",
    "created after all dates": "update celery_journal.task_result_row set date_created = 'infinity' where task_id = 'odd'",
    "sent before all dates": "update celery_journal.task_attempt_row set date_sent = '-infinity' where task_id = 'odd'",
    "may run for ever": "update celery_journal.task_attempt_row set time_limit = 'infinity' where task_id = 'odd'",
    "may run for no number": "update celery_journal.task_attempt_row set time_limit = 'NaN' where task_id = 'odd'",
    "expires": "update celery_journal.task_attempt_row set expires = now(), date_sent = '-infinity' where task_id = 'odd'",
}


def spoil(log: Log, odd: str) -> None:
    """Have the views hold what no worker tells, as that of an earlier version may."""
    log.online("alive", active=1)
    log.sent("odd")
    log.started("odd", worker="alive")
    log.connection.execute(odd.encode())


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_row_does_not_end_the_search_for_what_is_lost(log: Log, dsn: str, odd: str) -> None:
    """The others are found, and marked."""
    spoil(log, odd)
    lose(log, "t")
    pause()

    assert "t" in {one.task_id for one in find_lost(log.connection, GRACE)}
    assert "t" in {one.task_id for one in sweep_lost(log.connection, Journal(), Emitter(), GRACE)}
    assert "t" in {one.task_id for one in find_lost(log.connection, GRACE) if one.marked}


def test_an_odd_row_does_not_end_the_list_of_what_is_stale(log: Log) -> None:
    """Its age is as long as time is reckoned."""
    log.sent("t")
    log.sent("odd")
    log.connection.execute(b"update celery_journal.task_attempt_row set eta = '-infinity' where task_id = 'odd'")
    pause()

    assert {task.task_id for task in get_stale_tasks(log.connection, timedelta(milliseconds=1))} == {"t", "odd"}


def test_an_odd_chord_does_not_end_the_search_for_tasks(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    """Its size is beyond all numbers: the search for chords says so, and the tasks are found."""
    log.tell(ChordStarted, "g", result=json.dumps([[["m", None], None]]).encode(), size=2**31 - 1, task_id="body")
    log.connection.execute(b"update celery_journal.chord_counter_row set added = array['x'] where group_id = 'g'")
    lose(log, "t")
    pause()

    assert [one.task_id for one in find_lost(log.connection, GRACE)] == ["t"]


def test_one_that_cannot_be_marked_does_not_keep_the_others_from_it(log: Log, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log refuses its reason, and it is said which one that was."""
    lose(log, "t", "u", "v")
    pause()
    found = {one.task_id: one for one in find_lost(log.connection, GRACE)}
    refused = Lost("u", None, "STARTED", "worker gone", "x", attempt=-1, recorded_at=found["u"].recorded_at)

    with caplog.at_level(logging.ERROR):
        marked = mark_lost(log.connection, [found["t"], refused, found["v"]], log.journal, log.emitter)

    assert [one.task_id for one in marked] == ["t", "v"]
    assert ["task-lost" in kinds(dsn, task_id) for task_id in ("t", "u", "v")] == [True, False, True]
    assert "a lost task cannot be marked" in caplog.text


def test_one_that_cannot_be_failed_does_not_keep_the_others_from_it(log: Log, dsn: str) -> None:
    """The chord that it is in cannot be read; that is said in a sentence."""
    lose(log, "a", "t")
    embedded = b"[" * 3000 + b"]" * 3000
    log.sent("a", queue="third", embedded=embedded, embedded_content_type="application/json", group_id="g")
    log.started("a", worker="gone", queue="third", group_id="g", run="r2")
    pause()

    failed = command("lost", *NOW, "--fail", "--yes", dsn=as_url(dsn))

    assert "Traceback" not in failed.stderr
    assert row(dsn, "t").status == "FAILURE"


def test_a_check_that_fails_does_not_end_the_examination(log: Log, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is made for itself; of one that cannot be made that is said."""

    def odd(_subject: Subject) -> Any:
        yield Finding("odd", "ok", "so far")
        raise TypeError("unsupported format string\nand more")

    def sick(subject: Subject) -> Any:
        subject.connection.execute(b"select 1 / 0")
        yield Finding("sick", "ok", "never")

    def well(_subject: Subject) -> Any:
        yield Finding("well", "ok", "fine")

    monkeypatch.setattr(examination, "CHECKS", {"odd": odd, "sick": sick, "well": well})
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = list(examine(Subject(connection, dsn, Options(), "celery_journal")))

    assert [(one.check, one.status, one.found) for one in found] == [
        ("odd", "ok", "so far"),
        ("odd", "bad", "could not be looked at: unsupported format string"),
        ("sick", "bad", "could not be looked at: division by zero"),
        ("well", "ok", "fine"),
    ]


@pytest.fixture
def app(make_app: NewApp, mailbox: Mailbox) -> Celery:
    return install(make_app(**mailbox.conf))


def test_one_that_cannot_be_sent_again_does_not_end_a_replay(app: Celery, log: Log, mailbox: Mailbox) -> None:
    """What is recorded of its message is none; the others are sent."""
    fail = failing(app, log, mailbox)
    first, last = fail(), fail()
    message = {"exchange": 5, "routing_key": ["x"], "headers": [1], "properties": "none"}
    log.sent("odd", args=b"\xff", kwargs=b"\xff", message=message)
    log.tell(TaskFailed, "odd", worker="w1")

    replay: Replay = begun(log.connection, app, [first, "odd", last])
    summary = replay.run()

    assert set(summary.sent) == {first, last}
    assert [task_id for task_id, _ in summary.refused] == ["odd"]


BEYOND_TIME = {
    "started and ended": "update celery_journal.task_result_row set date_started = {at}, date_done = {at} where task_id = 'odd'",
    "run": "update celery_journal.task_attempt_row set date_started = {at}, date_done = {at}, date_sent = {at},"
    " started_recorded_at = {at}, sent_recorded_at = {at} where task_id = 'odd'",
    "worker": "update celery_journal.worker_row set occurred_at = {at}, last_seen = {at}, online_at = {at} where worker = 'alive'",
}


@pytest.mark.parametrize("at", ["'infinity'", "'-infinity'"])
@pytest.mark.parametrize("odd", BEYOND_TIME.values(), ids=BEYOND_TIME)
def test_a_time_beyond_all_times_hides_nothing(log: Log, dsn: str, odd: str, at: str) -> None:
    """Nothing is counted back from it: neither in the numbers about all, nor in what is told of that one."""
    spoil(log, odd.format(at=at))
    log.sent("t")
    log.tell(TaskSucceeded, "t", worker="alive", run="r1", name="mail")

    for words in (["stats"], ["top", "--once"], ["list"], ["show", "odd"], ["history", "odd"], ["explain", "odd"], ["explain", "alive"]):
        ended = command(*words, dsn=as_url(dsn))
        assert (ended.returncode, ended.stderr) == (0, ""), words


def test_a_group_with_a_member_without_a_name_is_shown(log: Log, dsn: str) -> None:
    """As versions before the constraint may have recorded it."""
    log.tell(GroupSaved, "g", members=("a",))
    log.connection.execute(b"update celery_journal.group_result_row set members = array['a', null] where group_id = 'g'")

    ended = command("show", "g", dsn=as_url(dsn))

    assert (ended.returncode, ended.stderr) == (0, "")
