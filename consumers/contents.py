"""What is stored as bytes, as people read it: arguments, results and errors. Nothing that could run code is decoded."""

from __future__ import annotations

from typing import Any

from celery import states
from kombu.serialization import loads, prepare_accept_content

from celery_journal.consumers.explain.task import error_of as error_in
from celery_journal.consumers.words import shown
from celery_journal.projections import TaskResult
from celery_journal.projections.task_result import text_of

#: The serializers that only make plain values.
SAFE = prepare_accept_content(["json", "msgpack", "yaml"])

#: Characters of the arguments and of an error that a line has room for.
LINE = 80

JSON = "application/json"


class Unreadable(str):
    """Stands for bytes that cannot be decoded, or not safely: their text, base64 where they are binary."""

    __slots__ = ()


def read(data: bytes | None, content_type: str | None = JSON, content_encoding: str | None = "utf-8") -> Any:
    """Return the value, None where there are no bytes; an Unreadable where it cannot be known, as where it is a pickle."""
    if data is None:
        return None
    try:
        return loads(data, content_type or JSON, content_encoding or "utf-8", accept=SAFE)
    except Exception:  # noqa: BLE001  a serializer may raise anything, and the bytes are shown then
        return Unreadable(text_of(data))


def arguments_of(task: TaskResult, most: int = LINE) -> str:
    """Return the arguments as one writes a call, `42, to='me'`, on one line of so many characters at most."""
    args, kwargs = (read(data, task.args_content_type) for data in (task.args, task.kwargs))
    parts = [str(value) for value in (args, kwargs) if isinstance(value, Unreadable)]
    parts += [repr(value) for value in args] if isinstance(args, list | tuple) else []
    parts += [f"{name}={value!r}" for name, value in kwargs.items()] if isinstance(kwargs, dict) else []
    return cut(shown(", ".join(parts)), most)


def error_of(task: TaskResult, most: int = LINE) -> str:
    """Return the error that the task stands with, as Python shows it, on one line of so many characters at most."""
    if task.status not in states.EXCEPTION_STATES:
        return ""
    return cut(shown(error_in(task) or ""), most)


def cut(text: str, most: int) -> str:
    """Return the text, its end left out where it is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
