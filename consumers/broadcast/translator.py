"""Celery's events as testimonies: what somebody broadcast about a task or a worker, before it is known which fact that is.

Anybody can publish to the exchange, and every Celery in the field has its own fields: nothing here trusts a type.
"""

from __future__ import annotations

import ast
import builtins
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from celery import exceptions

from celery_journal.consumers.request import parent_of
from celery_journal.consumers.routing import is_delaying, queue_for
from celery_journal.journal.constraints import FIRST_MOMENT
from celery_journal.journal.emitter import identify
from celery_journal.journal.events import (
    Event,
    TaskEvent,
    TaskFailed,
    TaskReceived,
    TaskRejected,
    TaskRetried,
    TaskRevoked,
    TaskSent,
    TaskStarted,
    TaskSucceeded,
)
from celery_journal.journal.workers import WorkerEvent, WorkerHeartbeat, WorkerOffline, WorkerOnline

TASK_KINDS: dict[str, type[TaskEvent]] = {
    "task-sent": TaskSent,
    "task-received": TaskReceived,
    "task-started": TaskStarted,
    "task-succeeded": TaskSucceeded,
    "task-failed": TaskFailed,
    "task-retried": TaskRetried,
    "task-cancelled": TaskRetried,
    "task-rejected": TaskRejected,
    "task-revoked": TaskRevoked,
}

WORKER_KINDS: dict[str, type[WorkerEvent]] = {
    "worker-online": WorkerOnline,
    "worker-heartbeat": WorkerHeartbeat,
    "worker-offline": WorkerOffline,
}

CANCELLED = "the worker lost its connection to the broker and cancelled the run; the message comes again"

#: Longer names are nobody's, and no index holds them.
_LONGEST_STREAM = 1000

#: An exception's repr that is read; of a longer one the text has to do.
_LONGEST_REPR = 10_000

_SOFTWARE = {"sw_ident": "software", "sw_ver": "version", "sw_sys": "system"}
_HEART = ("freq", "active", "processed", "loadavg")
_DETAILS = ("runtime", "terminated", "signum", "expired", "requeue", "exchange", "routing_key")

_EXCEPTION = re.compile(r"([A-Za-z_][\w.]*)\((.*)\)", re.DOTALL)

_JSON = {"content_type": "application/json", "content_encoding": "utf-8"}


class Malformed(ValueError):
    """An event is not what Celery sends; the text says why."""


@dataclass(frozen=True, slots=True)
class Testimony:
    """What one event of the broadcast says, with the id that its fact has in the log, whoever records it and however often."""

    kind: type[Event]
    stream: str
    event_id: UUID
    occurred_at: datetime
    #: Who broadcast it, which is no worker where a task was sent.
    hostname: str
    pid: int | None
    #: The attempt; only who sends or receives a task says it.
    attempt: int | None
    fields: dict[str, Any]

    @property
    def is_of_task(self) -> bool:
        """Whether it is about a task, and not about a worker."""
        return issubclass(self.kind, TaskEvent)

    @property
    def state(self) -> str:
        """The state that the task is in by this."""
        state: str = self.kind.model_fields["state"].default
        return state

    @property
    def worker(self) -> str | None:
        """The worker that says so."""
        return None if self.kind is TaskSent else self.hostname


def translate(event: object, app: Any = None) -> Testimony | None:
    """Return what the event says; None if it is no news for a journal, such as somebody's own. Raise Malformed if it is broken.

    The app, if there is one, has queues that tasks are sent to.
    """
    if not isinstance(event, dict):
        raise Malformed("an event is no mapping")
    name = event.get("type")
    if not isinstance(name, str):
        raise Malformed("an event has no type")
    if name in TASK_KINDS:
        kind = TASK_KINDS[name]
        attempt = (_integer(event, "retries", 0) or 0) if kind in {TaskSent, TaskReceived} else None
        return _testimony(kind, event, _text(event, "uuid"), attempt, _task_fields(kind, name, event, app))
    if name in WORKER_KINDS:
        return _testimony(WORKER_KINDS[name], event, _text(event, "hostname"), 0, {"meta": _heart(event)})
    return None


def _testimony(kind: type[Event], event: Mapping[str, Any], stream: str | None, attempt: int | None, fields: dict[str, Any]) -> Testimony:
    name = event["type"]
    if not stream or len(stream) > _LONGEST_STREAM:
        raise Malformed(f"a {name} does not say whom it is about")
    hostname = _text(event, "hostname")
    if not hostname:
        raise Malformed(f"a {name} does not say who sent it")
    timestamp, clock, pid = event.get("timestamp"), _integer(event, "clock"), _integer(event, "pid", 0)
    if not isinstance(timestamp, int | float) or isinstance(timestamp, bool) or not math.isfinite(timestamp):
        raise Malformed(f"a {name} does not say when it happened")
    try:
        occurred_at = datetime.fromtimestamp(timestamp, UTC)
    except (OverflowError, ValueError, OSError) as exc:
        raise Malformed(f"a {name} has the impossible timestamp {timestamp!r}") from exc
    if occurred_at < FIRST_MOMENT:
        raise Malformed(f"a {name} has a timestamp before 1970")
    # Of what is in the message, and of nothing else: the attempt may be known when it is delivered again, and not before. Where there
    # is no logical clock, it is the exact moment that tells two events of one millisecond apart.
    emitter = f"{hostname}:{event.get('pid')}" if clock is not None else f"{hostname}:{event.get('pid')}:{timestamp!r}"
    event_id = identify(occurred_at, stream, name, attempt or 0, emitter, clock or 0)
    return Testimony(kind, stream, event_id, occurred_at, hostname, pid, attempt, fields)


def _task_fields(kind: type[TaskEvent], name: str, event: Mapping[str, Any], app: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"worker": None if kind is TaskSent else _text(event, "hostname")}
    for field in ("name", "root_id", "parent_id", "traceback"):
        if (text := _text(event, field)) is not None:
            fields[field] = text
    if "parent_id" in fields:
        fields["parent_id"] = parent_of(fields["parent_id"], event.get("uuid"))
    for field in ("args", "kwargs"):
        if (value := event.get(field)) is not None:
            fields[field] = _repr(value)
    for field in ("eta", "expires"):
        if (moment := _moment(event.get(field))) is not None:
            fields[field] = moment
    request = {field: event[field] for field in _DETAILS if event.get(field) is not None}
    if kind is TaskSent:
        request["origin"] = event.get("hostname")
        if (queue := _queue_of(event, app)) is not None:
            fields["queue"] = queue
    if kind is TaskReceived:  # the main process receives; which of its children runs a task is not told
        fields["pid"] = _integer(event, "pid", 0)
    if request:
        fields["request"] = request
    fields.update(_outcome(kind, name, event))
    return fields


def _queue_of(event: Mapping[str, Any], app: Any) -> str | None:
    """Return the queue that a task was sent to; None where that is not told, and the app has none that it would go to.

    Celery names the queue of its routes, also where the caller has chosen another exchange; of what RabbitMQ delays it names none.
    """
    told, exchange, routing_key = (_text(event, name) for name in ("queue", "exchange", "routing_key"))
    if not exchange:
        return told or routing_key
    known = None if app is None else queue_for(app, exchange, routing_key)
    return known or (None if is_delaying(exchange) else told)


def _outcome(kind: type[TaskEvent], name: str, event: Mapping[str, Any]) -> dict[str, Any]:
    if kind is TaskSucceeded and event.get("result") is not None:
        return {"result": _repr(event["result"]), **_JSON}
    if kind is TaskRevoked:
        reason = "expired" if event.get("expired") else "terminated" if event.get("terminated") else "revoked"
        return {"result": _error("TaskRevokedError", [reason], "celery.exceptions"), **_JSON}
    if name == "task-cancelled":
        return {"result": _error("Retry", [CANCELLED], "celery.exceptions"), "reason": CANCELLED, **_JSON}
    if event.get("exception") is not None and kind in {TaskFailed, TaskRetried}:
        return {"result": exception_of(event["exception"]), **_JSON}
    return {}


def exception_of(told: object) -> bytes:
    """Return the exception of that repr as Celery's JSON of an exception: its arguments, where the repr is of plain ones."""
    text = told if isinstance(told, str) else repr(told)
    found = _EXCEPTION.fullmatch(text) if len(text) <= _LONGEST_REPR else None
    if found is None:
        return _error("Exception", [text], "builtins")
    name, arguments = found.groups()
    module, _, short = name.rpartition(".")
    return _error(short, _arguments(arguments), module or _module_of(short))


def _arguments(text: str) -> list[Any]:
    if not text:
        return []
    try:
        arguments = list(ast.literal_eval(f"({text},)"))
        json.dumps(arguments)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return [text]
    return arguments


def _module_of(name: str) -> str | None:
    """Return where the exceptions of that name are that everybody has."""
    for module in (builtins, exceptions):
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, BaseException):
            return module.__name__
    return None


def _error(name: str, arguments: list[Any], module: str | None) -> bytes:
    return json.dumps({"exc_type": name, "exc_message": arguments, "exc_module": module}).encode()


def _heart(event: Mapping[str, Any]) -> bytes:
    told = {ours: event[theirs] for theirs, ours in _SOFTWARE.items() if isinstance(event.get(theirs), str)}
    told.update({name: event[name] for name in _HEART if _is_plain_number(event.get(name))})
    if isinstance(event.get("loadavg"), list):
        told["loadavg"] = [number for number in event["loadavg"] if _is_plain_number(number)]
    return json.dumps(told).encode()


def _is_plain_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**31  # a NaN is not below anything


def _repr(value: object) -> bytes:
    """Return the repr that was broadcast as JSON, as the arguments of tasks are kept whose callers gave a repr."""
    return json.dumps(value if isinstance(value, str) else repr(value)).encode()


def _text(event: Mapping[str, Any], name: str) -> str | None:
    value = event.get(name)
    return value if isinstance(value, str) else None


def _integer(event: Mapping[str, Any], name: str, least: int | None = None) -> int | None:
    value = event.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if least is None or least <= value < 2**31 else None


def _moment(value: object) -> datetime | None:
    """Return the moment of an ISO text; one without a time zone is in UTC, as Celery has it."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
