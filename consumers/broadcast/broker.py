"""The broker's side: a queue on the exchange of Celery's events, and what that broker guarantees."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.events.event import get_exchange
from kombu import Consumer, Queue
from kombu.transport import virtual

from celery_journal.journal.dsn import masked

from .delivery import Delivery

logger = logging.getLogger(__name__)

#: What a broker does with the events that nobody reads at the moment, by the type of its transport.
GUARANTEES = {
    "amqp": "the queue keeps every event until it is recorded, also while no capture runs",
    "redis": "Redis keeps nothing: what is broadcast while no capture runs, or cannot write for long, is lost",
    "filesystem": "the queue is a folder that keeps every event while no capture runs; one that is killed loses what it has read",
}

#: RabbitMQ drops what comes back more often than that from a queue of this type; 20 times, unless told otherwise.
_OFTEN = 1_000_000


class Broker:
    """A connection to the broker that consumes events; closed, it can be opened again."""

    def __init__(self, app: Celery, queue: str, prefetch: int, *, is_quorum: bool = False) -> None:
        self._app = app
        self._queue_name = queue
        self._prefetch = prefetch
        self._is_quorum = is_quorum
        self._connection: Any = None
        self._consumer: Any = None
        self._channel: Any = None
        self._count_channel: Any = None
        #: What arrived and nobody has taken, oldest first.
        self.arrived: deque[Delivery] = deque()
        #: How many bytes that is.
        self.bytes = 0
        self._unacknowledged: deque[Delivery] = deque()
        self._beat = 0.0
        with app.connection_for_read() as connection:
            self.kind: str = connection.transport.driver_type
            self.url: str = masked(connection.as_uri())
            self._is_virtual = isinstance(connection.transport, virtual.Transport)
            self.errors: tuple[type[BaseException], ...] = (
                *connection.connection_errors,
                *connection.channel_errors,
                OSError,
                *((ValueError,) if self._is_virtual else ()),  # a message that another is just writing
            )

    @property
    def keeps(self) -> bool:
        """Whether what is not acknowledged is delivered again."""
        return self.kind != "redis"

    @property
    def guarantee(self) -> str:
        """What happens to events that nobody reads at the moment, in words."""
        return GUARANTEES.get(self.kind, f"what {self.kind} does with events that nobody reads is not known here")

    def open(self) -> None:
        """Connect, and begin to consume; whoever works wakes up and says so."""
        self.declare()
        self._consumer.consume()
        if not self.keeps:  # Redis is listened to from the first turn on, and what is said before that is lost
            self.read(0.01, lambda: False)
        self._wake_workers()

    def declare(self) -> None:
        """Connect, and make the queue, which keeps what comes from now on."""
        self.close()
        self._connection = self._app.connection_for_read(heartbeat=60)
        self._connection.connect()
        if self.keeps:  # all of it comes again
            self.arrived.clear()
            self.bytes = 0
        self._unacknowledged.clear()
        self._channel = self._connection.channel()
        queue = Queue(
            self._queue_name,
            exchange=get_exchange(self._connection, name=self._app.conf.event_exchange),
            routing_key="#",
            durable=True,
            auto_delete=False,
            queue_arguments=self._arguments(),
        )
        self._consumer = Consumer(
            self._channel,
            queues=[queue],
            on_message=self._arrive,
            no_ack=not self.keeps,
            prefetch_count=self._prefetch,
            accept={"json", self._app.conf.event_serializer},
        )

    def _arguments(self) -> dict[str, Any] | None:
        return {"x-queue-type": "quorum", "x-delivery-limit": _OFTEN} if self._is_quorum and not self._is_virtual else None

    def _wake_workers(self) -> None:
        try:
            self._app.control.broadcast("heartbeat", connection=self._connection)
        except Exception as exc:  # noqa: BLE001  they are heard of at their next heartbeat
            logger.debug("workers were not asked for a heartbeat: %s", exc)

    def _arrive(self, message: Any) -> None:
        delivery = Delivery(message, time.monotonic())
        self.arrived.append(delivery)
        self.bytes += delivery.size
        if self.keeps:
            self._unacknowledged.append(delivery)

    def read(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Take what arrives, for so long at most, or until it is enough."""
        deadline = time.monotonic() + seconds
        while not enough():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            try:
                self._connection.drain_events(timeout=remaining)
            except TimeoutError:
                break
        if self._connection.supports_heartbeats and time.monotonic() - self._beat > 1:
            self._beat = time.monotonic()
            self._connection.heartbeat_check()

    def take(self, most: int, size: int, before: float) -> list[Delivery]:
        """Return the oldest of what arrived before that moment: so many messages at most, and about so many bytes."""
        taken: list[Delivery] = []
        while self.arrived and len(taken) < most and size > 0 and self.arrived[0].arrived <= before:
            taken.append(self.arrived.popleft())
            size -= taken[-1].size
            self.bytes -= taken[-1].size
        return taken

    def acknowledge(self, *, last: bool = False) -> None:
        """Have the broker forget the messages that are done up to the first that is not; the last time, every one that is done."""
        done: Delivery | None = None
        while self._unacknowledged and self._unacknowledged[0].done:
            done = self._unacknowledged.popleft()
            if self._is_virtual:
                done.message.ack()
        if done is not None and not self._is_virtual:
            done.message.ack(multiple=True)
        if last:
            for delivery in self._unacknowledged:
                if delivery.done:
                    delivery.message.ack()

    def backlog(self) -> tuple[int, int] | None:
        """Return how many messages the queue holds that nobody has, and how many consume from it; None where that is not told."""
        if self.kind == "redis":
            return None
        if self._count_channel is None:
            self._count_channel = self._connection.channel()
        declared = self._count_channel.queue_declare(self._queue_name, passive=True)
        return declared.message_count, declared.consumer_count

    def stop(self) -> None:
        """Have the broker send nothing more."""
        if self._connection is not None:
            self._consumer.cancel()

    def close(self) -> None:
        """Close the connection; what is not acknowledged goes back to the queue."""
        connection, self._connection, self._count_channel = self._connection, None, None
        if connection is not None:
            try:
                connection.close()
            except self.errors as exc:
                logger.debug("the broker did not say goodbye: %s", exc)
