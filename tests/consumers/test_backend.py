"""The result backend, called as Celery calls it: which event each call is, and what AsyncResult then shows."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from celery import Celery, states
from celery.app.task import Context
from celery.exceptions import NotRegistered, TaskRevokedError
from celery.utils.objects import Bunch

from celery_journal.consumers.backend import JournalBackend
from celery_journal.projections import verify

from .scene import WORKER, ask, current, delivered, kinds, new_app, recorded, row, url_of

NewApp = Callable[..., Celery]

#: Each state, what is stored with it, the kind of event that it is, and the result that AsyncResult shows.
STATES = [
    pytest.param("RECEIVED", None, "task-received", None, id="received"),
    pytest.param("STARTED", {"pid": 1, "hostname": "w"}, "task-started", {"pid": 1, "hostname": "w"}, id="started"),
    pytest.param("PROGRESS", {"done": 3}, "task-progress", {"done": 3}, id="progress"),
    pytest.param("RETRY", OSError("later"), "task-retried", OSError("later"), id="retry"),
    pytest.param("REJECTED", None, "task-rejected", None, id="rejected"),
    pytest.param("REVOKED", TaskRevokedError("revoked"), "task-revoked", TaskRevokedError("revoked"), id="revoked"),
    pytest.param("FAILURE", ValueError("no", 7), "task-failed", ValueError("no", 7), id="failure"),
    pytest.param("IGNORED", None, "task-ignored", None, id="ignored"),
    pytest.param("SUCCESS", [1, {"a": None}], "task-succeeded", [1, {"a": None}], id="success"),
]


def same(left: object, right: object) -> bool:
    if isinstance(left, BaseException) and isinstance(right, BaseException):
        return type(left) is type(right) and left.args == right.args
    return left == right


# What a state is


@pytest.mark.parametrize(("state", "stored", "kind", "shown"), STATES)
def test_a_state_is_an_event_and_what_async_result_shows(
    app: Celery, backend: JournalBackend, dsn: str, state: str, stored: Any, kind: str, shown: Any
) -> None:
    """Each of Celery's states has its kind, and any other is task-progress."""
    request = delivered(app)

    backend.store_result(request.id, stored, state, request=request)

    (event,) = [place.event for place in recorded(dsn, request.id)]
    assert (event.kind, getattr(event, "state", None)) == (kind, state)
    result = app.AsyncResult(request.id)
    assert result.state == state
    assert same(result.result, shown)
    assert result.ready() == (state in states.READY_STATES)


@pytest.mark.parametrize(("state", "stored", "kind", "shown"), STATES)
def test_only_an_end_has_a_date_done(app: Celery, backend: JournalBackend, state: str, stored: Any, kind: str, shown: Any) -> None:
    """date_done is the moment of the end, and nothing before."""
    backend.store_result("a", stored, state, request=delivered(app, task_id="a"))

    assert (app.AsyncResult("a").date_done is not None) == (state in {*states.READY_STATES, states.IGNORED})


def test_the_traceback_is_kept(app: Celery, backend: JournalBackend) -> None:
    """What failed and what is retried says where."""
    backend.mark_as_failure("a", ValueError(), traceback="Traceback: here", request=delivered(app, task_id="a"))
    backend.mark_as_retry("b", ValueError(), traceback="Traceback: there", request=delivered(app, task_id="b"))

    assert (app.AsyncResult("a").traceback, app.AsyncResult("b").traceback) == ("Traceback: here", "Traceback: there")


def test_an_unknown_task_is_pending(app: Celery, backend: JournalBackend) -> None:
    """Celery cannot tell unknown from queued; the backend can be asked whether it knows the task."""
    assert app.AsyncResult("nobody").state == "PENDING"
    assert app.AsyncResult("nobody").result is None
    assert not backend.task_result_exists("nobody")


def test_a_task_of_which_something_is_known_exists(app: Celery, backend: JournalBackend) -> None:
    """The first fact makes it known."""
    backend.store_result("a", None, "RECEIVED", request=delivered(app, task_id="a"))

    assert backend.task_result_exists("a")


# What the request tells


def test_the_request_lands_in_the_view(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """Everything that a worker knows of a task can be searched for."""
    request = delivered(
        app,
        "scene.add",
        (1, 2),
        {"z": 3},
        root_id="root",
        parent_id="parent",
        group_id="group",
        group_index=4,
        retries=2,
    )

    backend.store_result(request.id, 3, "SUCCESS", request=request)

    shown = row(dsn, request.id)
    assert (shown.task_name, shown.task_args, shown.task_kwargs) == ("scene.add", "[1, 2]", '{"z": 3}')
    assert (shown.root_id, shown.parent_id, shown.group_id) == ("root", "parent", "group")
    assert (shown.worker, shown.queue, shown.retries) == (WORKER, "work", 2)
    (event,) = [place.event for place in recorded(dsn, request.id)]
    assert (event.attempt, getattr(event, "group_index", None)) == (2, 4)


@pytest.mark.parametrize("place", [pytest.param("headers", id="header"), pytest.param("properties", id="property")])
def test_the_periodic_task_that_sent_it_is_known(app: Celery, backend: JournalBackend, dsn: str, place: str) -> None:
    """django-celery-beat puts the name among the properties of the message; AMQP carries only headers that far."""
    more: dict[str, Any] = {place: {"periodic_task_name": "nightly"}}
    request = delivered(app, **more)

    backend.store_result(request.id, 3, "SUCCESS", request=request)

    assert row(dsn, request.id).periodic_task_name == "nightly"


def test_how_it_was_sent_is_kept_in_the_event(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """Enough to tell when it was to run, and to send it again the same way."""
    request = delivered(app, eta="2030-01-01T00:00:00+00:00", expires="2031-01-01T00:00:00+00:00", time_limit=9, origin="me@here")

    backend.store_result(request.id, 3, "SUCCESS", request=request)

    (event,) = [place.event for place in recorded(dsn, request.id)]
    sent = getattr(event, "request", None) or {}
    assert (sent["eta"], sent["expires"], sent["origin"]) == ("2030-01-01T00:00:00+00:00", "2031-01-01T00:00:00+00:00", "me@here")
    assert sent["timelimit"] == [9, None]
    assert sent["delivery_info"]["routing_key"] == "work"


def test_async_result_shows_the_request(app: Celery, backend: JournalBackend) -> None:
    """With result_extended, as stock Celery shows it."""
    request = delivered(app, "scene.add", (1, 2), {"z": 3}, group_id="group", retries=1)

    backend.store_result(request.id, 3, "SUCCESS", request=request)

    result = app.AsyncResult(request.id)
    assert (result.name, result.args, result.kwargs) == ("scene.add", [1, 2], {"z": 3})
    assert (result.worker, result.queue, result.retries) == (WORKER, "work", 1)
    assert result._get_task_meta()["group_id"] == "group"


def test_without_result_extended_the_request_is_not_shown(make_app: NewApp, dsn: str) -> None:
    """The setting hides it from AsyncResult, as stock Celery does; the journal has it all the same."""
    app = make_app(result_extended=False)
    request = delivered(app, "scene.add", (1, 2), parent_id="parent")

    app.backend.store_result(request.id, 3, "SUCCESS", request=request)

    result = app.AsyncResult(request.id)
    assert (result.name, result.args, result.kwargs, result.worker, result.queue) == (None, None, None, None, None)
    assert result._get_task_meta()["parent_id"] == "parent"
    assert row(dsn, request.id).task_name == "scene.add"


def test_stamps_are_shown(app: Celery, backend: JournalBackend) -> None:
    """A stamp is a key of the meta, as in stock Celery."""
    request = delivered(app, stamped_headers=["customer"], customer=["c7"])

    backend.store_result(request.id, 3, "SUCCESS", request=request)

    meta = app.AsyncResult(request.id)._get_task_meta()
    assert (meta["customer"], meta["stamped_headers"]) == (["c7"], ["customer"])


def test_a_stamp_cannot_stand_for_the_state(app: Celery, backend: JournalBackend) -> None:
    """A stamp called `status` or `result` does not hide the task's own."""
    request = delivered(app, stamped_headers=["status", "result"], status=["gold"], result=["none"])

    backend.store_result(request.id, 3, "SUCCESS", request=request)

    assert (app.AsyncResult(request.id).state, app.AsyncResult(request.id).result) == ("SUCCESS", 3)


def test_children_are_shown(app: Celery, backend: JournalBackend) -> None:
    """The tasks that a task has sent can be followed."""
    request = delivered(app)
    request.children.append(app.AsyncResult("child", parent=app.AsyncResult(request.id)))
    request.children.append(app.GroupResult("group", [app.AsyncResult("x"), app.AsyncResult("y")]))

    backend.store_result(request.id, 3, "SUCCESS", request=request)

    child, group = app.AsyncResult(request.id).children
    assert child.id == "child"
    assert [member.id for member in group] == ["x", "y"]


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(None, id="none"),
        pytest.param(Bunch(), id="empty"),
        pytest.param(Context(), id="empty context"),
        pytest.param(Bunch(name="x", chord=None, root_id="r", correlation_id="c", reply_to=None, errbacks=None), id="unknown task"),
        pytest.param(Context({"task": "x", "args": [1], "kwargs": None, "options": {"task_id": "a"}}), id="chain element"),
        pytest.param(Context(delivery_info="?", stamps={"s": object()}, args=(object(),), task=object()), id="odd"),
    ],
)
def test_any_request_will_do(backend: JournalBackend, dsn: str, request_: Any) -> None:
    """What a request lacks, and what nobody can encode of it, does not keep a state from being stored."""
    backend.store_result("a", 3, "SUCCESS", request=request_)

    assert (row(dsn, "a").status, row(dsn, "a").result) == ("SUCCESS", b"3")


def test_an_unregistered_task_fails_under_its_name(backend: JournalBackend, dsn: str) -> None:
    """The worker knows nothing of it but the name, and that is what one looks for."""
    request = Bunch(name="scene.gone", chord=None, root_id="r", correlation_id="a", reply_to=None, errbacks=None)

    backend.mark_as_failure("a", NotRegistered("scene.gone"), request=request)

    assert (row(dsn, "a").status, row(dsn, "a").task_name, row(dsn, "a").root_id) == ("FAILURE", "scene.gone", "r")


def test_a_task_id_may_be_a_uuid(app: Celery, backend: JournalBackend) -> None:
    """Whoever passes a UUID gets the task of that name."""
    task_id = uuid4()

    backend.store_result(task_id, 3, "SUCCESS")

    assert app.AsyncResult(task_id).get(timeout=10) == 3
    assert app.AsyncResult(str(task_id)).result == 3
    assert [key for key, _ in backend.get_many([task_id])] == [str(task_id)]


def test_a_failure_fails_the_rest_of_the_chain(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """Whoever waits for the end of a chain hears of the failure."""
    request = delivered(app, task_id="first")
    request.chain = [app.signature(f"scene.{name}", task_id=name) for name in ("third", "second")]

    backend.mark_as_failure("first", ValueError("no"), request=request)

    assert [row(dsn, name).status for name in ("first", "second", "third")] == ["FAILURE"] * 3
    assert row(dsn, "third").task_name == "scene.third"


# The order of facts


@pytest.mark.parametrize(("state", "stored", "kind", "shown"), STATES[:-1])
def test_success_is_never_undone(app: Celery, backend: JournalBackend, dsn: str, state: str, stored: Any, kind: str, shown: Any) -> None:
    """Whatever comes later, from any attempt, a task that succeeded has succeeded; the log has both."""
    backend.store_result("a", 3, "SUCCESS", request=delivered(app, task_id="a"))

    backend.store_result("a", stored, state, request=delivered(app, task_id="a", retries=1))

    assert (app.AsyncResult("a").state, app.AsyncResult("a").result) == ("SUCCESS", 3)
    assert kinds(dsn, "a") == ["task-succeeded", kind]


def test_the_first_success_stays_when_a_redelivery_fails(app: Celery, backend: JournalBackend) -> None:
    """A task that runs twice does not take its first result back."""
    backend.mark_as_done("a", 3, request=delivered(app, task_id="a"))

    backend.mark_as_failure("a", ValueError(), request=delivered(app, task_id="a"))

    assert app.AsyncResult("a").get(timeout=10) == 3


def test_a_revoke_of_a_finished_task_changes_nothing(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """Every worker that hears of a revoke stores it, with no request."""
    backend.mark_as_done("a", 3, request=delivered(app, task_id="a"))

    backend.mark_as_revoked("a", "revoked", request=None)
    backend.mark_as_revoked("a", "revoked", request=None)

    assert app.AsyncResult("a").state == "SUCCESS"
    assert kinds(dsn, "a") == ["task-succeeded", "task-revoked"]  # one request, whoever tells of it


def test_a_revoke_of_a_running_task_changes_nothing(app: Celery, backend: JournalBackend) -> None:
    """As long as no worker has effected it, it runs."""
    backend.store_result("a", None, "STARTED", request=delivered(app, task_id="a"))

    backend.mark_as_revoked("a", "revoked", request=None)

    assert app.AsyncResult("a").state == "STARTED"


def test_a_revoke_by_the_worker_that_has_it_counts(app: Celery, backend: JournalBackend) -> None:
    """Terminated, expired, or revoked before it began."""
    request = delivered(app, task_id="a")
    backend.store_result("a", None, "STARTED", request=request)

    backend.mark_as_revoked("a", "terminated", request=request)

    assert app.AsyncResult("a").state == "REVOKED"


def test_a_revoke_of_a_task_nobody_has_seen_is_shown(app: Celery, backend: JournalBackend) -> None:
    """Of a task that waits in its queue, the revoke is all that is known."""
    backend.mark_as_revoked("a", "revoked", request=None)

    assert app.AsyncResult("a").state == "REVOKED"
    assert same(app.AsyncResult("a").result, TaskRevokedError("revoked"))


def test_a_late_start_does_not_undo_a_failure(app: Celery, backend: JournalBackend) -> None:
    """Of one attempt, the end counts, in whichever order they come."""
    request = delivered(app, task_id="a")
    backend.mark_as_failure("a", ValueError(), request=request)

    backend.store_result("a", None, "STARTED", request=request)

    assert app.AsyncResult("a").state == "FAILURE"


def test_a_late_retry_does_not_undo_the_start_of_the_next_attempt(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """Celery stores RETRY after it has sent the next attempt, which may have begun by then."""
    backend.store_result("a", None, "STARTED", request=delivered(app, task_id="a", retries=1))

    backend.mark_as_retry("a", OSError(), request=delivered(app, task_id="a", retries=0))

    assert (app.AsyncResult("a").state, row(dsn, "a").retries) == ("STARTED", 1)


def test_a_failure_that_is_stored_twice_is_one_failure(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """Celery stores a hard time limit twice: two facts, and one state."""
    request = delivered(app, task_id="a")
    backend.mark_as_failure("a", ValueError("first"), request=request)
    backend.mark_as_failure("a", ValueError("second"), request=request)

    assert app.AsyncResult("a").state == "FAILURE"
    assert kinds(dsn, "a") == ["task-failed", "task-failed"]


# Forgetting


def test_a_forgotten_task_is_unknown_and_the_log_keeps_it(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """forget() acts on the view."""
    backend.store_result("a", 3, "SUCCESS", request=delivered(app, task_id="a"))
    app.AsyncResult("a").get(timeout=10)

    app.AsyncResult("a").forget()

    assert app.AsyncResult("a").state == "PENDING"
    assert not backend.task_result_exists("a")
    assert kinds(dsn, "a") == ["task-succeeded", "task-forgotten"]


def test_a_forgotten_task_that_runs_again_is_a_new_one(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """Nothing of what was forgotten comes back, not even by SUCCESS being final."""
    backend.store_result("a", 3, "SUCCESS", request=delivered(app, task_id="a"))
    backend.forget("a")

    backend.store_result("a", None, "STARTED")

    assert app.AsyncResult("a").state == "STARTED"
    assert (row(dsn, "a").task_name, row(dsn, "a").date_done) == (None, None)
    assert kinds(dsn, "a") == ["task-succeeded", "task-forgotten", "task-started"]


def test_forgetting_what_nobody_knows_is_no_error(app: Celery, backend: JournalBackend) -> None:
    """As with Celery's own backends."""
    backend.forget("nobody")

    assert app.AsyncResult("nobody").state == "PENDING"


# Waiting and reading


def test_get_raises_what_the_task_raised(app: Celery, backend: JournalBackend) -> None:
    """The exception comes back as it was."""
    backend.mark_as_failure("a", KeyError("missing"), request=delivered(app, task_id="a"))

    with pytest.raises(KeyError, match="missing"):
        app.AsyncResult("a").get(timeout=10)


def test_get_gives_up_after_the_timeout(app: Celery) -> None:
    """Whoever waits for nobody is told so."""
    with pytest.raises(app.backend.TimeoutError):
        app.AsyncResult("nobody").get(timeout=0.1)


def test_get_returns_when_the_result_comes(app: Celery, backend: JournalBackend) -> None:
    """A waiter is served by a store from another thread."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(app.AsyncResult("a").get, timeout=60)

        backend.mark_as_done("a", 3, request=delivered(app, task_id="a"))

        assert waiting.result() == 3


def test_get_many_yields_only_what_is_ready(app: Celery, backend: JournalBackend) -> None:
    """One look at several tasks, as ResultSet takes it."""
    backend.mark_as_done("a", 1)
    backend.mark_as_failure("b", ValueError())
    backend.store_result("c", None, "STARTED")

    found = dict(backend.get_many(["a", "b", "c", "nobody"], max_iterations=1))

    assert {task_id: meta["status"] for task_id, meta in found.items()} == {"a": "SUCCESS", "b": "FAILURE"}


def test_get_many_gives_up_after_the_timeout(backend: JournalBackend) -> None:
    """Celery's own TimeoutError, which users catch."""
    with pytest.raises(backend.TimeoutError):
        list(backend.get_many(["nobody"], timeout=0.05))


def test_date_done_is_aware_and_in_the_timezone_of_the_app(make_app: NewApp) -> None:
    """The same moment, told in the user's time."""
    before = datetime.now(UTC)
    app = make_app(timezone="Asia/Tokyo")

    app.backend.mark_as_done("a", 1)

    done = app.AsyncResult("a").date_done
    assert done is not None
    assert done.utcoffset() == timedelta(hours=9)
    assert before <= done <= datetime.now(UTC)


# The backend as an object


def test_a_result_survives_pickling(app: Celery, backend: JournalBackend) -> None:
    """An AsyncResult takes its backend along."""
    backend.mark_as_done("a", 3)

    with current(app):
        copy = pickle.loads(pickle.dumps(app.AsyncResult("a")))

    assert copy.get(timeout=10) == 3
    copy.backend.database.close()


def test_a_pickled_backend_is_configured_as_the_original(make_app: NewApp, dsn: str) -> None:
    """Address, serializer and expiry are part of it."""
    app = make_app(result_serializer="pickle", result_expires=77)

    with current(app):
        copy = pickle.loads(pickle.dumps(app.backend))

    assert (copy.url, copy.serializer, copy.expires) == (app.backend.url, "pickle", 77)


def test_one_backend_serves_sixteen_threads(make_app: NewApp, dsn: str) -> None:
    """Threads share one bounded pool, from its first moment on, and read what each has written."""
    app = make_app(url_of(dsn, application_name="sixteen"), result_backend_transport_options={"pool_size": 3})
    together, backend = Barrier(16), app.backend  # Celery makes one a thread where several ask for the first at once

    def work(number: int) -> list[int]:
        together.wait()
        found = []
        for turn in range(10):
            backend.store_result(f"{number}-{turn}", turn, "SUCCESS", request=delivered(app, task_id=f"{number}-{turn}"))
            found.append(backend.get_task_meta(f"{number}-{turn}")["result"])
        return found

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(work, range(16)))

    assert found == [list(range(10))] * 16
    ((sessions,),) = ask(dsn, b"select count(*) from pg_stat_activity where application_name = 'sixteen'")
    assert sessions <= 3


def test_building_a_backend_opens_no_connection() -> None:
    """A worker builds it before it forks, and a web process may never use it."""
    backend = new_app("journal+postgresql://nobody@127.0.0.1:1/nothing").backend

    assert backend.as_uri() == "journal+postgresql://nobody@127.0.0.1:1/nothing"


def test_the_views_are_what_the_log_folds_to(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """After all kinds of calls, a rebuild would change nothing."""
    for number, param in enumerate(STATES):
        state, stored, _, _ = param.values
        backend.store_result(f"t{number}", stored, str(state), request=delivered(app, task_id=f"t{number}"))
        backend.store_result("all", stored, str(state), request=delivered(app, task_id="all", retries=number % 3))
    backend.forget("t1")
    backend.store_result("t1", 1, "SUCCESS")

    with psycopg.connect(dsn, autocommit=True) as connection:
        verification = verify(connection)

    assert not verification.differences
    assert verification.rows > 0
