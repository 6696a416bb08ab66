"""What a worker knows of its tasks and stores nowhere: received, started, retried and rejected without a result."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from celery import states
from celery.exceptions import Ignore, Reject
from celery.signals import task_postrun, task_prerun, task_received, task_rejected, task_retry, task_unknown, worker_process_shutdown

from celery_journal.consumers.notes import begin_run, has_told, note_followed, told_by
from celery_journal.consumers.request import (
    ACKNOWLEDGES_LATE,
    NOT_REGISTERED,
    REJECTED_FOR_GOOD,
    attempt_from,
    attempt_of,
    facts_of,
    queue_of,
)
from celery_journal.consumers.routing import name_of
from celery_journal.journal import events as kinds

from .apps import Recorder, recorder_of
from .buffer import close_all

try:
    from celery.app.trace import get_actual_ignore_result
except ImportError:  # before Celery 5.6 the task alone says whether its starts and errors are stored

    def get_actual_ignore_result(task: Any, req: Any) -> Any:  # noqa: ARG001  Celery's signature
        """Return whether the result of the task is ignored."""
        return task.ignore_result


logger = logging.getLogger(__name__)

#: What Celery says when another task takes the place of one: that one goes on under the same id.
_REPLACED = "Replaced by new task"


def _harmless(handler: Callable[..., None]) -> Callable[..., None]:
    """Have the handler raise nothing into the worker."""

    @wraps(handler)
    def handle(**signal: Any) -> None:
        try:
            handler(**signal)
        except Exception:
            logger.exception("what a signal told could not be recorded")

    return handle


def _connect(signal: Any, handler: Callable[..., None]) -> None:
    signal.connect(_harmless(handler), weak=False, dispatch_uid=f"celery-journal-capture-{handler.__name__}")


def _received(sender: Any, request: Any, **_signal: Any) -> None:
    if (recorder := recorder_of(sender.app)) is None:
        return
    begin_run(request, _queue_of(sender, getattr(request, "message", None)))
    moment = datetime.now(UTC)
    default = getattr(getattr(sender, "controller", None), "time_limit", None)
    recorder.buffer.put(lambda: _receipt(recorder, request, moment, default), may_wait=False)


def _queue_of(consumer: Any, message: Any) -> str | None:
    """Return the queue that a worker has the message from, by the tag of its consumer; None with brokers that give no tags."""
    tag = (getattr(message, "delivery_info", None) or {}).get("consumer_tag")
    tags = getattr(getattr(consumer, "task_consumer", None), "_active_tags", None)  # the name of each queue, and its tag
    if tag is None or not isinstance(tags, dict):
        return None
    queue = next((queue for queue, its_tag in list(tags.items()) if its_tag == tag), None)
    known = consumer.app.amqp.queues.consume_from.get(queue)
    return queue if known is None else name_of(known)


def _receipt(recorder: Recorder, request: Any, moment: datetime, default_limit: float | None) -> kinds.TaskReceived:
    facts = facts_of(request, recorder.app, None, with_arguments=False)
    limit = request.time_limits[0] or getattr(request.task, "time_limit", None) or default_limit
    return recorder.emitter.emit(
        kinds.TaskReceived,
        str(request.id),
        attempt=attempt_from(request.request_dict.get("retries")),
        occurred_at=moment,
        source="signal",
        eta=request.eta,
        expires=request.expires,
        time_limit=limit,
        **{**facts, "name": request.type, "pid": os.getpid()},
    )


def _started(sender: Any, task_id: str, **_signal: Any) -> None:
    """Tell of a start, unless the result backend will, which is called right after this."""
    request = sender.request
    if getattr(request, "is_eager", False) or request.called_directly or (recorder := recorder_of(sender.app)) is None:
        return
    if sender.track_started and not get_actual_ignore_result(sender, request):
        return
    facts = facts_of(request, sender.app, None, with_arguments=recorder.options.store_arguments)
    _tell(recorder, kinds.TaskStarted, task_id, request, {**facts, "reason": ACKNOWLEDGES_LATE if sender.acks_late else None})


def _retried(sender: Any, request: Any, reason: Any = None, einfo: Any = None, **_signal: Any) -> None:
    """Tell of a retry that is not stored, because the task's results are ignored."""
    recorder = recorder_of(sender.app)
    if recorder is None or not recorder.options.journal_ignored or einfo is None:
        return
    if getattr(request, "is_eager", False):
        if has_told(request):
            note_followed(request)
        return
    if get_actual_ignore_result(sender, request) and not sender.store_errors_even_if_ignored:
        sender.backend.store_result(request.id, reason.exc, states.RETRY, traceback=einfo.traceback, request=request)


def _ended_without_a_result(sender: Any, task_id: str, retval: Any = None, state: str | None = None, **_signal: Any) -> None:
    """Tell of a task that rejects its message, that replaces itself, or that ends without a result and has stored none itself."""
    request = sender.request
    if _is_unseen(request) or request.called_directly or (recorder := recorder_of(sender.app)) is None:
        return
    facts = facts_of(request, sender.app, None, with_arguments=False)
    if state == states.REJECTED and isinstance(retval, Reject):
        reason = "queued again" if retval.requeue else "for good" if sender.acks_late else REJECTED_FOR_GOOD
        _tell(recorder, kinds.TaskRejected, task_id, request, {**facts, "reason": f"{reason}: {retval.reason!r}"})
    elif state == states.IGNORED and isinstance(retval, Ignore) and str(retval) == _REPLACED:
        _tell(recorder, kinds.TaskReplaced, task_id, request, facts)
    elif state == states.IGNORED and isinstance(retval, Ignore):
        told = told_by(request)
        if told is None or isinstance(told, kinds.TaskProgress):  # else it has told of its end itself
            kept = {} if told is None else told.model_dump(include={"state", "result", "content_type", "content_encoding"})
            _tell(recorder, kinds.TaskIgnored, task_id, request, {**facts, "reason": str(retval) or None, **kept})


def _is_unseen(request: Any) -> bool:
    """Return whether nobody waits to hear of the run's end: it is eager, and has told of no progress either."""
    return getattr(request, "is_eager", False) and not has_told(request)


def _tell(recorder: Recorder, kind: type[kinds.TaskEvent], task_id: str, request: Any, facts: dict[str, Any]) -> None:
    moment, attempt = datetime.now(UTC), attempt_of(request)
    recorder.buffer.put(
        lambda: recorder.emitter.emit(kind, str(task_id), attempt=attempt, occurred_at=moment, source="signal", **facts), may_wait=False
    )


def _undecodable(sender: Any, message: Any, exc: Any = None, **_signal: Any) -> None:
    """Tell of a message that the worker cannot make a task of, if it says whose it is."""
    _turn_away(sender, message, repr(exc))


def _unknown(sender: Any, message: Any, name: str, **_signal: Any) -> None:
    """Tell who did not know the task: what Celery stores of it, a failure, does not say."""
    _turn_away(sender, message, f"{name} {NOT_REGISTERED}")


def _turn_away(consumer: Any, message: Any, reason: str) -> None:
    recorder, headers = recorder_of(consumer.app), getattr(message, "headers", None) or {}
    if recorder is None or not isinstance(headers.get("id"), str):
        return
    moment = datetime.now(UTC)
    queue = _queue_of(consumer, message) or queue_of(message, consumer.app)
    fields = {"name": headers.get("task"), "worker": consumer.hostname, "pid": os.getpid(), "queue": queue, "reason": reason}
    recorder.buffer.put(
        lambda: recorder.emitter.emit(
            kinds.TaskRejected, headers["id"], attempt=attempt_from(headers.get("retries")), occurred_at=moment, source="signal", **fields
        ),
        may_wait=False,
    )


def _leave(**_signal: Any) -> None:
    close_all()  # a child of the pool ends without Python's own exit


_connect(task_received, _received)
_connect(task_prerun, _started)
_connect(task_retry, _retried)
_connect(task_postrun, _ended_without_a_result)
_connect(task_rejected, _undecodable)
_connect(task_unknown, _unknown)
_connect(worker_process_shutdown, _leave)
