"""Waiting for one result: `AsyncResult.get` by each of its arguments, and `then`, by the rows of the acceptance list."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import allow_join_result, denied_join_result

from celery_journal.consumers import install
from celery_journal.consumers.backend import JournalBackend

from .scene import chained, delivered, in_background, until, waiting

NewApp = Callable[..., Celery]

#: Seconds to wait for what must come: only a test that fails waits so long.
PATIENCE = 60


@pytest.fixture
def app(make_app: NewApp) -> Celery:
    """An app on the test's journal, with our results."""
    return install(make_app())


# get(), by its arguments


def test_get_gives_up_after_its_timeout(app: Celery) -> None:
    """R02 timeout, R03: celery.exceptions.TimeoutError, not before the deadline and soon after."""
    result, began = app.AsyncResult("nobody"), time.monotonic()

    with pytest.raises(CeleryTimeoutError) as raised:
        result.get(timeout=0.3)

    assert isinstance(raised.value, result.TimeoutError)
    assert 0.3 <= time.monotonic() - began < 0.3 + 0.5  # 50 ms are promised; the rest is for a machine that is busy


def test_get_gives_up_at_once_with_a_timeout_of_zero(app: Celery, backend: JournalBackend) -> None:
    """R02 timeout, R03: zero is one look, and what is ready by then is returned."""
    backend.mark_as_done("a", 3)

    assert app.AsyncResult("a").get(timeout=0) == 3
    with pytest.raises(CeleryTimeoutError):
        app.AsyncResult("nobody").get(timeout=0)


def test_get_gives_up_on_a_task_that_is_busy(app: Celery, backend: JournalBackend) -> None:
    """R03: what happens to the task meanwhile does not put the deadline off."""
    began = time.monotonic()
    waiter = in_background(app.AsyncResult("a").get, timeout=0.5)
    while not waiter.done() and time.monotonic() < began + 5:
        backend.store_result("a", {"done": 1}, "PROGRESS")

    with pytest.raises(CeleryTimeoutError):
        waiter.result(PATIENCE)

    assert time.monotonic() - began < 0.5 + 1.0


def test_get_raises_what_the_task_raised(app: Celery, backend: JournalBackend) -> None:
    """R02 propagate, R04: the exception by its class, with its arguments."""
    backend.mark_as_failure("a", KeyError("missing"))

    with pytest.raises(KeyError, match="missing"):
        app.AsyncResult("a").get(timeout=PATIENCE)


def test_get_can_return_what_the_task_raised(app: Celery, backend: JournalBackend) -> None:
    """R02 propagate: false gives the exception back instead of raising it."""
    backend.mark_as_failure("a", KeyError("missing"))

    error = app.AsyncResult("a").get(timeout=PATIENCE, propagate=False)

    assert (type(error), error.args) == (KeyError, ("missing",))


def test_get_raises_a_revocation(app: Celery, backend: JournalBackend) -> None:
    """R02 propagate: REVOKED is an end that raises too."""
    backend.mark_as_revoked("a", "terminated", request=delivered(app, task_id="a"))

    with pytest.raises(TaskRevokedError, match="terminated"):
        app.AsyncResult("a").get(timeout=PATIENCE)


def test_get_does_not_sit_out_a_long_interval(app: Celery, backend: JournalBackend) -> None:
    """R02 interval: it bounds nothing when the result is there."""
    waiter = in_background(app.AsyncResult("a").get, timeout=PATIENCE, interval=10 * PATIENCE)
    time.sleep(0.2)  # so that it waits by now; if it does not yet, the test only shows less

    backend.mark_as_done("a", 3)

    assert waiter.result(PATIENCE / 2) == 3


def test_get_takes_no_ack(app: Celery, backend: JournalBackend) -> None:
    """R02 no_ack: there is no message to acknowledge, and the result can be had again."""
    backend.mark_as_done("a", 3)

    assert app.AsyncResult("a").get(timeout=PATIENCE, no_ack=False) == 3
    assert app.AsyncResult("a").get(timeout=PATIENCE, no_ack=True) == 3


def test_get_raises_what_a_parent_raised(app: Celery, backend: JournalBackend) -> None:
    """R02 follow_parents: whoever waits for the end of a chain hears of a failure at its beginning."""
    backend.mark_as_failure("a", KeyError("first"))

    with pytest.raises(KeyError, match="first"):
        chained(app).get(timeout=PATIENCE)


def test_get_hears_of_a_parent_while_it_waits(app: Celery, backend: JournalBackend) -> None:
    """R02 follow_parents: the failure may come after the waiting has begun."""
    with waiting(chained(app).get) as waiter:
        backend.mark_as_failure("a", KeyError("first"))

        with pytest.raises(KeyError, match="first"):
            waiter.result(PATIENCE)


def test_get_can_leave_parents_alone(app: Celery, backend: JournalBackend) -> None:
    """R02 follow_parents: false waits for this task only."""
    backend.mark_as_failure("a", KeyError("first"))

    with pytest.raises(CeleryTimeoutError):
        chained(app).get(timeout=0.1, follow_parents=False)


@pytest.mark.parametrize("ready", [pytest.param(True, id="ready"), pytest.param(False, id="waiting")])
def test_get_calls_back_with_the_value(app: Celery, backend: JournalBackend, ready: bool) -> None:
    """R02 callback: called with the id and the value, which get() returns as well."""
    heard: list[tuple[str, Any]] = []

    def hear(task_id: str, value: Any) -> None:
        heard.append((task_id, value))

    if ready:
        backend.mark_as_done("a", 3)
        value = app.AsyncResult("a").get(timeout=PATIENCE, callback=hear)
    else:
        with waiting(app.AsyncResult("a").get, callback=hear) as waiter:
            backend.mark_as_done("a", 3)
            value = waiter.result(PATIENCE)

    assert (value, heard) == (3, [("a", 3)])


def test_get_tells_of_each_transition(app: Celery, backend: JournalBackend) -> None:
    """R02 on_message: the meta of each, as it comes; Celery's own polling backends refuse the argument."""
    messages: list[dict[str, Any]] = []
    with waiting(app.AsyncResult("a").get, on_message=messages.append) as waiter:
        for number, (state, stored) in enumerate([("STARTED", None), ("PROGRESS", {"done": 1}), ("RETRY", OSError()), ("SUCCESS", 3)], 1):
            backend.store_result("a", stored, state, request=delivered(app, task_id="a"))
            until(lambda number=number: len(messages) >= number, 10)  # type: ignore[misc]

        assert waiter.result(PATIENCE) == 3

    assert [(meta["task_id"], meta["status"]) for meta in messages] == [("a", s) for s in ("STARTED", "PROGRESS", "RETRY", "SUCCESS")]
    assert (messages[1]["result"], messages[3]["result"]) == ({"done": 1}, 3)


def test_get_tells_of_transitions_that_come_at_once(app: Celery, backend: JournalBackend) -> None:
    """R02 on_message: none is left out and none told twice, however quick they come; the end is the last."""
    messages: list[dict[str, Any]] = []
    with waiting(app.AsyncResult("a").get, on_message=messages.append) as waiter:
        for number in range(20):
            backend.store_result("a", number, "PROGRESS")
        backend.mark_as_done("a", "done")

        assert waiter.result(PATIENCE) == "done"

    assert [meta["result"] for meta in messages] == [*range(20), "done"]


def test_get_calls_on_interval_while_it_waits(app: Celery, backend: JournalBackend) -> None:
    """R02 on_interval: for AsyncResult.get, Celery lets only the first call through; a group's get() has them all."""
    called = Event()
    waiter = in_background(app.AsyncResult("a").get, timeout=PATIENCE, interval=0.01, on_interval=called.set)
    assert called.wait(10)
    backend.mark_as_done("a", 3)

    assert waiter.result(PATIENCE) == 3


def test_what_on_interval_raises_ends_the_waiting(app: Celery) -> None:
    """R02 on_interval: it is how a program breaks off."""

    def break_off() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        app.AsyncResult("nobody").get(timeout=PATIENCE, on_interval=break_off)


def test_get_is_refused_within_a_task(app: Celery, backend: JournalBackend) -> None:
    """R02 disable_sync_subtasks: unless one insists."""
    backend.mark_as_done("a", 3)

    with denied_join_result():
        with pytest.raises(RuntimeError, match=r"Never call result\.get"):
            app.AsyncResult("a").get(timeout=PATIENCE)
        assert app.AsyncResult("a").get(timeout=PATIENCE, disable_sync_subtasks=False) == 3
        with allow_join_result():
            assert app.AsyncResult("a").get(timeout=PATIENCE) == 3


@pytest.mark.parametrize("argument", ["EXCEPTION_STATES", "PROPAGATE_STATES"])
def test_get_takes_sets_of_states(app: Celery, backend: JournalBackend, argument: str) -> None:
    """R02 EXCEPTION_STATES, PROPAGATE_STATES: accepted, and without effect as in Celery."""
    backend.mark_as_failure("a", KeyError("missing"))

    with pytest.raises(KeyError):
        app.AsyncResult("a").get(timeout=PATIENCE, **{argument: frozenset()})


def test_wait_is_get(app: Celery, backend: JournalBackend) -> None:
    """R65: the older name."""
    backend.mark_as_done("a", 3)

    assert app.AsyncResult("a").wait(timeout=PATIENCE) == 3


def test_an_ignored_result_is_none_at_once(app: Celery) -> None:
    """R65: nobody waits for what is not stored."""
    result = app.AsyncResult("a")
    result.ignored = True

    assert (result.ignored, result.get(timeout=PATIENCE)) == (True, None)


# then()


@pytest.mark.parametrize("ready", [pytest.param(True, id="ready"), pytest.param(False, id="not yet")])
def test_then_calls_back_though_nobody_waits(app: Celery, backend: JournalBackend, ready: bool) -> None:
    """R65: the result is pushed, from whatever thread, to those who never call get()."""
    heard: list[Any] = []
    result = app.AsyncResult("a")
    if ready:
        backend.mark_as_done("a", 3)
    result.then(heard.append)

    backend.mark_as_done("a", 3)

    until(lambda: heard, 10)
    assert (heard, heard[0].result) == ([result], 3)


def test_then_calls_back_for_a_failure(app: Celery, backend: JournalBackend) -> None:
    """R65: a task that failed is ready as well."""
    heard: list[Any] = []
    result = app.AsyncResult("a")
    result.then(heard.append)

    backend.mark_as_failure("a", KeyError("missing"))

    until(lambda: heard, 10)
    assert (heard[0].state, type(heard[0].result)) == ("FAILURE", KeyError)
