"""What a call of `store_result` is as facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from celery_journal.journal import Emitter
from celery_journal.journal import events as kinds

from .group_result import task_ids_in
from .task_result import TaskResult


def encoded(value: str | bytes | None) -> bytes | None:
    """Return text as bytes."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def members_of(result: str | bytes | None) -> tuple[str, ...] | None:
    """Return the ids of the tasks in a group's `as_tuple()` as JSON; None of anything else."""
    try:
        (_, nodes) = json.loads(result or b"")
        return tuple(dict.fromkeys(task_ids_in(nodes))) if isinstance(nodes, list) else None
    except (ValueError, TypeError, RecursionError):
        return None


def next_attempt(row: TaskResult | None) -> int:
    """Return the attempt that is told of next: after a retry, another one."""
    return 0 if row is None else row.retries + (row.status == "RETRY")


def facts_of(
    emitter: Emitter, task_id: str, status: str, attempt: int, date_started: datetime | None, fields: Mapping[str, Any]
) -> list[kinds.TaskEvent]:
    """Return the event of the status and, where it says when the task started and is no start, that of the start before it."""
    kind = kinds.KIND_OF_STATE.get(status, kinds.TaskProgress)
    known = {name: value for name, value in fields.items() if value is not None and name in kind.model_fields}
    if kind is kinds.TaskProgress:
        known["state"] = status
    if kind is kinds.TaskStarted:
        return [emitter.emit(kind, task_id, attempt=attempt, source="backend", occurred_at=date_started, **known)]
    end = emitter.emit(kind, task_id, attempt=attempt, source="backend", **known)
    if date_started is None:
        return [end]
    start = emitter.emit(
        kinds.TaskStarted, task_id, attempt=attempt, source="backend", occurred_at=date_started, name=end.name, worker=end.worker
    )
    return [start, end]
