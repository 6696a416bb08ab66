"""Payloads that cannot be stored: that a task has ended is recorded all the same, and says what there is to say."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TaskError
from kombu.exceptions import EncodeError

from celery_journal.consumers.backend import ResultTooLarge

from .scene import SERIALIZERS, delivered, kinds, recorded, row, stored, url_of
from .workers import working

NewApp = Callable[..., Celery]

LIMIT = 4000
LARGE = "x" * 10 * LIMIT


@pytest.fixture(scope="module")
def database(embedded_database: str) -> str:
    """One server will do: what is refused, is so before it is sent."""
    return embedded_database


@pytest.fixture
def small(make_app: NewApp) -> Celery:
    """An app whose payloads may not be large."""
    return make_app(result_backend_transport_options={"max_payload_bytes": LIMIT})


class Mute(Exception):
    """An exception that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


class Hostile(Exception):
    """An exception that fails at whatever is asked of it."""

    @property
    def args(self) -> Any:  # type: ignore[override]  # that is the point of it
        raise RuntimeError("no args")

    def __reduce__(self) -> Any:
        raise RuntimeError("no reduce")

    __repr__ = __str__ = __reduce__


@pytest.mark.parametrize("state", ["FAILURE", "RETRY", "REVOKED"])
@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_an_error_above_the_limit_is_recorded_with_a_short_message(make_app: NewApp, dsn: str, serializer: str, state: str) -> None:
    """Its class is known, and how its message begins."""
    app = make_app(result_serializer=serializer, accept_content=SERIALIZERS, result_backend_transport_options={"max_payload_bytes": LIMIT})

    app.backend.store_result("a", ValueError(LARGE), state, request=delivered(app, task_id="a"))

    assert app.AsyncResult("a").state == state
    error = app.AsyncResult("a").result
    assert isinstance(error, ValueError)
    assert str(error).startswith("xxx")
    assert len(str(error)) < LIMIT
    assert row(dsn, "a").task_name == "scene.add"


def test_what_was_left_out_is_logged(small: Celery, caplog: pytest.LogCaptureFixture) -> None:
    """With the reason, so that somebody may raise the limit."""
    with caplog.at_level(logging.WARNING):
        small.backend.mark_as_failure("a", ValueError(LARGE))

    (said,) = [record.getMessage() for record in caplog.records if "recorded without" in record.getMessage()]
    assert said.startswith("task-failed of a is recorded without what cannot be stored: task-failed of a has a payload of")
    assert LARGE not in said


def test_a_traceback_above_the_limit_keeps_its_end(make_app: NewApp) -> None:
    """There the error is named."""
    app = make_app(result_backend_transport_options={"max_payload_bytes": 20_000})

    app.backend.mark_as_failure("a", ValueError("no"), traceback=f"{LARGE}\nValueError: the reason")

    assert app.AsyncResult("a").state == "FAILURE"
    assert app.AsyncResult("a").traceback.endswith("ValueError: the reason")
    assert len(app.AsyncResult("a").traceback) < 20_000


@pytest.mark.parametrize("state", ["SUCCESS", "FAILURE"])
def test_arguments_above_the_limit_do_not_make_a_result_fail(small: Celery, dsn: str, state: str) -> None:
    """The result is what counts; the arguments are left out, and what else is known of the task is kept."""
    request = delivered(small, task_id="a", args=(LARGE,), group_id="g")
    request._children = [small.AsyncResult("child")]

    small.backend.store_result("a", ValueError("no") if state == "FAILURE" else 42, state, request=request)

    assert small.AsyncResult("a").state == state
    assert str(small.AsyncResult("a").result) == ("no" if state == "FAILURE" else "42")
    stored = row(dsn, "a")
    assert (stored.task_name, stored.group_id, stored.args, stored.worker) == ("scene.add", "g", None, "worker@somewhere")
    assert [child.id for child in small.AsyncResult("a").children] == ["child"]


@pytest.mark.parametrize("part", ["name", "stamps", "everything"])
def test_no_part_of_a_request_keeps_a_failure_from_being_recorded(make_app: NewApp, dsn: str, part: str) -> None:
    """However long it is."""
    app = make_app(result_backend_transport_options={"max_payload_bytes": 300 if part == "everything" else LIMIT})
    name = LARGE if part in {"name", "everything"} else "scene.add"
    stamps = {"stamped_headers": ["note"], "stamps": {"note": LARGE}} if part in {"stamps", "everything"} else {}
    request = delivered(app, name, task_id="a", headers=stamps)

    app.backend.mark_as_failure("a", ValueError("no"), traceback=LARGE, request=request)

    assert app.AsyncResult("a").state == "FAILURE"
    assert kinds(dsn, "a") == ["task-failed"]


def test_a_limit_that_leaves_room_for_nothing_leaves_the_fact(make_app: NewApp, dsn: str) -> None:
    """No result and no traceback, but the end; whoever asks for the error is told that there is none."""
    app = make_app(result_backend_transport_options={"max_payload_bytes": 1})

    app.backend.mark_as_failure("a", ValueError("no"), traceback="line", request=delivered(app, task_id="a"))

    assert app.AsyncResult("a").state == "FAILURE"
    assert row(dsn, "a").result is None
    with pytest.raises(TaskError, match="could not be stored"):
        app.AsyncResult("a").get(timeout=10)


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest.mark.parametrize("error", [pytest.param(Mute("x"), id="mute"), pytest.param(Hostile("x"), id="hostile")])
def test_an_error_that_resists_is_recorded_with_its_name(make_app: NewApp, serializer: str, error: Exception) -> None:
    """Whatever fails when it is asked for its arguments, its text, or to be pickled."""
    app = make_app(result_serializer=serializer, accept_content=SERIALIZERS)

    app.backend.mark_as_failure("a", error, request=delivered(app, task_id="a"))

    assert app.AsyncResult("a").state == "FAILURE"
    assert type(app.AsyncResult("a").result).__name__ == type(error).__name__


def test_a_failure_with_something_that_is_no_error_is_recorded(small: Celery) -> None:
    """`update_state(state="FAILURE", meta=...)` with what no serializer knows."""
    small.backend.store_result("a", object(), "FAILURE")

    assert small.AsyncResult("a").state == "FAILURE"
    assert "object" in str(small.AsyncResult("a").result)


@pytest.mark.parametrize(
    ("value", "error"),
    [pytest.param(object(), EncodeError, id="unserialisable"), pytest.param(LARGE, ResultTooLarge, id="too large")],
)
@pytest.mark.parametrize("state", ["SUCCESS", "PROGRESS"])
def test_a_result_that_cannot_be_stored_is_refused(small: Celery, dsn: str, value: object, error: type[Exception], state: str) -> None:
    """Of a success that cannot be stored, Celery makes a failure, which can."""
    with pytest.raises(error):
        small.backend.store_result("a", value, state, request=delivered(small, task_id="a"))

    assert kinds(dsn, "a") == []


def test_a_part_that_resists_ends_its_chord(make_app: NewApp, dsn: str) -> None:
    """The body must not wait for ever for what cannot be encoded."""
    app = make_app()

    app.backend.on_chord_part_return(delivered(app, task_id="m", group_id="g", group_index=0), "FAILURE", Hostile("x"))

    (part,) = [place.event for place in recorded(dsn, "g")]
    assert (part.kind, getattr(part, "state", None)) == ("chord-part-returned", "FAILURE")


def test_a_worker_survives_what_it_cannot_store(dsn: str, tmp_path: Path) -> None:
    """Too large, and not serialisable: the task is a FAILURE that says so, and the next task is done."""
    options = {"max_payload_bytes": LIMIT}
    with working("filesystem", url_of(dsn), dsn, tmp_path, result_backend_transport_options=options) as worker:
        large, unstorable, failing = worker.send("lump", 10 * LIMIT), worker.send("unstorable"), worker.send("fail", LARGE)

        with pytest.raises(ResultTooLarge, match="above the limit of 4,000"):
            large.get(timeout=60)
        with pytest.raises(EncodeError):
            unstorable.get(timeout=60)
        with pytest.raises(ValueError, match="xxx"):
            failing.get(timeout=60)
        assert worker.send("add", 1, 2).get(timeout=60) == 3

    assert [stored(dsn, result.id)[-1] for result in (large, unstorable, failing)] == ["task-failed"] * 3
