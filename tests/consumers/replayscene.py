"""Tasks that were sent and have failed, as the log has them, and what lies in a queue of RabbitMQ, for the tests of replays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery

from celery_journal.consumers.replay import Order, Record, Replay, Wishes, begin
from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import Event, TaskFailed, TaskSent

from .lostscene import Log
from .scene import Mailbox, Message

RABBITMQ = "pyamqp://guest:guest@127.0.0.1:5672//"


def failed(emitter: Emitter, task_id: str, queue: str, **fields: Any) -> list[Event]:
    """Return the facts of a task that was sent to the queue and has failed."""
    headers = {"lang": "py", "root_id": task_id, "retries": 0, "timelimit": [None, None], "origin": "gen1@web"}
    message = {"exchange": "", "routing_key": queue, "headers": headers, "properties": {"correlation_id": task_id, "priority": 0}}
    facts = {"name": "scene.add", "args": b"[1, 2]", "kwargs": b"{}", "queue": queue, "message": message, "source": "signal"}
    return [
        emitter.emit(TaskSent, task_id, **{**facts, **fields}),
        emitter.emit(TaskFailed, task_id, name="scene.add", worker="w1", source="backend"),
    ]


def begun(connection: Connection, app: Celery, task_ids: list[str], replay_id: str = "r1", **wishes: Any) -> Replay:
    """Return a replay of these tasks that has sent nothing yet."""
    order = Order(replay_id, Wishes(**wishes), "alice@desk", "the bank was down")
    begin(connection, Journal(), Emitter(), order, task_ids)
    return resumed(connection, app, replay_id)


def resumed(connection: Connection, app: Celery, replay_id: str = "r1") -> Replay:
    """Return the replay as the log has it."""
    return Replay(connection, Journal(), app, Record.of(connection, Journal(), replay_id))


@contextmanager
def queue_of(name: str) -> Iterator[Queue]:
    """A queue of RabbitMQ during the block."""
    with Celery(set_as_current=False, broker=RABBITMQ) as app, app.connection_for_write() as connection:
        channel = connection.channel()
        channel.queue_declare(name, durable=True, auto_delete=False)
        try:
            yield Queue(channel, name)
        finally:
            channel.queue_delete(name)


class Queue:
    """A queue, and what lies in it."""

    def __init__(self, channel: Any, name: str) -> None:
        self._channel = channel
        self.name = name

    def taken(self) -> list[dict[str, Any]]:
        """Take every message, and return their headers."""
        headers = []
        while (message := self._channel.basic_get(self.name, no_ack=True)) is not None:
            headers.append(message.headers)
        return headers

    def others(self, name: str) -> bool:
        """Return whether RabbitMQ has a queue of that name."""
        with self._channel.connection.client.channel() as channel:
            try:
                channel.queue_declare(name, passive=True)
            except self._channel.connection.client.channel_errors:
                return False
        return True


Fail = Callable[..., str]


def failing(app: Celery, log: Log, mailbox: Mailbox) -> Fail:
    """Return what sends a task, which fails; only what is sent afterwards is in the mailbox."""

    def fail(name: str = "scene.add", args: Any = (1, 2), kwargs: Any = None, kind: Any = TaskFailed, **options: Any) -> str:
        task_id = str(app.send_task(name, args, kwargs, **options).id)
        app.backend.buffer.flush()
        if kind is not None:
            log.tell(kind, task_id, worker="w1")
        clear(mailbox)
        return task_id

    return fail


def only(mailbox: Mailbox) -> Message:
    """Return the one message in the mailbox."""
    (message,) = mailbox.sent()
    return message


def clear(mailbox: Mailbox) -> None:
    """Throw away what is in the mailbox."""
    for path in (mailbox.folder / "queue").iterdir():
        path.unlink()
