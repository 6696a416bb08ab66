"""The models of the rows: their fields by the names that people know, and what is made of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from celery_journal.journal import Connection, Emitter, Journal
from celery_journal.journal.events import ChordStarted, Event, GroupSaved, TaskSucceeded
from celery_journal.projections import ChordCounter, GroupResult, TaskResult

#: The fields of django-celery-results.
TASK_FIELDS = {
    "task_id",
    "task_name",
    "periodic_task_name",
    "task_args",
    "task_kwargs",
    "worker",
    "status",
    "result",
    "traceback",
    "meta",
    "content_type",
    "content_encoding",
    "date_created",
    "date_started",
    "date_done",
}
GROUP_FIELDS = {"group_id", "result", "content_type", "content_encoding", "date_created", "date_done"}

AT = datetime(2026, 1, 1, tzinfo=UTC)


def append(connection: Connection, kind: type[Event], stream: str, **fields: Any) -> None:
    Journal().append(connection, Emitter().emit(kind, stream, occurred_at=AT, **fields))


def test_a_task_has_every_field_that_people_know(connection: Connection) -> None:
    """M01, M12, M13, M18: `as_dict()` has them all, and encoded data as text."""
    encoded: dict[str, Any] = {"result": b'{"total": 5}', "content_type": "application/json", "content_encoding": "utf-8"}
    append(connection, TaskSucceeded, "t", name="shop.add", args=b"[1]", kwargs=b'{"a": 2}', worker="w1", **encoded)

    task = TaskResult.get(connection, "t")

    told = task.as_dict()
    assert told.keys() >= TASK_FIELDS
    assert (told["content_type"], told["content_encoding"], told["result"]) == ("application/json", "utf-8", '{"total": 5}')
    assert (told["task_args"], told["task_kwargs"], told["date_done"]) == ("[1]", '{"a": 2}', AT)


def test_a_binary_result_is_told_in_base64(connection: Connection) -> None:
    """M12, M13: its bytes are in the model as they are."""
    encoded: dict[str, Any] = {"result": b"\x80\x04K\x01.", "content_type": "application/x-python-serialize", "content_encoding": "binary"}
    append(connection, TaskSucceeded, "t", **encoded)

    task = TaskResult.get(connection, "t")

    assert (task.result, task.content_encoding, task.as_dict()["result"]) == (b"\x80\x04K\x01.", "binary", "gARLAS4=")


def test_rows_say_what_they_are(connection: Connection) -> None:
    """M19, M35: with the id, and a task with its status."""
    append(connection, TaskSucceeded, "t")
    append(connection, GroupSaved, "g")

    assert str(TaskResult.get(connection, "t")) == "<Task: t (SUCCESS)>"
    assert str(GroupResult.get(connection, "g")) == "<Group: g>"


def test_rows_cannot_be_changed(connection: Connection) -> None:
    """M76: what has happened is changed by nobody; a note about it is a fact of its own."""
    append(connection, TaskSucceeded, "t")

    with pytest.raises(ValidationError, match="frozen"):
        TaskResult.get(connection, "t").status = "FAILURE"  # type: ignore[misc]


def test_a_group_has_every_field_that_people_know(connection: Connection) -> None:
    """M29, M30, M34: `as_dict()` has them all."""
    encoded: dict[str, Any] = {"result": b'[["g", null], []]', "content_type": "application/json", "content_encoding": "utf-8"}
    append(connection, GroupSaved, "g", members=(), **encoded)

    told = GroupResult.get(connection, "g").as_dict()

    assert told.keys() >= GROUP_FIELDS
    assert (told["content_type"], told["content_encoding"], told["result"]) == ("application/json", "utf-8", '[["g", null], []]')


def test_a_chord_is_known_by_its_group(connection: Connection) -> None:
    """M40: with the results of its header as JSON text."""
    append(connection, ChordStarted, "g", size=2, result=b'[[["a", null], null], [["b", null], null]]')

    chord = ChordCounter.get(connection, "g")

    assert (chord.group_id, chord.count) == ("g", 2)
    assert json.loads(chord.sub_tasks or "") == [[["a", None], None], [["b", None], None]]
