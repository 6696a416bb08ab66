"""Tasks that end without Celery telling a chord of it: the worker does not know them, they reject their message, or they expire."""

from __future__ import annotations

from typing import Any

from celery import VERSION, states
from celery.app.task import Context
from celery.exceptions import NotRegistered, Reject
from celery.signals import before_task_publish, task_postrun, task_unknown

from celery_journal.consumers.request import attempt_of

from .chords import Chords
from .members import members_of


@task_unknown.connect(weak=False, dispatch_uid="celery-journal-endings")
def _fail_unknown(sender: Any, message: Any, name: str, id: str, **_signal: Any) -> None:  # noqa: A002  Celery's own names
    """End a task that the worker does not know: what Celery itself stores of it says nothing of a chord, nor of an attempt."""
    backend = sender.app.backend
    if isinstance(backend, Chords):
        _, _, embedded = message.payload
        request = Context({**message.headers, **embedded, "id": id})
        if attempt_of(request):  # Celery does not say which attempt has failed, and the first one's failure ends no later one
            backend.store_result(id, NotRegistered(name), states.FAILURE, request=request)
        backend.return_parts(request, states.FAILURE, NotRegistered(name))


@task_postrun.connect(weak=False, dispatch_uid="celery-journal-endings")
def _fail_rejected(sender: Any, task_id: str, retval: Any = None, state: str | None = None, **_signal: Any) -> None:
    """Fail a task that rejects its message for good, as Celery does from 5.7 on. Where it asks to be queued again, it will be:
    unless its message is acknowledged by now, as it is before a task that does not acknowledge late.
    """
    backend = sender.backend
    if state != states.REJECTED or not isinstance(retval, Reject) or not isinstance(backend, Chords):
        return
    ends = not sender.acks_late if retval.requeue else VERSION < (5, 7)
    if ends:
        stored = not sender.request.ignore_result or sender.store_errors_even_if_ignored
        backend.mark_as_failure(task_id, retval, request=sender.request, store_result=stored)


@before_task_publish.connect(weak=False, dispatch_uid="celery-journal-endings")
def _deliver_expired(body: Any, properties: Any = None, **_signal: Any) -> None:
    """Let the worker discard a member that has expired, which ends the chord: RabbitMQ would drop the message, and nobody hears of it."""
    if not isinstance(properties, dict) or properties.get("expiration") is None or not isinstance(body, tuple):
        return
    _, _, embedded = body
    if embedded.get("chord") or any(True for task in embedded.get("chain") or () for _ in members_of(task)):
        del properties["expiration"]
