"""Celery's states, as this backend has them, by the rows of the acceptance list."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from celery import Celery, states

from celery_journal.consumers.backend import JournalBackend

from .scene import delivered, kinds

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
