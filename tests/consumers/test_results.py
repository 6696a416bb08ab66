"""What AsyncResult offers, by the rows of the acceptance list: Celery's own members, and those that `install` adds."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery import result as stock
from celery.exceptions import ImproperlyConfigured, IncompleteStream
from celery.result import result_from_tuple

from celery_journal.consumers import install, results
from celery_journal.consumers.backend import JournalBackend
from celery_journal.journal.events import TaskSent

from .scene import WORKER, chained, current, delivered, kinds, new_app, start, url_of

NewApp = Callable[..., Celery]

#: Seconds to wait for what must come: only a test that fails waits so long.
PATIENCE = 60


@pytest.fixture
def app(make_app: NewApp) -> Celery:
    """An app on the test's journal, with our results."""
    return install(make_app())


def family(app: Celery, backend: JournalBackend) -> Any:
    """The result of a task that has sent one, which has sent two as a group."""
    top, middle = delivered(app, task_id="top"), delivered(app, task_id="middle")
    middle.children.append(app.GroupResult("group", [app.AsyncResult("left"), app.AsyncResult("right")]))
    top.children.append(app.AsyncResult("middle"))
    for request, value in ((top, 1), (middle, 2), (delivered(app, task_id="left"), 3), (delivered(app, task_id="right"), 4)):
        backend.mark_as_done(request.id, value, request=request)
    return app.AsyncResult("top")


# Celery's own class


@pytest.mark.parametrize("member", ["history", "attempts", "explain", "replay", "replay_of", "replayed_as", "aget", "ahistory"])
def test_celerys_own_class_says_where_our_members_are(app: Celery, member: str) -> None:
    """As code that says `from celery.result import AsyncResult` meets it; what neither has is Celery's error as before."""
    assert not hasattr(stock.AsyncResult, member)
    own = stock.AsyncResult("a", app=app)

    with pytest.raises(AttributeError, match=rf"^'AsyncResult' object has no attribute '{member}'; .*write app.AsyncResult\(task_id\)"):
        getattr(own, member)
    with pytest.raises(AttributeError, match=r"^'AsyncResult' object has no attribute 'histry'$"):
        _ = own.histry
    assert hasattr(app.AsyncResult("a"), member)
    assert (copy.copy(own).id, pickle.loads(pickle.dumps(own)).id) == ("a", "a")


# Making one


@pytest.mark.parametrize("ours", [pytest.param(True, id="installed"), pytest.param(False, id="stock")])
def test_a_result_is_made_of_an_id(make_app: NewApp, ours: bool) -> None:
    """R01: with each of Celery's arguments, with our classes and without."""
    app = make_app()
    if ours:
        install(app)
    parent = app.AsyncResult("p")

    made = app.AsyncResult("a", backend=app.backend, task_name="scene.add", app=app, parent=parent)

    assert (made.id, made.backend, made.app, made.parent) == ("a", app.backend, app, parent)
    assert isinstance(made, results.AsyncResult) == ours


def test_a_result_without_an_id_is_refused(app: Celery) -> None:
    """R01: as Celery does."""
    with pytest.raises(ValueError, match="requires valid id"):
        app.AsyncResult(None)


# What it says


@pytest.mark.parametrize(
    ("state", "ready", "successful", "failed", "retry"),
    [
        pytest.param(None, False, False, False, False, id="unknown"),
        pytest.param("STARTED", False, False, False, False, id="started"),
        pytest.param("PROGRESS", False, False, False, False, id="custom"),
        pytest.param("RETRY", False, False, False, True, id="retry"),
        pytest.param("SUCCESS", True, True, False, False, id="success"),
        pytest.param("FAILURE", True, False, True, False, id="failure"),
        pytest.param("REVOKED", True, False, False, False, id="revoked"),
    ],
)
def test_a_result_can_be_asked_how_it_is(
    app: Celery, backend: JournalBackend, state: str | None, ready: bool, successful: bool, failed: bool, retry: bool
) -> None:
    """R05, R06, R07, R08: as Celery answers, which says False where it is not ready; `retry` is ours."""
    if state:
        backend.store_result("a", OSError() if state in backend.EXCEPTION_STATES else 1, state)

    result = app.AsyncResult("a")

    assert (result.ready(), result.successful(), result.failed(), result.retry()) == (ready, successful, failed, retry)


def test_a_result_has_its_value_under_each_name(app: Celery, backend: JournalBackend) -> None:
    """R12, R13, R14, R15, R16: result, return_value and info; state and status."""
    backend.mark_as_done("a", {"x": [1]})

    result = app.AsyncResult("a")

    assert result.result == result.return_value == result.info == {"x": [1]}
    assert result.state == result.status == "SUCCESS"


def test_the_info_of_progress_is_its_meta(app: Celery, backend: JournalBackend) -> None:
    """R16: and it changes as the task goes on."""
    result = app.AsyncResult("a")
    for done in (1, 2):
        backend.store_result("a", {"done": done}, "PROGRESS")

        assert (result.state, result.info, result.return_value) == ("PROGRESS", {"done": done}, {"done": done})


def test_a_failure_has_its_exception_and_its_traceback(app: Celery, backend: JournalBackend) -> None:
    """R12, R17: of what was tried again too."""
    backend.mark_as_failure("a", ValueError("no"), traceback="Traceback: here")
    backend.mark_as_retry("b", OSError("later"), traceback="Traceback: there")

    failed, tried = app.AsyncResult("a"), app.AsyncResult("b")

    assert (type(failed.result), failed.traceback) == (ValueError, "Traceback: here")
    assert (type(tried.result), tried.traceback) == (OSError, "Traceback: there")
    assert app.AsyncResult("nobody").traceback is None


def test_a_result_has_its_id_under_each_name(app: Celery) -> None:
    """R18, R19: id and task_id, which are also its text, its hash and what it equals."""
    result = app.AsyncResult("a")

    assert result.id == result.task_id == str(result) == "a"
    assert (result == "a", hash(result), result == stock.AsyncResult("a", app=app)) == (True, hash("a"), True)


def test_a_result_says_what_ran_where(app: Celery, backend: JournalBackend) -> None:
    """R20, R21, R22, R65: name, args, kwargs; worker, queue, retries, date_done."""
    before = datetime.now(UTC)
    request = delivered(app, "scene.add", (1, "x"), {"y": None}, retries=2)

    backend.mark_as_done(request.id, 3, request=request)

    result = app.AsyncResult(request.id)
    assert (result.name, result.args, result.kwargs) == ("scene.add", [1, "x"], {"y": None})
    assert (result.worker, result.queue, result.retries) == (WORKER, "work", 2)
    assert result.date_done is not None
    assert before <= result.date_done <= datetime.now(UTC)


def test_a_result_knows_its_backend(app: Celery, backend: JournalBackend) -> None:
    """R23, R65: the one of the app, which joins natively."""
    assert app.AsyncResult("a").backend is backend
    assert app.AsyncResult("a").supports_native_join


def test_children_parents_and_groups_are_of_our_class(app: Celery, backend: JournalBackend) -> None:
    """R24: whatever is reached from a result has the history too."""
    (middle,) = family(app, backend).children
    (group,) = middle.children
    group.save(backend=backend)
    restored = app.GroupResult.restore("group", backend=backend)
    chain = result_from_tuple(chained(app).as_tuple(), app)

    for result in (middle, group[0], restored[1], chain, chain.parent, chain.parent.parent):
        assert isinstance(result, app.AsyncResult)
        assert isinstance(result, results.AsyncResult)
    assert isinstance(group, results.GroupResult)
    assert isinstance(restored, results.GroupResult)
    assert [step.kind for step in group[0].history()] == ["task-succeeded"]


# Following what a task has sent


def test_a_graph_shows_what_a_task_has_sent(app: Celery, backend: JournalBackend) -> None:
    """R11, R65: with edges from each task to those it sent; `graph` is the same."""
    result = family(app, backend)

    graph, dot = result.build_graph(), StringIO()
    graph.to_dot(dot)

    assert {str(node): sorted(map(str, graph[node])) for node in graph} == {
        "top": ["middle"],
        "middle": ["group"],
        "group": ["left", "right"],
        "left": [],
        "right": [],
    }
    assert "top" in dot.getvalue()
    assert set(map(str, result.graph)) == set(map(str, graph))


def test_a_graph_of_what_still_runs_is_drawn_on_request(app: Celery, backend: JournalBackend) -> None:
    """R11: `intermediate` takes what there is, `formatter` how it looks."""
    request = delivered(app, task_id="top")
    request.children.append(app.AsyncResult("late"))
    backend.mark_as_done("top", 1, request=request)

    with pytest.raises(IncompleteStream):
        app.AsyncResult("top").build_graph()
    graph = app.AsyncResult("top").build_graph(intermediate=True, formatter="mine")

    assert (set(map(str, graph)), graph.formatter) == ({"top", "late"}, "mine")


def test_the_results_of_what_a_task_has_sent_are_collected(app: Celery, backend: JournalBackend) -> None:
    """R65: collect, iterdeps and get_leaf walk down to the leaves."""
    result = family(app, backend)

    collected = [(node.id, value) for node, value in result.collect(timeout=PATIENCE)]

    assert collected == [("top", 1), ("middle", 2), ("group", [3, 4]), ("left", 3), ("right", 4)]
    assert [(parent and parent.id, node.id) for parent, node in result.iterdeps()][:3] == [
        (None, "top"),
        ("top", "middle"),
        ("middle", "group"),
    ]
    assert result.get_leaf() == 4


def test_a_result_can_be_written_down(app: Celery) -> None:
    """R52, R65: as_tuple is ((id, parent), children), which result_from_tuple reads; as_list has the ids."""
    result = chained(app)

    assert result.as_tuple() == (("c", (("b", (("a", None), None)), None)), None)
    assert result.as_list() == ["c", "b", "a"]
    again = result_from_tuple(result.as_tuple(), app)
    assert (again, again.parent, again.parent.parent) == (result, result.parent, result.parent.parent)


def test_a_written_group_is_read_with_its_members(app: Celery) -> None:
    """R52: and the groups inside, and its parent."""
    inner = app.GroupResult("inner", [app.AsyncResult("b")])
    group = app.GroupResult("outer", [app.AsyncResult("a"), inner], parent=app.AsyncResult("p"))

    again = result_from_tuple(group.as_tuple(), app)

    assert (again, again.parent.id, again.results[1]) == (group, "p", inner)
    assert result_from_tuple(group, app) is group


def test_an_error_can_be_thrown_again(app: Celery, backend: JournalBackend) -> None:
    """R65: throw raises what it is given, maybe_throw what the task raised, if it did."""
    backend.mark_as_failure("a", KeyError("missing"))
    backend.mark_as_done("b", 3)

    with pytest.raises(OSError, match="mine"):
        app.AsyncResult("b").throw(OSError("mine"))
    with pytest.raises(KeyError):
        app.AsyncResult("a").maybe_throw()
    assert isinstance(app.AsyncResult("a").maybe_throw(propagate=False), KeyError)
    assert app.AsyncResult("b").maybe_throw() == 3


# Forgetting


def test_forget_forgets_the_parents_too(app: Celery, backend: JournalBackend, dsn: str) -> None:
    """R10: as Celery does; the log keeps all."""
    for task_id in ("a", "b", "c"):
        backend.mark_as_done(task_id, 1)
    result = chained(app)
    result.get(timeout=PATIENCE)

    result.forget()

    assert [app.AsyncResult(task_id).state for task_id in ("a", "b", "c")] == ["PENDING"] * 3
    assert kinds(dsn, "a") == ["task-succeeded", "task-forgotten"]


@pytest.mark.parametrize("stored", [None, "RECEIVED", "PROGRESS", "SUCCESS"])
def test_a_result_says_whether_its_task_is_known(app: Celery, backend: JournalBackend, stored: str | None) -> None:
    """R65: exists() tells a task that waits from one that nobody has heard of, with any version of Celery."""
    if stored:
        backend.store_result("a", None, stored)

    assert app.AsyncResult("a").exists() == (stored is not None)
    backend.forget("a")
    assert not app.AsyncResult("a").exists()


def test_a_task_that_waits_in_its_queue_is_known(app: Celery, backend: JournalBackend) -> None:
    """R65: it is PENDING like one that does not exist, and exists."""
    backend.append(backend.emitter.emit(TaskSent, "a", name="scene.add"))

    assert (app.AsyncResult("a").state, app.AsyncResult("a").exists()) == ("PENDING", True)
    assert (app.AsyncResult("nobody").state, app.AsyncResult("nobody").exists()) == ("PENDING", False)


# Ours


def test_the_history_has_each_transition(app: Celery, backend: JournalBackend) -> None:
    """R01: what happened, in order: when, in which attempt, on which worker, and what it left."""
    before = datetime.now(UTC)
    first, second = delivered(app, task_id="a"), delivered(app, task_id="a", retries=1)
    backend.store_result("a", {"pid": 1}, "STARTED", request=first)
    backend.mark_as_retry("a", OSError("later"), traceback="Traceback: there", request=first)
    backend.store_result("a", {"done": 1}, "PROGRESS", request=second)
    backend.mark_as_done("a", 3, request=second)
    app.AsyncResult("a").forget()

    history = app.AsyncResult("a").history()

    assert [(step.kind, step.state, step.attempt, step.worker) for step in history] == [
        ("task-started", "STARTED", 0, WORKER),
        ("task-retried", "RETRY", 0, WORKER),
        ("task-progress", "PROGRESS", 1, WORKER),
        ("task-succeeded", "SUCCESS", 1, WORKER),
        ("task-forgotten", None, 0, None),
    ]
    assert before <= history[0].occurred_at <= history[-1].occurred_at <= datetime.now(UTC)
    assert [step.traceback for step in history] == [None, "Traceback: there", None, None, None]
    assert (type(history[1].info), str(history[1].info)) == (OSError, "later")
    assert [step.info for step in history[2:]] == [{"done": 1}, 3, None]
    assert getattr(history[0].event, "queue", None) == "work"


def test_the_history_of_an_unknown_task_is_empty(app: Celery) -> None:
    """R01: nothing has happened."""
    assert app.AsyncResult("nobody").history() == []


def test_the_history_shows_what_its_reader_does_not_accept(make_app: NewApp) -> None:
    """R01: only the value that is not accepted is refused, not that it was there."""
    make_app(result_serializer="pickle").backend.mark_as_done("a", 3)

    (step,) = install(make_app(accept_content=["json"])).AsyncResult("a").history()

    assert step.state == "SUCCESS"
    with pytest.raises(Exception, match="untrusted content of type pickle"):
        _ = step.info


def test_the_history_of_another_backend_is_refused() -> None:
    """R01: in one sentence, when it is asked for; to install the classes needs no backend at all."""
    app = install(Celery(set_as_current=False, backend="cache+memory://"))

    with pytest.raises(ImproperlyConfigured, match=r"this result's backend is CacheBackend; write result_backend = 'journal"):
        app.AsyncResult("a").history()
    app.close()


def test_installing_is_done_once_and_opens_nothing() -> None:
    """R01: the app comes back, its classes stay when it is done again, and no backend is built."""
    app = new_app("journal+postgresql://nobody@127.0.0.1:1/nothing")

    assert install(app) is app
    classes = app.AsyncResult, app.GroupResult, app.ResultSet
    install(app)

    assert (app.AsyncResult, app.GroupResult, app.ResultSet) == classes
    assert app._backend_cache is None
    assert not hasattr(app._local, "backend")


def test_tasks_give_results_of_our_class(app: Celery) -> None:
    """R01: what a task's AsyncResult makes, and what sending one returns."""

    @app.task(name="scene.here", shared=False)
    def here() -> None:
        """Do nothing."""

    assert isinstance(here.AsyncResult("a"), results.AsyncResult)
    assert isinstance(here.delay(), results.AsyncResult)


# Copies


def test_results_survive_pickling(app: Celery, backend: JournalBackend) -> None:
    """R01, R25, R36: with their class, their members and their parent; the backend is the app's, not one more."""
    group = app.GroupResult("g", [app.AsyncResult("a"), app.AsyncResult("b")])

    with current(app):
        result, again, members = pickle.loads(pickle.dumps((chained(app), group, app.ResultSet([app.AsyncResult("a")]))))

    assert (type(result), result.parent.parent.id, result.backend) == (app.AsyncResult, "a", backend)
    assert (type(again), again) == (app.GroupResult, group)
    assert (type(members), members[0].id) == (app.ResultSet, "a")


def test_a_pickled_result_holds_no_password(make_app: NewApp, dsn: str) -> None:
    """R01: who reads the pickle learns the id, and nothing about the database."""
    app = install(make_app(url_of(dsn, password="hunter2")))
    assert "hunter2" in app.backend.as_uri(include_password=True)

    with current(app):
        pickled = pickle.dumps([app.AsyncResult("a"), app.GroupResult("g", [app.AsyncResult("b")])])

    assert b"hunter2" not in pickled
    assert b"postgresql" not in pickled


def test_copies_are_of_the_same_class(app: Celery, backend: JournalBackend) -> None:
    """R01: copy and deepcopy."""
    with current(app):
        for made in (copy.copy(app.AsyncResult("a")), copy.deepcopy(app.AsyncResult("a"))):
            assert (type(made), made.id, made.backend) == (app.AsyncResult, "a", backend)


def test_results_can_be_used_in_another_process(app: Celery, backend: JournalBackend, dsn: str, tmp_path: Path) -> None:
    """R01, R25: unpickled where the same app is imported, they have our class and reach the same journal."""
    backend.mark_as_done("a", 3)
    backend.mark_as_done("b", 4)
    with current(app):
        (tmp_path / "results").write_bytes(pickle.dumps((app.AsyncResult("a"), app.GroupResult("g", [app.AsyncResult("b")]))))

    reader = start("unpickling", backend.as_uri(include_password=True), str(tmp_path / "results"))
    said, _ = reader.communicate(timeout=PATIENCE)

    assert (reader.returncode, said.split()) == (0, ["3", "task-succeeded", "[4]", "['task-succeeded']"])


def test_a_result_tells_its_runs_and_why_it_is_where_it_is(app: Celery, backend: JournalBackend) -> None:
    """R01 attempts, explain: a task that was retried, and one that nobody has heard of."""
    first, second = (delivered(app, task_id="a", retries=retries) for retries in (0, 1))
    for request, state in ((first, "STARTED"), (first, "RETRY"), (second, "STARTED")):
        backend.store_result("a", OSError("not yet") if state == "RETRY" else None, state, request=request)

    result = app.AsyncResult("a")
    assert [(run.attempt, run.status, run.worker) for run in result.attempts()] == [(0, "RETRY", WORKER), (1, "STARTED", WORKER)]
    assert WORKER in str(result.explain())
    assert app.AsyncResult("unknown").attempts() == []
    assert "never" in str(app.AsyncResult("unknown").explain()).lower()


def test_our_class_is_made_of_an_id_as_celerys_is(app: Celery, backend: JournalBackend) -> None:
    """For those who import AsyncResult instead of asking an app for one: it is of the current app."""
    backend.mark_as_done("a", 1, request=delivered(app, task_id="a"))

    with current(app):
        imported = results.AsyncResult("a")

        assert [transition.kind for transition in imported.history()] == ["task-succeeded"]
        assert (imported.get(timeout=PATIENCE), imported.replayed_as) == (1, ())
