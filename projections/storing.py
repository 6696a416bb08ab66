"""What a call of `store_result` is as facts."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from pydantic import ValidationError

from celery_journal.journal import Emitter
from celery_journal.journal import events as kinds

from .group_result import task_ids_in
from .task_result import TaskResult

E = TypeVar("E", bound=kinds.Event)


#: Serializers that make nothing which could be taken for base64.
_NEVER_BASE64 = {"application/x-python-serialize", "application/x-msgpack"}

#: How the fields of an event are called by who stores a result.
_ARGUMENTS = {"name": "task_name", "attempt": "retries", "state": "status", "occurred_at": "date_started"}


def id_of(name: str, given: str | UUID) -> str:
    """Return the id as text; raise TypeError if it is none."""
    if isinstance(given, str | UUID):
        return str(given)
    raise TypeError(f"{name} is text, and not a {type(given).__name__}")


def encoded(name: str, value: str | bytes | None) -> bytes | None:
    """Return text as bytes; raise TypeError of what no serializer has made."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes | bytearray | memoryview | None):
        return None if value is None else bytes(value)
    raise TypeError(
        f"{name} is what a serializer has made, text or bytes, and not a {type(value).__name__}; "
        "app.backend.encode_content(value) returns the content type, the encoding, and that"
    )


def payload(name: str, value: str | bytes | None, content_type: str | None, content_encoding: str | None) -> bytes | None:
    """Return an encoded value as bytes; of binary content, those that its base64 stands for, as django-celery-results stores it.

    Raises TypeError of what no serializer has made.
    """
    given = encoded(name, value)
    if given is None or content_encoding != "binary" or not (isinstance(value, str) or content_type in _NEVER_BASE64):
        return given
    found = _bytes_in(given)
    return given if found is None else found


def arguments(
    args: str | bytes | None, kwargs: str | bytes | None, content_type: str | None, content_encoding: str | None
) -> dict[str, Any]:
    """Return the fields of the arguments: JSON, or whatever text they are; where all are base64, what the serializer of the result made."""
    given = {"args": encoded("task_args", args), "kwargs": encoded("task_kwargs", kwargs)}
    if content_encoding == "binary":
        found = {name: _bytes_in(value) for name, value in given.items() if value is not None and not _is_json(value)}
        if found and None not in found.values() and len(found) == sum(value is not None for value in given.values()):
            return {**found, "args_content_type": content_type}
    return given


def _bytes_in(encoded: bytes) -> bytes | None:
    """Return the bytes that base64 stands for; None if it is none."""
    try:
        return base64.b64decode(encoded, validate=True)
    except ValueError:
        return None


def _is_json(encoded: bytes) -> bool:
    try:
        json.loads(encoded)
    except (ValueError, RecursionError):
        return False
    return True


def kind_of(state: str) -> type[kinds.TaskEvent]:
    """Return the kind of event that a stored state is. Of a task that calls itself PENDING, no message was sent."""
    return kinds.TaskProgress if state == "PENDING" else kinds.KIND_OF_STATE.get(state, kinds.TaskProgress)


def made(make: Callable[..., E], *args: Any, **fields: Any) -> E:
    """Return the event; raise ValueError, in one sentence, if a field of it cannot be recorded."""
    try:
        return make(*args, **fields)
    except ValidationError as exc:
        wrong = exc.errors(include_url=False, include_context=False)[0]
        name = str(wrong["loc"][0]) if wrong["loc"] else ""
        raise ValueError(f"{_ARGUMENTS.get(name, name)} cannot be recorded: {wrong['msg']}") from exc


def members_of(result: str | bytes | None) -> tuple[str, ...] | None:
    """Return the ids of the tasks in a group's `as_tuple()` as JSON; None of anything else."""
    try:
        (_, nodes) = json.loads(result or b"")
        return tuple(dict.fromkeys(task_ids_in(nodes))) if isinstance(nodes, list) else None
    except (ValueError, TypeError, RecursionError):
        return None


def attempt_of(row: TaskResult | None, status: str) -> int:
    """Return the attempt that a state is of which comes without a request: the one that is known; after a retry the next, but for an abort,
    which is of the one that ran.
    """
    return 0 if row is None else row.retries + (row.status == "RETRY" and status != "ABORTED")


def facts_of(
    emitter: Emitter, task_id: str, status: str, attempt: int, date_started: datetime | None, fields: Mapping[str, Any]
) -> list[kinds.TaskEvent]:
    """Return the event of the status and, where it says when the task started and is no start, that of the start before it."""
    kind = kind_of(status)
    known = {name: value for name, value in fields.items() if value is not None and name in kind.model_fields}
    if kind is kinds.TaskProgress:
        known["state"] = status
    if kind is kinds.TaskStarted:
        return [made(emitter.emit, kind, task_id, attempt=attempt, source="backend", occurred_at=date_started, **known)]
    end = made(emitter.emit, kind, task_id, attempt=attempt, source="backend", **known)
    if date_started is None:
        return [end]
    start = made(
        emitter.emit,
        kinds.TaskStarted,
        task_id,
        attempt=attempt,
        source="backend",
        occurred_at=date_started,
        name=end.name,
        worker=end.worker,
    )
    return [start, end]
