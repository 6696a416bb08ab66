"""What is handed to the broker: the fact `task-sent`, with all that it takes to send the task again.

Noted before the message leaves, because only then everything is known; recorded before it as well (`track_publish` is
`sync`), or once the broker has it (`buffered`): what could not be sent was not sent.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery._state import get_current_task
from celery.signals import after_task_publish, before_task_publish
from celery.utils.saferepr import saferepr
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.serialization import dumps
from kombu.utils import json

from celery_journal.consumers.notes import note_next_attempt
from celery_journal.consumers.request import as_bytes, attempt_from, encoded_arguments, id_of, parent_of
from celery_journal.consumers.routing import queue_for
from celery_journal.journal.events import TaskSent

from .apps import Recorder, recorder_of, sender_of

logger = logging.getLogger(__name__)

#: Headers that stand elsewhere in the fact.
_ELSEWHERE = {"id", "task", "argsrepr", "kwargsrepr"}


class _Noted(threading.local):
    """The message that this thread is about to send."""

    headers: Any = None
    recorder: Recorder | None = None
    message: Message | None = None


_noted = _Noted()


@before_task_publish.connect(weak=False, dispatch_uid="celery-journal-capture")
def _note(
    sender: Any = None,
    body: Any = None,
    exchange: Any = None,
    routing_key: Any = None,
    headers: Any = None,
    properties: Any = None,
    declare: Any = None,
    **_signal: Any,
) -> None:
    try:
        _noted.headers = _noted.recorder = _noted.message = None
        app = sender_of(sender, declare)
        recorder = None if app is None else recorder_of(app)
        if recorder is None:
            return
        _tell_the_retry(headers if isinstance(body, tuple) else body, app)
        if recorder.options.track_publish == "off":
            return
        message = Message.of(app, sender, body, headers, properties, exchange, routing_key, declare, recorder.options.store_arguments)
        if recorder.options.track_publish == "sync":
            recorder.append_at_least(message.sent(recorder))
        else:
            _noted.headers, _noted.recorder, _noted.message = headers, recorder, message
    except Exception:  # a message must never stay for what is recorded of it
        logger.exception("it could not be recorded that %s is sent", sender)


@after_task_publish.connect(weak=False, dispatch_uid="celery-journal-capture")
def _record(headers: Any = None, **_signal: Any) -> None:
    recorder, message = _noted.recorder, _noted.message
    if recorder is not None and message is not None and _noted.headers is headers:
        _noted.headers = _noted.recorder = _noted.message = None
        recorder.buffer.put(lambda: message.sent(recorder), may_wait=True)


def _tell_the_retry(facts: Mapping[str, Any], app: Any) -> None:
    """Tell a task that sends itself again when its next attempt is due: what is stored of the retry would not say."""
    request = getattr(get_current_task(), "request", None)
    if request is not None and request.id == facts.get("id") and (facts.get("retries") or 0) > (request.retries or 0):
        note_next_attempt(request, _moment(facts.get("eta"), app))


@dataclass(slots=True)
class Message:
    """A task's message on its way to the broker, as it was at that moment: its arguments may change afterwards."""

    app: Any
    task_id: str
    attempt: int
    occurred_at: datetime
    #: The headers of protocol 2, or what corresponds to them in the body of protocol 1.
    facts: Mapping[str, Any]
    headers: dict[str, Any]
    properties: dict[str, Any]
    parent_id: str | None
    #: The worker whose task sends it; None for anybody else.
    sent_by: str | None
    exchange: Any
    routing_key: Any
    queue: str | None
    arguments: dict[str, Any]
    #: The caller's own reprs of the arguments.
    given: tuple[str | None, str | None]
    embedded: tuple[bytes, str] | None

    @classmethod
    def of(
        cls,
        app: Any,
        name: str,
        body: Any,
        headers: Any,
        properties: Any,
        exchange: Any,
        routing_key: Any,
        declare: Any,
        with_arguments: bool,
    ) -> Message:
        """Return the message, its parts copied or encoded."""
        if isinstance(body, tuple):
            facts, (args, kwargs, embedded) = headers, body
        else:  # protocol 1
            facts, args, kwargs = {"task": name, **body}, body.get("args"), body.get("kwargs")
            embedded = {key: body.get(key) for key in ("callbacks", "errbacks", "chord")}
        given = _given(facts, args, kwargs, app) if with_arguments else (None, None)
        sender = getattr(get_current_task(), "request", None)
        return cls(
            app=app,
            task_id=str(facts["id"]),
            attempt=attempt_from(facts.get("retries")),
            occurred_at=datetime.now(UTC),
            facts=facts if facts is not headers else dict(headers),
            headers=dict(headers or {}),
            properties=dict(properties or {}),
            parent_id=parent_of(facts.get("parent_id"), facts["id"], sender),
            sent_by=getattr(sender, "hostname", None),
            exchange=exchange,
            routing_key=routing_key,
            queue=queue_for(app, exchange, routing_key, declare),
            arguments=encoded_arguments(args or (), kwargs, given, app) if with_arguments else {},
            given=given,
            embedded=_encoded(embedded, app) if with_arguments and any(embedded.values()) else None,
        )

    def sent(self, recorder: Recorder) -> TaskSent:
        """Return the fact."""
        facts, (embedded, embedded_content_type) = self.facts, self.embedded or (None, None)
        headers = {name: value for name, value in self.headers.items() if value is not None and name not in _ELSEWHERE}
        headers |= {name: given for name, given in zip(("argsrepr", "kwargsrepr"), self.given, strict=True) if given is not None}
        periodic = facts.get("periodic_task_name") or self.properties.get("periodic_task_name")
        limit, *_ = facts.get("timelimit") or (None,)
        return recorder.emitter.emit(
            TaskSent,
            self.task_id,
            attempt=self.attempt,
            occurred_at=self.occurred_at,
            source="signal",
            name=facts.get("task"),
            queue=self.queue,
            root_id=id_of(facts.get("root_id")),
            parent_id=self.parent_id,
            group_id=id_of(facts.get("group") or facts.get("taskset")),
            group_index=facts.get("group_index"),
            periodic_task_name=periodic if isinstance(periodic, str) else None,
            eta=_moment(facts.get("eta"), self.app),
            expires=_moment(facts.get("expires"), self.app),
            time_limit=limit,
            meta=_stamps(facts),
            message={
                "sent_by": self.sent_by,
                "exchange": getattr(self.exchange, "name", self.exchange),  # Celery gives the object where it delays a message
                "routing_key": self.routing_key,
                "headers": headers,
                "properties": {name: value for name, value in self.properties.items() if value is not None and value != ""},
            },
            embedded=embedded,
            embedded_content_type=embedded_content_type,
            **self.arguments,
        )


def _given(facts: Mapping[str, Any], args: Any, kwargs: Any, app: Any) -> tuple[str | None, str | None]:
    """Return the reprs that the caller gave, None where Celery made them: here, of these very objects."""
    amqp = app.amqp
    return (
        _unless_made(facts.get("argsrepr"), args, amqp.argsrepr_maxsize, app),
        _unless_made(facts.get("kwargsrepr"), kwargs, amqp.kwargsrepr_maxsize, app),
    )


def _unless_made(given: Any, value: Any, maxsize: int, app: Any) -> str | None:
    if not isinstance(given, str) or given == repr(value):  # that of most, and quicker than Celery's own
        return None
    return None if given == saferepr(value, maxsize, maxlevels=app.conf.get("task_repr_maxlevels", 3)) else given


def _encoded(embedded: Mapping[str, Any], app: Any) -> tuple[bytes, str]:
    """Return callbacks, chain and chord as the task's own serializer makes them, or else another; null if none can."""
    for serializer in (app.conf.task_serializer, "json"):
        try:
            content_type, _, encoded = dumps({name: value for name, value in embedded.items() if value}, serializer=serializer)
            if b"argsrepr" in as_bytes(encoded):  # of one of these the caller does not want the arguments to be seen
                _, _, encoded = dumps(_without_hidden(embedded), serializer=serializer)
            return as_bytes(encoded), content_type
        except Exception as exc:  # noqa: BLE001  a signature may hold anything
            logger.debug("%s does not take the callbacks of a task: %s", serializer, exc)
    return b"null", "application/json"  # there was something, which a replay must not leave out


def _without_hidden(given: Any) -> Any:
    """Return signatures without the arguments of those which the caller has given other reprs for."""
    if isinstance(given, list | tuple):
        return [_without_hidden(item) for item in given]
    if not isinstance(given, Mapping):
        return given
    kept = {name: _without_hidden(value) for name, value in given.items()}
    options = given.get("options")
    if isinstance(options, Mapping):
        kept |= {name: empty for name, empty in (("args", []), ("kwargs", {})) if f"{name}repr" in options}
    return kept


def _stamps(facts: Mapping[str, Any]) -> bytes | None:
    if not (stamps := facts.get("stamps")):
        return None
    try:
        return as_bytes(json.dumps({"children": [], "stamps": stamps, "stamped_headers": facts.get("stamped_headers")}))
    except (TypeError, ValueError):  # a stamp that JSON has no form for
        return None


def _moment(written: Any, app: Any) -> datetime | None:
    try:
        moment = maybe_iso8601(written)
        return None if moment is None else maybe_make_aware(moment, app.timezone)
    except (TypeError, ValueError, AttributeError, OverflowError):
        return None
