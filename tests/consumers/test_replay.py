"""Sending recorded tasks again: what is in the message (F01, F08, F15, R01)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery

from celery_journal.consumers import install
from celery_journal.consumers.models import TaskResult
from celery_journal.consumers.replay import CannotReplay, NothingToReplay, ReplayRefused
from celery_journal.consumers.replay.edits import Edit
from celery_journal.journal import Connection, Emitter
from celery_journal.journal.events import (
    TaskFailed,
    TaskSent,
    TaskSucceeded,
)
from celery_journal.projections import task_result

from .conftest import NewApp
from .lostscene import Log
from .replayscene import Fail, begun, clear, failed, failing, only, resumed
from .scene import Mailbox, Message, current, until

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


def published(app: Celery, mailbox: Mailbox, *task: Any, **options: Any) -> Message:
    """Return the message that Celery makes of the task."""
    app.send_task(*task, **options)
    message = only(mailbox)
    clear(mailbox)
    return message


def test_it_is_sent_as_it_was_published(app: Celery, log: Log, mailbox: Mailbox) -> None:
    """F01: name, arguments, headers, stamps, routing, priority, time limits, callbacks and the periodic name; only the ids are new."""
    callback = app.signature("scene.collect", args=["got"], task_id="callback")
    options: dict[str, Any] = {
        "headers": {"tenant": "acme", "periodic_task_name": "nightly", "stamped_headers": ["batch"], "stamps": {"batch": ["7"]}},
        "priority": 7,
        "time_limit": 30,
        "soft_time_limit": 20,
        "queue": "bills",
        "shadow": "billing",
        "link": [callback],
        "link_error": [app.signature("scene.oops")],
        "ignore_result": True,
    }
    first = published(app, mailbox, "scene.add", (1, "é"), {"z": [None, 1.5]}, **options)
    app.backend.buffer.flush()
    log.tell(TaskFailed, first.id)

    summary = begun(log.connection, app, [first.id]).run()

    again = only(mailbox)
    assert summary.sent == {first.id: again.id}
    assert again.id != first.id
    changing = ("id", "root_id", "origin", "journal_replay", "journal_replay_of")
    assert {name: again.headers[name] for name in again.headers if name not in changing} == {
        name: first.headers[name] for name in first.headers if name not in changing
    }
    assert (again.task, again.args) == (first.task, first.args)
    assert (again.headers["root_id"], again.headers["journal_replay_of"], again.headers["journal_replay"]) == (again.id, first.id, "r1")
    assert again.properties["priority"] == 7
    assert again.properties["correlation_id"] == again.id
    assert again.properties["delivery_info"] == first.properties["delivery_info"]
    (linked,) = again.embedded["callbacks"]
    assert linked["options"]["task_id"] != "callback"
    assert linked["options"]["headers"] == {"journal_replay_of": "callback"}
    assert (linked["task"], linked["args"]) == ("scene.collect", ["got"])
    assert again.embedded["errbacks"] == first.embedded["errbacks"]


def test_the_same_id_if_that_is_asked_for(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """And not twice in one replay, though nothing tells one message from the other."""
    task_id = fail()

    begun(log.connection, app, [task_id], same_id=True).run()
    again = resumed(log.connection, app).run()

    message = only(mailbox)
    assert (message.id, message.headers["root_id"]) == (task_id, task_id)
    assert "journal_replay_of" not in message.headers
    assert again.sent == {task_id: task_id}


def test_edited_arguments(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """`--set kwargs.amount=3`: a value in JSON, or else text; also deep inside; what Celery shows of the arguments goes along."""
    task_id = fail("scene.add", [1, {"deep": [1, 2]}], {"amount": 1})

    begun(log.connection, app, [task_id], set=("kwargs.amount=3", "args.0=five", "args.1.deep.1=null", "kwargs.new=[1]")).run()

    message = only(mailbox)
    assert message.args == ["five", {"deep": [1, None]}]
    assert message.headers["kwargsrepr"] == "{'amount': 3, 'new': [1]}"
    assert message.headers["argsrepr"] == "('five', {'deep': [1, None]})"


@pytest.mark.parametrize("text", ["amount=3", "kwargs.amount", "args=1", "args.x=1", "kwargs..a=1", "=", "kwargs.=1", "headers.x=1"])
def test_what_sets_nothing_is_refused(text: str) -> None:
    """In a sentence that says how it is written."""
    with pytest.raises(ReplayRefused, match=r"sets nothing; write kwargs\.amount=3"):
        Edit.of(text)


def test_a_place_that_is_not_there_is_refused(app: Celery, log: Log, fail: Fail) -> None:
    """An argument too far."""
    task_id = fail()

    assert begun(log.connection, app, [task_id], set=("args.2=1",)).run().refused == [(task_id, "'args.2=1' has no place in its arguments")]


def test_moments_that_have_passed(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """An eta that has passed means now; an `expires` moves as much as the message; what is still to come stays."""
    now = datetime.now(UTC)
    soon = now + timedelta(seconds=1)
    past = fail(eta=now - SOON, expires=soon)
    coming = fail(eta=now + SOON, expires=now + 2 * SOON)
    until(lambda: datetime.now(UTC) > soon)

    begun(log.connection, app, [past, coming]).run()

    moved, kept = sorted(mailbox.sent(), key=lambda message: message.headers["journal_replay_of"] != past)
    sent_at = next(place.event.occurred_at for place in log.journal.read_stream(log.connection, past))
    expires = datetime.fromisoformat(moved.headers["expires"])
    assert moved.headers["eta"] is None
    assert timedelta(seconds=-5) < expires - (datetime.now(UTC) + (soon - sent_at)) <= timedelta(0)
    assert kept.headers["eta"] == (now + SOON).isoformat()
    assert kept.headers["expires"] == (now + 2 * SOON).isoformat()


def test_a_pickle_is_not_opened(make_app: NewApp, mailbox: Mailbox, log: Log) -> None:
    """Though the app accepts them: whoever may write the log could have it run anything."""
    pickled = make_app(**mailbox.conf, task_serializer="pickle")
    task_id = str(pickled.send_task("scene.add", [{1, 2}]).id)
    pickled.backend.buffer.flush()
    log.tell(TaskFailed, task_id)

    summary = begun(log.connection, make_app(**mailbox.conf), [task_id]).run()

    assert dict(summary.refused) == {task_id: "its arguments are a pickle, which a replay does not open: anybody may have written it"}
    assert len(list((mailbox.folder / "queue").glob("*.msg"))) == 1


def test_the_first_attempt_is_what_is_sent_again(app: Celery, log: Log, mailbox: Mailbox) -> None:
    """A task that was retried begins anew."""
    emitter = Emitter()
    first, end = failed(emitter, "t", "work")
    retry = first.model_copy(update={"event_id": emitter.emit(TaskSent, "t").event_id, "attempt": 3, "args": b"[3, 3]"})
    log.journal.append(log.connection, first, retry, end)

    begun(log.connection, app, ["t"]).run()

    assert (only(mailbox).args, only(mailbox).headers["retries"]) == ([1, 2], 0)


def test_protocol_1_becomes_protocol_2(app: Celery, log: Log, mailbox: Mailbox) -> None:
    """What it has in its body goes into the headers."""
    app.conf.task_protocol = 1
    task_id = str(app.send_task("scene.add", [1, 2], {"z": 3}, time_limit=9, group_id="g").id)
    app.backend.buffer.flush()
    log.tell(TaskFailed, task_id)
    clear(mailbox)

    begun(log.connection, app, [task_id]).run()

    message = only(mailbox)
    assert (message.task, message.args) == ("scene.add", [1, 2])
    assert (message.headers["timelimit"], message.headers["group"], message.headers["lang"]) == ([9.0, None], "g", "py")


def test_a_named_exchange_keeps_its_routing_key(make_app: NewApp, mailbox: Mailbox, log: Log) -> None:
    """Where the app has a queue of that exchange; where it has none it is refused."""
    from kombu import Exchange, Queue

    bills = Queue("bills", Exchange("money", "direct"), "money.bills")
    app = make_app(**mailbox.conf, task_queues=[bills])
    task_id = str(app.send_task("scene.add", [1, 2], exchange="money", routing_key="money.bills", declare=[bills]).id)
    app.backend.buffer.flush()
    log.tell(TaskFailed, task_id)

    elsewhere = begun(log.connection, make_app(**mailbox.conf), [task_id], "elsewhere").run()
    begun(log.connection, app, [task_id]).run()

    assert {str(message.properties["delivery_info"]) for message in mailbox.sent()} == {
        "{'exchange': 'money', 'routing_key': 'money.bills'}"
    }
    assert len(mailbox.sent()) == 2
    assert [why for _, why in elsewhere.refused] == ["this app has no queue of the exchange money"]


def test_async_result_replay(app: Celery, log: Log, mailbox: Mailbox, fail: Fail) -> None:
    """R01, F08: the result of the new task; what is refused is raised."""
    bad, good = fail(), fail(kind=TaskSucceeded)

    new = app.AsyncResult(bad).replay(reason="again", set={"args.0": 5})

    assert (only(mailbox).id, only(mailbox).args) == (new.id, [5, 2])
    with pytest.raises(NothingToReplay, match=f"{good} need not be sent again: it has succeeded"):
        app.AsyncResult(good).replay()
    with pytest.raises(CannotReplay, match="nobody cannot be sent again: the journal knows no such task"):
        app.AsyncResult("nobody").replay()


def test_arguments_are_set_to_whatever_celery_writes_as_json(app: Celery, mailbox: Mailbox, fail: Fail) -> None:
    """A moment stays one; what JSON has no form for is refused before anything is recorded."""
    task_id, at = fail("scene.add", (1, 2), {"when": None}), datetime(2026, 1, 31, 8, tzinfo=UTC)

    with pytest.raises(ReplayRefused, match="Celery's JSON has a form for"):
        app.AsyncResult(task_id).replay(set={"kwargs.when": {1, 2}})
    app.AsyncResult(task_id).replay(set={"kwargs.when": at})

    assert only(mailbox).headers["kwargsrepr"] == repr({"when": at})


def test_task_result_replay(app: Celery, mailbox: Mailbox, fail: Fail) -> None:
    """F08: from a row, by the current app."""
    task_id = fail()

    with current(app):
        new = TaskResult.objects.get(task_id=task_id).replay()

    assert only(mailbox).id == new.id
    assert new.app.main == "scene"


def test_the_snippet_of_fulldbresult(app: Celery, mailbox: Mailbox, fail: Fail) -> None:
    """F08: `json.loads(args)` and `send_task`, as its documentation has it, works as well."""
    task_id = fail("scene.add", (1, 2), {"z": 3})

    with current(app):
        result = TaskResult.objects.get(task_id=task_id)
        args = json.loads(result.task_args or "")
        kwargs = json.loads(result.task_kwargs or "")
        app.send_task(result.task, args=args, kwargs=kwargs)

    assert only(mailbox).args == [1, 2]


def test_without_celery_a_row_cannot_be_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sentence that says what to import."""
    monkeypatch.setattr(task_result, "replay_task", None)

    with pytest.raises(RuntimeError, match=r"import TaskResult from celery_journal\.consumers\.models"):
        TaskResult(task_id="t", status="FAILURE").replay()
