"""What a frozen signature stands for, as far as chords ask: its tasks, the members of chords, who holds its result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery.app.task import Context


def members_of(signature: Any) -> Iterator[Context]:
    """Yield the tasks that a chord waits for, of those which a frozen signature stands for and which come after it in its chain."""
    options, kwargs = signature.get("options") or {}, signature.get("kwargs") or {}
    match signature.get("subtask_type"):
        case "chord":
            inner = [kwargs["body"]] if kwargs.get("body") else []
        case "chain" | "group":
            inner = kwargs.get("tasks") or []
        case _:
            inner = []
            if options.get("chord"):
                yield _member(options)
    for task in (*inner, *(options.get("chain") or ())):
        yield from members_of(task)


def tasks_of(signature: Any) -> Iterator[Any]:
    """Yield the signatures of all tasks that a signature sends, sooner or later."""
    kwargs = signature.get("kwargs") or {}
    match signature.get("subtask_type"):
        case "chord":
            header = kwargs.get("header") or []
            inner = [*([header] if isinstance(header, dict) else header), *([kwargs["body"]] if kwargs.get("body") else [])]
        case "chain" | "group":
            inner = kwargs.get("tasks") or []
        case _:
            yield signature
            return
    for task in inner:
        yield from tasks_of(task)


def ends_of(signature: Any) -> Iterator[Any]:
    """Yield the signatures of the tasks whose results are the result of a frozen signature."""
    options, kwargs = signature.get("options") or {}, signature.get("kwargs") or {}
    match signature.get("subtask_type"):
        case _ if options.get("chain"):
            inner = [options["chain"][0]]  # the next to run is the last of the list
        case "chord":
            inner = [kwargs["body"]] if kwargs.get("body") else []
        case "chain":
            inner = (kwargs.get("tasks") or [])[-1:]
        case "group":
            inner = kwargs.get("tasks") or []
        case _:
            yield signature
            return
    for task in inner:
        yield from ends_of(task)


def _member(options: dict[str, Any]) -> Context:
    return Context(id=options.get("task_id"), group=options.get("group_id"), group_index=options.get("group_index"), chord=options["chord"])
