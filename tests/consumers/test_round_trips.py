"""What the backend costs: round trips to the database, counted by a proxy once connection and statements are warm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from .proxy import Proxy
from .scene import Mailbox, delivered, kinds, url_of

NewApp = Callable[..., Celery]

#: psycopg prepares a statement when it has seen it five times.
WARM = 6


@pytest.fixture
def app(make_app: NewApp, proxy: Proxy, mailbox: Mailbox) -> Celery:
    """An app whose backend is behind the proxy, with everything prepared."""
    app = make_app(url_of(proxy.dsn), result_cache_max=-1, **mailbox.conf)
    backend = app.backend
    backend.apply_chord(("warm", [app.AsyncResult(f"w{turn}") for turn in range(WARM)]), app.signature("scene.sum", task_id="warm-body"))
    for turn in range(WARM):
        request = delivered(app, task_id=f"w{turn}")
        backend.store_result(request.id, turn, "STARTED", request=request)
        backend.get_task_meta(request.id)
        list(backend.get_many([request.id], max_iterations=1))
        backend.restore_group("warm")
        backend.set_chord_size("warm", WARM + 1)
        backend.on_chord_part_return(member(app, "warm", turn), "SUCCESS", turn)
    return app


def member(app: Celery, group_id: str, index: int) -> Any:
    body = app.signature("scene.sum", task_id=f"{group_id}-body")
    return delivered(app, task_id=f"{group_id}-{index}", group_id=group_id, group_index=index, chord=body)


@pytest.mark.parametrize(
    ("state", "value"),
    [
        pytest.param("STARTED", {"pid": 1}, id="started"),
        pytest.param("PROGRESS", {"done": 1}, id="progress"),
        pytest.param("RETRY", OSError(), id="retry"),
        pytest.param("FAILURE", ValueError(), id="failure"),
        pytest.param("REVOKED", ValueError(), id="revoked"),
        pytest.param("SUCCESS", [1, 2, 3], id="success"),
    ],
)
def test_a_transition_is_one_round_trip(app: Celery, proxy: Proxy, dsn: str, state: str, value: Any) -> None:
    """The event, the fold into the view, and the commit, whether the task has a row already or not."""
    request = delivered(app, task_id="a")

    with proxy.counting() as first:
        app.backend.store_result("a", value, state, request=request)
    with proxy.counting() as second:
        app.backend.store_result("a", value, state, request=request)

    assert (first, second) == ([1], [1])
    assert len(kinds(dsn, "a")) == 2


def test_reading_a_result_is_one_round_trip(app: Celery, proxy: Proxy) -> None:
    """With everything that AsyncResult shows."""
    app.backend.store_result("a", 1, "SUCCESS", request=delivered(app, task_id="a"))

    with proxy.counting() as counted:
        assert app.AsyncResult("a").result == 1

    assert counted == [1]


def test_a_hundred_results_are_one_round_trip(app: Celery, proxy: Proxy) -> None:
    """get_many() asks for all at once."""
    ids = [f"a{number}" for number in range(100)]
    for number, task_id in enumerate(ids):
        app.backend.store_result(task_id, number, "SUCCESS")

    with proxy.counting() as counted:
        found = dict(app.backend.get_many(ids))

    assert counted == [1]
    assert [found[task_id]["result"] for task_id in ids] == list(range(100))


def test_the_results_of_a_group_are_one_round_trip(app: Celery, proxy: Proxy) -> None:
    """GroupResult.get() of a hundred members."""
    results = [app.AsyncResult(f"a{number}") for number in range(100)]
    for number, result in enumerate(results):
        app.backend.store_result(result.id, number, "SUCCESS")

    with proxy.counting() as counted:
        assert app.GroupResult("group", results).get(timeout=30) == list(range(100))

    assert counted == [1]


def test_restoring_a_group_is_one_round_trip(app: Celery, proxy: Proxy) -> None:
    """However many members it has."""
    app.backend.save_group("group", app.GroupResult("group", [app.AsyncResult(f"a{number}") for number in range(100)]))

    with proxy.counting() as counted:
        assert len(app.GroupResult.restore("group", app=app, backend=app.backend)) == 100

    assert counted == [1]


def test_a_part_of_a_chord_is_one_round_trip(app: Celery, proxy: Proxy) -> None:
    """The part, the count, and whether the body is ours to send."""
    app.backend.apply_chord(("g", [app.AsyncResult(f"g-{index}") for index in range(3)]), app.signature("scene.sum", task_id="g-body"))
    app.backend.set_chord_size("g", 3)
    part = member(app, "g", 0)

    with proxy.counting() as counted:
        app.backend.on_chord_part_return(part, "SUCCESS", 1)

    assert counted == [1]


def test_the_size_of_a_chord_is_one_round_trip(app: Celery, proxy: Proxy) -> None:
    """set_chord_size() also asks whether the parts are all there by now."""
    app.backend.apply_chord(("g", [app.AsyncResult("g-0")]), app.signature("scene.sum", task_id="g-body"))

    with proxy.counting() as counted:
        app.backend.set_chord_size("g", 1)

    assert counted == [1]


def test_the_last_part_of_a_wide_chord_costs_as_little_as_of_a_narrow_one(app: Celery, proxy: Proxy, mailbox: Mailbox) -> None:
    """Claim, values, header and end: a number of round trips that does not grow with the members."""
    costs = []
    for group_id, size in (("narrow", 2), ("wide", 60)):
        results = [app.AsyncResult(f"{group_id}-{index}") for index in range(size)]
        app.backend.apply_chord((group_id, results), app.signature("scene.sum", task_id=f"{group_id}-body"))
        app.backend.set_chord_size(group_id, size)
        for index in range(size - 1):
            app.backend.on_chord_part_return(member(app, group_id, index), "SUCCESS", index)
        with proxy.counting() as counted:
            app.backend.on_chord_part_return(member(app, group_id, size - 1), "SUCCESS", size - 1)
        costs += counted

    assert [message.id for message in mailbox.sent()] == ["narrow-body", "wide-body"]
    assert max(costs) <= min(costs) + 2  # a statement that is prepared meanwhile
