"""What is stored as bytes, as people read it: arguments and results. Nothing that could run code is decoded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kombu.serialization import prepare_accept_content, registry

from celery_journal.consumers.payloads import TooLarge, opened
from celery_journal.consumers.words import shown
from celery_journal.journal.events import TaskSent
from celery_journal.projections import TaskResult
from celery_journal.projections.task_result import text_of

#: The serializers that only make plain values.
SAFE = prepare_accept_content(["json", "msgpack", "yaml"])

#: Of these a few bytes may stand for any number of values, by aliases.
UNOPENED = frozenset({"application/x-yaml"})

#: Bytes that are opened to be shown, and how deeply the values inside may be nested. Values take up to seventy times as much memory.
MOST, DEEPEST = 4 << 20, 100

#: Characters of the arguments and of an error that a line has room for.
LINE = 80

JSON = "application/json"


class Unreadable(str):
    """Stands for bytes that cannot be decoded, or not safely: their text, base64 where they are binary."""

    __slots__ = ()


def read(data: bytes | None, content_type: str | None = JSON, content_encoding: str | None = "utf-8", *, in_part: bool = False) -> Any:
    """Return the value, None where there are no bytes; an Unreadable where it cannot be known, or not safely: that it is a pickle.

    Of a value that is nested too deeply nothing is shown, unless what can be is wanted, `in_part`.
    """
    if data is None:
        return None
    content_type = content_type or JSON
    unopened = Unreadable(f"({registry.type_to_name.get(content_type, content_type)}, {len(data):,} bytes)")
    if content_type in UNOPENED or content_type not in SAFE or len(data) > MOST:
        return unopened
    try:
        value = opened(data, content_type, content_encoding or "utf-8", SAFE, MOST)
    except TooLarge:
        return unopened
    except Exception:  # noqa: BLE001  a serializer may raise anything, and the bytes are shown then
        return Unreadable(text_of(data))
    return shallow(value) if in_part else value if is_shallow(value) else unopened


def is_shallow(value: object) -> bool:
    """Return whether the values inside are not nested so deeply that whoever walks through them falls."""
    level = [value]
    for _ in range(DEEPEST):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return True
    return False


def shallow(value: Any) -> Any:
    """Return the value, with an ellipsis for what is nested too deeply in it."""
    return value if is_shallow(value) else _shallow(value, DEEPEST)


def _shallow(value: Any, deepest: int) -> Any:
    if not isinstance(value, dict | list | tuple):
        return value
    if not deepest:
        return "…"
    if isinstance(value, dict):
        return {name: _shallow(inner, deepest - 1) for name, inner in value.items()}
    return [_shallow(inner, deepest - 1) for inner in value]


def _inside(value: object) -> Iterable[object]:
    """Return the values inside that may have others inside."""
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return (one for one in within if isinstance(one, dict | list | tuple))


def arguments_of(task: TaskResult | TaskSent, most: int = LINE) -> str:
    """Return the arguments as one writes a call, `42, to='me'`, on one line of so many characters at most."""
    args, kwargs = (read(data, task.args_content_type) for data in (task.args, task.kwargs))
    parts = [str(value) for value in (args, kwargs) if isinstance(value, str)]  # of which only what they look like is known
    parts += [repr(value) for value in args] if isinstance(args, list | tuple) else []
    parts += [f"{name}={value!r}" for name, value in kwargs.items()] if isinstance(kwargs, dict) else []
    return cut(shown(", ".join(parts)), most)


def cut(text: str, most: int) -> str:
    """Return the text, its end left out where it is longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
