"""Which of an app's queues a message goes to, or came from: its exchange, its routing key and its queue are three things."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from kombu import Exchange, Queue
from kombu.common import Broadcast

from celery_journal.journal.events import TaskSent

#: The exchanges by which RabbitMQ delays what is sent with an eta to a quorum queue, from level to level until it is due.
_DELAYING = re.compile(r"(?:.+_)?celery_delayed_(?:\d+|delivery)")

#: The delay before the routing key, in bits. Some Celerys put that of a retry before the one of the attempt before it.
_DELAYS = re.compile(r"(?:(?:[01]\.){28})+")

#: Of these the routing key alone decides. Others, such as those that share out by a hash, may choose any queue that is bound to them.
_PLAIN = {"direct", "topic", "fanout"}


class UnknownQueue(Queue):
    """Stands in an app for whatever queue of the broker an exchange takes a message to."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)  # type: ignore[no-untyped-call]


def is_delaying(exchange: str) -> bool:
    """Return whether RabbitMQ delays by this exchange."""
    return _DELAYING.fullmatch(exchange) is not None


def undelayed(routing_key: str) -> str:
    """Return the routing key of a message that is delayed, as it is without the delay."""
    return _DELAYS.sub("", routing_key, count=1) if _DELAYS.match(routing_key) else routing_key


def name_of(queue: Queue) -> str:
    """Return the name by which people know the queue: each worker has a queue of its own for one broadcast."""
    return str((isinstance(queue, Broadcast) and getattr(queue, "alias", None)) or queue.name)


def queue_for(app: Any, exchange: object, routing_key: object, declared: Iterable[object] | None = None) -> str | None:
    """Return the name of the queue that such a message goes to; None where the app has none that it would go to.

    Of several it is one of those that are `declared` with the message, or else one that the app consumes from.
    """
    exchange = exchange.name if isinstance(exchange, Exchange) else exchange
    if not isinstance(routing_key, str) or not isinstance(exchange, str | None):
        return None
    if not exchange:  # the broker's own, to which each queue is bound by its name
        return routing_key or None
    if is_delaying(exchange):
        exchange, routing_key = None, undelayed(routing_key)
    for queue in declared or ():
        if isinstance(queue, Queue) and any(_taken(queue, exchange, routing_key)):
            return name_of(queue)
    others: dict[str, bool] = {}
    for queue in (*app.amqp.queues.consume_from.values(), *list(app.amqp.queues.values())):
        for is_plain in _taken(queue, exchange, routing_key):
            others[name_of(queue)] = others.get(name_of(queue), False) or is_plain
    sure = [name for name, is_plain in others.items() if is_plain]
    return sure[0] if sure else next(iter(others)) if len(others) == 1 else None


def way_of(sent: TaskSent) -> str | None:
    """Return in words which way a message was sent, as far as that is recorded; None for one that went straight to a queue."""
    told = sent.message or sent.request or {}
    exchange, routing_key = told.get("exchange"), told.get("routing_key")
    if not exchange or not isinstance(exchange, str) or not isinstance(routing_key, str):
        return None
    delay = ", which delays it," if is_delaying(exchange) else ""
    return f"the exchange `{exchange}`{delay} with the routing key `{undelayed(routing_key) if delay else routing_key}`"


def _taken(queue: Queue, exchange: str | None, routing_key: str) -> Iterator[bool]:
    """Yield for each binding that may take such a message to the queue whether it does so for sure; without exchange it was delayed."""
    if isinstance(queue, UnknownQueue):
        return
    words = routing_key.split(".")
    bindings = [(queue.exchange, queue.routing_key), *((one.exchange, one.routing_key) for one in queue.bindings or ())]
    for bound, key in ((bound, (key or "").split(".")) for bound, key in bindings if bound is not None):
        if exchange is None:  # whatever the type, but for direct ones, it is bound to the last delaying exchange as to a topic
            if bound.type != "direct" and not isinstance(queue, Broadcast) and _fits(key, words, is_topic=True):
                yield True
        elif bound.name == exchange and bound.type not in _PLAIN:
            yield False
        elif bound.name == exchange and (bound.type == "fanout" or _fits(key, words, is_topic=bound.type == "topic")):
            yield True


def _fits(pattern: list[str], words: list[str], *, is_topic: bool) -> bool:
    """Return whether the words of a routing key are those of the pattern: of a topic `*` is any word, and `#` any number of them."""
    if not is_topic or not {"*", "#"} & set(pattern):
        return pattern == words
    # The numbers of words that the pattern has matched so far.
    ends = {0}
    for part in pattern:
        if part == "#":
            ends = set(range(min(ends), len(words) + 1))
        else:
            ends = {end + 1 for end in ends if end < len(words) and part in ("*", words[end])}
        if not ends:
            return False
    return len(words) in ends
