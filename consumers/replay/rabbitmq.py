"""To RabbitMQ, which has transactions.

A batch leaves as a whole, together with a marker in a durable queue of the replay, or not at all: who is killed finds out afterwards by
the marker. It is in doubt only if the connection breaks while RabbitMQ is told to take it, and no marker is there afterwards.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from celery_journal.consumers.words import first_line, listed

from .errors import BrokerAway, CannotReplay, NotSent, Uncertain
from .message import Outgoing
from .sender import CONNECT, connect, errors_of, in_one_sentence

#: Tasks that leave together.
BATCH = 20

#: Seconds to wait for the broker to notice that an earlier process of the same replay is gone.
FENCE = 10.0


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
        with in_one_sentence(self._connection):
            connect(self._connection)
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
        with in_one_sentence(self._connection), self._connection.channel() as channel:
            try:
                if outgoing.exchange:
                    channel.exchange_declare(outgoing.exchange, "direct", passive=True)
                else:
                    outgoing.declare(self._app, channel)
                    channel.queue_declare(outgoing.routing_key, passive=True)
            except self._connection.channel_errors as exc:
                what = f"the exchange {outgoing.exchange}" if outgoing.exchange else f"the queue {outgoing.routing_key}"
                return f"RabbitMQ does not take it to {what}: {first_line(exc)}"
        return None

    def found(self, unknown: Mapping[str, str | None]) -> set[str]:
        """Return those new ids whose batch has left a marker."""
        found: set[str] = set()
        with in_one_sentence(self._connection):
            while (marker := self._aside.basic_get(self._name, no_ack=False)) is not None:
                found.update(json.loads(marker.body))
        return found & unknown.keys()

    def ready(self) -> None:
        """Ask RabbitMQ for something: it ends connections that are idle for long, and what is written into such a one fails late."""
        try:
            self._aside.queue_declare(self._name, passive=True)
        except errors_of(self._connection):
            self.open()

    def send(self, batch: Sequence[Outgoing]) -> None:
        """Send them with their marker."""
        try:
            with self._app.amqp.Producer(self._channel, auto_declare=False) as producer:
                marker = json.dumps([outgoing.new_id for outgoing in batch])
                producer.publish(marker, routing_key=self._name, delivery_mode=2, content_type="application/json", content_encoding="utf-8")
                for outgoing in batch:
                    outgoing.publish(self._app, producer)
        except errors_of(self._connection) as exc:
            raise NotSent(f"the broker went away: {first_line(exc)}") from exc
        try:
            self.commit()
        except self._connection.channel_errors as exc:  # it has refused
            raise NotSent(f"RabbitMQ did not take {listed([outgoing.old_id for outgoing in batch])}: {first_line(exc)}") from exc
        except errors_of(self._connection) as exc:
            raise Uncertain(f"the broker went away: {first_line(exc)}") from exc

    def commit(self) -> None:
        """Have RabbitMQ take the batch."""
        self._channel.tx_commit()

    def confirm(self) -> None:
        """Remove the markers; one that is left does no harm."""
        with suppress(*errors_of(self._connection)):
            self._aside.basic_ack(0, multiple=True)
            self._aside.queue_purge(self._name)

    def finish(self) -> None:
        """Remove the queue of the markers."""
        self.ready()
        with in_one_sentence(self._connection):
            self._aside.queue_delete(self._name)

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            with suppress(*errors_of(self._connection)):
                self._connection.close()
        self._connection = self._channel = self._aside = None
