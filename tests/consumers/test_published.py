"""What is recorded of a task that is sent: everything that it takes to send it again, and nothing that was not sent."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, chain, chord
from kombu.serialization import loads

from celery_journal.consumers import install
from celery_journal.consumers.capture import CaptureStep
from celery_journal.consumers.request import parent_of
from celery_journal.journal.events import TaskSent

from .proxy import Proxy
from .scene import ROOT, Mailbox, current, delivered, kinds, new_app, recorded, row, until, url_of

NewApp = Callable[..., Celery]


@pytest.fixture
def sender(make_app: NewApp, mailbox: Mailbox) -> Celery:
    """An app that sends to a folder."""
    app = make_app(**mailbox.conf)

    @app.task(name="scene.add", shared=False)
    def add(x: Any, y: Any, z: Any = None) -> Any:
        return x + y

    assert app.backend
    return app


def sent(dsn: str, task_id: str) -> TaskSent:
    """Return the fact that the task was sent, as soon as it is recorded."""
    until(lambda: "task-sent" in kinds(dsn, task_id), 10)
    (event,) = [place.event for place in recorded(dsn, task_id) if isinstance(place.event, TaskSent)]
    return event


def test_a_task_that_is_sent_is_told_from_one_that_nobody_knows(sender: Celery, dsn: str) -> None:
    """F09, F10, R65: its state is PENDING, it exists, and it has a time at which it was sent."""
    result = sender.tasks["scene.add"].delay(1, 2)

    event, task = sent(dsn, result.id), row(dsn, result.id)
    assert (task.status, task.date_sent) == ("PENDING", event.occurred_at)
    assert task.date_created == event.occurred_at  # M14
    assert result.state == "PENDING"
    assert sender.backend.task_result_exists(result.id)
    assert not sender.backend.task_result_exists("unknown")


def test_everything_is_kept_that_it_takes_to_send_it_again(sender: Celery, mailbox: Mailbox, dsn: str) -> None:
    """F01: name, arguments, headers, routing, eta, expires, priority, time limits, callbacks, stamps, the periodic task."""
    eta, add = datetime(2030, 1, 1, 12, tzinfo=UTC), sender.tasks["scene.add"]
    result = add.apply_async(
        (1, {"a": [2.5, None]}),
        {"z": "ä\0"},
        eta=eta,
        expires=eta + timedelta(hours=1),
        priority=7,
        time_limit=60,
        soft_time_limit=50,
        link=add.s(10),
        link_error=add.s(20),
        headers={"tenant": "acme", "periodic_task_name": "nightly"},
        shadow="other name",
        queue="mail",
    )

    event, (message,) = sent(dsn, result.id), mailbox.sent()
    assert event.name == "scene.add"  # M03
    assert json.loads(event.args or b"") == message.args
    assert json.loads(event.kwargs or b"") == {"z": "ä\0"}
    assert (event.queue, event.eta, event.expires, event.time_limit) == ("mail", eta, eta + timedelta(hours=1), 60)
    assert event.periodic_task_name == "nightly"  # M04
    assert row(dsn, result.id).periodic_task_name == "nightly"
    assert event.message is not None
    headers = {"id": event.stream, "task": event.name, **event.message["headers"]}
    kept = {name: value for name, value in message.headers.items() if value is not None and not name.endswith("repr")}
    assert headers == kept
    assert event.message["headers"]["tenant"] == "acme"
    assert event.message["properties"]["priority"] == 7
    assert (event.message["exchange"], event.message["routing_key"]) == ("", "mail")
    embedded = loads(event.embedded, event.embedded_content_type, "utf-8", accept=["application/json"])
    assert embedded == {name: value for name, value in message.embedded.items() if value}
    assert embedded["callbacks"][0]["args"] == [10]
    assert embedded["errbacks"][0]["args"] == [20]


def test_the_canvas_of_a_task_is_kept(sender: Celery, mailbox: Mailbox, dsn: str) -> None:
    """F01: what comes after it in its chain, and the chord that it is a member of."""
    add = sender.tasks["scene.add"]
    first = chain(add.s(1, 2), add.s(3), add.s(4)).delay().parent.parent
    member = chord([add.s(1, 1), add.s(2, 2)], add.s(3)).delay().parent[0]

    rest = loads(sent(dsn, first.id).embedded, "application/json", "utf-8", accept=["application/json"])
    assert [task["args"] for task in rest["chain"]] == [[4], [3]]
    part = sent(dsn, member.id)
    assert (part.group_id, part.group_index) == (member.backend.app.AsyncResult(member.id)._get_task_meta()["group_id"], 0)
    assert loads(part.embedded, "application/json", "utf-8", accept=["application/json"])["chord"]["args"] == [3]


def test_stamps_are_kept(sender: Celery, dsn: str) -> None:
    """Also those by which a task can be revoked."""
    signature = sender.tasks["scene.add"].s(1, 2)
    signature.stamp(tenant="acme")
    result = signature.apply_async()

    event = sent(dsn, result.id)
    assert event.message is not None
    assert event.message["headers"]["stamps"] == {"tenant": "acme"}
    assert json.loads(event.meta or b"")["stamps"] == {"tenant": "acme"}


def test_arguments_are_those_of_the_moment_of_sending(sender: Celery, mailbox: Mailbox, dsn: str) -> None:
    """What the caller does with its objects afterwards is none of the task's business."""
    numbers = [1, 2]
    sender.backend.buffer.flush()
    result = sender.tasks["scene.add"].delay(numbers, 0)
    numbers.append(3)

    assert json.loads(sent(dsn, result.id).args or b"") == [[1, 2], 0] == mailbox.sent()[0].args


class Amount:
    """What only pickle can send."""

    def __init__(self, number: int) -> None:
        self.number = number


def test_arguments_are_kept_as_the_serializer_makes_them(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """Python's own objects come back as such."""
    app = make_app(task_serializer="pickle", **mailbox.conf)
    task_id = app.send_task("scene.add", (Amount(3),)).id

    event = sent(dsn, task_id)
    assert event.args_content_type == "application/x-python-serialize"
    assert pickle.loads(event.args or b"")[0].number == 3


def test_what_the_caller_shows_is_stored_in_place_of_the_arguments(sender: Celery, mailbox: Mailbox, dsn: str) -> None:
    """Privacy: who gives `argsrepr` does not want the arguments to be seen; what it does not cover stays exact."""
    result = sender.send_task("scene.add", ("4111-1111",), {"amount": 3}, argsrepr="('****',)")

    event = sent(dsn, result.id)
    assert json.loads(event.args or b"") == "('****',)"
    assert json.loads(event.kwargs or b"") == {"amount": 3}
    assert b"4111" not in repr(event).encode()
    assert event.message is not None
    assert event.message["headers"]["argsrepr"] == "('****',)"


@pytest.mark.parametrize("args", [(1, 2), ("x" * 5000, {"a": [1, {2: "b"}]}), ({"nested": [[[[[1]]]]]},), (2.5, None, True, "ü'\"")])
def test_arguments_that_celery_shows_itself_are_stored_exactly(sender: Celery, dsn: str, args: tuple[Any, ...]) -> None:
    """Its own reprs are cut and changed, and are nobody's wish."""
    result = sender.send_task("scene.add", args)

    assert json.loads(sent(dsn, result.id).args or b"") == json.loads(json.dumps(list(args)))


def test_arguments_are_not_kept_where_nobody_wants_them(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """The option store_arguments."""
    app = make_app(result_backend_transport_options={"store_arguments": False}, **mailbox.conf)
    task_id = app.send_task("scene.add", ("secret",), {"key": "secret"}, link=app.signature("scene.add", ("after",))).id

    event = sent(dsn, task_id)
    assert (event.args, event.kwargs) == (None, None)
    assert "secret" not in repr(event)


# When


def test_a_message_that_the_broker_does_not_take_was_not_sent(make_app: NewApp, dsn: str, tmp_path: Path) -> None:
    """Nothing is recorded of it, and the caller gets the broker's error."""
    mailbox = Mailbox(tmp_path / "gone")
    app = make_app(**mailbox.conf, task_publish_retry=False)
    assert app.backend
    for folder in mailbox.folder.iterdir():
        folder.rmdir()
    with pytest.raises(OSError, match=r"."):
        app.send_task("scene.add", (1, 2), task_id="a")
    app.backend.buffer.flush()

    assert recorded(dsn, "a") == []


def test_a_durable_fact_is_there_before_the_message_leaves(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """`track_publish` is `sync`: whoever gets the message finds the task in the journal."""
    app = make_app(result_backend_transport_options={"track_publish": "sync"}, **mailbox.conf)
    seen = list[list[str]]()
    put = mailbox.folder / "queue"

    from celery_journal.consumers.demo import broker

    original = broker.Channel._put

    def watching(self: Any, queue: str, payload: Any, **more: Any) -> None:
        seen.append(kinds(dsn, "a"))
        original(self, queue, payload, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker.Channel, "_put", watching)
        app.send_task("scene.add", (1, 2), task_id="a")

    assert seen == [["task-sent"]]
    assert list(put.glob("*.msg"))


def test_nothing_is_recorded_where_nobody_wants_it(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """`track_publish` is `off`."""
    app = make_app(result_backend_transport_options={"track_publish": "off"}, **mailbox.conf)
    app.send_task("scene.add", (1, 2), task_id="a")
    app.backend.buffer.flush()

    assert recorded(dsn, "a") == []
    assert app.AsyncResult("a").state == "PENDING"


@pytest.mark.parametrize(("given", "mode"), [(True, "buffered"), (False, "off")])
def test_the_old_name_of_the_setting_is_understood(make_app: NewApp, given: bool, mode: str) -> None:
    """F09: DJANGO_CELERY_FULLDBRESULT_TRACK_PUBLISH, unless the option itself is given."""
    assert make_app(DJANGO_CELERY_FULLDBRESULT_TRACK_PUBLISH=given).backend.options.track_publish == mode
    both = make_app(DJANGO_CELERY_FULLDBRESULT_TRACK_PUBLISH=given, result_backend_transport_options={"track_publish": "sync"})
    assert both.backend.options.track_publish == "sync"


def test_a_process_that_ends_at_once_has_recorded_what_it_sent(dsn: str, mailbox: Mailbox) -> None:
    """A script that sends one task and ends, as they do in cron."""
    script = f"""
from tests.consumers.scene import new_app
app = new_app({url_of(dsn)!r}, **{mailbox.conf!r})
app.backend
print(app.send_task("scene.add", (1, 2)).id)
"""
    task_id = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    assert kinds(dsn, task_id) == ["task-sent"]


def test_a_process_that_only_sends_what_nobody_waits_for_is_heard_too(dsn: str, mailbox: Mailbox) -> None:
    """It never makes its result backend before it sends: `install(app)` sees to it."""
    script = f"""
from celery_journal.consumers import install
from tests.consumers.scene import new_app
app = install(new_app({url_of(dsn)!r}, **{mailbox.conf!r}))
print(app.send_task("scene.add", (1, 2), ignore_result=True).id)
"""
    task_id = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    assert kinds(dsn, task_id) == ["task-sent"]


def test_a_forked_process_records_what_it_sends_itself_and_once(sender: Celery, dsn: str) -> None:
    """What the parent has sent, and not yet recorded, is the parent's."""
    import os

    sender.send_task("scene.add", (1, 2), task_id="parent")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sender.send_task("scene.add", (3, 4), task_id="child")
            sender.backend.buffer.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0

    assert sent(dsn, "parent").args == b"[1, 2]"
    assert sent(dsn, "child").args == b"[3, 4]"


def test_what_is_sent_while_the_database_is_away_is_in_the_spool(make_app: NewApp, mailbox: Mailbox, dsn: str, proxy: Proxy) -> None:
    """At once, whatever the retry budget: until then it is in memory only. And in the log when the database is back."""
    app = make_app(url_of(proxy.dsn), result_backend_transport_options={"retry_budget": 60}, **mailbox.conf)
    assert app.backend.get_state("x") == "PENDING"
    with _away(proxy):
        app.send_task("scene.add", (1, 2), task_id="a")
        app.backend.buffer.flush()
        assert app.backend.spool.length() == 1
        assert len(mailbox.sent()) == 1
    assert sent(dsn, "a").args == b"[1, 2]"


@contextmanager
def _away(proxy: Proxy) -> Iterator[None]:
    port = int(proxy._listener.getsockname()[1])
    dsn = proxy.dsn
    proxy.close()
    yield
    proxy.__init__(dsn.replace(f"port={port}", f"port={proxy._port}").replace("host=127.0.0.1", f"host={proxy._host}"), port)  # type: ignore[misc]


# Whose


def test_each_app_has_its_own_tasks_recorded(make_app: NewApp, mailbox: Mailbox, dsn: str, tmp_path: Path) -> None:
    """Also where several live in one process, and one of them has another result backend."""
    ours, theirs = make_app(**mailbox.conf), new_app("cache+memory://", **Mailbox(tmp_path / "other").conf)
    assert ours.backend
    with current(ours):
        theirs.send_task("scene.add", (1, 2), task_id="theirs")
    ours.send_task("scene.add", (1, 2), task_id="ours")
    ours.backend.buffer.flush()

    assert kinds(dsn, "ours") == ["task-sent"]
    assert kinds(dsn, "theirs") == []


def test_to_attach_again_and_again_changes_nothing(sender: Celery, dsn: str) -> None:
    """By the backend, by install(app), by the worker's step: one fact a message."""
    install(install(sender))
    CaptureStep(type("Worker", (), {"app": sender}))
    result = sender.send_task("scene.add", (1, 2))

    assert sent(dsn, result.id)
    assert kinds(dsn, result.id) == ["task-sent"]
    assert list(sender.steps["worker"]).count(CaptureStep) == 1


def test_messages_of_protocol_1_are_recorded(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """As Celery 3 has them."""
    app = make_app(task_protocol=1, **mailbox.conf)
    app.send_task("scene.add", (1, 2), {"z": 3}, task_id="a", countdown=60)

    event = sent(dsn, "a")
    assert (event.name, event.args, event.kwargs) == ("scene.add", b"[1, 2]", b'{"z": 3}')
    assert event.eta is not None


def test_a_task_that_is_retried_says_when_its_next_attempt_is_due(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """What is stored of a retry has its cause; when it goes on is known only to the message."""
    from .retrying import run_retrying

    task_id = run_retrying(make_app(**mailbox.conf))

    events = {place.event.kind: place.event for place in recorded(dsn, task_id)}
    until(lambda: [place.event.attempt for place in recorded(dsn, task_id) if place.event.kind == "task-sent"] == [1], 10)
    again = sent(dsn, task_id)
    retried: Any = events["task-retried"]
    assert again.attempt == 1
    assert again.eta == retried.eta
    assert retried.eta > datetime.now(UTC) + timedelta(seconds=30)
    assert b"ConnectionError" in (retried.result or b"")
    assert row(dsn, task_id).status == "RETRY"
    assert again.root_id == task_id
    assert again.parent_id is None  # Celery says that it is its own


@pytest.mark.parametrize(
    ("given", "sender", "parent"),
    [
        pytest.param("p", {"id": "p"}, "p", id="another"),
        pytest.param("t", {"id": "t", "parent_id": None}, None, id="a root that tries again"),
        pytest.param("t", {"id": "t", "parent_id": "t"}, None, id="and again"),
        pytest.param("t", {"id": "t", "parent_id": "p"}, "p", id="one that replaces itself"),
        pytest.param("t", {"id": "u", "parent_id": "p"}, None, id="told so by another"),
        pytest.param("t", None, None, id="told so by nobody"),
        pytest.param(None, {"id": "t", "parent_id": "p"}, None, id="none"),
    ],
)
def test_a_task_is_not_its_own_parent(given: str | None, sender: dict[str, Any] | None, parent: str | None) -> None:
    """Celery takes the task that sends a message without a parent for it, also where that is an attempt of itself."""
    assert parent_of(given, "t", None if sender is None else SimpleNamespace(**sender)) == parent


def test_what_cannot_be_stored_of_a_message_does_not_keep_it_from_being_recorded(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """Arguments above max_payload_bytes are left out, and the others of the same batch are whole."""
    app = make_app(result_backend_transport_options={"max_payload_bytes": 10_000}, **mailbox.conf)
    app.send_task("scene.add", ("x" * 20_000,), task_id="large")
    app.send_task("scene.add", (1, 2), task_id="small")

    assert sent(dsn, "large").args is None
    assert sent(dsn, "large").name == "scene.add"
    assert sent(dsn, "small").args == b"[1, 2]"


def test_ids_may_be_uuids(sender: Celery, dsn: str) -> None:
    """As objects; serializers keep them so."""
    task_id = uuid4()
    sender.send_task("scene.add", (1, 2), task_id=task_id, root_id=task_id, parent_id=uuid4(), group_id=uuid4())

    event = sent(dsn, str(task_id))
    assert event.root_id == str(task_id)
    request = delivered(sender, task_id=str(task_id))
    request.root_id = request.parent_id = request.group = task_id
    sender.backend.store_result(task_id, 1, "SUCCESS", request=request)
    assert sender.AsyncResult(str(task_id)).get(timeout=10) == 1


def test_properties_may_be_anything(sender: Celery, dsn: str) -> None:
    """What Celery does not know ends up there."""
    result = sender.send_task("scene.add", (1, 2), tags=["a", {"b": 1}])

    message = sent(dsn, result.id).message
    assert message is not None
    assert message["properties"]["tags"] == ["a", {"b": 1}]


def test_what_a_member_of_a_chain_hides_stays_hidden(sender: Celery, dsn: str) -> None:
    """Privacy: also among what comes after a task; the others are whole."""
    add = sender.tasks["scene.add"]
    secret = add.si("4111-1111", 1).set(argsrepr="('****', 1)")
    first = chain(add.s(1, 2), secret, add.si(5, 6)).apply_async().parent.parent

    event = sent(dsn, first.id)
    assert b"4111" not in (event.embedded or b"")
    rest = loads(event.embedded, event.embedded_content_type, "utf-8", accept=["application/json"])["chain"]
    assert [task["args"] for task in rest] == [[5, 6], []]


def test_no_arguments_are_kept_among_callbacks_where_nobody_wants_them(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """The option store_arguments speaks of all tasks."""
    app = make_app(result_backend_transport_options={"store_arguments": False}, **mailbox.conf)
    app.send_task("scene.add", (1, 2), task_id="a", link=app.signature("scene.add", ("secret", 1)))

    assert b"secret" not in repr(sent(dsn, "a")).encode()


def test_what_is_too_large_is_recorded_in_part_also_before_it_leaves(make_app: NewApp, mailbox: Mailbox, dsn: str) -> None:
    """`sync` records no less than `buffered`."""
    app = make_app(result_backend_transport_options={"max_payload_bytes": 5000, "track_publish": "sync"}, **mailbox.conf)
    app.send_task("scene.add", ("x" * 20_000,), task_id="large")

    assert kinds(dsn, "large") == ["task-sent"]


def test_a_child_of_multiprocessing_records_what_it_sends(dsn: str, mailbox: Mailbox) -> None:
    """It ends without Python's own exit."""
    script = f"""
import multiprocessing
from tests.consumers.scene import new_app
app = new_app({url_of(dsn)!r}, **{mailbox.conf!r})
app.backend
def child():
    app.send_task("scene.add", (1, 2), task_id="child")
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)

    assert kinds(dsn, "child") == ["task-sent"]
