"""What a task's request, or its message, says, as the fields of an event.

A request may be a Context, a worker's Request, a Bunch with a few attributes, or None: only `getattr` is safe.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from celery._state import get_current_task
from celery.signals import before_task_publish
from celery.utils.saferepr import saferepr
from kombu.serialization import dumps, prepare_accept_content, registry
from kombu.utils import json

from .notes import noted_queue, run_of
from .routing import queue_for

#: What else is kept of a request: enough to tell how the task was sent.
_DETAILS = (
    "eta",
    "expires",
    "timelimit",
    "reply_to",
    "correlation_id",
    "origin",
    "shadow",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
    "delivery_info",
    "headers",
)

#: What a start says of a message that its worker has not acknowledged: while it has not ended, a broker gives it to another one.
ACKNOWLEDGES_LATE = "its message is acknowledged when it ends"

#: What a retry says that is none: the worker was shut down cold, and the message was acknowledged, so that no attempt follows.
CANCELLED_FOR_GOOD = "cancelled by a cold shutdown, after its message was acknowledged"

#: What a rejection says first, of a message that was acknowledged: a failure follows from the worker's main process, and never another run.
REJECTED_FOR_GOOD = "for good, after its message was acknowledged"

#: What a rejection says, after the name, of a task that its worker does not know. Celery has failed it by then.
NOT_REGISTERED = "is not registered"

_PUNCTUATION = dict.fromkeys(map(ord, "[](){}'\"., "))

#: The highest number that the log has for an attempt.
_LAST_ATTEMPT = 2**31 - 1


def attempt_of(request: Any) -> int:
    """Return the attempt that the request is, from 0."""
    return attempt_from(getattr(request, "retries", None))


def attempt_from(retries: object) -> int:
    """Return the attempt that the count in a message means, which whoever sends it has chosen: always a number that the log takes."""
    if not isinstance(retries, int | float) or retries != retries:  # noqa: PLR0124  not a number
        return 0
    return int(min(max(retries, 0), _LAST_ATTEMPT))


def facts_of(request: Any, app: Any, children: list[Any] | None, *, with_arguments: bool) -> dict[str, Any]:
    """Return the fields of a task event that the request tells."""
    if request is None:
        return {}
    facts = {
        "name": _name(request),
        "worker": getattr(request, "hostname", None),
        "pid": os.getpid() if is_run_here(request) else None,
        "queue": queue_of(request, app),
        "root_id": id_of(getattr(request, "root_id", None)),
        "parent_id": parent_of(getattr(request, "parent_id", None), getattr(request, "id", None)),
        "group_id": id_of(getattr(request, "group", None)),
        "group_index": getattr(request, "group_index", None),
        "run": run_of(request),
        "periodic_task_name": periodic_task_name(request),
        "meta": _meta(request, children),
        "request": {name: value for name in _DETAILS if (value := getattr(request, name, None))} or None,
    }
    if with_arguments and getattr(request, "args", None) is not None:
        facts.update(encoded_arguments(request.args, request.kwargs, _given_reprs(request, app), app))
    return facts


def acknowledges_late(request: Any, app: Any) -> bool | None:
    """Return whether the message of a task is acknowledged only when it ends; None where that is not known."""
    task = app.tasks.get(_name(request))
    return None if task is None else bool(task.acks_late)


def id_of(given: Any) -> str | None:
    """Return the id as text: some give UUID objects, and serializers keep them."""
    return None if given is None else str(given)


def parent_of(given: Any, task_id: Any, sender: Any = None) -> str | None:
    """Return the id of the task that has sent it; where that is an attempt of itself, of the one that has sent that, if it is known.

    Celery takes whoever sends a message without a parent for its parent: so does a task without one that retries, or replaces itself.
    `sender` is the request of the task that sends it.
    """
    parent, own = id_of(given), id_of(task_id)
    if parent != own:
        return parent
    before = id_of(getattr(sender, "parent_id", None)) if id_of(getattr(sender, "id", None)) == own else None
    return before if before != own else None


def queue_of(request: Any, app: Any) -> str | None:
    """Return the name of the queue that it was delivered from; None where nobody here knows."""
    delivery = getattr(request, "delivery_info", None)
    if not isinstance(delivery, dict):
        return None
    return noted_queue(request) or queue_for(app, delivery.get("exchange"), delivery.get("routing_key"))


def _name(request: Any) -> str | None:
    task = getattr(request, "task", None) or getattr(request, "name", None)  # an unknown task has a name only
    return task if task is None or isinstance(task, str) else getattr(task, "name", None)


def periodic_task_name(request: Any) -> str | None:
    """Return the name from the message's headers, or from its properties, where django-celery-beat puts it."""
    properties = getattr(request, "properties", None)
    name = getattr(request, "periodic_task_name", None)
    if name is None and isinstance(properties, dict):
        name = properties.get("periodic_task_name")
    return name if isinstance(name, str) else None


def is_run_here(request: Any) -> bool:
    """Return whether it is this process that runs the task; a worker's main process also tells of tasks that others ran."""
    task = get_current_task()
    return task is not None and getattr(task.request, "id", None) == getattr(request, "id", None)


def _meta(request: Any, children: list[Any] | None) -> bytes | None:
    meta: dict[str, Any] = {"children": children or []}
    if own := getattr(request, "meta", None):
        meta["meta"] = own
    if stamps := getattr(request, "stamps", None):
        meta["stamps"] = stamps
        meta["stamped_headers"] = getattr(request, "stamped_headers", None)
    if not children and len(meta) == 1:
        return None
    try:
        return as_bytes(json.dumps(meta))
    except (TypeError, ValueError):  # a stamp or a meta that JSON has no form for
        return as_bytes(json.dumps({"children": children or []}))


def encoded_arguments(args: Any, kwargs: Any, given: tuple[str | None, str | None], app: Any) -> dict[str, Any]:
    """Return the fields of the arguments as they are now, or the caller's `argsrepr` and `kwargsrepr` where there are any (privacy)."""
    given_args, given_kwargs = given
    for serializer in _serializers(app) if given == (None, None) else ():
        try:
            content_type, _, encoded_args = dumps(list(args), serializer=serializer)
            _, _, encoded_kwargs = dumps(dict(kwargs or {}), serializer=serializer)
        except Exception:  # noqa: BLE001, S112  arguments of any kind must not keep a fact from being recorded
            continue
        fields = {"args": as_bytes(encoded_args), "kwargs": as_bytes(encoded_kwargs)}
        return fields if serializer == "json" else {**fields, "args_content_type": content_type}
    try:
        return {
            "args": as_bytes(json.dumps(list(args) if given_args is None else given_args)),
            "kwargs": as_bytes(json.dumps(dict(kwargs or {}) if given_kwargs is None else given_kwargs)),
        }
    except Exception:  # noqa: BLE001
        return {
            "args": as_bytes(json.dumps(saferepr(args) if given_args is None else given_args)),
            "kwargs": as_bytes(json.dumps(saferepr(kwargs) if given_kwargs is None else given_kwargs)),
        }


def _serializers(app: Any) -> Iterator[str]:
    """Yield what may make the arguments, the best first. No signal says which one makes their message: what JSON refuses some other
    does, and where the app accepts pickles, that has a form for it.
    """
    if app.conf.task_serializer in {"pickle", "msgpack", "yaml"}:
        yield app.conf.task_serializer
    yield "json"
    if registry.name_to_type.get("pickle") in prepare_accept_content(app.conf.accept_content):
        yield "pickle"


@before_task_publish.connect(weak=False, dispatch_uid="celery-journal-given-reprs")
def _keep_given_reprs(sender: Any = None, headers: Any = None, **_signal: Any) -> None:
    """Put what the caller gave with the first message of a task into that of its retry, where Celery would show the arguments."""
    task = get_current_task()
    request = getattr(task, "request", None)
    if request is None or not isinstance(headers, dict) or headers.get("id") != request.id or sender != task.name:
        return
    args, kwargs = _given_reprs(request, task.app)
    headers.update({name: given for name, given in (("argsrepr", args), ("kwargsrepr", kwargs)) if given is not None})


def _given_reprs(request: Any, app: Any) -> tuple[str | None, str | None]:
    amqp, levels = app.amqp, app.conf.get("task_repr_maxlevels", 3)
    # The producer made the repr of a tuple, and what arrives may be a list.
    values = [tuple(request.args or ()), list(request.args or ())]
    return (
        _given_repr(request, "argsrepr", values, amqp.argsrepr_maxsize, levels),
        _given_repr(request, "kwargsrepr", [request.kwargs or {}], amqp.kwargsrepr_maxsize, levels),
    )


def _given_repr(request: Any, name: str, values: list[Any], maxsize: int, levels: int) -> str | None:
    """Return the repr in the message if the caller gave it, None if Celery made it from one of the values."""
    given = getattr(request, name, None)
    if not isinstance(given, str) or any(_is_made_of(given, value, maxsize, levels) for value in values):
        return None
    return given


def _is_made_of(given: str, value: Any, maxsize: int, levels: int) -> bool:
    """Return whether the repr is Celery's own of what arrived as the value."""
    if given == repr(value):  # as it is of most, and Celery's own takes long
        return True
    shape = _shape(given)
    if shape == _shape(saferepr(value, maxsize, levels)):
        return True
    # Celery cuts it at maxsize, and where that is depends on the brackets: the beginning has to do.
    return len(given) >= maxsize and len(shape) >= maxsize // 8 and _shape(saferepr(value, 2 * maxsize, levels)).startswith(shape)


def _shape(text: str) -> str:
    """Return the repr without what serializers change on the way: a tuple arrives as a list, a key that is a number as text."""
    return text.translate(_PUNCTUATION)


def as_bytes(encoded: str | bytes) -> bytes:
    """Return what a serializer has made as bytes."""
    return encoded.encode() if isinstance(encoded, str) else encoded
