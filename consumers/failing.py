"""Ending what is lost as a failure, so that whoever waits for it hears of it: `WorkerLostError`, as Celery says it of a child that died."""

from __future__ import annotations

import logging
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.app.task import Context
from celery.canvas import maybe_signature
from celery.exceptions import ChordError
from kombu.serialization import loads

from celery_journal.journal.events import TaskEvent, TaskSent

from .backend import JournalBackend
from .backend.bodies import without_pickle
from .lost import Lost, still_lost, unsettled
from .notes import note_run

logger = logging.getLogger(__name__)


def fail_lost(backend: JournalBackend, lost: Lost) -> bool:
    """Make the task a FAILURE with its reason, or end the chord so; return whether that was done.

    One that has ended, was heard of since it was found, or is settled, is left alone. Chords hear of a part that fails, and error
    callbacks are called, if the app of the backend can reach its broker.
    """
    request = None if lost.body_of is not None else _request(backend, lost)
    # Last of all: meanwhile it may have gone on, or somebody else may have failed it.
    schema = backend.journal.schema
    if not backend.database.run(lambda connection: still_lost(connection, unsettled(connection, [lost], schema), schema)):
        return False
    if lost.body_of is not None:
        return backend.fail_chord(lost.body_of, lost.reason)
    backend.mark_as_failure(lost.task_id, WorkerLostError(lost.reason), request=request)
    return True


def _request(backend: JournalBackend, lost: Lost) -> Context:
    """Return the request of the run that was lost, as far as the log knows it."""
    task_id = lost.task_id or ""
    recorded = backend.database.run(lambda connection: backend.journal.read_stream(connection, task_id))
    events = [place.event for place in recorded if isinstance(place.event, TaskEvent)]
    group_id = _last(events, "group_id")
    embedded = _embedded(backend, events)
    if group_id is not None and not embedded.get("chord"):
        try:
            embedded["chord"] = backend.open_chord(group_id)
        except ChordError as exc:  # the sweep returns its part, and ends the chord with that
            logger.warning("a lost task is in a chord that will fail: %s", exc, extra={"task_id": task_id})
    request = Context(
        id=task_id,
        task=lost.name,
        retries=lost.attempt,
        hostname=lost.worker,
        group=group_id,
        group_index=_last(events, "group_index"),
        root_id=_last(events, "root_id"),
        parent_id=_last(events, "parent_id"),
        delivery_info={"routing_key": lost.queue},
        properties={},
        headers={},
        **{name: value for name, value in embedded.items() if name in {"callbacks", "errbacks", "chain", "chord"}},
    )
    note_run(request, lost.run)
    return request


def _embedded(backend: JournalBackend, events: list[TaskEvent]) -> dict[str, Any]:
    """Return the callbacks, the chain and the chord that came with the message; nothing where that is not known or not accepted."""
    sent = [event for event in events if isinstance(event, TaskSent) and event.embedded is not None]
    if not sent:
        return {}
    accept = without_pickle(backend.app.conf.accept_content)
    try:
        embedded = loads(sent[-1].embedded, content_type=sent[-1].embedded_content_type, content_encoding="utf-8", accept=accept)
    except Exception as exc:  # noqa: BLE001  what cannot be read must not keep the task from its end
        logger.warning("the callbacks of a lost task cannot be read: %s", exc, extra={"task_id": sent[-1].stream})
        return {}
    if not isinstance(embedded, dict):
        return {}
    if embedded.get("chord"):
        embedded["chord"] = maybe_signature(embedded["chord"], app=backend.app)
    return dict(embedded)


def _last(events: list[TaskEvent], name: str) -> Any:
    values: list[Any] = [value for event in events if (value := getattr(event, name)) is not None]
    return values[-1] if values else None
