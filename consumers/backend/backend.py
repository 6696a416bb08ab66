"""The result backend: every state is an event, and what Celery reads are the views."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import states
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import GroupResult as CeleryGroupResult
from celery.result import result_from_tuple
from kombu.serialization import loads
from kombu.utils import json

from celery_journal.consumers.expiry import expire
from celery_journal.journal import events as kinds
from celery_journal.projections import GroupResult, TaskResult, chord_counter

from . import sweeper  # noqa: F401  connects to the signals of the worker
from .chords import Chords
from .request import attempt_of, facts_of

#: The kind of event that each of Celery's states is; any other state is a task-progress.
KIND_OF_STATE: dict[str, type[kinds.TaskEvent]] = {
    states.RECEIVED: kinds.TaskReceived,
    states.STARTED: kinds.TaskStarted,
    states.RETRY: kinds.TaskRetried,
    states.REJECTED: kinds.TaskRejected,
    states.REVOKED: kinds.TaskRevoked,
    states.FAILURE: kinds.TaskFailed,
    states.SUCCESS: kinds.TaskSucceeded,
    states.IGNORED: kinds.TaskIgnored,
}

#: Seconds between two reads of somebody who waits for a result.
POLL_INTERVAL = 0.02


class JournalBackend(Chords):
    """A result backend that appends every transition to the journal.

    One instance serves all threads of a process and survives forks; connections are opened on first use.
    """

    supports_native_join = True
    supports_autoexpire = False
    supports_result_compression = True
    persistent = True

    #: The models of the rows it reads.
    TaskModel = TaskResult
    GroupModel = GroupResult

    # Writing

    def _store_result(self, task_id: Any, result: Any, state: str, traceback: Any = None, request: Any = None, **_kwargs: Any) -> Any:
        self.append(self._event_of(str(task_id), result, state, traceback, request))
        return result

    def _event_of(self, task_id: str, result: Any, state: str, traceback: Any, request: Any) -> kinds.TaskEvent:
        fields = facts_of(
            request,
            self.app,
            self.current_task_children(request) if request is not None else None,
            with_arguments=self.options.store_arguments,
        )
        kind = KIND_OF_STATE.get(state, kinds.TaskProgress)
        if kind is kinds.TaskProgress:
            fields["state"] = state
        if "traceback" in kind.model_fields:
            fields["traceback"] = None if traceback is None else str(traceback)
        return self.emitter.emit(kind, task_id, attempt=attempt_of(request), **self._encoded(result), **fields)

    def _forget(self, task_id: Any) -> None:
        self.append(self.emitter.emit(kinds.TaskForgotten, str(task_id)))

    def cleanup(self) -> None:
        """Expire results, saved groups and finished chords that are older than `result_expires`; None or 0 is never."""
        if self.expires:
            before = datetime.now(UTC) - timedelta(seconds=float(self.expires))
            self.database.run(lambda connection: expire(connection, self.journal, self.emitter, before))

    # Reading

    def _get_task_meta_for(self, task_id: Any) -> dict[str, Any]:
        task_id = str(task_id)
        return self._meta_of(task_id, self._rows(self.TaskModel, [task_id]).get(task_id))

    def _meta_of(self, task_id: str, row: TaskResult | None) -> dict[str, Any]:
        if row is None:
            return {"task_id": task_id, "status": states.PENDING, "result": None, "traceback": None, "children": []}
        more = json.loads(row.meta) if row.meta else {}
        meta: dict[str, Any] = {
            "task_id": task_id,
            "status": row.status,
            "result": self._decoded(row),
            "traceback": row.traceback,
            "children": more.get("children") or [],
            "date_done": row.date_done and row.date_done.astimezone(self.app.timezone),
        }
        if row.group_id:
            meta["group_id"] = row.group_id
        if row.parent_id:
            meta["parent_id"] = row.parent_id
        if self.app.conf.find_value_for_key("extended", "result"):
            # First the stamps, so that one called `status` cannot stand for the status.
            extended = {
                "name": row.task_name,
                "args": self._decoded_arguments(row, row.args),
                "kwargs": self._decoded_arguments(row, row.kwargs),
                "worker": row.worker,
                "retries": row.retries,
                "queue": row.queue,
            }
            if stamps := more.get("stamps"):
                extended["stamped_headers"] = more.get("stamped_headers")
            meta = {**(stamps or {}), **extended, **meta}
        decoded: dict[str, Any] = self.meta_from_decoded(meta)
        return decoded

    def _decoded_arguments(self, row: TaskResult, encoded: bytes | None) -> Any:
        if encoded is None:
            return None
        if row.args_content_type is None:
            return json.loads(encoded)
        return loads(encoded, content_type=row.args_content_type, content_encoding="utf-8", accept=self.accept)

    def task_result_exists(self, task_id: Any) -> bool:
        """Return whether the journal knows the task: true for one that is queued, false for an unknown id."""
        return str(task_id) in self._rows(self.TaskModel, [str(task_id)])

    def get_many(
        self,
        task_ids: Iterable[Any],
        timeout: float | None = None,
        interval: float | None = None,
        no_ack: bool = True,  # noqa: ARG002  Celery hands it to every backend
        on_message: Callable[[dict[str, Any]], object] | None = None,
        on_interval: Callable[[], object] | None = None,
        max_iterations: int | None = None,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (id, meta) of each task as it becomes ready, with one query for all that are missing."""
        waiting = {str(task_id) for task_id in task_ids}
        for task_id in list(waiting):
            if (cached := self._cache.get(task_id)) is not None and cached["status"] in self.READY_STATES:
                waiting.discard(task_id)
                yield task_id, cached
        deadline = None if timeout is None else time.monotonic() + timeout
        iterations = 0
        while waiting:
            for task_id, row in self._rows(self.TaskModel, waiting).items():
                if row.status in self.READY_STATES:
                    meta = self._meta_of(task_id, row)
                    waiting.discard(task_id)
                    if meta["status"] == states.SUCCESS:
                        self._cache[task_id] = meta
                    if on_message is not None:
                        on_message(meta)
                    yield task_id, meta
            iterations += 1
            if not waiting or (max_iterations is not None and iterations >= max_iterations):
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise CeleryTimeoutError(f"Operation timed out ({timeout})")
            if on_interval is not None:
                on_interval()
            time.sleep(_poll_interval(interval))

    def wait_for(self, task_id: Any, timeout: float | None = None, interval: float | None = None, **kwargs: Any) -> Any:
        """Return the meta of the task when it is ready; raise celery.exceptions.TimeoutError after `timeout` seconds."""
        return super().wait_for(task_id, timeout=timeout, interval=_poll_interval(interval), **kwargs)

    # Groups

    def _save_group(self, group_id: Any, result: CeleryGroupResult) -> CeleryGroupResult:
        members = tuple(dict.fromkeys(_leaves(result)))
        self.append(self.emitter.emit(kinds.GroupSaved, str(group_id), members=members, **self._encoded(result.as_tuple())))
        return result

    def _restore_group(self, group_id: Any) -> dict[str, Any] | None:
        row = self._rows(self.GroupModel, [str(group_id)]).get(str(group_id))
        if row is None:
            return None
        return {
            "task_id": row.group_id,
            "result": result_from_tuple(self._decoded(row), self.app),
            "date_done": row.date_done and row.date_done.astimezone(self.app.timezone),
        }

    def _delete_group(self, group_id: Any) -> None:
        self.append(self.emitter.emit(kinds.GroupDeleted, str(group_id)))


def _poll_interval(interval: float | None) -> float:
    return POLL_INTERVAL if interval is None else min(interval, POLL_INTERVAL)


def _leaves(result: Any) -> Iterator[str]:
    """Yield the ids of the tasks of a group, those of nested groups included."""
    for child in result.results:
        if isinstance(child, CeleryGroupResult):
            yield from _leaves(child)
        else:
            yield child.id


def _make_group_result(group_id: str, sub_tasks: list[Any], app: Any) -> CeleryGroupResult:
    return result_from_tuple(((group_id, None), sub_tasks), app)


chord_counter.make_group_result = _make_group_result
