"""Handing batches to the broker, so that of each batch it is known whether it was sent, as far as the broker lets one know.

RabbitMQ has transactions: a batch leaves as a whole, together with a marker in a durable queue of the replay, or not at all. Who is
killed finds out afterwards by the marker. Other brokers have none: their tasks leave one by one, and if one is killed just then, what
the journal has heard of the task since, or Redis still has of it in its lists, is all that there is to know.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from kombu.exceptions import OperationalError

from celery_journal.consumers.words import listed

from .errors import BrokerAway, CannotReplay, NotSent, ReplayRefused, Uncertain
from .message import Outgoing

#: Tasks that leave together.
BATCH = 20

#: Seconds to wait for the broker to notice that an earlier process of the same replay is gone.
FENCE = 10.0

#: Seconds for one attempt to connect.
CONNECT = 5.0

#: Seconds after which a connection is not trusted any more.
IDLE = 30.0


class Sender(Protocol):
    """A way to the broker."""

    #: The most tasks that leave together.
    batch: int
    #: Whether what is not found to be sent after a process was killed was not sent.
    is_certain: bool

    def open(self) -> None:
        """Connect, after every earlier connection of the replay is gone; raise BrokerAway if no broker answers."""

    def check(self, outgoing: Outgoing) -> None:
        """Raise CannotReplay if the message has nowhere to go."""

    def found(self, unknown: Mapping[str, str | None]) -> set[str]:
        """Return those new ids, each with the queue that it was to go to, of which the broker can tell that they were sent."""

    def ready(self) -> None:
        """Connect again if that has to be; raise BrokerAway if no broker answers."""

    def send(self, batch: Sequence[Outgoing]) -> None:
        """Send them; raise NotSent if none was, Uncertain if nobody knows."""

    def confirm(self) -> None:
        """Forget what was sent: it is recorded."""

    def finish(self) -> None:
        """Leave nothing behind: the replay has ended."""

    def close(self) -> None:
        """Disconnect."""


def sender_for(app: Any, replay_id: str) -> Sender:
    """Return the way to the broker of the app."""
    transport = app.connection_for_write().transport
    has_transactions = transport.driver_type == "amqp" and transport.driver_name == "py-amqp"
    return Transactional(app, replay_id) if has_transactions else OneByOne(app, replay_id)


class Transactional:
    """To RabbitMQ, by a channel with transactions."""

    batch = BATCH
    is_certain = True

    def __init__(self, app: Any, replay_id: str) -> None:
        self._app = app
        self._name = f"celery-journal.replay.{replay_id}"
        self._connection: Any = None
        self._channel: Any = None
        #: For what is no part of the transactions.
        self._aside: Any = None
        self._ways: dict[tuple[str, str], str | None] = {}

    def open(self) -> None:
        """Connect, and wait until RabbitMQ has done with every earlier connection of the replay."""
        self.close()
        # A channel has either transactions or confirms.
        options = {**self._app.conf.broker_transport_options, "confirm_publish": False}
        self._connection = self._app.connection_for_write(transport_options=options, connect_timeout=CONNECT)
        with _away(self._connection):
            _connect(self._connection)
            self._fence()
            self._aside = self._connection.channel()
            self._aside.queue_declare(self._name, durable=True, auto_delete=False)
            self._channel = self._connection.channel()
            self._channel.tx_select()

    def _fence(self) -> None:
        """Take what only one connection can have, and RabbitMQ takes away only when all that the connection sent has been dealt with."""
        deadline = time.monotonic() + FENCE
        while True:
            channel = self._connection.channel()
            try:
                channel.queue_declare(f"{self._name}.fence", exclusive=True, auto_delete=False)
            except self._connection.channel_errors as exc:
                if time.monotonic() > deadline:
                    raise BrokerAway("RabbitMQ still has an earlier connection of this replay; try again in a minute") from exc
                time.sleep(0.1)
            else:
                return

    def check(self, outgoing: Outgoing) -> None:
        """Raise CannotReplay if the message has nowhere to go."""
        way = outgoing.exchange, outgoing.routing_key
        if way not in self._ways:
            self.ready()
            self._ways[way] = self._wrong_with(outgoing)
        if (wrong := self._ways[way]) is not None:
            raise CannotReplay(wrong)

    def _wrong_with(self, outgoing: Outgoing) -> str | None:
        with _away(self._connection), self._connection.channel() as channel:
            try:
                if outgoing.exchange:
                    channel.exchange_declare(outgoing.exchange, "direct", passive=True)
                else:
                    outgoing.declare(self._app, channel)
                    channel.queue_declare(outgoing.routing_key, passive=True)
            except self._connection.channel_errors as exc:
                what = f"the exchange {outgoing.exchange}" if outgoing.exchange else f"the queue {outgoing.routing_key}"
                return f"RabbitMQ does not take it to {what}: {_first_line(exc)}"
        return None

    def found(self, unknown: Mapping[str, str | None]) -> set[str]:
        """Return those new ids whose batch has left a marker."""
        found: set[str] = set()
        with _away(self._connection):
            while (marker := self._aside.basic_get(self._name, no_ack=False)) is not None:
                found.update(json.loads(marker.body))
        return found & unknown.keys()

    def ready(self) -> None:
        """Ask RabbitMQ for something: it ends connections that are idle for long, and what is written into such a one fails late."""
        try:
            self._aside.queue_declare(self._name, passive=True)
        except _errors(self._connection):
            self.open()

    def send(self, batch: Sequence[Outgoing]) -> None:
        """Send them with their marker."""
        try:
            with self._app.amqp.Producer(self._channel, auto_declare=False) as producer:
                marker = json.dumps([outgoing.new_id for outgoing in batch])
                producer.publish(marker, routing_key=self._name, delivery_mode=2, content_type="application/json", content_encoding="utf-8")
                for outgoing in batch:
                    outgoing.publish(self._app, producer)
        except _errors(self._connection) as exc:
            raise NotSent(f"the broker went away: {_first_line(exc)}") from exc
        try:
            self.commit()
        except self._connection.channel_errors as exc:  # it has refused
            raise NotSent(f"RabbitMQ did not take {listed([outgoing.old_id for outgoing in batch])}: {_first_line(exc)}") from exc
        except _errors(self._connection) as exc:
            raise Uncertain(f"the broker went away: {_first_line(exc)}") from exc

    def commit(self) -> None:
        """Have RabbitMQ take the batch."""
        self._channel.tx_commit()

    def confirm(self) -> None:
        """Remove the markers; one that is left does no harm."""
        with suppress(*_errors(self._connection)):
            self._aside.basic_ack(0, multiple=True)
            self._aside.queue_purge(self._name)

    def finish(self) -> None:
        """Remove the queue of the markers."""
        self.ready()
        with _away(self._connection):
            self._aside.queue_delete(self._name)

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            with suppress(*_errors(self._connection)):
                self._connection.close()
        self._connection = self._channel = self._aside = None


class OneByOne:
    """To any other broker."""

    batch = 1
    is_certain = False

    def __init__(self, app: Any, replay_id: str) -> None:
        self._app = app
        self._replay_id = replay_id
        self._connection: Any = None
        self._producer: Any = None
        self._used = 0.0

    def open(self) -> None:
        """Connect."""
        self.close()
        self._connection = self._app.connection_for_write(connect_timeout=CONNECT)
        with _away(self._connection):
            _connect(self._connection)
            self._producer = self._app.amqp.Producer(self._connection.default_channel, auto_declare=False)
        self._used = time.monotonic()

    def check(self, outgoing: Outgoing) -> None:
        """Raise CannotReplay if the exchange is unknown; a queue is made when the first message comes."""
        if not outgoing.is_known_to(self._app):
            raise CannotReplay(f"this app has no queue of the exchange {outgoing.exchange}")

    def found(self, unknown: Mapping[str, str | None]) -> set[str]:
        """Return those new ids whose message of this replay is still in Redis."""
        channel = self._connection.default_channel
        if not hasattr(channel, "_q_for_pri"):
            return set()
        with _away(self._connection):
            here = set(_in_redis(channel, {queue for queue in unknown.values() if queue}, self._replay_id))
        return here & unknown.keys()

    def ready(self) -> None:
        """Connect again after a while: a firewall may have ended the connection, and what fails then would be in doubt."""
        if time.monotonic() > self._used + IDLE:
            self.open()

    def send(self, batch: Sequence[Outgoing]) -> None:
        """Send it."""
        try:
            for outgoing in batch:
                outgoing.publish(self._app, self._producer)
        except _errors(self._connection) as exc:
            raise Uncertain(f"the broker went away: {_first_line(exc)}") from exc
        self._used = time.monotonic()

    def confirm(self) -> None:
        """There is nothing to forget."""

    def finish(self) -> None:
        """There is nothing left behind."""

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            with suppress(*_errors(self._connection)):
                self._connection.release()
        self._connection = self._producer = None


def _in_redis(channel: Any, queues: Collection[str], replay_id: str) -> Iterator[str]:
    """Yield the ids of the replay's tasks that wait in these queues, or that a worker has and has not acknowledged."""
    client = channel.client
    # kombu puts its prefix before the keys of those commands only which it uses itself.
    prefix = "" if "LRANGE" in getattr(client, "PREFIXED_SIMPLE_COMMANDS", ()) else getattr(channel, "global_keyprefix", "")
    keys = [prefix + channel._q_for_pri(queue, priority) for queue in queues for priority in channel.priority_steps]
    messages = [json.loads(message) for key in keys for message in client.lrange(key, 0, -1)]
    messages += [json.loads(held)[0] for held in client.hvals(prefix + channel.unacked_key)]
    for message in messages:
        headers = message.get("headers") or {}
        if headers.get("journal_replay") == replay_id:
            yield str(headers.get("id"))


def _connect(connection: Any) -> None:
    connection.ensure_connection(max_retries=1, interval_start=0.2, timeout=2 * CONNECT)


def _errors(connection: Any) -> tuple[type[Exception], ...]:
    return (*connection.connection_errors, *connection.channel_errors, OperationalError, OSError)


@contextmanager
def _away(connection: Any) -> Iterator[None]:
    """Say in one sentence that no broker answers."""
    try:
        yield
    except (BrokerAway, ReplayRefused):
        raise
    except _errors(connection) as exc:
        raise BrokerAway(f"no broker answers at {connection.as_uri()}: {_first_line(exc)}") from exc


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__
