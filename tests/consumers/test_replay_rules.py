"""What a replay sends and what it does not, and what the log has of it (F15)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery
from kombu import Exchange, Queue

from celery_journal.consumers import install
from celery_journal.consumers.replay import Order, Record, ReplayRefused, Wishes, begin, lineage
from celery_journal.consumers.replay.replay import Pace
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import (
    TaskErased,
    TaskFailed,
    TaskForgotten,
    TaskIgnored,
    TaskLost,
    TaskReplayed,
    TaskRevoked,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)

from .conftest import NewApp
from .lostscene import Log
from .replayscene import Fail, begun, clear, failing, only, resumed
from .scene import Mailbox, recorded, row

SOON = timedelta(seconds=60)


@pytest.fixture
def database(embedded_database: str) -> str:
    return embedded_database


@pytest.fixture
def log(connection: Connection) -> Log:
    return Log(connection)


@pytest.fixture
def app(make_app: NewApp, mailbox: Mailbox) -> Celery:
    return install(make_app(**mailbox.conf))


@pytest.fixture
def fail(app: Celery, log: Log, mailbox: Mailbox) -> Fail:
    return failing(app, log, mailbox)


def test_what_has_succeeded_is_left_out_unless_asked_for(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """Whether it has done so itself, its result ignored or not, or since, in an earlier replay."""
    good, ignored, since = fail(kind=TaskSucceeded), fail(kind=TaskIgnored), fail()
    (copy,) = begun(log.connection, app, [since], "earlier").run().sent.values()
    log.tell(TaskSucceeded, copy)

    summary = begun(log.connection, app, [good, ignored, since]).run()
    all_of_them = begun(log.connection, app, [good, ignored, since], "all", also_succeeded=True).run()

    assert summary.skipped == [
        (good, "it has succeeded"),
        (ignored, "it has succeeded"),
        (since, "it has succeeded since, in an earlier replay"),
    ]
    assert not summary.sent
    assert all_of_them.sent.keys() == {good, ignored, since}


def test_what_has_not_ended_is_refused_unless_asked_for(app: Celery, log: Log, fail: Fail) -> None:
    """It would run twice; one that is lost will not, and one that was revoked neither."""
    waits, runs, lost, revoked = fail(kind=None), fail(kind=TaskStarted), fail(kind=None), fail(kind=TaskRevoked)
    log.tell(TaskLost, lost, reason="worker gone")

    summary = begun(log.connection, app, [waits, runs, lost, revoked]).run()
    again = begun(log.connection, app, [lost], "again").run()
    after_all = begun(log.connection, app, [waits, runs], "after all", also_unfinished=True).run()

    assert summary.refused == [(waits, "it has not ended: it is PENDING"), (runs, "it has not ended: it is STARTED")]
    assert summary.sent.keys() == {lost, revoked}
    assert [why for _, why in again.refused] == ["an earlier replay of it has not ended: it is PENDING"]
    assert after_all.sent.keys() == {waits, runs}


def test_what_cannot_be_replayed_is_refused_in_one_sentence_and_the_rest_goes_on(
    app: Celery, make_app: NewApp, mailbox: Mailbox, log: Log, fail: Fail
) -> None:
    """Redacted, erased, not captured, not recorded, not decodable, not known: each counted at the end."""
    hidden = fail(argsrepr="('***',)")
    erased = fail()
    log.tell(TaskErased, erased, reason="request 7")
    options = make_app(**mailbox.conf, result_backend_transport_options={"store_arguments": False})
    bare = str(options.send_task("scene.add", [1, 2]).id)
    options.backend.buffer.flush()
    unsent = "unsent"
    broadcast = "broadcast"
    log.tell(TaskSent, broadcast, name="scene.add", source="broadcast")
    pickled = make_app(**mailbox.conf, task_serializer="pickle")
    strange = str(pickled.send_task("scene.add", [{1, 2}]).id)
    pickled.backend.buffer.flush()
    below = fail("scene.add", [], link=[app.signature("scene.add", args=[1]).set(argsrepr="(...)")])
    for task_id in (bare, unsent, strange, broadcast):
        log.tell(TaskFailed, task_id)
    good = fail()
    app.conf.accept_content = ["json"]

    summary = begun(log.connection, app, [hidden, erased, bare, unsent, "nobody", strange, below, broadcast, good]).run()

    assert dict(summary.refused) == {
        hidden: "its arguments were hidden by the caller (argsrepr, kwargsrepr)",
        erased: "its payload was erased",
        bare: "its arguments were not captured (store_arguments is off, or they were too large)",
        unsent: "it is not recorded how it was sent",
        broadcast: "it is not recorded how it was sent",
        "nobody": "the journal knows no such task",
        strange: "its arguments are a pickle, which a replay does not open: anybody may have written it",
        below: "the arguments of what comes after it were hidden by the caller (argsrepr, kwargsrepr)",
    }
    assert summary.sent.keys() == {good}
    assert summary.counts["refused"] == 8


def test_what_left_the_views_can_be_replayed_from_the_log(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """Forgotten results and expired ones are in the log still, and how they ended."""
    bad, good = fail(), fail(kind=TaskSucceeded)
    for task_id in (bad, good):
        log.tell(TaskForgotten, task_id)

    summary = begun(log.connection, app, [bad, good]).run()

    assert summary.sent == {bad: only(mailbox).id}
    assert summary.skipped == [(good, "it has succeeded")]


def test_a_name_is_taken_once(app: Celery, log: Log, fail: Fail) -> None:
    """By a replay, or by anything else in the log; and one that was never begun cannot be resumed."""
    task_id = fail()
    begun(log.connection, app, [task_id]).run()

    for name in ("r1", task_id):
        with pytest.raises(ReplayRefused, match=f"named {name} already"):
            begin(log.connection, Journal(), Emitter(), Order(name, Wishes()), [])
    with pytest.raises(ReplayRefused, match="there is no replay r2"):
        Record.of(log.connection, Journal(), "r2")


def test_a_replay_that_is_resumed_has_the_same_tasks(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """What was planned is sent, and nothing that was sent is sent again, though it has not ended; what was refused is tried again."""
    first, waits, last = fail(), fail(kind=None), fail()
    replay = begun(log.connection, app, [first, waits, last])
    stops = iter([False, True])
    replay.is_stopped = lambda: next(stops)

    stopped = replay.run()
    log.tell(TaskFailed, waits)
    resumed(log.connection, app).run()
    again = resumed(log.connection, app).run()

    assert (stopped.stopped, stopped.left, list(stopped.sent)) == ("it was interrupted", 2, [first])
    assert [message.headers["journal_replay_of"] for message in mailbox.sent()].count(first) == 1
    assert again.sent.keys() == {first, waits, last}
    assert len(mailbox.sent()) == 3
    assert [place.event.kind for place in log.journal.read_stream(log.connection, "r1")].count("replay-finished") == 1


def test_many_tasks_are_planned_in_several_facts(app: Celery, log: Log) -> None:
    """A thousand a fact."""
    ids = [f"t{number}" for number in range(2500)]

    begin(log.connection, Journal(), Emitter(), Order("many", Wishes(set=("kwargs.a=1",), rate="5/s")), ids)

    record = Record.of(log.connection, Journal(), "many")
    assert record.planned == ids
    assert record.order.wishes == Wishes(set=("kwargs.a=1",), rate="5/s")
    assert [place.event.kind for place in log.journal.read_stream(log.connection, "many")] == ["replay-started", *["replay-planned"] * 3]


def test_a_preview_sends_and_records_nothing(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """`--dry-run`."""
    task_id, good = fail(), fail(kind=TaskSucceeded)
    replay = begun(log.connection, app, [task_id, good])

    summary = replay.preview()

    assert (list(summary.sent), summary.skipped, mailbox.sent()) == ([task_id], [(good, "it has succeeded")], [])
    assert [place.event.kind for place in log.journal.read_stream(log.connection, "r1")] == ["replay-started", "replay-planned"]


def test_the_rate_is_kept() -> None:
    """No more leave together than are due in half a second, and who sends waits."""
    slow, quick = Pace("2/s", 20), Pace("100/s", 20)
    before = datetime.now(UTC)

    for _ in range(6):
        quick.wait(quick.batch)

    assert (slow.batch, Pace(None, 20).batch, quick.batch) == (1, 20, 20)
    assert timedelta(seconds=0.9) < datetime.now(UTC) - before < timedelta(seconds=5)


def test_who_when_and_why_are_facts_in_the_log(app: Celery, dsn: str, log: Log, fail: Fail) -> None:
    """F15: of the replay, and of each task, with lineage both ways."""
    task_id = fail()

    begun(log.connection, app, [task_id], also_unfinished=True).run()
    app.backend.buffer.flush()

    started, planned, sending, finished = (place.event for place in recorded(dsn, "r1"))
    assert [event.kind for event in (started, planned, sending, finished)] == [
        "replay-started",
        "replay-planned",
        "replay-sending",
        "replay-finished",
    ]
    facts = started.model_dump()
    assert (facts["author"], facts["reason"], facts["size"]) == ("alice@desk", "the bank was down", 1)
    assert facts["options"] == {"also_unfinished": True}
    assert finished.model_dump()["counts"] == {"sent": 1, "skipped": 0, "refused": 0, "doubtful": 0, "along": 0}
    (told,) = (place.event for place in recorded(dsn, task_id) if isinstance(place.event, TaskReplayed))
    assert (told.replay, told.author, told.reason) == ("r1", "alice@desk", "the bank was down")
    assert told.task_id is not None
    assert lineage(log.connection, task_id).replayed_as == (told.task_id,)
    assert lineage(log.connection, told.task_id).replay_of == task_id
    result = app.AsyncResult(told.task_id)
    assert (result.replay_of, result.replayed_as) == (task_id, ())
    assert row(dsn, task_id).status == "FAILURE"


def test_a_copy_can_be_sent_again_itself(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """What is recorded of it is what it was sent with, and not what that looks like."""
    (copy,) = begun(log.connection, app, [fail(args=(1,))], "first").run().sent.values()
    app.backend.buffer.flush()
    log.tell(TaskFailed, copy)
    clear(mailbox)

    summary = begun(log.connection, app, [copy], "second").run()

    assert (summary.refused, list(summary.sent)) == ([], [copy])
    assert only(mailbox).args == [1]


def test_a_replay_looks_how_far_it_got_when_it_is_alone(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """Another process may have sent something while this one waited for its user's answer."""
    tasks = [fail(), fail(), fail()]
    waiting = begun(log.connection, app, tasks)
    resumed(log.connection, app).run()

    summary = waiting.run()

    assert len(mailbox.sent()) == len({message.id for message in mailbox.sent()}) == 3
    assert summary.sent.keys() == set(tasks)


def test_what_waits_under_its_own_id_is_not_sent_again(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """The view says FAILURE until it has ended anew."""
    task_id = fail()
    begun(log.connection, app, [task_id], "first", same_id=True).run()

    second = begun(log.connection, app, [task_id], "second", same_id=True).run()
    log.tell(TaskFailed, task_id)
    third = begun(log.connection, app, [task_id], "third", same_id=True).run()

    assert [why for _, why in second.refused] == ["it has not ended: it is PENDING"]
    assert third.sent == {task_id: task_id}
    assert len(mailbox.sent()) == 2


def test_callbacks_that_could_not_be_recorded_are_not_left_out(app: Celery, log: Log, fail: Fail) -> None:
    """A replay without them would be another task."""
    task_id = fail(serializer="pickle", link=[app.signature("scene.add", args=[frozenset({1})])])

    summary = begun(log.connection, app, [task_id]).run()

    assert [why for _, why in summary.refused] == ["its callbacks, chain or chord were not captured: no serializer took them"]


def test_a_topic_exchange_is_made(make_app: NewApp, mailbox: Mailbox, log: Log) -> None:
    """A queue may be bound by a pattern; a broker that does not know the exchange would drop the message without a word."""
    feeds = Queue("feeds", Exchange("feeds", "topic"), "feed.#")
    app = install(make_app(**mailbox.conf, task_queues=[Queue("work"), feeds]))
    task_id = failing(app, log, mailbox)(args=(1, 2), queue="feeds", routing_key="feed.import")
    for path in (mailbox.folder / "control").iterdir():
        path.unlink()
    app.connection_for_write().transport.state.clear()  # as it is in another process

    summary = begun(log.connection, make_app(**mailbox.conf, task_queues=[Queue("work"), feeds]), [task_id]).run()

    assert (len(summary.sent), summary.refused, len(mailbox.sent())) == (1, [], 1)


def test_an_expiry_inside_of_a_chain_moves_along(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """Or the worker would revoke that step at once."""
    soon = datetime.now(UTC) + timedelta(seconds=2)
    task_id = fail(chain=[app.signature("scene.add", args=[1]).set(expires=soon, task_id="later")])
    time.sleep(2)

    begun(log.connection, app, [task_id]).run()

    (step,) = only(mailbox).embedded["chain"]
    assert datetime.fromisoformat(step["options"]["expires"]) > soon


def test_tasks_that_are_refused_together_are_all_counted(app: Celery, log: Log, fail: Fail) -> None:
    """Those of a chain go along with their step only if that is sent."""
    log.sent(
        "a",
        root_id="a",
        message={"exchange": "nowhere", "routing_key": "k", "headers": {"lang": "py"}},
        args=b"[]",
        kwargs=b"{}",
        embedded=b'{"chain": [{"task": "scene.add", "args": [], "kwargs": {}, "options": {"task_id": "b"}}]}',
        embedded_content_type="application/json",
    )
    log.tell(TaskFailed, "a", root_id="a")
    log.tell(TaskFailed, "b", root_id="a")

    summary = begun(log.connection, app, ["a", "b"]).run()

    assert (summary.sent, summary.along) == ({}, 0)
    assert [task_id for task_id, _ in summary.refused] == ["a", "b"]


def test_what_was_revoked_is_not_sent_under_its_own_id(app: Celery, log: Log, fail: Fail) -> None:
    """Workers remember the ids of what was revoked, or has expired, for hours: they would discard it without a word."""
    task_id = fail(kind=TaskRevoked)

    same = begun(log.connection, app, [task_id], "same", same_id=True).run()
    another = begun(log.connection, app, [task_id], "another").run()

    assert [why for _, why in same.refused] == ["it was revoked, and workers discard what comes under its id; send it without --same-id"]
    assert list(another.sent) == [task_id]


def test_a_task_that_was_sent_when_it_had_expired_does_not_expire_again(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """Moved along it would have expired once more, and nobody would ever run it."""
    task_id = fail(kind=TaskRevoked, expires=datetime.now(UTC) - SOON)

    begun(log.connection, app, [task_id]).run()

    message = only(mailbox)
    assert (message.headers["expires"], message.properties.get("expiration")) == (None, None)
