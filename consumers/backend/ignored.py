"""Tasks whose results are ignored: nobody waits for them, and yet people want to know how they ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from celery import states

from celery_journal.consumers.notes import has_told
from celery_journal.consumers.request import attempt_of, facts_of
from celery_journal.journal import events as kinds

from .base import JournalBase


class Ignored(JournalBase):
    """The part of the backend that is told of ends which are not to be stored."""

    def mark_as_done(self, task_id: Any, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS) -> None:
        """Record that the task has succeeded; where its result is ignored, `task-ignored` without it."""
        super().mark_as_done(task_id, result, request, store_result, state)
        if self._is_journalled(request) and not (store_result and not request.ignore_result):
            facts = facts_of(request, self.app, self.current_task_children(request), with_arguments=False)
            moment, attempt = datetime.now(UTC), attempt_of(request)
            self.buffer.put(
                lambda: self.emitter.emit(kinds.TaskIgnored, str(task_id), attempt=attempt, occurred_at=moment, source="backend", **facts),
                may_wait=True,
            )

    def mark_as_failure(
        self,
        task_id: Any,
        exc: Any,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Record that the task has failed, also where its results are ignored: a failure is no result."""
        super().mark_as_failure(task_id, exc, traceback, request, store_result or self._is_journalled(request), call_errbacks, state)

    def mark_as_revoked(
        self, task_id: Any, reason: Any = "", request: Any = None, store_result: bool = True, state: str = states.REVOKED
    ) -> None:
        """Record that the task is revoked, also where its results are ignored."""
        super().mark_as_revoked(task_id, reason, request, store_result or self._is_journalled(request), state)

    def _is_journalled(self, request: Any) -> bool:
        """Return whether the end of a task without a result is to be recorded: one that a worker ran, or of which its progress is."""
        if not self.options.journal_ignored or request is None:
            return False
        return not getattr(request, "is_eager", False) or has_told(request)
