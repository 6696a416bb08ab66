"""What a task's request, or its message, says, as the fields of an event.

A request may be a Context, a worker's Request, a Bunch with a few attributes, or None: only `getattr` is safe.
"""

from __future__ import annotations

import os
import secrets
from datetime import datetime
from typing import Any

from celery._state import get_current_task
from celery.app.task import Context
from celery.signals import before_task_publish
from celery.utils.saferepr import saferepr
from kombu.serialization import dumps
from kombu.utils import json

from celery_journal.journal.events import TaskEvent

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

_PUNCTUATION = dict.fromkeys(map(ord, "[](){}'\"., "))


def attempt_of(request: Any) -> int:
    """Return the attempt that the request is, from 0."""
    return getattr(request, "retries", None) or 0


def facts_of(request: Any, app: Any, children: list[Any] | None, *, with_arguments: bool) -> dict[str, Any]:
    """Return the fields of a task event that the request tells."""
    if request is None:
        return {}
    facts = {
        "name": _name(request),
        "worker": getattr(request, "hostname", None),
        "pid": os.getpid() if is_run_here(request) else None,
        "queue": queue_of(request),
        "root_id": id_of(getattr(request, "root_id", None)),
        "parent_id": id_of(getattr(request, "parent_id", None)),
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


#: Where the run stands in a request: in a dict that travels with it to the process that runs the task, and no further.
_RUN = "journal_run"


def begin_run(request: Any) -> str | None:
    """Give the delivery that a worker has received a name of its own, and return it; None if there is no place for it."""
    delivery = getattr(request, "delivery_info", None)
    if not isinstance(delivery, dict):
        return None
    delivery[_RUN] = run = secrets.token_hex(8)
    return run


def run_of(request: Any) -> str | None:
    """Return the delivery that this is a request of; None where nobody has named it."""
    delivery = getattr(request, "delivery_info", None)
    return delivery.get(_RUN) if isinstance(delivery, dict) else None


def note_next_attempt(request: Any, eta: datetime | None) -> None:
    """Note that the task has sent itself again, and when it is due: what stores the retry is not told."""
    request.journal_next_attempt = eta


def next_attempt_of(request: Any) -> datetime | None:
    """Return when the next attempt of the task is due, as far as that is known here."""
    eta = getattr(request, "journal_next_attempt", None)
    return eta if isinstance(eta, datetime) else None


def note_cancelled(request: Any, why: str) -> None:
    """Note that the worker itself has given up the run of a task: what is stored of the retry would not say."""
    request.journal_cancelled = why


def cancelled(request: Any) -> str | None:
    """Return why the worker has given up the run; None if it has not."""
    why = getattr(request, "journal_cancelled", None)
    return why if isinstance(why, str) else None


def note_end(request: Any, state: str) -> bool:
    """Note that the main process of a worker tells this end of a run; return whether it has told it before.

    Celery does so twice where a hard time limit has passed: when it is noticed, and when the process is gone.
    """
    if request is None or is_run_here(request):
        return False
    told = getattr(request, "journal_end", None) == state
    try:
        request.journal_end = state
    except AttributeError:  # not one of Celery's own
        return False
    return told


def note_told(request: Any, told: TaskEvent) -> None:
    """Note the state that the task has stored itself."""
    if isinstance(request, Context):
        request.journal_told = told


def told_by(request: Any) -> TaskEvent | None:
    """Return the last state that the task has stored itself; None if it has stored none."""
    told = getattr(request, "journal_told", None)
    return told if isinstance(told, TaskEvent) else None


def id_of(given: Any) -> str | None:
    """Return the id as text: some give UUID objects, and serializers keep them."""
    return None if given is None else str(given)


def queue_of(request: Any) -> str | None:
    """Return what Celery calls the queue of a result: the routing key of the delivery."""
    delivery = getattr(request, "delivery_info", None)
    return delivery.get("routing_key") if isinstance(delivery, dict) else None


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
    try:
        if app.conf.task_serializer in {"pickle", "msgpack", "yaml"} and given == (None, None):
            serializer = app.conf.task_serializer
            content_type, _, encoded_args = dumps(list(args), serializer=serializer)
            _, _, encoded_kwargs = dumps(dict(kwargs or {}), serializer=serializer)
            return {"args": as_bytes(encoded_args), "kwargs": as_bytes(encoded_kwargs), "args_content_type": content_type}
        return {
            "args": as_bytes(json.dumps(list(args) if given_args is None else given_args)),
            "kwargs": as_bytes(json.dumps(dict(kwargs or {}) if given_kwargs is None else given_kwargs)),
        }
    except Exception:  # noqa: BLE001  arguments of any kind must not keep a fact from being recorded
        return {
            "args": as_bytes(json.dumps(saferepr(args) if given_args is None else given_args)),
            "kwargs": as_bytes(json.dumps(saferepr(kwargs) if given_kwargs is None else given_kwargs)),
        }


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
