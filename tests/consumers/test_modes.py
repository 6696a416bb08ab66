"""Celery's other ways with results: eager tasks, tasks that can be aborted, ids that are no text, the cache, what is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.contrib.abortable import AbortableAsyncResult
from celery.exceptions import Ignore
from celery.result import EagerResult
from kombu.exceptions import ContentDisallowed

from celery_journal.consumers import install

from .scene import SERIALIZERS, ask, delivered, in_background, kinds, recorded, row, until, url_of
from .workers import Worker, available, working

NewApp = Callable[..., Celery]

PATIENCE = 60


# Eager tasks


def adding(app: Celery) -> Any:
    @app.task(name="scene.add", shared=False)
    def add(x: int, y: int) -> int:
        """Return the sum."""
        if y < 0:
            raise ValueError("negative")
        return x + y

    return add


def test_an_eager_task_needs_no_journal(make_app: NewApp, dsn: str) -> None:
    """task_always_eager runs it here; nothing is stored, and a group can be gone through as usual."""
    app = install(make_app(task_always_eager=True))
    add = adding(app)

    result = add.delay(1, 2)

    assert isinstance(result, EagerResult)
    assert (result.get(), result.state, kinds(dsn, result.id)) == (3, "SUCCESS", [])
    assert ask(dsn, b"select count(*) from celery_journal.event") == [(0,)]


def test_an_eager_task_is_stored_on_request(make_app: NewApp, dsn: str) -> None:
    """task_store_eager_result: its end is in the journal, and others can read it."""
    app = make_app(task_always_eager=True, task_store_eager_result=True, task_track_started=True)
    add = adding(app)

    good, bad = add.delay(1, 2), add.delay(1, -2)

    assert kinds(dsn, good.id)[-1] == "task-succeeded"
    assert kinds(dsn, bad.id)[-1] == "task-failed"
    stored = app.AsyncResult(good.id)
    assert (stored.get(timeout=PATIENCE), stored.name, stored.args) == (3, "scene.add", [1, 2])
    with pytest.raises(ValueError, match="negative"):
        app.AsyncResult(bad.id).get(timeout=PATIENCE)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
@pytest.mark.parametrize("ends", ["well", "in failure", "after a retry", "ignored", "by Ignore"])
def test_the_end_of_an_eager_task_that_tells_of_its_progress_is_recorded(make_app: NewApp, dsn: str, stored: bool, ends: str) -> None:
    """Whether its result is stored or not: else it would be under way for ever, for all that the journal says."""
    app = make_app(task_always_eager=True, task_store_eager_result=stored)

    @app.task(name="scene.tell", shared=False, bind=True, ignore_result=ends == "ignored")
    def tell(self: Any) -> int:
        """Tell of the progress, and end."""
        if self.request.retries == 0:
            self.update_state(state="PROGRESS", meta={"done": 1})
        if ends == "in failure":
            raise ValueError("no")
        if ends == "after a retry" and self.request.retries == 0:
            raise self.retry(countdown=0)
        if ends == "by Ignore":
            raise Ignore
        return 1

    result = tell.delay()
    app.backend.buffer.flush()

    is_stored = stored and ends in {"well", "after a retry"}
    states = {"in failure": "FAILURE", "by Ignore": "PROGRESS"}  # the latter as with a worker: it has said last that it is so
    assert row(dsn, result.id).status == states.get(ends, "SUCCESS" if is_stored else "IGNORED")
    assert row(dsn, result.id).date_done is not None


def test_whoever_waits_in_eager_mode_is_warned(make_app: NewApp) -> None:
    """As by stock Celery: unless eager results are stored, nobody ever stores one."""
    app = make_app(task_always_eager=True)
    app.backend.mark_as_done("a", 3)

    with pytest.warns(RuntimeWarning, match="task_always_eager"):
        assert app.AsyncResult("a").get(timeout=PATIENCE) == 3


# Tasks that can be aborted


def running(app: Celery, task_id: str = "a", retries: int = 0) -> Any:
    """Store that the task has begun, and return its request."""
    request = delivered(app, task_id=task_id, retries=retries)
    app.backend.store_result(task_id, {"pid": 1}, "STARTED", request=request)
    return request


def aborted(app: Celery, task_id: str = "a") -> bool:
    """What AbortableTask.is_aborted() asks."""
    return bool(AbortableAsyncResult(task_id, backend=app.backend, app=app).is_aborted())


@pytest.mark.parametrize("begun", [True, False])
def test_an_abort_is_seen(app: Celery, begun: bool) -> None:
    """By the task, whether it had begun or begins then."""
    if begun:
        running(app)

    AbortableAsyncResult("a", backend=app.backend, app=app).abort()
    if not begun:
        running(app)

    assert aborted(app)


@pytest.mark.parametrize("retries", [1, 2])
def test_an_abort_is_seen_by_a_task_that_was_tried_again(app: Celery, dsn: str, retries: int) -> None:
    """Who aborts does not know the attempt: it is meant for the one that runs."""
    first = running(app)
    app.backend.mark_as_retry("a", OSError(), request=first)
    running(app, retries=retries)

    AbortableAsyncResult("a", backend=app.backend, app=app).abort()

    assert aborted(app)
    assert kinds(dsn, "a")[-1] == "task-progress"


@pytest.mark.parametrize("state", ["STARTED", "PROGRESS"])
def test_what_the_task_tells_later_does_not_lose_the_abort(app: Celery, state: str) -> None:
    """It may look only now and then, and tell of its progress in between."""
    request = running(app)
    AbortableAsyncResult("a", backend=app.backend, app=app).abort()

    app.backend.store_result("a", {"done": 1}, state, request=request)

    assert aborted(app)


@pytest.mark.parametrize(("state", "value"), [("SUCCESS", 3), ("FAILURE", OSError())])
def test_an_aborted_task_ends_as_it_ends(app: Celery, state: str, value: Any) -> None:
    """Whoever waits for it hears of the end."""
    request = running(app)
    AbortableAsyncResult("a", backend=app.backend, app=app).abort()

    app.backend.store_result("a", value, state, request=request)

    assert app.AsyncResult("a").state == state


def test_an_abort_of_a_finished_task_changes_nothing(app: Celery) -> None:
    """It comes too late."""
    app.backend.mark_as_done("a", 3, request=running(app))

    AbortableAsyncResult("a", backend=app.backend, app=app).abort()

    assert app.AsyncResult("a").get(timeout=PATIENCE) == 3


@pytest.fixture(scope="module")
def worker(embedded_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker with a task that can be aborted."""
    broker, folder = "redis" if available("redis") else "filesystem", tmp_path_factory.mktemp("modes")
    with working(broker, url_of(embedded_database), embedded_database, folder, include=["tests.consumers.abortable"]) as worker:
        yield worker


@pytest.mark.parametrize("attempt", [0, 1])
def test_a_task_on_a_worker_sees_that_it_is_aborted(worker: Worker, tmp_path: Path, attempt: int) -> None:
    """AbortableTask.is_aborted(), in its first attempt and in a later one."""
    sent = worker.send("until_aborted", attempt)
    result = AbortableAsyncResult(sent.id, backend=worker.app.backend, app=worker.app)
    until(lambda: [step.event.attempt for step in recorded(worker.dsn, sent.id) if step.event.kind == "task-progress"][-1:] == [attempt])

    result.abort()

    assert sent.get(timeout=PATIENCE) == "aborted"


# Ids


def test_ids_may_be_uuids(make_app: NewApp, dsn: str) -> None:
    """Everywhere that an id is given."""
    app = install(make_app())
    first, second, group_id = uuid4(), uuid4(), uuid4()
    waiter = in_background(app.AsyncResult(first).get, timeout=PATIENCE)

    app.backend.mark_as_done(first, 1)
    app.backend.mark_as_failure(second, OSError("no"))

    assert waiter.result(PATIENCE) == 1
    assert app.AsyncResult(first).exists()
    assert [step.kind for step in app.AsyncResult(second).history()] == ["task-failed"]
    assert app.GroupResult(group_id, [app.AsyncResult(first)]).get(timeout=PATIENCE) == [1]
    app.backend.forget(first)
    assert (app.AsyncResult(first).state, kinds(dsn, str(first))) == ("PENDING", ["task-succeeded", "task-forgotten"])


def test_a_task_on_a_worker_may_have_a_uuid(worker: Worker) -> None:
    """The id that was given is the id of the result."""
    task_id = uuid4()

    result = worker.send("add", 1, 2, task_id=str(task_id))

    assert result.get(timeout=PATIENCE) == 3
    assert worker.app.AsyncResult(task_id).get(timeout=PATIENCE) == 3


# The cache


@pytest.mark.parametrize(("size", "kept"), [(-1, 0), (1, 1), (2, 2), (0, 3)])
def test_so_many_results_are_remembered(make_app: NewApp, size: int, kept: int) -> None:
    """result_cache_max: -1 is none, 0 as many as there are."""
    app = make_app(result_cache_max=size)
    for task_id in "abc":
        app.backend.mark_as_done(task_id, task_id)
        assert app.AsyncResult(task_id).get(timeout=PATIENCE) == task_id

    assert sum(app.backend.is_cached(task_id) for task_id in "abc") == kept
    assert [app.AsyncResult(task_id).get(timeout=PATIENCE) for task_id in "abc"] == ["a", "b", "c"]
    assert app.ResultSet([app.AsyncResult(task_id) for task_id in "abc"]).get(timeout=PATIENCE) == ["a", "b", "c"]


def test_a_remembered_result_is_read_anew_on_request(make_app: NewApp) -> None:
    """reload_task_result and reload_group_result: somebody else has forgotten it, or saved it again."""
    app, other = make_app(result_cache_max=100), make_app()
    backend = app.backend
    backend.mark_as_done("a", 3)
    app.AsyncResult("a").get(timeout=PATIENCE)
    app.GroupResult("g", [app.AsyncResult("a")]).save(backend=backend)
    backend.restore_group("g")
    other.backend.forget("a")
    other.backend.mark_as_done("a", 4)
    other.GroupResult("g", [other.AsyncResult("b")]).save(backend=other.backend)

    assert (app.AsyncResult("a").result, [member.id for member in backend.restore_group("g")]) == (3, ["a"])
    backend.reload_task_result("a")
    backend.reload_group_result("g")

    assert (app.AsyncResult("a").result, [member.id for member in backend.restore_group("g")]) == (4, ["b"])


# What is accepted


@pytest.mark.parametrize("serializer", [name for name in SERIALIZERS if name != "json"])
def test_only_what_is_accepted_is_read(make_app: NewApp, serializer: str) -> None:
    """result_accept_content decides on results, and not accept_content; the state is shown whatever the payload is."""
    make_app(result_serializer=serializer, accept_content=[serializer]).backend.mark_as_done("a", 3)

    strict = make_app(accept_content=[serializer, "json"], result_accept_content=["json"])
    lenient = make_app(accept_content=["json"], result_accept_content=[serializer])

    with pytest.raises(ContentDisallowed):
        strict.AsyncResult("a").get(timeout=PATIENCE)
    with pytest.raises(ContentDisallowed):
        strict.GroupResult("g", [strict.AsyncResult("a")]).get(timeout=PATIENCE)
    assert lenient.AsyncResult("a").get(timeout=PATIENCE) == 3


def test_stamps_on_a_worker_are_shown_and_hide_nothing(worker: Worker) -> None:
    """One called `status`, through a broker and back."""
    signature = worker.signature("add", 1, 2)
    signature.stamp(status="gold", customer="c7")

    result = signature.apply_async()

    assert (result.get(timeout=PATIENCE), result.state) == (3, "SUCCESS")
    meta = worker.app.backend.get_task_meta(result.id)
    assert meta["customer"] in {"c7", ("c7",)} or list(meta["customer"]) == ["c7"]
    assert (meta["status"], sorted(meta["stamped_headers"])) == ("SUCCESS", ["customer", "status"])


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/St_Johns"])
def test_times_are_told_in_the_users_zone(make_app: NewApp, dsn: str, zone: str) -> None:
    """timezone: the same moment in the meta, and UTC in the log and the view."""
    app = install(make_app(timezone=zone))
    app.backend.mark_as_done("a", 1, request=delivered(app, task_id="a"))

    done, (step,) = app.AsyncResult("a").date_done, app.AsyncResult("a").history()

    assert done == row(dsn, "a").date_done == step.occurred_at
    assert done is not None
    assert done.utcoffset() != timedelta(0)
    assert step.occurred_at.utcoffset() == timedelta(0)
