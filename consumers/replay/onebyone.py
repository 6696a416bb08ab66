"""To a broker without transactions.

If a process is killed just when its task leaves, or the broker goes away, then what the journal has heard of the task since, or what Redis
still has of it in its lists, is all that there is to know.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from celery_journal.consumers.redelivery import prefix_of
from celery_journal.consumers.words import first_line

from .canvas import REPLAY
from .errors import CannotReplay, Uncertain
from .message import Outgoing
from .sender import CONNECT, connect, errors_of, in_one_sentence

#: Seconds after which a connection is not trusted any more.
IDLE = 30.0


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
        with in_one_sentence(self._connection):
            connect(self._connection)
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
        with in_one_sentence(self._connection):
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
        except errors_of(self._connection) as exc:
            raise Uncertain(f"the broker went away: {first_line(exc)}") from exc
        self._used = time.monotonic()

    def confirm(self) -> None:
        """There is nothing to forget."""

    def finish(self) -> None:
        """There is nothing left behind."""

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            with suppress(*errors_of(self._connection)):
                self._connection.release()
        self._connection = self._producer = None


def _in_redis(channel: Any, queues: Collection[str], replay_id: str) -> Iterator[str]:
    """Yield the ids of the replay's tasks that wait in these queues, or that a worker has and has not acknowledged."""
    client = channel.client
    keys = [prefix_of(channel, "LRANGE") + channel._q_for_pri(queue, priority) for queue in queues for priority in channel.priority_steps]
    messages = [json.loads(message) for key in keys for message in client.lrange(key, 0, -1)]
    messages += [json.loads(held)[0] for held in client.hvals(prefix_of(channel, "HVALS") + channel.unacked_key)]
    for message in messages:
        headers = message.get("headers") or {}
        if headers.get(REPLAY) == replay_id:
            yield str(headers.get("id"))
