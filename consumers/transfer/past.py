"""What another result backend knows of tasks and groups, and the facts that the journal makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from celery import states
from kombu.exceptions import ContentDisallowed
from kombu.serialization import dumps, prepare_accept_content, registry
from kombu.utils import json

from celery_journal.consumers.payloads import opened
from celery_journal.consumers.request import as_bytes
from celery_journal.journal.codec import DEFAULT_MAX_PAYLOAD_BYTES
from celery_journal.journal.emitter import identify
from celery_journal.journal.errors import JournalError
from celery_journal.journal.events import KIND_OF_STATE, Encoded, Event, GroupSaved, TaskEvent, TaskProgress, TaskSent, TaskStarted
from celery_journal.projections.storing import members_of

#: Said of a row or a key, with what went wrong.
NOT_OURS = "it is not what Celery stores: {}"

#: Said of a chord that has not ended: only the backend that counts its parts can send its body.
OPEN_CHORD = "its chord is open; let the old workers end it before they stop, or its body is never sent"


class ForeignError(JournalError, ValueError):
    """The other result backend cannot be read; the text is one sentence that says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastTask:
    """A task as another result backend has it; what that does not know is None."""

    task_id: str
    status: str
    #: When the status was stored, and when the task began.
    date_done: datetime | None
    date_started: datetime | None = None
    #: When its row was made: kept beside the facts, because backends differ in what they mean by that.
    date_created: datetime | None = None
    name: str | None = None
    periodic_task_name: str | None = None
    worker: str | None = None
    queue: str | None = None
    retries: int = 0
    parent_id: str | None = None
    group_id: str | None = None
    args: bytes | None = None
    kwargs: bytes | None = None
    args_content_type: str | None = None
    result: bytes | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    traceback: str | None = None
    meta: bytes | None = None

    def facts(self, source: str) -> list[TaskEvent]:
        """Return what the journal records of it; nothing where no date is known. The same task has the same facts every time."""
        moment = self.date_done or self.date_created or self.date_started
        if moment is None:
            return []
        told: dict[str, Any] = {
            "attempt": self.retries,
            "source": source,
            "name": self.name,
            "periodic_task_name": self.periodic_task_name,
            "worker": self.worker,
            "queue": self.queue,
            "parent_id": self.parent_id,
            "group_id": self.group_id,
            "args": self.args,
            "kwargs": self.kwargs,
            "args_content_type": self.args_content_type,
            "request": None if self.date_created is None else {"date_created": self.date_created},
        }
        facts: list[TaskEvent] = []
        if self.date_started is not None and self.status not in {states.PENDING, states.RECEIVED, states.STARTED}:
            facts.append(_fact(TaskStarted, self.task_id, self.date_started, **told))
        kind = KIND_OF_STATE.get(self.status, TaskProgress)
        if kind is TaskProgress:
            told["state"] = self.status
        if issubclass(kind, Encoded):
            told |= {"result": self.result, "content_type": self.content_type, "content_encoding": self.content_encoding}
        if "traceback" in kind.model_fields:
            told["traceback"] = self.traceback
        told["meta"] = self.meta
        at = moment if kind is not TaskSent else self.date_created or moment
        at = self.date_started if kind is TaskStarted and self.date_started else at
        facts.append(_fact(kind, self.task_id, at, **told))
        return facts


@dataclass(frozen=True, slots=True, kw_only=True)
class PastGroup:
    """A group that `GroupResult.save()` stored."""

    group_id: str
    date_saved: datetime | None
    #: The encoded `as_tuple()`, and the ids of its tasks.
    result: bytes
    content_type: str
    content_encoding: str
    members: tuple[str, ...]

    def facts(self, source: str) -> list[GroupSaved]:
        """Return what the journal records of it. One without a date is saved now: were it older, it might expire at once."""
        encoded: dict[str, Any] = {
            "result": self.result,
            "content_type": self.content_type,
            "content_encoding": self.content_encoding,
            "members": self.members,
        }
        return [_fact(GroupSaved, self.group_id, self.date_saved or datetime.now(UTC), source=source, **encoded)]


@dataclass(frozen=True, slots=True)
class Untaken:
    """What cannot be taken over."""

    id: str
    #: In words.
    why: str


Past = PastTask | PastGroup | Untaken


@dataclass(frozen=True, slots=True)
class Decoder:
    """Reads what the other backend's serializer has made, as far as the user trusts whoever could write it."""

    #: As Celery's accept_content has it.
    accept: frozenset[str] = frozenset({"json"})

    def loads(self, payload: str | bytes, content_type: str, content_encoding: str | None = "utf-8") -> Any:
        """Return the value; raise ForeignError, in one sentence, where that is not accepted or does not work."""
        try:
            accepted = prepare_accept_content(self.accept)
            return opened(payload, content_type, content_encoding or "utf-8", accepted, DEFAULT_MAX_PAYLOAD_BYTES)
        except ContentDisallowed as exc:
            name = registry.type_to_name.get(content_type, content_type)
            raise ForeignError(f"it is {name}: say --accept {name}, if you trust whoever could write there") from exc
        except Exception as exc:
            raise ForeignError(f"it cannot be read: {type(exc).__name__}: {str(exc).partition(chr(10))[0]}") from exc


def encoded(value: Any) -> tuple[bytes, str, str]:
    """Return the value as JSON, or as a pickle where JSON has no form for it, with content type and encoding."""
    try:
        return as_bytes(json.dumps(value)), "application/json", "utf-8"
    except (TypeError, ValueError):
        content_type, content_encoding, payload = dumps(value, serializer="pickle")
        return as_bytes(payload), content_type, content_encoding


def encoded_arguments(args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments, as far as they are known, as one serializer makes both, with its content type unless that is JSON."""
    given = {name: value for name, value in (("args", args), ("kwargs", kwargs)) if value is not None}
    try:
        return {name: as_bytes(json.dumps(value)) for name, value in given.items()}
    except (TypeError, ValueError):
        pickled = {name: as_bytes(dumps(value, serializer="pickle")[2]) for name, value in given.items()}
        return {**pickled, "args_content_type": registry.name_to_type["pickle"]}


def group_of(group_id: str, as_tuple: Any, date_saved: datetime | None) -> PastGroup:
    """Return the group of its `as_tuple()`; raise ValueError if that is none."""
    result = as_bytes(json.dumps(as_tuple))
    if (members := members_of(result)) is None:
        raise ValueError("that is no group")
    return PastGroup(
        group_id=group_id,
        date_saved=date_saved,
        result=result,
        content_type="application/json",
        content_encoding="utf-8",
        members=members,
    )


def in_zone(moment: datetime | None, zone: tzinfo = UTC) -> datetime | None:
    """Return the moment with its time zone: one that was stored without is in that of the backend which stored it."""
    return moment.replace(tzinfo=zone) if moment is not None and moment.tzinfo is None else moment


def as_meta(children: Any, stamps: Mapping[str, Any] | None = None) -> bytes | None:
    """Return children and stamps as an event keeps them; None where there are none."""
    if not children and not stamps:
        return None
    more = {"stamps": dict(stamps), "stamped_headers": list(stamps)} if stamps else {}
    return as_bytes(json.dumps({"children": children or [], **more}))


def _fact(kind: type[Event], stream: str, occurred_at: datetime, *, attempt: int = 0, source: str, **fields: Any) -> Any:
    event_id = identify(occurred_at, stream, kind.model_fields["kind"].default, attempt, source, 0)
    return kind(event_id=event_id, stream=stream, attempt=attempt, occurred_at=occurred_at, source=source, **fields)
