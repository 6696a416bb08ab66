"""The columns of a fact are what SQL and Python tell alike; and what cannot be read is shown as that."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_journal.journal.codec import COLUMNS, decode, encode, pack
from celery_journal.journal.emitter import Emitter
from celery_journal.journal.events import TaskFailed, TaskSucceeded, UnknownEvent, UnreadableEvent

NOW = datetime(2026, 3, 2, tzinfo=UTC)

LIE = {"kind": "task-failed", "state": "FAILURE", "worker": "innocent@host", "name": "other", "stream": "elsewhere", "attempt": 7}


def row(body: bytes | None = None, **columns: Any) -> dict[str, Any]:
    """Return a row of the log, as somebody may have written it."""
    given_columns = {
        "event_id": uuid4(),
        "occurred_at": NOW,
        "attempt": 0,
        "schema_version": 1,
        "stream": "two",
        "kind": "task-succeeded",
        "state": "SUCCESS",
        "worker": "w1@host",
    }
    place = {"transaction": 1, "position": 1, "recorded_at": NOW}
    return {**dict.fromkeys(COLUMNS), **given_columns, **columns, "body": body, **place}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(LIE, id="beside the columns"),
        pytest.param({"\0exact": LIE}, id="as if said exactly"),
        pytest.param({"\0exact": {"traceback": "boom", "pid": 9, "result": "x", "eta": "2026-01-01T00:00Z"}}, id="in empty columns"),
        pytest.param({"\0exact": {"worker": None, "state": None}}, id="nothing where something stands"),
        pytest.param({"\0exact": {"pid": "17", "time_limit": "5"}}, id="as another type"),
    ],
)
def test_a_body_never_contradicts_a_column(body: dict[str, Any]) -> None:
    """Whatever it says, Python tells what SQL tells."""
    event = decode(row(pack(body))).event

    assert isinstance(event, TaskSucceeded)
    told = (event.kind, event.state, event.worker, event.stream, event.attempt)
    assert told == ("task-succeeded", "SUCCESS", "w1@host", "two", 0)
    assert (event.traceback, event.pid, event.result, event.eta, event.time_limit, event.name) == (None,) * 6


def test_a_body_adds_what_has_no_column() -> None:
    """And somebody's own fields."""
    event = decode(row(pack({"request": {"priority": 3}, "mine": 1}))).event

    assert isinstance(event, TaskSucceeded)
    assert (event.request, event.model_extra) == ({"priority": 3}, {"mine": 1})


def test_a_body_refines_what_a_column_cannot_hold() -> None:
    """An exact text, and a number that is too large."""
    event = Emitter().emit(TaskFailed, "a\0b", traceback="x\udcff", pid=2**40)

    assert decode({**encode(event), "transaction": 1, "position": 1, "recorded_at": NOW}).event == event


def test_members_of_a_kind_that_has_them_are_not_said_in_a_body() -> None:
    """Where SQL says that there are none."""
    event = decode(row(pack({"\0exact": {"members": ["forged"]}}), kind="group-saved", state=None)).event

    assert getattr(event, "members", None) is None


@pytest.mark.parametrize(
    ("columns", "body", "why"),
    [
        pytest.param({}, b"\xc1", "", id="no msgpack"),
        pytest.param({}, b"", "", id="empty"),
        pytest.param({}, msgpack.packb([1]), "its body is no mapping", id="a list"),
        pytest.param({}, msgpack.packb({"\0exact": 3}), "its body is no mapping", id="nothing exact"),
        pytest.param({}, msgpack.packb({1: 2}), "", id="names that are no texts"),
        pytest.param({"kind": "task-sent", "state": "PENDING"}, msgpack.packb({"message": 5}), "message: ", id="wrong type"),
        pytest.param({}, b"\x91" * 5000 + b"\xc0", "", id="deep"),
        pytest.param({"state": "FAILURE"}, None, "state: ", id="state of another kind"),
        pytest.param({"schema_version": -1}, None, "schema_version: ", id="version below one"),
        pytest.param({"schema_version": 9, "state": "NEW"}, None, "it is of version 9, and this package knows 1", id="future version"),
        pytest.param({"kind": "audit-noted"}, b"\xc1", "", id="unknown kind"),
    ],
)
def test_a_fact_that_cannot_be_read_is_shown_as_one(columns: dict[str, Any], body: bytes | None, why: str) -> None:
    """With its columns, and the reason."""
    event = decode(row(body, **columns)).event

    assert isinstance(event, UnreadableEvent)
    assert event.unreadable.startswith(why)
    assert event.unreadable
    assert (event.stream, event.occurred_at, getattr(event, "worker", None)) == ("two", NOW, "w1@host")
    assert event.kind == columns.get("kind", "task-succeeded")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40), st.sampled_from(["task-sent", "task-succeeded", "group-saved", "operator-acted", "nobody-knows"]))
def test_no_body_keeps_a_row_from_being_read(body: bytes, kind: str) -> None:
    """Any bytes."""
    event = decode(row(body, kind=kind)).event

    assert (event.stream, event.kind) == ("two", kind)


def test_an_unknown_kind_is_no_unreadable_one() -> None:
    """It survives, as ever."""
    assert type(decode(row(pack({"mine": 1}), kind="audit-noted")).event) is UnknownEvent
