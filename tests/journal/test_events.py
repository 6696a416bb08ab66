"""What an event is, before it is recorded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from pydantic import ValidationError

from celery_journal.journal.codec import build
from celery_journal.journal.events import KINDS, Event, TaskProgress, TaskSucceeded, UnknownEvent
from tests.strategies import events

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def fields(**others: Any) -> dict[str, Any]:
    return {"event_id": uuid4(), "stream": "task-1", "kind": "task-succeeded", "occurred_at": NOON, **others}


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"stream": ""}, id="no stream"),
        pytest.param({"stream": b"task-1"}, id="a stream of bytes"),
        pytest.param({"occurred_at": NOON.replace(tzinfo=None)}, id="a moment without a zone"),
        pytest.param({"attempt": -1}, id="an attempt before the first"),
        pytest.param({"attempt": 2**31}, id="an attempt beyond its column"),
        pytest.param({"schema_version": 0}, id="a version before the first"),
        pytest.param({"state": "FAILURE"}, id="a state of another kind"),
        pytest.param({"result": 7}, id="a result that is not encoded"),
    ],
)
def test_an_event_that_could_not_be_recorded_as_it_is_cannot_be_made(wrong: dict[str, Any]) -> None:
    """What an event must have is checked when it is made, not when it is recorded."""
    build(fields())  # right without what is wrong

    with pytest.raises(ValidationError) as refused:
        build(fields(**wrong))

    assert refused.value.error_count() == 1


def test_a_moment_is_kept_in_utc() -> None:
    """The emitter's zone changes nothing about when an event occurred."""
    moment = NOON.astimezone(timezone(timedelta(hours=5, minutes=45)))

    event = build(fields(occurred_at=moment))

    assert event.occurred_at == moment
    assert event.occurred_at.utcoffset() == timedelta(0)


def test_an_enum_of_texts_is_its_value() -> None:
    """A custom state may be a member of an enum, as Celery's serializers write it."""

    class State(str, Enum):  # noqa: UP042 - StrEnum is another class, whose str() is its value
        HALF = "HALF"

    event = build(fields(kind="task-progress", state=State.HALF))

    assert isinstance(event, TaskProgress)
    assert event.state == "HALF"
    assert type(event.state) is str


def test_an_event_cannot_be_changed() -> None:
    """A fact is a fact."""
    event = build(fields())

    with pytest.raises(ValidationError):
        event.stream = "task-2"  # type: ignore[misc]


def test_an_unknown_field_is_kept() -> None:
    """A field of a newer version, or of somebody else, is part of the event."""
    event = build(fields(mood="sunny"))

    assert type(event) is TaskSucceeded
    assert event.model_extra == {"mood": "sunny"}


def test_an_unknown_kind_is_an_event() -> None:
    """A kind of a newer version keeps all of its fields."""
    event = build(fields(kind="task-teleported", destination="moon"))

    assert type(event) is UnknownEvent
    assert event.kind == "task-teleported"
    assert event.model_extra == {"destination": "moon"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_built_as_its_model(kind: str) -> None:
    """Each kind that is known has a model of its own."""
    needed = {"state": "SUCCESS", "task_id": "task-2"} if kind in {"chord-part-returned", "task-witnessed"} else {}
    needed |= {"state": "PROGRESS"} if kind == "task-progress" else {}

    event = build({"event_id": uuid4(), "stream": "task-1", "kind": kind, "occurred_at": NOON, **needed})

    assert type(event) is KINDS[kind]
    assert event.kind == kind


@given(events())
def test_only_what_ends_nothing_is_relaxed(event: Event) -> None:
    """A crash of the server may lose that a task was received or runs, and nothing else of it."""
    relaxed = {"task-received", "task-started", "task-progress", "task-witnessed", "worker-heartbeat"}

    assert event.relaxed == (event.kind in relaxed)
