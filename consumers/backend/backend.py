"""The result backend: every state is an event, and what Celery reads are the views."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import states
from celery._state import get_current_task
from celery.exceptions import Retry
from celery.result import GroupResult as CeleryGroupResult
from celery.result import result_from_tuple

from celery_journal import sql
from celery_journal.consumers.expiry import Limits, expire
from celery_journal.consumers.notes import cancelled, next_attempt_of, note_cancelled, note_end, note_told
from celery_journal.consumers.request import (
    ACKNOWLEDGES_LATE,
    CANCELLED_FOR_GOOD,
    acknowledges_late,
    attempt_of,
    facts_of,
    id_of,
    is_run_here,
)
from celery_journal.journal import events as kinds
from celery_journal.journal.codec import escape
from celery_journal.projections import GroupResult, chord_counter, storing

from . import admission, revokes, sweeper  # noqa: F401  they connect to the signals of the worker
from .awaiting import Awaiting
from .base import named
from .brief import brief_error, brief_facts, brief_traceback
from .chordsweep import SweptChords
from .connection import JournalUnavailable
from .drop_in import DropIn
from .ignored import Ignored
from .process import is_worker_main
from .waiting import leaves

#: Seconds that forgetting waits for a fact that is on its way.
FORGETTING_PATIENCE = 0.5

#: Seconds within which to be asked again to revoke a task is the same request, as another worker has heard it.
LATELY = 60.0

#: How far the clocks of those who hear it may be from each other.
CLOCKS = timedelta(days=1)


class JournalBackend(DropIn, Ignored, SweptChords, Awaiting):
    """A result backend that appends every transition to the journal.

    One instance serves all threads of a process and survives forks; connections are opened on first use.
    """

    supports_autoexpire = False
    supports_result_compression = True
    supports_failure_expires = True
    persistent = True

    #: The model of the rows it reads.
    GroupModel = GroupResult

    # Writing

    def _store_result(self, task_id: Any, result: Any, state: str, traceback: Any = None, request: Any = None, **_kwargs: Any) -> Any:
        task_id = named(task_id)
        if state == states.REVOKED and request is None:
            self._ask_to_revoke(task_id, result, traceback)
            return result
        if state == states.FAILURE and is_worker_main() and not is_run_here(request) and note_end(request, state):
            return result
        if storing.kind_of(state) is kinds.TaskProgress:
            request = _request_of(task_id, request)
        recorded = self.append_first(self._forms_of(task_id, result, state, traceback, request))
        if recorded is not None and state not in {states.STARTED, states.RECEIVED}:
            note_told(request, recorded)
        return result

    def mark_as_retry(
        self, task_id: Any, exc: Any, traceback: Any = None, request: Any = None, store_result: bool = True, state: str = states.RETRY
    ) -> Any:
        """Record that the task will run again; or that its worker gives it up, as when the connection to the broker is lost."""
        if isinstance(exc, Retry) and exc.message and request is not None:  # a task's own has the cause for its exc
            # Only a cold shutdown cancels what was acknowledged early: its message is gone, and nobody sends a next attempt.
            is_gone = is_worker_main() and not is_run_here(request) and acknowledges_late(request, self.app) is False
            note_cancelled(request, CANCELLED_FOR_GOOD if is_gone else str(exc.message))
        return super().mark_as_retry(task_id, exc, traceback, request, store_result, state)

    def _ask_to_revoke(self, task_id: str, reason: Any, traceback: Any) -> None:
        """Record that somebody wants the task revoked: every worker is told, and each tells this, but it is one fact."""
        asked = self._made_once(0, lambda: self._event_of(task_id, 0, states.REVOKED, traceback, None, self._encoded(reason)))
        self._trying([asked])
        query = sql.query("journal.sql", "asked lately", self.journal.schema)
        around = {"since": asked.occurred_at - CLOCKS, "until": asked.occurred_at + CLOCKS}
        parameters = {"stream": escape(task_id), "seconds": LATELY, **around}
        self.outage.record(lambda connection: self.journal.append_unless(connection, asked, query, parameters), [asked])

    def _forms_of(self, task_id: str, result: Any, state: str, traceback: Any, request: Any) -> Iterator[Callable[[], kinds.TaskEvent]]:
        """Yield how to make the event: whole, and then with less and less, because an end must not be lost for what it carries."""
        facts = facts_of(
            request,
            self.app,
            self.current_task_children(request) if request is not None else None,
            with_arguments=self.options.store_arguments,
        )
        brief, attempt = brief_facts(facts), self._attempt_of(task_id, state, request)
        for less in (facts, {**brief, "meta": facts.get("meta")}, brief):
            yield lambda: self._event_of(task_id, attempt, state, traceback, request, {**less, **self._encoded(result)})  # noqa: B023  used at once
        if state in self.EXCEPTION_STATES:  # of any other, Celery makes a FAILURE when it cannot be stored
            error = brief_error(result)
            for end in (brief_traceback(traceback, self.options.max_payload_bytes), None):
                yield lambda: self._event_of(task_id, attempt, state, end, request, {**brief, **self._encoded(error)})  # noqa: B023
            yield lambda: self._event_of(task_id, attempt, state, None, request, {})

    def _event_of(self, task_id: str, attempt: int, state: str, traceback: Any, request: Any, fields: dict[str, Any]) -> kinds.TaskEvent:
        kind = storing.kind_of(state)
        if kind is kinds.TaskProgress:
            fields["state"] = state
        if "traceback" in kind.model_fields:
            fields["traceback"] = None if traceback is None else str(traceback)
        if kind is kinds.TaskRetried:
            fields |= {"eta": next_attempt_of(request), "reason": cancelled(request)}
        if kind is kinds.TaskStarted and request is not None and acknowledges_late(request, self.app):
            fields["reason"] = ACKNOWLEDGES_LATE
        return self.emitter.emit(kind, task_id, attempt=attempt, source="backend", **fields)

    def _attempt_of(self, task_id: str, state: str, request: Any) -> int:
        """Return the attempt that the state is of; without a request as `TaskResult.objects.store_result` has it."""
        if request is not None or state == states.REVOKED:  # a revoke that is asked for is of the task, whatever its attempt
            return attempt_of(request)
        return storing.attempt_of(self._row_unless_away(self.TaskModel, task_id), state)

    def _forget(self, task_id: Any) -> None:
        task_id = named(task_id)
        # What is recorded after the forgetting would make the task known again.
        self.buffer.flush()
        deadline = time.monotonic() + FORGETTING_PATIENCE
        while self._is_on_its_way(task_id) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.append(self.emitter.emit(kinds.TaskForgotten, task_id, source="backend"))

    def _is_on_its_way(self, task_id: str) -> bool:
        """Return whether the end of a run is recorded, and that it was received not yet: another process tells that."""
        if self.outage.away:
            return False
        query = sql.query("journal.sql", "deliveries", self.journal.schema)
        try:
            rows = self.database.run(lambda connection: list(self.journal.look(connection, query, {"stream": escape(task_id)})))
        except JournalUnavailable:
            return False
        return bool({row["run"] for row in rows} - {row["run"] for row in rows if row["is_received"]})

    def cleanup(self) -> None:
        """Expire what is older than `result_expires` and, since Celery 5.7, `result_failure_expires` and `result_chord_expires`."""
        conf = self.app.conf
        limits = Limits(
            results=_moment_before(self.expires),
            failures=_moment_before(self.prepare_expires(conf.get("result_failure_expires"))),
            chords=_moment_before(self.prepare_expires(conf.get("result_chord_expires"))),
        )
        self.database.run(lambda connection: expire(connection, self.journal, self.emitter, limits))

    # Groups

    def _save_group(self, group_id: Any, result: CeleryGroupResult) -> CeleryGroupResult:
        members = tuple(dict.fromkeys(leaf.id for leaf in leaves(result)))
        self.append(self.emitter.emit(kinds.GroupSaved, named(group_id, "group_id"), members=members, **self._encoded(result.as_tuple())))
        return result

    def _restore_group(self, group_id: Any) -> dict[str, Any] | None:
        row = self._rows(self.GroupModel, [named(group_id, "group_id")], fresh=True).get(
            str(group_id)
        )  # restored by whoever is told its id
        if row is None:
            return None
        return {
            "task_id": row.group_id,
            "result": result_from_tuple(self._decoded(row), self.app),
            "date_done": row.date_done and row.date_done.astimezone(self.app.timezone),
        }

    def _delete_group(self, group_id: Any) -> None:
        self.append(self.emitter.emit(kinds.GroupDeleted, named(group_id, "group_id")))


def _request_of(task_id: str, request: Any) -> Any:
    """Return the request of the task that the state is of: that of the one which runs here, if it says so of itself; None for another one,
    of which `update_state(task_id=...)` tells with its own request.
    """
    if request is None:
        request = getattr(get_current_task(), "request", None)
    told_by = id_of(getattr(request, "id", None))
    return request if told_by in {None, task_id} else None


def _moment_before(seconds: float | None) -> datetime | None:
    """Return the moment that many seconds ago; None for None and 0, which is how Celery writes never."""
    return datetime.now(UTC) - timedelta(seconds=float(seconds)) if seconds else None


def _make_group_result(group_id: str, sub_tasks: list[Any], app: Any) -> CeleryGroupResult:
    return result_from_tuple(((group_id, None), sub_tasks), app)


chord_counter.make_group_result = _make_group_result
