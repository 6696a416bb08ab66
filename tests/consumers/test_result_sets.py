"""What GroupResult and ResultSet offer, by the rows of the acceptance list."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery import result as stock
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import denied_join_result

from celery_journal.consumers import install, results
from celery_journal.consumers.backend import JournalBackend

from .scene import in_background, until, waiting

NewApp = Callable[..., Celery]

#: Seconds to wait for what must come: only a test that fails waits so long.
PATIENCE = 60


@pytest.fixture
def app(make_app: NewApp) -> Celery:
    """An app on the test's journal, with our results."""
    return install(make_app())


Make = Callable[..., Any]


@pytest.fixture(params=["GroupResult", "ResultSet"])
def make(request: pytest.FixtureRequest, app: Celery) -> Make:
    """Makes a group, or a set, of the tasks with these ids."""

    def of(*ids: str) -> Any:
        members = [app.AsyncResult(task_id) for task_id in ids]
        return app.GroupResult("group", members) if request.param == "GroupResult" else app.ResultSet(members)

    return of


def store(backend: JournalBackend, **values: Any) -> None:
    """Store each value as the result of the task of that name; an exception as its failure."""
    for task_id, value in values.items():
        if isinstance(value, Exception):
            backend.mark_as_failure(task_id, value)
        else:
            backend.mark_as_done(task_id, value)


# Making one


@pytest.mark.parametrize("ours", [pytest.param(True, id="installed"), pytest.param(False, id="stock")])
def test_a_group_is_made_of_results(make_app: NewApp, ours: bool) -> None:
    """R25, R34, R35: with our class and without; `children` are its results."""
    app = install(make_app()) if ours else make_app()
    members = [app.AsyncResult("a"), app.AsyncResult("b")]

    group = app.GroupResult("group", members, parent=app.AsyncResult("p"))

    assert (group.id, group.results, group.children, group.parent.id) == ("group", members, members, "p")
    assert (len(group), list(group), group[1]) == (2, members, members[1])
    assert isinstance(group, results.GroupResult) == ours


@pytest.mark.parametrize("ours", [pytest.param(True, id="installed"), pytest.param(False, id="stock")])
def test_a_set_is_made_of_results(make_app: NewApp, ours: bool) -> None:
    """R36, R45: with our class and without."""
    app = install(make_app()) if ours else make_app()
    members = [app.AsyncResult("a"), app.AsyncResult("b")]

    made = app.ResultSet(members)

    assert (made.results, list(made), len(made)) == (members, members, 2)
    assert isinstance(made, results.ResultSet) == ours


def test_a_set_may_begin_empty(app: Celery, backend: JournalBackend) -> None:
    """R25, R36: with ours, the results need not be given."""
    for empty in (app.ResultSet(), results.ResultSet(app=app), app.GroupResult(), app.GroupResult("group")):
        assert (len(empty), empty.ready(), list(empty.iterate(timeout=PATIENCE)), empty.get(timeout=PATIENCE)) == (0, True, [], [])


# How they are


@pytest.mark.parametrize(
    ("values", "ready", "successful", "failed", "completed"),
    [
        pytest.param({}, False, False, False, 0, id="nothing"),
        pytest.param({"a": 1}, False, False, False, 1, id="one"),
        pytest.param({"a": 1, "b": 2}, True, True, False, 2, id="all"),
        pytest.param({"a": 1, "b": OSError()}, True, False, True, 1, id="one failed"),
        pytest.param({"b": OSError()}, False, False, True, 0, id="failed and waiting"),
    ],
)
def test_a_set_can_be_asked_how_it_is(
    make: Make, backend: JournalBackend, values: dict[str, Any], ready: bool, successful: bool, failed: bool, completed: int
) -> None:
    """R27, R28, R29, R30, R38, R39, R40, R66: ready, successful, failed, waiting, completed_count."""
    members = make("a", "b")
    store(backend, **values)

    assert (members.ready(), members.successful(), members.failed(), members.waiting()) == (ready, successful, failed, not ready)
    assert members.completed_count() == completed


def test_forgetting_a_set_forgets_its_members(make: Make, app: Celery, backend: JournalBackend) -> None:
    """R32: each of them."""
    store(backend, a=1, b=2)

    make("a", "b").forget()

    assert [app.AsyncResult(task_id).state for task_id in "ab"] == ["PENDING"] * 2


# get()


def test_get_returns_the_values_in_order(make: Make, backend: JournalBackend) -> None:
    """R26, R37: of the members, in whichever order they ended."""
    with waiting(make("a", "b", "c").get) as waiter:
        store(backend, c=3, a=1, b=2)

        assert waiter.result(PATIENCE) == [1, 2, 3]


@pytest.mark.parametrize("method", ["get", "join", "join_native"])
def test_every_way_to_join_gives_the_same(make: Make, backend: JournalBackend, method: str) -> None:
    """R26, R37, R66: get, join, join_native."""
    store(backend, a=1, b=OSError("no"), c=3)

    values = getattr(make("a", "b", "c"), method)(timeout=PATIENCE, propagate=False, interval=0.1, no_ack=True)

    assert (values[0], type(values[1]), values[2]) == (1, OSError, 3)
    with pytest.raises(OSError, match="no"):
        getattr(make("a", "b", "c"), method)(timeout=PATIENCE)


def test_get_gives_up_after_its_timeout(make: Make, backend: JournalBackend) -> None:
    """R26, R37: celery.exceptions.TimeoutError, when one of them is not ready."""
    store(backend, a=1)
    began = time.monotonic()

    with pytest.raises(CeleryTimeoutError):
        make("a", "nobody").get(timeout=0.3)

    assert 0.3 <= time.monotonic() - began < 0.3 + 0.5  # 50 ms are promised; the rest is for a machine that is busy


def test_get_gives_up_at_once_with_a_timeout_of_zero(make: Make, backend: JournalBackend) -> None:
    """R26, R37: one look; what is ready by then is returned."""
    store(backend, a=1, b=2)

    assert make("a", "b").get(timeout=0) == [1, 2]
    with pytest.raises(CeleryTimeoutError):
        make("a", "nobody").get(timeout=0)


def test_get_does_not_sit_out_a_long_interval(make: Make, backend: JournalBackend) -> None:
    """R26, R37 interval: it bounds nothing when the results are there."""
    waiter = in_background(make("a", "b").get, timeout=PATIENCE, interval=10 * PATIENCE)
    time.sleep(0.2)  # so that it waits by now; if it does not yet, the test only shows less

    store(backend, a=1, b=2)

    assert waiter.result(PATIENCE / 2) == [1, 2]


def test_get_calls_back_with_each_value(make: Make, backend: JournalBackend) -> None:
    """R26, R37 callback: called with id and value, instead of a list being returned."""
    heard: dict[str, Any] = {}
    store(backend, a=1, b=2)

    assert make("a", "b").get(timeout=PATIENCE, callback=heard.__setitem__) is None

    assert heard == {"a": 1, "b": 2}


def test_get_calls_on_interval_again_and_again(make: Make, backend: JournalBackend) -> None:
    """R26, R37 on_interval: as long as it waits."""
    calls: list[float] = []
    waiter = in_background(make("a").get, timeout=PATIENCE, interval=0.01, on_interval=lambda: calls.append(time.monotonic()))
    until(lambda: len(calls) >= 3, 10)
    store(backend, a=1)

    assert waiter.result(PATIENCE) == [1]


def test_get_tells_of_the_end_of_each_member(make: Make, backend: JournalBackend) -> None:
    """R26, R37 on_message: the meta of each, last the end."""
    messages: list[dict[str, Any]] = []
    with waiting(make("a", "b").get, on_message=messages.append) as waiter:
        store(backend, b=2, a=1)

        assert waiter.result(PATIENCE) == [1, 2]

    assert sorted((meta["task_id"], meta["status"], meta["result"]) for meta in messages) == [("a", "SUCCESS", 1), ("b", "SUCCESS", 2)]


def test_get_is_refused_within_a_task(make: Make, backend: JournalBackend) -> None:
    """R26, R37 disable_sync_subtasks: and so is iterate(), unless one insists."""
    store(backend, a=1)

    with denied_join_result():
        for call in (make("a").get, lambda: list(make("a").iterate())):
            with pytest.raises(RuntimeError, match=r"Never call result\.get"):
                call()
        assert make("a").get(timeout=PATIENCE, disable_sync_subtasks=False) == [1]


def test_a_group_of_groups_is_gathered_as_it_is_nested(app: Celery, backend: JournalBackend) -> None:
    """R26: the values of a group inside are a list."""
    group = app.GroupResult("outer", [app.AsyncResult("a"), app.GroupResult("inner", [app.AsyncResult("b"), app.AsyncResult("c")])])

    with waiting(group.get) as waiter:
        store(backend, c=3, b=2, a=1)

        assert waiter.result(PATIENCE) == [1, [2, 3]]


def test_a_group_inside_that_is_not_ready_keeps_nobody_beyond_the_timeout(app: Celery, backend: JournalBackend) -> None:
    """R26 timeout: it counts for the groups inside as well."""
    group = app.GroupResult("outer", [app.AsyncResult("a"), app.GroupResult("inner", [app.AsyncResult("nobody")])])
    store(backend, a=1)

    with pytest.raises(CeleryTimeoutError):
        in_background(group.get, timeout=0.3).result(PATIENCE / 4)


# iterate(), iter_native(), then()


def test_iterate_yields_values_as_they_come(make: Make, backend: JournalBackend) -> None:
    """R33, R42: each before the next has ended, and in the order of their ends."""
    values = make("a", "b", "c").iterate(timeout=PATIENCE, interval=0.1)

    for task_id, value in (("c", 3), ("a", 1), ("b", 2)):
        store(backend, **{task_id: value})
        assert next(values) == value

    assert list(values) == []


def test_iterate_yields_again_what_has_been_read(make: Make, backend: JournalBackend) -> None:
    """R33, R42: after get(), as the examples do."""
    store(backend, a=1, b=2)
    members = make("a", "b")
    members.get(timeout=PATIENCE)

    assert sorted(members.iterate(timeout=PATIENCE)) == [1, 2]
    assert sorted(members.iterate(timeout=PATIENCE)) == [1, 2]


def test_iterate_raises_what_a_task_raised(make: Make, backend: JournalBackend) -> None:
    """R33, R42 propagate: or yields it, when told not to raise."""
    store(backend, a=OSError("no"))

    with pytest.raises(OSError, match="no"):
        list(make("a").iterate(timeout=PATIENCE))
    (error,) = make("a").iterate(timeout=PATIENCE, propagate=False)
    assert isinstance(error, OSError)


def test_iterate_gives_up_after_its_timeout(make: Make, backend: JournalBackend) -> None:
    """R33, R42 timeout: what is ready has been yielded by then."""
    store(backend, a=1)
    values = make("a", "nobody").iterate(timeout=0.3)
    began = time.monotonic()

    assert next(values) == 1
    with pytest.raises(CeleryTimeoutError):
        next(values)

    assert time.monotonic() - began >= 0.3


def test_iterate_yields_a_group_inside_as_a_list(app: Celery, backend: JournalBackend) -> None:
    """R33: when all of it is ready, so that it keeps nobody waiting."""
    group = app.GroupResult("outer", [app.GroupResult("inner", [app.AsyncResult("b"), app.AsyncResult("c")]), *map(app.AsyncResult, "ad")])
    values = group.iterate(timeout=PATIENCE, interval=0.1)

    store(backend, b=2, a=1)
    assert next(values) == 1
    store(backend, c=3)
    assert next(values) == [2, 3]
    store(backend, d=4)

    assert list(values) == [4]


def test_iterate_raises_for_a_group_inside(app: Celery, backend: JournalBackend) -> None:
    """R33: what one of its tasks raised, or TimeoutError; with propagate=False the exception is among the values."""
    store(backend, b=OSError("no"))
    failed, never = app.GroupResult("failed", [app.AsyncResult("b")]), app.GroupResult("never", [app.AsyncResult("nobody")])

    with pytest.raises(OSError, match="no"):
        list(app.GroupResult("outer", [failed]).iterate(timeout=PATIENCE))
    ((error,),) = app.GroupResult("outer", [failed]).iterate(timeout=PATIENCE, propagate=False)
    assert isinstance(error, OSError)
    with pytest.raises(CeleryTimeoutError):
        in_background(lambda: list(app.GroupResult("outer", [never]).iterate(timeout=0.3))).result(PATIENCE / 4)


def test_iterate_goes_through_the_results_of_eager_tasks(make_app: NewApp) -> None:
    """R33: which no backend has."""
    app = install(make_app(task_always_eager=True))
    eager = app.GroupResult("group", [stock.EagerResult("a", 1, "SUCCESS"), stock.EagerResult("b", OSError("no"), "FAILURE")])

    values = eager.iterate()

    assert next(values) == 1
    with pytest.raises(OSError, match="no"):
        next(values)


def test_iter_native_yields_each_meta(make: Make, backend: JournalBackend) -> None:
    """R66: pairs of id and meta."""
    store(backend, a=1, b=OSError())

    found = dict(make("a", "b").iter_native(timeout=PATIENCE))

    assert {task_id: meta["status"] for task_id, meta in found.items()} == {"a": "SUCCESS", "b": "FAILURE"}


def test_then_calls_back_when_all_are_ready(make: Make, backend: JournalBackend) -> None:
    """R66: though nobody waits, and once."""
    heard: list[Any] = []
    members = make("a", "b")
    members.then(heard.append)
    store(backend, a=1)
    quiet = list(heard)

    store(backend, b=2)

    until(lambda: heard, 10)
    assert (quiet, [list(one) for one in heard]) == ([], [members.results])


def test_a_restored_group_and_its_original_are_both_told(app: Celery, backend: JournalBackend) -> None:
    """R66: two that wait for the same tasks, at the same time."""
    original = app.GroupResult("group", [app.AsyncResult("a"), app.AsyncResult("b")])
    original.save(backend=backend)
    restored = app.GroupResult.restore("group", backend=backend, app=app)

    with waiting(original.get) as first, waiting(restored.get) as second:
        store(backend, a=1, b=2)

        assert (first.result(PATIENCE), second.result(PATIENCE)) == ([1, 2], [1, 2])
    restored.delete(backend=backend)
    assert app.GroupResult.restore("group", backend=backend, app=app) is None


# Changing one


def test_results_are_added_to_a_set(make: Make, app: Celery, backend: JournalBackend) -> None:
    """R43, R66: add and update, each once; get() then waits for them too."""
    members = make("a")

    members.add(app.AsyncResult("b"))
    members.add(app.AsyncResult("b"))
    members.update([app.AsyncResult("b"), app.AsyncResult("c")])

    assert [member.id for member in members.results] == ["a", "b", "c"]
    store(backend, a=1, b=2, c=3)
    assert members.get(timeout=PATIENCE) == [1, 2, 3]


def test_results_are_taken_from_a_set(make: Make, app: Celery) -> None:
    """R44, R66: remove by result or id, discard what may be missing, clear all."""
    members = make("a", "b", "c")

    members.remove(app.AsyncResult("a"))
    members.remove("b")
    members.discard(app.AsyncResult("nobody"))

    assert [member.id for member in members.results] == ["c"]
    with pytest.raises(KeyError):
        members.remove("a")
    members.clear()
    assert list(members) == []
