"""The message that is sent again: as it was published, but for its id, and for moments that have passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery.app.amqp import task_message
from celery.utils.nodenames import anon_nodename
from celery.utils.saferepr import saferepr
from kombu import Exchange
from kombu.common import Broadcast, maybe_declare
from kombu.serialization import loads, registry
from kombu.transport.native_delayed_delivery import calculate_routing_key

from celery_journal.consumers.backend.bodies import is_pickle, without_pickle
from celery_journal.consumers.routing import UnknownQueue, is_delaying, undelayed
from celery_journal.journal.events import TaskSent
from celery_journal.projections import TaskResult

from .canvas import REPLAY, REPLAY_OF, Ids, Passed, renewed
from .edits import Edit, edited
from .errors import CannotReplay

#: What the headers of a task hold (protocol 2), whether there is anything to say or not.
_HEADERS = (
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "parent_id",
    "stamped_headers",
    "stamps",
    "ignore_result",
)

_EMBEDDED = ("callbacks", "errbacks", "chain", "chord")

#: The first of the exchanges by which RabbitMQ delays what is sent with an eta to a quorum queue.
_DELAYING = "celery_delayed_27"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message, and where it goes."""

    old_id: str
    new_id: str
    name: str
    #: As `app.amqp.send_task_message` takes it.
    message: Any
    exchange: str
    routing_key: str
    serializer: str

    @property
    def way(self) -> str:
        """Where it goes, in words: the queue, or the exchange and the routing key."""
        return f"{self.exchange}/{self.routing_key}" if self.exchange else self.routing_key

    def publish(self, app: Any, producer: Any) -> None:
        """Hand it to the broker, by a producer; whatever is attached to the sending of tasks hears of it."""
        queue = self._queue(app)
        # Those of a topic exchange too: a broker that does not know it would drop the message without a word.
        others = [one for one in app.amqp.queues.values() if self.exchange and one.exchange.name == self.exchange]
        app.amqp.send_task_message(
            producer,
            self.name,
            self.message,
            exchange=self.exchange,
            routing_key=self.routing_key,
            queue=queue,
            declare=[queue, *(one for one in others if one is not queue and not isinstance(one, Broadcast))],
            serializer=self.serializer,
            retry=False,
        )

    def declare(self, app: Any, channel: Any) -> None:
        """Make the app's queue that it goes to."""
        maybe_declare(self._queue(app), channel)

    def is_known_to(self, app: Any) -> bool:
        """Return whether the app has the exchange."""
        return not self.exchange or any(queue.exchange.name == self.exchange for queue in app.amqp.queues.values())

    def _queue(self, app: Any) -> Any:
        """Return the app's queue that it goes to; where the app has none, one that is not declared."""
        for queue in app.amqp.queues.values():
            to_it = (queue.exchange.name, queue.routing_key) == (self.exchange, self.routing_key)
            if not isinstance(queue, Broadcast) and (to_it if self.exchange else queue.name == self.routing_key):
                return queue
        # Among the app's own, so that what is recorded of the message goes where the app's results go.
        if self.exchange:  # of a type for which Celery changes nothing
            name, exchange = f"{self.exchange}/{self.routing_key}", Exchange(self.exchange, "topic")
            unknown = UnknownQueue(name, exchange, self.routing_key, no_declare=True)
        else:
            unknown = UnknownQueue(self.routing_key, Exchange(""), self.routing_key, no_declare=True)
        return app.amqp.queues.add(unknown)


def compose(
    app: Any,
    sent: TaskSent,
    embedded: Mapping[str, Any],
    *,
    new_id: str,
    renewal: Ids,
    replay_id: str,
    edits: Sequence[Edit],
    now: datetime,
) -> Outgoing:
    """Return the message to send again; raise CannotReplay if what it takes is not recorded."""
    if sent.name is None:
        raise CannotReplay("its name is not recorded")
    exchange, routing_key = _route(app, sent, now)
    args, kwargs = edited(*_arguments(sent, app.conf.accept_content), edits)
    argsrepr, kwargsrepr = _reprs(app, args, kwargs)
    headers = {
        **_headers(sent, new_id, renewal, now),
        "argsrepr": argsrepr,
        "kwargsrepr": kwargsrepr,
        "origin": anon_nodename(),
        REPLAY: replay_id,
    }
    if new_id != sent.stream:
        headers[REPLAY_OF] = sent.stream
    given = (sent.message or {}).get("properties")
    properties = {**(given if isinstance(given, dict) else {}), "correlation_id": new_id}
    if sent.expires is not None and headers["expires"] is None:
        properties.pop("expiration", None)
    passed = Passed(sent.occurred_at, now)
    # A tuple, as Celery's own is: from a list it would look as if the caller had given another repr.
    body = (tuple(args), kwargs, {name: renewed(embedded.get(name), renewal, passed) for name in _EMBEDDED})
    heard = None
    if app.conf.task_send_sent_event:
        kept = ("root_id", "parent_id", "retries", "eta", "expires")
        heard = {"uuid": new_id, "name": sent.name, "args": argsrepr, "kwargs": kwargsrepr, **{name: headers[name] for name in kept}}
    return Outgoing(
        old_id=sent.stream,
        new_id=new_id,
        name=sent.name,
        message=task_message(headers, properties, body, heard),
        exchange=exchange,
        routing_key=routing_key,
        serializer=_serializer(sent, app),
    )


def _headers(sent: TaskSent, new_id: str, renewal: Ids, now: datetime) -> dict[str, Any]:
    given = (sent.message or {}).get("headers")
    recorded = dict(given) if isinstance(given, dict) else {}
    if "lang" not in recorded:  # protocol 1 has all this in the body
        recorded |= {"group": sent.group_id, "group_index": sent.group_index, "timelimit": [sent.time_limit, None]}
        recorded |= {name: moment and moment.isoformat() for name, moment in (("eta", sent.eta), ("expires", sent.expires))}
    recorded.pop(REPLAY_OF, None)
    headers = {
        **dict.fromkeys(_HEADERS),
        "lang": "py",
        "timelimit": [None, None],
        "replaced_task_nesting": 0,
        **recorded,
        "task": sent.name,
        "id": new_id,
        "retries": 0,
    }
    root = headers.get("root_id") or sent.root_id or sent.stream
    headers["root_id"] = new_id if root == sent.stream else renewal.get(root, root)
    for name in ("parent_id", "group"):
        if headers[name]:
            headers[name] = renewal.get(str(headers[name]), headers[name])
    if sent.eta is not None and sent.eta <= now:
        headers["eta"] = None
    if sent.expires is not None:
        headers["expires"] = Passed(sent.occurred_at, now).moved(headers["expires"])
    return headers


def _route(app: Any, sent: TaskSent, now: datetime) -> tuple[str, str]:
    message = sent.message or {}
    exchange, routing_key = message.get("exchange") or "", message.get("routing_key") or ""
    if not isinstance(exchange, str) or not isinstance(routing_key, str):
        raise CannotReplay("its exchange or routing key is recorded as an object, and not by name")
    if not exchange and not routing_key:
        raise CannotReplay("where it was sent is not recorded")
    return _delayed(app, sent, routing_key, now) if is_delaying(exchange) else (exchange, routing_key)


def _delayed(app: Any, sent: TaskSent, routing_key: str, now: datetime) -> tuple[str, str]:
    """Return the way of what RabbitMQ has delayed: once more if its eta is still to come, and else where it went in the end."""
    routing_key = undelayed(routing_key)
    left = (sent.eta - now).total_seconds() if sent.eta is not None else 0
    if left >= 1:
        return _DELAYING, calculate_routing_key(int(left), routing_key)
    for queue in app.amqp.queues.values():
        if queue.routing_key == routing_key and queue.exchange.type != "direct":  # for which Celery has nothing delayed
            return queue.exchange.name, routing_key
    raise CannotReplay(f"RabbitMQ has delayed it, and this app has no queue for the routing key {routing_key}, to which it went then")


def _arguments(sent: TaskSent, accept: Any) -> tuple[list[Any], dict[str, Any]]:
    headers = (sent.message or {}).get("headers")
    if isinstance(headers, dict) and {"argsrepr", "kwargsrepr"} & headers.keys():
        raise CannotReplay("its arguments were hidden by the caller (argsrepr, kwargsrepr)")
    return decoded_arguments(sent, accept)


def decoded_arguments(told: TaskSent | TaskResult, accept: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments that are recorded; raise CannotReplay if they are not, or cannot be decoded here."""
    if told.args is None or told.kwargs is None:
        raise CannotReplay("its arguments were not captured (store_arguments is off, or they were too large)")
    content_type = told.args_content_type or "application/json"
    if is_pickle(content_type):
        raise CannotReplay("its arguments are a pickle, which a replay does not open: anybody may have written it")
    try:
        accepted = without_pickle([*accept, *([] if told.args_content_type else ["json"])])
        args, kwargs = (loads(value, content_type, "utf-8", accept=accepted) for value in (told.args, told.kwargs))
    except Exception as exc:
        raise CannotReplay(f"its arguments cannot be decoded here ({content_type}); perhaps accept_content refuses them") from exc
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        raise CannotReplay("its arguments were not captured: JSON has no form for them, and only what they look like is recorded")
    return list(args), dict(kwargs)


def _serializer(sent: TaskSent, app: Any) -> str:
    """Return the name of the serializer that made the arguments; JSON may stand for what the app's own would take as well."""
    if sent.args_content_type is None:
        return str(app.conf.task_serializer)
    return str(registry.type_to_name.get(sent.args_content_type, app.conf.task_serializer))


def _reprs(app: Any, args: list[Any], kwargs: dict[str, Any]) -> tuple[str, str]:
    """Return what the arguments look like, as Celery makes it of those of a call."""
    amqp, levels = app.amqp, app.conf.get("task_repr_maxlevels", 3)
    return saferepr(tuple(args), amqp.argsrepr_maxsize, maxlevels=levels), saferepr(kwargs, amqp.kwargsrepr_maxsize, maxlevels=levels)
