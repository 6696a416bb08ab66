"""What RabbitMQ has delayed itself, as it does with an eta for quorum queues, is sent again to where it went in the end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from kombu import Exchange, Queue

from celery_journal.journal import Connection
from celery_journal.journal.events import TaskFailed
from tests.conftest import require

from .conftest import NewApp
from .lostscene import Log
from .replayscene import RABBITMQ, begun, failed
from .scene import current, until
from .workers import available

DELAYING = "celery_delayed_27"


@pytest.fixture
def database(embedded_database: str) -> str:
    return embedded_database


@pytest.fixture
def log(connection: Connection) -> Log:
    return Log(connection)


@pytest.fixture
def queue() -> Iterator[Queue]:
    """A quorum queue of a topic exchange; the exchange that delays keeps nothing here."""
    require("RabbitMQ", available("rabbitmq"))
    name = f"replay-{uuid4().hex[:8]}"
    queue = Queue(name, Exchange(name, "topic"), f"{name}.key", queue_arguments={"x-queue-type": "quorum"})
    with Celery(set_as_current=False, broker=RABBITMQ) as app, app.connection_for_write() as connection:
        channel = connection.channel()
        Exchange(DELAYING, "topic")(channel).declare()
        bound = queue(channel)
        bound.declare()
        yield bound
        bound.delete()
        bound.exchange.delete()
        Exchange(DELAYING, "topic")(channel).delete(if_unused=True)


def app_with(make_app: NewApp, *queues: Queue) -> Celery:
    return make_app(broker_url=RABBITMQ, task_queues=list(queues), task_default_queue_type="quorum")


def delayed(app: Celery, log: Log, queue: Queue, **options: Any) -> str:
    """Send a task, which RabbitMQ delays, and which fails."""
    with current(app):  # by which the journal finds the app: no queue is declared
        task_id = str(app.send_task("scene.add", [1, 2], queue=queue.name, **options).id)
    app.backend.buffer.flush()
    (sent,) = (place.event.model_dump() for place in log.journal.read_stream(log.connection, task_id))
    assert DELAYING in sent["message"]["exchange"]
    log.tell(TaskFailed, task_id, worker="w1")
    return task_id


def test_a_delay_that_has_passed_is_not_waited_for_again(make_app: NewApp, log: Log, queue: Queue) -> None:
    """It goes to the queue at once."""
    app = app_with(make_app, queue)
    task_id = delayed(app, log, queue, eta=datetime.now(UTC) + timedelta(seconds=1.5))
    until(lambda: datetime.now(UTC) > log.journal.read_stream(log.connection, task_id)[0].event.model_dump()["eta"])

    summary = begun(log.connection, app, [task_id]).run()

    assert (list(summary.sent), summary.refused) == ([task_id], [])
    message = queue.get()
    assert (message.headers["journal_replay_of"], message.headers["eta"]) == (task_id, None)
    message.ack()


def test_a_delay_that_is_to_come_is_kept_to(make_app: NewApp, log: Log, queue: Queue) -> None:
    """By RabbitMQ, so that no worker has to hold the message."""
    app = app_with(make_app, queue)
    task_id = delayed(app, log, queue, countdown=600)
    queue.bind_to(DELAYING, f"#.{queue.routing_key}")

    summary = begun(log.connection, app, [task_id]).run()

    assert (list(summary.sent), summary.refused) == ([task_id], [])
    message = queue.get()
    bits = message.delivery_info["routing_key"].removesuffix(f".{queue.routing_key}").replace(".", "")
    assert 590 <= int(bits, 2) <= 600
    message.ack()


def test_where_nobody_knows_the_queue_it_is_refused(make_app: NewApp, log: Log, queue: Queue) -> None:
    """In one sentence."""
    task_id = delayed(app_with(make_app, queue), log, queue, countdown=1)
    log.connection.execute(b"select pg_sleep(1.1)")

    summary = begun(log.connection, app_with(make_app, Queue("other")), [task_id]).run()

    key = queue.routing_key
    assert [why for _, why in summary.refused] == [
        f"RabbitMQ has delayed it, and this app has no queue for the routing key {key}, to which it went then"
    ]


def test_a_retry_that_celery_has_sent_by_another_delaying_exchange(make_app: NewApp, log: Log, queue: Queue) -> None:
    """That by which the attempt before came, with the routing key of it; older Celerys put one delay before the other."""
    delay = f"{'0.' * 27}1."
    headers = {"lang": "py", "root_id": "t", "retries": 1, "timelimit": [None, None], "origin": "gen1@web"}
    message = {"exchange": "celery_delayed_1", "routing_key": f"{delay}{delay}{queue.routing_key}", "headers": headers, "properties": {}}
    log.journal.append(log.connection, *failed(log.emitter, "t", queue.name, message=message))

    summary = begun(log.connection, app_with(make_app, queue), ["t"]).run()

    assert (list(summary.sent), summary.refused) == (["t"], [])
    received = queue.get()
    assert (received.headers["journal_replay_of"], received.delivery_info["exchange"]) == ("t", queue.exchange.name)
    received.ack()
