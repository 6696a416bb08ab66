"""Arguments of which another backend has only what they look like: `(1, 2)` and `{'a': 1}`, in JSON, in another repr, or as they are."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from typing import Any

from celery.utils.saferepr import saferepr

#: Texts inside of texts that are opened: JSON of a repr of a repr has three.
LAYERS = 4

#: Characters of a repr that are read: what Python makes of them takes a hundred times the memory.
LONGEST = 1 << 18

_NOTHING = object()


def args_in(value: Any) -> Any:
    """Return the positional arguments that a text stands for, as a list; what is no such text, or a cut one, as it is."""
    read = _read(value, lambda found: isinstance(found, list | tuple))
    return list(read) if isinstance(read, tuple) else read


def kwargs_in(value: Any) -> Any:
    """Return the same of keyword arguments, as a dict."""
    return _read(value, lambda found: isinstance(found, dict) and all(isinstance(name, str) for name in found))


def _read(value: Any, is_wanted: Callable[[Any], bool]) -> Any:
    """Return what is wanted if the text stands for it, and else the innermost text."""
    for _ in range(LAYERS):
        if not isinstance(value, str):
            break
        found = _of_json(value)
        if found is _NOTHING:
            found = _of_repr(value)
        if not isinstance(found, str):
            return found if is_wanted(found) else value
        value = found
    return value


def _of_json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NOTHING


def _of_repr(text: str) -> Any:
    """Return what the text is the repr of, if it is one for sure."""
    text = text.strip()
    # Celery's own repr writes a backslash as it is, where Python reads an escape; but for quotes.
    if len(text) > LONGEST or "\\" in text.replace("\\'", ""):
        return _NOTHING
    try:
        value = ast.literal_eval(text)
        if ("\\" not in text or saferepr(value, maxlevels=0) == text) and not _is_cut(value):
            json.dumps(value, allow_nan=False)  # what the log is to hold
            return value
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        pass
    return _NOTHING


def _is_cut(value: object) -> bool:
    """Return whether Celery has left something out, which ends with `...` then; or perhaps changed it, as it does bytes."""
    match value:
        case str():
            return value.endswith("...")
        case list() | tuple():
            return any(map(_is_cut, value))
        case dict():
            return any(_is_cut(inner) for pair in value.items() for inner in pair)
        case _:
            return not isinstance(value, int | float | None)


def _refuse(name: str) -> None:
    raise ValueError(name)
