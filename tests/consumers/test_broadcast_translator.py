"""What Celery's events say, whatever is in them."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_journal.consumers.broadcast import Malformed, translate
from celery_journal.consumers.broadcast import Testimony as Told
from celery_journal.consumers.broadcast.translator import TASK_KINDS, WORKER_KINDS, exception_of
from celery_journal.journal.codec import encode
from celery_journal.journal.events import TaskRetried

from .broadcasting import Foreigner

MOMENT = 1_700_000_000.25

WORKER = Foreigner()


def told(kind: str, **fields: Any) -> Told:
    testimony = translate(WORKER.says(kind, "t", MOMENT, **fields))
    assert testimony is not None
    return testimony


@pytest.mark.parametrize("kind", TASK_KINDS)
def test_every_event_of_a_task_is_told(kind: str) -> None:
    """Each is about its task, at its moment in UTC, by its worker; who sends a task is no worker."""
    testimony = told(kind)

    assert testimony.kind is TASK_KINDS[kind]
    assert (testimony.stream, testimony.occurred_at) == ("t", datetime(2023, 11, 14, 22, 13, 20, 250000, UTC))
    assert testimony.worker == (None if kind == "task-sent" else "celery@foreign")
    assert testimony.fields["worker"] == testimony.worker


@pytest.mark.parametrize("kind", WORKER_KINDS)
def test_every_event_of_a_worker_is_told(kind: str) -> None:
    """Its stream is the worker, and what it says of itself is kept."""
    heart = {
        "sw_ident": "py-celery",
        "sw_ver": "4.4.7",
        "sw_sys": "Linux",
        "freq": 2.0,
        "active": 3,
        "processed": 40,
        "loadavg": [0.5, 1, 2],
    }

    testimony = translate(WORKER.says(kind, None, MOMENT, **heart))

    assert testimony is not None
    assert (testimony.kind, testimony.stream, testimony.pid) == (WORKER_KINDS[kind], "celery@foreign", 4711)
    expected = {"software": "py-celery", "version": "4.4.7", "system": "Linux", "freq": 2.0, "active": 3, "processed": 40}
    assert json.loads(testimony.fields["meta"]) == {**expected, "loadavg": [0.5, 1, 2]}


def test_a_received_task_says_what_was_asked() -> None:
    """Name, the reprs of the arguments as JSON texts, relatives, attempt, eta and expiry."""
    testimony = translate(
        WORKER.received("t", retries=2, parent_id="p", eta="2026-01-01T10:00:00+02:00", expires="2026-01-02T00:00:00", at=MOMENT)
    )

    assert testimony is not None
    assert testimony.attempt == 2
    assert testimony.fields == {
        "worker": "celery@foreign",
        "name": "shop.add",
        "args": b'"(1, 2)"',
        "kwargs": b'"{}"',
        "root_id": "t",
        "parent_id": "p",
        "eta": datetime(2026, 1, 1, 8, tzinfo=UTC),
        "expires": datetime(2026, 1, 2, tzinfo=UTC),
        "pid": 4711,
    }


def test_a_sent_task_says_where_it_went() -> None:
    """Its queue, and its origin, which is not its worker."""
    testimony = told("task-sent", queue="mail", exchange="", routing_key="mail.x", retries=1)

    assert (testimony.fields["queue"], testimony.attempt) == ("mail", 1)
    assert testimony.fields["request"] == {"exchange": "", "routing_key": "mail.x", "origin": "celery@foreign"}


def test_a_result_is_its_repr() -> None:
    """What was returned is told as a text, and how long it took."""
    fields = told("task-succeeded", result="{'a': 1}", runtime=0.5).fields

    assert (fields["result"], fields["content_type"], fields["content_encoding"]) == (b"\"{'a': 1}\"", "application/json", "utf-8")
    assert fields["request"] == {"runtime": 0.5}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("ValueError('boom', 3)", ["ValueError", ["boom", 3], "builtins"], id="builtin"),
        pytest.param("KeyError()", ["KeyError", [], "builtins"], id="no arguments"),
        pytest.param("WorkerLostError('gone')", ["WorkerLostError", ["gone"], "celery.exceptions"], id="celery's"),
        pytest.param("Mine(<object at 0x1>)", ["Mine", ["<object at 0x1>"], None], id="somebody's"),
        pytest.param("shop.errors.Sold('x')", ["Sold", ["x"], "shop.errors"], id="qualified"),
        pytest.param("OSError(b'x')", ["OSError", ["b'x'"], "builtins"], id="arguments that JSON has not"),
        pytest.param("print('x')", ["print", ["x"], None], id="no exception"),
        pytest.param("nothing like it", ["Exception", ["nothing like it"], "builtins"], id="a text"),
        pytest.param("X(" + "(" * 9000, ["Exception", ["X(" + "(" * 9000], "builtins"], id="nested"),
        pytest.param("X(" + "[" * 4000 + ")", ["X", ["[" * 4000], None], id="too deep"),
        pytest.param({"odd": 1}, ["Exception", ["{'odd': 1}"], "builtins"], id="no text"),
    ],
)
def test_an_exception_is_told_as_celery_stores_one(text: object, expected: list[object]) -> None:
    """The class, the arguments where they are plain, and the module where everybody has it."""
    error = json.loads(exception_of(text))

    assert [error["exc_type"], error["exc_message"], error["exc_module"]] == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        pytest.param({"terminated": False, "signum": None, "expired": True}, "expired", id="expired"),
        pytest.param({"terminated": True, "signum": "SIGKILL", "expired": False}, "terminated", id="terminated"),
        pytest.param({}, "revoked", id="revoked"),
    ],
)
def test_a_revoked_task_says_why(fields: dict[str, Any], reason: str) -> None:
    """Expired, terminated, or revoked, as the result backend has it."""
    error = json.loads(told("task-revoked", **fields).fields["result"])

    assert (error["exc_type"], error["exc_message"]) == ("TaskRevokedError", [reason])


def test_a_cancelled_task_is_retried_with_a_reason() -> None:
    """What a lost connection cancels comes again, and is told from a retry that the task wanted."""
    testimony = told("task-cancelled")

    assert testimony.kind is TaskRetried
    assert "lost its connection" in testimony.fields["reason"]
    assert testimony.event_id != told("task-retried").event_id


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(["a list"], id="a list"),
        pytest.param(None, id="nothing"),
        pytest.param({"hostname": "h", "timestamp": 1.0}, id="no type"),
        pytest.param({"type": 3, "hostname": "h", "timestamp": 1.0}, id="a type that is no text"),
        pytest.param({"type": "task-started", "hostname": "h", "timestamp": 1.0}, id="no task"),
        pytest.param({"type": "task-started", "hostname": "h", "timestamp": 1.0, "uuid": ""}, id="an empty id"),
        pytest.param({"type": "task-started", "hostname": "h", "timestamp": 1.0, "uuid": "x" * 5000}, id="an endless id"),
        pytest.param({"type": "task-started", "timestamp": 1.0, "uuid": "t"}, id="nobody"),
        pytest.param({"type": "task-started", "hostname": "h", "uuid": "t"}, id="no moment"),
        pytest.param({"type": "task-started", "hostname": "h", "uuid": "t", "timestamp": "noon"}, id="a moment in words"),
        pytest.param({"type": "task-started", "hostname": "h", "uuid": "t", "timestamp": True}, id="a moment that is true"),
        pytest.param({"type": "task-started", "hostname": "h", "uuid": "t", "timestamp": math.nan}, id="not a number"),
        pytest.param({"type": "task-started", "hostname": "h", "uuid": "t", "timestamp": 1e300}, id="the end of time"),
        pytest.param({"type": "worker-online", "timestamp": 1.0}, id="no worker"),
    ],
)
def test_what_is_broken_is_refused_with_a_reason(event: object) -> None:
    """Nothing that can be published makes anything but a Malformed."""
    with pytest.raises(Malformed, match=r"^an? \S+ .+"):
        translate(event)


def test_somebodys_own_event_is_no_news() -> None:
    """Celery lets everybody send events of their own."""
    assert translate({"type": "shop-opened", "hostname": "h", "timestamp": 1.0}) is None


def test_the_same_event_has_the_same_id() -> None:
    """Delivered twice it is one fact; another clock tick, another moment, another sender is another."""
    event = WORKER.says("task-started", "t", at=MOMENT)
    others = [{**event, "clock": event["clock"] + 1}, {**event, "timestamp": MOMENT + 1}, {**event, "pid": 1}, {**event, "hostname": "x"}]

    ids = [translate(one).event_id for one in (event, dict(event), *others)]  # type: ignore[union-attr]

    assert ids[0] == ids[1]
    assert len(set(ids)) == 5
    assert ids[0].int >> 80 == int(MOMENT * 1000)


def test_events_without_a_clock_are_told_apart_by_their_moment() -> None:
    """Within the millisecond that an id has as well."""
    event = {"type": "task-started", "hostname": "h", "uuid": "t"}

    first, second = (translate({**event, "timestamp": MOMENT + later}) for later in (0.0, 0.0001))

    assert first is not None
    assert second is not None
    assert first.event_id != second.event_id


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = ["hostname", "pid", "clock", "uuid", "timestamp", "name", "args", "kwargs", "retries", "eta", "expires", "result", "exception"]
MORE_NAMES = ["traceback", "runtime", "signum", "terminated", "queue", "routing_key", "freq", "loadavg", "active", "sw_ver", "root_id"]


@given(
    kind=st.sampled_from([*TASK_KINDS, *WORKER_KINDS]),
    fields=st.dictionaries(st.sampled_from(NAMES + MORE_NAMES), anything, max_size=8),
    whole=st.booleans(),
)
def test_whatever_is_in_an_event_it_becomes_a_row_or_is_malformed(kind: str, fields: dict[str, Any], whole: bool) -> None:
    """No value of any field makes an error of another kind, neither here nor when the fact is built and encoded."""
    event = {**(WORKER.says(kind, "t", at=MOMENT) if whole else {"type": kind}), **fields}

    try:
        testimony = translate(event)
    except Malformed:
        return

    assert testimony is not None
    assert isinstance(testimony.event_id, UUID)
    row = encode(
        testimony.kind(event_id=testimony.event_id, stream=testimony.stream, occurred_at=testimony.occurred_at, **testimony.fields)
    )
    assert row["kind"] == testimony.kind.model_fields["kind"].default
