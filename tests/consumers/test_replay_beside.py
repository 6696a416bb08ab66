"""Replays beside other replays: what another may have sent, and two at once; no task runs twice because nobody knew of the other."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_journal.consumers import install
from celery_journal.consumers.replay import CannotReplay, Replay, ReplayRefused, Uncertain
from celery_journal.consumers.replay.canvas import new_id
from celery_journal.consumers.replay.onebyone import OneByOne
from celery_journal.consumers.replay.replay import Pace
from celery_journal.journal.events import TaskFailed, TaskStarted, TaskSucceeded

from .conftest import NewApp
from .lostscene import Log
from .replayscene import Fail, begun, clear, failing, only, resumed
from .scene import Mailbox, kinds

MAY_HAVE = "the replay r1 may have sent it, and may not; --resume that one to find out, or say --resend-doubtful, and it may run twice"


@pytest.fixture
def database(embedded_database: str) -> str:
    return embedded_database


@pytest.fixture
def log(connection: Any) -> Log:
    return Log(connection)


@pytest.fixture
def app(make_app: NewApp, mailbox: Mailbox) -> Celery:
    return install(make_app(**mailbox.conf))


@pytest.fixture
def fail(app: Celery, log: Log, mailbox: Mailbox) -> Fail:
    return failing(app, log, mailbox)


class Killed(BaseException):
    """The process is killed."""


def in_doubt(monkeypatch: pytest.MonkeyPatch, log: Log, app: Celery, *task_ids: str) -> None:
    """Have the replay r1 lose the broker while it sends these."""

    def send(*_given: object) -> None:
        raise Uncertain("the broker went away: connection reset")

    with monkeypatch.context() as patch:
        patch.setattr(OneByOne, "send", send)
        assert sorted(begun(log.connection, app, list(task_ids)).run().doubtful) == sorted(task_ids)


def test_what_another_replay_may_have_sent_is_refused_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, app: Celery, dsn: str, log: Log, mailbox: Mailbox, fail: Fail
) -> None:
    """It may be on its way; with the name of that replay, which can find out. The doubt is a fact about the task, too."""
    task_id, other = fail(), fail()
    in_doubt(monkeypatch, log, app, task_id)

    refused = begun(log.connection, app, [task_id, other], "second").run()
    after_all = begun(log.connection, app, [task_id], "third", also_doubtful=True).run()

    assert refused.refused == [(task_id, MAY_HAVE)]
    assert (list(refused.sent), list(after_all.sent)) == ([other], [task_id])
    assert len(mailbox.sent()) == 2
    assert "operator-acted" in kinds(dsn, task_id)


def test_from_python_too(monkeypatch: pytest.MonkeyPatch, app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """`AsyncResult.replay()`."""
    task_id = fail()
    in_doubt(monkeypatch, log, app, task_id)

    with pytest.raises(CannotReplay, match="the replay r1 may have sent it"):
        app.AsyncResult(task_id).replay()
    new = app.AsyncResult(task_id).replay(resend_doubtful=True)

    assert [message.id for message in mailbox.sent()] == [new.id]


@pytest.mark.parametrize(
    ("where", "why"),
    [
        pytest.param((OneByOne, "send"), MAY_HAVE, id="before it left"),
        pytest.param((Replay, "_tell_sent"), "an earlier replay of it has not ended: it is PENDING", id="after it left"),
    ],
)
def test_what_a_killed_replay_was_about_to_send_is_refused(
    monkeypatch: pytest.MonkeyPatch, app: Celery, log: Log, fail: Fail, where: tuple[Any, str], why: str
) -> None:
    """Nobody has resumed it, which would find out; unless it is recorded that the message was sent."""
    task_id, other = fail(), fail()

    def die(*_given: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(*where, die)
        with pytest.raises(Killed):
            begun(log.connection, app, [task_id]).run()
    app.backend.buffer.flush()

    summary = begun(log.connection, app, [task_id, other], "second").run()

    assert summary.refused == [(task_id, why)]
    assert list(summary.sent) == [other]


def test_a_doubt_ends_when_the_other_replay_is_resumed_and_finds_out(
    monkeypatch: pytest.MonkeyPatch, app: Celery, log: Log, fail: Fail
) -> None:
    """Or sends it after all."""
    task_id = fail()
    in_doubt(monkeypatch, log, app, task_id)
    (copy,) = resumed(log.connection, app).run(resend_doubtful=True).sent.values()
    app.backend.buffer.flush()

    waits = begun(log.connection, app, [task_id], "second").run()
    log.tell(TaskFailed, copy)
    third = begun(log.connection, app, [task_id], "third").run()

    assert waits.refused == [(task_id, "an earlier replay of it has not ended: it is PENDING")]
    assert list(third.sent) == [task_id]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        pytest.param(TaskStarted, "an earlier replay of it has not ended: it is STARTED", id="runs"),
        pytest.param(TaskSucceeded, "it has succeeded since, in an earlier replay", id="succeeded"),
        pytest.param(TaskFailed, None, id="failed"),
    ],
)
def test_a_doubt_ends_when_a_worker_is_heard_of_the_task(
    monkeypatch: pytest.MonkeyPatch, app: Celery, log: Log, fail: Fail, kind: Any, why: str | None
) -> None:
    """Though nobody has resumed the replay: it was sent, and counts as any other replay of it."""
    task_id = fail()
    in_doubt(monkeypatch, log, app, task_id)
    log.tell(kind, new_id("r1", task_id), worker="w1")

    summary = begun(log.connection, app, [task_id], "second").run()

    assert [reason for _, reason in (*summary.refused, *summary.skipped)] == ([why] if why else [])
    assert list(summary.sent) == ([] if why else [task_id])


def at_the_first_wait(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Do something when the first batch was found, and before it is sent."""
    stock, acts = Pace.wait, [act]

    def wait(self: Pace, count: int) -> bool:
        if acts:
            acts.pop()()
        return stock(self, count)

    monkeypatch.setattr(Pace, "wait", wait)


def test_two_replays_of_the_same_tasks_at_once_send_each_once(
    monkeypatch: pytest.MonkeyPatch, app: Celery, log: Log, mailbox: Mailbox, fail: Fail
) -> None:
    """The second has sent them when the first has looked at them already: it looks again, just before."""
    tasks = [fail(), fail(), fail()]
    first = begun(log.connection, app, tasks, "first")
    at_the_first_wait(monkeypatch, begun(log.connection, app, tasks[:2], "second").run)

    summary = first.run()

    assert sorted(message.headers["journal_replay_of"] for message in mailbox.sent()) == sorted(tasks)
    assert list(summary.sent) == tasks[2:]
    assert summary.refused == [(task_id, "an earlier replay of it has not ended: it is PENDING") for task_id in tasks[:2]]


def test_what_has_gone_on_since_it_was_looked_at_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, app: Celery, log: Log, mailbox: Mailbox, fail: Fail
) -> None:
    """A task that was lost ends after all while a slow replay comes to it."""
    task_id = fail()
    at_the_first_wait(monkeypatch, lambda: log.tell(TaskSucceeded, task_id, worker="w1"))

    summary = begun(log.connection, app, [task_id]).run()

    assert (summary.skipped, summary.sent, mailbox.sent()) == ([(task_id, "it has succeeded")], {}, [])


def test_who_was_overtaken_by_another_process_of_the_replay_stops(
    monkeypatch: pytest.MonkeyPatch, app: Celery, log: Log, mailbox: Mailbox, fail: Fail
) -> None:
    """As it can be behind a pooler, where no session would keep a lock."""
    monkeypatch.setattr("celery_journal.consumers.replay.replay.is_pooled", lambda _connection: True)
    tasks = [fail(), fail()]
    first = begun(log.connection, app, tasks)
    at_the_first_wait(monkeypatch, resumed(log.connection, app).run)

    with pytest.raises(ReplayRefused, match="another process has gone on with the replay r1"):
        first.run()

    assert sorted(message.headers["journal_replay_of"] for message in mailbox.sent()) == sorted(tasks)


def test_a_task_and_its_replays_are_one(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """As `--filter state:FAILURE` finds them when the replay has failed too: the last one is sent, with its arguments, and only that."""
    task_id = fail(args=(1, 2))
    (first,) = begun(log.connection, app, [task_id], "first", set=("args.0=7",)).run().sent.values()
    (second,) = begun(log.connection, app, [task_id], "second", set=("args.0=8",), also_unfinished=True).run().sent.values()
    app.backend.buffer.flush()
    for copy in (first, second):
        log.tell(TaskFailed, copy)
    clear(mailbox)

    summary = begun(log.connection, app, [task_id, first, second], "third").run()
    again = resumed(log.connection, app, "third").run()

    assert (list(summary.sent), summary.along, summary.refused) == ([second], 2, [])
    assert (again.sent, again.along) == (summary.sent, 2)
    assert only(mailbox).args == [8, 2]


def test_the_one_that_is_named_is_sent_as_it_was(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """Though it was sent again since, with other arguments."""
    task_id = fail(args=(1, 2))
    (copy,) = begun(log.connection, app, [task_id], "first", set=("args.0=7",)).run().sent.values()
    log.tell(TaskFailed, copy)
    clear(mailbox)

    begun(log.connection, app, [task_id], "second").run()

    assert only(mailbox).args == [1, 2]


def test_what_has_succeeded_since_in_a_replay_beside_is_left_out(app: Celery, log: Log, fail: Fail) -> None:
    """Two replays of one task: what one has brought to success is not run again for the other, nor while that is under way."""
    task_id = fail()
    (failed,) = begun(log.connection, app, [task_id], "first").run().sent.values()
    app.backend.buffer.flush()
    log.tell(TaskFailed, failed)
    (other,) = begun(log.connection, app, [task_id], "second").run().sent.values()

    waits = begun(log.connection, app, [failed], "third").run()
    log.tell(TaskSucceeded, other)
    done = begun(log.connection, app, [failed], "fourth").run()

    assert waits.refused == [(failed, "under another id it has not ended: it is PENDING")]
    assert done.skipped == [(failed, "it has succeeded since, under another id")]


def test_a_replay_of_what_had_succeeded_before_can_be_sent_again(app: Celery, log: Log, fail: Fail) -> None:
    """It was asked for although it had, and has failed: success is what comes after it."""
    task_id = fail(kind=TaskSucceeded)
    (copy,) = begun(log.connection, app, [task_id], "first", also_succeeded=True).run().sent.values()
    app.backend.buffer.flush()
    log.tell(TaskFailed, copy)

    summary = begun(log.connection, app, [copy], "second").run()

    assert list(summary.sent) == [copy]
