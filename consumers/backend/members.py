"""The members of a chord among tasks that will never run."""

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


def _member(options: dict[str, Any]) -> Context:
    return Context(
        id=options.get("task_id"), group=options.get("group_id"), group_index=options.get("group_index"), chord=options["chord"]
    )
