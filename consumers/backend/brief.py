"""What is said of a task's end when its payload cannot be stored: less, but never nothing."""

from __future__ import annotations

from typing import Any

from celery.utils.saferepr import saferepr

#: What is kept of a text that tells people something.
TEXT = 1000
TRACEBACK = 10_000

_FACTS = ("name", "worker", "pid", "queue", "root_id", "parent_id", "group_id", "group_index", "run", "periodic_task_name")


def brief_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return who, where and in which group, without arguments, children and the details of the request."""
    return {name: _cut(facts[name]) for name in _FACTS if facts.get(name) is not None}


def brief_error(error: object) -> dict[str, Any]:
    """Return an exception as Celery stores one, but with its message as a short text."""
    if isinstance(error, dict) and isinstance(error.get("exc_type"), str):
        kind, module, message = error["exc_type"], error.get("exc_module"), error.get("exc_message")
    elif isinstance(error, BaseException):
        kind, module, message = type(error).__qualname__, type(error).__module__, error
    else:  # a state that means a failure, with something else for its result
        kind, module, message = "EncodeError", "kombu.exceptions", error
    return {"exc_type": _cut(kind), "exc_message": [_text(message)], "exc_module": _cut(module)}


def brief_traceback(traceback: object, max_bytes: int) -> str | None:
    """Return the end of the traceback, which names the error, within a part of what may be stored."""
    if traceback is None:
        return None
    text, size = str(traceback), max(1, min(TRACEBACK, max_bytes // 16))  # a character may take four bytes
    return text if len(text) <= size else f"[...] {text[-size:]}"


def _text(message: object) -> str:
    try:
        args = message.args if isinstance(message, BaseException) else message
        if isinstance(args, list | tuple) and len(args) == 1 and isinstance(args[0], str):
            return args[0][:TEXT]
        return str(saferepr(message, maxlen=TEXT))[: 2 * TEXT]
    except Exception:  # noqa: BLE001  a __repr__ may raise anything
        return f"<unrepresentable {type(message).__name__}>"


def _cut(value: Any) -> Any:
    return value[:TEXT] if isinstance(value, str) else value
