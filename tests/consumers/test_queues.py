"""The queue of a task is a queue, by its name, whatever the exchange, the routing key and a delay: with real workers of RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from celery import Celery
from kombu import Exchange, Queue, binding
from kombu.common import Broadcast

from celery_journal.consumers import install
from celery_journal.consumers.explain import explain
from celery_journal.consumers.lost import find_lost
from celery_journal.consumers.routing import UnknownQueue, queue_for, undelayed
from celery_journal.consumers.search import parse
from celery_journal.consumers.stats import snapshot
from celery_journal.journal.events import TaskReceived, TaskSent
from celery_journal.projections import TaskResult, verify
from tests.conftest import empty, require

from .broadcasting import Station
from .conftest import NewApp
from .scene import ask, current, kinds, recorded, row, until, url_of
from .workers import Worker, available, working

PATIENCE = 60

#: Before the routing key of what is delayed by five seconds.
FIVE = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.1."

pytestmark = pytest.mark.timeout(180)


# Which queue that is, by an app's own queues


@pytest.fixture
def routed(make_app: NewApp) -> Celery:
    """An app with queues of every kind of exchange."""
    media, topic, spread = Exchange("media", "direct"), Exchange("topics", "topic"), Exchange("hashed", "x-consistent-hash")
    queues = [
        Queue("videos", media, "media.video"),
        Queue("images", media, "media.image"),
        Queue("both", [binding(media, routing_key="media.text"), binding(media, routing_key="media.sound")]),
        Queue("mails", topic, "mail.*.now"),
        Queue("logs", topic, "log.#"),
        Broadcast("everywhere"),
        Queue("part1", spread, "1"),
        Queue("part2", spread, "1"),
        UnknownQueue("topics/nobody", topic, "nobody"),
    ]
    return make_app(task_queues=queues)


@pytest.mark.parametrize(
    ("exchange", "key", "queue"),
    [
        pytest.param("", "videos", "videos", id="the broker's own"),
        pytest.param(None, "videos", "videos", id="no exchange"),
        pytest.param("", "not ours", "not ours", id="a queue that the app does not know"),
        pytest.param("media", "media.image", "images", id="direct"),
        pytest.param("media", "media.sound", "both", id="one of several bindings"),
        pytest.param("media", "media", None, id="direct, of no queue"),
        pytest.param("topics", "mail.high.now", "mails", id="a word"),
        pytest.param("topics", "mail.now", None, id="a word that is missing"),
        pytest.param("topics", "log", "logs", id="no words"),
        pytest.param("topics", "log.a.b.c", "logs", id="many words"),
        pytest.param("topics", "nobody", None, id="one that stands for another"),
        pytest.param("everywhere", "anything", "everywhere", id="broadcast"),
        pytest.param("hashed", "1", None, id="any of several"),
        pytest.param("elsewhere", "videos", None, id="an exchange that the app does not know"),
        pytest.param(Exchange("celery_delayed_27", "topic"), f"{FIVE}mail.high.now", "mails", id="delayed"),
        pytest.param("celery_delayed_delivery", f"{FIVE}{FIVE}log.a", "logs", id="delayed again"),
        pytest.param("shop_celery_delayed_0", f"{FIVE}log.a", "logs", id="delayed under a prefix"),
        pytest.param("celery_delayed_1", f"{FIVE}media.image", None, id="a direct one delays nothing"),
        pytest.param("media", object(), None, id="no text"),
        pytest.param(17, "videos", None, id="no name"),
    ],
)
def test_the_queue_of_a_message_is_one_of_the_app(routed: Celery, exchange: object, key: object, queue: str | None) -> None:
    """By the exchange and the routing key; a delay is undone."""
    assert queue_for(routed, exchange, key) == queue


def test_what_is_declared_with_a_message_is_believed_only_if_it_goes_there(routed: Celery) -> None:
    """Celery declares the default queue also when the caller has chosen another exchange."""
    default, other = Queue("work", Exchange("work"), "work"), Queue("more logs", Exchange("topics", "topic"), "log.#")

    assert queue_for(routed, "media", "media.video", [default]) == "videos"
    assert queue_for(routed, "topics", "log.a", [other, Exchange("topics")]) == "more logs"


def test_a_routing_key_that_looks_delayed_and_is_not() -> None:
    """Only a whole delay is one."""
    assert undelayed("1.0.log") == "1.0.log"
    assert undelayed(f"log.{FIVE}a") == f"log.{FIVE}a"


# Real workers


@pytest.fixture(scope="module")
def token(embedded_database: str) -> Iterator[str]:
    """A name for queues; what RabbitMQ delays by is not left behind where it was not there before."""
    require("RabbitMQ", available("rabbitmq"))
    token = f"scene-{uuid4().hex[:8]}"
    with Celery(set_as_current=False, broker="pyamqp://guest:guest@127.0.0.1:5672//") as app, app.connection_for_write() as connection:
        try:
            with connection.channel() as channel:
                channel.queue_declare("celery_delayed_0", passive=True)
            was_there = True
        except connection.channel_errors:
            was_there = False
    yield token
    with Celery(set_as_current=False, broker="pyamqp://guest:guest@127.0.0.1:5672//") as app, app.connection_for_write() as connection:
        channel = connection.channel()
        for name in (token, f"{token}-foreign"):
            channel.queue_delete(f"{name}-videos")
            for exchange in (f"{name}-topic", f"{name}-media"):
                channel.exchange_delete(exchange)
        for level in range(28) if not was_there else ():
            channel.queue_delete(f"celery_delayed_{level}")
            if level < 27:
                channel.exchange_delete(f"celery_delayed_{level}")
        if not was_there:
            channel.exchange_delete("celery_delayed_delivery")


def routing(token: str) -> dict[str, Any]:
    """Return settings with a quorum queue of a topic exchange, and a queue of a direct one; neither has the name of its routing key."""
    # The keys are of the test alone: RabbitMQ delivers what it has delayed by the key, and not by the exchange.
    quorum = {"queue_arguments": {"x-queue-type": "quorum"}}
    return {
        "task_queues": {
            token: {"exchange": f"{token}-topic", "exchange_type": "topic", "routing_key": f"{token}.due", **quorum},
            f"{token}-videos": {"exchange": f"{token}-media", "exchange_type": "direct", "routing_key": "media.video", **quorum},
        },
        "broker_transport_options": {"confirm_publish": True},
    }


@pytest.fixture(scope="module")
def worker(embedded_database: str, token: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker of both queues, and an app that sends to it."""
    with psycopg.connect(embedded_database, autocommit=True) as connection:
        empty(connection)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CELERY_JOURNAL_HEARTBEAT_INTERVAL", "0.3")
        folder = tmp_path_factory.mktemp("queues")
        with working("rabbitmq", url_of(embedded_database), embedded_database, folder, token=token, **routing(token)) as worker:
            install(worker.app)
            yield worker


def queues_of(dsn: str, task_id: str) -> set[str | None]:
    """Return the queues that the facts of a task name."""
    return {place.event.model_dump()["queue"] for place in recorded(dsn, task_id)}


def ways_of(dsn: str, task_id: str) -> list[tuple[str, str]]:
    """Return the exchange and the routing key of each message of a task, as it was sent and as it was received."""
    ways = []
    for place in recorded(dsn, task_id):
        match place.event:
            case TaskSent(message=dict() as message):
                ways.append((message["exchange"], message["routing_key"]))
            case TaskReceived(request=dict() as request):
                ways.append((request["delivery_info"]["exchange"], request["delivery_info"]["routing_key"]))
    return ways


def send(worker: Worker, name: str, *args: Any, **options: Any) -> Any:
    """Send the task of the current app: by that the journal finds it where Celery declares no queue."""
    with current(worker.app):
        return worker.send(name, *args, **options)


def done(worker: Worker, result: Any) -> str:
    """Wait until the task has ended and all of it is recorded, and return its id."""
    result.get(timeout=PATIENCE)
    task_id = str(result.id)
    wanted = {"task-sent", "task-received", "task-succeeded"}
    until(lambda: wanted <= set(kinds(worker.dsn, task_id)), PATIENCE)
    return task_id


def found(dsn: str, queue: str) -> set[str]:
    """Return the ids of the tasks that the words `queue:NAME` find."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return {task.task_id for task in TaskResult.objects.using(connection).filter(parse([f"queue:{queue}"], datetime.now(UTC)))}


def test_a_topic_exchange(worker: Worker, token: str) -> None:
    """The queue is neither the exchange nor the routing key, which are kept beside it."""
    task_id = done(worker, send(worker, "add", 1, 2))

    assert queues_of(worker.dsn, task_id) == {token}
    assert ways_of(worker.dsn, task_id) == [(f"{token}-topic", f"{token}.due")] * 2
    assert row(worker.dsn, task_id).queue == token
    assert task_id in found(worker.dsn, token)


def test_a_direct_exchange_that_the_caller_names(worker: Worker, token: str) -> None:
    """Celery declares the default queue, to which the message does not go."""
    task_id = done(worker, send(worker, "add", 1, 2, exchange=f"{token}-media", routing_key="media.video"))

    assert queues_of(worker.dsn, task_id) == {f"{token}-videos"}
    assert ways_of(worker.dsn, task_id) == [(f"{token}-media", "media.video")] * 2
    assert task_id in found(worker.dsn, f"{token}-videos")


def test_a_message_that_rabbitmq_delays(worker: Worker, token: str) -> None:
    """It goes to the queue in the end, which is known from the beginning; and so does every retry."""
    countdown = done(worker, send(worker, "add", 1, 2, countdown=1.5))
    retried = done(worker, send(worker, "persist", 2, "", 1.5))

    for task_id in (countdown, retried):
        assert queues_of(worker.dsn, task_id) == {token}
        assert any(exchange == "celery_delayed_27" for exchange, _ in ways_of(worker.dsn, task_id))
        assert any(exchange.startswith("celery_delayed_") for exchange, key in ways_of(worker.dsn, task_id)[1:])
    assert {countdown, retried} <= found(worker.dsn, token)
    attempts = ask(worker.dsn, b"select attempt, queue from celery_journal.task_attempt where task_id = %s order by 1", retried)
    assert attempts == [(0, token), (1, token), (2, token)]


def test_a_queue_that_only_the_broker_has_bound(worker: Worker, token: str) -> None:
    """The sender does not know where its message goes; the worker knows where it has it from."""
    with worker.app.connection_for_write() as connection:
        queue = worker.app.amqp.queues[f"{token}-videos"](connection.channel())
        queue.bind_to(f"{token}-media", "by.hand")
    task_id = done(worker, send(worker, "add", 1, 2, exchange=f"{token}-media", routing_key="by.hand"))

    by_kind = {place.event.kind: place.event.model_dump()["queue"] for place in recorded(worker.dsn, task_id)}
    assert by_kind["task-sent"] is None
    assert row(worker.dsn, task_id).queue == f"{token}-videos"
    assert {by_kind["task-received"], by_kind["task-started"], by_kind["task-succeeded"]} == {f"{token}-videos"}
    assert task_id in found(worker.dsn, f"{token}-videos")


def test_who_consumes_and_what_is_lost(worker: Worker, token: str) -> None:
    """F03: explain, lost and top go by the name of the queue, by which the workers tell what they consume."""

    def consumed() -> list[str]:
        (queues,) = ask(worker.dsn, b"select queues from celery_journal.worker where alive and queues is not null")
        return list(queues[0])

    until(lambda: consumed() == [token, f"{token}-videos"], PATIENCE)
    worker.app.control.cancel_consumer(token, reply=True, timeout=5, limit=1)
    until(lambda: token not in consumed(), PATIENCE)
    delayed, waiting = send(worker, "add", 1, 2, countdown=1.1), send(worker, "add", 1, 2)
    with psycopg.connect(worker.dsn, autocommit=True) as connection, worker.app.connection_for_write() as broker:
        until(lambda: all(kinds(worker.dsn, result.id) for result in (delayed, waiting)), PATIENCE)
        assert f"on `{token}`, no live worker consumes it" in str(explain(connection, waiting.id))
        assert f"on `{token}`" in str(explain(connection, delayed.id))
        channel = broker.channel()
        until(lambda: channel.queue_declare(token, passive=True).message_count == 2, PATIENCE)
        channel.queue_purge(token)
        worker.app.control.add_consumer(token, reply=True, timeout=5, limit=1)
        until(lambda: token in consumed(), PATIENCE)

        assert f"on `{token}`, 1 live worker consumes it, with nothing to do" in str(explain(connection, waiting.id))
        until(lambda: {delayed.id, waiting.id} <= {one.task_id for one in find_lost(connection, 0.5)}, PATIENCE)
        assert f"which consumes {token}, has nothing to do" in {one.task_id: one.reason for one in find_lost(connection, 0.5)}[delayed.id]
        assert {share.key for share in snapshot(connection, 3600).shares["queue"]} <= {token, f"{token}-videos"}
        assert verify(connection).differences == []


# What others broadcast


@contextmanager
def foreign(dsn: str, folder: Path, token: str, *, knows: bool) -> Iterator[Worker]:
    """A worker that knows nothing of us, and a capture of what it broadcasts."""
    station = Station("rabbitmq", dsn, folder, token=token)
    try:
        station.declare()
        conf = {**routing(token), "task_send_sent_event": True}
        with (
            working("rabbitmq", "disabled://", dsn, folder, "-E", token=token, **conf) as worker,
            station.capturing(app=worker.app if knows else None),
        ):
            yield worker
    finally:
        station.close()


@pytest.mark.parametrize("knows", [True, False], ids=["an app", "no app"])
def test_what_others_send(embedded_database: str, tmp_path: Path, token: str, knows: bool) -> None:
    """With the app that the capture runs for, the queue of all is known; without, what Celery says, which is nothing of a delay."""
    token = f"{token}-foreign"
    with foreign(embedded_database, tmp_path, token, knows=knows) as worker:
        topic = worker.send("add", 1, 2)
        direct = worker.send("add", 1, 2, exchange=f"{token}-media", routing_key="media.video")
        delayed = worker.send("add", 1, 2, countdown=1.5)
        wanted = {"task-sent", "task-received", "task-succeeded"}
        until(lambda: all(wanted <= set(kinds(embedded_database, one.id)) for one in (topic, direct, delayed)), PATIENCE)

    assert row(embedded_database, topic.id).queue == token
    assert row(embedded_database, delayed.id).queue == (token if knows else None)
    assert row(embedded_database, direct.id).queue == (f"{token}-videos" if knows else token)
    (sent,) = (place.event for place in recorded(embedded_database, delayed.id) if isinstance(place.event, TaskSent))
    assert (sent.request or {})["exchange"] == "celery_delayed_27"
