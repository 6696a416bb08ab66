"""What people note of tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from celery_journal.journal import Emitter
from celery_journal.journal.events import OperatorActed

from .capture.control import account


def remarks(
    emitter: Emitter, task_ids: Sequence[str], *, note: str | None = None, label: str | None = None, marks: Mapping[str, bool] | None = None
) -> list[OperatorActed]:
    """Return the facts of what this account notes of the tasks: in words, and as marks such as `resolved`."""
    meta = json.dumps(marks).encode() if marks else None
    facts: dict[str, Any] = {"action": "annotate", "author": account(), "source": "operator", "reason": note, "label": label, "meta": meta}
    return [emitter.emit(OperatorActed, task_id, **facts) for task_id in task_ids]
