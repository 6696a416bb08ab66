"""Celery's states, as this backend has them, by the rows of the acceptance list."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from celery import Celery, states

from celery_journal.consumers.backend import JournalBackend
from celery_journal.journal.events import TaskProgress
from celery_journal.projections import TaskResult

from .scene import delivered, kinds, recorded, row

NewApp = Callable[..., Celery]

KINDS = {
    states.RECEIVED: "task-received",
    states.STARTED: "task-started",
    states.SUCCESS: "task-succeeded",
    states.FAILURE: "task-failed",
    states.REVOKED: "task-revoked",
    states.RETRY: "task-retried",
    states.REJECTED: "task-rejected",
    states.IGNORED: "task-ignored",
}


def value_of(backend: JournalBackend, state: str) -> Any:
    """Something to store with the state."""
    return OSError("no") if state in backend.EXCEPTION_STATES else {"a": 1}


@pytest.mark.parametrize("state", [*KINDS, states.PENDING])
def test_each_constant_is_a_state_of_its_own(app: Celery, backend: JournalBackend, dsn: str, state: str) -> None:
    """R46: PENDING is what nobody has heard of; each other is recorded as an event of its kind, and shown."""
    if state != states.PENDING:
        backend.store_result("a", value_of(backend, state), state)

    assert app.AsyncResult("a").state == state
    assert kinds(dsn, "a") == ([KINDS[state]] if state in KINDS else [])


@pytest.mark.parametrize("state", [*KINDS, "PROGRESS", "ABORTED"])
def test_the_sets_of_states_are_celerys(app: Celery, backend: JournalBackend, state: str) -> None:
    """R47, R48: a task is ready in SUCCESS, FAILURE and REVOKED; it waits in the others, and in any of a user's own."""
    assert (states.READY_STATES, states.UNREADY_STATES) == (backend.READY_STATES, backend.UNREADY_STATES)
    backend.store_result("a", value_of(backend, state), state)

    assert app.AsyncResult("a").ready() == (state in states.READY_STATES)
    assert not (states.READY_STATES & states.UNREADY_STATES)


@pytest.mark.parametrize("state", sorted(states.EXCEPTION_STATES))
def test_what_is_an_exception_is_shown_as_one(app: Celery, backend: JournalBackend, state: str) -> None:
    """R49: RETRY, FAILURE and REVOKED have an exception for a result, with the traceback."""
    assert states.EXCEPTION_STATES == backend.EXCEPTION_STATES

    backend.store_result("a", OSError("no"), state, traceback="Traceback: here")

    assert isinstance(app.AsyncResult("a").result, OSError)
    assert app.AsyncResult("a").traceback == "Traceback: here"


@pytest.mark.parametrize("state", sorted(states.EXCEPTION_STATES))
def test_what_propagates_is_raised(app: Celery, backend: JournalBackend, state: str) -> None:
    """R50: FAILURE and REVOKED; a task that is to be tried again is still waited for."""
    backend.store_result("a", OSError("no"), state)

    expected = OSError if state in states.PROPAGATE_STATES else app.backend.TimeoutError
    with pytest.raises(expected):
        app.AsyncResult("a").get(timeout=0.1)


@pytest.mark.parametrize("turned", [pytest.param(False, id="in order"), pytest.param(True, id="late")])
@pytest.mark.parametrize(("lower", "higher"), [*pairwise(["RECEIVED", "STARTED", "REVOKED", "FAILURE", "SUCCESS"]), ("RETRY", "SUCCESS")])
def test_of_two_states_the_one_that_precedes_is_shown(app: Celery, backend: JournalBackend, lower: str, higher: str, turned: bool) -> None:
    """R51: of one attempt, whichever is stored first."""
    assert states.state(higher) > states.state(lower)

    for state in (higher, lower) if turned else (lower, higher):
        backend.store_result("a", value_of(backend, state), state, request=delivered(app, task_id="a"))

    assert app.AsyncResult("a").state == higher


def test_a_later_attempt_comes_before_any_precedence(app: Celery, backend: JournalBackend) -> None:
    """R51: a task that runs again is running, though FAILURE precedes STARTED."""
    backend.store_result("a", OSError(), "FAILURE", request=delivered(app, task_id="a"))

    backend.store_result("a", None, "STARTED", request=delivered(app, task_id="a", retries=1))

    assert app.AsyncResult("a").state == "STARTED"


def test_states_compare_by_their_precedence() -> None:
    """R51: greater is what precedes; a state of a user's own stands above those that are not ready."""
    ordered = ["PENDING", "RETRY", "REJECTED", "RECEIVED", "STARTED", "REVOKED", "FAILURE", "SUCCESS"]

    for lower, higher in pairwise(ordered):
        assert states.state(lower) < states.state(higher)
        assert states.state(higher) > states.state(lower)
    assert states.state("STARTED") < states.state("PROGRESS") < states.state("SUCCESS")


@pytest.mark.parametrize("by", ["backend", "manager"])
def test_a_state_that_is_stored_before_a_task_starts_ends_with_the_start(app: Celery, backend: JournalBackend, dsn: str, by: str) -> None:
    """Whoever stores it, it is one fact of the attempt that is next; what the running task says of itself nobody else hides."""

    def store(meta: object, state: str) -> None:
        if by == "backend":
            backend.store_result("a", meta, state)
        else:
            content_type, encoding, content = backend.encode_content(meta)
            with psycopg.connect(dsn, autocommit=True) as connection:
                TaskResult.objects.using(connection).store_result(content_type, encoding, "a", content, state)

    states_shown = []
    for attempt in (0, 1):
        request = delivered(app, task_id="a", retries=attempt)
        store({"place": 3}, "QUEUED")
        states_shown += [app.AsyncResult("a").state]
        for meta, state in (({"pid": 1}, "STARTED"), ({"done": 1}, "PROGRESS")):
            backend.store_result("a", meta, state, request=request)
            states_shown += [app.AsyncResult("a").state]
        store({"done": 2}, "HALF")
        states_shown += [(app.AsyncResult("a").state, row(dsn, "a").retries)]
        backend.store_result("a", OSError(), "RETRY", request=request)

    assert states_shown == ["QUEUED", "STARTED", "PROGRESS", ("PROGRESS", 0), "QUEUED", "STARTED", "PROGRESS", ("PROGRESS", 1)]
    assert kinds(dsn, "a") == ["task-progress", "task-started", "task-progress", "task-progress", "task-retried"] * 2


def test_what_a_task_says_of_another_one_is_no_fact_of_its_own_request(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """`update_state(task_id=...)`: the other one's arguments and worker are not those of who says it."""
    backend.store_result("other", None, "QUEUED", request=delivered(app, "scene.mine", ("mine",), task_id="a"))

    told = row(dsn, "other")
    assert (told.status, told.task_name, told.args, told.worker) == ("QUEUED", None, None, None)


def test_what_a_running_task_stores_of_itself_without_its_request_is_its_own(app: Celery, dsn: str) -> None:
    """A state that it stores by the backend is told by its worker, as one by `update_state()` is."""

    @app.task(bind=True, name="scene.halfway", shared=False)
    def halfway(self: Any) -> None:
        self.update_state(state="FIRST")
        self.backend.store_result(self.request.id, {"done": 1}, "HALF")

    halfway.apply(task_id="a")

    first, half = (place.event for place in recorded(dsn, "a") if isinstance(place.event, TaskProgress))
    assert (half.state, half.name, half.worker) == ("HALF", "scene.halfway", first.worker)
    assert first.worker is not None
