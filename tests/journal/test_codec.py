"""Events become rows and come back, whatever is in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID, uuid4

import msgpack
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from celery_journal import sql
from celery_journal.journal import Connection, Emitter, Journal, PayloadTooLarge
from celery_journal.journal.codec import TEXT_COLUMNS, Row, decode, encode, escape, pack, unpack
from celery_journal.journal.events import KINDS, ChordStarted, Event, TaskFailed, TaskSent, TaskSucceeded, UnknownEvent
from tests.strategies import events, events_of, payloads, texts, unknown_events


def recorded(row: Row) -> dict[str, Any]:
    """Return the row as the database would."""
    return {**row, "transaction": 7, "position": 3, "recorded_at": datetime(2026, 3, 2, tzinfo=UTC)}


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_of_every_kind_comes_back_as_it_was(kind: str) -> None:
    """Encoding and decoding an event of a known kind loses nothing of it."""

    @settings(max_examples=15)
    @given(events_of(KINDS[kind]))
    def comes_back(event: Event) -> None:
        assert decode(recorded(encode(event))).event == event

    comes_back()


@given(unknown_events())
def test_an_event_of_an_unknown_kind_comes_back_as_it_was(event: Event) -> None:
    """Encoding and decoding an event of a kind that nobody knows here loses nothing of it."""
    row = recorded(encode(event))

    decoded = decode(row).event

    assert type(decoded) is UnknownEvent
    assert decoded == event


@given(events())
def test_what_was_read_is_recorded_the_same_again(event: Event) -> None:
    """An event that was read from one log and is appended to another, or again, is no other fact."""
    row = encode(event)

    again = encode(decode(recorded(row)).event)

    assert again == row


@given(events())
def test_text_columns_hold_what_postgresql_can_hold(event: Event) -> None:
    """No NUL and no lone surrogate gets into a text column."""
    row = encode(event)

    held = [row[column] for column in TEXT_COLUMNS if row[column] is not None] + (row["members"] or [])

    assert all("\0" not in text and text.encode("utf-8") for text in held if text)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        pytest.param("a\0b", "a\\x00b", id="NUL"),
        pytest.param("a\udcffb", "a\\udcffb", id="lone surrogate"),
        pytest.param("ä\0", "ä\\x00", id="NUL beside an umlaut"),
        pytest.param("a\\x00b", "a\\x00b", id="what an escape looks like"),
    ],
)
def test_text_is_escaped_for_people_and_exact_for_programs(text: str, escaped: str, emitter: Emitter) -> None:
    """The column shows the text as well as it can; the event has it exactly."""
    event = emitter.emit(TaskFailed, "task-1", traceback=text)

    row = encode(event)

    assert row["traceback"] == escaped == escape(text)
    decoded = decode(recorded(row)).event
    assert isinstance(decoded, TaskFailed)
    assert decoded.traceback == text


def test_the_place_in_the_log_comes_with_the_event(emitter: Emitter) -> None:
    """A recorded event knows who wrote it, where it stands and when the database took it."""
    row = recorded(encode(emitter.emit(TaskSent, "task-1")))

    event = decode(row)

    assert event.place == (event.transaction, event.position) == (7, 3)
    assert event.recorded_at == datetime(2026, 3, 2, tzinfo=UTC)


# Through the database


@pytest.fixture(scope="module")
def log(database: str) -> Iterator[Connection]:
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def renamed(history: list[Event]) -> dict[UUID, Event]:
    """Return the events under ids that no other example has."""
    return {event.event_id: event for event in (event.model_copy(update={"event_id": uuid4()}) for event in history)}


@settings(max_examples=120, deadline=None)
@given(st.lists(events(), min_size=1, max_size=4).map(renamed))
def test_events_come_back_from_the_database_as_they_were(log: Connection, told: dict[UUID, Event]) -> None:
    """Recording one event, or several in one statement, and reading them loses nothing of them."""
    new = Journal().append(log, *told.values())

    with log.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(sql.query("journal.sql", "recorded"), {"event_ids": list(told)}).fetchall()
    assert new == len(told)
    assert {event.event_id: event for event in (decode(row).event for row in rows)} == told


@settings(max_examples=50, deadline=None)
@given(st.lists(events(), min_size=1, max_size=3).map(renamed))
def test_what_was_recorded_may_be_told_again(log: Connection, told: dict[UUID, Event]) -> None:
    """Whatever is in an event, telling it twice is not a conflict."""
    Journal().append(log, *told.values())

    new = Journal().append(log, *told.values())

    assert new == 0


# What msgpack has no type for


class Colour(Enum):
    RED = 1


class Size(IntEnum):
    LARGE = 3


class Mood(str, Enum):  # noqa: UP042 - StrEnum is another class, whose str() is its value
    SUNNY = "sunny"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def nested(depth: int) -> object:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


def circular() -> object:
    value: list[object] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        pytest.param((1, 2), [1, 2], id="tuple"),
        pytest.param({7}, [7], id="set"),
        pytest.param(bytearray(b"x"), b"x", id="bytearray"),
        pytest.param(memoryview(b"x"), b"x", id="memoryview"),
        pytest.param(date(2026, 3, 2), "2026-03-02", id="date"),
        pytest.param(time(12, 30), "datetime.time(12, 30)", id="time"),
        pytest.param(datetime(2026, 3, 2, 12), "2026-03-02T12:00:00", id="moment without a zone"),  # noqa: DTZ001
        pytest.param(timedelta(seconds=1.5), 1.5, id="timedelta"),
        pytest.param(Colour.RED, "<Colour.RED: 1>", id="enum"),
        pytest.param(Size.LARGE, 3, id="enum of integers"),
        pytest.param(Mood.SUNNY, "sunny", id="enum of texts"),
        pytest.param({Mood.SUNNY: Size.LARGE}, {"sunny": 3}, id="enums in a dict"),
        pytest.param(Unprintable(), "<unrepresentable Unprintable>", id="object without repr"),
        pytest.param({(1, 2): 3}, {"(1, 2)": 3}, id="tuple as a key"),
        pytest.param({float("nan"): 3}, {"nan": 3}, id="nan as a key"),
        pytest.param({2**70: 3}, {2**70: 3}, id="huge integer as a key"),
        pytest.param({"a": {"b": ({1},)}}, {"a": {"b": [[1]]}}, id="all the way down"),
    ],
)
def test_a_value_becomes_the_nearest_plain_value(value: object, kept: object) -> None:
    """What has no type in msgpack is kept as what is nearest to it."""
    packed = pack(value)

    assert unpack(packed) == kept


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(nested(70), id="nested deeper than we look"),
        pytest.param(nested(100_000), id="nested deeper than repr looks"),
        pytest.param(circular(), id="circular"),
        pytest.param(datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))), id="moment after the last in UTC"),
        pytest.param(datetime.min.replace(tzinfo=UTC), id="first moment"),
        pytest.param(float("nan"), id="nan"),
        pytest.param(sys, id="module"),
        pytest.param({Unprintable(): Unprintable()}, id="nothing to show"),
    ],
)
def test_no_value_keeps_a_fact_out_of_the_log(value: object, emitter: Emitter) -> None:
    """Whatever users put into a request, the event can be encoded and read."""
    event = emitter.emit(TaskSent, "task-1", request={"value": value})

    row = recorded(encode(event))

    assert decode(row).event.stream == "task-1"


def test_an_integer_of_any_length_is_exact() -> None:
    """Not even Python's limit of 4300 digits, which guards str(), is ours."""
    value = 7 * 10**5000

    packed = pack([value, -value])

    assert unpack(packed) == [value, -value]


@given(payloads())
def test_plain_values_come_back_as_they_were(value: object) -> None:
    """What msgpack has a type for is exact."""
    packed = pack(value)

    assert unpack(packed) == value


def test_a_type_of_a_newer_version_survives() -> None:
    """A msgpack extension that we do not know is kept as one."""
    packed = msgpack.packb({"value": msgpack.ExtType(42, b"new")})

    assert unpack(packed) == {"value": msgpack.ExtType(42, b"new")}


# The limit


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(Emitter().emit(TaskSucceeded, "task-1", result=b"x" * 100), id="result"),
        pytest.param(Emitter().emit(TaskSent, "task-1", args=b"x" * 60, kwargs=b"x" * 40), id="arguments"),
        pytest.param(Emitter().emit(TaskFailed, "task-1", traceback="x" * 100), id="traceback"),
        pytest.param(Emitter().emit(TaskFailed, "task-1", traceback="ä" * 50), id="traceback, by its bytes"),
        pytest.param(Emitter().emit(TaskSent, "task-1", meta=b"x" * 100), id="meta"),
    ],
)
def test_the_limit_counts_every_payload(event: Event) -> None:
    """An event at the limit is encoded, one byte above it is refused with the facts."""
    encode(event, max_payload_bytes=100)

    with pytest.raises(PayloadTooLarge) as refused:
        encode(event, max_payload_bytes=99)

    assert (refused.value.stream, refused.value.kind, refused.value.size, refused.value.limit) == ("task-1", event.kind, 100, 99)


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(Emitter().emit(ChordStarted, "group-1", callback=b"x" * 100), id="body of a chord"),
        pytest.param(Emitter().emit(TaskSent, "task-1", request={"headers": "x" * 100}), id="request"),
        pytest.param(Emitter().emit(TaskSent, "task-1", request={"members": "x" * 100}), id="unknown field"),
    ],
)
def test_the_limit_counts_what_has_no_column_of_its_own(event: Event) -> None:
    """What is in the body of an event counts as well."""
    with pytest.raises(PayloadTooLarge):
        encode(event, max_payload_bytes=99)


@given(texts())
def test_what_needs_no_escape_is_not_escaped(text: str) -> None:
    """Only NUL and lone surrogates are changed."""
    holdable = "".join(letter for letter in text if letter != "\0" and not "\ud800" <= letter <= "\udfff")

    assert escape(holdable) == holdable
