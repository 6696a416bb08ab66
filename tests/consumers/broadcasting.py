"""Celery's broadcast for tests: events as workers send them, and captures, in this process or in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from celery import Celery
from celery.events.event import get_exchange
from kombu import Producer

from celery_journal.consumers.broadcast import Broker, Capture, Recorder
from celery_journal.journal import Journal, connect

from .scene import ROOT, ask, new_app
from .workers import settings

RABBITMQ = "amqp://guest:guest@127.0.0.1:5672//"


@dataclass(slots=True)
class Foreigner:
    """A worker as the broadcast shows it, which need not be there."""

    hostname: str = "celery@foreign"
    pid: int = 4711
    _clock: Iterator[int] = field(default_factory=lambda: count(1))

    def says(self, kind: str, uuid: str | None = None, at: float | None = None, **fields: Any) -> dict[str, Any]:
        """Return the event that it broadcasts."""
        event = {"type": kind, "hostname": self.hostname, "pid": self.pid, "clock": next(self._clock), "utcoffset": 0}
        if uuid is not None:
            event["uuid"] = uuid
        return {**event, "timestamp": time.time() if at is None else at, **fields}

    def received(self, uuid: str, retries: int = 0, **fields: Any) -> dict[str, Any]:
        """Return the event of a message that arrived."""
        told = {"name": "shop.add", "args": "(1, 2)", "kwargs": "{}", "root_id": uuid, "parent_id": None, "eta": None, "expires": None}
        return self.says("task-received", uuid, retries=retries, **{**told, **fields})

    def life(self, uuid: str) -> list[dict[str, Any]]:
        """Return the three events of a task that succeeds."""
        return [self.received(uuid), self.says("task-started", uuid), self.says("task-succeeded", uuid, result="3", runtime=0.25)]

    def lives(self, tasks: int) -> list[dict[str, Any]]:
        """Return those of many tasks, a hundred at a time under way."""
        events: list[dict[str, Any]] = []
        for start in range(0, tasks, 100):
            under_way = [self.life(str(uuid4())) for _ in range(min(100, tasks - start))]
            events += [life[step] for step in range(3) for life in under_way]
        return events


def publish(app: Celery, events: Sequence[object], *, group: int = 1) -> None:
    """Broadcast the events, so many in a message, as a worker of this app does."""
    with app.connection_for_write() as connection:
        exchange = get_exchange(connection, name=app.conf.event_exchange)
        producer = Producer(connection, exchange=exchange, serializer="json")
        for start in range(0, len(events), group):
            body: object = list(events[start : start + group]) if group > 1 else events[start]
            producer.publish(body, routing_key="task.multi" if group > 1 else "task.received", delivery_mode=1)


def counted(dsn: str, kind: str = "%") -> int:
    """Return how many events of that kind the log has, without those by which a capture says that it is there."""
    with psycopg.connect(dsn, autocommit=True, connect_timeout=2) as connection:
        row = connection.execute(
            b"select count(*) from celery_journal.event where kind like %s and stream not like 'capture-%%'", (kind,)
        ).fetchone()
    return int(row[0]) if row else 0


def twice(dsn: str) -> list[tuple[Any, ...]]:
    """Return the transitions that the log has more than once, by whomever's word."""
    query = b"""
        select stream, kind, attempt, coalesce(run, ''), count(*) from celery_journal.event
         where kind like 'task-%%' and kind <> 'task-witnessed' group by 1, 2, 3, 4 having count(*) > 1"""
    return ask(dsn, query)


class Station:
    """An exchange and a queue on a broker that nobody else uses, with captures of it."""

    def __init__(self, broker: str, dsn: str, folder: Path, token: str | None = None) -> None:
        self.dsn = dsn
        self.token = token or f"scene-{uuid4().hex[:8]}"
        self.conf = settings(broker, folder / self.token, self.token)
        self.app = new_app("disabled://", **self.conf)
        self.queue = f"{self.token}.capture"
        self.said: list[str] = []

    def publish(self, events: Sequence[object], group: int = 1) -> None:
        """Broadcast the events."""
        publish(self.app, events, group=group)

    def capture(self, **options: Any) -> Capture:
        """Return a capture that has not begun."""
        prefetch = options.pop("prefetch", 4000)
        broker, recorder = Broker(self.app, self.queue, prefetch), Recorder(Journal(), app=options.pop("app", None))
        return Capture(broker, recorder, lambda: connect(self.dsn), say=self.said.append, **{"linger": 0.1, **options})

    def declare(self) -> None:
        """Make the queue, so that it keeps what is broadcast."""
        broker = self.capture().broker
        broker.declare()
        broker.close()

    @contextmanager
    def capturing(self, **options: Any) -> Iterator[Capture]:
        """A capture in a thread until the end of the block, when it has recorded what it had read."""
        capture = self.capture(**options)
        failed: list[BaseException] = []

        def run() -> None:
            try:
                capture.run()
            except BaseException as exc:  # noqa: BLE001  whoever waits for the end is told
                failed.append(exc)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            while not capture.is_reading and thread.is_alive():
                time.sleep(0.01)
            yield capture
        finally:
            capture.stop()
            thread.join(30)
            assert not thread.is_alive()
            if failed:
                raise failed[0]

    def start(self, *arguments: str, dsn: str | None = None, **variables: str) -> subprocess.Popen[str]:
        """Start the command in a process of its own, on RabbitMQ, with these variables in its environment."""
        command = [sys.executable, "-m", "celery_journal.consumers.cli", "--dsn", dsn or self.dsn, "capture"]
        command += ["--broker", RABBITMQ, "--queue", self.queue, "--exchange", f"{self.token}-events", *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("CELERY_", "PG"))}
        environment |= variables
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def waiting(self) -> int:
        """Return how many messages wait in the queue."""
        with self.app.connection_for_read() as connection:
            return int(connection.default_channel.queue_declare(self.queue, passive=True).message_count)

    def close(self) -> None:
        """Remove the queue and the exchange."""
        with self.app.connection_for_write() as connection:
            channel = connection.default_channel
            if connection.transport.driver_type == "amqp":
                channel.queue_delete(self.queue)
                for exchange in (f"{self.token}-events", f"{self.token}.pidbox"):
                    channel.exchange_delete(exchange)
        self.app.close()
