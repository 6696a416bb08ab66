"""Edited arguments: `kwargs.amount=3`, `args.0=5`."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from kombu.utils import json

from .errors import CannotReplay, ReplayRefused


@dataclass(frozen=True, slots=True)
class Edit:
    """A value to be put into the arguments, and where."""

    text: str
    path: tuple[str, ...]
    value: Any

    @classmethod
    def of(cls, text: str) -> Edit:
        """Return what the text means; a value that is no JSON is the text itself. Raises ReplayRefused if there is no place in it."""
        place, equals, value = text.partition("=")
        path = tuple(place.split("."))
        positional = len(path) > 1 and path[0] == "args" and _is_index(path[1])
        if not equals or not all(path) or not (positional or (len(path) > 1 and path[0] == "kwargs")):
            raise ReplayRefused(f"{text!r} sets nothing; write kwargs.amount=3, or args.0=5 for the first positional argument")
        try:
            return cls(text, path, json.loads(value))
        except (ValueError, RecursionError):
            return cls(text, path, value)


def edited(args: list[Any], kwargs: dict[str, Any], edits: Iterable[Edit]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments with the values in their places; raise CannotReplay if there is no such place."""
    # Copied value by value: a list that stands at two places is two lists in the message as well.
    arguments = {"args": deepcopy(args), "kwargs": deepcopy(kwargs)}
    for edit in edits:
        *way, last = edit.path
        inner: Any = arguments
        for step in way:
            inner = inner[_key(inner, step, edit)]
        if isinstance(inner, dict):
            inner[last] = edit.value
        else:
            inner[_key(inner, last, edit)] = edit.value
    return list(arguments["args"]), dict(arguments["kwargs"])


def _key(inner: Any, step: str, edit: Edit) -> Any:
    if isinstance(inner, dict) and step in inner:
        return step
    if isinstance(inner, list) and _is_index(step) and int(step) < len(inner):
        return int(step)
    raise CannotReplay(f"{edit.text!r} has no place in its arguments")


def _is_index(step: str) -> bool:
    return step.isascii() and step.isdigit() and len(step) < 10
